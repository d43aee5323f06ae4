//! Layer normalisation over the last dimension, with the residual sum folded in.

#![allow(unsafe_code)]

use candle_core::{Result, Tensor, bail};

use super::simd::{Simd, dispatch};
use super::{cpu, par, wide};

/// Rough cost of one value on one core, to decide whether threads pay.
const NS_A_VALUE: f64 = 0.4;

/// One row: `sum = x + residual` (where there is one) and `out = (sum - mean) / sqrt(var + eps) * w + b`.
#[derive(Clone, Copy)]
struct Row {
    n: usize,
    x: *const f32,
    /// `n` values, or null.
    residual: *const f32,
    /// Where the sum is kept, or null.
    sum: *mut f32,
    weight: *const f32,
    bias: *const f32,
    eps: f32,
    out: *mut f32,
}

/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn row_generic<S: Simd>(r: Row) {
    let n = r.n;
    let whole = n - n % S::LANES;
    // SAFETY: vectors are at `i + LANES <= n`, single values at `i < n`, of pointers valid for `n` values.
    unsafe {
        let mut total = S::splat(0.0);
        let mut rest = 0f32;
        for i in (0..whole).step_by(S::LANES) {
            let mut v = S::load(r.x.add(i));
            if !r.residual.is_null() {
                v = S::add(v, S::load(r.residual.add(i)));
            }
            S::store(r.out.add(i), v);
            total = S::add(total, v);
        }
        for i in whole..n {
            let v = *r.x.add(i) + if r.residual.is_null() { 0.0 } else { *r.residual.add(i) };
            *r.out.add(i) = v;
            rest += v;
        }
        if !r.sum.is_null() {
            std::ptr::copy_nonoverlapping(r.out, r.sum, n);
        }
        let mean = (S::sum(total) + rest) / n as f32;
        let mut squares = S::splat(0.0);
        let mut rest = 0f32;
        for i in (0..whole).step_by(S::LANES) {
            let d = S::sub(S::load(r.out.add(i)), S::splat(mean));
            squares = S::fma(d, d, squares);
        }
        for i in whole..n {
            rest += (*r.out.add(i) - mean).powi(2);
        }
        let scale = 1.0 / ((S::sum(squares) + rest) / n as f32 + r.eps).sqrt();
        for i in (0..whole).step_by(S::LANES) {
            let d = S::mul(S::sub(S::load(r.out.add(i)), S::splat(mean)), S::splat(scale));
            S::store(r.out.add(i), S::fma(d, S::load(r.weight.add(i)), S::load(r.bias.add(i))));
        }
        for i in whole..n {
            *r.out.add(i) = (*r.out.add(i) - mean) * scale * *r.weight.add(i) + *r.bias.add(i);
        }
    }
}

dispatch! {
    /// # Safety
    /// Pointers are valid for `n` values (those that may be null: where they are not); `out` and `sum` overlap
    /// nothing.
    unsafe fn row(r: Row) = row_generic
}

/// What is normalised and how.
struct Norm<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl Norm<'_> {
    /// The normalised rows; their sums go to `sum`, which is as long as `x`, where there is one.
    fn run(&self, sum: Option<&mut Vec<f32>>) -> Vec<f32> {
        let n = self.weight.len();
        // SAFETY: `rows_mut` covers every row.
        let mut out = unsafe { par::uninit(self.x.len()) };
        let sum = sum.map(|s| par::SharedMut::new(s));
        par::rows_mut(&mut out, n, NS_A_VALUE, |first, part| {
            for (i, out) in part.chunks_exact_mut(n).enumerate() {
                let at = (first + i) * n;
                // SAFETY: row `first + i` of every tensor starts at `at` and has `n` values; weight and bias
                // have `n`; rows are disjoint.
                unsafe {
                    row(Row {
                        n,
                        x: self.x.as_ptr().add(at),
                        residual: self.residual.map_or(std::ptr::null(), |r| r.as_ptr().add(at)),
                        sum: sum.map_or(std::ptr::null_mut(), |s| s.get().add(at)),
                        weight: self.weight.as_ptr(),
                        bias: self.bias.as_ptr(),
                        eps: self.eps,
                        out: out.as_mut_ptr(),
                    });
                }
            }
        });
        out
    }
}

