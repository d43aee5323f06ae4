//! LibreChat's RAG API, below `/librechat`: its `RAG_API_URL` is that address. Each user sees documents of their own, and
//! those of the agents that LibreChat asks for on their behalf.

pub(super) mod jwt;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::StatusCode;
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use utoipa::ToSchema;

use super::body::Json;
use super::dialect::DetailBody;
use super::form::{Form, Values};
use super::{ApiError, State};
use crate::service::rag::Place;
use crate::service::{Context, Error};
use crate::types::rag::{By, Entry, NewDocument, Passage, Question};
use crate::types::store::{Filter, Fusion};

/// Where its documents are.
const COLLECTION: &str = "librechat";
/// Begins the public ids of its users.
pub(super) const USER: &str = "librechat:";
/// Whose documents are where nobody says who asks.
const PUBLIC: &str = "public";
const K: usize = 4;
const MAX_ID: usize = 128;
/// Documents of one request.
const MOST: usize = 1000;

/// A file to take in.
#[derive(ToSchema)]
#[schema(as = LibreChatForm)]
#[expect(dead_code, reason = "describes the form; `embed` reads it")]
pub(crate) struct EmbedForm {
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    file_id: String,
    /// An agent whose document it is, instead of the user's.
    entity_id: Option<String>,
}

/// That a file was taken in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LibreChatEmbedded)]
pub(crate) struct Embedded {
    status: bool,
    message: &'static str,
    file_id: String,
    filename: String,
    known_type: bool,
}

/// The text of a file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LibreChatText)]
pub(crate) struct TextOf {
    text: String,
    file_id: String,
    filename: String,
    known_type: bool,
}

/// A question to one file.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = LibreChatQuery)]
pub(crate) struct QueryRequest {
    query: String,
    file_id: String,
    /// Passages; 4 if absent.
    #[serde(default)]
    k: Option<usize>,
    #[serde(default)]
    entity_id: Option<String>,
}

/// A question to several files.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = LibreChatQueryMultiple)]
pub(crate) struct QueryMultipleRequest {
    query: String,
    file_ids: Vec<String>,
    /// Passages; 4 if absent.
    #[serde(default)]
    k: Option<usize>,
}

/// A passage.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LibreChatPassage)]
pub(crate) struct PageBody {
    page_content: String,
    metadata: Metadata,
}

/// Where a passage is from.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LibreChatMetadata)]
pub(crate) struct Metadata {
    file_id: String,
    user_id: String,
    /// The file's name.
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u64>,
}

/// That documents are gone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LibreChatDeleted)]
pub(crate) struct Deleted {
    message: String,
}

/// Whether it is there.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LibreChatHealth)]
pub(crate) struct Up {
    status: &'static str,
}

/// Who asks.
fn user(ctx: &Context) -> &str {
    ctx.key_id.as_deref().and_then(|id| id.strip_prefix(USER)).unwrap_or(PUBLIC)
}

fn missing() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "The specified file_id was not found")
}

fn id(values: &Values, name: &'static str) -> Result<Option<String>, ApiError> {
    values.text(&[name], MAX_ID)
}

fn owner(entry: &Entry) -> &str {
    entry.attributes.get("user").and_then(|user| user.as_str()).unwrap_or(PUBLIC)
}

/// The documents of these ids that this user may see.
async fn entries(state: &State, owners: &[&str], ids: &[String]) -> Result<Vec<Entry>, ApiError> {
    if ids.len() > MOST {
        return Err(ApiError::invalid("file_ids", format!("`file_ids` has more than {MOST} entries")));
    }
    let mut entries = Vec::new();
    for id in ids {
        let entry = state.rag().entry(COLLECTION, id).await?;
        entries.extend(entry.filter(|entry| owner(entry) == PUBLIC || owners.contains(&owner(entry))));
    }
    Ok(entries)
}

