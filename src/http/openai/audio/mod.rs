//! `POST /v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/audio/align`.

pub(in crate::http) mod align;
mod decoding;
mod form;
mod stream;
#[cfg(test)]
mod tests;

use axum::Extension;
use axum::extract::State as Extract;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::described::JsonTranscript;
use crate::http::form::Form;
use crate::http::observe::{Deadline, ModelId};
use crate::http::{ApiError, State, cast, sse};
use crate::service::transcript::Format;
use crate::service::{Context, transcript};
use crate::types::asr::Task;
use crate::types::speaker::Cast;
use form::{Fields, TranscriptionForm};
use stream::TranscriptEvent;

async fn answer(
    state: State,
    ctx: Context,
    deadline: Deadline,
    form: Form,
    fields: Fields,
) -> Result<Response, ApiError> {
    let Fields { request, shape, stream, speakers } = fields;
    let request_id = ctx.request_id.clone();
    let known = cast::known(&state, &form.values).await?;
    let mut upload = form.upload()?;
    let cast = match shape.format {
        Format::Diarized => cast::cast(&state, &ctx, &mut upload, speakers, known).await?,
        _ => Cast::default(),
    };
    let transcription = state.backend().transcribe(ctx, request, upload).await?;
    let model = ModelId(transcription.model.clone());
    let mut response = if stream {
        let limit = state.settings().request_timeout;
        sse::respond(&state, stream::events(transcription, (shape, cast), (deadline, limit), request_id))
    } else {
        let text = transcript::write(&transcription.collect().await?, &shape, &cast)?;
        ([(CONTENT_TYPE, shape.format.media_type())], text).into_response()
    };
    response.extensions_mut().insert(model);
    Ok(response)
}

/// Transcribe a recording in its own language.
#[utoipa::path(
    post,
    path = "/v1/audio/transcriptions",
    operation_id = "createTranscription",
    tag = "audio",
    request_body(content = TranscriptionForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript in the form asked for; with `stream` an event stream that ends with `transcript.text.done`",
            content((JsonTranscript = "application/json"), (String = "text/plain"), (String = "text/vtt"), (TranscriptEvent = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn transcribe(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Extension(deadline): Extension<Deadline>,
    form: Form,
) -> Result<Response, ApiError> {
    let fields = Fields::read(&form.values, Task::Transcribe, &state.settings().default_asr)?;
    answer(state, ctx, deadline, form, fields).await
}

/// Transcribe a recording into English.
#[utoipa::path(
    post,
    path = "/v1/audio/translations",
    operation_id = "createTranslation",
    tag = "audio",
    request_body(content = TranscriptionForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript in English in the form asked for; with `stream` an event stream that ends with `transcript.text.done`",
            content((JsonTranscript = "application/json"), (String = "text/plain"), (String = "text/vtt"), (TranscriptEvent = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn translate(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Extension(deadline): Extension<Deadline>,
    form: Form,
) -> Result<Response, ApiError> {
    let fields = Fields::read(&form.values, Task::Translate, &state.settings().default_asr)?;
    answer(state, ctx, deadline, form, fields).await
}
