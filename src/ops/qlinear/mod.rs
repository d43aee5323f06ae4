//! Linear layers and embedding tables whose weights stay quantised.
//!
//! On the CPU the products are [`quant`](super::quant)'s. candle's, which they replace, keep a packed copy beside the
//! original, and pack only widths that are multiples of 256 and no Q4_1, Q5_0 or Q5_1: SmolLM2-135M (576 wide) ran a
//! prompt of 512 tokens at 97 to 114 tokens/s as Q4_1 and at 286 as Q8_0, and decoded at 69 to 106, on two cores. They
//! also share one process-wide barrier that a panic poisons. On a GPU they are those of `kernels/qlinear.cu`, over
//! weights in [tiles](super::gpu::tiles); what is made elsewhere without kernels of ours is candle's.

#[cfg(feature = "cuda")]
mod cuda;
mod input;
#[cfg(any(test, feature = "cuda"))]
mod launch;

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{D, Device, Module, Result, Tensor, bail};

#[cfg(feature = "cuda")]
pub(crate) use self::cuda::{product_of_halves, takes_halves};
pub use self::input::Input;
#[cfg(feature = "cuda")]
pub(crate) use self::input::room;
use super::half_linear::{Half, HalfLinear};
use super::quant::{Kind, Matrix, PANEL, product};
use super::{cpu, par};

/// One weight matrix (outputs, inputs), where and how the products want it.
#[derive(Clone)]
pub struct QWeight(Arc<Form>);

enum Form {
    Packed(Matrix),
    /// Types that are not quantised.
    Half(HalfLinear),
    #[cfg(feature = "cuda")]
    Tiled(cuda::Tiled),
    Device(Arc<QTensor>, QMatMul),
}

impl QWeight {
    /// Bytes it takes.
    pub fn bytes(&self) -> u64 {
        match &*self.0 {
            Form::Packed(matrix) => matrix.bytes() as u64,
            Form::Half(linear) => linear.bytes() as u64,
            #[cfg(feature = "cuda")]
            Form::Tiled(tiled) => tiled.layout.bytes() as u64,
            Form::Device(tensor, _) => tensor.storage_size_in_bytes() as u64,
        }
    }

    fn outputs(&self) -> usize {
        match &*self.0 {
            Form::Packed(matrix) => matrix.outputs(),
            Form::Half(linear) => linear.outputs(),
            #[cfg(feature = "cuda")]
            Form::Tiled(tiled) => tiled.layout.outputs,
            Form::Device(tensor, _) => tensor.shape().dims().first().copied().unwrap_or(0),
        }
    }
}

/// Builds a [`QWeight`] from rows as they come out of a GGUF file, so that for the CPU the file's form and the packed
/// one never both lie in memory.
///
/// On the CPU Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K keep every weight exactly, at the file's size or 3%
/// above; Q8_1, Q2_K, Q3_K and Q8_K are rounded to Q8_0. A GPU keeps and rounds the same. candle's products, without
/// kernels of ours, keep the file's blocks and round Q8_1 and Q8_K. Floats are rounded to halves everywhere.
pub struct Packer {
    dtype: GgmlDType,
    /// What rows are rounded to on their way; `dtype` where they are not.
    kept: GgmlDType,
    outputs: usize,
    inputs: usize,
    /// Rows taken so far.
    rows: usize,
    target: Target,
    device: Device,
}

enum Target {
    Packed(Matrix),
    Floats(Vec<f32>),
    /// For a GPU's kernels.
    #[cfg(feature = "cuda")]
    Tiles(super::gpu::tiles::Tiles),
    /// For candle's products.
    Blocks(Blocks),
}

impl Packer {
    /// For a matrix (outputs, inputs) of a GGUF type that `device` is to multiply with.
    ///
    /// # Errors
    /// A dimension of 0, or inputs that are no multiple of the type's block.
    pub fn new(dtype: GgmlDType, outputs: usize, inputs: usize, device: &Device) -> Result<Self> {
        Self::rounding(dtype, dtype, outputs, inputs, device)
    }

