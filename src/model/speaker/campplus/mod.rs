//! CAM++ (Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking", 2023),
//! as 3D-Speaker has it (`speakerlab/models/campplus/DTDNN.py`).
//!
//! | part | of `T` frames of 80 bins |
//! |---|---|
//! | front: convolutions 3 x 3 over time and frequency, two times two residual blocks ([`front`]) | `T x 10 x 32` |
//! | convolution over 5 frames, stride 2 | `T/2 x 128` |
//! | three blocks of 12, 24 and 16 dense layers, each of which adds 32 channels to what it sees | `T/2 x 512` and 1024 twice |
//! | half of them after each block | `T/2 x 256`, 512, 512 |
//! | mean and deviation over time | 1024 |
//! | a product, normalised | 192 |
//!
//! A dense layer sees all channels before it: normalised, through a product to 128, then a convolution over three frames to
//! 32, whose channels are masked by what the mean of all frames, and of every hundred, says of them.

mod front;
#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor};

use self::front::Front;
use super::layers::{Behind, Layers};
use super::{BINS, Built, Encoder, Error};
use crate::model::weights::Checkpoint;
use crate::ops::{self, Affine, Conv, Linear, Moves, Variance};

/// Bytes that a step takes besides weights for each frame, on a CPU and on a GPU: measured, there as composed on a CPU with
/// the windows of the largest convolution.
pub const FRAME_BYTES: [u64; 2] = [33_000, 62_000];

/// Layers, and dilation of their convolutions, of each block.
const BLOCKS: [(usize, usize); 3] = [(12, 1), (24, 2), (16, 2)];
/// Channels before the first block.
const CHANNELS: usize = 128;
/// Channels that a layer adds.
const GROWTH: usize = 32;
/// Channels in a layer, and of its mask's product.
const WIDE: usize = 128;
const MASK: usize = 64;
/// Frames of a context.
const CONTEXT: usize = 100;

/// A loaded network.
struct Campplus {
    front: Front,
    first: Conv,
    blocks: Vec<Block>,
    last: Affine,
    dense: Linear,
}

struct Block {
    layers: Vec<Layer>,
    norm: Affine,
    half: Linear,
}

struct Layer {
    norm: Affine,
    wide: Linear,
    local: Conv,
    mask: (Linear, Linear),
}

/// Loads the tensors of a checkpoint.
///
/// # Errors
/// Tensors that are missing or of other shapes; a device without room.
pub fn load(file: &Checkpoint, device: &Device) -> Result<Built, Error> {
    let layers = Layers { file, prefix: "", device };
    let dimensions = layers.shape("xvector.dense.linear.weight", 3)?[0];
    let stride = Moves { stride: (2, 1), pad: (2, 0), dilation: 1 };
    let (wide, high) = (front::CHANNELS, BINS / 8);
    let weight = layers.tensor("xvector.tdnn.linear.weight", &[CHANNELS, wide * high, 5])?;
    // Files have a frequency's channels apart; here they lie together.
    let weight = weight.reshape((CHANNELS, wide, high, 5))?.transpose(1, 2)?;
    let weight = weight.reshape((CHANNELS, wide * high, 5))?;
    let first = layers.conv_over_time(&weight, Some("xvector.tdnn.nonlinear.batchnorm"), stride)?;
    let (mut blocks, mut channels) = (Vec::new(), CHANNELS);
    for (at, (count, dilation)) in BLOCKS.into_iter().enumerate() {
        blocks.push(block(&layers, at + 1, channels, count, dilation)?);
        channels = (channels + count * GROWTH) / 2;
    }
    let norm = layers.plain_norm("xvector.dense.nonlinear.batchnorm", dimensions)?;
    let last = layers.tensor("xvector.dense.linear.weight", &[dimensions, 2 * channels, 1])?;
    let network = Campplus {
        front: Front::load(&layers)?,
        first,
        blocks,
        last: layers.norm("xvector.out_nonlinear.batchnorm", channels)?,
        dense: layers.linear("xvector.dense.linear", [dimensions, 2 * channels], &Behind::Norm(norm))?,
    };
    Ok(Built { encoder: Box::new(network), last })
}