fn check(x: &Tensor, residual: Option<&Tensor>, weight: &Tensor, bias: &Tensor) -> Result<()> {
    let n = x.dims().last().copied().unwrap_or(0);
    if n == 0 || weight.dims() != [n] || bias.dims() != [n] {
        bail!("layer_norm: weight {:?} and bias {:?} do not fit {:?}", weight.dims(), bias.dims(), x.dims());
    }
    match residual {
        Some(r) if r.dims() != x.dims() => {
            bail!("layer_norm: residual {:?} does not fit {:?}", r.dims(), x.dims())
        }
        _ => Ok(()),
    }
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension (Ba et al., 2016).
///
/// # Errors
/// Weight or bias that is not as long as the last dimension; on the CPU, an input that is not contiguous.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, None, weight, bias)?;
    #[cfg(feature = "cuda")]
    if let Some((_, normed)) = gpu::norm(x, None, (weight, bias), eps, false)? {
        return Ok(normed);
    }
    if !cpu::fused(&[x, weight, bias]) {
        return composed(x, weight, bias, eps);
    }
    let out = cpu::with(x, "layer_norm: input", |x| {
        cpu::with(weight, "layer_norm: weight", |weight| {
            cpu::with(bias, "layer_norm: bias", |bias| {
                Ok(Norm { x, residual: None, weight, bias, eps: eps as f32 }.run(None))
            })
        })
    })?;
    cpu::tensor(out, x.shape())
}

/// [`layer_norm`] of `x + residual`: the step between two blocks of a post-norm network.
///
/// # Errors
/// As [`layer_norm`]; a residual of another shape.
pub fn add_layer_norm(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    Ok(add_norm(x, residual, weight, bias, eps, false)?.1)
}

/// `x + residual` and its [`layer_norm`], in this order: the step between two blocks of a pre-norm network.
///
/// # Errors
/// As [`add_layer_norm`].
pub fn add_then_layer_norm(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let (sum, normed) = add_norm(x, residual, weight, bias, eps, true)?;
    match sum {
        Some(sum) => Ok((sum, normed)),
        None => Ok((x.add(residual)?, normed)),
    }
}

fn add_norm(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    keep_sum: bool,
) -> Result<(Option<Tensor>, Tensor)> {
    check(x, Some(residual), weight, bias)?;
    #[cfg(feature = "cuda")]
    if let Some(both) = gpu::norm(x, Some(residual), (weight, bias), eps, keep_sum)? {
        return Ok(both);
    }
    if !cpu::fused(&[x, residual, weight, bias]) {
        let sum = x.add(residual)?;
        let normed = composed(&sum, weight, bias, eps)?;
        return Ok((Some(sum), normed));
    }
    // SAFETY: `Norm::run` writes the sum of every row.
    let mut sum = keep_sum.then(|| unsafe { par::uninit(x.elem_count()) });
    let out = cpu::with(x, "layer_norm: input", |x| {
        cpu::with(residual, "layer_norm: residual", |residual| {
            cpu::with(weight, "layer_norm: weight", |weight| {
                cpu::with(bias, "layer_norm: bias", |bias| {
                    let norm = Norm { x, residual: Some(residual), weight, bias, eps: eps as f32 };
                    Ok(norm.run(sum.as_mut()))
                })
            })
        })
    })?;
    let sum = sum.map(|s| cpu::tensor(s, x.shape())).transpose()?;
    Ok((sum, cpu::tensor(out, x.shape())?))
}

/// Kernels of a GPU.
#[cfg(any(test, feature = "cuda"))]
mod gpu {
    use crate::ops::gpu::{Address, Launch};

    /// Threads of a block at most, and groups of 4 values that each holds.
    const THREADS: usize = 512;
    const HELD: usize = 4;
    /// Values of the widest row.
    pub(super) const WIDEST: usize = 4 * THREADS * HELD;

