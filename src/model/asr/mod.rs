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
use std::sync::Arc;

use candle_core::Device;

use super::weights::{self, ctranslate2};
use super::{Model, Network};
use crate::types::model::{Format, Installed};
use vocab::Vocab;

/// Why a speech model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Ct2(Box<ctranslate2::Error>),
    #[error(transparent)]
    Weights(#[from] weights::Error),
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

/// The network kind of this module.
#[derive(Debug)]
pub struct Asr;

impl Network for Asr {
    type Batch = Batch;
    type Output = Vec<RowLogits>;
}

/// One step: windows to encode, or tokens to append.
#[derive(Debug)]
pub enum Batch {
    /// A slot and its window, bin-major as [`crate::types::asr::LogMel::window`] gives it. Gives no logits.
    Encode(Vec<(usize, Vec<f32>)>),
    /// Gives the logits of each row.
    Decode(Vec<Row>),
}

/// Tokens to append to the sequence in a slot.
#[derive(Debug, Clone)]
pub struct Row {
    pub slot: usize,
    pub tokens: Vec<u32>,
    /// Position of the first token; at most the number of tokens already there. Going back forgets what
    /// followed.
    pub position: usize,
    /// Index in `tokens` whose logits are wanted besides the last one's.
    pub probe: Option<usize>,
}

/// What a row gave: logits over the vocabulary, f32.
#[derive(Debug, Clone, PartialEq)]
pub struct RowLogits {
    /// After the last token.
    pub last: Vec<f32>,
    /// After the token asked for; `None` if none was.
    pub probe: Option<Vec<f32>>,
}

/// What callers and the scheduler need of a loaded model.
pub struct Front {
    pub vocab: Arc<Vocab>,
    /// Mel bins that it hears: 80, or 128.
    pub mels: usize,
    /// Positions of prompt and text together in a window: 448.
    pub context: usize,
}

/// A model and what its callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Asr>>,
    pub front: Front,
}

/// Loads a folder onto a device, with room for so many sequences at a time.
pub type Load = fn(&Path, Format, &Device, usize) -> Result<Loaded, Error>;

/// The architectures, a row each.
pub const REGISTRY: &[(&str, Load)] = &[("whisper", whisper::load)];

/// Loads a model with the architecture that it was installed as.
pub fn load(installed: &Installed, device: &Device, slots: usize) -> Result<Loaded, Error> {
    match REGISTRY.iter().find(|(name, _)| *name == installed.architecture) {
        Some((_, load)) => load(&installed.path, installed.format, device, slots),
        None => Err(Error::Architecture {
            name: installed.architecture.clone(),
            known: REGISTRY.iter().map(|(name, _)| *name).collect(),
        }),
    }
}
