//! A fully connected layer whose weights are kept in 16 bits: halves, or bfloat16.
//!
//! Writing one token reads every weight once: the time is the bytes over the memory's bandwidth, so weights of
//! half the size take half the time. They are widened in registers and multiplied with f32 activations, so
//! weights that were published so lose nothing. On the CPU they lie in panels of 16 outputs by all inputs,
//! as those of [`Linear`](super::Linear) do; a few rows of the input share each widened vector. On a GPU they are those of
//! [`QLinear`]: halves in tiles, multiplied as f32 with up to 3 rows and on the tensor cores with more.

#![allow(unsafe_code)]

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::simd::{Simd, dispatch};
use super::{cpu, elementwise, par};

/// Outputs of a panel.
const PANEL: usize = 16;
/// Panels that a tile computes side by side with vectors of 16.
const PANELS: usize = 4;
/// Input rows that share each widened vector at most.
const ROWS: usize = 6;
/// Weights of a cache line.
const LINE: usize = 32;

/// A float of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// IEEE half precision: 11 significant bits, up to 65,504.
    F16,
    /// bfloat16: 8 significant bits, the range of f32.
    Bf16,
}

impl Half {
    /// The bits of rounded values; `None` where one is too large.
    fn round(self, values: &[f32]) -> Option<Vec<u16>> {
        match self {
            Half::F16 => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                let fits = |(h, v): (&f16, &f32)| !h.is_infinite() || v.is_infinite();
                halves.iter().zip(values).all(fits).then(|| halves.iter().map(|h| h.to_bits()).collect())
            }
            Half::Bf16 => {
                let mut halves = vec![bf16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                let fits = |(h, v): (&bf16, &f32)| !h.is_infinite() || v.is_infinite();
                halves.iter().zip(values).all(fits).then(|| halves.iter().map(|h| h.to_bits()).collect())
            }
        }
    }

    fn widen(self, bits: u16) -> f32 {
        match self {
            Half::F16 => f16::from_bits(bits).to_f32(),
            Half::Bf16 => bf16::from_bits(bits).to_f32(),
        }
    }
}

#[derive(Clone)]
enum Weights {
    /// `ceil(outputs / 16)` panels of `(inputs, 16)`, the bits, zeros beyond `outputs`; bias.
    Host(Arc<[u16]>, Option<Arc<[f32]>>),
    #[cfg(feature = "cuda")]
    Tiles(Tiled),
    /// `(outputs, inputs)` in f16 or bf16 on a device; bias in f32.
    Device(Tensor, Option<Tensor>),
}

/// For a GPU's kernels: one copy of the weights as a matrix, with the bias, and as a table of rows.
#[cfg(feature = "cuda")]
#[derive(Clone)]
struct Tiled {
    product: super::QLinear,
    table: super::QEmbedding,
    device: Device,
}

/// Weight `(outputs, inputs)` in 16 bits and optional bias `(outputs)` in f32. Cheap to clone.
#[derive(Clone)]
pub struct HalfLinear {
    inputs: usize,
    outputs: usize,
    kind: Half,
    weights: Weights,
}