    /// Addresses of rows of `width` values, a multiple of 4; `residual` and `sum` are 0 where nothing is added or what was
    /// is not kept.
    pub(super) struct Rows {
        pub x: Address,
        pub residual: Address,
        pub weight: Address,
        pub bias: Address,
        pub sum: Address,
        pub out: Address,
        pub count: usize,
        pub width: usize,
    }

    pub(super) fn launch(rows: &Rows, eps: f32) -> Launch {
        let groups = rows.width / 4;
        // As few warps as hold the row: sums over a block wait for all of them.
        let threads = groups.div_ceil(HELD).next_multiple_of(32).clamp(32, THREADS);
        Launch::new("layer_norm", [rows.count, 1, 1], threads)
            .address(rows.x)
            .address(rows.residual)
            .address(rows.weight)
            .address(rows.bias)
            .address(rows.sum)
            .address(rows.out)
            .count(groups)
            .float(eps)
    }

    /// What was added, where it is to be kept, and its norm; `None` for what the kernel does not take.
    #[cfg(feature = "cuda")]
    pub(super) fn norm(
        x: &candle_core::Tensor,
        residual: Option<&candle_core::Tensor>,
        (weight, bias): (&candle_core::Tensor, &candle_core::Tensor),
        eps: f64,
        keep_sum: bool,
    ) -> candle_core::Result<Option<(Option<candle_core::Tensor>, candle_core::Tensor)>> {
        use crate::ops::gpu::cuda::{address, in_fours, run, under, unset};

        let (width, count) = (weight.elem_count(), x.elem_count());
        if !in_fours(&[x, residual.unwrap_or(x), weight, bias]) || width > WIDEST || count == 0 {
            return Ok(None);
        }
        let device = under(x)?;
        let out = unset::<f32>(device, x.shape())?;
        let sum = keep_sum.then(|| unset::<f32>(device, x.shape())).transpose()?;
        let rows = Rows {
            x: address(x)?,
            residual: residual.map_or(Ok(0), address)?,
            weight: address(weight)?,
            bias: address(bias)?,
            sum: sum.as_ref().map_or(Ok(0), address)?,
            out: address(&out)?,
            count: count / width,
            width,
        };
        run(device, &[launch(&rows, eps as f32)])?;
        Ok(Some((sum, out)))
    }
}

