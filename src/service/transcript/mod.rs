//! The documents that a transcript is written as: text, subtitles, and the JSON of OpenAI's answers. They are here and
//! not with the wire formats because `stentor transcribe` writes the same ones to files.

mod cues;
mod diarized;
mod json;
mod subtitles;

pub use diarized::{Diarized, DiarizedSegment};
pub use json::{Json, Logprob, Usage, Verbose, VerboseSegment, VerboseWord, logprobs, words};

use super::Error;
use crate::types::asr::{Task, Transcript};
use crate::types::speaker::Cast;

/// What kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Verbose,
    /// By who says it.
    Diarized,
    Text,
    Srt,
    Vtt,
}

impl Format {
    /// By OpenAI's name.
    pub fn named(name: &str) -> Option<Format> {
        match name {
            "json" => Some(Format::Json),
            "verbose_json" => Some(Format::Verbose),
            "diarized_json" => Some(Format::Diarized),
            "text" => Some(Format::Text),
            "srt" => Some(Format::Srt),
            "vtt" => Some(Format::Vtt),
            _ => None,
        }
    }

    /// Of a file with it.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Json | Format::Verbose | Format::Diarized => "json",
            Format::Text => "txt",
            Format::Srt => "srt",
            Format::Vtt => "vtt",
        }
    }

    /// Its MIME type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json | Format::Verbose | Format::Diarized => "application/json",
            Format::Text | Format::Srt => "text/plain; charset=utf-8",
            Format::Vtt => "text/vtt; charset=utf-8",
        }
    }
}

/// A document, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub format: Format,
    /// What the transcript was made by.
    pub task: Task,
    /// Whether [`Format::Verbose`] has segments.
    pub segments: bool,
    /// Whether it has words.
    pub words: bool,
    /// Whether [`Format::Json`] has log-probabilities.
    pub logprobs: bool,
}

impl Shape {
    /// With segments and nothing else.
    pub fn new(format: Format, task: Task) -> Shape {
        Shape { format, task, segments: true, words: false, logprobs: false }
    }
}

/// Writes the document. Subtitles are broken by words where the segments have some. Only [`Format::Diarized`] asks who
/// speaks.
///
/// # Errors
/// Our own: the transcript cannot be written as JSON.
pub fn write(transcript: &Transcript, shape: &Shape, cast: &Cast) -> Result<String, Error> {
    let unwritten = |e: serde_json::Error| Error::Internal { detail: format!("transcript: {e}") };
    match shape.format {
        Format::Json => serde_json::to_string(&Json::new(transcript, shape)).map_err(unwritten),
        Format::Verbose => serde_json::to_string(&Verbose::new(transcript, shape)).map_err(unwritten),
        Format::Diarized => serde_json::to_string(&Diarized::new(transcript, shape, cast)).map_err(unwritten),
        Format::Text => Ok(transcript.text() + "\n"),
        Format::Srt => Ok(subtitles::srt(&transcript.segments)),
        Format::Vtt => Ok(subtitles::vtt(&transcript.segments)),
    }
}

/// Whole milliseconds; what is no number, or before the start, is 0.
fn millis(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::types::Usage as Tokens;
    use crate::types::asr::{Language, Segment, TokenLogprob, Word};
    use crate::types::speaker::Turn;

    /// A stretch of speech without words.
    pub(super) fn segment(start: f64, end: f64, text: &str) -> Segment {
        Segment {
            id: 0,
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

    /// A stretch of speech with words of the same length, one right after the other.
    pub(super) fn spoken(start: f64, each: f64, text: &str) -> Segment {
        let word = |(at, word): (usize, &str)| Word {
            text: format!(" {word}"),
            start: start + at as f64 * each,
            end: start + (at + 1) as f64 * each,
            probability: 0.5,
        };
        let words: Vec<Word> = text.split_whitespace().enumerate().map(word).collect();
        let end = words.last().map_or(start, |word| word.end);
        Segment { words, ..segment(start, end, &format!(" {text}")) }
    }

    fn cast() -> Cast {
        let turn = |start, end, speaker| Turn { start, end, speaker };
        Cast {
            turns: vec![turn(0.0, 0.5, 1), turn(0.5, 2.0, 0)],
            names: vec!["Ann".into(), "SPEAKER_01".into()],
        }
    }

    #[test]
    fn segments_are_split_by_who_says_them() {
        let got = written(Format::Diarized, |_| ());
        let segment = |id: &str, start: f64, end: f64, speaker: &str, text: &str| json!({"type": "transcript.text.segment", "id": id, "start": start, "end": end, "speaker": speaker, "text": text});
        let segments = [
            segment("seg_0", 0.0, 0.5, "SPEAKER_01", "Hello"),
            segment("seg_1", 0.5, 1.0, "Ann", "there."),
            segment("seg_2", 1.0, 2.0, "Ann", "Bye."),
        ];
        assert_eq!(got["segments"], json!(segments));
        assert_eq!((&got["text"], &got["duration"]), (&json!("Hello there. Bye."), &json!(2.25)));
    }

    fn written(format: Format, change: impl FnOnce(&mut Shape)) -> Value {
        let mut segments = vec![spoken(0.0, 0.5, "Hello there."), segment(1.0, 2.0, " Bye.")];
        let token = |bytes: &[u8], logprob| TokenLogprob { token: 1, bytes: bytes.into(), logprob };
        segments[0].logprobs = vec![token(b" Hello", -0.5), token(&[0xc3], f32::NEG_INFINITY)];
        let language = Language { code: "en".into(), probability: 1.0 };
        let transcript = Transcript { language, duration: 2.25, segments, usage: Tokens::default() };
        let mut shape = Shape::new(format, Task::Translate);
        change(&mut shape);
        serde_json::from_str(&write(&transcript, &shape, &cast()).unwrap()).unwrap()
    }

    #[test]
    fn json_has_what_was_asked_for() {
        let usage = json!({"type": "duration", "seconds": 3});
        let text = "Hello there. Bye.";
        assert_eq!(written(Format::Json, |_| ()), json!({"text": text, "usage": usage}));
        let logprobs = json!([
            {"token": " Hello", "bytes": b" Hello", "logprob": -0.5},
            {"token": "bytes:\\xc3", "bytes": [0xc3], "logprob": -9999.0},
        ]);
        assert_eq!(
            written(Format::Json, |shape| shape.logprobs = true),
            json!({"text": text, "logprobs": logprobs, "usage": usage})
        );
        let verbose = written(Format::Verbose, |_| ());
        assert_eq!((&verbose["task"], &verbose["language"]), (&json!("translate"), &json!("en")));
        assert_eq!((verbose["duration"].as_f64(), &verbose["usage"]), (Some(2.25), &usage));
        assert_eq!((verbose["segments"].as_array().unwrap().len(), verbose.get("words")), (2, None));
        let words = written(Format::Verbose, |shape| (shape.segments, shape.words) = (false, true));
        assert_eq!(words.get("segments"), None);
        assert_eq!(
            words["words"],
            json!([
                {"word": "Hello", "start": 0.0, "end": 0.5, "probability": 0.5},
                {"word": "there.", "start": 0.5, "end": 1.0, "probability": 0.5},
            ])
        );
    }
}
