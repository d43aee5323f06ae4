//! `POST /v1/vector_stores/{id}/search`.

use std::fmt;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Extract};
use axum::{Extension, Json as Reply};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::files::TextPart;
use super::filter::WireFilter;
use crate::http::body::Json;
use crate::http::openai::fields::Bounded;
use crate::http::openai::files::id;
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::types::rag::{By, Passage, Question};
use crate::types::store::Fusion;

const RESULTS: usize = 10;
const MAX_RESULTS: usize = 50;
/// Questions of one request.
const MAX_QUERIES: usize = 16;

/// What is searched for.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = VectorStoreSearch)]
pub(crate) struct SearchRequest {
    /// A question, or up to 16 of them, whose results are joined.
    #[schema(value_type = super::super::described::StringOrList)]
    query: Queries,
    /// 1 to 50; 10 if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 50)]
    max_num_results: Option<usize>,
    #[serde(default)]
    filters: Option<WireFilter>,
    #[serde(default)]
    ranking_options: Option<Ranking>,
    /// Taken and not done: questions are searched for as they are.
    #[serde(default)]
    #[expect(dead_code, reason = "describes what is taken")]
    rewrite_query: Option<bool>,
}

/// How results are ordered.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = RankingOptions)]
pub(crate) struct Ranking {
    /// `auto`, `none` or a date that OpenAI's rankers have: all the same here.
    #[serde(default)]
    #[expect(dead_code, reason = "describes what is taken")]
    ranker: Option<String>,
    /// Results of lower scores are left out, 0 to 1; 0 if absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub score_threshold: Option<f32>,
    /// What vectors and words count for.
    #[serde(default)]
    pub hybrid_search: Option<Weights>,
}

/// What vectors and words count for; one of them may be 0.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[schema(as = HybridSearchWeights)]
pub(crate) struct Weights {
    #[serde(alias = "rrf_embedding_weight")]
    embedding_weight: f32,
    #[serde(alias = "rrf_text_weight")]
    text_weight: f32,
}

/// One question or several.
#[derive(Debug)]
pub(crate) struct Queries(Vec<String>);

impl<'de> Deserialize<'de> for Queries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Queries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Queries, E> {
                Ok(Queries(vec![text.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Queries, A::Error> {
                let list = de::value::SeqAccessDeserializer::new(seq);
                Bounded::<String, MAX_QUERIES>::deserialize(list).map(|list| Queries(list.0))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VectorStoreSearchResults)]
pub(crate) struct SearchAnswer {
    object: &'static str,
    search_query: Vec<String>,
    data: Vec<SearchResult>,
    has_more: bool,
    next_page: Option<String>,
}

/// A passage.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VectorStoreSearchResult)]
pub(crate) struct SearchResult {
    file_id: String,
    filename: String,
    /// Cosine of its vector and the question's, at least 0; of a reranker, what it says.
    score: f32,
    #[schema(value_type = Object)]
    attributes: Map<String, Value>,
    content: Vec<TextPart>,
}

/// The score of a passage, 0 to 1.
pub(in crate::http::openai) fn score(passage: &Passage) -> f32 {
    passage.relevance.unwrap_or(0.0)
}

impl Ranking {
    /// How the two orders become one.
    pub(in crate::http::openai) fn fusion(&self) -> Result<(By, Fusion), ApiError> {
        let Some(Weights { embedding_weight, text_weight }) = self.hybrid_search else {
            return Ok((By::Both, Fusion::default()));
        };
        let sane = |weight: f32| weight.is_finite() && (0.0..=1e6).contains(&weight);
        if !sane(embedding_weight) || !sane(text_weight) || embedding_weight + text_weight <= 0.0 {
            let message = "`ranking_options.hybrid_search` has two weights of at least 0, not both of them 0";
            return Err(ApiError::invalid("ranking_options.hybrid_search", message));
        }
        let fusion = Fusion { vector_weight: embedding_weight, text_weight, ..Fusion::default() };
        Ok((By::Both, fusion))
    }
}

/// How many passages are asked for.
pub(in crate::http::openai) fn count(asked: Option<usize>, default: usize) -> Result<usize, ApiError> {
    match asked.unwrap_or(default) {
        k @ 1..=MAX_RESULTS => Ok(k),
        k => {
            let message = format!("`max_num_results` is {k}; it must be from 1 to {MAX_RESULTS}");
            Err(ApiError::invalid("max_num_results", message))
        }
    }
}

/// Search a vector store, or any collection of documents by its name.
#[utoipa::path(
    post,
    path = "/v1/vector_stores/{id}/search",
    operation_id = "searchVectorStore",
    tag = "vector stores",
    params(("id" = String, Path, description = "Id of a vector store, or name of a collection of documents")),
    request_body = SearchRequest,
    responses(
        (status = 200, description = "Passages by vectors and words, the best first", body = SearchAnswer),
        (status = "4XX", description = "The request is wrong, there is no such store (404), or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn search(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
    Json(body): Json<SearchRequest>,
) -> Result<Reply<SearchAnswer>, ApiError> {
    let store = id(path)?;
    state.vector_stores().touch(&store).await?;
    let k = count(body.max_num_results, RESULTS)?;
    let (by, fusion) = body.ranking_options.as_ref().map_or(Ok(Default::default()), Ranking::fusion)?;
    let filter = body.filters.as_ref().map(WireFilter::read).transpose()?;
    let least = body.ranking_options.and_then(|ranking| ranking.score_threshold).unwrap_or(0.0);
    let mut found: Vec<Passage> = Vec::new();
    for text in &body.query.0 {
        let question = Question {
            collections: vec![store.clone()],
            text: text.clone(),
            k,
            filter: filter.clone(),
            by,
            fusion,
            reranker: state.settings().default_rerank.clone(),
        };
        for passage in state.rag().find(&ctx, &question).await? {
            match found.iter_mut().find(|known| known.id == passage.id) {
                Some(known) if known.score >= passage.score => {}
                Some(known) => *known = passage,
                None => found.push(passage),
            }
        }
    }
    found.retain(|passage| score(passage) >= least);
    if body.query.0.len() > 1 {
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(k);
    }
    let data = found.into_iter().map(SearchResult::from).collect();
    let object = "vector_store.search_results.page";
    Ok(Reply(SearchAnswer { object, search_query: body.query.0, data, has_more: false, next_page: None }))
}

impl From<Passage> for SearchResult {
    fn from(passage: Passage) -> SearchResult {
        SearchResult {
            score: score(&passage),
            file_id: passage.document,
            filename: passage.name,
            attributes: passage.attributes,
            content: vec![TextPart::new(passage.text)],
        }
    }
}
