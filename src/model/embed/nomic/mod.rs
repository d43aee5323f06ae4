//! nomic-bert (Nussbaum et al., 2024): a post-norm encoder like BERT with rotary positions, a gated feed-forward layer
//! (SwiGLU) and no biases in its products.
//!
//! From a folder it computes in f32. From a GGUF file its matrices stay quantised as they lie there, and floats are
//! rounded to halves; norms and the vectors of token types are f32. Batches are ragged as those of
//! [`bert`](super::bert).

mod config;
mod source;
#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor};

use self::config::Config;
use self::source::{Named, Product, Table, Tensors};
use super::rows::{Norm, Ragged, check, in_passes};
use super::wordpiece::tokenizer;
use super::{Built, Embed, EmbedTokenizer, Error, Folder, Reader, Settings};
use crate::model::weights::gguf::{Field, Gguf};
use crate::model::{self, Model, Size};
use crate::ops::{self, Activation, Angles, Pooling, Rope, RopeStyle};
use crate::types::model::Footprint;

struct Layer {
    qkv: Product,
    attended: Product,
    attended_norm: Norm,
    /// The gate before the up projection.
    wide: Product,
    narrow: Product,
    narrow_norm: Norm,
}

/// A loaded nomic-bert.
pub struct NomicBert {
    config: Config,
    settings: Settings,
    device: Device,
    words: Table,
    /// The vector of token type 0, (1, hidden): a text alone has no other type.
    kind: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    rope: Rope,
}

fn norm(source: &dyn Tensors, name: &str, c: &Config, device: &Device) -> Result<Norm, Error> {
    let part = |end: &str| source.tensor(&format!("{name}.{end}"), &[c.hidden], device);
    Ok(Norm { weight: part("weight")?, bias: part("bias")?, eps: c.norm_eps })
}

impl Layer {
    fn load(source: &dyn Tensors, i: usize, c: &Config, device: &Device) -> Result<Layer, Error> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let product = |parts: &[(&str, usize)], inputs: usize| {
            let parts: Vec<(String, usize)> =
                parts.iter().map(|(part, outputs)| (name(&format!("{part}.weight")), *outputs)).collect();
            source.product(&parts, inputs, device)
        };
        Ok(Layer {
            qkv: product(&[("attn_qkv", 3 * c.hidden)], c.hidden)?,
            attended: product(&[("attn_output", c.hidden)], c.hidden)?,
            attended_norm: norm(source, &name("attn_output_norm"), c, device)?,
            wide: product(&[("ffn_gate", c.feed_forward), ("ffn_up", c.feed_forward)], c.hidden)?,
            narrow: product(&[("ffn_down", c.hidden)], c.feed_forward)?,
            narrow_norm: norm(source, &name("layer_output_norm"), c, device)?,
        })
    }
}

impl NomicBert {
    fn load(
        source: &dyn Tensors,
        config: Config,
        settings: Settings,
        device: &Device,
    ) -> Result<Self, Error> {
        let c = &config;
        let words = source.table("token_embd.weight", [c.vocabulary, c.hidden], device)?;
        let types = source.tensor("token_types.weight", &[c.types, c.hidden], device)?;
        let norm = norm(source, "token_embd_norm", c, device)?;
        let layers = (0..c.layers).map(|i| Layer::load(source, i, c, device)).collect::<Result<_, _>>()?;
        let angles = Angles::plain(c.rope_base, c.head_dim());
        let rope = Rope::new(RopeStyle::Halves, &angles, settings.max_tokens, device)?;
        let kind = types.narrow(0, 0, 1)?.contiguous()?;
        Ok(NomicBert { settings, device: device.clone(), words, kind, norm, layers, rope, config })
    }

    /// One vector of length 1 a row, in order. Rows are token ids with their special tokens.
    ///
    /// # Errors
    /// A row that is empty, longer than the model takes or holds an id past the vocabulary; a device that fails.
    pub fn embed(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        check(rows.iter().map(Vec::as_slice), self.settings.max_tokens, self.config.vocabulary)?;
        in_passes(rows, Vec::len, |pass| self.forward(&Ragged::new(pass.iter().map(Vec::as_slice))))
    }