/// Take a file in.
#[utoipa::path(
    post,
    path = "/librechat/embed",
    operation_id = "librechatEmbed",
    tag = "librechat",
    request_body(content = EmbedForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "It is found from now on", body = Embedded),
        (status = "4XX", description = "The file cannot be read, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn embed(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    form: Form,
) -> Result<Reply<Embedded>, ApiError> {
    let file_id = id(&form.values, "file_id")?;
    let file_id = file_id.ok_or_else(|| ApiError::invalid("file_id", "`file_id` is missing"))?;
    let owner = id(&form.values, "entity_id")?.unwrap_or_else(|| user(&ctx).to_owned());
    if let Some(other) = state.rag().entry(COLLECTION, &file_id).await?
        && self::owner(&other) != owner
    {
        return Err(ApiError::new(StatusCode::CONFLICT, "conflict", "this file_id is another user's"));
    }
    let document = state.rag().take(form.upload()?).await?;
    let attributes = Map::from_iter([("user".to_owned(), owner.into())]);
    let new = NewDocument { id: Some(file_id.clone()), attributes, ..document };
    let filename = new.name.clone();
    let model = state.settings().default_embed.clone();
    let place = Place { collection: COLLECTION.to_owned(), model, ..Place::default() };
    state.rag().index(&ctx, &place, new, &|_, _| ()).await?;
    let message = "File processed successfully.";
    Ok(Reply(Embedded { status: true, message, file_id, filename, known_type: true }))
}

/// The text of a file, which is not kept.
#[utoipa::path(
    post,
    path = "/librechat/text",
    operation_id = "librechatText",
    tag = "librechat",
    request_body(content = EmbedForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The text", body = TextOf),
        (status = "4XX", description = "The file cannot be read, or the server is busy (429)", body = DetailBody),
    )
)]
pub(crate) async fn text(Extract(state): Extract<State>, form: Form) -> Result<Reply<TextOf>, ApiError> {
    let file_id = id(&form.values, "file_id")?.unwrap_or_default();
    let document = state.rag().take(form.upload()?).await?;
    let filename = document.name.clone();
    let text = state.rag().parse(document).await?.text;
    Ok(Reply(TextOf { text, file_id, filename, known_type: true }))
}

/// The passages of files that fit a question, each with its distance: 1 less the cosine.
async fn find(
    state: &State,
    ctx: &Context,
    query: String,
    entries: &[Entry],
    k: Option<usize>,
) -> Result<Vec<(PageBody, f32)>, ApiError> {
    let documents = entries.iter().map(|entry| Filter::is("document", &entry.id)).collect();
    let question = Question {
        collections: vec![COLLECTION.to_owned()],
        text: query,
        k: k.unwrap_or(K).clamp(1, 100),
        filter: Some(Filter::Any(documents)),
        by: By::Both,
        fusion: Fusion::default(),
        reranker: state.settings().default_rerank.clone(),
    };
    let found = state.rag().find(ctx, &question).await?;
    Ok(found.into_iter().map(|passage| (1.0 - passage.relevance.unwrap_or(0.0), passage)).map(body).collect())
}

fn body((distance, passage): (f32, Passage)) -> (PageBody, f32) {
    let user_id = passage.attributes.get("user").and_then(|user| user.as_str()).unwrap_or(PUBLIC).to_owned();
    let metadata = Metadata { file_id: passage.document, user_id, source: passage.name, page: passage.page };
    (PageBody { page_content: passage.text, metadata }, distance)
}

/// Find passages of a file.
#[utoipa::path(
    post,
    path = "/librechat/query",
    operation_id = "librechatQuery",
    tag = "librechat",
    request_body = QueryRequest,
    responses(
        (status = 200, description = "Pairs of a passage and its distance", body = Vec<(PageBody, f32)>),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
    )
)]
pub(crate) async fn query(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(asked): Json<QueryRequest>,
) -> Result<Reply<Vec<(PageBody, f32)>>, ApiError> {
    let owners: Vec<&str> = std::iter::once(user(&ctx)).chain(asked.entity_id.as_deref()).collect();
    let entries = entries(&state, &owners, &[asked.file_id]).await?;
    if entries.is_empty() {
        return Ok(Reply(Vec::new()));
    }
    find(&state, &ctx, asked.query, &entries, asked.k).await.map(Reply)
}

/// Find passages of several files.
#[utoipa::path(
    post,
    path = "/librechat/query_multiple",
    operation_id = "librechatQueryMultiple",
    tag = "librechat",
    request_body = QueryMultipleRequest,
    responses(
        (status = 200, description = "Pairs of a passage and its distance", body = Vec<(PageBody, f32)>),
        (status = 404, description = "None of the files is there", body = DetailBody),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
    )
)]
pub(crate) async fn query_multiple(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(asked): Json<QueryMultipleRequest>,
) -> Result<Reply<Vec<(PageBody, f32)>>, ApiError> {
    let entries = entries(&state, &[user(&ctx)], &asked.file_ids).await?;
    if entries.is_empty() {
        return Err(ApiError { message: "No documents found for the given query".to_owned(), ..missing() });
    }
    find(&state, &ctx, asked.query, &entries, asked.k).await.map(Reply)
}

