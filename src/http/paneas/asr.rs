//! `POST /api/v1/asr`.

use std::time::Instant;

use axum::extract::State as Extract;
use axum::{Extension, Json as Reply};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::dialect::DetailBody;
use crate::http::form::{Form, Values};
use crate::http::observe::ModelId;
use crate::http::{ApiError, State, cast, speech};
use crate::service::Context;
use crate::service::voices::spoken;
use crate::types::asr::{Chunking, Request, Segment, Task, Word};
use crate::types::speaker::Cast;

/// A recording to write down. Fields that are not listed are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `read` reads it")]
pub(crate) struct AsrForm {
    /// The recording.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// ISO 639-1 code; `auto` (the default) detects it.
    language: Option<String>,
    /// Id or alias of a speech model, or the size of a Whisper model (`whisper/medium`); the server's default if absent.
    model: Option<String>,
    /// Leave silence out; true if absent.
    vad_filter: Option<bool>,
    /// Probability of speech above which it begins; 0.5 if absent.
    #[schema(minimum = 0, maximum = 1)]
    vad_threshold: Option<f32>,
    /// Texts followed side by side, 1 to 10; 5 if absent.
    #[schema(minimum = 1, maximum = 10)]
    beam_size: Option<u32>,
    /// The time of each word.
    enable_alignment: Option<bool>,
    /// Who says it: segments are split where the speaker changes.
    enable_diarization: Option<bool>,
    /// With diarization: how many speakers there are; found if absent.
    #[schema(minimum = 1, maximum = 10)]
    num_speakers: Option<u32>,
    /// Only false.
    enable_llm_postprocess: Option<bool>,
    /// Taken and not read: models compute as the server is configured.
    compute_type: Option<String>,
    /// Only `paneas`.
    provider: Option<String>,
}

/// What was said.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AsrAnswer {
    request_id: String,
    duration_seconds: f64,
    processing_time_ms: u64,
    /// ISO 639-1 code.
    language: String,
    text: String,
    segments: Vec<AsrSegment>,
    metadata: AsrMetadata,
}

/// A stretch of speech; seconds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AsrSegment {
    start: f64,
    end: f64,
    text: String,
    /// With `enable_alignment`.
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Vec<AsrWord>>,
    /// With `enable_diarization`: a name, or `SPEAKER_00` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    speaker: Option<String>,
}

/// A word; seconds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AsrWord {
    start: f64,
    end: f64,
    word: String,
    /// 0 to 1.
    confidence: f32,
}

/// How it was computed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AsrMetadata {
    /// Id of the model.
    model: String,
    /// Always `auto`: as the server is configured.
    compute_type: &'static str,
    /// Always null: models are placed by the server.
    gpu_id: Option<u32>,
}

/// Transcribe a recording.
#[utoipa::path(
    post,
    path = "/api/v1/asr",
    operation_id = "paneasAsr",
    tag = "paneas",
    request_body(content = AsrForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript", body = AsrAnswer),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    form: Form,
) -> Result<(Extension<ModelId>, Reply<AsrAnswer>), ApiError> {
    let begun = Instant::now();
    let request_id = ctx.request_id.clone();
    let mut request = read(&form.values, speech::model(&state, &form.values)?)?;
    let words = request.words;
    let diarized = form.values.flag(&["enable_diarization"])?.unwrap_or(false);
    let speakers = speech::speakers(&form.values)?;
    let mut upload = form.upload()?;
    let cast = if diarized {
        request.words = true;
        Some(cast::cast(&state, &ctx, &mut upload, speakers, Vec::new()).await?)
    } else {
        None
    };
    let heard = state.backend().transcribe(ctx, request, upload).await?;
    let model = heard.model.clone();
    let transcript = heard.collect().await?;
    let answer = AsrAnswer {
        request_id,
        duration_seconds: transcript.duration,
        processing_time_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        text: transcript.text(),
        language: transcript.language.code,
        segments: transcript.segments.into_iter().flat_map(|s| segments(s, words, cast.as_ref())).collect(),
        metadata: AsrMetadata { model: model.clone(), compute_type: "auto", gpu_id: None },
    };
    Ok((Extension(ModelId(model)), Reply(answer)))
}

/// A segment, split by who says it where that is known.
fn segments(segment: Segment, words: bool, cast: Option<&Cast>) -> Vec<AsrSegment> {
    let Some(cast) = cast else {
        return vec![one(segment.start, segment.end, &segment.text, segment.words, words)];
    };
    let runs = spoken(&segment, &cast.turns).into_iter();
    let each = runs.map(|run| AsrSegment {
        speaker: Some(cast.name(run.speaker).to_owned()),
        ..one(run.start, run.end, &run.text, run.words, words)
    });
    each.collect()
}

fn one(start: f64, end: f64, text: &str, said: Vec<Word>, words: bool) -> AsrSegment {
    let word = |word: Word| AsrWord {
        start: word.start,
        end: word.end,
        word: word.text.trim().to_owned(),
        confidence: word.probability,
    };
    let words = words.then(|| said.into_iter().map(word).collect());
    AsrSegment { start, end, text: text.trim().to_owned(), words, speaker: None }
}

/// The request for `model`.
fn read(values: &Values, model: String) -> Result<Request, ApiError> {
    let rewriting = "rewriting by a chat model is not supported yet";
    speech::refuse_flags(values, &[(&["enable_llm_postprocess"], rewriting)])?;
    if let Some(field) = values.last(&["provider"]).filter(|field| field.text != "paneas") {
        return Err(field.wrong("`paneas`: recordings do not leave this server"));
    }
    let threshold = values.number(&["vad_threshold"], (0.0, 1.0))?;
    let mut request = Request::new(model, Task::Transcribe);
    request.language = speech::language(values)?;
    request.words = values.flag(&["enable_alignment"])?.unwrap_or(false);
    request.chunking = match values.flag(&["vad_filter"])? {
        Some(false) => Chunking::Sequential,
        _ => speech::filtered(threshold),
    };
    if let Some(beams) = values.whole(&["beam_size"], (1, 10))? {
        request.decoding.beam_size = beams as usize;
    }
    Ok(request)
}
