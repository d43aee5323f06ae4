//! The files of a vector store.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{Chunking, MOST, stage};
use crate::http::body::Json;
use crate::http::openai::files::{Gone, asked, id, kept};
use crate::http::openai::page::{Page, PageAsked};
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::service::vector_stores::{Member, NewMember};

const MAX_ATTRIBUTES: usize = 16;
const MAX_KEY: usize = 64;
const MAX_VALUE: usize = 512;

/// A file to put into a store.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = CreateVectorStoreFile)]
pub(crate) struct AddRequest {
    pub file_id: String,
    /// What searches filter by: up to 16 texts, numbers and truths.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub attributes: Option<Map<String, Value>>,
    #[serde(default)]
    pub chunking_strategy: Option<Chunking>,
}

/// What a file's attributes become.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = UpdateVectorStoreFile)]
pub(crate) struct AttributesRequest {
    #[schema(value_type = Object)]
    attributes: Map<String, Value>,
}

/// A file of a store.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VectorStoreFile)]
pub(crate) struct MemberObject {
    /// Of the file.
    id: String,
    object: &'static str,
    usage_bytes: u64,
    /// Unix seconds.
    created_at: u64,
    vector_store_id: String,
    /// `in_progress`, `completed`, `failed` or `cancelled`.
    status: &'static str,
    last_error: Option<LastError>,
    chunking_strategy: Chunking,
    #[schema(value_type = Object)]
    attributes: Map<String, Value>,
}

/// Why a file could not be indexed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VectorStoreFileError)]
pub(crate) struct LastError {
    /// `invalid_file`.
    code: &'static str,
    message: String,
}

/// What a file says, passage by passage.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileContent {
    object: &'static str,
    data: Vec<TextPart>,
    has_more: bool,
    next_page: Option<String>,
}

/// A text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VectorStoreText)]
pub(crate) struct TextPart {
    r#type: &'static str,
    text: String,
}

impl TextPart {
    pub(super) fn new(text: String) -> TextPart {
        TextPart { r#type: "text", text }
    }
}

/// Files of which status.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct StageAsked {
    /// `in_progress`, `completed`, `failed` or `cancelled`.
    filter: Option<String>,
}

impl StageAsked {
    pub(super) fn keep(&self, members: &mut Vec<Member>) -> Result<(), ApiError> {
        let Some(wanted) = &self.filter else { return Ok(()) };
        if !["in_progress", "completed", "failed", "cancelled"].contains(&wanted.as_str()) {
            let message = "`filter` must be `in_progress`, `completed`, `failed` or `cancelled`";
            return Err(ApiError::invalid("filter", message));
        }
        members.retain(|member| stage(member.stage) == wanted);
        Ok(())
    }
}

impl From<Member> for MemberObject {
    fn from(member: Member) -> MemberObject {
        MemberObject {
            id: member.file,
            object: "vector_store.file",
            usage_bytes: member.bytes,
            created_at: member.created,
            vector_store_id: member.store,
            status: stage(member.stage),
            last_error: member.error.map(|message| LastError { code: "invalid_file", message }),
            chunking_strategy: Chunking::of(member.size),
            attributes: member.attributes,
        }
    }
}

impl AddRequest {
    pub(super) fn checked(self) -> Result<NewMember, ApiError> {
        let size = self.chunking_strategy.map_or(Ok(None), |chunking| chunking.size())?;
        let attributes = self.attributes.unwrap_or_default();
        check(&attributes)?;
        Ok(NewMember { file: self.file_id, attributes, size })
    }
}

fn check(attributes: &Map<String, Value>) -> Result<(), ApiError> {
    let plain = |(key, value): (&String, &Value)| {
        let fits = match value {
            Value::String(text) => text.len() <= MAX_VALUE,
            Value::Number(_) | Value::Bool(_) => true,
            _ => false,
        };
        fits && key.len() <= MAX_KEY && !key.contains('.')
    };
    if attributes.len() <= MAX_ATTRIBUTES && attributes.iter().all(plain) {
        return Ok(());
    }
    let message = format!(
        "`attributes` has at most {MAX_ATTRIBUTES} texts (of at most {MAX_VALUE} bytes), numbers and truths; their \
         names have at most {MAX_KEY} bytes and no dots"
    );
    Err(ApiError::invalid("attributes", message))
}

/// The ids of a path.
type Ids = Result<Path<(String, String)>, PathRejection>;

pub(super) fn ids(path: Ids) -> Result<(String, String), ApiError> {
    path.map(|Path(ids)| ids).map_err(|_| ApiError::invalid("id", "an id is not UTF-8"))
}

