//! Whisper's decoder over rows of different sequences at different positions.
//!
//! The tokens of all rows are packed into one matrix, so every product runs once; only attention goes row by
//! row, over its slot's keys and values. Those lie in tensors of fixed size, written in place: a step
//! allocates nothing that grows with the sequence.

use candle_core::{DType, Device, Result, Tensor};

use super::config::Config;
use super::layers::{Matrix, Norm, Precision};
use super::weights::Source;
use crate::model::asr::Error;
use crate::ops;

pub(super) struct Decoder {
    /// `(vocab, width)`: the embedding and the projection to logits are the same matrix.
    embedding: ops::HalfLinear,
    /// `(text_context, width)`
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    heads: usize,
}

struct Block {
    self_norm: Norm,
    qkv: Matrix,
    self_out: Matrix,
    cross_norm: Norm,
    cross_q: Matrix,
    cross_kv: Matrix,
    cross_out: Matrix,
    ffn_norm: Norm,
    up: Matrix,
    down: Matrix,
}

/// Keys and values of one sequence: for each layer two of `(1, text_context, width)` for its own tokens, and
/// `(1, 1500, 2 x width)` for the window, keys beside values.
pub(super) struct Cache {
    own: Vec<(Tensor, Tensor)>,
    window: Vec<Tensor>,
}

impl Cache {
    /// Whether a window has been encoded into it.
    pub(super) fn has_window(&self) -> bool {
        !self.window.is_empty()
    }
}

/// Tokens to append to one sequence.
pub(super) struct Step<'a> {
    pub cache: &'a Cache,
    /// Not empty, each below the vocabulary's size.
    pub tokens: &'a [u32],
    /// Position of the first token; `position + tokens.len()` is within the context.
    pub position: usize,
}

impl Decoder {
    pub(super) fn load(
        source: &Source,
        config: &Config,
        precision: Precision,
        device: &Device,
    ) -> std::result::Result<Decoder, Error> {
        let width = config.width;
        let mut blocks = Vec::with_capacity(config.decoder_layers);
        for i in 0..config.decoder_layers {
            blocks.push(Block::load(source, config, i, precision, device)?);
        }
        let embedding = source.embedding(config)?;
        let positions = source.decoder_positions(config)?;
        Ok(Decoder {
            embedding: ops::HalfLinear::new(&embedding, None, config.vocab, width, device)?,
            positions: Tensor::from_vec(positions, (config.text_context, width), device)?,
            blocks,
            norm: source.norm("decoder/layer_norm", "model.decoder.layer_norm", width, device)?,
            heads: config.heads,
        })
    }

    /// Bytes that the weights take.
    pub(super) fn bytes(&self) -> usize {
        let block = |b: &Block| {
            let matrices = [&b.qkv, &b.self_out, &b.cross_q, &b.cross_kv, &b.cross_out, &b.up, &b.down];
            matrices.map(Matrix::bytes).iter().sum::<usize>()
        };
        self.embedding.bytes() + self.blocks.iter().map(block).sum::<usize>()
    }

    /// Room for one sequence.
    pub(super) fn cache(&self, config: &Config, device: &Device) -> Result<Cache> {
        let shape = (1, config.text_context, config.width);
        let room = || Tensor::zeros(shape, DType::F32, device);
        let own = (0..config.decoder_layers).map(|_| Ok((room()?, room()?))).collect::<Result<_>>()?;
        Ok(Cache { own, window: Vec::new() })
    }

    /// Computes a window's keys and values from the encoder's output `(1500, width)`.
    pub(super) fn set_window(&self, cache: &mut Cache, encoded: &Tensor) -> Result<()> {
        // Freed first: only one window's keys and values are held at a time.
        cache.window.clear();
        let encoded = encoded.unsqueeze(0)?;
        cache.window = self.blocks.iter().map(|b| b.cross_kv.forward(&encoded)).collect::<Result<_>>()?;
        Ok(())
    }

    /// Appends tokens to sequences, each in a cache of its own. Gives the logits `(wanted.len(), vocab)` at
    /// the places `wanted` in the packed tokens.
    pub(super) fn forward(&self, steps: &[Step<'_>], wanted: &[u32]) -> Result<Tensor> {
        let device = self.positions.device();
        let tokens: Vec<u32> = steps.iter().flat_map(|s| s.tokens.iter().copied()).collect();
        let positions: Vec<u32> =
            steps.iter().flat_map(|s| (s.position..s.position + s.tokens.len()).map(|p| p as u32)).collect();
        let count = tokens.len();
        let embedded = self.embedding.rows(&tokens)?;
        let mut x =
            (embedded + self.positions.index_select(&Tensor::from_vec(positions, count, device)?, 0)?)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, layer, steps, self.heads)?;
        }
        let x = match wanted.iter().map(|&w| w as usize).eq(0..count) {
            true => x,
            false => x.index_select(&Tensor::new(wanted, device)?, 0)?,
        };
        self.embedding.forward(&self.norm.forward(&x)?)
    }
}

