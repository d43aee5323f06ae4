//! Multipart forms with files: these go to disk as they arrive, text fields stay small.

mod values;

use std::io::{ErrorKind, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures::Stream;
use tokio::io::AsyncWriteExt;

use crate::http::body::{self, BodyError};
use crate::http::{ApiError, State};
use crate::obs::{self, Rejection};
use crate::service::Upload;

pub(crate) use values::{Field, Values};

/// More parts than any client sends beside its files.
const MAX_PARTS: usize = 64;
/// Longest text field: the transcript of a recording of hours. Others have shorter limits of their own.
const MAX_TEXT: usize = 256 << 10;
/// Recordings of ten seconds that are sent as text, in base64.
const MAX_RECORDING: usize = 2 << 20;
const RECORDINGS: [&str; 2] = ["known_speaker_references[]", "known_speaker_references"];
/// Longest file name kept.
const MAX_NAME: usize = 255;
/// Bytes that may arrive without the parser giving anything: part headers and preambles are far shorter.
const MAX_LOOKAHEAD: usize = 256 << 10;
/// Chunks are handed to the parser in pieces of this size.
const PIECE: usize = 64 << 10;

/// A form, read completely.
#[derive(Debug)]
pub(crate) struct Form {
    /// At most as many as were asked for.
    pub uploads: Vec<Upload>,
    /// The other fields.
    pub values: Values,
}

/// The files that a form may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files<'a> {
    /// Names of the parts that they are in.
    pub names: &'a [&'a str],
    pub most: usize,
}

impl<'a> Files<'a> {
    /// One, in a part of one of these names.
    pub const fn one(names: &'a [&'a str]) -> Files<'a> {
        Files { names, most: 1 }
    }
}

/// Whether a request's body is a form.
pub(crate) fn is_form(request: &Request) -> bool {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.trim_start().to_ascii_lowercase().starts_with("multipart/")
}

impl Form {
    /// Reads a form with these files.
    pub async fn read(request: Request, state: &State, files: Files<'_>) -> Result<Form, ApiError> {
        let (parts, body) = request.into_parts();
        let boundary = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| multer::parse_boundary(value.to_str().ok()?).ok())
            .ok_or_else(|| {
                ApiError::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "unsupported_media_type",
                    "send the file as `Content-Type: multipart/form-data` with a boundary",
                )
            })?;
        let Ok(_permit) = state.0.uploads.clone().try_acquire_owned() else {
            obs::rejected(Rejection::TooManyUploads);
            return Err(body::busy("the server takes in too many uploads at the moment"));
        };
        let settings = state.settings();
        let chunks = body::chunks(&parts.headers, body, settings.audio_body_bytes, settings.stall_timeout);
        let unseen = Arc::new(AtomicUsize::new(0));
        let multipart = multer::Multipart::new(paced(chunks, Arc::clone(&unseen)), boundary);
        read(state, multipart, files, &unseen).await
    }

    /// The one file.
    pub fn upload(mut self) -> Result<Upload, ApiError> {
        self.uploads.pop().ok_or_else(|| ApiError::invalid("file", "`file` is missing: attach the file"))
    }
}

impl FromRequest<State> for Form {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        Form::read(request, state, Files::one(&["file"])).await
    }
}

