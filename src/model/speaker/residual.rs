//! Two convolutions over time and frequency beside a way past them: ResNet's basic block (He et al., "Deep Residual
//! Learning for Image Recognition", 2016).

use candle_core::Tensor;

use super::Error;
use super::layers::Layers;
use crate::ops::{self, Conv, Moves};

/// Three times by three frequencies, place by place.
pub(super) const SAME: Moves = Moves { stride: (1, 1), pad: (1, 1), dilation: 1 };

/// One block.
pub(super) struct Residual {
    first: Conv,
    second: Conv,
    /// One tap, where the block leaves out places or has other channels than what is before it.
    past: Option<Conv>,
}

impl Residual {
    /// The block `name`, which moves by `stride` in time and in frequency.
    pub fn load(
        layers: &Layers<'_>,
        name: &str,
        (inputs, outputs): (usize, usize),
        stride: (usize, usize),
    ) -> Result<Residual, Error> {
        let conv = |conv: &str, norm: &str, shape: [usize; 4], moves: Moves| {
            layers.conv(&format!("{name}.{conv}"), &format!("{name}.{norm}"), shape, moves)
        };
        let past = || {
            let moves = Moves { stride, ..Moves::PLAIN };
            conv("shortcut.0", "shortcut.1", [outputs, inputs, 1, 1], moves)
        };
        let is_plain = inputs == outputs && stride == (1, 1);
        Ok(Residual {
            first: conv("conv1", "bn1", [outputs, inputs, 3, 3], Moves { stride, ..SAME })?,
            second: conv("conv2", "bn2", [outputs, outputs, 3, 3], SAME)?,
            past: if is_plain { None } else { Some(past()?) },
        })
    }

    /// `(times, freqs, inputs)` to `(times', freqs', outputs)`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let inner = ops::conv_relu(x, &self.first)?;
        let past = self.past.as_ref().map_or(Ok(x.clone()), |past| ops::conv(x, past))?;
        ops::conv_add_relu(&inner, &self.second, &past)
    }

    pub fn bytes(&self) -> usize {
        self.first.bytes() + self.second.bytes() + self.past.as_ref().map_or(0, Conv::bytes)
    }
}
