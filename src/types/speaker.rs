//! Who speaks: what a caller asks for and what is found.

use super::asr::{SAMPLE_RATE, Word};

/// A stretch in which one speaker speaks, in seconds from the start of the recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    pub start: f64,
    pub end: f64,
    /// Which of [`Diarization::voices`].
    pub speaker: usize,
}

/// How many speakers a recording has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speakers {
    /// At least 1.
    pub least: usize,
    /// At least [`least`](Self::least); as many as are found where nothing bounds them.
    pub most: usize,
}

impl Default for Speakers {
    fn default() -> Speakers {
        Speakers { least: 1, most: usize::MAX }
    }
}

impl Speakers {
    /// Exactly so many.
    pub fn exactly(count: usize) -> Speakers {
        Speakers { least: count, most: count }
    }
}

/// A voice of a recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Voice {
    /// What the speaker model makes of it, of length 1.
    pub embedding: Vec<f32>,
    /// Seconds of speech.
    pub seconds: f64,
}

/// Who spoke when.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diarization {
    /// Seconds of the recording.
    pub duration: f64,
    /// In order of their start; two speakers may speak at once.
    pub turns: Vec<Turn>,
    /// The same with one speaker at a time: who is heard best.
    pub exclusive: Vec<Turn>,
    /// The speakers, by the order in which they are first heard.
    pub voices: Vec<Voice>,
}

/// A recording of one person, as the book of speakers judges it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Seconds of the recording, or of the part of it that was asked for.
    pub seconds: f64,
    /// Seconds of speech in it.
    pub speech: f64,
    /// How far speech is above what is between, in dB; `None` where nothing is between.
    pub snr_db: Option<f32>,
    /// Share of the speech that is of another voice than the one heard most, 0 to 1.
    pub others: f32,
    /// What the speaker model makes of the voice heard most, of length 1; empty without speech.
    pub embedding: Vec<f32>,
}

/// A part of a recording, in samples at [`SAMPLE_RATE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub start: usize,
    pub end: usize,
}

impl Part {
    /// From one second to another.
    pub fn seconds(start: f64, end: f64) -> Part {
        let sample = |at: f64| (at.max(0.0) * f64::from(SAMPLE_RATE)).round() as usize;
        Part { start: sample(start), end: sample(end) }
    }
}

/// The model that makes embeddings. Those of two models cannot be compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedder {
    /// Its id.
    pub model: String,
    /// Of its weights: another one is another model.
    pub version: String,
    /// What two voices are at least alike where they are held for one, as a cosine.
    pub threshold: f32,
    /// Mean and standard deviation of the cosines of different people's voices.
    pub strangers: (f32, f32),
}

/// What a frame is multiplied with before its spectrum is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Kaldi's own: a Hann window to the power of 0.85.
    Povey,
    Hamming,
}

/// What a speaker model hears: log energies in mel bins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Features {
    /// Kaldi's, of samples times `scale`: 1 as they are, 32,768 as whole numbers of 16 bits. It matters where it is quiet:
    /// energies have a floor.
    Kaldi { window: Window, scale: f32 },
    /// SpeechBrain's: decibels, at most 80 below the loudest of the recording; frames are centred on their time.
    SpeechBrain,
}

/// What one speaker says at a stretch.
#[derive(Debug, Clone, PartialEq)]
pub struct Spoken {
    /// Seconds from the start of the audio.
    pub start: f64,
    /// Seconds from the start of the audio.
    pub end: f64,
    /// With the space before it.
    pub text: String,
    /// Which of [`Diarization::voices`]; `None` where nobody was heard in the whole recording.
    pub speaker: Option<usize>,
    /// Empty where the times of words are not known.
    pub words: Vec<Word>,
}

/// Who speaks when, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cast {
    /// One speaker at a time, in order.
    pub turns: Vec<Turn>,
    /// A name a speaker.
    pub names: Vec<String>,
}

impl Cast {
    /// What a speaker without a name is called.
    pub fn nameless(speaker: usize) -> String {
        format!("SPEAKER_{speaker:02}")
    }

    /// The name of a speaker.
    pub fn name(&self, speaker: Option<usize>) -> &str {
        speaker.and_then(|speaker| self.names.get(speaker)).map_or("SPEAKER_00", String::as_str)
    }
}
