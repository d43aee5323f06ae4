//! Batch normalisations as they are after training, and convolutions with one behind them as one.

use candle_core::{Device, Tensor};

use crate::model::weights::{Checkpoint, Error};
use crate::ops::{Affine, Conv, Linear, Moves};

/// What PyTorch adds to a variance.
const EPSILON: f64 = 1e-5;

/// What is behind a product.
pub(super) enum Behind {
    Nothing,
    /// A number a channel, of its own name with `.bias`.
    Bias,
    Norm(Affine),
}

/// Reads the layers of one checkpoint. Names are without `.weight` and the like.
pub(super) struct Layers<'a> {
    pub file: &'a Checkpoint,
    /// What every name begins with.
    pub prefix: &'a str,
    pub device: &'a Device,
}

impl Layers<'_> {
    /// A tensor of this shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        self.file.tensor(&format!("{}{name}", self.prefix), shape, self.device)
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.file.has(&format!("{}{name}", self.prefix))
    }

    /// The shape of a tensor of so many dimensions.
    pub fn shape(&self, name: &str, dims: usize) -> Result<Vec<usize>, Error> {
        let name = format!("{}{name}", self.prefix);
        let field = format!("tensor {name}");
        match self.file.shape(&name) {
            Some(shape) if shape.len() == dims && shape.iter().all(|&d| d > 0) => Ok(shape.to_vec()),
            Some(shape) => {
                let problem = format!("has the shape {shape:?} where the model needs {dims} dimensions");
                Err(Error::unsupported(self.file.path(), field, problem))
            }
            None => Err(Error::Missing { path: self.file.path().to_owned(), field }),
        }
    }

    /// A weight of this shape, whose first dimension is its outputs, and its bias.
    pub fn weight_and_bias(&self, name: &str, shape: &[usize]) -> Result<(Tensor, Tensor), Error> {
        let outputs = shape.first().copied().unwrap_or(0);
        Ok((
            self.tensor(&format!("{name}.weight"), shape)?,
            self.tensor(&format!("{name}.bias"), &[outputs])?,
        ))
    }

    /// The batch normalisation `name`.
    pub fn norm(&self, name: &str, channels: usize) -> Result<Affine, Error> {
        let (weight, bias) = self.weight_and_bias(name, &[channels])?;
        let (mean, deviation) = self.mean_and_deviation(name, channels)?;
        let affine = || {
            let scale = (weight / &deviation)?;
            let shift = (bias - (&mean * &scale)?)?;
            Affine::new(scale, shift)
        };
        affine().map_err(|e| self.failed(name, e))
    }

    /// The batch normalisation `name`, to which no scale and shift were learnt.
    pub fn plain_norm(&self, name: &str, channels: usize) -> Result<Affine, Error> {
        let (mean, deviation) = self.mean_and_deviation(name, channels)?;
        let affine = || {
            let scale = deviation.recip()?;
            let shift = (&mean * &scale)?.neg()?;
            Affine::new(scale, shift)
        };
        affine().map_err(|e| self.failed(name, e))
    }

    fn mean_and_deviation(&self, name: &str, channels: usize) -> Result<(Tensor, Tensor), Error> {
        let mean = self.tensor(&format!("{name}.running_mean"), &[channels])?;
        let variance = self.tensor(&format!("{name}.running_var"), &[channels])?;
        let deviation = || (variance.maximum(0f64)? + EPSILON)?.sqrt();
        Ok((mean, deviation().map_err(|e| self.failed(name, e))?))
    }

    /// A convolution of `(outputs, inputs, times, freqs)` without a bias, with the batch normalisation behind it.
    pub fn conv(&self, conv: &str, norm: &str, shape: [usize; 4], moves: Moves) -> Result<Conv, Error> {
        let weight = self.tensor(&format!("{conv}.weight"), &shape)?;
        let norm = self.norm(norm, shape[0])?;
        // Files have frequency before time.
        let folded = || folded(&weight.permute((0, 1, 3, 2))?, &norm);
        let built = folded().and_then(|weight| Conv::new(&weight, Some(norm.shift()), moves));
        built.map_err(|e| self.failed(conv, e))
    }

    /// The same over time alone: `(outputs, inputs, times)`.
    pub fn conv_over_time(&self, weight: &Tensor, norm: Option<&str>, moves: Moves) -> Result<Conv, Error> {
        match norm {
            Some(name) => {
                let norm = self.norm(name, weight.dims().first().copied().unwrap_or(0))?;
                let conv = folded(weight, &norm).and_then(|w| Conv::over_time(&w, Some(norm.shift()), moves));
                conv.map_err(|e| self.failed(name, e))
            }
            None => Conv::over_time(weight, None, moves).map_err(|e| self.failed("a convolution", e)),
        }
    }

    /// A product of `(outputs, inputs)`, kept as a convolution of one tap, with what is behind it.
    pub fn linear(&self, name: &str, shape: [usize; 2], behind: &Behind) -> Result<Linear, Error> {
        let weight = self.tensor(&format!("{name}.weight"), &[shape[0], shape[1], 1])?;
        let flat = weight.reshape((shape[0], shape[1]));
        let flat = flat.map_err(|e| self.failed(name, e))?;
        let built = match behind {
            Behind::Nothing => Linear::new(&flat, None),
            Behind::Bias => Linear::new(&flat, Some(&self.tensor(&format!("{name}.bias"), &[shape[0]])?)),
            Behind::Norm(norm) => {
                folded(&flat, norm).and_then(|weight| Linear::new(&weight, Some(norm.shift())))
            }
        };
        built.map_err(|e| self.failed(name, e))
    }

    /// What a device could not do.
    pub fn failed(&self, name: &str, source: candle_core::Error) -> Error {
        let tensor = format!("{}{name}", self.prefix);
        Error::Device { path: self.file.path().to_owned(), tensor, source: Box::new(source) }
    }
}

/// A weight whose first dimension is its outputs, each times its scale.
fn folded(weight: &Tensor, norm: &Affine) -> candle_core::Result<Tensor> {
    let mut shape = vec![1; weight.rank()];
    shape[0] = norm.scale().elem_count();
    weight.broadcast_mul(&norm.scale().reshape(shape)?)?.contiguous()
}
