//! `POST /api/v1/diar`.

use axum::extract::State as Extract;
use axum::{Extension, Json as Reply};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::dialect::DetailBody;
use crate::http::form::Form;
use crate::http::{ApiError, State, speech};
use crate::service::Context;
use crate::types::speaker::{Cast, Turn};

/// A recording in which several people speak.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `speech::speakers` reads it")]
pub(crate) struct DiarForm {
    /// The recording.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// How many speak, where that is known.
    #[schema(minimum = 1, maximum = 64)]
    num_speakers: Option<u32>,
}

/// Who speaks when.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DiarAnswer {
    /// In order of their start; two speakers may speak at once.
    segments: Vec<DiarSegment>,
}

/// A stretch in which one speaker speaks; seconds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DiarSegment {
    start: f64,
    end: f64,
    /// `SPEAKER_00` is heard first, then `SPEAKER_01` and so on.
    speaker: String,
}

/// Say who speaks when.
#[utoipa::path(
    post,
    path = "/api/v1/diar",
    operation_id = "paneasDiar",
    tag = "paneas",
    request_body(content = DiarForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The turns", body = DiarAnswer),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    form: Form,
) -> Result<Reply<DiarAnswer>, ApiError> {
    let speakers = speech::speakers(&form.values)?;
    let found = state.backend().diarize(ctx, form.upload()?, speakers).await?;
    let segment =
        |turn: &Turn| DiarSegment { start: turn.start, end: turn.end, speaker: Cast::nameless(turn.speaker) };
    Ok(Reply(DiarAnswer { segments: found.turns.iter().map(segment).collect() }))
}
