//! `POST /diarize`: who speaks when, without names.

use axum::extract::{Request, State as Extract};
use axum::{Extension, Json as Reply};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::jobs::PutOff;
use super::transcribe::{Debug, FILE, millis};
use crate::http::dialect::DetailBody;
use crate::http::form::{Form, Values};
use crate::http::observe::ModelId;
use crate::http::{ApiError, State, speech};
use crate::service::{Context, Upload};
use crate::types::speaker::{Diarization, Speakers};

/// What jobs of this are called.
pub(in crate::http) const JOB: &str = "diarize";

/// A recording in which several people speak.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `speech::speakers` reads it")]
#[schema(as = PmxDiarizeForm)]
pub(crate) struct DiarizeForm {
    /// The recording; `audio` and `input` are other names for it.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// How many speak at most, 1 to 64; as many as are heard if absent.
    #[schema(minimum = 1, maximum = 64)]
    max_speakers: Option<u32>,
    /// How many speak at least.
    #[schema(minimum = 1, maximum = 64)]
    min_speakers: Option<u32>,
    /// How many speak, where that is known.
    #[schema(minimum = 1, maximum = 64)]
    num_speakers: Option<u32>,
}

/// Who speaks when.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxDiarized)]
pub(crate) struct DiarizeAnswer {
    /// In order of their start; two speakers may speak at once.
    segments: Vec<Turn>,
    info: Info,
    speech_ratios: Vec<Ratio>,
    debug: Debug,
}

/// A stretch in which one speaker speaks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxTurn)]
pub(crate) struct Turn {
    start_ms: u64,
    end_ms: u64,
    /// `S1` is heard first, then `S2` and so on.
    spk: String,
}

/// How it was found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxDiarizeInfo)]
pub(crate) struct Info {
    /// Always `stentor`.
    backend: &'static str,
    /// Id of the model that embeds voices.
    model: String,
    duration_ms: u64,
    /// Always 0: turns end where they are heard to end.
    collar_s: f32,
    /// Always 0: short turns are kept.
    min_speech_s: f32,
}

/// How much of all speech is a speaker's.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxSpeechRatio)]
pub(crate) struct Ratio {
    spk: String,
    /// 0 to 1.
    ratio: f64,
}

/// Say who speaks when.
#[utoipa::path(
    post,
    path = "/diarize",
    operation_id = "pmxDiarize",
    tag = "pmx",
    request_body(content = DiarizeForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The turns", body = DiarizeAnswer),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    request: Request,
) -> Result<(Extension<ModelId>, Reply<DiarizeAnswer>), ApiError> {
    let form = Form::read(request, &state, FILE).await?;
    let speakers = speech::speakers(&form.values)?;
    let answer = answer(&state, ctx, speakers, form.upload()?).await?;
    Ok((Extension(ModelId(answer.info.model.clone())), Reply(answer)))
}

/// Whether a request that is put off could be done.
pub(super) fn check(_: &State, values: &Values) -> Result<(), ApiError> {
    speech::speakers(values).map(drop)
}

/// Does a request that was put off.
pub(in crate::http) async fn run(state: &State, ctx: Context, put_off: &PutOff) -> Result<Value, ApiError> {
    let speakers = speech::speakers(&put_off.values())?;
    let answer = answer(state, ctx, speakers, put_off.upload(state).await?).await?;
    serde_json::to_value(answer).map_err(|e| ApiError::internal(e.to_string()))
}

async fn answer(
    state: &State,
    ctx: Context,
    speakers: Speakers,
    upload: Upload,
) -> Result<DiarizeAnswer, ApiError> {
    let debug = Debug::new(upload.name.clone());
    let model = state.backend().embedder(ctx.clone()).await?.model;
    let Diarization { duration, turns, voices, .. } = state.backend().diarize(ctx, upload, speakers).await?;
    let spk = |speaker: usize| format!("S{}", speaker + 1);
    let all = voices.iter().map(|voice| voice.seconds).sum::<f64>().max(f64::MIN_POSITIVE);
    let ratio = |(at, seconds): (usize, f64)| Ratio { spk: spk(at), ratio: seconds / all };
    Ok(DiarizeAnswer {
        segments: turns
            .iter()
            .map(|turn| Turn {
                start_ms: millis(turn.start),
                end_ms: millis(turn.end),
                spk: spk(turn.speaker),
            })
            .collect(),
        speech_ratios: voices.iter().map(|voice| voice.seconds).enumerate().map(ratio).collect(),
        info: Info {
            backend: "stentor",
            model,
            duration_ms: millis(duration),
            collar_s: 0.0,
            min_speech_s: 0.0,
        },
        debug,
    })
}
