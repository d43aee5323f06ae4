//! Mean and deviation of every channel over time, where frames count as attention says that they are worth in that channel.
//!
//! Attention sees a frame beside the plain mean and deviation of all frames. These are the same for every frame, so what
//! they add to its first product is computed once.

use candle_core::Tensor;

use crate::model::speaker::Error;
use crate::model::speaker::layers::{Behind, Layers};
use crate::ops::{self, Affine, Linear, Variance};

/// No variance is below this.
const LEAST: f64 = 1e-12;

pub(super) struct Attention {
    /// Of a frame's channels, and of the statistics of all, with a bias.
    frame: Linear,
    whole: Linear,
    norm: Affine,
    scores: Linear,
}

impl Attention {
    pub fn load(layers: &Layers<'_>, channels: usize) -> Result<Attention, Error> {
        let name = "asp.tdnn.conv.conv";
        let width = layers.shape(&format!("{name}.weight"), 3)?[0];
        let (weight, bias) = layers.weight_and_bias(name, &[width, 3 * channels, 1])?;
        let built = || {
            let weight = weight.squeeze(2)?;
            let frame = Linear::new(&weight.narrow(1, 0, channels)?.contiguous()?, None)?;
            let whole = weight.narrow(1, channels, 2 * channels)?.contiguous()?;
            Ok((frame, Linear::new(&whole, Some(&bias))?))
        };
        let (frame, whole) = built().map_err(|e| layers.failed(name, e))?;
        Ok(Attention {
            frame,
            whole,
            norm: layers.norm("asp.tdnn.norm.norm", width)?,
            scores: layers.linear("asp.conv.conv", [channels, width], &Behind::Bias)?,
        })
    }

    /// `(frames, channels)` to `(1, 2 channels)`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let whole = ops::mean_and_deviation(x, Variance::Whole { least: LEAST })?;
        let whole = ops::linear(&whole, &self.whole)?;
        let hidden = ops::linear(x, &self.frame)?.broadcast_add(&whole)?.relu()?;
        let scores = ops::linear(&ops::affine(&hidden, &self.norm)?.tanh()?, &self.scores)?;
        ops::attended(x, &scores, LEAST)
    }

    pub fn bytes(&self) -> usize {
        self.frame.bytes() + self.whole.bytes() + self.norm.bytes() + self.scores.bytes()
    }
}
