//! `POST /index`: documents to be found again, as JSON or as files.

use std::time::Instant;

use axum::extract::{FromRequest, Request, State as Extract};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::points::{COLLECTION, Id, check};
use crate::http::body::Json;
use crate::http::dialect::DetailBody;
use crate::http::form::{Files, Form, is_form};
use crate::http::{ApiError, State};
use crate::service::rag::Place;
use crate::service::{Context, Upload};
use crate::types::rag::{Content, Indexed, NewDocument, Outcome};
use crate::types::store::Stemming;

/// Files of one form.
const FILES: Files<'static> = Files { names: &["files", "files[]", "file"], most: 256 };
const MAX_NAME: usize = 128;
const MAX_PATH: usize = 512;

/// Documents to index.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct IndexRequest {
    /// `pmx_docs` if absent; it is made where it is not there.
    #[serde(default)]
    collection: Option<String>,
    #[serde(default)]
    documents: Vec<DocumentBody>,
    /// Let the chat model add tags; false if absent.
    #[serde(default)]
    auto_tags: bool,
    /// Whose endings are cut off words in a collection that is made: `english`, `german` and so on; `none` if absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    language: Option<Stemming>,
}

/// A document that is a text.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DocumentBody {
    /// One that is there under this id is replaced; else one of the same `base_name`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    id: Option<Id>,
    /// The text, as `content`.
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    content: Option<String>,
    /// Of it, `tags` are the document's tags; as `meta`.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Option<Map<String, Value>>,
    #[serde(default)]
    #[schema(value_type = Object)]
    meta: Option<Map<String, Value>>,
    /// What it is called in answers.
    #[serde(default)]
    base_name: Option<String>,
}

/// Files to index.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `files` reads it")]
pub(crate) struct IndexForm {
    /// Up to 256 of txt, md, html, pdf, docx, odt, xlsx, csv and eml; `files[]` and `file` are other names for it.
    #[schema(value_type = Vec<String>, format = Binary)]
    files: Vec<Vec<u8>>,
    /// For all of them: repeated, or separated by commas.
    tags: Option<String>,
    /// Of one file by itself: what it is called instead of its file's name.
    name: Option<String>,
    /// `pmx_docs` if absent.
    collection: Option<String>,
    /// Let the chat model add up to 8 tags to each; false if absent.
    auto_tags: Option<bool>,
    /// Whose endings are cut off words in a collection that is made: `english`, `german` and so on; `none` if absent.
    language: Option<String>,
}

/// What was indexed.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct IndexAnswer {
    /// Documents that are in the collection now.
    indexed: usize,
    collection: String,
    /// Of files, each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<FileDone>>,
    /// Of files, the tags that all of them were sent with.
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
    /// Documents that could not be indexed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<DocumentError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
}

