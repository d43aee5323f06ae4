//! The front of the network: from a spectrogram to features of ten stretches of frequency.

use candle_core::Tensor;

use crate::model::speaker::Error;
use crate::model::speaker::layers::Layers;
use crate::ops::{self, Conv, Moves};

/// Channels everywhere in it.
pub(super) const CHANNELS: usize = 32;
/// Convolutions over three times and three frequencies; the second halves the frequencies.
const SAME: Moves = Moves { stride: (1, 1), pad: (1, 1), dilation: 1 };
const HALF: Moves = Moves { stride: (1, 2), ..SAME };

/// Two convolutions beside a way past them.
struct Residual {
    first: Conv,
    second: Conv,
    /// One tap, where the block halves the frequencies.
    past: Option<Conv>,
}

pub(super) struct Front {
    first: Conv,
    blocks: Vec<Residual>,
    last: Conv,
}

impl Front {
    pub fn load(layers: &Layers<'_>) -> Result<Front, Error> {
        let shape = [CHANNELS, CHANNELS, 3, 3];
        let mut blocks = Vec::new();
        for (layer, at) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
            let name = |end: &str| format!("head.layer{layer}.{at}.{end}");
            let halves = at == 0;
            let past = Moves { stride: (1, 2), pad: (0, 0), dilation: 1 };
            let (shortcut, norm) = (name("shortcut.0"), name("shortcut.1"));
            blocks.push(Residual {
                first: layers.conv(&name("conv1"), &name("bn1"), shape, if halves { HALF } else { SAME })?,
                second: layers.conv(&name("conv2"), &name("bn2"), shape, SAME)?,
                past: if halves {
                    Some(layers.conv(&shortcut, &norm, [CHANNELS, CHANNELS, 1, 1], past)?)
                } else {
                    None
                },
            });
        }
        Ok(Front {
            first: layers.conv("head.conv1", "head.bn1", [CHANNELS, 1, 3, 3], SAME)?,
            blocks,
            last: layers.conv("head.conv2", "head.bn2", shape, HALF)?,
        })
    }

    /// `(frames, bins)` to `(frames, 1, features)`.
    pub fn forward(&self, frames: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = ops::conv_relu(&frames.unsqueeze(2)?, &self.first)?;
        for block in &self.blocks {
            let inner = ops::conv_relu(&x, &block.first)?;
            let past = block.past.as_ref().map_or(Ok(x.clone()), |past| ops::conv(&x, past))?;
            x = ops::conv_add_relu(&inner, &block.second, &past)?;
        }
        let x = ops::conv_relu(&x, &self.last)?;
        let (times, freqs, channels) = x.dims3()?;
        x.reshape((times, 1, freqs * channels))
    }

    pub fn bytes(&self) -> usize {
        let past = |block: &Residual| block.past.as_ref().map_or(0, Conv::bytes);
        let blocks = self.blocks.iter().map(|block| block.first.bytes() + block.second.bytes() + past(block));
        self.first.bytes() + self.last.bytes() + blocks.sum::<usize>()
    }
}
