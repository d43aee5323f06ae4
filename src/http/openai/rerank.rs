//! `POST /v1/rerank` as Cohere and Jina have it, and `POST /rerank`, which takes text-embeddings-inference's form too.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fields::{Asked, Bounded, MAX_INPUTS, ModelName, refuse};
use super::{model, new_id};
use crate::http::body::Json;
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::types::model::Kind;
use crate::types::rerank::{self, Score};

/// The longest question, in bytes: more than a reranker's row holds.
const MAX_QUERY: usize = 64 << 10;
/// The longest document, in bytes: several times what the longest row of any reranker holds.
const MAX_DOCUMENT: usize = 1 << 20;

/// Documents to order by how well they answer a question. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RerankRequest {
    /// Id or alias of a reranker; the first installed one if absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<ModelName>,
    query: String,
    /// Texts, or objects with a `text`.
    #[schema(value_type = Vec<DocumentForm>, max_items = 2048)]
    documents: Bounded<Document, MAX_INPUTS>,
    /// Give only so many, the best.
    #[serde(default)]
    #[schema(minimum = 1)]
    top_n: Option<usize>,
    /// Whether results have their documents; false if absent.
    #[serde(default)]
    return_documents: Option<bool>,
    /// Whether what is too long for the model is cut (true if absent), or else refused.
    #[serde(default)]
    truncate: Option<bool>,
}

/// The same, or `texts` in place of `documents` and the fields that text-embeddings-inference has.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EitherRequest {
    /// Id or alias of a reranker; the first installed one if absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<ModelName>,
    query: String,
    /// Texts, or objects with a `text`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<DocumentForm>>, max_items = 2048)]
    documents: Option<Bounded<Document, MAX_INPUTS>>,
    /// For `documents`: give only so many, the best.
    #[serde(default)]
    #[schema(minimum = 1)]
    top_n: Option<usize>,
    /// For `documents`: whether results have their documents; false if absent.
    #[serde(default)]
    return_documents: Option<bool>,
    /// Instead of `documents`: texts, whose answer is a list.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, max_items = 2048)]
    texts: Option<Bounded<String, MAX_INPUTS>>,
    /// For `texts`: whether scores are the model's own numbers and not from 0 to 1; false if absent.
    #[serde(default)]
    raw_scores: Option<bool>,
    /// For `texts`: whether ranks have their texts; false if absent.
    #[serde(default)]
    return_text: Option<bool>,
    /// Whether what is too long for the model is cut (true if absent), or else refused.
    #[serde(default)]
    truncate: Option<bool>,
    #[serde(default)]
    #[schema(ignore)]
    truncation_direction: Asked,
}

/// A document of a request.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a string, or an object with a string `text`")]
pub(crate) enum Document {
    Text(String),
    Object { text: String },
}

/// A text, or an object with one.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum DocumentForm {
    Text(String),
    Object(DocumentText),
}

/// The documents that answer best, the best first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Reranking {
    id: String,
    model: String,
    results: Vec<Ranked>,
    usage: RerankUsage,
}

/// One document's place.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ranked {
    /// Where it stands in the request, from 0.
    index: usize,
    /// How well it answers, from 0 to 1.
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<DocumentText>,
}

/// A document.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DocumentText {
    text: String,
}

/// Tokens of the pairs of question and document.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RerankUsage {
    total_tokens: u32,
}

/// One text's place, as text-embeddings-inference gives it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rank {
    /// Where it stands in the request, from 0.
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// An answer of `/rerank`, in the form of its request.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum Either {
    Documents(Reranking),
    Texts(Vec<Rank>),
}

/// Checked, before the model is looked up.
struct Checked {
    model: Option<ModelName>,
    query: String,
    documents: Vec<String>,
    top_n: usize,
    return_documents: bool,
    truncate: bool,
}

/// How a checked request was answered: the model's id, places and scores from the best on, and the tokens.
struct Answered {
    model: String,
    best: Vec<(usize, Score)>,
    documents: Vec<String>,
    total_tokens: u32,
}

fn check(field: &'static str, query: &str, documents: &[String]) -> Result<(), ApiError> {
    if query.is_empty() || query.len() > MAX_QUERY {
        let message = format!("`query` has {} bytes; it must have from 1 to {MAX_QUERY}", query.len());
        return Err(ApiError::invalid("query", message));
    }
    if documents.is_empty() {
        return Err(ApiError::invalid(field, format!("`{field}` is empty; send from 1 to {MAX_INPUTS}")));
    }
    match documents.iter().position(|document| document.len() > MAX_DOCUMENT) {
        Some(at) => {
            let message = format!("`{field}[{at}]` is longer than {MAX_DOCUMENT} bytes; send it in parts");
            Err(ApiError::invalid(field, message))
        }
        None => Ok(()),
    }
}