impl HalfLinear {
    /// Rounds a row-major `(outputs, inputs)` weight.
    ///
    /// # Errors
    /// Lengths that do not fit, a zero dimension, or a weight that `kind` cannot hold.
    pub fn new(
        weight: &[f32],
        bias: Option<&[f32]>,
        outputs: usize,
        inputs: usize,
        kind: Half,
        device: &Device,
    ) -> Result<Self> {
        let fits = outputs.checked_mul(inputs) == Some(weight.len()) && !weight.is_empty();
        if !fits || bias.is_some_and(|b| b.len() != outputs) {
            bail!("half linear: {} weights and a bias do not make ({outputs}, {inputs})", weight.len());
        }
        let Some(bits) = kind.round(weight) else { bail!("half linear: a weight is too large for {kind:?}") };
        #[cfg(feature = "cuda")]
        if device.is_cuda()
            && let Some(weights) = tiles(&bits, bias, (outputs, inputs), kind, device)?
        {
            return Ok(HalfLinear { inputs, outputs, kind, weights });
        }
        let weights = if cpu::serves(device) {
            Weights::Host(pack(&bits, outputs, inputs), bias.map(Arc::from))
        } else {
            let bias = bias.map(|b| Tensor::from_slice(b, outputs, device)).transpose()?;
            let shape = (outputs, inputs);
            let weight = match kind {
                Half::F16 => Tensor::from_vec(bits.into_iter().map(f16::from_bits).collect(), shape, device)?,
                Half::Bf16 => {
                    Tensor::from_vec(bits.into_iter().map(bf16::from_bits).collect(), shape, device)?
                }
            };
            Weights::Device(weight, bias)
        };
        Ok(HalfLinear { inputs, outputs, kind, weights })
    }

    /// Bytes that the parameters take.
    pub fn bytes(&self) -> usize {
        let outputs = self.outputs.next_multiple_of(PANEL);
        self.inputs * outputs * size_of::<u16>() + self.outputs * size_of::<f32>()
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `x Wᵀ + b` for `x` of shape `(..., inputs)`; gives f32 `(..., outputs)`.
    ///
    /// # Errors
    /// A last dimension that is not [`inputs`](Self::inputs); on the CPU, an `x` that is not contiguous.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == self.inputs => *last = self.outputs,
            _ => bail!("half linear: expected a last dimension of {}, got {:?}", self.inputs, x.shape()),
        }
        match &self.weights {
            Weights::Host(weight, bias) => {
                let out = cpu::with(x, "half linear: input", |values| {
                    Ok(self.product(values, weight, bias.as_deref()))
                })?;
                cpu::tensor(out, shape)
            }
            #[cfg(feature = "cuda")]
            Weights::Tiles(tiled) => {
                tiled.product.forward(&x.reshape(((), self.inputs))?.into())?.reshape(shape)
            }
            Weights::Device(weight, bias) => {
                // Widened for the call: activations of some models are past what halves can hold.
                let weight = weight.to_dtype(DType::F32)?;
                let y = x.reshape(((), self.inputs))?.matmul(&weight.t()?)?.reshape(shape)?;
                match bias {
                    Some(bias) => y.broadcast_add(bias),
                    None => Ok(y),
                }
            }
        }
    }

    /// [`forward`](Self::forward), then the exact GELU.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        elementwise::gelu_erf(&self.forward(x)?)
    }

    /// Rows of the weight, widened: `(ids.len(), inputs)`.
    ///
    /// # Errors
    /// An id that is not below [`outputs`](Self::outputs).
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        // A device does not check: it would read past the weight.
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.outputs) {
            bail!("half linear: row {id} of {}", self.outputs);
        }
        match &self.weights {
            Weights::Host(weight, _) => {
                let mut out = Vec::with_capacity(ids.len() * self.inputs);
                for &id in ids {
                    let (panel, lane) = (id as usize / PANEL, id as usize % PANEL);
                    let lines = weight[panel * self.inputs * PANEL..].chunks_exact(PANEL).take(self.inputs);
                    out.extend(lines.map(|line| self.kind.widen(line[lane])));
                }
                cpu::tensor(out, (ids.len(), self.inputs))
            }
            #[cfg(feature = "cuda")]
            Weights::Tiles(tiled) => tiled.table.forward(ids, &tiled.device),
            Weights::Device(weight, _) => {
                weight.index_select(&Tensor::new(ids, weight.device())?, 0)?.to_dtype(DType::F32)
            }
        }
    }

    fn product(&self, x: &[f32], weight: &[u16], bias: Option<&[f32]>) -> Vec<f32> {
        let (rows, inputs, outputs) = (x.len() / self.inputs, self.inputs, self.outputs);
        // SAFETY: the tasks cover every output of every row.
        let mut out = unsafe { par::uninit(rows * outputs) };
        let panels = outputs.div_ceil(PANEL);
        let tasks = panels.div_ceil(PANELS).min(par::threads() * 4);
        // Memory-bound for few rows (~20 GB/s a core), arithmetic for many (~100 GFLOP/s a core).
        let ns = (inputs * outputs) as f64 * (0.1 + rows as f64 * 0.02);
        let dst = par::SharedMut::new(&mut out);
        par::for_each(tasks, ns, |task| {
            let cut = |task: usize| panels * task / tasks / PANELS * PANELS;
            let (from, to) = (cut(task), if task + 1 == tasks { panels } else { cut(task + 1) });
            // SAFETY: `from..to` are disjoint among tasks and within the panels; `x` has `rows * inputs` values,
            // `weight` all panels, `out` has `rows * outputs` values.
            unsafe { columns(self.kind, x, weight, bias, dst.get(), rows, inputs, outputs, from, to) };
        });
        out
    }
}

