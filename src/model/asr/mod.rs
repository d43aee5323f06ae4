//! Speech recognition: networks that hear 30 s windows of log-mel and write tokens.
//!
//! A network only encodes windows and gives logits ([`whisper`]); what the logits mean, which window comes
//! next and when a window is tried again is [`output`]'s, which holds no tensors. A scheduler on the device's
//! thread moves data between the two.

pub mod output;
#[cfg(test)]
mod tests;
pub mod vocab;
pub mod whisper;

use std::io;
use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::model::weights::ctranslate2;
use crate::types::model::Format;

/// Why a speech model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Ct2(Box<ctranslate2::Error>),
    #[error(transparent)]
    Vocab(#[from] vocab::Error),
    #[error("{file}: cannot be read: {source}")]
    Io { file: PathBuf, source: io::Error },
    #[error("{file}: {reason}: this is not a Whisper model that can be run, or it is damaged")]
    Config { file: PathBuf, reason: String },
    #[error("a speech model in the format {} cannot be read: use ctranslate2 or safetensors", format.as_str())]
    Format { format: Format },
    #[error("no speech architecture named {name}: {} are known", known.join(", "))]
    Architecture { name: String, known: Vec<&'static str> },
    /// A call that breaks the contract of [`whisper::WhisperModel`]; a bug in the scheduler, not in the input.
    #[error("{reason}")]
    Call { reason: String },
    /// Fit for a caller to read.
    #[error("the model does not know {asked}: it knows {known}")]
    Language { asked: String, known: String },
    /// Logits that are not numbers.
    #[error("the network gave no usable logits at token {position} of the window at frame {seek}")]
    Logits { seek: usize, position: usize },
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

impl From<ctranslate2::Error> for Error {
    fn from(error: ctranslate2::Error) -> Error {
        Error::Ct2(Box::new(error))
    }
}

/// Builds a model of one architecture from a folder, with room for so many sequences at a time.
pub type Build = fn(&Path, Format, &Device, usize) -> Result<whisper::WhisperModel, Error>;

/// The architectures, a row each.
pub const REGISTRY: &[(&str, Build)] = &[("whisper", whisper::WhisperModel::load)];

/// The row of the registry for an architecture.
pub fn builder(architecture: &str) -> Result<Build, Error> {
    REGISTRY.iter().find(|(name, _)| *name == architecture).map(|&(_, build)| build).ok_or_else(|| {
        Error::Architecture {
            name: architecture.to_owned(),
            known: REGISTRY.iter().map(|(name, _)| *name).collect(),
        }
    })
}