impl Block {
    fn load(
        source: &Source,
        config: &Config,
        layer: usize,
        precision: Precision,
        device: &Device,
    ) -> std::result::Result<Block, Error> {
        let (ct2, hf) = (format!("decoder/layer_{layer}"), format!("model.decoder.layers.{layer}"));
        let (width, ffn) = (config.width, config.ffn);
        let linear = |name: &str,
                      hf_names: &[&str],
                      outputs,
                      inputs,
                      precision|
         -> std::result::Result<Matrix, Error> {
            let names: Vec<String> = hf_names.iter().map(|n| format!("{hf}.{n}")).collect();
            let linear = source.linear(&format!("{ct2}/{name}"), &names, outputs, inputs)?;
            Ok(Matrix::new(linear, precision, device)?)
        };
        let norm = |name: &str, hf_name: &str| {
            source.norm(&format!("{ct2}/{name}/layer_norm"), &format!("{hf}.{hf_name}"), width, device)
        };
        let p = precision;
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let kv = ["encoder_attn.k_proj", "encoder_attn.v_proj"];
        Ok(Block {
            self_norm: norm("self_attention", "self_attn_layer_norm")?,
            qkv: linear("self_attention/linear_0", &qkv, 3 * width, width, p)?,
            self_out: linear("self_attention/linear_1", &["self_attn.out_proj"], width, width, p)?,
            cross_norm: norm("attention", "encoder_attn_layer_norm")?,
            cross_q: linear("attention/linear_0", &["encoder_attn.q_proj"], width, width, p)?,
            // Runs over a whole window at once: bound by arithmetic, so kept exact.
            cross_kv: linear("attention/linear_1", &kv, 2 * width, width, Precision::F32)?,
            cross_out: linear("attention/linear_2", &["encoder_attn.out_proj"], width, width, p)?,
            ffn_norm: norm("ffn", "final_layer_norm")?,
            up: linear("ffn/linear_0", &["fc1"], ffn, width, p)?,
            down: linear("ffn/linear_1", &["fc2"], width, ffn, p)?,
        })
    }

    fn forward(&self, x: &Tensor, layer: usize, steps: &[Step<'_>], heads: usize) -> Result<Tensor> {
        let own = self.attend_own(&self.self_norm.forward(x)?, layer, steps, heads)?;
        let x = (x + self.self_out.forward(&own)?)?;
        let window = self.attend_window(&self.cross_norm.forward(&x)?, layer, steps, heads)?;
        let x = (x + self.cross_out.forward(&window)?)?;
        let hidden = self.up.forward_gelu(&self.ffn_norm.forward(&x)?)?;
        x + self.down.forward(&hidden)?
    }

    /// Self-attention: writes the new keys and values into the slots, then attends to all up to them.
    fn attend_own(&self, x: &Tensor, layer: usize, steps: &[Step<'_>], heads: usize) -> Result<Tensor> {
        let (_, width) = x.dims2()?;
        let qkv = self.qkv.forward(x)?.unsqueeze(0)?;
        let mask = ops::Mask { kv_lens: None, causal: true };
        per_row(steps, |step, from, len| {
            let row = qkv.narrow(1, from, len)?;
            let (keys, values) = &step.cache.own[layer];
            keys.slice_set(&row.narrow(2, width, width)?.contiguous()?, 1, step.position)?;
            values.slice_set(&row.narrow(2, 2 * width, width)?.contiguous()?, 1, step.position)?;
            let end = step.position + len;
            let (keys, values) = (keys.narrow(1, 0, end)?, values.narrow(1, 0, end)?);
            ops::attention(&row.narrow(2, 0, width)?, &keys, &values, heads, scale(width, heads), mask)
        })
    }

    fn attend_window(&self, x: &Tensor, layer: usize, steps: &[Step<'_>], heads: usize) -> Result<Tensor> {
        let (_, width) = x.dims2()?;
        let q = self.cross_q.forward(x)?.unsqueeze(0)?;
        per_row(steps, |step, from, len| {
            let kv = &step.cache.window[layer];
            let (keys, values) = (kv.narrow(2, 0, width)?, kv.narrow(2, width, width)?);
            let mask = ops::Mask::default();
            ops::attention(&q.narrow(1, from, len)?, &keys, &values, heads, scale(width, heads), mask)
        })
    }
}

fn scale(width: usize, heads: usize) -> f32 {
    1.0 / ((width / heads) as f32).sqrt()
}

/// Runs `attend(step, first packed token, tokens)` for each row and packs the results again.
fn per_row(
    steps: &[Step<'_>],
    mut attend: impl FnMut(&Step<'_>, usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut from = 0;
    let mut outputs = Vec::with_capacity(steps.len());
    for step in steps {
        outputs.push(attend(step, from, step.tokens.len())?);
        from += step.tokens.len();
    }
    match outputs.len() {
        1 => outputs.swap_remove(0).squeeze(0),
        _ => Tensor::cat(&outputs, 1)?.squeeze(0),
    }
}
