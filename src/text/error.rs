//! What can go wrong between text and tokens.

use std::path::PathBuf;

/// Why a tokenizer could not be built, or text not encoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The vocabulary contradicts itself.
    #[error("tokenizer: {field}: {problem}; the model's file is damaged or was converted wrongly")]
    Spec { field: &'static str, problem: String },
    /// A pre-tokenizer that nobody here knows: guessing would give the model other tokens than it learned.
    #[error("tokenizer: the pre-tokenizer {0:?} is not supported; convert the model with a known one")]
    PreTokenizer(String),
    /// More text than the limit can hold.
    #[error("the text has at least {at_least} tokens where {limit} fit")]
    TooLong { at_least: usize, limit: usize },
    /// A `tokenizer.json` that cannot be used.
    #[error("{}: {problem}", path.display())]
    Json { path: PathBuf, problem: String },
    /// The chat template does not parse, or refused the messages.
    #[error("chat template, line {line}: {message}")]
    Template { line: usize, message: String },
    /// Encoding failed inside a `tokenizer.json`'s own pipeline.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
}
