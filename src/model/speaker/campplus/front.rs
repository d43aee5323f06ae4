//! The front of the network: from a spectrogram to features of ten stretches of frequency.

use candle_core::Tensor;

use crate::model::speaker::Error;
use crate::model::speaker::layers::Layers;
use crate::model::speaker::residual::{Residual, SAME};
use crate::ops::{self, Conv, Moves};

/// Channels everywhere in it.
pub(super) const CHANNELS: usize = 32;
/// A convolution over three times and three frequencies that halves the frequencies.
const HALF: Moves = Moves { stride: (1, 2), ..SAME };

pub(super) struct Front {
    first: Conv,
    blocks: Vec<Residual>,
    last: Conv,
}

impl Front {
    pub fn load(layers: &Layers<'_>) -> Result<Front, Error> {
        let block = |(layer, at)| {
            let stride = if at == 0 { HALF.stride } else { SAME.stride };
            Residual::load(layers, &format!("head.layer{layer}.{at}"), (CHANNELS, CHANNELS), stride)
        };
        let shape = [CHANNELS, CHANNELS, 3, 3];
        Ok(Front {
            first: layers.conv("head.conv1", "head.bn1", [CHANNELS, 1, 3, 3], SAME)?,
            blocks: [(1, 0), (1, 1), (2, 0), (2, 1)].into_iter().map(block).collect::<Result<_, _>>()?,
            last: layers.conv("head.conv2", "head.bn2", shape, HALF)?,
        })
    }

    /// `(frames, bins)` to `(frames, 1, features)`.
    pub fn forward(&self, frames: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = ops::conv_relu(&frames.unsqueeze(2)?, &self.first)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let x = ops::conv_relu(&x, &self.last)?;
        let (times, freqs, channels) = x.dims3()?;
        x.reshape((times, 1, freqs * channels))
    }

    pub fn bytes(&self) -> usize {
        self.first.bytes() + self.last.bytes() + self.blocks.iter().map(Residual::bytes).sum::<usize>()
    }
}
