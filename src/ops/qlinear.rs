//! Linear layers and embedding tables whose weights stay quantised.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Result, Tensor, bail};

/// `y = x W^T`, with `W` (outputs, inputs) quantised, on one weight tensor or on several that share the input
/// (query, key and value; gate and up), whose outputs lie side by side.
#[derive(Debug, Clone)]
pub struct QLinear {
    parts: Vec<QMatMul>,
    bytes: u64,
}

impl QLinear {
    /// Takes the weights over. All must have the same number of inputs.
    pub fn new(weights: Vec<QTensor>) -> Result<Self> {
        let mut parts = Vec::with_capacity(weights.len());
        let mut bytes = 0;
        for weight in weights {
            let weight = fast(weight)?;
            bytes += weight.storage_size_in_bytes() as u64;
            parts.push(QMatMul::from_arc(Arc::new(weight))?);
        }
        Ok(QLinear { parts, bytes })
    }

    /// The output layer of a model that ties it to its embedding table: one copy serves both.
    pub fn tied(table: &QEmbedding) -> Result<Self> {
        Ok(QLinear { parts: vec![QMatMul::from_arc(table.table.clone())?], bytes: 0 })
    }

    /// Bytes the weights take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `x` (rows, inputs) f32 to (rows, outputs of all parts) f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.parts.as_slice() {
            [one] => one.forward(x),
            parts => {
                let outputs = parts.iter().map(|p| p.forward(x)).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&outputs, 1)
            }
        }
    }
}

/// A token embedding table that stays quantised.
#[derive(Debug, Clone)]
pub struct QEmbedding {
    table: Arc<QTensor>,
}

impl QEmbedding {
    /// Takes a (vocabulary, width) table over.
    pub fn new(table: QTensor) -> Result<Self> {
        Ok(QEmbedding { table: Arc::new(fast(table)?) })
    }

    /// Bytes the table takes.
    pub fn bytes(&self) -> u64 {
        self.table.storage_size_in_bytes() as u64
    }

    /// The rows of `tokens`, (tokens, width) f32.
    pub fn forward(&self, tokens: &[u32], device: &Device) -> Result<Tensor> {
        let rows = self.table.shape().dims().first().copied().unwrap_or(0);
        if let Some(bad) = tokens.iter().find(|&&t| t as usize >= rows) {
            bail!("token {bad} is past the vocabulary of {rows}");
        }
        self.table.embedding(&Tensor::new(tokens, device)?)
    }
}

/// Types whose CPU product is scalar code in candle are requantised to 8 bits once, at load: on a prompt of 512
/// SmolLM2-135M as Q4_1 ran at 97 to 114 tokens/s, as Q8_0 at 286, for 0.5 bytes more a weight and a rounding
/// far below the 4-bit one.
fn fast(weight: QTensor) -> Result<QTensor> {
    use GgmlDType::{Q4_1, Q5_0, Q5_1, Q8_1};
    if weight.device().is_cpu() && matches!(weight.dtype(), Q4_1 | Q5_0 | Q5_1 | Q8_1) {
        return QTensor::quantize(&weight.dequantize(&Device::Cpu)?, GgmlDType::Q8_0);
    }
    Ok(weight)
}
