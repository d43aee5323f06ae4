//! Chat and completion models: decoders with a paged key-value cache.

mod calls;
pub mod decoder;
pub mod grammar;
pub mod guide;
pub mod logprobs;
pub mod output;
pub mod tokenizer;

use std::sync::Arc;

use candle_core::Device;

use super::weights::gguf::Gguf;
use super::{Error, Model, Network};
use crate::ops::KvType;
use crate::text::{ChatTemplate, Tokenizer};
use crate::types::model::{Format, Installed};

/// The network kind of this module.
#[derive(Debug)]
pub struct Llm;

impl Network for Llm {
    type Batch = Batch;
    type Output = Logits;
}

/// Tokens of several sequences, one after the other.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    pub tokens: Vec<u32>,
    /// One entry a sequence, in the order of its tokens.
    pub rows: Vec<Row>,
}

/// One sequence's share of a [`Batch`].
#[derive(Debug, Clone)]
pub struct Row {
    /// Tokens in this batch.
    pub len: usize,
    /// Position of the first of them; keys and values of all before are in the cache.
    pub start: usize,
    /// Cache blocks of positions 0, 32, 64, ..., long enough for these tokens.
    pub table: Vec<u32>,
    /// Tokens at its end after which logits are wanted.
    pub logits: usize,
}

/// Logits after the tokens for which they were wanted, in order: (tokens, vocabulary) f32.
#[derive(Debug)]
pub struct Logits {
    pub data: Vec<f32>,
    pub vocabulary: usize,
}

/// What callers need of a loaded model.
pub struct Front {
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    /// Compiles the forms that answers can be held to.
    pub grammars: grammar::Grammars,
    /// Positions a sequence may have on this machine.
    pub context: usize,
    /// Tokens that end an answer.
    pub stop: Arc<[u32]>,
}

/// What a decoder is given to work with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Cap on the context, whatever the model was trained for.
    pub context: usize,
    /// Bytes the key-value cache may take.
    pub cache_bytes: u64,
    /// How it keeps keys and values.
    pub cache: KvType,
    /// Exactly so many blocks, whatever that takes.
    pub blocks: Option<usize>,
}

/// A decoder and what its scheduler and callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Llm>>,
    pub front: Front,
    /// Blocks of [`crate::ops::KvCache::BLOCK`] positions in its cache.
    pub blocks: usize,
}

type Load = fn(Gguf, &Device, Limits) -> Result<(Box<dyn Model<Llm>>, Shape), Error>;

/// What loading tells of a decoder's size.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub context: usize,
    pub blocks: usize,
    pub vocabulary: usize,
}

/// One row an architecture, by the name in `general.architecture`.
const REGISTRY: &[(&str, Load)] = &[
    ("llama", decoder::load),
    ("qwen2", decoder::load),
    ("qwen3", decoder::load),
    ("qwen3moe", decoder::load),
    ("gemma3", decoder::load),
    ("phi3", decoder::load),
];

/// Names of the architectures that can be loaded.
pub fn architectures() -> Vec<&'static str> {
    REGISTRY.iter().map(|(name, _)| *name).collect()
}

/// Loads a GGUF file: weights, tokenizer and chat template.
pub fn load(installed: &Installed, device: &Device, limits: Limits) -> Result<Loaded, Error> {
    if installed.format != Format::Gguf {
        return Err(unsupported(&installed.architecture, installed.format));
    }
    let mut gguf = Gguf::open(&installed.path)?;
    let architecture = gguf.architecture()?.to_owned();
    let Some((_, load)) = REGISTRY.iter().find(|(name, _)| *name == architecture) else {
        return Err(unsupported(&architecture, installed.format));
    };
    let tokenizer = tokenizer::tokenizer(&gguf)?;
    let template = tokenizer::chat_template(&gguf, &tokenizer)?;
    tokenizer::LARGE_KEYS.iter().for_each(|key| gguf.forget(key));
    let (model, shape) = load(gguf, device, limits)?;
    if tokenizer.vocab_size() > shape.vocabulary {
        let problem = format!(
            "{} tokens, and the embedding table has {} rows",
            tokenizer.vocab_size(),
            shape.vocabulary
        );
        return Err(Error::config("tokenizer.ggml.tokens", problem));
    }
    let stop = tokenizer.ends().collect();
    let front = Front { tokenizer, template, grammars: Default::default(), context: shape.context, stop };
    Ok(Loaded { model, front, blocks: shape.blocks })
}

fn unsupported(architecture: &str, format: Format) -> Error {
    let supported = architectures();
    Error::Architecture { architecture: architecture.to_owned(), format: format.as_str(), supported }
}