    /// [`new`](Self::new) for rows that are rounded to the type `wanted` first.
    ///
    /// # Errors
    /// Also inputs that are no multiple of that type's block.
    pub fn rounding(
        dtype: GgmlDType,
        wanted: GgmlDType,
        outputs: usize,
        inputs: usize,
        device: &Device,
    ) -> Result<Self> {
        let whole = |dtype: GgmlDType| inputs.is_multiple_of(dtype.block_size());
        if outputs == 0 || inputs == 0 || !whole(dtype) || !whole(wanted) {
            bail!("({outputs}, {inputs}) is no shape of a {dtype:?} matrix to be kept as {wanted:?}");
        }
        let ours = cpu::serves(device);
        let exact = match ours || device.is_cuda() {
            true => Kind::of(wanted).is_some(),
            false => !matches!(wanted, GgmlDType::Q8_1 | GgmlDType::Q8K),
        };
        let floats = matches!(wanted, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        let kept = if exact || floats { wanted } else { GgmlDType::Q8_0 };
        let target = match Kind::of(kept) {
            #[cfg(feature = "cuda")]
            _ if device.is_cuda() && inputs.is_multiple_of(32) => {
                Target::Tiles(super::gpu::tiles::Tiles::new(kept, outputs, inputs)?)
            }
            _ if floats => Target::Floats(Vec::new()),
            Some(kind) if ours => Target::Packed(Matrix::new(kind, outputs, inputs)?),
            _ => Target::Blocks(Blocks::default()),
        };
        Ok(Packer { dtype, kept, outputs, inputs, rows: 0, target, device: device.clone() })
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
        let floats = || dequantise(self.dtype, bytes, (count, self.inputs));
        let rounded = match self.kept == self.dtype {
            true => None,
            false => Some(round(self.dtype, self.kept, bytes, self.inputs)?),
        };
        let blocks = rounded.as_deref().unwrap_or(bytes);
        match &mut self.target {
            Target::Packed(matrix) => matrix.fill(self.rows, blocks)?,
            #[cfg(feature = "cuda")]
            Target::Tiles(tiles) => tiles.fill(self.rows, blocks),
            Target::Blocks(all) => all.push(blocks),
            Target::Floats(values) => cpu::with(&floats()?, "weight", |floats| {
                values.extend_from_slice(floats);
                Ok(())
            })?,
        }
        self.rows += count;
        Ok(())
    }

    /// The weight.
    ///
    /// # Errors
    /// Rows that were not pushed; a float that no half can hold; a device without room.
    pub fn finish(self) -> Result<QWeight> {
        let (outputs, inputs) = (self.outputs, self.inputs);
        if self.rows != outputs {
            bail!("{} of {outputs} rows were given", self.rows);
        }
        Ok(QWeight(Arc::new(match self.target {
            Target::Packed(matrix) => Form::Packed(matrix),
            #[cfg(feature = "cuda")]
            Target::Tiles(tiles) => Form::Tiled(cuda::Tiled::new(tiles, &self.device)?),
            Target::Floats(values) => {
                Form::Half(HalfLinear::new(&values, None, outputs, inputs, Half::F16, &self.device)?)
            }
            Target::Blocks(blocks) => {
                let tensor = Arc::new(blocks.tensor(self.kept, (outputs, inputs), &self.device)?);
                let product = QMatMul::from_arc(tensor.clone())?;
                Form::Device(tensor, product)
            }
        })))
    }
}

/// Bytes of a GGUF type. Words, since candle takes the bytes as blocks that hold f32 and asserts their alignment.
#[derive(Default)]
struct Blocks {
    words: Vec<u64>,
    len: usize,
}

impl Blocks {
    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.words.resize(end.div_ceil(8), 0);
        bytemuck::cast_slice_mut::<u64, u8>(&mut self.words)[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    fn tensor(&self, dtype: GgmlDType, shape: (usize, usize), device: &Device) -> Result<QTensor> {
        let bytes: &[u8] = &bytemuck::cast_slice(&self.words)[..self.len];
        QTensor::new(QStorage::from_data(bytes.into(), device, dtype)?, shape)
    }
}

/// Whole rows of `inputs` from one type to another, every thread some of them.
fn round(from: GgmlDType, to: GgmlDType, bytes: &[u8], inputs: usize) -> Result<Vec<u8>> {
    let row_bytes = inputs / from.block_size() * from.type_size();
    let rows = (bytes.len() / row_bytes).div_ceil(par::threads()).max(1);
    let mut parts: Vec<(&[u8], Result<Vec<u8>>)> =
        bytes.chunks(rows * row_bytes).map(|part| (part, Ok(Vec::new()))).collect();
    par::each(parts.iter_mut().collect(), |(part, rounded)| {
        let floats = dequantise(from, part, (part.len() / row_bytes, inputs));
        *rounded = floats.and_then(|f| Ok(QTensor::quantize(&f, to)?.data()?.into_owned()));
    });
    let mut all = Vec::new();
    for (_, rounded) in parts {
        all.extend_from_slice(&rounded?);
    }
    Ok(all)
}

fn dequantise(dtype: GgmlDType, bytes: &[u8], shape: (usize, usize)) -> Result<Tensor> {
    let mut blocks = Blocks::default();
    blocks.push(bytes);
    blocks.tensor(dtype, shape, &Device::Cpu)?.dequantize(&Device::Cpu)
}

/// `y = x W^T` on one weight or on several that share the input (query, key and value; gate and up), whose outputs
/// lie side by side.
#[derive(Clone)]
pub struct QLinear {
    parts: Vec<QWeight>,
    /// Of all outputs, f32.
    bias: Option<Tensor>,
    bytes: u64,
}

impl QLinear {
    /// Takes the weights over. All must have the same number of inputs.
    pub fn new(parts: Vec<QWeight>) -> Result<Self> {
        let bytes = parts.iter().map(QWeight::bytes).sum();
        Ok(QLinear { parts, bias: None, bytes })
    }

