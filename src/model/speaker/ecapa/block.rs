//! A block: Res2Net (Gao et al., "Res2Net: A New Multi-Scale Backbone Architecture", 2019) between two products, then
//! squeeze and excitation (Hu et al., "Squeeze-and-Excitation Networks", 2018), beside a way past all of it.

use candle_core::Tensor;

use super::{Tdnn, sigmoid};
use crate::model::speaker::Error;
use crate::model::speaker::layers::{Behind, Layers};
use crate::model::weights;
use crate::ops::{self, Linear};

pub(super) struct Block {
    before: Tdnn,
    /// Of each part of the channels but the first.
    parts: Vec<Tdnn>,
    after: Tdnn,
    /// From the mean of all frames to what each channel is worth.
    worth: (Linear, Linear),
    /// Where the block has other channels than what is before it.
    past: Option<Linear>,
}

impl Block {
    /// The block `name` of so many inputs; its convolutions' taps are `dilation` apart.
    pub fn load(layers: &Layers<'_>, name: &str, inputs: usize, dilation: usize) -> Result<Block, Error> {
        let full = |end: &str| format!("{name}.{end}");
        let before = Tdnn::load(layers, &full("tdnn1"), inputs, 1)?;
        let channels = before.outputs();
        let first = full("res2net_block.blocks.0.conv.conv.weight");
        let width = layers.shape(&first, 3)?[0];
        let scale = channels / width;
        if scale < 2 || !channels.is_multiple_of(width) {
            let problem = format!("has {width} outputs, which are no part of {channels}");
            let field = format!("tensor {}{first}", layers.prefix);
            return Err(weights::Error::unsupported(layers.file.path(), field, problem).into());
        }
        let part =
            |at: usize| Tdnn::load(layers, &full(&format!("res2net_block.blocks.{at}")), width, dilation);
        let parts = (0..scale - 1).map(part).collect::<Result<Vec<Tdnn>, _>>()?;
        let after = Tdnn::load(layers, &full("tdnn2"), channels, 1)?;
        let (first, second, past) =
            (full("se_block.conv1.conv"), full("se_block.conv2.conv"), full("shortcut.conv"));
        let outputs = after.outputs();
        let squeezed = layers.shape(&format!("{first}.weight"), 3)?[0];
        // What lies side by side is as wide as what it is cut from, and what is added as what it is added to.
        if outputs != channels || parts.iter().any(|part| part.outputs() != width) {
            let problem = format!("has convolutions that do not keep its {channels} channels");
            return Err(weights::Error::unsupported(layers.file.path(), name, problem).into());
        }
        let past = (inputs != outputs).then(|| layers.linear(&past, [outputs, inputs], &Behind::Bias));
        Ok(Block {
            before,
            parts,
            after,
            worth: (
                layers.linear(&first, [squeezed, outputs], &Behind::Bias)?,
                layers.linear(&second, [outputs, squeezed], &Behind::Bias)?,
            ),
            past: past.transpose()?,
        })
    }

    pub fn outputs(&self) -> usize {
        self.after.outputs()
    }

    /// `(frames, inputs)` to `(frames, outputs)`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.after.forward(&self.by_parts(&self.before.forward(x)?)?)?;
        let frames = y.dim(0)?;
        let mean = ops::linear_relu(&ops::run_means(&y, frames)?, &self.worth.0)?;
        let worth = sigmoid(&ops::linear(&mean, &self.worth.1)?)?;
        let past = self.past.as_ref().map_or(Ok(x.clone()), |past| ops::linear(x, past))?;
        ops::scale_runs(&y, &worth, frames)? + past
    }

    /// The first part of the channels as it is; every other one, with what the one before it came to, convolved.
    fn by_parts(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let width = x.dim(1)? / (self.parts.len() + 1);
        let part = |at: usize| x.narrow(1, at * width, width)?.contiguous();
        let mut all = vec![part(0)?];
        for (at, layer) in self.parts.iter().enumerate() {
            let input = match at {
                0 => part(1)?,
                _ => (part(at + 1)? + &all[at])?,
            };
            all.push(layer.forward(&input)?);
        }
        Tensor::cat(&all, 1)
    }

    pub fn bytes(&self) -> usize {
        let layers = [&self.before, &self.after].into_iter().chain(&self.parts);
        let past = self.past.as_ref().map_or(0, Linear::bytes);
        layers.map(Tdnn::bytes).sum::<usize>() + self.worth.0.bytes() + self.worth.1.bytes() + past
    }
}
