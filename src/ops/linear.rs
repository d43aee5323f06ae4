//! A fully connected layer: `y = act(x Wᵀ + b)` in one pass over the output.
//!
//! On the CPU the weights are copied once, when the layer is made, into the order in which the product reads them:
//! steps of the [tile unit](super::amx) where there is one, else panels of 16 output features by all inputs. The
//! plain copy is not kept.
//!
//! On a GPU weights are kept as halves and multiplied on the tensor cores with halves of the activations, sums in f32: the
//! products of f32 that cuBLAS has are some ten times slower. Weights that no half holds stay f32, as do those of fewer
//! inputs than the tensor cores take at a time.

#![allow(unsafe_code)]

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::amx::{self, Tiled};
use super::elementwise::finished;
use super::gemm::{Activation, End, Gemm, Line, MC, PANEL, Rhs, gemm};
use super::{cpu, par};

/// Inputs and outputs from which the tile unit serves: in fewer, its errors do not average out and its tiles are
/// mostly padding.
const DEEP: usize = 64;
const WIDE: usize = 32;

#[derive(Clone)]
enum Weights {
    /// For the tile unit; bias.
    Tiles(Tiled, Option<Arc<[f32]>>),
    /// `ceil(outputs / 16)` panels of `inputs` lines, zeros beyond `outputs`; bias.
    Packed(Arc<[Line]>, Option<Arc<[f32]>>),
    /// `(inputs, outputs)` view of the weight; bias.
    Plain(Tensor, Option<Tensor>),
    /// `(outputs, inputs)` in halves on a GPU; bias.
    #[cfg(feature = "cuda")]
    Halves(Tensor, Option<Tensor>),
}

impl Weights {
    fn of_device(weight: &Tensor, bias: Option<&Tensor>) -> Result<Weights> {
        #[cfg(feature = "cuda")]
        if super::qlinear::takes_halves(weight)? {
            return Ok(Weights::Halves(
                weight.to_dtype(candle_core::DType::F16)?.contiguous()?,
                bias.cloned(),
            ));
        }
        Ok(Weights::Plain(weight.contiguous()?.t()?, bias.cloned()))
    }
}

/// Weight `(outputs, inputs)` and optional bias `(outputs)`. Cheap to clone.
#[derive(Clone)]
pub struct Linear {
    inputs: usize,
    outputs: usize,
    weights: Weights,
}

impl Linear {
    /// Takes a weight of shape `(outputs, inputs)`, as PyTorch stores it, and a bias of `(outputs)`.
    ///
    /// # Errors
    /// Shapes that do not fit each other, or a zero dimension.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if outputs == 0 || inputs == 0 {
            bail!("linear: weight of shape {:?} is empty", weight.shape());
        }
        if let Some(bias) = bias
            && bias.dims() != [outputs]
        {
            bail!(
                "linear: bias of shape {:?} does not fit a weight of shape {:?}",
                bias.shape(),
                weight.shape()
            );
        }
        let weights = if cpu::fused(&[weight]) && bias.is_none_or(|b| cpu::fused(&[b])) {
            let bias = bias.map(|b| cpu::with(&b.contiguous()?, "linear: bias", |b| Ok(Arc::from(b))));
            let bias = bias.transpose()?;
            cpu::with(&weight.contiguous()?, "linear: weight", |w| {
                Ok(if amx::serves() && inputs >= DEEP && outputs >= WIDE {
                    Weights::Tiles(Tiled::new(w, outputs, inputs), bias)
                } else {
                    Weights::Packed(pack(w, outputs, inputs), bias)
                })
            })?
        } else {
            Weights::of_device(weight, bias)?
        };
        Ok(Linear { inputs, outputs, weights })
    }

    /// Layers that read the same input as one: their outputs side by side, in order.
    ///
    /// # Errors
    /// No layers, widths that differ, or only some of them with a bias (give the others zeros).
    pub fn fused(layers: &[(&Tensor, Option<&Tensor>)]) -> Result<Self> {
        let weights: Vec<&Tensor> = layers.iter().map(|(w, _)| *w).collect();
        let biases: Vec<&Tensor> = layers.iter().filter_map(|(_, b)| *b).collect();
        if biases.len() != layers.len() && !biases.is_empty() {
            bail!("linear: {} of {} fused layers have a bias; all or none must", biases.len(), layers.len());
        }
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
        Linear::new(&Tensor::cat(&weights, 0)?, bias.as_ref())
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that the layer holds.
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        let bias = |b: &Option<Arc<[f32]>>| b.as_ref().map_or(0, |b| size_of_val::<[f32]>(b));
        match &self.weights {
            Weights::Tiles(w, b) => w.bytes() + bias(b),
            Weights::Packed(w, b) => size_of_val::<[Line]>(w) + bias(b),
            Weights::Plain(w, b) => size(w) + b.as_ref().map_or(0, size),
            #[cfg(feature = "cuda")]
            Weights::Halves(w, b) => size(w) + b.as_ref().map_or(0, size),
        }
    }
}