/// Feeds the parser piece by piece. It reads whatever is ready before it gives anything back, so each piece
/// is followed by a pause: memory stays at one piece a part, and at [`MAX_LOOKAHEAD`] where no part begins.
fn paced(
    chunks: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    unseen: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    let mut chunks = Box::pin(chunks);
    let mut rest = Bytes::new();
    let mut pause = false;
    futures::stream::poll_fn(move |cx| {
        if std::mem::take(&mut pause) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if rest.is_empty() {
            match std::task::ready!(chunks.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => rest = bytes,
                other => return Poll::Ready(other),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        if unseen.fetch_add(piece.len(), Ordering::Relaxed) > MAX_LOOKAHEAD {
            return Poll::Ready(Some(Err(BodyError::Broken)));
        }
        pause = true;
        Poll::Ready(Some(Ok(piece)))
    })
}

async fn read(
    state: &State,
    mut multipart: multer::Multipart<'_>,
    files: Files<'_>,
    unseen: &AtomicUsize,
) -> Result<Form, ApiError> {
    let (mut uploads, mut fields) = (Vec::new(), Vec::new());
    let mut parts = 0;
    while let Some(mut field) = multipart.next_field().await.map_err(explain)? {
        unseen.store(0, Ordering::Relaxed);
        parts += 1;
        let most = MAX_PARTS + files.most - 1;
        if parts > most {
            return Err(ApiError::invalid("file", format!("the form has more than {most} parts")));
        }
        let name = field.name().unwrap_or_default().to_owned();
        if files.names.contains(&name.as_str()) {
            if uploads.len() == files.most {
                let message = match files.most {
                    1 => format!("`{name}` is a second file; send one"),
                    most => format!("the form has more than {most} files; send several forms"),
                };
                return Err(ApiError::invalid(name, message));
            }
            let (upload, size) = spool(state, &mut field, unseen).await?;
            // Of several files each has an error of its own.
            if size == 0 && files.most == 1 {
                return Err(ApiError::invalid("file", "the file is empty"));
            }
            uploads.push(upload);
            continue;
        }
        let is_file = field.file_name().is_some();
        let most = if RECORDINGS.contains(&name.as_str()) { MAX_RECORDING } else { MAX_TEXT };
        let mut text = Vec::new();
        while let Some(chunk) = field.chunk().await.map_err(explain)? {
            unseen.store(0, Ordering::Relaxed);
            // Files under other names are read over; an oversized text field is an error.
            if !is_file {
                text.extend_from_slice(&chunk);
            }
            if text.len() > most {
                let text = format!("`{}` is longer than {most} bytes", clip(&name));
                return Err(ApiError::invalid(clip(&name), text));
            }
        }
        if !is_file {
            let text = String::from_utf8(text).map_err(|_| {
                ApiError::invalid(clip(&name), format!("`{}` is not text in UTF-8", clip(&name)))
            })?;
            fields.push((name, text));
        }
    }
    Ok(Form { uploads, values: Values::new(fields) })
}

fn clip(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Writes the part to a file that has no name, so that nothing is left behind whatever happens; its bytes.
async fn spool(
    state: &State,
    field: &mut multer::Field<'_>,
    unseen: &AtomicUsize,
) -> Result<(Upload, usize), ApiError> {
    let name = field.file_name().map(|name| name.chars().take(MAX_NAME).collect());
    let mime = field.content_type().map(|mime| mime.essence_str().chars().take(MAX_NAME).collect());
    let folder = state.settings().spool_dir.clone();
    let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder))
        .await
        .map_err(|e| ApiError::internal(format!("spool: {e}")))?
        .map_err(disk)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut size = 0usize;
    while let Some(chunk) = field.chunk().await.map_err(explain)? {
        unseen.store(0, Ordering::Relaxed);
        size = size.saturating_add(chunk.len());
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    let mut file = file.into_std().await;
    file.seek(SeekFrom::Start(0)).map_err(disk)?;
    Ok((Upload { file, name, mime }, size))
}

fn disk(error: std::io::Error) -> ApiError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            let mut full = ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk_full",
                "the server's disk is full and cannot take the upload",
            );
            full.detail = Some(format!("spool: {error}"));
            full
        }
        _ => ApiError::internal(format!("spool: {error}")),
    }
}

fn explain(error: multer::Error) -> ApiError {
    if let multer::Error::StreamReadFailed(inner) = &error
        && let Some(cause) = inner.downcast_ref::<BodyError>()
    {
        return cause.clone().into();
    }
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_form", "the multipart form is broken or ends early")
}
