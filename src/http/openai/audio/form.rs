//! The form of a recording: its description, and its fields as a request.

use utoipa::ToSchema;

use super::decoding::{self, chunking, decoding};
use crate::http::ApiError;
use crate::http::form::{Field, Values};
use crate::http::openai::described::{ChunkingForm, Granularity, Include, Temperatures, TranscriptFormat};
use crate::http::openai::fields::ModelName;
use crate::http::openai::model;
use crate::http::speech::{self, MAX_PROMPT};
use crate::service::transcript::{Format, Shape};
use crate::types::asr::{Request, Task};
use crate::types::speaker::Speakers;

/// A recording to write down. Fields that are not listed are ignored; lists are sent as fields of the same name, as one
/// with commas, or as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `Fields` reads it")]
pub(crate) struct TranscriptionForm {
    /// The recording: flac, mp3, mp4, mpeg, mpga, m4a, ogg, wav or webm.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// Id or alias of a speech model; may be left out where the server has a default.
    model: Option<String>,
    /// ISO 639-1 code; detected if absent or `auto`.
    language: Option<String>,
    /// Text that the transcript is to read as if it followed.
    prompt: Option<String>,
    /// `json` (the default), `text`, `srt`, `verbose_json`, `diarized_json` or `vtt`.
    response_format: Option<TranscriptFormat>,
    /// 0 to 1. 0 (the default) is greedy, with higher ones tried where the text is not believed; a list is what is
    /// tried in turn.
    temperature: Option<Temperatures>,
    /// `segment` (the default), `word`, or both; words are for `verbose_json`.
    #[schema(rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<Granularity>>,
    /// `logprobs`, for `json`.
    #[schema(rename = "include[]")]
    include: Option<Vec<Include>>,
    /// Server-sent events: text as it is heard, then the whole of it.
    stream: Option<bool>,
    /// Cuts the recording at its pauses into chunks that are heard side by side; if absent, one window follows the
    /// other, each with the text before it as context.
    chunking_strategy: Option<ChunkingForm>,
    /// Words and names that may be said, as one text for `hotwords`.
    #[schema(rename = "keywords[]")]
    keywords: Option<Vec<String>>,
    /// Names and terms that may be said; unlike the prompt, context of every window.
    hotwords: Option<String>,
    /// Text that the first window begins with.
    prefix: Option<String>,
    /// Leave out what a voice activity detector takes for silence.
    vad_filter: Option<bool>,
    /// With `vad_filter`: probability of speech above which it begins; 0.5 if absent.
    #[schema(minimum = 0, maximum = 1)]
    vad_threshold: Option<f32>,
    /// The time of each word, which subtitles are then broken by.
    word_timestamps: Option<bool>,
    /// Texts followed side by side at temperature 0, 1 to 16; 5 if absent, 1 is greedy.
    #[schema(minimum = 1, maximum = 16)]
    beam_size: Option<u32>,
    /// Texts sampled at other temperatures, of which the likeliest is taken, 1 to 16; 5 if absent.
    #[schema(minimum = 1, maximum = 16)]
    best_of: Option<u32>,
    /// How many finished texts a beam search waits for, in beams; 1 if absent.
    #[schema(minimum = 0.1, maximum = 10)]
    patience: Option<f32>,
    /// Exponent of the length that a text's score is divided by; 1 if absent.
    #[schema(minimum = 0, maximum = 10)]
    length_penalty: Option<f32>,
    /// Above it a text repeats itself and is tried again at the next temperature; 2.4 if absent, `none`: never.
    compression_ratio_threshold: Option<f32>,
    /// Mean log-probability below which a text is tried again; -1 if absent, `none`: never.
    log_prob_threshold: Option<f32>,
    /// Probability of silence above which a doubtful text is none; 0.6 if absent, `none`: never.
    #[schema(minimum = 0, maximum = 1)]
    no_speech_threshold: Option<f32>,
    /// Whether each window's text is context for the next; true if absent.
    condition_on_previous_text: Option<bool>,
    /// Text alone, without the times of segments.
    without_timestamps: Option<bool>,
    /// Latest start of a window's first segment, in seconds; 1 if absent.
    #[schema(minimum = 0, maximum = 30)]
    max_initial_timestamp: Option<f32>,
    /// Tokens that the text of a window of 30 s has at most.
    #[schema(minimum = 1, maximum = 1024)]
    max_new_tokens: Option<u32>,
    /// Token ids that are never said; -1, as if absent: those that are not speech.
    suppress_tokens: Option<Vec<i32>>,
    /// Whether a window may not begin with a blank; true if absent.
    suppress_blank: Option<bool>,
    /// Leave out silence longer than this many seconds around doubtful words.
    #[schema(minimum = 0, maximum = 30)]
    hallucination_silence_threshold: Option<f32>,
    /// Of the sampling above temperature 0.
    seed: Option<i64>,
    /// With `diarized_json`: names of up to four speakers, in the order of `known_speaker_references[]`.
    #[schema(rename = "known_speaker_names[]")]
    known_speaker_names: Option<Vec<String>>,
    /// 2 to 10 s of each of them, as data URLs.
    #[schema(rename = "known_speaker_references[]")]
    known_speaker_references: Option<Vec<String>>,
    /// With `diarized_json`: how many speakers there are; found if absent, within `min_speakers` and `max_speakers` where
    /// these are sent.
    #[schema(minimum = 1, maximum = 100)]
    num_speakers: Option<u32>,
    #[schema(minimum = 1, maximum = 100)]
    min_speakers: Option<u32>,
    #[schema(minimum = 1, maximum = 100)]
    max_speakers: Option<u32>,
}

