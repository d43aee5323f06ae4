//! Transcripts as OpenAI's `diarized_json`.

use serde::Serialize;
use utoipa::ToSchema;

use super::json::{rounded, task};
use super::{Shape, Usage};
use crate::service::voices::spoken;
use crate::types::asr::{Segment, Transcript};
use crate::types::speaker::Cast;

/// `diarized_json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TranscriptionDiarized)]
pub struct Diarized {
    /// `transcribe` or `translate`.
    task: &'static str,
    /// Seconds of audio.
    duration: f64,
    text: String,
    segments: Vec<DiarizedSegment>,
    usage: Usage,
}

impl Diarized {
    pub(super) fn new(transcript: &Transcript, shape: &Shape, cast: &Cast) -> Diarized {
        let mut segments = Vec::new();
        for segment in &transcript.segments {
            let more = DiarizedSegment::of(segment, cast, segments.len());
            segments.extend(more);
        }
        Diarized {
            task: task(shape.task),
            duration: transcript.duration,
            text: transcript.text(),
            segments,
            usage: Usage::new(transcript.duration),
        }
    }
}

/// What one speaker says at a stretch.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TranscriptionDiarizedSegment)]
pub struct DiarizedSegment {
    /// Always `transcript.text.segment`.
    r#type: &'static str,
    id: String,
    start: f64,
    end: f64,
    /// A name, or `SPEAKER_00` and so on by the order in which they are first heard.
    speaker: String,
    text: String,
}

impl DiarizedSegment {
    /// Those of a segment that have words, numbered from `first` on.
    pub fn of(segment: &Segment, cast: &Cast, first: usize) -> Vec<DiarizedSegment> {
        let runs = spoken(segment, &cast.turns).into_iter().filter(|run| !run.text.trim().is_empty());
        let each = runs.enumerate().map(|(at, run)| DiarizedSegment {
            r#type: "transcript.text.segment",
            id: format!("seg_{}", first + at),
            start: rounded(run.start),
            end: rounded(run.end),
            speaker: cast.name(run.speaker).to_owned(),
            text: run.text.trim().to_owned(),
        });
        each.collect()
    }
}