/// Put a file into a vector store.
#[utoipa::path(
    post,
    path = "/v1/vector_stores/{id}/files",
    operation_id = "createVectorStoreFile",
    tag = "vector stores",
    params(("id" = String, Path, description = "Id of a vector store")),
    request_body = AddRequest,
    responses(
        (status = 200, description = "It is being indexed", body = MemberObject),
        (status = "4XX", description = "The request is wrong, there is no such store or file (404), or the server is busy (429)", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
    Json(body): Json<AddRequest>,
) -> Result<Reply<MemberObject>, ApiError> {
    let (store, new) = (id(path)?, body.checked()?);
    kept(&state, &new.file).await?;
    let file = new.file.clone();
    state.vector_stores().add(&ctx, &store, vec![new], None, &state.worker()).await?;
    Ok(Reply(state.vector_stores().member(&store, &file).await?.into()))
}

/// List the files of a vector store.
#[utoipa::path(
    get,
    path = "/v1/vector_stores/{id}/files",
    operation_id = "listVectorStoreFiles",
    tag = "vector stores",
    params(("id" = String, Path, description = "Id of a vector store"), StageAsked, PageAsked),
    responses(
        (status = 200, description = "A page of them", body = Page<MemberObject>),
        (status = "4XX", description = "The request is wrong, or there is no such store (404)", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    path: Result<Path<String>, PathRejection>,
    stages: Result<Query<StageAsked>, QueryRejection>,
    page: Result<Query<PageAsked>, QueryRejection>,
) -> Result<Reply<Page<MemberObject>>, ApiError> {
    let store = state.vector_stores().get(&id(path)?).await?;
    let mut members = state.vector_stores().members(&store.id, None).await?;
    asked(stages)?.keep(&mut members)?;
    Ok(Reply(asked(page)?.of(members, |member| &member.file, MOST)?.map(MemberObject::from)))
}

/// Describe a file of a vector store.
#[utoipa::path(
    get,
    path = "/v1/vector_stores/{id}/files/{file_id}",
    operation_id = "getVectorStoreFile",
    tag = "vector stores",
    params(
        ("id" = String, Path, description = "Id of a vector store"),
        ("file_id" = String, Path, description = "Id of a file"),
    ),
    responses(
        (status = 200, description = "The file", body = MemberObject),
        (status = 404, description = "It is not in the store", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn retrieve(
    Extract(state): Extract<State>,
    path: Ids,
) -> Result<Reply<MemberObject>, ApiError> {
    let (store, file) = ids(path)?;
    Ok(Reply(state.vector_stores().member(&store, &file).await?.into()))
}

/// Change the attributes of a file in a vector store.
#[utoipa::path(
    post,
    path = "/v1/vector_stores/{id}/files/{file_id}",
    operation_id = "updateVectorStoreFileAttributes",
    tag = "vector stores",
    params(
        ("id" = String, Path, description = "Id of a vector store"),
        ("file_id" = String, Path, description = "Id of a file"),
    ),
    request_body = AttributesRequest,
    responses(
        (status = 200, description = "What it is now", body = MemberObject),
        (status = "4XX", description = "The request is wrong, or it is not in the store (404)", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn update(
    Extract(state): Extract<State>,
    path: Ids,
    Json(body): Json<AttributesRequest>,
) -> Result<Reply<MemberObject>, ApiError> {
    let (store, file) = ids(path)?;
    check(&body.attributes)?;
    Ok(Reply(state.vector_stores().describe(&store, &file, body.attributes).await?.into()))
}

/// Take a file out of a vector store. The file is kept.
#[utoipa::path(
    delete,
    path = "/v1/vector_stores/{id}/files/{file_id}",
    operation_id = "deleteVectorStoreFile",
    tag = "vector stores",
    params(
        ("id" = String, Path, description = "Id of a vector store"),
        ("file_id" = String, Path, description = "Id of a file"),
    ),
    responses(
        (status = 200, description = "It is not in it any more", body = Gone),
        (status = 404, description = "It is not in the store", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn delete(Extract(state): Extract<State>, path: Ids) -> Result<Reply<Gone>, ApiError> {
    let (store, file) = ids(path)?;
    state.vector_stores().member(&store, &file).await?;
    state.vector_stores().remove_file(&store, &file).await?;
    Ok(Reply(Gone::new(file, "vector_store.file.deleted")))
}

/// What a file of a vector store says, passage by passage.
#[utoipa::path(
    get,
    path = "/v1/vector_stores/{id}/files/{file_id}/content",
    operation_id = "retrieveVectorStoreFileContent",
    tag = "vector stores",
    params(
        ("id" = String, Path, description = "Id of a vector store"),
        ("file_id" = String, Path, description = "Id of a file"),
    ),
    responses(
        (status = 200, description = "Its passages, of which each may repeat the end of the one before", body = FileContent),
        (status = 404, description = "It is not in the store", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn content(
    Extract(state): Extract<State>,
    path: Ids,
) -> Result<Reply<FileContent>, ApiError> {
    let (store, file) = ids(path)?;
    let data = state.vector_stores().content(&store, &file).await?.into_iter().map(TextPart::new).collect();
    let object = "vector_store.file_content.page";
    Ok(Reply(FileContent { object, data, has_more: false, next_page: None }))
}
