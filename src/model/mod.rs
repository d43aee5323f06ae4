//! Networks: what they compute, not when. A model is loaded on a device's worker thread, stepped there, and
//! dropped there.
//!
//! Adding an architecture takes one folder below its kind, one row in that kind's `REGISTRY`, one manifest and
//! one golden file.

pub mod apart;
pub mod asr;
pub mod embed;
#[cfg(test)]
pub mod fake;
pub mod llm;
pub mod rerank;
pub mod segment;
pub mod speaker;
pub mod vad;
pub mod weights;
mod widths;

pub use widths::Widths;

use crate::types::model::Footprint;

/// A kind of network: the shape of one step.
pub trait Network: 'static {
    /// What a step computes on: plain arrays, no tensors.
    type Batch;
    /// What it gives, read back from the device.
    type Output;
}

/// How large a step may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Tokens, frames of sound or windows of it: what its scheduler counts.
    pub units: usize,
    /// Of a chat model, places that logits are wanted at.
    pub logits: usize,
    /// Whether a GPU computes it.
    pub gpu: bool,
}

impl Size {
    /// Bytes of a step whose units take so many each, on a CPU and on a GPU.
    fn bytes(self, a_unit: [u64; 2]) -> u64 {
        (self.units as u64).saturating_mul(a_unit[usize::from(self.gpu)])
    }
}

/// A loaded network.
pub trait Model<N: Network> {
    /// Computes one step. A batch that does not fit the model is an error and changes nothing.
    fn step(&mut self, batch: &N::Batch) -> Result<N::Output, Error>;

    /// What it takes of its device's memory, where no step is larger than `largest`.
    fn footprint(&self, largest: Size) -> Footprint;

    /// Nothing is under way: gives up the memory of past work that the next would take anew.
    fn rest(&mut self) {}
}

/// Why a model could not be loaded or stepped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files are damaged or not what the architecture needs.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error(transparent)]
    Tokenizer(#[from] llm::tokenizer::Error),
    #[error(transparent)]
    Embed(#[from] embed::Error),
    #[error(transparent)]
    Asr(#[from] asr::Error),
    #[error(transparent)]
    Vad(#[from] vad::Error),
    #[error(transparent)]
    Segment(#[from] segment::Error),
    #[error(transparent)]
    Speaker(#[from] speaker::Error),
    /// A setting in the model's own files cannot be used.
    #[error("{field}: {problem}")]
    Config { field: String, problem: String },
    /// No row of the registry.
    #[error("the architecture `{architecture}` ({format}) is not supported; supported: {}", supported.join(", "))]
    Architecture { architecture: String, format: &'static str, supported: Vec<&'static str> },
    /// The batch does not fit the model.
    #[error("{0}")]
    Batch(String),
    /// An operation failed on the device.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// A setting that cannot be used.
    pub fn config(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Config { field: field.into(), problem: problem.into() }
    }
}
