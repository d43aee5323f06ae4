//! Qwen3-Embedding (Zhang et al., 2025): a Qwen3 decoder that looks back only, whose vector of the last token is the
//! text's.
//!
//! Pre-norm with RMS norms, those of queries and keys included, rotary positions, grouped-query attention and SwiGLU, in
//! f32. The chat decoder of [`llm`](crate::model::llm) is not used: it keeps what it reads in a cache of blocks, which
//! one pass over a text does not need.
//!
//! Query heads are put in another order as they are loaded: the first of every key-value head's group, then the second
//! of every group, and so on. So a slice of queries as wide as the keys has one query head a key-value head, and
//! attention reads both in place, once for each slice.

mod config;
#[cfg(test)]
mod tests;

use candle_core::{Device, Result as TensorResult, Tensor};

use self::config::Config;
use super::rows::{Ragged, TOKENS_A_PASS, check, in_passes};
use super::{Built, Embed, EmbedTokenizer, Error, Folder, Reader, Settings};
use crate::model::{self, Model, Size};
use crate::ops::{self, Activation, Angles, Linear, Mask, Pooling, Rope, RopeStyle};
use crate::types::model::Footprint;

/// What stands before the names of tensors: nothing, or in a task model's files the decoder's own name.
const PREFIXES: [&str; 2] = ["", "model."];

struct Layer {
    attention_norm: Tensor,
    /// Queries in the order above, keys, values.
    qkv: Linear,
    query_norm: Tensor,
    key_norm: Tensor,
    attended: Linear,
    feed_norm: Tensor,
    /// The gate before the up projection.
    wide: Linear,
    narrow: Linear,
}

/// A loaded Qwen3.
pub struct Qwen3 {
    config: Config,
    settings: Settings,
    device: Device,
    words: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    rope: Rope,
}

/// Reads tensors below a prefix.
struct Weights<'a> {
    folder: &'a Folder,
    prefix: &'static str,
    device: &'a Device,
    config: &'a Config,
}

impl Weights<'_> {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        self.folder.tensor(&format!("{}{name}", self.prefix), shape, self.device)
    }

    fn layer(&self, i: usize) -> Result<Layer, Error> {
        let c = self.config;
        let get = |name: &str, shape: &[usize]| self.get(&format!("layers.{i}.{name}.weight"), shape);
        let (hidden, dim, wide) = (c.hidden_size, c.head_dim, c.intermediate_size);
        let (kv, group) = (c.num_key_value_heads, c.group());
        let q = get("self_attn.q_proj", &[c.queries(), hidden])?;
        let q = q.reshape((kv, group, dim, hidden))?.transpose(0, 1)?.reshape((c.queries(), hidden))?;
        let k = get("self_attn.k_proj", &[c.keys(), hidden])?;
        let v = get("self_attn.v_proj", &[c.keys(), hidden])?;
        let o = get("self_attn.o_proj", &[hidden, c.queries()])?;
        let o = o.reshape((hidden, kv, group, dim))?.transpose(1, 2)?.reshape((hidden, c.queries()))?;
        let (gate, up) = (get("mlp.gate_proj", &[wide, hidden])?, get("mlp.up_proj", &[wide, hidden])?);
        Ok(Layer {
            attention_norm: get("input_layernorm", &[hidden])?,
            qkv: Linear::fused(&[(&q, None), (&k, None), (&v, None)])?,
            query_norm: get("self_attn.q_norm", &[dim])?,
            key_norm: get("self_attn.k_norm", &[dim])?,
            attended: Linear::new(&o, None)?,
            feed_norm: get("post_attention_layernorm", &[hidden])?,
            wide: Linear::fused(&[(&gate, None), (&up, None)])?,
            narrow: Linear::new(&get("mlp.down_proj", &[hidden, wide])?, None)?,
        })
    }
}

impl Qwen3 {
    /// Loads a folder in f32. Memory: the weights once, and one layer's again while it loads.
    ///
    /// # Errors
    /// Files that are missing, broken or not a Qwen3's; a device without room.
    pub fn load(folder: &Folder, device: &Device) -> Result<Self, Error> {
        let config = Config::read(folder)?;
        let settings = Settings::read(folder.dir(), config.max_position_embeddings, Pooling::Last)?;
        let prefix = folder.prefix(&PREFIXES, "embed_tokens.weight");
        let weights = Weights { folder, prefix, device, config: &config };
        let hidden = config.hidden_size;
        let words = weights.get("embed_tokens.weight", &[config.vocab_size, hidden])?;
        let layers = (0..config.num_hidden_layers).map(|i| weights.layer(i)).collect::<Result<_, _>>()?;
        let norm = weights.get("norm.weight", &[hidden])?;
        let angles = Angles::plain(config.rope_base(), config.head_dim);
        let rope = Rope::new(RopeStyle::Halves, &angles, settings.max_tokens, device)?;
        Ok(Qwen3 { settings, device: device.clone(), words, layers, norm, rope, config })
    }

