//! Batch normalisations as they are after training, and convolutions with one behind them as one.

use candle_core::{Device, Tensor};

use crate::model::weights::{Checkpoint, Error};
use crate::ops::{Affine, Conv, Linear, Moves};

/// What PyTorch adds to a variance.
const EPSILON: f64 = 1e-5;

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

    /// The batch normalisation `name`, with or without a learnt scale.
    pub fn norm(&self, name: &str, channels: usize) -> Result<Affine, Error> {
        let get = |end: &str| self.tensor(&format!("{name}.{end}"), &[channels]);
        let (mean, variance) = (get("running_mean")?, get("running_var")?);
        let affine = || {
            let deviation = (variance.maximum(0f64)? + EPSILON)?.sqrt()?;
            let (scale, shift) = if self.has(&format!("{name}.weight")) {
                let scale = (get("weight").map_err(candle_core::Error::wrap)? / &deviation)?;
                let bias = get("bias").map_err(candle_core::Error::wrap)?;
                let shift = (bias - (&mean * &scale)?)?;
                (scale, shift)
            } else {
                let scale = deviation.recip()?;
                let shift = (&mean * &scale)?.neg()?;
                (scale, shift)
            };
            Affine::new(scale, shift)
        };
        affine().map_err(|e| self.failed(name, e))
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

    /// A product of `(outputs, inputs)`, kept as a convolution of one tap, with the batch normalisation behind it.
    pub fn linear(&self, name: &str, shape: [usize; 2], norm: Option<&str>) -> Result<Linear, Error> {
        let weight = self.tensor(&format!("{name}.weight"), &[shape[0], shape[1], 1])?;
        let flat = weight.reshape((shape[0], shape[1]));
        let flat = flat.map_err(|e| self.failed(name, e))?;
        let bias = format!("{name}.bias");
        let built = match norm {
            Some(norm) => {
                let norm = self.norm(norm, shape[0])?;
                folded(&flat, &norm).and_then(|weight| Linear::new(&weight, Some(norm.shift())))
            }
            None if self.has(&bias) => Linear::new(&flat, Some(&self.tensor(&bias, &[shape[0]])?)),
            None => Linear::new(&flat, None),
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