/// Delete documents.
#[utoipa::path(
    delete,
    path = "/librechat/documents",
    operation_id = "librechatDelete",
    tag = "librechat",
    request_body = Vec<String>,
    responses(
        (status = 200, description = "They are gone", body = Deleted),
        (status = 404, description = "One of them is not there: none is deleted", body = DetailBody),
    )
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(ids): Json<Vec<String>>,
) -> Result<Reply<Deleted>, ApiError> {
    let entries = entries(&state, &[user(&ctx)], &ids).await?;
    if entries.is_empty() || entries.len() < ids.len() {
        return Err(ApiError { message: "One or more IDs not found".to_owned(), ..missing() });
    }
    for entry in &entries {
        state.rag().remove(COLLECTION, &entry.id).await?;
    }
    let (count, s) = (entries.len(), if entries.len() == 1 { "" } else { "s" });
    Ok(Reply(Deleted { message: format!("Documents for {count} file{s} deleted successfully") }))
}

/// The passages of documents: `ids` is given once for each.
#[utoipa::path(
    get,
    path = "/librechat/documents",
    operation_id = "librechatDocuments",
    tag = "librechat",
    params(("ids" = Vec<String>, Query, description = "Ids of documents")),
    responses(
        (status = 200, description = "Their passages, in order", body = Vec<PageBody>),
        (status = 404, description = "One of them is not there", body = DetailBody),
    )
)]
pub(crate) async fn documents(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    RawQuery(query): RawQuery,
) -> Result<Reply<Vec<PageBody>>, ApiError> {
    let pairs = url::form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    let ids: Vec<String> = pairs.filter(|(name, _)| name == "ids").map(|(_, id)| id.into_owned()).collect();
    let entries = entries(&state, &[user(&ctx)], &ids).await?;
    if entries.is_empty() || entries.len() < ids.len() {
        return Err(ApiError { message: "One or more IDs not found".to_owned(), ..missing() });
    }
    let mut pages = Vec::new();
    for entry in entries {
        for text in state.rag().texts(COLLECTION, &entry.id).await? {
            let metadata = Metadata {
                file_id: entry.id.clone(),
                user_id: owner(&entry).to_owned(),
                source: entry.name.clone(),
                page: None,
            };
            pages.push(PageBody { page_content: text, metadata });
        }
    }
    Ok(Reply(pages))
}

/// All that a document says, for a prompt.
#[utoipa::path(
    get,
    path = "/librechat/documents/{id}/context",
    operation_id = "librechatContext",
    tag = "librechat",
    params(("id" = String, Path, description = "Id of a document")),
    responses(
        (status = 200, description = "A text that names the file and has its passages", body = String),
        (status = 404, description = "It is not there", body = DetailBody),
    )
)]
pub(crate) async fn context(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<String>, ApiError> {
    let Path(id) = path.map_err(|_| missing())?;
    let entry = entries(&state, &[user(&ctx)], &[id]).await?.pop().ok_or_else(missing)?;
    let texts = state.rag().texts(COLLECTION, &entry.id).await?.join("\n\n");
    Ok(Reply(format!("The user attached the file {}. It says:\n\n{texts}\n", entry.name)))
}

/// Ids of the documents that this user has.
#[utoipa::path(
    get,
    path = "/librechat/ids",
    operation_id = "librechatIds",
    tag = "librechat",
    responses((status = 200, description = "Their ids", body = Vec<String>))
)]
pub(crate) async fn ids(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
) -> Result<Reply<Vec<String>>, ApiError> {
    let entries = match state.rag().entries(COLLECTION).await {
        Err(Error::UnknownCollection { .. }) => Vec::new(),
        entries => entries?,
    };
    let own = entries.into_iter().filter(|entry| owner(entry) == PUBLIC || owner(entry) == user(&ctx));
    Ok(Reply(own.map(|entry| entry.id).collect()))
}

/// Whether it is there.
#[utoipa::path(
    get,
    path = "/librechat/health",
    operation_id = "librechatHealth",
    tag = "librechat",
    responses((status = 200, description = "It is", body = Up))
)]
pub(crate) async fn health() -> Reply<Up> {
    Reply(Up { status: "UP" })
}
