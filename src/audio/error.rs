//! Why a file could not be heard, in terms whoever sent it can act on.

use std::fmt;

/// A sink's refusal of more samples: decoding ends at once with [`Error::Stopped`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop;

/// The formats named to someone whose file is none of them.
pub(super) const SUPPORTED: &str = "wav, flac, mp3, m4a, mp4, ogg, opus, webm, mkv, aac, aiff and caf";

/// A file that yields no audio, or that may not be decoded to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not one byte.
    #[error("the audio file is empty (0 bytes)")]
    Empty,
    /// Content of another kind, whatever its name says.
    #[error("the file is not audio: its content looks like {looks_like}; send {SUPPORTED}")]
    NotAudio { looks_like: &'static str },
    /// Audio, but in a container or codec that cannot be decoded here.
    #[error("{what} is not supported; convert it to one of {SUPPORTED}")]
    Unsupported { what: String },
    /// A container without sound, such as a silent video.
    #[error("the {container} file has no audio track")]
    NoAudioTrack { container: &'static str },
    /// Well formed, and zero seconds long.
    #[error("the {container} file holds no audio: its length is zero")]
    ZeroLength { container: &'static str },
    /// Damaged so that nothing, or hardly anything, of it could be decoded.
    #[error("the {container} file is damaged at {at_seconds:.2} s: {detail}")]
    Corrupt { container: &'static str, at_seconds: f64, detail: String },
    /// Longer than [`Limits::max_seconds`](super::Limits::max_seconds).
    #[error("the audio is longer than the limit of {limit_seconds} s; send it in parts")]
    TooLong { limit_seconds: u64 },
    /// The sink wanted no more.
    #[error("decoding was stopped")]
    Stopped,
    /// The file itself could not be read.
    #[error("the audio file could not be read: {0}")]
    Io(#[from] std::io::Error),
}

impl From<Stop> for Error {
    fn from(Stop: Stop) -> Self {
        Error::Stopped
    }
}

/// What was wrong with a file that could be decoded all the same.
#[derive(Debug, Clone, PartialEq)]
pub enum Warning {
    /// The file ends before the length in its header.
    Truncated { at_seconds: f64, promised_seconds: f64 },
    /// Decoding ended early at damage that could not be passed over.
    Damaged { at_seconds: f64, detail: String },
    /// Some packets could not be decoded and were left out.
    Skipped { packets: u64 },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Truncated { at_seconds, promised_seconds } => {
                write!(f, "the file ends at {at_seconds:.2} s; its header promises {promised_seconds:.2} s")
            }
            Warning::Damaged { at_seconds, detail } => {
                write!(f, "the file is damaged from {at_seconds:.2} s on: {detail}")
            }
            Warning::Skipped { packets } => write!(f, "{packets} damaged packets were left out"),
        }
    }
}