/// Copies a row-major `(outputs, inputs)` weight into panels.
pub(super) fn pack(w: &[f32], outputs: usize, inputs: usize) -> Arc<[Line]> {
    let mut packed = vec![Line([0.0; PANEL]); outputs.div_ceil(PANEL) * inputs];
    for (panel, lines) in packed.chunks_exact_mut(inputs).enumerate() {
        for (lane, row) in w.chunks_exact(inputs).skip(panel * PANEL).take(PANEL).enumerate() {
            for (line, &value) in lines.iter_mut().zip(row) {
                line.0[lane] = value;
            }
        }
    }
    packed.into()
}

/// `x Wᵀ + b` for `x` of shape `(..., inputs)`; gives `(..., outputs)`.
///
/// # Errors
/// A last dimension that is not [`Linear::inputs`]; on the CPU, an `x` that is not contiguous.
pub fn linear(x: &Tensor, layer: &Linear) -> Result<Tensor> {
    apply(x, layer, Activation::None)
}

/// `gelu(x Wᵀ + b)` with the exact GELU; otherwise as [`linear`].
///
/// # Errors
/// As [`linear`].
pub fn linear_gelu(x: &Tensor, layer: &Linear) -> Result<Tensor> {
    apply(x, layer, Activation::Gelu)
}

/// `max(x Wᵀ + b, 0)`; otherwise as [`linear`].
///
/// # Errors
/// As [`linear`].
pub fn linear_relu(x: &Tensor, layer: &Linear) -> Result<Tensor> {
    apply(x, layer, Activation::Relu)
}

fn apply(x: &Tensor, layer: &Linear, activation: Activation) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == layer.inputs => *last = layer.outputs,
        _ => bail!("linear: expected a last dimension of {}, got shape {:?}", layer.inputs, x.shape()),
    }
    match &layer.weights {
        Weights::Tiles(w, bias) => {
            let out = cpu::with(x, "linear: input", |x| Ok(amx::product(x, w, bias.as_deref(), activation)))?;
            cpu::tensor(out, shape)
        }
        Weights::Packed(w, bias) => {
            let out =
                cpu::with(x, "linear: input", |x| Ok(packed(x, layer, w, bias.as_deref(), activation)))?;
            cpu::tensor(out, shape)
        }
        Weights::Plain(w, bias) => {
            let y = x.reshape(((), layer.inputs))?.matmul(w)?;
            finished(y, bias.as_ref(), activation)?.reshape(shape)
        }
        #[cfg(feature = "cuda")]
        Weights::Halves(w, bias) => {
            let y = super::qlinear::product_of_halves(&x.reshape(((), layer.inputs))?, w)?;
            finished(y, bias.as_ref(), activation)?.reshape(shape)
        }
    }
}

/// The CPU product of `x`, whole rows of `layer.inputs`.
fn packed(x: &[f32], layer: &Linear, w: &[Line], bias: Option<&[f32]>, activation: Activation) -> Vec<f32> {
    let (k, n) = (layer.inputs, layer.outputs);
    let m = x.len() / k;
    // SAFETY: the tasks below cover every row and column, and each writes all of its own.
    let mut out = unsafe { par::uninit(m * n) };
    let dst = par::SharedMut::new(&mut out);
    let panels = n.div_ceil(PANEL);
    let (block, col_blocks) = split(m, panels);
    let row_blocks = m.div_ceil(block);
    let ns = (2 * m * n * k) as f64 / 150.0 + (n * k) as f64 / 10.0;
    let task = |t: usize| {
        // Column blocks are the outer count: threads that run at the same time share rows of `x`.
        let (r, c) = (t / col_blocks, t % col_blocks);
        let (i, i_end) = (r * block, ((r + 1) * block).min(m));
        let (p, p_end) = (panels * c / col_blocks, panels * (c + 1) / col_blocks);
        let j = p * PANEL;
        // SAFETY: rows `i..i_end` and columns from `j` are within `x` (`m * k`), the weight (`panels * k`
        // lines), the bias (`n`) and the output (`m * n`); blocks of rows and columns are disjoint.
        unsafe {
            gemm(Gemm {
                m: i_end - i,
                n: (p_end * PANEL).min(n) - j,
                k,
                taps: 1,
                tap_stride: 0,
                a: x.as_ptr().add(i * k),
                lda: k,
                b: Rhs { ptr: w.as_ptr().add(p * k).cast(), panel_stride: PANEL * k },
                onto: false,
                end: End {
                    bias: bias.map_or(std::ptr::null(), |b| b.as_ptr().add(j)),
                    activation,
                    c: dst.get().add(i * n + j),
                    ldc: n,
                },
            });
        }
    };
    par::for_each(row_blocks * col_blocks, ns, task);
    out
}

