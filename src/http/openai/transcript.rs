//! A transcript as json, verbose_json, text, srt or vtt.

use std::fmt::Write;

use axum::Json as Reply;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::ApiError;
use crate::types::asr::{Segment, Task, Transcript};

/// How to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Verbose,
    Text,
    Srt,
    Vtt,
}

impl Format {
    pub fn parse(name: &str) -> Result<Format, ApiError> {
        match name {
            "json" => Ok(Format::Json),
            "verbose_json" => Ok(Format::Verbose),
            "text" => Ok(Format::Text),
            "srt" => Ok(Format::Srt),
            "vtt" => Ok(Format::Vtt),
            "diarized_json" => Err(ApiError::unsupported(
                "response_format",
                "`diarized_json` is not supported by this server yet",
            )),
            _ => Err(ApiError::invalid(
                "response_format",
                "`response_format` must be one of json, text, srt, verbose_json, vtt",
            )),
        }
    }
}

/// What the work is measured by.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AudioUsage {
    /// Always `duration`.
    r#type: &'static str,
    /// Seconds of audio, rounded up.
    seconds: u64,
}

/// `json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Transcription)]
pub(crate) struct Json {
    text: String,
    usage: AudioUsage,
}

/// `verbose_json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TranscriptionVerbose)]
pub(crate) struct Verbose<'a> {
    /// `transcribe` or `translate`.
    task: &'static str,
    /// ISO 639-1 code.
    language: &'a str,
    /// Seconds of audio.
    duration: f64,
    text: String,
    segments: Vec<VerboseSegment<'a>>,
    usage: AudioUsage,
}

/// A stretch of speech.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TranscriptionSegment)]
pub(crate) struct VerboseSegment<'a> {
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
            start: millis(segment.start) as f64 / 1000.0,
            end: millis(segment.end) as f64 / 1000.0,
            text: &segment.text,
            tokens: &segment.tokens,
            temperature: segment.temperature,
            avg_logprob: segment.avg_logprob,
            compression_ratio: segment.compression_ratio,
            no_speech_prob: segment.no_speech_prob,
        }
    }
}

/// The answer in the form asked for.
pub(super) fn write(transcript: &Transcript, format: Format, task: Task) -> Response {
    let usage = || AudioUsage { r#type: "duration", seconds: transcript.duration.ceil() as u64 };
    let plain = |kind: &'static str, text: String| ([(CONTENT_TYPE, kind)], text).into_response();
    match format {
        Format::Json => Reply(Json { text: transcript.text(), usage: usage() }).into_response(),
        Format::Verbose => Reply(Verbose {
            task: match task {
                Task::Transcribe => "transcribe",
                Task::Translate => "translate",
            },
            language: &transcript.language.code,
            duration: transcript.duration,
            text: transcript.text(),
            segments: transcript.segments.iter().map(VerboseSegment::from).collect(),
            usage: usage(),
        })
        .into_response(),
        Format::Text => plain("text/plain; charset=utf-8", transcript.text() + "\n"),
        Format::Srt => plain("text/plain; charset=utf-8", srt(&transcript.segments)),
        Format::Vtt => plain("text/vtt; charset=utf-8", vtt(&transcript.segments)),
    }
}

fn millis(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0).round() as u64
}

/// `HH:MM:SS` and milliseconds after `mark`: a comma in SubRip, a point in WebVTT.
fn clock(seconds: f64, mark: char) -> String {
    let ms = millis(seconds);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{h:02}:{m:02}:{s:02}{mark}{:03}", ms % 1000)
}

/// One line, as a blank one would end the cue, without the arrow that would begin a cue's times.
fn cue(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    line.join(" ").replace("-->", "->")
}

/// SubRip: a number, the times, the text, a blank line.
fn srt(segments: &[Segment]) -> String {
    let mut out = String::new();
    for (at, segment) in segments.iter().enumerate() {
        let (start, end) = (clock(segment.start, ','), clock(segment.end, ','));
        let _ = write!(out, "{}\n{start} --> {end}\n{}\n\n", at + 1, cue(&segment.text));
    }
    out
}

/// WebVTT. Its text is markup, so the three characters that begin some are escaped.
fn vtt(segments: &[Segment]) -> String {
    let mut out = String::from("WEBVTT\n\n");
    for segment in segments {
        let (start, end) = (clock(segment.start, '.'), clock(segment.end, '.'));
        let text = cue(&segment.text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = write!(out, "{start} --> {end}\n{text}\n\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(id: u32, start: f64, end: f64, text: &str) -> Segment {
        Segment {
            id,
            seek: 0,
            start,
            end,
            text: text.into(),
            tokens: vec![50364, 7],
            temperature: 0.0,
            avg_logprob: -0.25,
            compression_ratio: 1.5,
            no_speech_prob: 0.5,
            words: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    #[test]
    fn subtitles_keep_their_shape_whatever_was_said() {
        let segments = [
            segment(0, 0.0, 1.2345, " And so --> my\n\nfellow"),
            segment(1, 3661.9996, 3662.5, " a < b & c"),
        ];
        assert_eq!(
            srt(&segments),
            "1\n00:00:00,000 --> 00:00:01,235\nAnd so -> my fellow\n\n\
             2\n01:01:02,000 --> 01:01:02,500\na < b & c\n\n"
        );
        assert_eq!(
            vtt(&segments),
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.235\nAnd so -&gt; my fellow\n\n\
             01:01:02.000 --> 01:01:02.500\na &lt; b &amp; c\n\n"
        );
        assert_eq!(vtt(&[]), "WEBVTT\n\n");
    }

    #[test]
    fn times_that_are_no_numbers_become_zero() {
        assert_eq!(clock(f64::NAN, '.'), "00:00:00.000");
        assert_eq!(clock(-1.0, '.'), "00:00:00.000");
    }
}
