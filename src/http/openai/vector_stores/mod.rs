//! `/v1/vector_stores`: files that are searched as one.

pub(in crate::http) mod batches;
pub(in crate::http) mod files;
pub(in crate::http) mod filter;
pub(in crate::http) mod search;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::fields::Bounded;
use super::files::{Gone, asked, id};
use super::page::{Page, PageAsked};
use super::responses::echo::Metadata;
use crate::http::body::Json;
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::service::vector_stores::{Counts, NewMember, Stage, VectorStore};
use crate::types::rag::PassageSize;
use crate::types::store::Stemming;

/// Entries of one page.
const MOST: usize = 100;
/// Files of one request.
const MAX_FILES: usize = 500;
const MAX_NAME: usize = 256;
/// Tokens of a passage, as OpenAI bounds them.
const TOKENS: (usize, usize) = (100, 4096);

/// A store to make.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CreateVectorStore)]
pub(crate) struct CreateRequest {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    /// Files to begin with, up to 500.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, max_items = 500)]
    file_ids: Option<Bounded<String, MAX_FILES>>,
    /// Up to 16 pairs.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    metadata: Option<Metadata>,
    #[serde(default)]
    expires_after: Option<ExpiresAfter>,
    #[serde(default)]
    chunking_strategy: Option<Chunking>,
    /// Id or alias of an embedding model; the server's default if absent. This server's own field.
    #[serde(default)]
    embedding_model: Option<String>,
    /// Whose endings are cut off words: `english`, `german` and so on; `none` if absent. This server's own field.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    language: Option<Stemming>,
}

/// What a store becomes.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = UpdateVectorStore)]
pub(crate) struct UpdateRequest {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    metadata: Option<Metadata>,
    #[serde(default)]
    expires_after: Option<ExpiresAfter>,
}

/// When a store goes by itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = VectorStoreExpiresAfter)]
pub(crate) struct ExpiresAfter {
    /// `last_active_at`.
    anchor: String,
    /// 1 to 365.
    #[schema(minimum = 1, maximum = 365)]
    days: u64,
}

/// How files are cut into passages.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ChunkingStrategy)]
pub(crate) struct Chunking {
    /// `auto` (256 tokens, or as many as the model takes, an eighth of them repeated) or `static`.
    r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r#static: Option<StaticChunking>,
}

/// So many tokens.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub(crate) struct StaticChunking {
    /// 100 to 4096; no more than the embedding model reads are taken.
    #[schema(minimum = 100, maximum = 4096)]
    max_chunk_size_tokens: usize,
    /// At most half of them.
    chunk_overlap_tokens: usize,
}

/// A vector store.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VectorStore)]
pub(crate) struct StoreObject {
    id: String,
    object: &'static str,
    /// Unix seconds.
    created_at: u64,
    name: String,
    description: Option<String>,
    /// Bytes of the files that are indexed.
    usage_bytes: u64,
    file_counts: FileCounts,
    /// `in_progress` while files are being indexed, else `completed`.
    status: &'static str,
    expires_after: Option<ExpiresAfter>,
    /// Unix seconds.
    expires_at: Option<u64>,
    /// Unix seconds.
    last_active_at: u64,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// Id of its embedding model.
    embedding_model: String,
}

/// How many files are how far.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct FileCounts {
    in_progress: usize,
    completed: usize,
    failed: usize,
    cancelled: usize,
    total: usize,
}

impl From<Counts> for FileCounts {
    fn from(counts: Counts) -> FileCounts {
        let Counts { in_progress, completed, failed, cancelled, .. } = counts;
        FileCounts { in_progress, completed, failed, cancelled, total: counts.total() }
    }
}

impl ExpiresAfter {
    fn days(self) -> Result<u64, ApiError> {
        if self.anchor != "last_active_at" || !(1..=365).contains(&self.days) {
            let message = "`expires_after` has the anchor `last_active_at` and 1 to 365 days";
            return Err(ApiError::invalid("expires_after", message));
        }
        Ok(self.days)
    }
}

impl Chunking {
    /// The size that is asked for; `None` leaves it to the server.
    fn size(&self) -> Result<Option<PassageSize>, ApiError> {
        let wrong = |message: String| Err(ApiError::invalid("chunking_strategy", message));
        match (self.r#type.as_str(), self.r#static) {
            ("auto", _) => Ok(None),
            (
                "static",
                Some(StaticChunking { max_chunk_size_tokens: tokens, chunk_overlap_tokens: overlap }),
            ) => {
                let (min, max) = TOKENS;
                if !(min..=max).contains(&tokens) || overlap > tokens / 2 {
                    return wrong(format!(
                        "`max_chunk_size_tokens` is from {min} to {max}, and `chunk_overlap_tokens` at most half of it"
                    ));
                }
                Ok(Some(PassageSize { tokens, overlap }))
            }
            ("static", None) => wrong("`chunking_strategy.static` is missing".to_owned()),
            _ => wrong("`chunking_strategy.type` must be `auto` or `static`".to_owned()),
        }
    }

    /// The size as it is answered.
    fn of(size: Option<PassageSize>) -> Chunking {
        match size {
            None => Chunking { r#type: "auto".to_owned(), r#static: None },
            Some(PassageSize { tokens, overlap }) => Chunking {
                r#type: "static".to_owned(),
                r#static: Some(StaticChunking {
                    max_chunk_size_tokens: tokens,
                    chunk_overlap_tokens: overlap,
                }),
            },
        }
    }
}

/// OpenAI's word for how far something is.
fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::InProgress => "in_progress",
        Stage::Completed => "completed",
        Stage::Failed => "failed",
        Stage::Cancelled => "cancelled",
    }
}

