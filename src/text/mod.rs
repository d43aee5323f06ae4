//! Text to tokens and back: tokenizers, chat templates, UTF-8 safe detokenising, stop strings.
//!
//! The tokenizers of chat models are our own: the two families that GGUF files carry (byte-level BPE and
//! SentencePiece), whose ids equal llama.cpp's, and those of a `tokenizer.json` ([`json`]), whose ids equal the
//! `tokenizers` crate's. Other models' go through that crate ([`hf`]).
//!
//! Text from outside never becomes a control token: [`Tokenizer::encode`] parses them only where told to, and
//! [`chat::encode`] parses those of the template and not those inside messages.

mod build;
pub mod chat;
mod detokenize;
mod error;
pub mod hf;
pub mod json;
mod merge;
mod pretokenize;
mod python;
mod ranked;
mod spec;
mod stop;
mod template;
pub mod think;
mod tokenizer;
pub mod tools;
mod vocab;

pub use detokenize::{Detokenizer, Lead};
pub use error::Error;
pub use spec::{Family, TokenKind, TokenizerSpec};
pub use stop::StopMatcher;
pub use template::{ChatTemplate, RenderOptions};
pub use tokenizer::{Special, Tokenizer};
