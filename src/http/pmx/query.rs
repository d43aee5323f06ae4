//! `/query`: answers from documents.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Reply};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::points::COLLECTION;
use crate::http::body::Json;
use crate::http::dialect::DetailBody;
use crate::http::observe::ModelId;
use crate::http::sse::{self, Message};
use crate::http::{ApiError, State};
use crate::service::rag::{Answered, Said};
use crate::service::{Context, Error};
use crate::types::rag::{By, Passage, Question};
use crate::types::store::{Filter, Fusion};

/// Characters of a passage that an answer shows.
const SNIPPET: usize = 400;
const TOP_K: usize = 5;
const MAX_TOP_K: usize = 100;

/// A question.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct QueryRequest {
    query: String,
    /// Passages that the answer may be made from, 1 to 100; 5 if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    top_k: Option<usize>,
    /// Only documents that have one of these.
    #[serde(default)]
    tags_any: Option<Vec<String>>,
    /// Only documents that have all of these.
    #[serde(default)]
    tags_all: Option<Vec<String>>,
    /// List the passages; true if absent.
    #[serde(default)]
    with_sources: Option<bool>,
    /// Send the answer as server-sent events while it is written.
    #[serde(default)]
    stream: Option<bool>,
    /// `pmx_docs` if absent.
    #[serde(default)]
    collection: Option<String>,
    /// Id or alias of a chat model; the server's default if absent.
    #[serde(default)]
    model: Option<String>,
    /// `both` (if absent), `vectors` or `words`: what passages are found by.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    search: Option<By>,
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueryAnswer {
    /// Cites the sources by their numbers, `[1]` is the first of them.
    answer: String,
    sources: Vec<Source>,
    /// The tags that were asked for.
    used_tags: Vec<String>,
}

/// A passage that the answer may come from.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = PmxSource)]
pub(crate) struct Source {
    /// Of its document.
    id: String,
    /// Cosine of its vector and the question's, at least 0, or what a reranker says; by words alone, their score.
    score: f32,
    tags: Vec<String>,
    /// The document's name.
    source: String,
    /// The heading that it is under, else the document's name.
    title: String,
    /// Its first 400 characters.
    snippet: String,
    /// In a document that has pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u64>,
}

/// An event of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxQueryEvent)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Event {
    /// First: what the answer may come from.
    Sources { sources: Vec<Source>, used_tags: Vec<String> },
    /// More of the answer.
    Delta { text: String },
    /// Last: the answer is whole.
    Done { answer: String },
    /// Last: it failed.
    Error { detail: String },
}

impl From<&Passage> for Source {
    fn from(passage: &Passage) -> Source {
        let mut snippet: String = passage.text.chars().take(SNIPPET).collect();
        if snippet.len() < passage.text.len() {
            snippet.push('…');
        }
        Source {
            id: passage.document.clone(),
            score: passage.relevance.unwrap_or(passage.score),
            tags: passage.tags.clone(),
            source: passage.name.clone(),
            title: passage.headings.last().unwrap_or(&passage.name).clone(),
            snippet,
            page: passage.page,
        }
    }
}

impl QueryRequest {
    fn question(&self, reranker: &Option<String>) -> Result<Question, ApiError> {
        let k = self.top_k.unwrap_or(TOP_K);
        if !(1..=MAX_TOP_K).contains(&k) {
            return Err(ApiError::invalid(
                "top_k",
                format!("`top_k` is {k}; it must be from 1 to {MAX_TOP_K}"),
            ));
        }
        let mut filters = Vec::new();
        if let Some(tags) = self.tags_any.as_ref().filter(|tags| !tags.is_empty()) {
            filters.push(Filter::tags_any(tags));
        }
        if let Some(tags) = self.tags_all.as_ref().filter(|tags| !tags.is_empty()) {
            filters.push(Filter::tags_all(tags));
        }
        Ok(Question {
            collections: vec![self.collection.clone().unwrap_or_else(|| COLLECTION.to_owned())],
            text: self.query.clone(),
            k,
            filter: (!filters.is_empty()).then_some(Filter::All(filters)),
            by: self.search.unwrap_or_default(),
            fusion: Fusion::default(),
            reranker: reranker.clone(),
        })
    }

    fn used_tags(&self) -> Vec<String> {
        let mut used: Vec<String> = Vec::new();
        for tag in self.tags_any.iter().chain(&self.tags_all).flatten() {
            if !used.contains(tag) {
                used.push(tag.clone());
            }
        }
        used
    }
}

/// Answer a question from documents. An answer says so where they do not tell.
#[utoipa::path(
    post,
    path = "/query",
    operation_id = "pmxQuery",
    tag = "pmx",
    request_body = QueryRequest,
    responses(
        (status = 200, description = "The answer; with `stream` an event stream that ends with `done` or `error`",
            content((QueryAnswer = "application/json"), (Event = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn query(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(body): Json<QueryRequest>,
) -> Result<Response, ApiError> {
    let question = body.question(&state.settings().default_rerank)?;
    let model = body.model.clone().or_else(|| state.settings().default_chat.clone());
    let model = model.ok_or_else(|| {
        ApiError::invalid(
            "model",
            "`model` is missing, and the server has no chat model for those that name none",
        )
    })?;
    let answered = match state.rag().answer(&ctx, model, &question).await {
        // Nothing was indexed yet, which is no mistake of whoever asks.
        Err(Error::UnknownCollection { .. }) if body.collection.is_none() => Answered::nothing(),
        answered => answered?,
    };
    let with_sources = body.with_sources.unwrap_or(true);
    let sources: Vec<Source> = answered.sources.iter().filter(|_| with_sources).map(Source::from).collect();
    let (used_tags, model) = (body.used_tags(), answered.model.clone());
    let mut response = if body.stream.unwrap_or(false) {
        sse::respond(&state, events(answered, Event::Sources { sources, used_tags }, ctx.request_id))
    } else {
        let (answer, ..) = answered.collect().await?;
        Reply(QueryAnswer { answer, sources, used_tags }).into_response()
    };
    if let Some(model) = model {
        response.extensions_mut().insert(ModelId(model));
    }
    Ok(response)
}

fn events(
    answered: Answered,
    first: Event,
    request_id: String,
) -> impl Stream<Item = Message> + Send + 'static {
    let rest = futures::stream::unfold((Some(answered), String::new()), move |(answered, mut whole)| {
        let request_id = request_id.clone();
        async move {
            let mut answered = answered?;
            let (event, more) = match answered.next().await {
                Some(Ok(Said::Text(text))) => {
                    whole.push_str(&text);
                    (Event::Delta { text }, Some(answered))
                }
                Some(Ok(Said::Done(_))) => (Event::Done { answer: whole.trim().to_owned() }, None),
                Some(Err(error)) => {
                    let error = ApiError::from(error);
                    tracing::error!(request_id, detail = ?error.detail, "stream failed");
                    (Event::Error { detail: error.message }, None)
                }
                None => return None,
            };
            Some((event, (more, whole)))
        }
    });
    let events = futures::stream::iter([first]).chain(rest);
    events.filter_map(|event| std::future::ready(sse::json(&event).ok().map(Message::from)))
}
