//! Where a nomic-bert's tensors come from, by the names that GGUF files have for them.
//!
//! | in a GGUF file | in a folder | shape |
//! |---|---|---|
//! | `token_embd` | `embeddings.word_embeddings` | (vocabulary, hidden) |
//! | `token_types` | `embeddings.token_type_embeddings` | (types, hidden) |
//! | `token_embd_norm` | `emb_ln` | (hidden) |
//! | `blk.I.attn_qkv` | `encoder.layers.I.attn.Wqkv` | (3 hidden, hidden): queries, keys, values |
//! | `blk.I.attn_output` | `encoder.layers.I.attn.out_proj` | (hidden, hidden) |
//! | `blk.I.attn_output_norm` | `encoder.layers.I.norm1` | (hidden) |
//! | `blk.I.ffn_up` | `encoder.layers.I.mlp.fc11` | (feed-forward, hidden) |
//! | `blk.I.ffn_gate` | `encoder.layers.I.mlp.fc12`, which goes through the SiLU | (feed-forward, hidden) |
//! | `blk.I.ffn_down` | `encoder.layers.I.mlp.fc2` | (hidden, feed-forward) |
//! | `blk.I.layer_output_norm` | `encoder.layers.I.norm2` | (hidden) |
//!
//! Sources: transformers' conversion of the published weights to its own names, and the tensor names of llama.cpp's
//! `gguf` package; both say which of `fc11` and `fc12` is the gate.

use candle_core::{Device, Result as TensorResult, Tensor};

use crate::model::embed::{Error, Folder};
use crate::model::weights::gguf::Gguf;
use crate::ops::{self, Input, Linear, QEmbedding, QLinear};

/// A product with a matrix, or with several side by side.
pub(super) enum Product {
    Float(Linear),
    /// Quantised as in the file, and halves where it has floats.
    Packed(QLinear),
}

impl Product {
    /// `x` (tokens, inputs) f32 to (tokens, outputs) f32.
    pub fn of(&self, x: &Input) -> TensorResult<Tensor> {
        match self {
            Product::Float(linear) => ops::linear(x.values(), linear),
            Product::Packed(linear) => linear.forward(x),
        }
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Product::Float(linear) => linear.bytes() as u64,
            Product::Packed(linear) => linear.bytes(),
        }
    }
}

/// The table of token vectors.
pub(super) enum Table {
    Float(Tensor),
    Packed(QEmbedding),
}

impl Table {
    /// The rows of `ids`, (tokens, hidden) f32.
    pub fn rows(&self, ids: &[u32], device: &Device) -> TensorResult<Tensor> {
        match self {
            Table::Float(table) => table.index_select(&Tensor::new(ids, device)?, 0),
            Table::Packed(table) => table.forward(ids, device),
        }
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Table::Float(table) => (table.elem_count() * size_of::<f32>()) as u64,
            Table::Packed(table) => table.bytes(),
        }
    }
}

/// Tensors by the names above, `.weight` and `.bias` included.
pub(super) trait Tensors {
    /// A tensor of this shape as f32.
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, Error>;

    /// Matrices that share their input: `(name, outputs)` of each.
    fn product(&self, parts: &[(String, usize)], inputs: usize, device: &Device) -> Result<Product, Error>;

    /// A matrix of which rows are looked up.
    fn table(&self, name: &str, shape: [usize; 2], device: &Device) -> Result<Table, Error>;
}

/// What stands before the names in a folder: nothing, or in a task model's files the encoder's own name.
const PREFIXES: [&str; 3] = ["", "nomic_bert.", "bert."];

/// A folder's tensors.
pub(super) struct Named<'f> {
    folder: &'f Folder,
    prefix: &'static str,
}

impl<'f> Named<'f> {
    pub fn new(folder: &'f Folder) -> Self {
        Named { prefix: folder.prefix(&PREFIXES, "embeddings.word_embeddings.weight"), folder }
    }

    fn name(&self, name: &str) -> String {
        let (part, end) = name.rsplit_once('.').unwrap_or((name, ""));
        let (layer, part) = match part.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((i, part)) => (format!("encoder.layers.{i}."), part),
            None => (String::new(), part),
        };
        let part = match part {
            "token_embd" => "embeddings.word_embeddings",
            "token_types" => "embeddings.token_type_embeddings",
            "token_embd_norm" => "emb_ln",
            "attn_qkv" => "attn.Wqkv",
            "attn_output" => "attn.out_proj",
            "attn_output_norm" => "norm1",
            "ffn_up" => "mlp.fc11",
            "ffn_gate" => "mlp.fc12",
            "ffn_down" => "mlp.fc2",
            "layer_output_norm" => "norm2",
            other => other,
        };
        format!("{}{layer}{part}.{end}", self.prefix)
    }
}

impl Tensors for Named<'_> {
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, Error> {
        self.folder.tensor(&self.name(name), shape, device)
    }

    fn product(&self, parts: &[(String, usize)], inputs: usize, device: &Device) -> Result<Product, Error> {
        let weights = parts.iter().map(|(name, outputs)| self.tensor(name, &[*outputs, inputs], device));
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let layers: Vec<(&Tensor, Option<&Tensor>)> = weights.iter().map(|weight| (weight, None)).collect();
        Ok(Product::Float(Linear::fused(&layers)?))
    }

    fn table(&self, name: &str, shape: [usize; 2], device: &Device) -> Result<Table, Error> {
        Ok(Table::Float(self.tensor(name, &shape, device)?))
    }
}

impl Tensors for Gguf {
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, Error> {
        Ok(self.tensor_f32(name, shape, device)?)
    }

    fn product(&self, parts: &[(String, usize)], inputs: usize, device: &Device) -> Result<Product, Error> {
        let weights =
            parts.iter().map(|(name, outputs)| self.qweight_shaped(name, [*outputs, inputs], device));
        Ok(Product::Packed(QLinear::new(weights.collect::<Result<_, _>>()?)?))
    }

    fn table(&self, name: &str, shape: [usize; 2], device: &Device) -> Result<Table, Error> {
        Ok(Table::Packed(QEmbedding::new(self.qweight_shaped(name, shape, device)?)?))
    }
}