/// Weights for a GPU's kernels, which are halves there; `None` where one of bfloat16 is too large for that, or the inputs
/// are no multiple of 32.
#[cfg(feature = "cuda")]
fn tiles(
    bits: &[u16],
    bias: Option<&[f32]>,
    (outputs, inputs): (usize, usize),
    kind: Half,
    device: &Device,
) -> Result<Option<Weights>> {
    use candle_core::quantized::GgmlDType;
    if !inputs.is_multiple_of(32) || bits.iter().any(|&b| kind.widen(b).abs() > f16::MAX.to_f32()) {
        return Ok(None);
    }
    let dtype = match kind {
        Half::F16 => GgmlDType::F16,
        Half::Bf16 => GgmlDType::BF16,
    };
    let mut packer = super::Packer::new(dtype, outputs, inputs, device)?;
    for rows in bytemuck::cast_slice::<u16, u8>(bits).chunks(packer.chunk_bytes()) {
        packer.push(rows)?;
    }
    let table = super::QEmbedding::new(packer.finish()?)?;
    let bias = bias.map(|bias| Tensor::from_slice(bias, outputs, device)).transpose()?;
    let product = super::QLinear::tied(&table)?.biased(bias)?;
    Ok(Some(Weights::Tiles(Tiled { product, table, device: device.clone() })))
}

/// Copies a row-major `(outputs, inputs)` weight into panels.
fn pack(weight: &[u16], outputs: usize, inputs: usize) -> Arc<[u16]> {
    let mut packed = vec![0u16; outputs.next_multiple_of(PANEL) * inputs];
    for (panel, rows) in packed.chunks_exact_mut(inputs * PANEL).zip(weight.chunks(inputs * PANEL)) {
        for (lane, row) in rows.chunks_exact(inputs).enumerate() {
            for (line, bits) in panel.chunks_exact_mut(PANEL).zip(row) {
                line[lane] = *bits;
            }
        }
    }
    packed.into()
}

dispatch! {
    /// Computes the panels `from..to` of every row.
    ///
    /// # Safety
    /// `x` has `rows * inputs` values, `weight` the panels of `outputs`, `bias` `outputs`; `out` is valid for
    /// `rows * outputs`, and nothing else touches these panels' columns; `to` is within the panels.
    unsafe fn columns(
        kind: Half, x: &[f32], weight: &[u16], bias: Option<&[f32]>, out: *mut f32, rows: usize, inputs: usize,
        outputs: usize, from: usize, to: usize,
    ) = columns_generic
}

macro_rules! tiles {
    ($S:ty, $bf16:ident, $rows:expr, $args:tt, $vectors:literal: $($r:literal)*) => {
        match $rows { $($r => tile::<$S, $bf16, $r, $vectors> $args,)* _ => unreachable!("tile of {} rows", $rows) }
    };
}