fn name(name: Option<String>) -> Result<Option<String>, ApiError> {
    match name {
        Some(name) if name.len() > MAX_NAME => {
            Err(ApiError::invalid("name", format!("`name` is longer than {MAX_NAME} bytes")))
        }
        name => Ok(name),
    }
}

async fn shown(state: &State, store: VectorStore) -> Result<StoreObject, ApiError> {
    let counts = Counts::of(&state.vector_stores().members(&store.id, None).await?);
    let anchor = || "last_active_at".to_owned();
    Ok(StoreObject {
        object: "vector_store",
        created_at: store.created,
        usage_bytes: counts.bytes,
        status: if counts.in_progress > 0 { "in_progress" } else { "completed" },
        file_counts: counts.into(),
        expires_after: store.expires_after.map(|days| ExpiresAfter { anchor: anchor(), days }),
        expires_at: store.expires(),
        last_active_at: store.active,
        id: store.id,
        name: store.name,
        description: store.description,
        metadata: store.metadata,
        embedding_model: store.model,
    })
}

/// Make a vector store.
#[utoipa::path(
    post,
    path = "/v1/vector_stores",
    operation_id = "createVectorStore",
    tag = "vector stores",
    request_body = CreateRequest,
    responses(
        (status = 200, description = "The store; its files are being indexed", body = StoreObject),
        (status = "4XX", description = "The request is wrong, a file is not there (404), or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(body): Json<CreateRequest>,
) -> Result<Reply<StoreObject>, ApiError> {
    let size = body.chunking_strategy.map_or(Ok(None), |chunking| chunking.size())?;
    let model = body.embedding_model.or_else(|| state.settings().default_embed.clone());
    let none = "`embedding_model` is missing, and the server has none for requests that name none";
    let new = VectorStore {
        id: String::new(),
        name: name(body.name)?.unwrap_or_default(),
        description: name(body.description)?,
        metadata: body.metadata.unwrap_or_default().into_map(),
        created: 0,
        active: 0,
        expires_after: body.expires_after.map(ExpiresAfter::days).transpose()?,
        model: model.ok_or_else(|| ApiError::invalid("embedding_model", none))?,
        stemming: body.language.unwrap_or_default(),
    };
    let files = body.file_ids.map_or_else(Vec::new, |ids| ids.0);
    let new_member = |file| NewMember { file, size, attributes: Map::new() };
    let members: Vec<NewMember> = files.into_iter().map(new_member).collect();
    for member in &members {
        super::files::kept(&state, &member.file).await?;
    }
    let store = state.vector_stores().create(&ctx, new).await?;
    state.vector_stores().add(&ctx, &store.id, members, None, &state.worker()).await?;
    shown(&state, store).await.map(Reply)
}

/// List vector stores.
#[utoipa::path(
    get,
    path = "/v1/vector_stores",
    operation_id = "listVectorStores",
    tag = "vector stores",
    params(PageAsked),
    responses(
        (status = 200, description = "A page of them", body = Page<StoreObject>),
        (status = "4XX", description = "The request is wrong", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    page: Result<Query<PageAsked>, QueryRejection>,
) -> Result<Reply<Page<StoreObject>>, ApiError> {
    let page = asked(page)?.of(state.vector_stores().list().await?, |store| &store.id, MOST)?;
    page.try_map(|store| Box::pin(shown(&state, store))).await.map(Reply)
}

/// Describe a vector store.
#[utoipa::path(
    get,
    path = "/v1/vector_stores/{id}",
    operation_id = "getVectorStore",
    tag = "vector stores",
    params(("id" = String, Path, description = "Id of a vector store")),
    responses(
        (status = 200, description = "The store", body = StoreObject),
        (status = 404, description = "There is no such store", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn retrieve(
    Extract(state): Extract<State>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<StoreObject>, ApiError> {
    let store = state.vector_stores().get(&id(path)?).await?;
    shown(&state, store).await.map(Reply)
}

/// Change a vector store.
#[utoipa::path(
    post,
    path = "/v1/vector_stores/{id}",
    operation_id = "modifyVectorStore",
    tag = "vector stores",
    params(("id" = String, Path, description = "Id of a vector store")),
    request_body = UpdateRequest,
    responses(
        (status = 200, description = "What it is now", body = StoreObject),
        (status = "4XX", description = "The request is wrong, or there is no such store (404)", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn update(
    Extract(state): Extract<State>,
    path: Result<Path<String>, PathRejection>,
    Json(body): Json<UpdateRequest>,
) -> Result<Reply<StoreObject>, ApiError> {
    let (name, days) = (name(body.name)?, body.expires_after.map(ExpiresAfter::days).transpose()?);
    let id = id(path)?;
    let changed = state.vector_stores().change(&id, |store| {
        store.name = name.unwrap_or_else(|| std::mem::take(&mut store.name));
        store.expires_after = days.or(store.expires_after);
        if let Some(metadata) = body.metadata {
            store.metadata = metadata.into_map();
        }
    });
    shown(&state, changed.await?).await.map(Reply)
}

/// Delete a vector store. Its files are kept.
#[utoipa::path(
    delete,
    path = "/v1/vector_stores/{id}",
    operation_id = "deleteVectorStore",
    tag = "vector stores",
    params(("id" = String, Path, description = "Id of a vector store")),
    responses(
        (status = 200, description = "It is gone", body = Gone),
        (status = 404, description = "There is no such store", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<Gone>, ApiError> {
    let id = id(path)?;
    state.vector_stores().get(&id).await?;
    state.vector_stores().remove(&id).await?;
    Ok(Reply(Gone::new(id, "vector_store.deleted")))
}