/// A file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxIndexedFile)]
pub(crate) struct FileDone {
    filename: String,
    mime: String,
    size_bytes: u64,
    chunks: u64,
    chars: u64,
    conv_ms: u64,
    /// Of the document; null where it could not be indexed.
    id: Option<String>,
    /// `new`, `changed` or `same`; null where it could not be indexed.
    outcome: Option<&'static str>,
    tags: Vec<String>,
    /// Why it could not be indexed, or which attachments were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Why a document could not be indexed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxDocumentError)]
pub(crate) struct DocumentError {
    /// Where it stands in the request.
    index: usize,
    error: String,
}

/// How long it took.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = PmxIndexMetrics)]
pub(crate) struct Metrics {
    elapsed_ms: u64,
    /// In the embedding model.
    embed_ms: u64,
    /// All of it, as `elapsed_ms`.
    pipeline_ms: u64,
    total_chunks: u64,
    files_count: usize,
}

/// Index documents. Where none can be indexed it is an error; where some cannot, each says why.
#[utoipa::path(
    post,
    path = "/index",
    operation_id = "pmxIndex",
    tag = "pmx",
    request_body(content((IndexRequest = "application/json"), (IndexForm = "multipart/form-data"))),
    responses(
        (status = 200, description = "The documents are found from now on", body = IndexAnswer),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    request: Request,
) -> Result<Reply<IndexAnswer>, ApiError> {
    if is_form(&request) {
        return files(&state, &ctx, Form::read(request, &state, FILES).await?).await.map(Reply);
    }
    let Json(body) = Json::<IndexRequest>::from_request(request, &state).await?;
    texts(&state, &ctx, body).await.map(Reply)
}

/// Where documents go; the models are the server's.
fn place(state: &State, collection: Option<String>, auto_tags: bool, stemming: Option<Stemming>) -> Place {
    let settings = state.settings();
    Place {
        collection: collection.unwrap_or_else(|| COLLECTION.to_owned()),
        model: settings.default_embed.clone(),
        tagger: settings.default_chat.clone().filter(|_| auto_tags),
        stemming: stemming.unwrap_or_default(),
        ..Place::default()
    }
}

async fn texts(state: &State, ctx: &Context, body: IndexRequest) -> Result<IndexAnswer, ApiError> {
    let begun = Instant::now();
    let place = place(state, body.collection, body.auto_tags, body.language);
    if body.documents.is_empty() {
        return Ok(IndexAnswer { collection: place.collection, ..IndexAnswer::default() });
    }
    check("documents", body.documents.len())?;
    let (mut done, mut errors) = (Vec::new(), Vec::new());
    for (index, document) in body.documents.into_iter().enumerate() {
        match state.rag().index(ctx, &place, document.into_new(), &|_, _| ()).await {
            Ok(indexed) => done.push(indexed),
            Err(error) => fail(&mut errors, index, error.into())?,
        }
    }
    if let (true, Some(first)) = (done.is_empty(), errors.first()) {
        return Err(ApiError::invalid("documents", first.error.clone()));
    }
    let metrics = Some(Metrics::of(&done, begun));
    let collection = place.collection;
    Ok(IndexAnswer { indexed: done.len(), collection, files: None, tags: None, errors, metrics })
}

async fn files(state: &State, ctx: &Context, form: Form) -> Result<IndexAnswer, ApiError> {
    let begun = Instant::now();
    let collection = form.values.text(&["collection"], MAX_NAME)?;
    let auto_tags = form.values.flag(&["auto_tags", "autotag"])?.unwrap_or(false);
    let own = form.values.text(&["name"], MAX_PATH)?.filter(|_| form.uploads.len() == 1);
    let tags = form.values.list(&["tags"])?.map(|list| list.items).unwrap_or_default();
    if form.uploads.is_empty() {
        return Err(ApiError::invalid("files", "`files` is missing: attach at least one file"));
    }
    let language = form.values.last(&["language"]).map(|field| {
        Stemming::parse(field.text)
            .ok_or_else(|| field.wrong("`none`, or a language such as `english` or `german`"))
    });
    let place = place(state, collection, auto_tags, language.transpose()?);
    let (mut files, mut done, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (index, upload) in form.uploads.into_iter().enumerate() {
        let filename = upload.name.clone().unwrap_or_default();
        match file(state, ctx, &place, upload, own.as_deref(), &tags).await {
            Ok(indexed) => {
                files.push(FileDone::of(filename, &indexed));
                done.push(indexed);
            }
            Err(error) => {
                files.push(FileDone::failed(filename, error.message.clone()));
                fail(&mut errors, index, error)?;
            }
        }
    }
    if let (true, Some(first)) = (done.is_empty(), errors.first()) {
        return Err(ApiError::invalid("files", first.error.clone()));
    }
    let metrics = Some(Metrics::of(&done, begun));
    let collection = place.collection;
    Ok(IndexAnswer { indexed: done.len(), collection, files: Some(files), tags: Some(tags), errors, metrics })
}

async fn file(
    state: &State,
    ctx: &Context,
    place: &Place,
    upload: Upload,
    name: Option<&str>,
    tags: &[String],
) -> Result<Indexed, ApiError> {
    let document = state.rag().take(upload).await?;
    let name = name.map_or_else(|| document.name.clone(), str::to_owned);
    let document = NewDocument { name, tags: tags.to_vec(), ..document };
    Ok(state.rag().index(ctx, place, document, &|_, _| ()).await?)
}

/// What is wrong with one document is noted; what would be wrong with all of them ends the request.
fn fail(errors: &mut Vec<DocumentError>, index: usize, error: ApiError) -> Result<(), ApiError> {
    let of_document = error.status.is_client_error()
        && matches!(error.param.as_deref(), Some("file" | "id" | "name" | "tags" | "points"));
    if !of_document {
        return Err(error);
    }
    errors.push(DocumentError { index, error: error.message });
    Ok(())
}

impl DocumentBody {
    fn into_new(self) -> NewDocument {
        let mut attributes = self.metadata.or(self.meta).unwrap_or_default();
        let tags = match attributes.remove("tags") {
            Some(Value::Array(tags)) => {
                tags.into_iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect()
            }
            Some(Value::String(tags)) => tags.split(',').map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        NewDocument {
            id: self.id.map(Id::into_text),
            name: self.base_name.unwrap_or_default(),
            mime: None,
            content: Content::Text(self.text.or(self.content).unwrap_or_default()),
            tags,
            attributes,
        }
    }
}

impl FileDone {
    fn of(filename: String, indexed: &Indexed) -> FileDone {
        let entry = &indexed.entry;
        let left_out = entry.left_out.iter().map(|(name, why)| format!("{name}: {why}"));
        let left_out: Vec<String> = left_out.collect();
        FileDone {
            filename,
            mime: entry.mime.clone(),
            size_bytes: entry.bytes,
            chunks: entry.passages,
            chars: entry.chars,
            conv_ms: indexed.read_ms,
            id: Some(entry.id.clone()),
            outcome: Some(match indexed.outcome {
                Outcome::New => "new",
                Outcome::Changed => "changed",
                Outcome::Same => "same",
            }),
            tags: entry.tags.clone(),
            error: (!left_out.is_empty()).then(|| left_out.join("; ")),
        }
    }

    fn failed(filename: String, error: String) -> FileDone {
        FileDone {
            filename,
            mime: String::new(),
            size_bytes: 0,
            chunks: 0,
            chars: 0,
            conv_ms: 0,
            id: None,
            outcome: None,
            tags: Vec::new(),
            error: Some(error),
        }
    }
}

impl Metrics {
    fn of(done: &[Indexed], begun: Instant) -> Metrics {
        let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Metrics {
            elapsed_ms,
            embed_ms: done.iter().map(|indexed| indexed.embed_ms).sum(),
            pipeline_ms: elapsed_ms,
            total_chunks: done.iter().map(|indexed| indexed.entry.passages).sum(),
            files_count: done.len(),
        }
    }
}