fn block(
    layers: &Layers<'_>,
    at: usize,
    channels: usize,
    count: usize,
    dilation: usize,
) -> Result<Block, Error> {
    let layer = |i: usize| {
        let inputs = channels + i * GROWTH;
        let name = |end: &str| format!("xvector.block{at}.tdnnd{}.{end}", i + 1);
        let moves = Moves { pad: (dilation, 0), dilation, ..Moves::PLAIN };
        let norm = Behind::Norm(layers.norm(&name("nonlinear2.batchnorm"), WIDE)?);
        let local = layers.tensor(&name("cam_layer.linear_local.weight"), &[GROWTH, WIDE, 3])?;
        Ok::<_, Error>(Layer {
            norm: layers.norm(&name("nonlinear1.batchnorm"), inputs)?,
            wide: layers.linear(&name("linear1"), [WIDE, inputs], &norm)?,
            local: layers.conv_over_time(&local, None, moves)?,
            mask: (
                layers.linear(&name("cam_layer.linear1"), [MASK, WIDE], &Behind::Bias)?,
                layers.linear(&name("cam_layer.linear2"), [GROWTH, MASK], &Behind::Bias)?,
            ),
        })
    };
    let all = channels + count * GROWTH;
    Ok(Block {
        layers: (0..count).map(layer).collect::<Result<_, _>>()?,
        norm: layers.norm(&format!("xvector.transit{at}.nonlinear.batchnorm"), all)?,
        half: layers.linear(&format!("xvector.transit{at}.linear"), [all / 2, all], &Behind::Nothing)?,
    })
}

impl Layer {
    /// The channels that it adds to `seen`.
    fn forward(&self, seen: &[Tensor]) -> candle_core::Result<Tensor> {
        let x = ops::linear_relu(&ops::joined_relu(seen, &self.norm)?, &self.wide)?;
        let y = ops::conv(&x.unsqueeze(1)?, &self.local)?.squeeze(1)?;
        let context = ops::run_means(&x, CONTEXT)?.broadcast_add(&ops::run_means(&x, x.dim(0)?)?)?;
        let mask = ops::linear(&ops::linear_relu(&context, &self.mask.0)?, &self.mask.1)?;
        let mask = (mask.neg()?.exp()? + 1.0)?.recip()?;
        ops::scale_runs(&y, &mask, CONTEXT)
    }

    fn bytes(&self) -> usize {
        self.norm.bytes() + self.wide.bytes() + self.local.bytes() + self.mask.0.bytes() + self.mask.1.bytes()
    }
}

impl Block {
    fn forward(&self, x: Tensor) -> candle_core::Result<Tensor> {
        let mut seen = vec![x];
        for layer in &self.layers {
            seen.push(layer.forward(&seen)?);
        }
        ops::linear(&ops::joined_relu(&seen, &self.norm)?, &self.half)
    }

    fn bytes(&self) -> usize {
        self.layers.iter().map(Layer::bytes).sum::<usize>() + self.norm.bytes() + self.half.bytes()
    }
}

impl Encoder for Campplus {
    fn encode(&self, frames: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.front.forward(frames)?;
        let mut x = ops::conv_relu(&x, &self.first)?.squeeze(1)?;
        for block in &self.blocks {
            x = block.forward(x)?;
        }
        let x = ops::joined_relu(&[x], &self.last)?;
        let stats = ops::mean_and_deviation(&x, Variance::Sample { added: 0.0 })?;
        ops::linear(&stats, &self.dense)
    }

    fn bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(Block::bytes).sum();
        self.front.bytes() + self.first.bytes() + blocks + self.last.bytes() + self.dense.bytes()
    }
}
