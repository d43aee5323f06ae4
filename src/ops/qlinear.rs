//! Linear layers and embedding tables whose weights stay quantised.
//!
//! On the CPU the products are [`quant`](super::quant)'s. candle's, which they replace, keep a packed copy beside the
//! original, and pack only widths that are multiples of 256 and no Q4_1, Q5_0 or Q5_1: SmolLM2-135M (576 wide) ran a
//! prompt of 512 tokens at 97 to 114 tokens/s as Q4_1 and at 286 as Q8_0, and decoded at 69 to 106, on two cores. They
//! also share one process-wide barrier that a panic poisons. On other devices candle's kernels are used.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{D, Device, Module, Result, Tensor, bail};

use super::half_linear::HalfLinear;
use super::quant::{Kind, Matrix, PANEL, product};
use super::{cpu, par};

/// One weight matrix (outputs, inputs), where and how the products want it.
#[derive(Clone)]
pub struct QWeight(Arc<Form>);

enum Form {
    Packed(Matrix),
    /// Types that are not quantised.
    Half(HalfLinear),
    Device(Arc<QTensor>, QMatMul),
}

impl QWeight {
    /// Moves a weight into the form of its device.
    ///
    /// # Errors
    /// A tensor that is not a matrix, or not of its type's block size.
    pub fn new(tensor: QTensor) -> Result<Self> {
        let (outputs, inputs) = tensor.shape().dims2()?;
        if tensor.device().is_cpu() {
            let mut packer = Packer::new(tensor.dtype(), outputs, inputs)?;
            packer.push(&tensor.data()?)?;
            return packer.finish();
        }
        let tensor = Arc::new(tensor);
        let product = QMatMul::from_arc(tensor.clone())?;
        Ok(QWeight(Arc::new(Form::Device(tensor, product))))
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> u64 {
        match &*self.0 {
            Form::Packed(matrix) => matrix.bytes() as u64,
            Form::Half(linear) => linear.bytes() as u64,
            Form::Device(tensor, _) => tensor.storage_size_in_bytes() as u64,
        }
    }

    fn outputs(&self) -> usize {
        match &*self.0 {
            Form::Packed(matrix) => matrix.outputs(),
            Form::Half(linear) => linear.outputs(),
            Form::Device(tensor, _) => tensor.shape().dims().first().copied().unwrap_or(0),
        }
    }
}

/// Builds a [`QWeight`] for the CPU from rows as they come out of a GGUF file, so that the file's form and the packed
/// one never both lie in memory.
///
/// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K keep every weight exactly, at the file's size or 3% above. Q8_1,
/// Q2_K, Q3_K and Q8_K are rounded to Q8_0; floats to halves.
pub struct Packer {
    dtype: GgmlDType,
    outputs: usize,
    inputs: usize,
    /// Rows taken so far.
    rows: usize,
    target: Target,
}

enum Target {
    Exact(Matrix),
    Rounded(Matrix),
    Floats(Vec<f32>),
}

impl Packer {
    /// For a matrix (outputs, inputs) of a GGUF type.
    ///
    /// # Errors
    /// A dimension of 0, or inputs that are no multiple of the type's block.
    pub fn new(dtype: GgmlDType, outputs: usize, inputs: usize) -> Result<Self> {
        if outputs == 0 || inputs == 0 || !inputs.is_multiple_of(dtype.block_size()) {
            bail!("({outputs}, {inputs}) is no shape of a {dtype:?} matrix");
        }
        let target = match (dtype, Kind::of(dtype)) {
            (_, Some(kind)) => Target::Exact(Matrix::new(kind, outputs, inputs)?),
            (GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16, _) => Target::Floats(Vec::new()),
            _ => Target::Rounded(Matrix::new(Kind::Q8_0, outputs, inputs)?),
        };
        Ok(Packer { dtype, outputs, inputs, rows: 0, target })
    }

    fn row_bytes(&self) -> usize {
        self.inputs / self.dtype.block_size() * self.dtype.type_size()
    }

    /// How many bytes to give [`push`](Self::push) at a time: whole panels, a piece for every thread, about 4 MiB.
    pub fn chunk_bytes(&self) -> usize {
        let panel = PANEL * self.row_bytes();
        panel * ((4 << 20) / panel).max(2 * par::threads())
    }

    /// Takes the next rows over. All but the last call give a multiple of 16.
    ///
    /// # Errors
    /// Bytes that are not whole rows, or more rows than there are.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let count = bytes.len() / self.row_bytes();
        if !bytes.len().is_multiple_of(self.row_bytes()) || self.rows + count > self.outputs {
            bail!(
                "{} bytes are not rows {}.. of ({}, {})",
                bytes.len(),
                self.rows,
                self.outputs,
                self.inputs
            );
        }
        match &mut self.target {
            Target::Exact(matrix) => matrix.fill(self.rows, bytes)?,
            Target::Rounded(matrix) => {
                let floats = dequantise(self.dtype, bytes, (count, self.inputs))?;
                matrix.fill(self.rows, &QTensor::quantize(&floats, GgmlDType::Q8_0)?.data()?)?;
            }
            Target::Floats(values) => {
                let floats = dequantise(self.dtype, bytes, (count, self.inputs))?;
                cpu::with(&floats, "weight", |floats| {
                    values.extend_from_slice(floats);
                    Ok(())
                })?;
            }
        }
        self.rows += count;
        Ok(())
    }

