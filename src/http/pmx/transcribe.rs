//! `POST /transcribe`, for both generations of clients: the fields that either sends, the keys that either reads.

use axum::extract::{Request, State as Extract};
use axum::{Extension, Json as Reply};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::jobs::PutOff;
use crate::http::dialect::DetailBody;
use crate::http::form::{Files, Form, Values};
use crate::http::observe::ModelId;
use crate::http::speech::{self, MAX_PROMPT};
use crate::http::{ApiError, State, cast};
use crate::service::speakers as book;
use crate::service::voices::spoken;
use crate::service::{Context, Upload};
use crate::types::asr::{self, Chunking, Task, Transcript};
use crate::types::speaker::Speakers;

/// Names of the part that is the recording.
pub(super) const FILE: Files<'static> = Files::one(&["file", "audio", "input"]);
/// What jobs of this are called.
pub(in crate::http) const JOB: &str = "transcribe";
/// Of a chunk that PMX cuts, in seconds.
const CHUNK_LENGTH: u64 = 120;
const NO_SPEECH: f32 = 0.8;

/// A recording to write down. Fields that are not listed are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `Asked` reads it")]
pub(crate) struct TranscribeForm {
    /// The recording; `audio` and `input` are other names for it.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// ISO 639-1 code; detected if absent or `auto`.
    language: Option<String>,
    /// Id or alias of a speech model, or the size of a Whisper model; the server's default if absent.
    model: Option<String>,
    /// Leave silence out; true if absent.
    vad_filter: Option<bool>,
    /// Taken and repeated: recordings of any length are heard without being cut.
    #[schema(minimum = 1, maximum = 3600)]
    chunk_length: Option<u32>,
    /// Texts followed side by side, 1 to 16; 5 if absent.
    #[schema(minimum = 1, maximum = 16)]
    beam_size: Option<u32>,
    /// Texts sampled above temperature 0, 1 to 16; 1 if absent.
    #[schema(minimum = 1, maximum = 16)]
    best_of: Option<u32>,
    /// 0 (the default) is greedy, with higher ones tried where the text is not believed.
    #[schema(minimum = 0, maximum = 1)]
    temperature: Option<f32>,
    /// Text that the transcript is to read as if it followed.
    initial_prompt: Option<String>,
    /// Probability of silence above which a doubtful text is none; 0.8 if absent.
    #[schema(minimum = 0, maximum = 1)]
    no_speech_threshold: Option<f32>,
    /// Mean log-probability below which a text is tried again; -1 if absent.
    log_prob_threshold: Option<f32>,
    /// Who says it, as `diarize_flag`: segments are split where the speaker changes.
    diarize: Option<bool>,
    /// How many speakers there are at most, with `diarize`.
    #[schema(minimum = 1, maximum = 100)]
    max_speakers: Option<u32>,
    /// Whose voice is heard most, as `speaker_identify`.
    identify: Option<bool>,
    /// Whether `summary` is an object, all of it null so far, as `summarize`.
    summary: Option<bool>,
}

/// What was said.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TranscribeAnswer {
    text: String,
    segments: Vec<TimedText>,
    info: Info,
    /// Null unless it was asked for.
    summary: Option<Summary>,
    /// Null unless it was asked for.
    identify: Option<Identity>,
    debug: Debug,
}

/// A stretch of speech.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TimedText {
    start_ms: u64,
    end_ms: u64,
    text: String,
    /// With `diarize`: a name, or `SPEAKER_00` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    speaker: Option<String>,
}

/// How it was transcribed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Info {
    /// ISO 639-1 code.
    language: String,
    duration_ms: u64,
    /// Id of the model.
    model: String,
    /// Always `auto`: models are placed by the server.
    device: &'static str,
    /// Always `auto`: as the server is configured.
    compute_type: &'static str,
    vad_filter: bool,
    chunk_length_s: u64,
    beam_size: usize,
    best_of: usize,
    temperature: f32,
    used_initial_prompt: bool,
    no_speech_threshold: Option<f32>,
    log_prob_threshold: Option<f32>,
}

/// What a chat model would make of it; none does yet.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Summary {
    tldr: Option<String>,
    entscheidungen: Option<Vec<String>>,
    aktionen: Option<Vec<String>>,
    offene_fragen: Option<Vec<String>>,
    risiken: Option<Vec<String>>,
    zeitachse: Option<Vec<String>>,
    redeanteile: Option<Vec<String>>,
}

/// Who spoke.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Identity {
    /// `unknown` where nobody enrolled is alike enough.
    name: String,
    /// From the voice of whoever is most like it: one less the score. 1 where nobody is enrolled.
    distance: f32,
}

/// Where it came from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Debug {
    input_filename: Option<String>,
    /// Always null: uploads have no place of their own.
    workdir: Option<String>,
}

/// Transcribe a recording.
#[utoipa::path(
    post,
    path = "/transcribe",
    operation_id = "pmxTranscribe",
    tag = "pmx",
    request_body(content = TranscribeForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript", body = TranscribeAnswer),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    request: Request,
) -> Result<(Extension<ModelId>, Reply<TranscribeAnswer>), ApiError> {
    let form = Form::read(request, &state, FILE).await?;
    let asked = Asked::read(&form.values, speech::model(&state, &form.values)?)?;
    let answer = answer(&state, ctx, asked, form.upload()?).await?;
    Ok((Extension(ModelId(answer.info.model.clone())), Reply(answer)))
}

/// Whether a request that is put off could be done.
pub(super) fn check(state: &State, values: &Values) -> Result<(), ApiError> {
    Asked::read(values, speech::model(state, values)?).map(drop)
}