/// Rows of a block, and how many blocks of columns: a few tasks for each thread, columns cut only when there are
/// not rows enough.
fn split(m: usize, panels: usize) -> (usize, usize) {
    let wanted = par::threads() * 4;
    let rows = m.div_ceil(MC).max(1);
    // Whole tiles of eight rows, so that only the last block has a smaller one.
    let block = m.div_ceil(rows).next_multiple_of(8);
    (block.max(1), if rows >= wanted { 1 } else { wanted.div_ceil(rows).min(panels.div_ceil(3)).max(1) })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::*;
    use crate::ops::testing::{
        assert_close, assert_within, composed, noise, rounding, split_rounding, without_tiles,
    };

    /// The product in f64, and the sum of each one's absolute terms.
    fn reference(x: &[f32], w: &[f32], b: Option<&[f32]>, k: usize) -> (Vec<f32>, Vec<f32>) {
        let mut out = (Vec::new(), Vec::new());
        for x in x.chunks_exact(k) {
            for (j, w) in w.chunks_exact(k).enumerate() {
                let bias = b.map_or(0.0, |b| f64::from(b[j]));
                let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                out.0.push((terms().sum::<f64>() + bias) as f32);
                out.1.push((terms().map(f64::abs).sum::<f64>() + bias.abs()) as f32);
            }
        }
        out
    }

    fn check(m: usize, k: usize, n: usize, with_bias: bool) {
        let (x, w, b) = (noise(m * k, 1), noise(n * k, 2), noise(n, 3));
        let bias = Tensor::from_slice(&b, n, &Device::Cpu).unwrap();
        let weight = Tensor::from_slice(&w, (n, k), &Device::Cpu).unwrap();
        let (want, size) = reference(&x, &w, with_bias.then_some(&b[..]), k);
        let x = Tensor::from_slice(&x, (m, k), &Device::Cpu).unwrap();
        let run = || linear(&x, &Linear::new(&weight, with_bias.then_some(&bias)).unwrap()).unwrap();
        let tiles = run().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_within(&tiles, &want, |i| split_rounding(k + 1, size[i]));
        for y in [without_tiles(run), composed(run)] {
            assert_eq!(y.dims(), &[m, n]);
            let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_within(&y, &want, |i| rounding(k + 1, size[i]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn matches_the_naive_product(m in 0usize..140, k in 1usize..600, n in 1usize..120, with_bias: bool) {
            check(m, k, n, with_bias);
        }
    }

    /// One value of this product, whose terms nearly cancel, is off by 2.2e-5.
    #[test]
    fn terms_that_cancel_round_as_the_terms_do() {
        check(71, 576, 55, false);
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (m, k, n) = (203, 576, 100);
        let weight = Tensor::from_vec(noise(n * k, 2), (n, k), &Device::Cpu).unwrap();
        let make = || Linear::new(&weight, None).unwrap();
        for layer in [make(), without_tiles(make)] {
            let x = Tensor::from_vec(noise(m * k, 1), (m, k), &Device::Cpu).unwrap();
            let all = linear_gelu(&x, &layer).unwrap().to_vec2::<f32>().unwrap();
            for i in [0, 1, 7, 95, 96, 202] {
                let row = x.narrow(0, i, 1).unwrap();
                let alone = linear_gelu(&row, &layer).unwrap().to_vec2::<f32>().unwrap();
                assert_eq!(alone[0], all[i]);
            }
        }
    }

    #[test]
    fn the_composition_for_other_devices_agrees() {
        for (m, k, n) in [(5, 33, 18), (1, 1, 1), (100, 384, 130)] {
            let weight = Tensor::from_vec(noise(n * k, 2), (n, k), &Device::Cpu).unwrap();
            let bias = Tensor::from_vec(noise(n, 3), n, &Device::Cpu).unwrap();
            let x = Tensor::from_vec(noise(m * k, 1), (1, m, k), &Device::Cpu).unwrap();
            let run = || {
                let one = Linear::new(&weight, Some(&bias)).unwrap();
                let two =
                    Linear::fused(&[(&weight, None), (&weight.affine(2.0, 0.0).unwrap(), None)]).unwrap();
                let relu = linear_relu(&x, &one).unwrap();
                [linear_gelu(&x, &one).unwrap(), linear(&x, &one).unwrap(), linear(&x, &two).unwrap(), relu]
            };
            for (got, want) in composed(run).iter().zip(without_tiles(run)) {
                assert_eq!(got.dims(), want.dims());
                let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_close(&flat(got), &flat(&want), 1e-5);
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let weight = Tensor::zeros((4, 8), DType::F32, &Device::Cpu).unwrap();
        let bias = Tensor::zeros(5, DType::F32, &Device::Cpu).unwrap();
        assert!(Linear::new(&weight, Some(&bias)).is_err());
        let layer = Linear::new(&weight, None).unwrap();
        assert!(linear(&Tensor::zeros((2, 7), DType::F32, &Device::Cpu).unwrap(), &layer).is_err());
        let strided = Tensor::zeros((8, 2), DType::F32, &Device::Cpu).unwrap().t().unwrap();
        assert!(linear(&strided, &layer).is_err());
    }
}