/// # Safety
/// As [`columns`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn columns_generic<S: Simd>(
    kind: Half,
    x: &[f32],
    weight: &[u16],
    bias: Option<&[f32]>,
    out: *mut f32,
    rows: usize,
    inputs: usize,
    outputs: usize,
    from: usize,
    to: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match kind {
            Half::F16 => columns_of::<S, false>(x, weight, bias, out, rows, inputs, outputs, from, to),
            Half::Bf16 => columns_of::<S, true>(x, weight, bias, out, rows, inputs, outputs, from, to),
        }
    }
}

/// # Safety
/// As [`columns`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn columns_of<S: Simd, const BF16: bool>(
    x: &[f32],
    weight: &[u16],
    bias: Option<&[f32]>,
    out: *mut f32,
    rows: usize,
    inputs: usize,
    outputs: usize,
    from: usize,
    to: usize,
) {
    // Accumulators that the registers hold: 24 of 32, 12 of 16, and of plain Rust's few.
    let (wide, most) = match S::LANES {
        16 => (PANELS, ROWS),
        8 => (1, ROWS),
        _ => (1, 2),
    };
    let groups = rows.div_ceil(most);
    let mut panel = from;
    while panel < to {
        let count = if panel + wide <= to { wide } else { 1 };
        let mut row = 0;
        for group in 0..groups {
            let high = (rows - row).div_ceil(groups - group);
            // SAFETY: the tile lies within the rows and panels that the caller vouches for.
            unsafe {
                let w = weight.as_ptr().add(panel * inputs * PANEL);
                let mut sums = [0f32; ROWS * PANELS * PANEL];
                let args = (x.as_ptr().add(row * inputs), w, inputs, sums.as_mut_ptr());
                match (S::LANES, count) {
                    (16, PANELS) => tiles!(S, BF16, high, (args), 4: 1 2 3 4 5 6),
                    (16, _) => tiles!(S, BF16, high, (args), 1: 1 2 3 4 5 6),
                    (8, _) => tiles!(S, BF16, high, (args), 2: 1 2 3 4 5 6),
                    _ => tiles!(S, BF16, high, (args), 4: 1 2),
                }
                let first = panel * PANEL;
                let columns = (count * PANEL).min(outputs - first);
                for (r, sums) in sums.chunks_exact(count * PANEL).take(high).enumerate() {
                    let out = out.add((row + r) * outputs + first);
                    for (c, sum) in sums.iter().take(columns).enumerate() {
                        *out.add(c) = sum + bias.map_or(0.0, |b| *b.get_unchecked(first + c));
                    }
                }
            }
            row += high;
        }
        panel += count;
    }
}

/// Input rows, panels, inputs, and room for the sums.
type Tile = (*const f32, *const u16, usize, *mut f32);