/// Does a request that was put off.
pub(in crate::http) async fn run(state: &State, ctx: Context, put_off: &PutOff) -> Result<Value, ApiError> {
    let values = put_off.values();
    let asked = Asked::read(&values, speech::model(state, &values)?)?;
    let answer = answer(state, ctx, asked, put_off.upload(state).await?).await?;
    serde_json::to_value(answer).map_err(|e| ApiError::internal(e.to_string()))
}

async fn answer(
    state: &State,
    ctx: Context,
    asked: Asked,
    mut upload: Upload,
) -> Result<TranscribeAnswer, ApiError> {
    let input_filename = upload.name.clone();
    let cast = match asked.speakers {
        Some(speakers) => Some(cast::cast(state, &ctx, &mut upload, speakers, Vec::new()).await?),
        None => None,
    };
    let identify = match asked.identify {
        true => Some(identity(state, &ctx, &mut upload).await?),
        false => None,
    };
    let heard = state.backend().transcribe(ctx, asked.request.clone(), upload).await?;
    let model = heard.model.clone();
    let transcript = heard.collect().await?;
    let timed = |start: f64, end: f64, text: &str, speaker: Option<String>| TimedText {
        start_ms: millis(start),
        end_ms: millis(end),
        text: text.trim().to_owned(),
        speaker,
    };
    let segment = |segment: &asr::Segment| match &cast {
        Some(cast) => spoken(segment, &cast.turns)
            .iter()
            .map(|run| timed(run.start, run.end, &run.text, Some(cast.name(run.speaker).to_owned())))
            .collect(),
        None => vec![timed(segment.start, segment.end, &segment.text, None)],
    };
    Ok(TranscribeAnswer {
        text: transcript.text(),
        segments: transcript.segments.iter().flat_map(segment).collect(),
        summary: asked.summary.then(Summary::default),
        identify,
        debug: Debug::new(input_filename),
        info: asked.info(transcript, model),
    })
}

impl Debug {
    pub(super) fn new(input_filename: Option<String>) -> Debug {
        Debug { input_filename, workdir: None }
    }
}

/// Whose voice is heard most in a recording, which is at its beginning again then.
async fn identity(state: &State, ctx: &Context, upload: &mut Upload) -> Result<Identity, ApiError> {
    let asked = book::Asked { top_k: 1, threshold: None };
    let again = upload.again()?;
    let recognised = state.book().recognise(state.backend(), ctx, again, Vec::new(), asked).await?;
    upload.rewind()?;
    let found = recognised.identified.found.into_iter().next().unwrap_or_default();
    Ok(Identity {
        name: found.speaker().map_or(book::UNKNOWN, |known| known.name.as_str()).to_owned(),
        distance: found.matches.first().map_or(1.0, |best| 1.0 - best.score),
    })
}

/// Whole milliseconds.
pub(super) fn millis(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0).round() as u64
}

/// A form's fields, checked.
#[derive(Debug)]
struct Asked {
    request: asr::Request,
    chunk_length: u64,
    summary: bool,
    /// How many speakers there are, where they are to be told apart.
    speakers: Option<Speakers>,
    /// Whether one of them is to be recognised.
    identify: bool,
}

impl Asked {
    fn read(values: &Values, model: String) -> Result<Asked, ApiError> {
        let mut request = asr::Request::new(model, Task::Transcribe);
        request.language = speech::language(values)?;
        request.prompt = values.text(&["initial_prompt", "prompt"], MAX_PROMPT)?;
        request.chunking = match values.flag(&["vad_filter"])? {
            Some(false) => Chunking::Sequential,
            _ => speech::filtered(values.number(&["vad_threshold"], (0.0, 1.0))?),
        };
        let diarized = values.flag(&["diarize", "diarize_flag"])?.unwrap_or(false);
        let speakers = speech::speakers(values)?;
        request.words = diarized;
        let decoding = &mut request.decoding;
        decoding.best_of = values.whole(&["best_of"], (1, 16))?.unwrap_or(1) as usize;
        if let Some(beams) = values.whole(&["beam_size"], (1, 16))? {
            decoding.beam_size = beams as usize;
        }
        if let Some(temperatures) = speech::temperatures(values)? {
            decoding.temperatures = temperatures;
        }
        decoding.no_speech =
            values.threshold(&["no_speech_threshold"], (0.0, 1.0))?.unwrap_or(Some(NO_SPEECH));
        if let Some(logprob) = values.threshold(&["log_prob_threshold"], (-1000.0, 0.0))? {
            decoding.logprob = logprob;
        }
        Ok(Asked {
            request,
            chunk_length: values.whole(&["chunk_length"], (1, 3600))?.unwrap_or(CHUNK_LENGTH),
            summary: values.flag(&["summary", "summarize"])?.unwrap_or(false),
            speakers: diarized.then_some(speakers),
            identify: values.flag(&["identify", "speaker_identify"])?.unwrap_or(false),
        })
    }

    fn info(self, transcript: Transcript, model: String) -> Info {
        let decoding = self.request.decoding;
        Info {
            language: transcript.language.code,
            duration_ms: millis(transcript.duration),
            model,
            device: "auto",
            compute_type: "auto",
            vad_filter: self.request.chunking != Chunking::Sequential,
            chunk_length_s: self.chunk_length,
            beam_size: decoding.beam_size,
            best_of: decoding.best_of,
            temperature: decoding.temperatures.first().copied().unwrap_or(0.0),
            used_initial_prompt: self.request.prompt.is_some(),
            no_speech_threshold: decoding.no_speech,
            log_prob_threshold: decoding.logprob,
        }
    }
}