    /// The output layer of a model that ties it to its embedding table: one copy serves both.
    pub fn tied(table: &QEmbedding) -> Result<Self> {
        Ok(QLinear { parts: vec![table.table.clone()], bias: None, bytes: 0 })
    }

    /// The same layer with a bias of all its outputs, f32.
    ///
    /// # Errors
    /// Another length.
    pub fn biased(self, bias: Option<Tensor>) -> Result<Self> {
        let outputs: usize = self.parts.iter().map(QWeight::outputs).sum();
        match &bias {
            Some(bias) if bias.dims() != [outputs] => {
                bail!("a bias of {:?} for {outputs} outputs", bias.shape())
            }
            _ => Ok(QLinear { bias, ..self }),
        }
    }

    /// Bytes the weights take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `x` (rows, inputs) f32 to (rows, outputs of all parts) f32.
    ///
    /// # Errors
    /// An `x` of another width; on the CPU, one that is not contiguous.
    pub fn forward(&self, x: &Input) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(out) = cuda::forward(&self.parts, self.bias.as_ref(), x)? {
            return Ok(out);
        }
        let out = self.product(x.values())?;
        match &self.bias {
            Some(bias) => out.broadcast_add(bias),
            None => Ok(out),
        }
    }

    fn product(&self, x: &Tensor) -> Result<Tensor> {
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
            #[cfg(feature = "cuda")]
            Form::Tiled(_) => bail!("a matrix in tiles beside others that are not"),
            Form::Device(_, product) => product.forward(&x.contiguous()?),
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

    /// The rows of `tokens`, which lie at `at` on the GPU too, times `factor`; `None` where the table is not there in
    /// tiles.
    #[cfg(feature = "cuda")]
    pub(super) fn rows_at(
        &self,
        at: super::gpu::Address,
        tokens: &[u32],
        factor: f32,
    ) -> Result<Option<Tensor>> {
        let Form::Tiled(tiled) = &*self.table.0 else { return Ok(None) };
        if let Some(bad) = tokens.iter().find(|&&t| t as usize >= tiled.layout.outputs) {
            bail!("token {bad} is past the vocabulary of {}", tiled.layout.outputs);
        }
        tiled.rows_at(at, tokens.len(), factor).map(Some)
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
            #[cfg(feature = "cuda")]
            Form::Tiled(tiled) => tiled.rows(&Tensor::new(tokens, device)?),
            Form::Device(tensor, _) => tensor.embedding(&Tensor::new(tokens, device)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, composed, noise};

    const TYPES: [GgmlDType; 14] = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q8_1,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
        GgmlDType::F16,
        GgmlDType::BF16,
        GgmlDType::F32,
    ];

    /// One matrix for this crate's products and for candle's, which a device has.
    fn both(dtype: GgmlDType, outputs: usize, inputs: usize, seed: u64) -> [QWeight; 2] {
        let values =
            Tensor::from_vec(noise(outputs * inputs, seed), (outputs, inputs), &Device::Cpu).unwrap();
        let bytes = QTensor::quantize(&values, dtype).unwrap().data().unwrap().into_owned();
        let make = || {
            let mut packer = Packer::new(dtype, outputs, inputs, &Device::Cpu).unwrap();
            bytes.chunks(packer.chunk_bytes()).for_each(|piece| packer.push(piece).unwrap());
            packer.finish().unwrap()
        };
        [make(), composed(make)]
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn candles_products_of_several_weights_agree_with_ours() {
        for dtype in TYPES {
            for (rows, inputs, outputs) in
                [(1, 256, [40, 8, 24]), (7, 512, [16, 33, 1]), (12, 768, [65, 16, 16])]
            {
                let parts = [0, 1, 2].map(|i| both(dtype, outputs[i], inputs, i as u64));
                let x = Tensor::from_vec(noise(rows * inputs, 9), (rows, inputs), &Device::Cpu).unwrap();
                let of = |form: usize| {
                    let parts = parts.iter().map(|p| p[form].clone()).collect();
                    QLinear::new(parts).unwrap().forward(&x.clone().into()).unwrap()
                };
                let (ours, candles) = (of(0), of(1));
                assert_eq!(candles.dims(), [rows, outputs.iter().sum::<usize>()]);
                // Both round activations to 8 bits, on other grids; sums of `inputs` terms of about a third.
                assert_close(&flat(&candles), &flat(&ours), 0.05 * (inputs as f32).sqrt() / 3.0);
            }
        }
    }

    #[test]
    fn a_table_of_candles_gives_the_same_rows() {
        for dtype in TYPES {
            let [ours, candles] = both(dtype, 50, 256, 4).map(|t| QEmbedding::new(t).unwrap());
            let row = |table: &QEmbedding| flat(&table.forward(&[49, 0, 17, 17], &Device::Cpu).unwrap());
            let rounded = matches!(dtype, GgmlDType::Q2K | GgmlDType::Q3K);
            assert_close(&row(&candles), &row(&ours), if rounded { 1e-2 } else { 1e-5 });
            assert!(candles.forward(&[50], &Device::Cpu).is_err());
        }
    }
}
