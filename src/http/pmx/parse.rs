//! `POST /parse/document`: the text of a file.

use std::time::Instant;

use axum::Json as Reply;
use axum::extract::{Request, State as Extract};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::jobs::PutOff;
use crate::http::dialect::DetailBody;
use crate::http::form::{Files, Form, Values};
use crate::http::{ApiError, State};
use crate::service::Upload;
use crate::types::rag::{self, NewDocument};

pub(super) const FILE: Files<'static> = Files::one(&["file"]);
/// What jobs of this are called.
pub(in crate::http) const JOB: &str = "parse";
const MAX_MIME: usize = 256;

/// A file to read.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `parse` reads it")]
pub(crate) struct ParseForm {
    /// One of txt, md, html, pdf, docx, odt, xlsx, csv and eml.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// What it is, where its content and name do not tell.
    mime: Option<String>,
}

/// What a file says.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxParsed)]
pub(crate) struct ParseAnswer {
    text: String,
    sections: Vec<Section>,
    meta: Meta,
    debug: Debug,
}

/// What stands under a heading.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxSection)]
pub(crate) struct Section {
    /// Null before the first heading.
    title: Option<String>,
    /// Of the heading, 1 (the highest) to 6; 0 before the first.
    level: u8,
    /// Where it begins, in a format that has pages.
    page: Option<u32>,
    text: String,
}

/// What a file is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxParsedMeta)]
pub(crate) struct Meta {
    /// As the file names itself.
    title: Option<String>,
    /// How many, in a format that has pages.
    pages: Option<usize>,
    filename: String,
    mime: &'static str,
    ext: &'static str,
    /// Characters of the text.
    chars: usize,
}

/// How it was read.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxParsedDebug)]
pub(crate) struct Debug {
    elapsed_ms: u64,
    /// Names of the attachments of a mail.
    attachments: Vec<String>,
    /// Why attachments could not be read.
    errors: Vec<String>,
}

/// Read a document.
#[utoipa::path(
    post,
    path = "/parse/document",
    operation_id = "pmxParse",
    tag = "pmx",
    request_body(content = ParseForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The text", body = ParseAnswer),
        (status = "4XX", description = "The file cannot be read, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    request: Request,
) -> Result<Reply<ParseAnswer>, ApiError> {
    let form = Form::read(request, &state, FILE).await?;
    let mime = form.values.text(&["mime"], MAX_MIME)?;
    parse(&state, form.upload()?, mime).await.map(Reply)
}

/// Whether a request that is put off could be done.
pub(super) fn check(_: &State, values: &Values) -> Result<(), ApiError> {
    values.text(&["mime"], MAX_MIME).map(drop)
}

/// Does a request that was put off.
pub(in crate::http) async fn run(state: &State, put_off: &PutOff) -> Result<Value, ApiError> {
    let mime = put_off.values().text(&["mime"], MAX_MIME)?;
    let answer = parse(state, put_off.upload(state).await?, mime).await?;
    serde_json::to_value(answer).map_err(|e| ApiError::internal(e.to_string()))
}

/// What a document says, as its callers read it.
async fn parse(state: &State, upload: Upload, mime: Option<String>) -> Result<ParseAnswer, ApiError> {
    let begun = Instant::now();
    let new = state.rag().take(upload).await?;
    let new = NewDocument { mime: mime.or(new.mime.clone()), ..new };
    let filename = new.name.clone();
    let parsed = state.rag().parse(new).await?;
    let left_out = parsed.left_out.into_iter();
    Ok(ParseAnswer {
        meta: Meta {
            title: parsed.title,
            pages: parsed.pages,
            filename,
            mime: parsed.mime,
            ext: parsed.extension,
            chars: parsed.text.chars().count(),
        },
        sections: parsed.sections.into_iter().map(Section::from).collect(),
        debug: Debug {
            elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            attachments: parsed.attachments,
            errors: left_out.map(|(name, why)| format!("{name}: {why}")).collect(),
        },
        text: parsed.text,
    })
}

impl From<rag::Section> for Section {
    fn from(rag::Section { title, level, page, text }: rag::Section) -> Section {
        Section { title, level, page, text }
    }
}
