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
use super::{Model, Network, Size};
use crate::types::model::{Footprint, Format, Installed, Precision};
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
    #[error("a speech model in the format {} cannot be read: use ctranslate2, safetensors, torch or ggml", format.as_str())]
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
    type Output = Vec<RowOutput>;
}

/// One step: windows to encode, or tokens to append.
#[derive(Debug)]
pub enum Batch {
    /// A slot and its window, bin-major as [`crate::types::asr::LogMel::window`] gives it. Gives nothing.
    Encode(Vec<(usize, Vec<f32>)>),
    Decode(Decode),
}

/// Tokens to append to sequences.
#[derive(Debug, Default)]
pub struct Decode {
    /// Blocks to copy first: from, to.
    pub copies: Vec<(u32, u32)>,
    /// Those of one slot lie together.
    pub rows: Vec<Row>,
}

/// Tokens to append to one sequence.
#[derive(Debug, Clone)]
pub struct Row {
    /// The window that it listens to.
    pub slot: usize,
    pub tokens: Vec<u32>,
    /// Position of the first token; those before it have been computed.
    pub position: usize,
    /// Blocks of [`KvCache::BLOCK`](crate::ops::KvCache::BLOCK) positions that hold its keys and values.
    pub table: Vec<u32>,
    pub want: Want,
}

/// What a row is computed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The logits after the last token.
    Last,
    /// Those, and the logits after the token of this index in the row.
    Probe(usize),
    /// How the row's tokens look at the first `keys` positions of the window (20 ms each); with `score` also how likely
    /// each is after those before it.
    Alignment { keys: usize, score: bool },
}

/// What a row gave.
#[derive(Debug, Clone, PartialEq)]
pub enum RowOutput {
    /// Logits over the vocabulary, f32.
    Logits {
        last: Vec<f32>,
        probe: Option<Vec<f32>>,
    },
    Alignment(Alignment),
}

/// Weights of the attention heads that follow the speech: of each token over the positions it looks at, they add up
/// to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    pub heads: usize,
    pub tokens: usize,
    pub keys: usize,
    /// `(heads, tokens, keys)`
    pub weights: Vec<f32>,
    /// Of each token but the first, its probability after those before it; empty unless it was asked for.
    pub probabilities: Vec<f32>,
}

/// What a model may have room for at a time, and how it is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Windows that are held at most.
    pub windows: usize,
    /// Bytes of their keys and values; one window is held in any case.
    pub window_bytes: u64,
    /// How the decoder's matrices are kept.
    pub precision: Precision,
}

/// Sequences side by side at one window, on average: the beams of the usual search.
const ROWS_A_WINDOW: usize = 5;
/// Sequences that one window may have at most, whatever there is room for.
const MOST_ROWS: usize = 16;

/// What callers and the scheduler need of a loaded model.
pub struct Front {
    pub vocab: Arc<Vocab>,
    /// Mel bins that it hears: 80, or 128.
    pub mels: usize,
    /// Positions of prompt and text together in a window: 448.
    pub context: usize,
    /// What it has room for.
    pub windows: usize,
    pub rows: usize,
    /// Blocks of the key-value cache.
    pub blocks: usize,
}

/// A model and what its callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Asr>>,
    pub front: Front,
}

/// One architecture.
pub struct Architecture {
    pub name: &'static str,
    /// Loads a folder, or a file of weights with what lies beside it, onto a device.
    pub load: fn(&Path, Format, &Device, Limits) -> Result<Loaded, Error>,
    /// What that will take, by the heads of the files.
    pub footprint: fn(&Path, Format, Limits, Size) -> Result<Footprint, Error>,
}

/// The architectures, a row each.
pub const REGISTRY: &[Architecture] =
    &[Architecture { name: "whisper", load: whisper::load, footprint: whisper::footprint }];

/// Loads a model with the architecture that it was installed as.
///
/// # Errors
/// An architecture that no row of [`REGISTRY`] has, or files that are missing or broken.
pub fn load(installed: &Installed, device: &Device, limits: Limits) -> Result<Loaded, Error> {
    (architecture(installed)?.load)(&installed.path, installed.format, device, limits)
}

/// What a model will take once it is loaded, by the heads of its files.
///
/// # Errors
/// An architecture that no row of [`REGISTRY`] has, or files that cannot be read.
pub fn footprint(installed: &Installed, limits: Limits, largest: Size) -> Result<Footprint, Error> {
    (architecture(installed)?.footprint)(&installed.path, installed.format, limits, largest)
}

fn architecture(installed: &Installed) -> Result<&'static Architecture, Error> {
    let found = REGISTRY.iter().find(|row| row.name == installed.architecture);
    found.ok_or_else(|| Error::Architecture {
        name: installed.architecture.clone(),
        known: REGISTRY.iter().map(|row| row.name).collect(),
    })
}
