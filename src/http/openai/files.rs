//! `/v1/files`: files that are kept with the server.

use axum::Json as Reply;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Response};
use serde::{Deserialize, Serialize};
use tokio_util::io::ReaderStream;
use utoipa::{IntoParams, ToSchema};

use super::now;
use super::page::{Page, PageAsked};
use crate::http::form::Form;
use crate::http::{ApiError, State};
use crate::service::Error;
use crate::service::files::Kept;

/// Files of one page.
const MOST: usize = 10_000;
const PURPOSES: &[&str] = &["assistants", "batch", "fine-tune", "vision", "user_data", "evals"];
/// Seconds that a file may be kept before it goes by itself: an hour to 30 days.
const KEEP: (u64, u64) = (3600, 30 * 24 * 3600);

/// A file to keep.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `create` reads it")]
pub(crate) struct FileForm {
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// `assistants`, `user_data`, `batch`, `fine-tune`, `vision` or `evals`: noted, and nothing else.
    purpose: String,
    /// Seconds after which it goes by itself, 3600 to 2592000, as `expires_after[seconds]`.
    #[schema(rename = "expires_after[seconds]")]
    expires_after: Option<u64>,
}

/// A file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiFile)]
pub(crate) struct FileObject {
    id: String,
    object: &'static str,
    bytes: u64,
    /// Unix seconds.
    created_at: u64,
    /// Unix seconds; null where it stays until it is deleted.
    expires_at: Option<u64>,
    filename: String,
    purpose: String,
    /// Always `processed`.
    status: &'static str,
}

/// That something is gone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiDeleted)]
pub(crate) struct Gone {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Files of which purpose.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct FilesAsked {
    purpose: Option<String>,
}

impl From<Kept> for FileObject {
    fn from(kept: Kept) -> FileObject {
        FileObject {
            id: kept.id,
            object: "file",
            bytes: kept.bytes,
            created_at: kept.created,
            expires_at: kept.expires,
            filename: kept.name,
            purpose: kept.purpose,
            status: "processed",
        }
    }
}

impl Gone {
    pub(in crate::http) fn new(id: String, object: &'static str) -> Gone {
        Gone { id, object, deleted: true }
    }
}

/// What a path names.
pub(in crate::http) fn id(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    path.map(|Path(id)| id).map_err(|_| ApiError::invalid("id", "the id is not UTF-8"))
}

/// What stands behind a path.
pub(in crate::http) fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(asked)| asked).map_err(|error| ApiError::invalid("query", error.body_text()))
}

/// The server's own files are none of its callers'.
pub(super) async fn kept(state: &State, id: &str) -> Result<Kept, ApiError> {
    let kept = state.files().get(id).await?.filter(|kept| !kept.is_own());
    kept.ok_or_else(|| Error::Missing { what: "file", id: id.chars().take(128).collect() }.into())
}

/// Keep a file.
#[utoipa::path(
    post,
    path = "/v1/files",
    operation_id = "createFile",
    tag = "files",
    request_body(content = FileForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The file is kept", body = FileObject),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = 507, description = "There is no room for it", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    form: Form,
) -> Result<Reply<FileObject>, ApiError> {
    let purpose = form.values.text(&["purpose"], 64)?.unwrap_or_else(|| "user_data".to_owned());
    if !PURPOSES.contains(&purpose.as_str()) {
        let message = format!("`purpose` must be one of {}", PURPOSES.join(", "));
        return Err(ApiError::invalid("purpose", message));
    }
    let keyed = form.values.keyed("expires_after");
    let seconds = keyed.iter().find(|(key, _)| *key == "seconds").map(|(_, field)| {
        let seconds = field.text.parse().ok().filter(|seconds| (KEEP.0..=KEEP.1).contains(seconds));
        seconds.ok_or_else(|| field.wrong(format_args!("a whole number from {} to {}", KEEP.0, KEEP.1)))
    });
    let expires = seconds.transpose()?.map(|seconds| now() + seconds);
    let kept = state.files().keep(form.upload()?, &purpose, expires).await?;
    Ok(Reply(kept.into()))
}

/// List files.
#[utoipa::path(
    get,
    path = "/v1/files",
    operation_id = "listFiles",
    tag = "files",
    params(FilesAsked, PageAsked),
    responses(
        (status = 200, description = "A page of them; `limit` is up to 10000", body = Page<FileObject>),
        (status = "4XX", description = "The request is wrong", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    files: Result<Query<FilesAsked>, QueryRejection>,
    page: Result<Query<PageAsked>, QueryRejection>,
) -> Result<Reply<Page<FileObject>>, ApiError> {
    let (files, mut page) = (asked(files)?, asked(page)?);
    page.limit = page.limit.or(Some(MOST));
    let all = state.files().list(files.purpose.as_deref()).await?;
    Ok(Reply(page.of(all, |kept| &kept.id, MOST)?.map(FileObject::from)))
}

/// Describe a file.
#[utoipa::path(
    get,
    path = "/v1/files/{id}",
    operation_id = "retrieveFile",
    tag = "files",
    params(("id" = String, Path, description = "Id of a file")),
    responses(
        (status = 200, description = "The file", body = FileObject),
        (status = 404, description = "There is no such file", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn retrieve(
    Extract(state): Extract<State>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<FileObject>, ApiError> {
    Ok(Reply(kept(&state, &id(path)?).await?.into()))
}

/// Delete a file. It is taken out of every vector store, too.
#[utoipa::path(
    delete,
    path = "/v1/files/{id}",
    operation_id = "deleteFile",
    tag = "files",
    params(("id" = String, Path, description = "Id of a file")),
    responses(
        (status = 200, description = "It is gone", body = Gone),
        (status = 404, description = "There is no such file", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<Gone>, ApiError> {
    let kept = kept(&state, &id(path)?).await?;
    state.vector_stores().forget(&kept.id).await?;
    state.files().remove(&kept.id).await?;
    Ok(Reply(Gone::new(kept.id, "file")))
}

/// What a file holds.
#[utoipa::path(
    get,
    path = "/v1/files/{id}/content",
    operation_id = "downloadFile",
    tag = "files",
    params(("id" = String, Path, description = "Id of a file")),
    responses(
        (status = 200, description = "Its bytes", content_type = "application/octet-stream"),
        (status = 404, description = "There is no such file", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn content(
    Extract(state): Extract<State>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, ApiError> {
    let kept = kept(&state, &id(path)?).await?;
    let (kept, upload) = state.files().content(&kept.id).await?;
    let stream = ReaderStream::new(tokio::fs::File::from_std(upload.file));
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    // Whatever it is, no browser is to show it as this server's page.
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(kept.bytes));
    Ok(response)
}
