//! Files that are put into a vector store together.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::files::{AddRequest, MemberObject, StageAsked, ids};
use super::{Chunking, FileCounts, MAX_FILES, MOST, stage};
use crate::http::body::Json;
use crate::http::openai::fields::Bounded;
use crate::http::openai::files::{asked, id, kept};
use crate::http::openai::page::{Page, PageAsked};
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::service::vector_stores::{Counts, Member, NewMember};
use serde_json::{Map, Value};

/// Files to put into a store.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CreateFileBatch)]
pub(crate) struct BatchRequest {
    /// Up to 500.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, max_items = 500)]
    file_ids: Option<Bounded<String, MAX_FILES>>,
    /// In its place: files that each have attributes of their own.
    #[serde(default)]
    #[schema(value_type = Option<Vec<AddRequest>>, max_items = 500)]
    files: Option<Bounded<AddRequest, MAX_FILES>>,
    /// Of all files of `file_ids`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    attributes: Option<Map<String, Value>>,
    #[serde(default)]
    chunking_strategy: Option<Chunking>,
}

/// Files that were put into a store together.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VectorStoreFileBatch)]
pub(crate) struct BatchObject {
    id: String,
    object: &'static str,
    /// Unix seconds.
    created_at: u64,
    vector_store_id: String,
    /// `in_progress`, `completed`, `failed` (all of them) or `cancelled`.
    status: &'static str,
    file_counts: FileCounts,
}

impl BatchObject {
    fn of(id: String, store: String, members: &[Member]) -> BatchObject {
        let counts = Counts::of(members);
        BatchObject {
            id,
            object: "vector_store.file_batch",
            created_at: members.iter().map(|member| member.created).min().unwrap_or_default(),
            vector_store_id: store,
            status: stage(counts.stage()),
            file_counts: counts.into(),
        }
    }
}

impl BatchRequest {
    fn checked(self) -> Result<Vec<NewMember>, ApiError> {
        let (attributes, chunking_strategy) = (self.attributes, self.chunking_strategy);
        let alike = |file_id| AddRequest {
            file_id,
            attributes: attributes.clone(),
            chunking_strategy: chunking_strategy.clone(),
        };
        let named = self.file_ids.map_or_else(Vec::new, |ids| ids.0).into_iter().map(alike);
        let own = self.files.map_or_else(Vec::new, |files| files.0);
        let all: Vec<NewMember> = named.chain(own).map(AddRequest::checked).collect::<Result<_, _>>()?;
        if all.is_empty() {
            return Err(ApiError::invalid("file_ids", "`file_ids` is empty; name at least one file"));
        }
        Ok(all)
    }
}

/// Put files into a vector store.
#[utoipa::path(
    post,
    path = "/v1/vector_stores/{id}/file_batches",
    operation_id = "createVectorStoreFileBatch",
    tag = "vector stores",
    params(("id" = String, Path, description = "Id of a vector store")),
    request_body = BatchRequest,
    responses(
        (status = 200, description = "They are being indexed", body = BatchObject),
        (status = "4XX", description = "The request is wrong, there is no such store or file (404), or the server is busy (429)", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
    Json(body): Json<BatchRequest>,
) -> Result<Reply<BatchObject>, ApiError> {
    let (store, members) = (id(path)?, body.checked()?);
    for member in &members {
        kept(&state, &member.file).await?;
    }
    let batch = format!("vsfb_{}", uuid::Uuid::new_v4().simple());
    let stores = state.vector_stores();
    let members = stores.add(&ctx, &store, members, Some(batch.clone()), &state.worker()).await?;
    Ok(Reply(BatchObject::of(batch, store, &members)))
}

/// Describe files that were put into a vector store together.
#[utoipa::path(
    get,
    path = "/v1/vector_stores/{id}/file_batches/{batch_id}",
    operation_id = "getVectorStoreFileBatch",
    tag = "vector stores",
    params(
        ("id" = String, Path, description = "Id of a vector store"),
        ("batch_id" = String, Path, description = "Id of a batch"),
    ),
    responses(
        (status = 200, description = "How far they are", body = BatchObject),
        (status = 404, description = "There is no such batch", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn retrieve(
    Extract(state): Extract<State>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Reply<BatchObject>, ApiError> {
    let (store, batch) = ids(path)?;
    let members = state.vector_stores().batch(&store, &batch).await?;
    Ok(Reply(BatchObject::of(batch, store, &members)))
}

/// Leave out what is not indexed yet of a batch.
#[utoipa::path(
    post,
    path = "/v1/vector_stores/{id}/file_batches/{batch_id}/cancel",
    operation_id = "cancelVectorStoreFileBatch",
    tag = "vector stores",
    params(
        ("id" = String, Path, description = "Id of a vector store"),
        ("batch_id" = String, Path, description = "Id of a batch"),
    ),
    responses(
        (status = 200, description = "How far they are", body = BatchObject),
        (status = 404, description = "There is no such batch", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn cancel(
    Extract(state): Extract<State>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Reply<BatchObject>, ApiError> {
    let (store, batch) = ids(path)?;
    let members = state.vector_stores().cancel_batch(&store, &batch).await?;
    Ok(Reply(BatchObject::of(batch, store, &members)))
}

/// List the files of a batch.
#[utoipa::path(
    get,
    path = "/v1/vector_stores/{id}/file_batches/{batch_id}/files",
    operation_id = "listFilesInVectorStoreBatch",
    tag = "vector stores",
    params(
        ("id" = String, Path, description = "Id of a vector store"),
        ("batch_id" = String, Path, description = "Id of a batch"),
        StageAsked,
        PageAsked,
    ),
    responses(
        (status = 200, description = "A page of them", body = Page<MemberObject>),
        (status = "4XX", description = "The request is wrong, or there is no such batch (404)", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    path: Result<Path<(String, String)>, PathRejection>,
    stages: Result<Query<StageAsked>, QueryRejection>,
    page: Result<Query<PageAsked>, QueryRejection>,
) -> Result<Reply<Page<MemberObject>>, ApiError> {
    let (store, batch) = ids(path)?;
    let mut members = state.vector_stores().batch(&store, &batch).await?;
    asked(stages)?.keep(&mut members)?;
    Ok(Reply(asked(page)?.of(members, |member| &member.file, MOST)?.map(MemberObject::from)))
}
