//! The layers that encoder and decoder share.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};

/// Epsilon of every layer norm in Whisper (PyTorch's default).
const EPS: f64 = 1e-5;

/// Parameters of a linear layer as read: `weight` is `(outputs, inputs)`, `bias` is `(outputs)`.
pub(super) struct Linear {
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
pub(super) struct Matrix {
    weight: Weight,
    bias: Option<Tensor>,
    outputs: usize,
}

enum Weight {
    F32(Tensor),
    Q8(QMatMul),
}

impl Matrix {
    pub(super) fn new(linear: Linear, precision: Precision, device: &Device) -> Result<Matrix> {
        let Linear { weight, bias, outputs, inputs } = linear;
        let bias = Some(Tensor::from_vec(bias, outputs, device)?);
        Ok(Matrix { bias, ..Matrix::unbiased(weight, outputs, inputs, precision, device)? })
    }

    /// Without a bias.
    pub(super) fn unbiased(
        weight: Vec<f32>,
        outputs: usize,
        inputs: usize,
        precision: Precision,
        device: &Device,
    ) -> Result<Matrix> {
        let weight = match precision {
            Precision::Q8 if inputs.is_multiple_of(GgmlDType::Q8_0.block_size()) => {
                let weight = Tensor::from_vec(weight, (outputs, inputs), &Device::Cpu)?;
                let quantised = QTensor::quantize_onto(&weight, GgmlDType::Q8_0, device)?;
                Weight::Q8(QMatMul::from_qtensor(quantised)?)
            }
            _ => Weight::F32(Tensor::from_vec(weight, (outputs, inputs), device)?),
        };
        Ok(Matrix { weight, bias: None, outputs })
    }

    /// `x Wᵀ + b` for `x` of `(..., inputs)`, contiguous.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.weight {
            Weight::F32(weight) => {
                let mut dims = x.dims().to_vec();
                let inputs = dims.pop().unwrap_or_default();
                dims.push(self.outputs);
                x.reshape(((), inputs))?.matmul(&weight.t()?)?.reshape(dims)?
            }
            Weight::Q8(weight) => weight.forward(x)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// [`forward`](Self::forward), then the exact GELU.
    pub(super) fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)?.gelu_erf()
    }

    /// Rows of the weight as f32.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::F32(weight) => weight.index_select(ids, 0),
            Weight::Q8(weight) => weight.embedding(ids)?.to_dtype(DType::F32),
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
        candle_nn::ops::layer_norm(x, &self.gain, &self.offset, EPS as f32)
    }
}

/// Attention of `q` `(heads, t, dim)` over `k` and `v` `(heads, s, dim)`; gives `(t, heads x dim)`.
/// With `causal`, the queries are the last `t` of the `s` positions.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result<Tensor> {
    let (heads, t, dim) = q.dims3()?;
    let s = k.dim(1)?;
    let scale = 1.0 / (dim as f64).sqrt();
    let mut scores = (q.contiguous()? * scale)?.matmul(&k.transpose(1, 2)?)?;
    if causal && t > 1 {
        let mask: Vec<f32> =
            (0..t * s).map(|i| if i % s > s - t + i / s { f32::NEG_INFINITY } else { 0.0 }).collect();
        scores = scores.broadcast_add(&Tensor::from_vec(mask, (t, s), q.device())?)?;
    }
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    weights.matmul(&v.contiguous()?)?.transpose(0, 1)?.reshape((t, heads * dim))
}
