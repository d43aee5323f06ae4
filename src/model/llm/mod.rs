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
pub mod tokenizer;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use draw::Drawing;

use super::weights::gguf::Gguf;
use super::weights::safetensors::SafetensorsFolder;
use super::{Error, Model, Network, Size};
use crate::ops::{KvCache, KvType};
use crate::text::{ChatTemplate, Tokenizer};
use crate::types::model::{Footprint, Format, Installed, Quantise};

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
    /// Bytes that weights, cache and a step may take together: where the cache would be too large for that, it is smaller,
    /// and with it the context.
    pub room: u64,
    /// What matrices are rounded to that are floats in a folder's files.
    pub quantise: Quantise,
}

/// A decoder and what its scheduler and callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Llm>>,
    pub front: Front,
    /// Blocks of [`crate::ops::KvCache::BLOCK`] positions in its cache.
    pub blocks: usize,
}

/// What loading tells of a decoder's size.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub context: usize,
    pub blocks: usize,
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
    Ok(Loaded { model, front, blocks: shape.blocks })
}

/// What a model will take once it is loaded, and the blocks of its cache, by the heads of its files.
///
/// # Errors
/// Files that cannot be read, or that nothing here can load.
pub fn footprint(installed: &Installed, limits: Limits, largest: Size) -> Result<(Footprint, usize), Error> {
    let (config, bytes) = match installed.format {
        Format::Gguf => (decoder::config(&Gguf::open(&installed.path)?, limits)?, installed.bytes),
        Format::Safetensors => {
            let folder = SafetensorsFolder::open(&installed.path)?;
            (decoder::folder_config(&folder, limits)?, folder_bytes(&folder, limits.quantise))
        }
        format => return Err(unsupported(&installed.architecture, format)),
    };
    // On a GPU weights keep their size to the byte; a CPU reads some in an order that takes a little more.
    let weights = if largest.gpu { bytes } else { bytes.saturating_add(bytes / 16) };
    let weights = weights.saturating_add(config.recorded_bytes(largest));
    let step = config.step_bytes(largest);
    let kept = if largest.gpu { KvType::F16 } else { limits.cache };
    let blocks = config.blocks(limits, kept, weights.saturating_add(step));
    let cache = (blocks as u64).saturating_mul(config.block_bytes(kept));
    Ok((Footprint { weights, cache, step }, blocks))
}

/// Bytes of the cache of a model of which is known what a token leaves there as halves, the tokens that it takes, and what
/// it takes besides.
pub fn cache_bytes(token_bytes: u64, tokens: u64, limits: Limits, gpu: bool, others: u64) -> u64 {
    let halves = token_bytes.saturating_mul(KvCache::BLOCK as u64);
    let block = match limits.cache {
        KvType::F32 if !gpu => halves.saturating_mul(2),
        // A scale for each head's values beside them.
        KvType::Q8 if !gpu => halves / 2 + halves / 32,
        _ => halves,
    };
    let positions = usize::try_from(tokens).unwrap_or(usize::MAX).min(limits.context.max(1));
    let blocks = decoder::config::blocks(block, positions, limits, others);
    (blocks as u64).saturating_mul(block)
}

/// Bytes that the weights of a folder take once they are loaded.
fn folder_bytes(folder: &SafetensorsFolder, quantise: Quantise) -> u64 {
    let bytes = |shape: &[usize]| {
        let count = shape.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64));
        match (shape, quantise) {
            ([_], _) => count.saturating_mul(4),
            ([.., inputs], Quantise::Q8_0) if inputs.is_multiple_of(32) => count.saturating_mul(34) / 32,
            _ => count.saturating_mul(2),
        }
    };
    let shapes = folder.names().filter_map(|name| folder.shape(name));
    shapes.map(bytes).fold(0, u64::saturating_add)
}

fn unsupported(architecture: &str, format: Format) -> Error {
    let supported = architectures(format).to_vec();
    Error::Architecture { architecture: architecture.to_owned(), format: format.as_str(), supported }
}