/// `R` rows by `N` adjacent vectors of the product. A value's terms are added in the order of the inputs.
///
/// While these panels are used the next are fetched: the processor's own fetching stops at each page. A single row
/// reads 96 MB of weights in 2.0 ms so, without in 3.6 (two cores).
///
/// # Safety
/// `x` is valid for `R` rows of `inputs`, `w` for the panels that the vectors lie in, `sums` for `R` rows of them.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the same constant index into several arrays, unrolled
unsafe fn tile<S: Simd, const BF16: bool, const R: usize, const N: usize>((x, w, inputs, sums): Tile) {
    // SAFETY: all accesses are within the rows and panels that the caller vouches for.
    unsafe {
        let mut acc = [[S::splat(0.0); N]; R];
        let ahead = N * S::LANES * inputs;
        let vectors: [*const u16; N] = std::array::from_fn(|n| {
            let lane = n * S::LANES;
            w.add(lane / PANEL * inputs * PANEL + lane % PANEL)
        });
        for k in 0..inputs {
            let mut wide = [S::splat(0.0); N];
            for n in 0..N {
                let at = vectors[n].add(k * PANEL);
                if (k * PANEL + n * S::LANES % PANEL).is_multiple_of(LINE) {
                    S::prefetch(at.wrapping_add(ahead));
                }
                wide[n] = if BF16 { S::load_bf16(at) } else { S::load_f16(at) };
            }
            for r in 0..R {
                let value = S::splat(*x.add(r * inputs + k));
                for n in 0..N {
                    acc[r][n] = S::fma(value, wide[n], acc[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                S::store(sums.add((r * N + n) * S::LANES), acc[r][n]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_within, composed, noise, rounding};
    use super::*;

    #[test]
    fn matches_a_plain_product() {
        let shapes = [(1, 512, 77), (3, 384, 130), (7, 20, 5), (14, 33, 64), (1, 1, 1)];
        for (kind, (rows, inputs, outputs)) in
            [Half::F16, Half::Bf16].into_iter().flat_map(|k| shapes.map(|s| (k, s)))
        {
            let bits = kind.round(&noise(outputs * inputs, 1)).unwrap();
            let weight: Vec<f32> = bits.iter().map(|&bits| kind.widen(bits)).collect();
            let (x, bias) = (noise(rows * inputs, 2), noise(outputs, 3));
            let make = || HalfLinear::new(&weight, Some(&bias), outputs, inputs, kind, &Device::Cpu).unwrap();
            let input = Tensor::from_slice(&x, (1, rows, inputs), &Device::Cpu).unwrap();
            let (want, size): (Vec<f32>, Vec<f32>) = (0..rows * outputs)
                .map(|i| {
                    let (x, w) =
                        (&x[i / outputs * inputs..][..inputs], &weight[i % outputs * inputs..][..inputs]);
                    let terms = || x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b));
                    let (dot, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                    (dot as f32 + bias[i % outputs], size as f32 + bias[i % outputs].abs())
                })
                .unzip();
            for layer in [make(), composed(make)] {
                assert_eq!((layer.inputs(), layer.outputs()), (inputs, outputs));
                let got = layer.forward(&input).unwrap();
                assert_eq!(got.dims(), [1, rows, outputs]);
                let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_within(&got, &want, |i| rounding(inputs + 1, size[i]));
                let last = layer.rows(&[outputs as u32 - 1]).unwrap().flatten_all().unwrap();
                assert_eq!(last.to_vec1::<f32>().unwrap(), &weight[(outputs - 1) * inputs..]);
                assert!(layer.rows(&[outputs as u32]).is_err());
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        let weight = noise(100 * 256, 1);
        let layer = HalfLinear::new(&weight, None, 100, 256, Half::F16, &Device::Cpu).unwrap();
        let x = Tensor::from_vec(noise(9 * 256, 2), (9, 256), &Device::Cpu).unwrap();
        let all = layer.forward(&x).unwrap().to_vec2::<f32>().unwrap();
        for (i, row) in all.iter().enumerate() {
            let one = layer.forward(&x.narrow(0, i, 1).unwrap().contiguous().unwrap()).unwrap();
            assert_eq!(&one.to_vec2::<f32>().unwrap()[0], row);
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let new = |weight: &[f32], bias: Option<&[f32]>, outputs, inputs, kind| {
            HalfLinear::new(weight, bias, outputs, inputs, kind, &Device::Cpu)
        };
        assert!(new(&[0.0; 5], None, 2, 3, Half::F16).is_err());
        assert!(new(&[], None, 0, 3, Half::F16).is_err());
        assert!(new(&[0.0; 6], Some(&[0.0]), 2, 3, Half::F16).is_err());
        assert!(new(&[1e6], None, 1, 1, Half::F16).is_err());
        assert!(new(&[1e6], None, 1, 1, Half::Bf16).is_ok());
        assert!(new(&[f32::MAX], None, 1, 1, Half::Bf16).is_err(), "it rounds to infinity");
        let layer = new(&[0.0; 6], None, 2, 3, Half::F16).unwrap();
        assert!(layer.rows(&[2]).is_err());
        assert!(layer.forward(&Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap()).is_err());
    }
}
