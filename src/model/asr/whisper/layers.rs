//! The layers that encoder and decoder share.

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Result, Tensor};

use crate::ops;
use crate::types::model::Precision;

/// Epsilon of every layer norm in Whisper (PyTorch's default).
const EPS: f64 = 1e-5;

/// Parameters of a linear layer as read: `weight` is `(outputs, inputs)`, `bias` is `(outputs)`.
pub(super) struct Params {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub outputs: usize,
    pub inputs: usize,
}

/// A linear layer on a device.
pub(super) enum Matrix {
    F32(ops::Linear),
    Half(ops::HalfLinear),
    Int8(ops::QLinear, Tensor),
}

impl Matrix {
    pub(super) fn new(params: Params, precision: Precision, device: &Device) -> Result<Matrix> {
        let Params { weight, bias, outputs, inputs } = params;
        let halves = |kind| ops::HalfLinear::new(&weight, Some(&bias), outputs, inputs, kind, device);
        Ok(match precision {
            Precision::F16 => Matrix::Half(halves(ops::Half::F16)?),
            Precision::Bf16 => Matrix::Half(halves(ops::Half::Bf16)?),
            Precision::Int8 => {
                let weight = rounded(&weight, outputs, inputs, device)?;
                Matrix::Int8(ops::QLinear::new(vec![weight])?, Tensor::from_vec(bias, outputs, device)?)
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
            Matrix::Int8(layer, bias) => layer.bytes() as usize + bias.elem_count() * size_of::<f32>(),
        }
    }

    /// `x Wᵀ + b` for `x` of `(..., inputs)`, contiguous; of whole numbers, of `(rows, inputs)`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::F32(layer) => ops::linear(x, layer),
            Matrix::Half(layer) => layer.forward(x),
            Matrix::Int8(layer, bias) => layer.forward(&x.clone().into())?.broadcast_add(bias),
        }
    }

    /// [`forward`](Self::forward), then the exact GELU.
    pub(super) fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::F32(layer) => ops::linear_gelu(x, layer),
            Matrix::Half(layer) => layer.forward_gelu(x),
            Matrix::Int8(..) => ops::gelu_erf(&self.forward(x)?),
        }
    }
}

/// A row-major `(outputs, inputs)` matrix in 8 bits.
fn rounded(weight: &[f32], outputs: usize, inputs: usize, device: &Device) -> Result<ops::QWeight> {
    let mut packer = ops::Packer::rounding(GgmlDType::F32, GgmlDType::Q8_0, outputs, inputs, device)?;
    for rows in bytemuck::cast_slice::<f32, u8>(weight).chunks(packer.chunk_bytes()) {
        packer.push(rows)?;
    }
    packer.finish()
}

/// The table of tokens, which is also the projection to logits.
pub(super) enum Table {
    F32 { rows: Tensor, out: ops::Linear },
    Half(ops::HalfLinear),
    Int8 { rows: ops::QEmbedding, out: ops::QLinear },
}

impl Table {
    /// Takes a row-major `(vocab, width)` table.
    pub(super) fn new(
        table: Vec<f32>,
        (vocab, width): (usize, usize),
        precision: Precision,
        device: &Device,
    ) -> Result<Table> {
        let halves = |kind| ops::HalfLinear::new(&table, None, vocab, width, kind, device);
        Ok(match precision {
            Precision::F32 => {
                let rows = Tensor::from_vec(table, (vocab, width), device)?;
                Table::F32 { out: ops::Linear::new(&rows, None)?, rows }
            }
            Precision::F16 => Table::Half(halves(ops::Half::F16)?),
            Precision::Bf16 => Table::Half(halves(ops::Half::Bf16)?),
            Precision::Int8 => {
                let rows = ops::QEmbedding::new(rounded(&table, vocab, width, device)?)?;
                Table::Int8 { out: ops::QLinear::tied(&rows)?, rows }
            }
        })
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Table::F32 { rows, out } => rows.elem_count() * size_of::<f32>() + out.bytes(),
            Table::Half(table) => table.bytes(),
            Table::Int8 { rows, .. } => rows.bytes() as usize,
        }
    }

    /// `(tokens, width)`
    pub(super) fn rows(&self, tokens: &[u32], device: &Device) -> Result<Tensor> {
        match self {
            Table::F32 { rows, .. } => rows.index_select(&Tensor::new(tokens, device)?, 0),
            Table::Half(table) => table.rows(tokens),
            Table::Int8 { rows, .. } => rows.forward(tokens, device),
        }
    }

    /// Logits `(rows, vocab)` of `x` `(rows, width)`.
    pub(super) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Table::F32 { out, .. } => ops::linear(x, out),
            Table::Half(table) => table.forward(x),
            Table::Int8 { out, .. } => out.forward(&x.clone().into()),
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
    /// `x + more`, and its norm.
    pub(super) fn of_sum(&self, x: &Tensor, more: &Tensor) -> Result<(Tensor, Tensor)> {
        ops::add_then_layer_norm(x, more, &self.gain, &self.offset, EPS)
    }
}