    /// The weight.
    ///
    /// # Errors
    /// Rows that were not pushed; a float that no half can hold.
    pub fn finish(self) -> Result<QWeight> {
        if self.rows != self.outputs {
            bail!("{} of {} rows were given", self.rows, self.outputs);
        }
        Ok(QWeight(Arc::new(match self.target {
            Target::Exact(matrix) | Target::Rounded(matrix) => Form::Packed(matrix),
            Target::Floats(values) => {
                Form::Half(HalfLinear::new(&values, None, self.outputs, self.inputs, &Device::Cpu)?)
            }
        })))
    }
}

fn dequantise(dtype: GgmlDType, bytes: &[u8], shape: (usize, usize)) -> Result<Tensor> {
    // Words, since candle takes the bytes as blocks that hold f32 and asserts their alignment.
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    let aligned = bytemuck::cast_slice_mut::<u64, u8>(&mut words);
    aligned[..bytes.len()].copy_from_slice(bytes);
    let aligned: &[u8] = &aligned[..bytes.len()];
    let storage = QStorage::from_data(aligned.into(), &Device::Cpu, dtype)?;
    QTensor::new(storage, shape)?.dequantize(&Device::Cpu)
}

/// `y = x W^T` on one weight or on several that share the input (query, key and value; gate and up), whose outputs
/// lie side by side.
#[derive(Clone)]
pub struct QLinear {
    parts: Vec<QWeight>,
    bytes: u64,
}

impl QLinear {
    /// Takes the weights over. All must have the same number of inputs.
    pub fn new(parts: Vec<QWeight>) -> Result<Self> {
        let bytes = parts.iter().map(QWeight::bytes).sum();
        Ok(QLinear { parts, bytes })
    }

    /// The output layer of a model that ties it to its embedding table: one copy serves both.
    pub fn tied(table: &QEmbedding) -> Result<Self> {
        Ok(QLinear { parts: vec![table.table.clone()], bytes: 0 })
    }

    /// Bytes the weights take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `x` (rows, inputs) f32 to (rows, outputs of all parts) f32.
    ///
    /// # Errors
    /// An `x` of another width; on the CPU, one that is not contiguous.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let packed: Option<Vec<&Matrix>> = (self.parts.iter())
            .map(|p| match &*p.0 {
                Form::Packed(matrix) => Some(matrix),
                _ => None,
            })
            .collect();
        match packed {
            Some(matrices) => {
                let (rows, width) = x.dims2()?;
                if matrices.iter().any(|m| m.inputs() != width) {
                    bail!("a product of {:?} with {matrices:?}", x.shape());
                }
                let outputs = matrices.iter().map(|m| m.outputs()).sum::<usize>();
                let out = cpu::with(x, "quantised product", |x| product(x, &matrices))?;
                cpu::tensor(out, (rows, outputs))
            }
            None => {
                let outputs = self.parts.iter().map(|p| p.product(x)).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&outputs, D::Minus1)
            }
        }
    }
}

impl QWeight {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        match &*self.0 {
            Form::Packed(matrix) => {
                let rows = x.dim(0)?;
                let out = cpu::with(x, "quantised product", |x| product(x, &[matrix]))?;
                cpu::tensor(out, (rows, matrix.outputs()))
            }
            Form::Half(linear) => linear.forward(x),
            Form::Device(_, product) => product.forward(x),
        }
    }
}

/// A token embedding table that stays quantised.
#[derive(Clone)]
pub struct QEmbedding {
    table: QWeight,
}

impl QEmbedding {
    /// Takes a (vocabulary, width) table over.
    pub fn new(table: QWeight) -> Result<Self> {
        Ok(QEmbedding { table })
    }

    /// Bytes the table takes.
    pub fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    /// The rows of `tokens`, (tokens, width) f32.
    pub fn forward(&self, tokens: &[u32], device: &Device) -> Result<Tensor> {
        let rows = self.table.outputs();
        if let Some(bad) = tokens.iter().find(|&&t| t as usize >= rows) {
            bail!("token {bad} is past the vocabulary of {rows}");
        }
        match &*self.table.0 {
            Form::Packed(matrix) => {
                let mut out = vec![0f32; tokens.len() * matrix.inputs()];
                for (out, &token) in out.chunks_exact_mut(matrix.inputs()).zip(tokens) {
                    matrix.row(token as usize, out);
                }
                cpu::tensor(out, (tokens.len(), matrix.inputs()))
            }
            Form::Half(linear) => linear.rows(tokens),
            Form::Device(tensor, _) => tensor.embedding(&Tensor::new(tokens, device)?),
        }
    }
}
