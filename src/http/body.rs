//! Request bodies: read within limits on size, time and memory, then parsed into typed fields.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use futures::{Stream, StreamExt};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::{ApiError, State};
use crate::obs::{self, Rejection};

/// A body that arrives slower than this, after the first stall timeout, is given up: otherwise a byte now
/// and then would hold a connection for as long as a request may last.
const MIN_BYTES_PER_SECOND: u64 = 1024;
/// How much of an oversized body is read and thrown away, and for how long, so that the client has read the
/// answer before the connection is closed under what it still sends.
const DISCARD_BYTES: usize = 16 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// A larger body is parsed on another thread, so that it does not hold up its neighbours.
const PARSE_INLINE: usize = 64 << 10;
/// Longest text that an error repeats; the rest of a parser's message may be the client's own input.
const MAX_MESSAGE: usize = 300;

/// Why a body could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body is larger than {limit} bytes, which is the limit")]
    TooLarge { limit: u64 },
    #[error("the body arrived too slowly")]
    TooSlow,
    #[error("the body ended early or is broken")]
    Broken,
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> ApiError {
        let (status, code) = match error {
            BodyError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            BodyError::TooSlow => (StatusCode::REQUEST_TIMEOUT, "body_too_slow"),
            BodyError::Broken => (StatusCode::BAD_REQUEST, "invalid_body"),
        };
        ApiError::new(status, code, error.to_string())
    }
}

/// The chunks of a body, within `limit` bytes and without silences longer than `stall`.
pub(super) fn chunks(
    headers: &HeaderMap,
    body: Body,
    limit: u64,
    stall: Duration,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    let declared = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let waits = headers.contains_key(EXPECT);
    let start = Instant::now();
    let state = Some((body, 0u64));
    futures::stream::unfold(state, move |state| async move {
        let (mut body, mut seen) = state?;
        if declared.is_some_and(|declared| declared > limit) {
            if !waits {
                discard(body).await;
            }
            return Some((Err(BodyError::TooLarge { limit }), None));
        }
        loop {
            let frame = match timeout(stall, body.frame()).await {
                Err(_) => return Some((Err(BodyError::TooSlow), None)),
                Ok(None) => return None,
                Ok(Some(Err(_))) => return Some((Err(BodyError::Broken), None)),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            seen = seen.saturating_add(data.len() as u64);
            if seen > limit {
                discard(body).await;
                return Some((Err(BodyError::TooLarge { limit }), None));
            }
            if start.elapsed() > stall + Duration::from_secs(seen / MIN_BYTES_PER_SECOND) {
                return Some((Err(BodyError::TooSlow), None));
            }
            return Some((Ok(data), Some((body, seen))));
        }
    })
}

async fn discard(mut body: Body) {
    let read = async {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(DISCARD_TIME, read).await;
}

/// A JSON body.
pub(super) struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<State> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if !is_json(&parts.headers) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "the body must be JSON, sent as `Content-Type: application/json`",
            ));
        }
        let settings = state.settings();
        let stream = chunks(&parts.headers, body, settings.json_body_bytes, settings.stall_timeout);
        let (bytes, permit) = collect(state, stream).await?;
        let parsed = if bytes.len() <= PARSE_INLINE {
            parse(&bytes)
        } else {
            tokio::task::spawn_blocking(move || parse(&bytes))
                .await
                .map_err(|e| ApiError::internal(format!("parser: {e}")))?
        };
        drop(permit);
        parsed.map(Json)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}

/// Gathers a body. The permit stands for its memory and for what parsing it takes.
async fn collect(
    state: &State,
    stream: impl Stream<Item = Result<Bytes, BodyError>>,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), ApiError> {
    let mut stream = std::pin::pin!(stream);
    let mut bytes = Vec::new();
    let mut held: Option<OwnedSemaphorePermit> = None;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        let needed = (bytes.len() + chunk.len()).div_ceil(1024);
        let missing = needed.saturating_sub(held.as_ref().map_or(0, |permit| permit.num_permits()));
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        match state.0.body_memory.clone().try_acquire_many_owned(missing) {
            Ok(more) => match &mut held {
                Some(permit) => permit.merge(more),
                None => held = Some(more),
            },
            Err(_) => {
                obs::rejected(Rejection::BodyMemory);
                return Err(busy("the server reads too many large requests at the moment"));
            }
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, held))
}

/// The answer where something bounded is used up.
pub(super) fn busy(message: &str) -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
        .retry_after(Duration::from_secs(1))
}

/// Parses, so that a wrong type names its field and a syntax error its position.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        explain(error.into_inner(), path)
    })?;
    reader.end().map_err(|error| explain(error, ".".into()))?;
    Ok(value)
}

fn explain(error: serde_json::Error, path: String) -> ApiError {
    let text = shorten(&error.to_string());
    if !error.is_data() {
        return ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_json",
            format!("the body is not JSON in UTF-8: {text}"),
        );
    }
    match path.as_str() {
        "." => ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", text),
        _ => {
            let path = shorten(&path);
            ApiError::invalid(path.clone(), format!("`{path}`: {text}"))
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        None => text.to_owned(),
        Some((at, _)) => {
            // The position is at the end of a parser's message.
            let tail = text.rfind(" at line ").map_or("", |from| &text[from..]);
            format!("{}...{tail}", &text[..at])
        }
    }
}
