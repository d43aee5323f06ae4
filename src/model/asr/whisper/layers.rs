//! The layers that encoder and decoder share.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};

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
    /// Blocks of 32 with an f16 scale: 1.06 bytes a weight, for layers that are bound by memory.
    Q8,
}

/// A linear layer on a device.
pub(super) enum Matrix {
    F32(ops::Linear),
    /// Weight, bias.
    Q8(QMatMul, Tensor),
}

impl Matrix {
    pub(super) fn new(params: Params, precision: Precision, device: &Device) -> Result<Matrix> {
        let Params { weight, bias, outputs, inputs } = params;
        let bias = Tensor::from_vec(bias, outputs, device)?;
        match quantised(&weight, outputs, inputs, precision, device)? {
            Some(weight) => Ok(Matrix::Q8(weight, bias)),
            None => {
                let weight = Tensor::from_vec(weight, (outputs, inputs), device)?;
                Ok(Matrix::F32(ops::Linear::new(&weight, Some(&bias))?))
            }
        }
    }

    /// `x Wᵀ + b` for `x` of `(..., inputs)`, contiguous.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::F32(layer) => ops::linear(x, layer),
            Matrix::Q8(weight, bias) => weight.forward(x)?.broadcast_add(bias),
        }
    }

    /// [`forward`](Self::forward), then the exact GELU.
    pub(super) fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::F32(layer) => ops::linear_gelu(x, layer),
            Matrix::Q8(weight, bias) => ops::gelu_erf(&weight.forward(x)?.broadcast_add(bias)?),
        }
    }
}

/// The token embedding, which is the projection to logits too.
pub(super) enum Embedding {
    /// `(vocab, width)`, and the same as a projection.
    F32(Tensor, ops::Linear),
    Q8(QMatMul),
}

impl Embedding {
    /// Takes `(vocab, width)` values.
    pub(super) fn new(
        values: Vec<f32>,
        vocab: usize,
        width: usize,
        precision: Precision,
        device: &Device,
    ) -> Result<Embedding> {
        Ok(match quantised(&values, vocab, width, precision, device)? {
            Some(weight) => Embedding::Q8(weight),
            None => {
                let rows = Tensor::from_vec(values, (vocab, width), device)?;
                let projection = ops::Linear::new(&rows, None)?;
                Embedding::F32(rows, projection)
            }
        })
    }

    /// Rows of the table, f32.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Embedding::F32(rows, _) => rows.index_select(ids, 0),
            Embedding::Q8(weight) => weight.embedding(ids)?.to_dtype(DType::F32),
        }
    }

    /// `(n, width)` to logits `(n, vocab)`.
    pub(super) fn project(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Embedding::F32(_, projection) => ops::linear(x, projection),
            Embedding::Q8(weight) => weight.forward(x),
        }
    }
}

/// The matrix in blocks, if it is to be and its rows divide into them.
fn quantised(
    values: &[f32],
    outputs: usize,
    inputs: usize,
    precision: Precision,
    device: &Device,
) -> Result<Option<QMatMul>> {
    if precision == Precision::F32 || !inputs.is_multiple_of(GgmlDType::Q8_0.block_size()) {
        return Ok(None);
    }
    let weight = Tensor::from_slice(values, (outputs, inputs), &Device::Cpu)?;
    Ok(Some(QMatMul::from_qtensor(QTensor::quantize_onto(&weight, GgmlDType::Q8_0, device)?)?))
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
