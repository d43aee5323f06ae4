//! From a question to passages.

use serde_json::Value;

use super::{Rag, model_of, own_not};
use crate::service::{Context, Error};
use crate::types::rag::{By, Passage, Question};
use crate::types::store::{Described, Hit, Search};
use crate::types::{embed, rerank};

/// Collections that one question looks into.
const COLLECTIONS: usize = 16;
/// Passages that are asked for at most.
pub const MOST: usize = 200;
/// Times as many passages as are asked for that a reranker reads.
const RERANKED: usize = 4;
/// Of a question: what is longer tells nothing more.
const TEXT_BYTES: usize = 32 << 10;

impl Rag {
    /// The passages that fit a question best, best first. Several collections give one list, in the order of their
    /// scores, which are alike where they are found the same way.
    ///
    /// # Errors
    /// There is no such collection, it cannot be searched so, or the question asks for nothing.
    pub async fn find(&self, ctx: &Context, question: &Question) -> Result<Vec<Passage>, Error> {
        let wrong = |param, message: String| Err(Error::Invalid { param, message });
        if question.text.trim().is_empty() || question.text.len() > TEXT_BYTES {
            return wrong("query", format!("a question has 1 to {TEXT_BYTES} bytes, not all of them blank"));
        }
        if question.collections.len() > COLLECTIONS {
            return wrong("collection", format!("one question looks into at most {COLLECTIONS} collections"));
        }
        let mut passages = Vec::new();
        for collection in &question.collections {
            passages.extend(self.find_in(ctx, collection, question).await?);
        }
        if let Some(model) = question.reranker.clone().filter(|_| !passages.is_empty()) {
            self.rerank(ctx, model, &question.text, &mut passages).await?;
        }
        if question.collections.len() > 1 || question.reranker.is_some() {
            passages.sort_by(|a, b| b.score.total_cmp(&a.score));
            passages.truncate(question.k);
        }
        Ok(passages)
    }

    /// Scores passages by a model that reads each beside the question.
    async fn rerank(
        &self,
        ctx: &Context,
        model: String,
        query: &str,
        passages: &mut [Passage],
    ) -> Result<(), Error> {
        let documents = passages.iter().map(|passage| passage.text.clone()).collect();
        let request = rerank::Request { model, query: query.to_owned(), documents, truncate: true };
        let scores = self.models.rerank(ctx.clone(), request).await?.scores;
        for (passage, score) in passages.iter_mut().zip(scores) {
            (passage.score, passage.relevance) = (score.relevance(), Some(score.relevance()));
        }
        Ok(())
    }

    async fn find_in(
        &self,
        ctx: &Context,
        collection: &str,
        question: &Question,
    ) -> Result<Vec<Passage>, Error> {
        let name = own_not(collection)?;
        let Some(described) = self.points.describe(name.clone()).await? else {
            return Err(Error::UnknownCollection { name });
        };
        let vector = match question.by {
            By::Words => None,
            By::Both | By::Vectors => Some(self.vector(ctx, &described, question).await?),
        };
        let text = (question.by != By::Vectors).then(|| question.text.clone());
        let search = Search {
            vector,
            text,
            filter: question.filter.clone(),
            k: depth(question),
            ef: None,
            fusion: question.fusion,
        };
        let hits = self.points.run(move |store| store.search(&name, &search)).await?;
        Ok(hits.into_iter().map(|hit| passage(collection, hit)).collect())
    }

    /// The question's vector, by the model of the collection.
    async fn vector(
        &self,
        ctx: &Context,
        described: &Described,
        question: &Question,
    ) -> Result<Vec<f32>, Error> {
        let Some(model) = model_of(described) else {
            let message = format!(
                "collection `{}` holds vectors of others' making, and not documents; search it by vectors",
                described.name
            );
            return Err(Error::Invalid { param: "collection", message });
        };
        let inputs = vec![embed::Input::Text(question.text.clone())];
        let request = embed::Request { prompt: embed::Prompt::Query, ..embed::Request::new(model, inputs) };
        let vectors = self.models.embed(ctx.clone(), request).await?.vectors;
        let none = || Error::Internal { detail: "a question has no vector".to_owned() };
        vectors.into_iter().next().ok_or_else(none)
    }
}

/// How many passages are looked for: a reranker chooses among more than are asked for.
fn depth(question: &Question) -> usize {
    let times = if question.reranker.is_some() { RERANKED } else { 1 };
    question.k.saturating_mul(times).clamp(1, MOST)
}

/// A point that was found, as the passage that it is.
fn passage(collection: &str, hit: Hit) -> Passage {
    let payload = &hit.record.payload;
    let text = |name: &str| payload.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let headings = payload.get("headings").and_then(Value::as_array).into_iter().flatten();
    Passage {
        collection: collection.to_owned(),
        document: text("document"),
        name: text("name"),
        page: payload.get("page").and_then(Value::as_u64),
        headings: headings.filter_map(|heading| heading.as_str().map(str::to_owned)).collect(),
        attributes: payload.get("attributes").and_then(Value::as_object).cloned().unwrap_or_default(),
        id: hit.record.id,
        text: hit.record.text,
        tags: hit.record.tags,
        score: hit.score,
        relevance: hit.nearness.map(|cosine| cosine.clamp(0.0, 1.0)),
    }
}
