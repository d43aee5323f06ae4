//! `/tags` and `/docs`: which documents there are, and what they are filed under.

use axum::Json as Reply;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::points::COLLECTION;
use crate::http::body::Json;
use crate::http::dialect::DetailBody;
use crate::http::{ApiError, State};
use crate::types::rag::Entry;

const LISTED: usize = 1000;
const MOST: usize = 100_000;

/// A tag.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxTag)]
pub(crate) struct Tag {
    tag: String,
    /// Documents that have it.
    count: u64,
}

/// Which tags or documents.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listed {
    /// At most so many; 1000 if absent.
    limit: Option<usize>,
    /// `pmx_docs` if absent.
    collection: Option<String>,
}

/// What tags become.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TagsChange {
    #[serde(default)]
    add: Option<Vec<String>>,
    #[serde(default)]
    remove: Option<Vec<String>>,
}

/// The tags of a document.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DocumentTags {
    doc_id: String,
    tags: Vec<String>,
}

/// A document.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxDocument)]
pub(crate) struct DocumentBody {
    id: String,
    name: String,
    mime: String,
    bytes: u64,
    chars: u64,
    chunks: u64,
    pages: Option<u64>,
    /// Of its content, in hexadecimal digits.
    sha256: String,
    tags: Vec<String>,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// Unix seconds.
    created_at: u64,
    updated_at: u64,
}

/// That something is gone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxDeleted)]
pub(crate) struct Deleted {
    deleted: String,
    status: &'static str,
}

impl Deleted {
    pub(super) fn new(deleted: String) -> Deleted {
        Deleted { deleted, status: "ok" }
    }
}

impl From<Entry> for DocumentBody {
    fn from(entry: Entry) -> DocumentBody {
        DocumentBody {
            id: entry.id,
            name: entry.name,
            mime: entry.mime,
            bytes: entry.bytes,
            chars: entry.chars,
            chunks: entry.passages,
            pages: entry.pages,
            sha256: entry.sha256,
            tags: entry.tags,
            metadata: entry.attributes,
            created_at: entry.created,
            updated_at: entry.updated,
        }
    }
}

fn missing() -> ApiError {
    ApiError::new(axum::http::StatusCode::NOT_FOUND, "document_not_found", "Document not found")
}

fn listed(asked: Result<Query<Listed>, QueryRejection>) -> Result<(String, usize), ApiError> {
    let Query(asked) = asked.map_err(|_| ApiError::invalid("limit", "`limit` must be a whole number"))?;
    let collection = asked.collection.unwrap_or_else(|| COLLECTION.to_owned());
    Ok((collection, asked.limit.unwrap_or(LISTED).min(MOST)))
}

/// List documents, the newest first.
#[utoipa::path(
    get,
    path = "/docs/list",
    operation_id = "pmxDocuments",
    tag = "pmx",
    params(Listed),
    responses(
        (status = 200, description = "The documents", body = Vec<DocumentBody>),
        (status = "4XX", description = "The request is wrong", body = DetailBody),
    )
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    asked: Result<Query<Listed>, QueryRejection>,
) -> Result<Reply<Vec<DocumentBody>>, ApiError> {
    let (collection, limit) = listed(asked)?;
    let entries = state.rag().entries(&collection).await?;
    Ok(Reply(entries.into_iter().take(limit).map(DocumentBody::from).collect()))
}

/// Delete a document, from every collection that it is in.
#[utoipa::path(
    delete,
    path = "/docs/{doc_id}",
    operation_id = "pmxDeleteDocument",
    tag = "pmx",
    params(("doc_id" = String, Path, description = "Id of a document, as `/query` and `/index` give it")),
    responses(
        (status = 200, description = "It is gone", body = Deleted),
        (status = 404, description = "There is no such document", body = DetailBody),
    )
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Reply<Deleted>, ApiError> {
    let Path(doc_id) = id.map_err(|_| missing())?;
    let entries = state.rag().entries_named(&doc_id).await?;
    if entries.is_empty() {
        return Err(missing());
    }
    for entry in entries {
        state.rag().remove(&entry.collection, &doc_id).await?;
    }
    Ok(Reply(Deleted::new(doc_id)))
}

/// List tags, those of most documents first.
#[utoipa::path(
    get,
    path = "/tags",
    operation_id = "pmxTags",
    tag = "pmx",
    params(Listed),
    responses(
        (status = 200, description = "The tags", body = Vec<Tag>),
        (status = "4XX", description = "The request is wrong", body = DetailBody),
    )
)]
pub(crate) async fn tags(
    Extract(state): Extract<State>,
    asked: Result<Query<Listed>, QueryRejection>,
) -> Result<Reply<Vec<Tag>>, ApiError> {
    let (collection, limit) = listed(asked)?;
    let tags = state.rag().tags(&collection).await?;
    let mut tags: Vec<Tag> = tags.into_iter().map(|(tag, count)| Tag { tag, count }).collect();
    tags.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.tag.cmp(&b.tag)));
    tags.truncate(limit);
    Ok(Reply(tags))
}

/// Change the tags of a document.
#[utoipa::path(
    patch,
    path = "/docs/{doc_id}/tags",
    operation_id = "pmxChangeTags",
    tag = "pmx",
    params(("doc_id" = String, Path, description = "Id of a document, as `/query` and `/index` give it")),
    request_body = TagsChange,
    responses(
        (status = 200, description = "The tags that it has now", body = DocumentTags),
        (status = 404, description = "There is no such document", body = DetailBody),
        (status = "4XX", description = "The request is wrong", body = DetailBody),
    )
)]
pub(crate) async fn change_tags(
    Extract(state): Extract<State>,
    id: Result<Path<String>, PathRejection>,
    Json(change): Json<TagsChange>,
) -> Result<Reply<DocumentTags>, ApiError> {
    let Path(doc_id) = id.map_err(|_| missing())?;
    let (add, remove) = (change.add.unwrap_or_default(), change.remove.unwrap_or_default());
    let mut tags = None;
    for entry in state.rag().entries_named(&doc_id).await? {
        let changed = state.rag().change(&entry.collection, &doc_id, |entry| {
            entry.tags.extend(add.iter().cloned());
            entry.tags.retain(|tag| !remove.contains(tag));
        });
        tags = changed.await?.map(|entry| entry.tags).or(tags);
    }
    let tags = tags.ok_or_else(missing)?;
    Ok(Reply(DocumentTags { doc_id, tags }))
}
