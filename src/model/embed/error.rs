//! What can go wrong between text and vector.

use std::path::PathBuf;

use crate::model::weights;

/// Why a model could not be loaded or a row not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the model's folder is missing, broken or of another shape.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// No row of the registry.
    #[error("{}: model_type: no architecture {name:?} for this kind of model; there are: {known}", path.display())]
    UnknownArchitecture { path: PathBuf, name: String, known: String },
    /// A setting whose effect nothing here computes.
    #[error("{}: {field}: {value} is not supported; {remedy}", path.display())]
    Unsupported { path: PathBuf, field: &'static str, value: String, remedy: &'static str },
    /// The tokenizer's file, or a text that it refuses.
    #[error("{}: {message}", path.display())]
    Tokenizer { path: PathBuf, message: String },
    /// A prompt that the model's files do not have.
    #[error("this model has no prompt {name:?}; it has: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    UnknownPrompt { name: String, known: Vec<String> },
    /// A text that would be cut and may not be.
    #[error("has more tokens than the {limit} that this model takes, those that frame it counted")]
    Cut { limit: usize },
    /// A row without a token.
    #[error("row {row} has no tokens")]
    EmptyRow { row: usize },
    /// A row that does not fit.
    #[error("row {row} has {tokens} tokens; this model takes {limit}")]
    TooLong { row: usize, tokens: usize, limit: usize },
    /// An id that the vocabulary does not have.
    #[error("token id {id} at position {position} is not in the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange { id: u32, position: usize, vocabulary: usize },
    /// The device refused.
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}
