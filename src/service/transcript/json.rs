//! Transcripts as OpenAI's JSON.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Shape, millis};
use crate::service::logprobs::name;
use crate::types::asr::{Segment, Task, Transcript};

/// Stands for a probability of nothing, as JSON has no infinity.
const NEVER: f32 = -9999.0;

/// What the work is measured by.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = AudioUsage)]
pub struct Usage {
    /// Always `duration`.
    r#type: &'static str,
    /// Seconds of audio, rounded up.
    seconds: u64,
}

impl Usage {
    /// Of so many seconds of audio.
    pub fn new(duration: f64) -> Usage {
        Usage { r#type: "duration", seconds: duration.ceil() as u64 }
    }
}

/// A token of the text, and how likely the model held it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = TranscriptionLogprob)]
pub struct Logprob {
    /// Its text; `bytes:\xf0\x9f` for one that is not whole characters.
    token: String,
    /// Its text in UTF-8, maybe a part of a character.
    bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    logprob: f32,
}

/// The log-probabilities of these segments.
pub fn logprobs(segments: &[Segment]) -> Vec<Logprob> {
    let tokens = segments.iter().flat_map(|segment| &segment.logprobs);
    let token = tokens.map(|token| Logprob {
        token: name(&token.bytes),
        bytes: token.bytes.clone(),
        logprob: token.logprob.max(NEVER),
    });
    token.collect()
}

/// `json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Transcription)]
pub struct Json {
    text: String,
    /// Only where `include[]` asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Logprob>>,
    usage: Usage,
}

impl Json {
    pub(super) fn new(transcript: &Transcript, shape: &Shape) -> Json {
        Json {
            text: transcript.text(),
            logprobs: shape.logprobs.then(|| logprobs(&transcript.segments)),
            usage: Usage::new(transcript.duration),
        }
    }
}

/// `verbose_json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TranscriptionVerbose)]
pub struct Verbose<'a> {
    /// `transcribe` or `translate`.
    task: &'static str,
    /// ISO 639-1 code.
    language: &'a str,
    /// Seconds of audio.
    duration: f64,
    text: String,
    /// Absent where only words were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<Vec<VerboseSegment<'a>>>,
    /// Only where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Vec<VerboseWord<'a>>>,
    usage: Usage,
}

impl<'a> Verbose<'a> {
    pub(super) fn new(transcript: &'a Transcript, shape: &Shape) -> Verbose<'a> {
        let segments = &transcript.segments;
        Verbose {
            task: task(shape.task),
            language: &transcript.language.code,
            duration: transcript.duration,
            text: transcript.text(),
            segments: shape.segments.then(|| segments.iter().map(VerboseSegment::from).collect()),
            words: shape.words.then(|| words(segments)),
            usage: Usage::new(transcript.duration),
        }
    }
}

/// OpenAI's name of a task.
pub(super) fn task(task: Task) -> &'static str {
    match task {
        Task::Transcribe => "transcribe",
        Task::Translate => "translate",
    }
}

/// A stretch of speech.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TranscriptionSegment)]
pub struct VerboseSegment<'a> {
    id: u32,
    /// The 10 ms frame where the window began that this was heard in.
    seek: u32,
    start: f64,
    end: f64,
    text: &'a str,
    tokens: &'a [u32],
    temperature: f32,
    avg_logprob: f32,
    compression_ratio: f32,
    no_speech_prob: f32,
}

impl<'a> From<&'a Segment> for VerboseSegment<'a> {
    fn from(segment: &'a Segment) -> Self {
        VerboseSegment {
            id: segment.id,
            seek: segment.seek,
            start: rounded(segment.start),
            end: rounded(segment.end),
            text: &segment.text,
            tokens: &segment.tokens,
            temperature: segment.temperature,
            avg_logprob: segment.avg_logprob,
            compression_ratio: segment.compression_ratio,
            no_speech_prob: segment.no_speech_prob,
        }
    }
}

/// A word and when it was said.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TranscriptionWord)]
pub struct VerboseWord<'a> {
    word: &'a str,
    start: f64,
    end: f64,
    /// How likely the model held it, 0 to 1.
    probability: f32,
}

/// The words of these segments, without the space around them.
pub fn words(segments: &[Segment]) -> Vec<VerboseWord<'_>> {
    let words = segments.iter().flat_map(|segment| &segment.words);
    let word = words.map(|word| VerboseWord {
        word: word.text.trim(),
        start: rounded(word.start),
        end: rounded(word.end),
        probability: word.probability,
    });
    word.collect()
}

/// Seconds to the millisecond.
pub(super) fn rounded(seconds: f64) -> f64 {
    millis(seconds) as f64 / 1000.0
}
