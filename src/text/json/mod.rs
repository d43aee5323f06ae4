//! Tokenizers of chat models that come as a `tokenizer.json`: BPE over bytes (Llama 3, Qwen, SmolLM2, Mistral's newer
//! models, Phi-4) and over characters with bytes for what is rare (Llama 2, Mistral, Gemma, Phi-3).
//!
//! Everything in the file that would change an id is read or refused by name. Two things are not as in the
//! `tokenizers` crate, on purpose: special tokens that ask to be matched in normalised text are matched in the text
//! itself, as newer versions of the same files have it; and those that end or frame a turn are control tokens even
//! where a file says that they are ordinary.

mod build;
mod file;
mod pipeline;

use std::path::Path;

use super::hf;
use super::{Error, Tokenizer};

/// A token as configurations name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    Text(&'a str),
    Id(u32),
}

/// What the files beside a `tokenizer.json` say of its tokens.
#[derive(Debug, Clone, Default)]
pub struct Roles<'a> {
    pub bos: Option<Named<'a>>,
    pub eos: Option<Named<'a>>,
    /// Tokens that end an answer, beside `eos` and those that are known by name.
    pub ends: Vec<u32>,
    /// Whether texts begin with `bos` and end with `eos`; `None` leaves it to the `tokenizer.json`.
    pub frame: Option<(bool, bool)>,
}

/// Reads a `tokenizer.json`.
///
/// # Errors
/// [`Error::Json`]: what in the file is damaged, contradicts itself, or is not supported.
pub fn open(path: &Path, roles: &Roles<'_>) -> Result<Tokenizer, Error> {
    let bytes = hf::read(path)?;
    parse(&bytes, roles).map_err(|problem| Error::Json { path: path.to_owned(), problem })
}

fn parse(bytes: &[u8], roles: &Roles<'_>) -> Result<Tokenizer, String> {
    build::tokenizer(&file::File::parse(bytes)?, roles)
}

#[cfg(test)]
mod tests;