    fn forward(&self, rows: &Ragged) -> Result<Vec<Vec<f32>>, Error> {
        let words = self.words.rows(&rows.ids, &self.device)?;
        let kinds = self.kind.broadcast_as(words.shape())?.contiguous()?;
        let mut x = self.norm.of_sum(&words, &kinds)?;
        let (heads, dim) = (self.config.heads, self.config.head_dim());
        let scale = (dim as f32).sqrt().recip();
        let positions = rows.positions();
        for layer in &self.layers {
            let qkv = layer.qkv.of(&x.clone().into())?;
            self.rope.apply(&qkv, 2 * heads, dim, &positions)?;
            let attended = ops::attention_varlen(&qkv, &rows.starts, heads, scale)?;
            x = layer.attended_norm.of_sum(&layer.attended.of(&attended.into())?, &x)?;
            let wide = ops::gated(&layer.wide.of(&x.clone().into())?, Activation::Silu)?;
            x = layer.narrow_norm.of_sum(&layer.narrow.of(&wide)?, &x)?;
        }
        Ok(ops::pool_rows(&x, &rows.starts, self.settings.pooling)?)
    }
}

/// The registry's entry for folders.
pub const FOLDER: Reader<Folder> =
    Reader { load, step_bytes: |folder, largest| Ok(Config::of_folder(folder)?.step_bytes(largest)) };
/// The registry's entry for GGUF files.
pub const GGUF: Reader<Gguf> =
    Reader { load: load_gguf, step_bytes: |gguf, largest| Ok(Config::of_gguf(gguf)?.step_bytes(largest)) };

/// Loads a folder and its tokenizer.
fn load(folder: &Folder, device: &Device) -> Result<Built, Error> {
    let config = Config::of_folder(folder)?;
    let settings = Settings::read(folder.dir(), config.positions, Pooling::Mean)?;
    let tokenizer = EmbedTokenizer::load(folder.dir(), settings.max_tokens, config.vocabulary)?;
    let model = NomicBert::load(&Named::new(folder), config, settings, device)?;
    Ok(Built { dimensions: model.config.hidden, tokenizer, model: Box::new(model) })
}

/// Loads a GGUF file, its vocabulary included.
fn load_gguf(gguf: &Gguf, device: &Device) -> Result<Built, Error> {
    let config = Config::of_gguf(gguf)?;
    let settings = Settings { pooling: pooling(gguf)?, max_tokens: config.positions.max(3) };
    let words = tokenizer(gguf)?;
    let path = gguf.path().to_owned();
    let tokenizer = EmbedTokenizer::new(path, words, settings.max_tokens, config.vocabulary)?;
    let model = NomicBert::load(gguf, config, settings, device)?;
    Ok(Built { dimensions: model.config.hidden, tokenizer, model: Box::new(model) })
}

/// `nomic-bert.pooling_type`, numbered as llama.cpp numbers it.
fn pooling(gguf: &Gguf) -> Result<Pooling, Error> {
    const FIELD: &str = "nomic-bert.pooling_type";
    match gguf.meta(FIELD).opt(Field::u32)? {
        None | Some(1) => Ok(Pooling::Mean),
        Some(2) => Ok(Pooling::First),
        Some(3) => Ok(Pooling::Last),
        Some(other) => Err(Error::Unsupported {
            path: gguf.path().to_owned(),
            field: FIELD,
            value: other.to_string(),
            remedy: "1 (mean), 2 (first token) and 3 (last token) are",
        }),
    }
}

impl Model<Embed> for NomicBert {
    fn step(&mut self, rows: &Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, model::Error> {
        Ok(self.embed(rows)?)
    }

    fn footprint(&self, largest: Size) -> Footprint {
        let of =
            |l: &Layer| [&l.qkv, &l.attended, &l.wide, &l.narrow].map(Product::bytes).iter().sum::<u64>();
        let weights = self.words.bytes() + self.layers.iter().map(of).sum::<u64>();
        Footprint { weights, cache: 0, step: self.config.step_bytes(largest) }
    }
}