/// The form's fields, checked.
#[derive(Debug, PartialEq)]
pub(super) struct Fields {
    pub request: Request,
    pub shape: Shape,
    pub stream: bool,
    /// How many speakers there are, with [`Format::Diarized`].
    pub speakers: Speakers,
}

impl Fields {
    /// Reads the text fields.
    pub fn read(values: &Values, task: Task, default: &Option<String>) -> Result<Fields, ApiError> {
        let format = values.last(&["response_format"]).map_or(Ok(Format::Json), format)?;
        let mut shape = Shape::new(format, task);
        granularities(values, &mut shape)?;
        shape.logprobs = logprobs(values, format)?;
        let (decoding, chunking) = (decoding(values)?, chunking(values)?);
        let words = values.flag(&["word_timestamps"])?.unwrap_or(false);
        shape.words |= words;
        let named = values
            .last(&["model"])
            .map(|field| ModelName::new(field.text.to_owned()).map_err(|e| ApiError::invalid("model", e)));
        let request = Request {
            language: language(values)?,
            prompt: values.text(&["prompt", "initial_prompt"], MAX_PROMPT)?,
            hotwords: decoding::hotwords(values)?,
            prefix: values.text(&["prefix"], MAX_PROMPT)?,
            // What is left out around doubtful words is known by their times, and so is whose they are.
            words: shape.words || format == Format::Diarized || decoding.hallucination_silence.is_some(),
            logprobs: shape.logprobs,
            chunking,
            decoding,
            ..Request::new(model(named.transpose()?, default)?, task)
        };
        let speakers = speakers(values, format)?;
        Ok(Fields { request, shape, stream: values.flag(&["stream"])?.unwrap_or(false), speakers })
    }
}

fn format(field: Field<'_>) -> Result<Format, ApiError> {
    match Format::named(field.text) {
        Some(format) => Ok(format),
        None => Err(field.wrong("one of json, text, srt, verbose_json, diarized_json, vtt")),
    }
}

/// Which times the answer has.
fn granularities(values: &Values, shape: &mut Shape) -> Result<(), ApiError> {
    let Some(list) = values.list(&["timestamp_granularities"])? else { return Ok(()) };
    let wrong =
        |message: &str| Err(ApiError::invalid(list.name.clone(), format!("`{}` {message}", list.name)));
    let has = |name: &str| list.items.iter().any(|item| item == name);
    if list.items.iter().any(|item| item != "word" && item != "segment") {
        return wrong("has entries other than `word` and `segment`");
    }
    if has("word") && shape.format != Format::Verbose {
        return wrong("has `word`, which needs `response_format`: `verbose_json`");
    }
    (shape.words, shape.segments) = (has("word"), has("segment") || !has("word"));
    Ok(())
}

fn logprobs(values: &Values, format: Format) -> Result<bool, ApiError> {
    let Some(list) = values.list(&["include"])? else { return Ok(false) };
    let wrong =
        |message: &str| Err(ApiError::invalid(list.name.clone(), format!("`{}` {message}", list.name)));
    if list.items.iter().any(|item| item != "logprobs") {
        return wrong("has entries other than `logprobs`");
    }
    if format != Format::Json && !list.items.is_empty() {
        return wrong("has `logprobs`, which needs `response_format`: `json`");
    }
    Ok(!list.items.is_empty())
}

/// The one language that is heard. Several to choose from cannot be named.
fn language(values: &Values) -> Result<Option<String>, ApiError> {
    match values.list(&["languages"])? {
        Some(list) if list.items.len() > 1 => {
            let message = "several languages to choose from are not supported; name one or none";
            Err(ApiError::unsupported(list.name, message))
        }
        Some(list) if values.last(&["language"]).is_none() => {
            let one = list.items.into_iter().map(|item| ("language".to_owned(), item)).collect();
            speech::language(&Values::new(one))
        }
        _ => speech::language(values),
    }
}

/// How many speakers there are. Fields that say who or how many are for the one format that names them.
fn speakers(values: &Values, format: Format) -> Result<Speakers, ApiError> {
    const FIELDS: [&str; 5] =
        ["known_speaker_names", "known_speaker_references", "num_speakers", "min_speakers", "max_speakers"];
    match values.last(&FIELDS) {
        Some(field) if format != Format::Diarized => {
            let message = format!("`{}` needs `response_format`: `diarized_json`", field.name);
            Err(ApiError::invalid(field.name.to_owned(), message))
        }
        _ => speech::speakers(values),
    }
}