    /// One vector of length 1 a row, in order. Rows are token ids with their special tokens.
    ///
    /// # Errors
    /// A row that is empty, longer than the model takes or holds an id past the vocabulary; a device that fails.
    pub fn embed(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        check(rows.iter().map(Vec::as_slice), self.settings.max_tokens, self.config.vocab_size)?;
        in_passes(rows, Vec::len, |pass| {
            let rows = Ragged::new(pass.iter().map(Vec::as_slice));
            Ok(ops::pool_rows(&self.forward(&rows)?, &rows.starts, self.settings.pooling)?)
        })
    }

    /// The last layer's output, normalised: (tokens, hidden).
    fn forward(&self, rows: &Ragged) -> TensorResult<Tensor> {
        let (c, eps) = (&self.config, self.config.rms_norm_eps);
        let ids = Tensor::new(rows.ids.as_slice(), &self.device)?;
        let positions = rows.positions();
        let mut x = self.words.index_select(&ids, 0)?;
        let mut normed = match self.layers.first() {
            Some(layer) => ops::rms_norm(&x, &layer.attention_norm, eps)?,
            None => x.clone().into(),
        };
        for (i, layer) in self.layers.iter().enumerate() {
            let qkv = ops::linear(normed.values(), &layer.qkv)?;
            ops::rms_norm_heads(&qkv, 0, c.num_attention_heads, &layer.query_norm, eps)?;
            ops::rms_norm_heads(&qkv, c.queries(), c.num_key_value_heads, &layer.key_norm, eps)?;
            self.rope.apply(&qkv, c.num_attention_heads + c.num_key_value_heads, c.head_dim, &positions)?;
            let attended = ops::linear(&self.attend(&qkv, rows)?, &layer.attended)?;
            let (sum, inner) = ops::add_rms_norm(&attended, &x, &layer.feed_norm, eps)?;
            let next = self.layers.get(i + 1).map_or(&self.norm, |next| &next.attention_norm);
            (x, normed) = ops::add_rms_norm(&feed(inner.values(), layer)?, &sum, next, eps)?;
        }
        Ok(normed.values().clone())
    }

    /// Each token over those of its row up to itself: (tokens, queries), heads in the order of the projection.
    fn attend(&self, qkv: &Tensor, rows: &Ragged) -> TensorResult<Tensor> {
        let (c, width) = (&self.config, self.config.keys());
        let scale = (c.head_dim as f32).sqrt().recip();
        let mask = Mask { causal: true, ..Mask::default() };
        let mut parts = Vec::with_capacity(rows.starts.len());
        for row in rows.starts.windows(2) {
            let row = qkv.narrow(0, row[0], row[1] - row[0])?.unsqueeze(0)?;
            let (k, v) = (row.narrow(2, c.queries(), width)?, row.narrow(2, c.queries() + width, width)?);
            let slices = (0..c.group()).map(|at| {
                let q = row.narrow(2, at * width, width)?;
                ops::attention(&q, &k, &v, c.num_key_value_heads, scale, mask)
            });
            let slices = slices.collect::<TensorResult<Vec<_>>>()?;
            parts.push(Tensor::cat(&slices, 2)?.squeeze(0)?);
        }
        Tensor::cat(&parts, 0)
    }
}

/// The feed-forward layer, over so many tokens at a time that its width bounds what it takes, however long a row is.
fn feed(x: &Tensor, layer: &Layer) -> TensorResult<Tensor> {
    let tokens = x.dim(0)?;
    let part = |x: &Tensor| {
        let gated = ops::gated(&ops::linear(x, &layer.wide)?, Activation::Silu)?;
        ops::linear(gated.values(), &layer.narrow)
    };
    if tokens <= TOKENS_A_PASS {
        return part(x);
    }
    let starts = (0..tokens).step_by(TOKENS_A_PASS);
    let parts = starts.map(|at| part(&x.narrow(0, at, TOKENS_A_PASS.min(tokens - at))?));
    Tensor::cat(&parts.collect::<TensorResult<Vec<_>>>()?, 0)
}

/// The registry's entry.
pub const FOLDER: Reader<Folder> =
    Reader { load, step_bytes: |folder, largest| Ok(Config::read(folder)?.step_bytes(largest)) };

/// Loads a folder and its tokenizer.
fn load(folder: &Folder, device: &Device) -> Result<Built, Error> {
    let model = Qwen3::load(folder, device)?;
    let (max_tokens, vocabulary) = (model.settings.max_tokens, model.config.vocab_size);
    let tokenizer = EmbedTokenizer::load(folder.dir(), max_tokens, vocabulary)?;
    Ok(Built { dimensions: model.config.hidden_size, tokenizer, model: Box::new(model) })
}

impl Model<Embed> for Qwen3 {
    fn step(&mut self, rows: &Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, model::Error> {
        Ok(self.embed(rows)?)
    }

    fn footprint(&self, largest: Size) -> Footprint {
        let of =
            |l: &Layer| [&l.qkv, &l.attended, &l.wide, &l.narrow].map(Linear::bytes).iter().sum::<usize>();
        let words = self.words.elem_count() * size_of::<f32>();
        let weights = (words + self.layers.iter().map(of).sum::<usize>()) as u64;
        Footprint { weights, cache: 0, step: self.config.step_bytes(largest) }
    }
}
