//! The layers that encoder and decoder share.

use candle_core::{Device, Result, Tensor};

use crate::ops;

/// Epsilon of every layer norm in Whisper (PyTorch's default).
const EPS: f64 = 1e-5;

/// Parameters of a linear layer as read: `weight` is `(outputs, inputs)`, `bias` is `(outputs)`.
pub(super) struct Params {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub outputs: usize,
    pub inputs: usize,
}

/// How a matrix is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    F32,
    /// For layers that one token at a time goes through: they are bound by the bytes of their weights. Exact
    /// where the file holds halves. (Q8_0 with candle's kernels halves the bytes again, but changes one
    /// transcript in five: activations are rounded too, and logits come out up to 0.7 off.)
    Half,
}

/// A linear layer on a device.
pub(super) enum Matrix {
    F32(ops::Linear),
    Half(ops::HalfLinear),
}

impl Matrix {
    pub(super) fn new(params: Params, precision: Precision, device: &Device) -> Result<Matrix> {
        let Params { weight, bias, outputs, inputs } = params;
        Ok(match precision {
            Precision::Half => {
                Matrix::Half(ops::HalfLinear::new(&weight, Some(&bias), outputs, inputs, device)?)
            }
            Precision::F32 => {
                let weight = Tensor::from_vec(weight, (outputs, inputs), device)?;
                let bias = Tensor::from_vec(bias, outputs, device)?;
                Matrix::F32(ops::Linear::new(&weight, Some(&bias))?)
            }
        })
    }

    /// Bytes that the parameters take.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Matrix::F32(layer) => layer.bytes(),
            Matrix::Half(layer) => layer.bytes(),
        }
    }

    /// `x Wᵀ + b` for `x` of `(..., inputs)`, contiguous.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::F32(layer) => ops::linear(x, layer),
            Matrix::Half(layer) => layer.forward(x),
        }
    }

    /// [`forward`](Self::forward), then the exact GELU.
    pub(super) fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::F32(layer) => ops::linear_gelu(x, layer),
            Matrix::Half(layer) => layer.forward_gelu(x),
        }
    }
}

/// A layer norm's gain and offset.
pub(super) struct Norm {
    pub gain: Tensor,
    pub offset: Tensor,
}

impl Norm {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.gain, &self.offset, EPS)
    }
}
