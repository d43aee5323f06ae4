//! Speech recognition: what a caller asks for, the features the network hears, what comes back.

mod mel;
mod request;

pub use mel::LogMel;
pub use request::{Chunking, Decoding, Request, Task, Vad};

use super::Usage;

/// Samples a second that every speech network here takes.
pub const SAMPLE_RATE: u32 = 16_000;
/// Samples between two mel frames (10 ms).
pub const HOP: usize = 160;
/// Mel frames a second.
pub const FRAMES_PER_SECOND: usize = SAMPLE_RATE as usize / HOP;

/// A word and when it was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// As it stands in the text, the space before it included.
    pub text: String,
    /// Seconds from the start of the audio.
    pub start: f64,
    /// Seconds from the start of the audio.
    pub end: f64,
    /// Mean probability of its tokens, 0 to 1.
    pub probability: f32,
}

/// A token of the text and how likely the network held it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    pub token: u32,
    /// Its bytes: alone they need not be UTF-8.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// A stretch of speech and its words.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Segment {
    pub id: u32,
    /// The mel frame where the window began that this segment was heard in.
    pub seek: u32,
    /// Seconds from the start of the audio.
    pub start: f64,
    /// Seconds from the start of the audio.
    pub end: f64,
    pub text: String,
    /// Timestamps among them.
    pub tokens: Vec<u32>,
    pub temperature: f32,
    /// Mean log-probability of the window's tokens, the end token included.
    pub avg_logprob: f32,
    /// Bytes of the text over bytes of the text compressed by zlib; above 2.4 it repeats itself.
    pub compression_ratio: f32,
    /// Probability that the window holds no speech.
    pub no_speech_prob: f32,
    /// Empty unless they were asked for.
    pub words: Vec<Word>,
    /// Of the tokens of the text, empty unless they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// The language of a recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Language {
    /// ISO 639-1 code.
    pub code: String,
    /// How likely it was held; 1 where it was asked for or is the only one.
    pub probability: f32,
}

/// What is known of a recording when all of it has been heard.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    pub language: Language,
    pub usage: Usage,
}

/// What a transcription says as it goes on: [`Begin`](Self::Begin), segments in order of time, [`End`](Self::End).
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// The recording was read; `duration` is its length in seconds.
    Begin {
        duration: f64,
    },
    Segment(Segment),
    End(Ending),
}

/// A whole transcript.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcript {
    pub language: Language,
    /// Seconds of audio.
    pub duration: f64,
    pub segments: Vec<Segment>,
    pub usage: Usage,
}

impl Transcript {
    /// The words of all segments, without space around them.
    pub fn text(&self) -> String {
        let text: String = self.segments.iter().map(|s| s.text.as_str()).collect();
        text.trim().to_owned()
    }
}