impl RerankRequest {
    fn checked(self) -> Result<Checked, ApiError> {
        if self.top_n == Some(0) {
            return Err(ApiError::invalid("top_n", "`top_n` is 0; it must be 1 or more"));
        }
        let text = |document| match document {
            Document::Text(text) | Document::Object { text } => text,
        };
        let documents: Vec<String> = self.documents.0.into_iter().map(text).collect();
        check("documents", &self.query, &documents)?;
        Ok(Checked {
            model: self.model,
            query: self.query,
            top_n: self.top_n.unwrap_or(documents.len()),
            documents,
            return_documents: self.return_documents.unwrap_or(false),
            truncate: self.truncate.unwrap_or(true),
        })
    }
}

/// Scores and orders; equal scores stay in the order of the request.
async fn answer(state: &State, ctx: Context, checked: Checked) -> Result<Answered, ApiError> {
    let Checked { model: named, query, documents, top_n, return_documents, truncate } = checked;
    let default = match named {
        None => state.backend().models().into_iter().find(|card| card.kind == Kind::Rerank),
        Some(_) => None,
    };
    let model = model(named, &default.map(|card| card.id))?;
    let known = super::models::resolve(state, &model).map_or_else(|| model.clone(), |known| known.0);
    // Kept here only where the answer repeats them.
    let kept = if return_documents { documents.clone() } else { Vec::new() };
    let request = rerank::Request { model, query, documents, truncate };
    let response = state.backend().rerank(ctx, request).await?;
    let mut best: Vec<(usize, Score)> = response.scores.into_iter().enumerate().collect();
    best.sort_by(|(_, a), (_, b)| b.0.total_cmp(&a.0));
    best.truncate(top_n);
    Ok(Answered { model: known, best, documents: kept, total_tokens: response.usage.prompt_tokens })
}

/// Of documents that the answer has or has not.
fn take(documents: &mut [String], index: usize) -> Option<String> {
    documents.get_mut(index).map(std::mem::take)
}

async fn reranking(state: &State, ctx: Context, body: RerankRequest) -> Result<Reranking, ApiError> {
    let Answered { model, best, mut documents, total_tokens } = answer(state, ctx, body.checked()?).await?;
    let result = |(index, score): (usize, Score)| Ranked {
        index,
        relevance_score: score.relevance(),
        document: take(&mut documents, index).map(|text| DocumentText { text }),
    };
    let results = best.into_iter().map(result).collect();
    Ok(Reranking { id: new_id("rerank"), model, results, usage: RerankUsage { total_tokens } })
}

/// Order documents by how well they answer a question.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    operation_id = "createRerank",
    tag = "rerank",
    request_body = RerankRequest,
    responses(
        (status = 200, description = "The documents, the best first", body = Reranking),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(body): Json<RerankRequest>,
) -> Result<Response, ApiError> {
    let found = reranking(&state, ctx, body).await?;
    Ok(reply(&state, &found.model, &found))
}

/// The answer, which tells the log its model.
fn reply(state: &State, model: &str, answer: impl Serialize) -> Response {
    let mut reply = Reply(answer).into_response();
    if let Some(model) = super::models::resolve(state, model) {
        reply.extensions_mut().insert(model);
    }
    reply
}

/// Order documents or texts by how well they answer a question.
#[utoipa::path(
    post,
    path = "/rerank",
    operation_id = "rerank",
    tag = "rerank",
    request_body = EitherRequest,
    responses(
        (status = 200, description = "The documents or texts, the best first", body = Either),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create_either(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(body): Json<EitherRequest>,
) -> Result<Response, ApiError> {
    refuse(&[("truncation_direction", &body.truncation_direction)], &["right", "Right"])?;
    let EitherRequest { model, query, raw_scores, truncate, .. } = body;
    let texts = match (body.documents, body.texts) {
        (Some(documents), None) => {
            let (top_n, return_documents) = (body.top_n, body.return_documents);
            let body = RerankRequest { model, query, documents, top_n, return_documents, truncate };
            let found = reranking(&state, ctx, body).await?;
            return Ok(reply(&state, &found.model, &found));
        }
        (None, Some(texts)) => texts.0,
        _ => return Err(ApiError::invalid("documents", "send one of `documents` and `texts`")),
    };
    check("texts", &query, &texts)?;
    let checked = Checked {
        model,
        query,
        top_n: texts.len(),
        documents: texts,
        return_documents: body.return_text.unwrap_or(false),
        truncate: truncate.unwrap_or(true),
    };
    let Answered { model, best, mut documents, .. } = answer(&state, ctx, checked).await?;
    let raw = raw_scores.unwrap_or(false);
    let rank = |(index, score): (usize, Score)| Rank {
        index,
        score: if raw { score.0 } else { score.relevance() },
        text: take(&mut documents, index),
    };
    let ranks: Vec<Rank> = best.into_iter().map(rank).collect();
    Ok(reply(&state, &model, ranks))
}