/// Layer normalisation out of candle's operations, in f32 at least.
fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(wide(dtype))?;
    let d = x.broadcast_sub(&x.mean_keepdim(candle_core::D::Minus1)?)?;
    let variance = d.sqr()?.mean_keepdim(candle_core::D::Minus1)?;
    let normed = d.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(dtype)?;
    normed.broadcast_mul(weight)?.broadcast_add(bias)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::*;
    use crate::ops::testing::{assert_close, assert_within, noise};

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    /// `got` against `want`, the norm of the rows `x` in f64 with weights and biases within ±1.
    ///
    /// Rounding a row and its mean moves a deviation by `δ = ε(1 + √n)·max|x|` at most. The norm divides by the
    /// row's own deviation, so few values far from zero that lie close together may be off by much more than 1e-4.
    fn check(got: &Tensor, want: &Tensor, x: &Tensor) {
        let (got, want) = (flat(got), flat(want));
        let n = x.dim(1).unwrap();
        let limits: Vec<f32> = x
            .to_vec2::<f64>()
            .unwrap()
            .iter()
            .map(|row| {
                let mean = row.iter().sum::<f64>() / n as f64;
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
                let largest = row.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                let delta = f64::from(f32::EPSILON) * (1.0 + (n as f64).sqrt()) * largest;
                (delta / (variance + 1e-5).sqrt()) as f32 + 4.0 * f32::EPSILON
            })
            .collect();
        // The deviation itself is off by as much, which scales the result; none is above √n, most are below 3.
        assert_within(&got, &want, |i| limits[i / n] * (2.0 + want[i].abs()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn matches_the_composition_in_f64(rows in 0usize..90, n in 1usize..520, shift in -30f32..30.0) {
            let make = |seed, shape: (usize, usize)| {
                let v: Vec<f32> = noise(shape.0 * shape.1, seed).iter().map(|v| v * 3.0 + shift).collect();
                Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
            };
            let (x, res) = (make(1, (rows, n)), make(2, (rows, n)));
            let (w, b) = (Tensor::from_vec(noise(n, 3), n, &Device::Cpu).unwrap(),
                          Tensor::from_vec(noise(n, 4), n, &Device::Cpu).unwrap());
            let d = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
            let want = composed(&d(&x), &d(&w), &d(&b), 1e-5).unwrap();
            check(&layer_norm(&x, &w, &b, 1e-5).unwrap(), &want, &d(&x));
            let sum = d(&x).add(&d(&res)).unwrap();
            let want = composed(&sum, &d(&w), &d(&b), 1e-5).unwrap();
            check(&add_layer_norm(&x, &res, &w, &b, 1e-5).unwrap(), &want, &sum);
            let (got_sum, got) = add_then_layer_norm(&x, &res, &w, &b, 1e-5).unwrap();
            check(&got, &want, &sum);
            assert_close(&flat(&got_sum), &flat(&sum), 1e-6);
        }
    }

    #[test]
    fn every_set_gives_the_same() {
        fn check<S: Simd>() {
            for n in [1, 3, 15, 16, 17, 40, 384] {
                let (x, residual, w, b) = (noise(n, 1), noise(n, 2), noise(n, 3), noise(n, 4));
                let (mut out, mut sum) = (vec![f32::NAN; n], vec![f32::NAN; n]);
                let r = Row {
                    n,
                    x: x.as_ptr(),
                    residual: residual.as_ptr(),
                    sum: sum.as_mut_ptr(),
                    weight: w.as_ptr(),
                    bias: b.as_ptr(),
                    eps: 1e-3,
                    out: out.as_mut_ptr(),
                };
                // SAFETY: every buffer has `n` values; `every_set` calls with sets of this processor.
                unsafe { row_generic::<S>(r) };
                let t = |v: &[f32]| Tensor::from_slice(v, (1, n), &Device::Cpu).unwrap();
                let v = |v: &[f32]| Tensor::from_slice(v, n, &Device::Cpu).unwrap();
                let want_sum = (t(&x) + t(&residual)).unwrap();
                assert_close(&sum, &flat(&want_sum), 1e-6);
                assert_close(&out, &flat(&composed(&want_sum, &v(&w), &v(&b), 1e-3).unwrap()), 2e-5);
            }
        }
        crate::ops::simd::every_set!(check);
    }

    #[test]
    fn the_kernel_of_a_gpu_adds_and_normalises() {
        use crate::ops::gpu::host::{at, at_mut, run};
        for (count, width) in [(1, 4), (5, 384), (3, 1280), (2, 5000), (1, gpu::WIDEST)] {
            let x: Vec<f32> = noise(count * width, 1).iter().map(|v| v * 3.0 + 5.0).collect();
            let (residual, weight, bias) = (noise(count * width, 2), noise(width, 3), noise(width, 4));
            let added: Vec<f32> = x.iter().zip(&residual).map(|(x, r)| x + r).collect();
            let (mut sum, mut out) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            let mut rows = gpu::Rows {
                x: at(&x),
                residual: at(&residual),
                weight: at(&weight),
                bias: at(&bias),
                sum: at_mut(&mut sum),
                out: at_mut(&mut out),
                count,
                width,
            };
            let want =
                |x: &[f32]| Norm { x, residual: None, weight: &weight, bias: &bias, eps: 1e-5 }.run(None);
            run(&[gpu::launch(&rows, 1e-5)]);
            assert_close(&sum, &added, 1e-6);
            assert_close(&out, &want(&added), 2e-5);
            (rows.sum, rows.residual) = (0, 0);
            run(&[gpu::launch(&rows, 1e-5)]);
            assert_close(&out, &want(&x), 2e-5);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let t = |n: usize| Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap();
        let x = Tensor::zeros((2, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(layer_norm(&x, &t(7), &t(8), 1e-5).is_err());
        assert!(layer_norm(&x.t().unwrap(), &t(2), &t(2), 1e-5).is_err());
        assert!(add_layer_norm(&x, &t(8), &t(8), &t(8), 1e-5).is_err());
    }
}
