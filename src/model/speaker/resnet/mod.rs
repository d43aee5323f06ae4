//! ResNet34 of WeSpeaker (Wang et al., "Wespeaker: A Research and Production Oriented Speaker Embedding Learning Toolkit",
//! 2023; `wespeaker/models/resnet.py`), which pyannote publishes too.
//!
//! | part | of `T` frames of 80 bins, for a width of `m` channels |
//! |---|---|
//! | convolution 3 x 3 | `T x 80 x m` |
//! | 3 residual blocks | `T x 80 x m` |
//! | 4 of them, the first of which halves times and frequencies | `T/2 x 40 x 2m` |
//! | 6 of them | `T/4 x 20 x 4m` |
//! | 3 of them | `T/8 x 10 x 8m` |
//! | mean and deviation over time | `160 m` |
//! | a product | as many as its weight has rows, 256 |
//!
//! The width is that of the first convolution's weight, 32 in what is published.

#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor};

use super::layers::Layers;
use super::residual::{Residual, SAME};
use super::{BINS, Built, Encoder, Error};
use crate::model::weights::{self, Checkpoint};
use crate::ops::{self, Conv, Linear, Variance};

/// Bytes that a step takes besides weights for each frame, on a CPU and on a GPU. Reckoned: its first layers are as wide as
/// those of CAM++, of which this was measured.
pub const FRAME_BYTES: [u64; 2] = [45_000, 75_000];

/// Blocks of each layer; every layer has twice the channels of the one before it.
const BLOCKS: [usize; 4] = [3, 4, 6, 3];
/// Frequencies behind the last layer.
const HIGH: usize = BINS / 8;
/// What WeSpeaker adds to a variance.
const ADDED: f64 = 1e-7;
/// WeSpeaker saves the network by itself, pyannote within another.
const PREFIXES: [&str; 2] = ["", "resnet."];

/// A loaded network.
struct ResNet {
    first: Conv,
    blocks: Vec<Residual>,
    last: Linear,
}

/// Loads the tensors of a checkpoint.
///
/// # Errors
/// Tensors that are missing or of other shapes, a second embedding layer; a device without room.
pub fn load(file: &Checkpoint, device: &Device) -> Result<Built, Error> {
    let layers = Layers { file, prefix: file.prefix(&PREFIXES, "conv1.weight"), device };
    if layers.has("seg_2.weight") {
        let problem = "is of a second embedding layer, which is not computed";
        let field = format!("tensor {}seg_2.weight", layers.prefix);
        return Err(weights::Error::unsupported(file.path(), field, problem).into());
    }
    let width = layers.shape("conv1.weight", 4)?[0];
    let (mut blocks, mut channels) = (Vec::new(), width);
    for (layer, count) in BLOCKS.into_iter().enumerate() {
        let outputs = width << layer;
        for at in 0..count {
            let stride = if layer > 0 && at == 0 { (2, 2) } else { (1, 1) };
            let name = format!("layer{}.{at}", layer + 1);
            blocks.push(Residual::load(&layers, &name, (channels, outputs), stride)?);
            channels = outputs;
        }
    }
    let dimensions = layers.shape("seg_1.weight", 2)?[0];
    let (weight, bias) = layers.weight_and_bias("seg_1", &[dimensions, 2 * channels * HIGH])?;
    let last = || {
        // Files have a channel's frequencies together; here a frequency's channels are.
        let weight = weight.reshape((dimensions, 2, channels, HIGH))?.transpose(2, 3)?;
        Linear::new(&weight.reshape((dimensions, 2 * channels * HIGH))?, Some(&bias))
    };
    let network = ResNet {
        first: layers.conv("conv1", "bn1", [width, 1, 3, 3], SAME)?,
        blocks,
        last: last().map_err(|e| layers.failed("seg_1", e))?,
    };
    Ok(Built { encoder: Box::new(network), last: weight })
}

impl Encoder for ResNet {
    fn encode(&self, frames: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = ops::conv_relu(&frames.unsqueeze(2)?, &self.first)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let (times, freqs, channels) = x.dims3()?;
        let x = x.reshape((times, freqs * channels))?;
        ops::linear(&ops::mean_and_deviation(&x, Variance::Sample { added: ADDED })?, &self.last)
    }

    fn bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(Residual::bytes).sum();
        self.first.bytes() + blocks + self.last.bytes()
    }
}
