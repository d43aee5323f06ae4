//! Chat and completion models: decoders with a paged key-value cache.

pub mod agree;
mod calls;
pub mod decoder;
pub mod draw;
pub mod grammar;
pub mod guide;
mod hf_tokenizer;
pub mod logprobs;
pub mod output;
mod reckon;
pub mod tokenizer;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use draw::Drawing;
pub use reckon::Grant;

use super::weights::gguf::Gguf;
use super::weights::safetensors::SafetensorsFolder;
use super::{Error, Model, Network};
use crate::ops::KvType;
use crate::text::{ChatTemplate, Tokenizer};
use crate::types::model::{Format, Installed, Quantise};

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
    /// What becomes of these.
    pub choice: Choice,
}

/// What a row's logits are wanted for: a device keeps those that it chooses from itself.
#[derive(Debug, Clone, Default)]
pub enum Choice {
    /// They are wanted themselves.
    #[default]
    Logits,
    /// Which is the largest.
    Largest,
    /// A token that is drawn, or the logits where the model or its device does not draw.
    Drawn(Box<Drawing>),
}

/// What was wanted of the tokens of a batch, in order.
#[derive(Debug)]
pub struct Logits {
    /// The token that was chosen at each place; `None` where the logits are given. Of one row all are the same.
    pub chosen: Vec<Option<u32>>,
    /// The logits at the other places: (places, vocabulary) f32.
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

/// How a decoder is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Cap on the context, whatever the model was trained for.
    pub context: usize,
    /// Blocks of [`crate::ops::KvCache::BLOCK`] positions in its key-value cache: [`Grant::reckon`] says how many.
    pub blocks: usize,
    /// How it keeps keys and values.
    pub cache: KvType,
    /// What matrices are rounded to that are floats in a folder's files.
    pub quantise: Quantise,
}

/// A decoder and what its scheduler and callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Llm>>,
    pub front: Front,
}

/// What loading tells of a decoder's size.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub context: usize,
    pub vocabulary: usize,
}

/// The architectures of GGUF files, by the name in `general.architecture`.
const GGUF: [&str; 6] = ["llama", "qwen2", "qwen3", "qwen3moe", "gemma3", "phi3"];

/// Names of the architectures that can be loaded from files of a format.
pub fn architectures(format: Format) -> &'static [&'static str] {
    match format {
        Format::Gguf => &GGUF,
        Format::Safetensors => &decoder::MODEL_TYPES,
        Format::CTranslate2 | Format::Torch | Format::Ggml => &[],
    }
}

/// Loads a model: weights, tokenizer and chat template.
pub fn load(installed: &Installed, device: &Device, limits: Limits) -> Result<Loaded, Error> {
    match installed.format {
        Format::Gguf => load_gguf(&installed.path, device, limits),
        Format::Safetensors => load_folder(&installed.path, device, limits),
        format => Err(unsupported(&installed.architecture, format)),
    }
}

fn load_gguf(path: &Path, device: &Device, limits: Limits) -> Result<Loaded, Error> {
    let mut gguf = Gguf::open(path)?;
    let architecture = gguf.architecture()?;
    if !GGUF.contains(&architecture) {
        return Err(unsupported(architecture, Format::Gguf));
    }
    let tokenizer = tokenizer::tokenizer(&gguf)?;
    let template = tokenizer::chat_template(&gguf, &tokenizer)?;
    tokenizer::LARGE_KEYS.iter().for_each(|key| gguf.forget(key));
    let (model, shape) = decoder::load(&gguf, device, limits)?;
    assemble(model, shape, tokenizer, template, "tokenizer.ggml.tokens")
}

fn load_folder(path: &Path, device: &Device, limits: Limits) -> Result<Loaded, Error> {
    let folder = SafetensorsFolder::open(path)?;
    let (tokenizer, template) = hf_tokenizer::read(path)?;
    let (model, shape) = decoder::load_folder(&folder, device, limits)?;
    assemble(model, shape, tokenizer, template, "tokenizer.json")
}

fn assemble(
    model: Box<dyn Model<Llm>>,
    shape: Shape,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    place: &str,
) -> Result<Loaded, Error> {
    if tokenizer.vocab_size() > shape.vocabulary {
        let problem = format!(
            "{} tokens, and the embedding table has {} rows",
            tokenizer.vocab_size(),
            shape.vocabulary
        );
        return Err(Error::config(place, problem));
    }
    let stop = tokenizer.ends().collect();
    let front = Front { tokenizer, template, grammars: Default::default(), context: shape.context, stop };
    Ok(Loaded { model, front })
}

fn unsupported(architecture: &str, format: Format) -> Error {
    let supported = architectures(format).to_vec();
    Error::Architecture { architecture: architecture.to_owned(), format: format.as_str(), supported }
}
