//! Whisper's decoder over rows of different sequences at different positions.
//!
//! The tokens of all rows are packed into one matrix, so every product runs once. A row's own keys and values lie in
//! blocks of the paged cache that the chat models have; those of its window in a slot of the cross cache, which rows
//! of one window (the beams of a search) read together.

use candle_core::{Device, Result, Tensor};

use super::config::Config;
use super::layers::{Matrix, Norm, Table};
use super::weights::Source;
use crate::model::asr::{Alignment, Error, Row, Want};
use crate::ops::{self, CrossCache, KvCache, Rows, Sight, Span};
use crate::types::model::Precision;

pub(super) struct Decoder {
    /// `(vocab, width)`: the embedding and the projection to logits are the same matrix.
    embedding: Table,
    /// `(text_context, width)`
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    heads: usize,
    /// By layer, the heads that follow the speech.
    alignment_heads: Vec<Vec<usize>>,
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

/// A step: its rows, and where their keys and values lie.
struct Step<'a> {
    rows: &'a [Row],
    own: &'a KvCache,
    heard: &'a CrossCache,
    paged: Vec<Rows<'a>>,
    spans: Vec<Span>,
    /// Of each token, its place in the blocks.
    slots: Vec<u32>,
}

/// What a step gave.
pub(super) struct Output {
    /// Logits of the places asked for, `(places, vocab)`; `None` if none were.
    pub logits: Option<Tensor>,
    /// Of the rows that want one, in order.
    pub alignments: Vec<Alignment>,
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
        let mut alignment_heads = vec![Vec::new(); config.decoder_layers];
        for &(layer, head) in &config.alignment_heads {
            if let Some(heads) = alignment_heads.get_mut(layer) {
                heads.push(head);
            }
        }
        Ok(Decoder {
            embedding: Table::new(embedding, (config.vocab, width), precision, device)?,
            positions: Tensor::from_vec(positions, (config.text_context, width), device)?,
            blocks,
            norm: source.norm("decoder/layer_norm", "model.decoder.layer_norm", width, device)?,
            heads: config.heads,
            alignment_heads,
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

    /// Computes a window's keys and values from the encoder's output `(1500, width)` into a slot.
    pub(super) fn hear(&self, heard: &mut CrossCache, slot: usize, encoded: &Tensor) -> Result<()> {
        heard.write(slot, self.blocks.iter().map(|b| b.cross_kv.forward(encoded)))
    }

    /// Appends the rows' tokens to their sequences. `wanted` are places in the packed tokens, ascending.
    pub(super) fn forward(
        &self,
        rows: &[Row],
        own: &KvCache,
        heard: &CrossCache,
        wanted: &[u32],
    ) -> Result<Output> {
        let device = self.positions.device();
        let tokens: Vec<u32> = rows.iter().flat_map(|r| r.tokens.iter().copied()).collect();
        let positions: Vec<u32> =
            rows.iter().flat_map(|r| (r.position..r.position + r.tokens.len()).map(|p| p as u32)).collect();
        let count = tokens.len();
        let step = Step::new(rows, own, heard);
        let embedded = self.embedding.rows(&tokens, device)?;
        let mut x =
            (embedded + self.positions.index_select(&Tensor::from_vec(positions, count, device)?, 0)?)?;
        let mut weights = vec![Vec::new(); rows.len()];
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, layer, &step, self.heads, &self.alignment_heads[layer], &mut weights)?;
        }
        let heads = self.alignment_heads.iter().map(Vec::len).sum();
        let aligned = rows.iter().zip(weights).filter_map(|(row, weights)| match row.want {
            Want::Alignment { keys, .. } => {
                let tokens = row.tokens.len();
                Some(Alignment { heads, tokens, keys, weights, probabilities: Vec::new() })
            }
            _ => None,
        });
        let alignments = aligned.collect();
        if wanted.is_empty() {
            return Ok(Output { logits: None, alignments });
        }
        let x = match wanted.iter().map(|&w| w as usize).eq(0..count) {
            true => x,
            false => x.index_select(&Tensor::new(wanted, device)?, 0)?,
        };
        Ok(Output { logits: Some(self.embedding.logits(&self.norm.forward(&x)?)?), alignments })
    }
}

impl<'a> Step<'a> {
    fn new(rows: &'a [Row], own: &'a KvCache, heard: &'a CrossCache) -> Step<'a> {
        let (mut paged, mut spans, mut slots) =
            (Vec::with_capacity(rows.len()), Vec::<Span>::new(), Vec::new());
        let mut first = 0;
        for row in rows {
            let len = row.tokens.len();
            paged.push(Rows { first, len, start: row.position, table: &row.table });
            let place = |p: usize| {
                row.table[p / KvCache::BLOCK] * KvCache::BLOCK as u32 + (p % KvCache::BLOCK) as u32
            };
            slots.extend((row.position..row.position + len).map(place));
            match spans.last_mut() {
                Some(last) if last.slot == row.slot => last.len += len,
                _ => spans.push(Span { slot: row.slot, first, len }),
            }
            first += len;
        }
        Step { rows, own, heard, paged, spans, slots }
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

    /// Rows that want an alignment find the weights of `aligned` heads added to theirs.
    fn forward(
        &self,
        x: &Tensor,
        layer: usize,
        step: &Step<'_>,
        heads: usize,
        aligned: &[usize],
        weights: &mut [Vec<f32>],
    ) -> Result<Tensor> {
        let scale = scale(x.dim(1)?, heads);
        let own = self.attend_own(&self.self_norm.forward(x)?, layer, step, heads, scale)?;
        let (x, inner) = self.cross_norm.of_sum(x, &self.self_out.forward(&own)?)?;
        let q = self.cross_q.forward(&inner)?;
        for ((row, rows), weights) in step.rows.iter().zip(&step.paged).zip(weights) {
            if let Want::Alignment { keys, .. } = row.want
                && !aligned.is_empty()
            {
                let span = Span { slot: row.slot, first: rows.first, len: rows.len };
                weights.extend(step.heard.weights(layer, &q, scale, span, aligned, keys)?);
            }
        }
        let heard = step.heard.attend(layer, &q, scale, &step.spans)?;
        let (x, inner) = self.ffn_norm.of_sum(&x, &self.cross_out.forward(&heard)?)?;
        let hidden = self.up.forward_gelu(&inner)?;
        x + self.down.forward(&hidden)?
    }

    /// Self-attention: writes the new keys and values into the blocks, then attends to all up to them.
    fn attend_own(
        &self,
        x: &Tensor,
        layer: usize,
        step: &Step<'_>,
        heads: usize,
        scale: f32,
    ) -> Result<Tensor> {
        let qkv = self.qkv.forward(x)?;
        step.own.write(layer, &qkv, x.dim(1)?, &step.slots)?;
        ops::paged_attention(step.own, layer, &qkv, heads, Sight { scale, window: None }, &step.paged)
    }
}

fn scale(width: usize, heads: usize) -> f32 {
    1.0 / ((width / heads) as f32).sqrt()
}
