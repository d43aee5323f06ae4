//! `POST /v1/audio/align`: when each word of a known transcript is said. OpenAI has no such call; forms and answers are
//! those of its transcriptions.

use axum::Extension;
use axum::extract::State as Extract;
use axum::response::Response;
use utoipa::ToSchema;

use super::form::Fields;
use super::stream::TranscriptEvent;
use crate::http::form::{Form, Values};
use crate::http::observe::Deadline;
use crate::http::openai::described::{JsonTranscript, TranscriptFormat};
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::service::transcript::Format;
use crate::types::asr::{Chunking, Task};

/// Longest transcript: some five hours of speech.
const MAX_TRANSCRIPT: usize = 256 << 10;

/// A recording and what is said in it. What `POST /v1/audio/transcriptions` takes besides may be given too, but for
/// `chunking_strategy`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `read` reads it")]
pub(crate) struct AlignForm {
    /// The recording: flac, mp3, mp4, mpeg, mpga, m4a, ogg, wav or webm.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// What is said in it, 256 KiB at most. `transcript` is taken too.
    text: String,
    /// Id or alias of a speech model; may be left out where the server has a default.
    model: Option<String>,
    /// ISO 639-1 code; detected if absent or `auto`.
    language: Option<String>,
    /// `verbose_json` with words and segments (the default), `json`, `text`, `srt` or `vtt`.
    response_format: Option<TranscriptFormat>,
}

/// Find when each word of a transcript is said.
#[utoipa::path(
    post,
    path = "/v1/audio/align",
    operation_id = "createAlignment",
    tag = "audio",
    request_body(content = AlignForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript with times, as a transcription has them. Words that were not heard have no length and a probability of 0",
            content((JsonTranscript = "application/json"), (String = "text/plain"), (String = "text/vtt"), (TranscriptEvent = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn align(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Extension(deadline): Extension<Deadline>,
    form: Form,
) -> Result<Response, ApiError> {
    let fields = read(&form.values, &state.settings().default_asr)?;
    super::answer(state, ctx, deadline, form, fields).await
}

fn read(values: &Values, default: &Option<String>) -> Result<Fields, ApiError> {
    let text = values.text(&["text", "transcript"], MAX_TRANSCRIPT)?;
    let Some(text) = text.filter(|text| text.chars().any(char::is_alphanumeric)) else {
        return Err(ApiError::invalid("text", "`text` is missing: it holds what is said in the recording"));
    };
    let mut fields = Fields::read(values, Task::Transcribe, default)?;
    if let Chunking::Chunks(_) = fields.request.chunking {
        let message = "a known transcript is followed from its beginning, not in chunks side by side";
        return Err(ApiError::unsupported("chunking_strategy", message));
    }
    if values.last(&["response_format"]).is_none() {
        (fields.shape.format, fields.shape.words) = (Format::Verbose, true);
    }
    fields.request.transcript = Some(text);
    fields.request.words = true;
    // Would leave out what the transcript says.
    fields.request.decoding.hallucination_silence = None;
    Ok(fields)
}
