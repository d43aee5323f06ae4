//! Whisper's encoder: two convolutions, then pre-norm transformer blocks (openai/whisper `model.py`).

use candle_core::{Device, Result, Tensor};

use super::config::{Config, WINDOW};
use super::layers::{Matrix, Norm};
use super::weights::Source;
use crate::model::asr::Error;
use crate::ops;
use crate::types::model::Precision;

pub(super) struct Encoder {
    conv1: Matrix,
    conv2: Matrix,
    /// `(1500, width)`
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    heads: usize,
    mels: usize,
}

struct Block {
    attention_norm: Norm,
    qkv: Matrix,
    out: Matrix,
    ffn_norm: Norm,
    up: Matrix,
    down: Matrix,
}

impl Encoder {
    /// Bytes that the weights take.
    pub(super) fn bytes(&self) -> usize {
        let block = |b: &Block| [&b.qkv, &b.out, &b.up, &b.down].map(Matrix::bytes).iter().sum::<usize>();
        self.conv1.bytes() + self.conv2.bytes() + self.blocks.iter().map(block).sum::<usize>()
    }

    pub(super) fn load(
        source: &Source,
        config: &Config,
        device: &Device,
    ) -> std::result::Result<Encoder, Error> {
        let width = config.width;
        let matrix = |linear| Matrix::new(linear, Precision::F32, device);
        let mut blocks = Vec::with_capacity(config.encoder_layers);
        for i in 0..config.encoder_layers {
            let (ct2, hf) = (format!("encoder/layer_{i}"), format!("model.encoder.layers.{i}"));
            let qkv = ["q", "k", "v"].map(|p| format!("{hf}.self_attn.{p}_proj"));
            let linear = |ct2: &str,
                          hf: &[String],
                          outputs: usize,
                          inputs: usize|
             -> std::result::Result<Matrix, Error> {
                Ok(matrix(source.linear(ct2, hf, outputs, inputs)?)?)
            };
            blocks.push(Block {
                attention_norm: source.norm(
                    &format!("{ct2}/self_attention/layer_norm"),
                    &format!("{hf}.self_attn_layer_norm"),
                    width,
                    device,
                )?,
                qkv: linear(&format!("{ct2}/self_attention/linear_0"), &qkv, 3 * width, width)?,
                out: linear(
                    &format!("{ct2}/self_attention/linear_1"),
                    &[format!("{hf}.self_attn.out_proj")],
                    width,
                    width,
                )?,
                ffn_norm: source.norm(
                    &format!("{ct2}/ffn/layer_norm"),
                    &format!("{hf}.final_layer_norm"),
                    width,
                    device,
                )?,
                up: linear(&format!("{ct2}/ffn/linear_0"), &[format!("{hf}.fc1")], config.ffn, width)?,
                down: linear(&format!("{ct2}/ffn/linear_1"), &[format!("{hf}.fc2")], width, config.ffn)?,
            });
        }
        let positions = source.encoder_positions(config)?;
        Ok(Encoder {
            conv1: matrix(source.conv("conv1", width, config.mels)?)?,
            conv2: matrix(source.conv("conv2", width, width)?)?,
            positions: Tensor::from_vec(positions, (config.audio_context, width), device)?,
            blocks,
            norm: source.norm("encoder/layer_norm", "model.encoder.layer_norm", width, device)?,
            heads: config.heads,
            mels: config.mels,
        })
    }

    /// Encodes windows of `(mels, 3000)` each, bin-major; gives `(windows, 1500, width)`.
    pub(super) fn forward(&self, windows: &[&[f32]], device: &Device) -> Result<Tensor> {
        let frames = self.frames(windows, device)?;
        let x = self.conv1.forward_gelu(&frames)?;
        let x = self.conv2.forward_gelu(&ops::unfold(&x, 3, 2, 1)?)?;
        let mut x = x.broadcast_add(&self.positions)?;
        // Before each block, and behind the last.
        let norm = |i: usize| self.blocks.get(i).map_or(&self.norm, |block| &block.attention_norm);
        let mut normed = norm(0).forward(&x)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let (sum, inner) = block.ffn_norm.of_sum(&x, &block.attend(&normed, self.heads)?)?;
            let hidden = block.up.forward_gelu(&inner)?;
            (x, normed) = norm(i + 1).of_sum(&sum, &block.down.forward(&hidden)?)?;
        }
        Ok(normed)
    }
}

impl Encoder {
    /// Three neighbouring frames side by side for every frame of the windows, zeros beyond their ends: a convolution of
    /// width 3 becomes one matrix product. `(windows, 3000, 3 x mels)`, tap-major. A device other than the CPU puts them
    /// so itself: one core would take as long for it as a GPU for all that follows.
    fn frames(&self, windows: &[&[f32]], device: &Device) -> Result<Tensor> {
        let (batch, mels) = (windows.len(), self.mels);
        if !ops::cpu::serves(device) {
            let bins = Tensor::from_vec(windows.concat(), (batch, mels, WINDOW), device)?;
            return ops::unfold(&bins.transpose(1, 2)?.contiguous()?, 3, 1, 1);
        }
        let mut frames = vec![0.0f32; batch * WINDOW * 3 * mels];
        for (mel, out) in windows.iter().zip(frames.chunks_exact_mut(WINDOW * 3 * mels)) {
            unfold(mel, mels, out);
        }
        Tensor::from_vec(frames, (batch, WINDOW, 3 * mels), device)
    }
}

impl Block {
    fn attend(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        let (_, _, width) = x.dims3()?;
        let qkv = self.qkv.forward(x)?;
        let [q, k, v] = [0, 1, 2].map(|i| qkv.narrow(2, i * width, width));
        let scale = 1.0 / ((width / heads) as f32).sqrt();
        self.out.forward(&ops::attention(&q?, &k?, &v?, heads, scale, ops::Mask::default())?)
    }
}

/// One window's frames: `mel` is bin-major; `out` is `(3000, 3 x mels)`, tap-major.
fn unfold(mel: &[f32], mels: usize, out: &mut [f32]) {
    for (t, row) in out.chunks_exact_mut(3 * mels).enumerate() {
        for (tap, part) in row.chunks_exact_mut(mels).enumerate() {
            let Some(frame) = (t + tap).checked_sub(1).filter(|&f| f < WINDOW) else { continue };
            for (bin, value) in part.iter_mut().enumerate() {
                *value = mel[bin * WINDOW + frame];
            }
        }
    }
}
