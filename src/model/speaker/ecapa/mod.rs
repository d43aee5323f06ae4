//! ECAPA-TDNN (Desplanques et al., "ECAPA-TDNN: Emphasized Channel Attention, Propagation and Aggregation in TDNN Based
//! Speaker Verification", 2020), as SpeechBrain has it (`speechbrain/lobes/models/ECAPA_TDNN.py`).
//!
//! | part | of `T` frames of 80 bins, by the widths of what is published |
//! |---|---|
//! | convolution over 5 frames | `T x 1024` |
//! | three blocks ([`block`]) that see further each | `T x 1024` each |
//! | a product of all three | `T x 3072` |
//! | mean and deviation over time, by attention ([`attention`]) | 6144 |
//! | a product, normalised before | 192 |
//!
//! Every convolution ends with a ReLU and a normalisation behind that, so that little can be folded. Its ends see the
//! recording mirrored. Widths, kernels and parts are those of the tensors' shapes; dilations no shape tells.

mod attention;
mod block;
#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor};

use self::attention::Attention;
use self::block::Block;
use super::layers::Layers;
use super::{BINS, Built, Encoder, Error};
use crate::model::weights::{self, Checkpoint};
use crate::ops::{self, Affine, Conv, Linear, Moves};

/// Dilations of the blocks.
const DILATIONS: [usize; 3] = [2, 3, 4];
/// The fewest frames that are computed: more than any convolution mirrors.
pub(super) const LEAST_FRAMES: usize = 10;

/// Bytes that a step takes besides weights for each frame, on a CPU and on a GPU. Reckoned: of the published size (1,024
/// channels) what three blocks give, that side by side, and attention's three of the same width are there at once; on a GPU
/// the windows of the largest convolution too.
pub const FRAME_BYTES: [u64; 2] = [64_000, 96_000];

/// A convolution over time, what is not below zero of it, normalised.
struct Tdnn {
    taps: Taps,
    norm: Affine,
}

enum Taps {
    One(Linear),
    /// With the frames that it sees before and behind one.
    Several(Conv, usize),
}

/// A loaded network.
struct Ecapa {
    first: Tdnn,
    blocks: Vec<Block>,
    joined: Tdnn,
    attention: Attention,
    last: Linear,
}

/// Loads the tensors of a checkpoint.
///
/// # Errors
/// Tensors that are missing or of shapes that do not fit; a device without room.
pub fn load(file: &Checkpoint, device: &Device) -> Result<Built, Error> {
    let layers = Layers { file, prefix: "", device };
    let first = Tdnn::load(&layers, "blocks.0", BINS, 1)?;
    let (mut blocks, mut channels) = (Vec::new(), first.outputs());
    for (at, dilation) in DILATIONS.into_iter().enumerate() {
        let block = Block::load(&layers, &format!("blocks.{}", at + 1), channels, dilation)?;
        channels = block.outputs();
        blocks.push(block);
    }
    let joined = Tdnn::load(&layers, "mfa", blocks.iter().map(Block::outputs).sum(), 1)?;
    let channels = joined.outputs();
    let dimensions = layers.shape("fc.conv.weight", 3)?[0];
    let (weight, bias) = layers.weight_and_bias("fc.conv", &[dimensions, 2 * channels, 1])?;
    let norm = layers.norm("asp_bn.norm", 2 * channels)?;
    let last = || {
        // The normalisation before it is one of its inputs.
        let weight = weight.squeeze(2)?;
        let shift = weight.matmul(&norm.shift().unsqueeze(1)?)?.squeeze(1)?;
        Linear::new(&weight.broadcast_mul(norm.scale())?, Some(&(bias + shift)?))
    };
    let last = last().map_err(|e| layers.failed("fc.conv", e))?;
    let attention = Attention::load(&layers, channels)?;
    Ok(Built { encoder: Box::new(Ecapa { first, blocks, joined, attention, last }), last: weight })
}

impl Tdnn {
    /// The layer `name` of so many inputs; its outputs and taps are those of its weight.
    fn load(layers: &Layers<'_>, name: &str, inputs: usize, dilation: usize) -> Result<Tdnn, Error> {
        let conv = format!("{name}.conv.conv");
        let shape = layers.shape(&format!("{conv}.weight"), 3)?;
        let (outputs, taps) = (shape[0], shape[2]);
        let (weight, bias) = layers.weight_and_bias(&conv, &[outputs, inputs, taps])?;
        // Less than the frames that there are at least, so that there are frames enough to mirror.
        let side = dilation.saturating_mul(taps / 2);
        if taps % 2 == 0 || side >= LEAST_FRAMES {
            let problem = format!("has {taps} taps {dilation} apart, which cannot be centred on a frame");
            let field = format!("tensor {}{conv}.weight", layers.prefix);
            return Err(weights::Error::unsupported(layers.file.path(), field, problem).into());
        }
        let moves = Moves { dilation, ..Moves::PLAIN };
        let built = || {
            Ok(match taps {
                1 => Taps::One(Linear::new(&weight.squeeze(2)?, Some(&bias))?),
                _ => Taps::Several(Conv::over_time(&weight, Some(&bias), moves)?, side),
            })
        };
        let taps = built().map_err(|e| layers.failed(&conv, e))?;
        Ok(Tdnn { taps, norm: layers.norm(&format!("{name}.norm.norm"), outputs)? })
    }

    fn outputs(&self) -> usize {
        match &self.taps {
            Taps::One(layer) => layer.outputs(),
            Taps::Several(layer, _) => layer.outputs(),
        }
    }

    /// `(frames, inputs)` to `(frames, outputs)`.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = match &self.taps {
            Taps::One(layer) => ops::linear_relu(x, layer)?,
            Taps::Several(layer, side) => {
                ops::conv_relu(&ops::mirrored(x, *side)?.unsqueeze(1)?, layer)?.squeeze(1)?
            }
        };
        ops::affine(&y, &self.norm)
    }

    fn bytes(&self) -> usize {
        let taps = match &self.taps {
            Taps::One(layer) => layer.bytes(),
            Taps::Several(layer, _) => layer.bytes(),
        };
        taps + self.norm.bytes()
    }
}

/// `1 / (1 + e^-x)`.
fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

impl Encoder for Ecapa {
    fn encode(&self, frames: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = self.first.forward(frames)?;
        let mut seen = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            x = block.forward(&x)?;
            seen.push(x.clone());
        }
        let x = self.joined.forward(&Tensor::cat(&seen, 1)?)?;
        ops::linear(&self.attention.forward(&x)?, &self.last)
    }

    fn bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(Block::bytes).sum();
        self.first.bytes() + blocks + self.joined.bytes() + self.attention.bytes() + self.last.bytes()
    }
}
