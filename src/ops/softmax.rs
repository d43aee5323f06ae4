//! Softmax over the last dimension.

#![allow(unsafe_code)]

use candle_core::{D, Result, Tensor, bail};

use super::simd::{self, Simd, dispatch};
use super::{cpu, par, wide};

const NS_A_VALUE: f64 = 0.5;

/// The largest of `n` values; -inf for none.
///
/// # Safety
/// The processor has `S`; `x` is valid for `n` values.
#[inline(always)]
pub(crate) unsafe fn max_generic<S: Simd>(x: *const f32, n: usize) -> f32 {
    let whole = n - n % S::LANES;
    let mut largest = f32::NEG_INFINITY;
    // SAFETY: vectors are at `i + LANES <= n`, single values at `i < n`.
    unsafe {
        if whole > 0 {
            let mut v = S::load(x);
            for i in (S::LANES..whole).step_by(S::LANES) {
                v = S::max(v, S::load(x.add(i)));
            }
            largest = S::largest(v);
        }
        for i in whole..n {
            largest = largest.max(*x.add(i));
        }
    }
    largest
}

/// Replaces `n` values by `e^(x - max)` and gives their sum.
///
/// # Safety
/// The processor has `S`; `x` is valid for `n` values that nothing else uses.
#[inline(always)]
pub(crate) unsafe fn exp_sum_generic<S: Simd>(x: *mut f32, n: usize, max: f32) -> f32 {
    let whole = n - n % S::LANES;
    // SAFETY: vectors are at `i + LANES <= n`, the rest goes through a buffer of 16.
    unsafe {
        let mut total = S::splat(0.0);
        for i in (0..whole).step_by(S::LANES) {
            let e = simd::exp::<S>(S::sub(S::load(x.add(i)), S::splat(max)));
            S::store(x.add(i), e);
            total = S::add(total, e);
        }
        if whole < n {
            let mut last = [f32::NEG_INFINITY; 16];
            std::ptr::copy_nonoverlapping(x.add(whole), last.as_mut_ptr(), n - whole);
            let e = simd::exp::<S>(S::sub(S::load(last.as_ptr()), S::splat(max)));
            S::store(last.as_mut_ptr(), e);
            std::ptr::copy_nonoverlapping(last.as_ptr(), x.add(whole), n - whole);
            total = S::add(total, e);
        }
        S::sum(total)
    }
}

/// # Safety
/// As [`softmax_row`].
#[inline(always)]
unsafe fn softmax_generic<S: Simd>(x: *mut f32, n: usize) {
    // SAFETY: `x` is valid for `n` values by the contract.
    unsafe {
        let max = max_generic::<S>(x, n);
        if max == f32::NEG_INFINITY {
            // Nothing may be chosen: zeros, where the formula would give NaN.
            std::slice::from_raw_parts_mut(x, n).fill(0.0);
            return;
        }
        let scale = 1.0 / exp_sum_generic::<S>(x, n, max);
        simd::map_in_place::<S>(std::slice::from_raw_parts_mut(x, n), simd::Times(scale));
    }
}

dispatch! {
    /// # Safety
    /// `x` is valid for `n` values that nothing else uses.
    unsafe fn softmax_row(x: *mut f32, n: usize) = softmax_generic
}

/// Softmax over the last dimension; a row of -inf alone gives zeros.
///
/// # Errors
/// A tensor without dimensions; on the CPU, one that is not contiguous.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let Some(&n) = x.dims().last() else { bail!("softmax: the input has no dimension") };
    if !cpu::fused(&[x]) {
        return composed(x);
    }
    let mut out = cpu::with(x, "softmax", |x| Ok(x.to_vec()))?;
    par::rows_mut(&mut out, n, NS_A_VALUE, |_, part| {
        for row in part.chunks_exact_mut(n) {
            // SAFETY: `row` is `n` values of this thread.
            unsafe { softmax_row(row.as_mut_ptr(), n) };
        }
    });
    cpu::tensor(out, x.shape())
}

/// [`softmax`] out of candle's operations, in f32 at least.
pub(crate) fn composed(x: &Tensor) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    let values = x.to_dtype(wide(x.dtype()))?;
    // Less a finite maximum, and over at least a tiny sum: a row of -inf alone gives zeros.
    let max = values.max_keepdim(D::Minus1)?.maximum(f64::from(f32::MIN))?;
    let e = values.broadcast_sub(&max)?.exp()?;
    let sum = e.sum_keepdim(D::Minus1)?.maximum(f64::from(f32::MIN_POSITIVE))?;
    e.broadcast_div(&sum)?.to_dtype(x.dtype())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::ops::testing::{assert_close, noise};

    proptest! {
        #[test]
        fn matches_f64(rows in 0usize..50, n in 1usize..400, scale in 0.1f32..60.0) {
            let x: Vec<f32> = noise(rows * n, 5).iter().map(|v| v * scale).collect();
            let want: Vec<f32> = x.chunks(n).flat_map(|row| {
                let max = row.iter().copied().fold(f32::MIN, f32::max);
                let e: Vec<f64> = row.iter().map(|v| f64::from(v - max).exp()).collect();
                let sum: f64 = e.iter().sum();
                e.into_iter().map(move |v| (v / sum) as f32)
            }).collect();
            let x = Tensor::from_vec(x, (rows, n), &Device::Cpu).unwrap();
            for got in [softmax(&x).unwrap(), composed(&x).unwrap()] {
                assert_close(&got.flatten_all().unwrap().to_vec1().unwrap(), &want, 1e-6);
            }
        }
    }

    #[test]
    fn what_is_masked_gets_nothing() {
        let inf = f32::NEG_INFINITY;
        let x = Tensor::new(&[[0.0, inf, 0.0, inf, inf], [inf; 5]], &Device::Cpu).unwrap();
        for got in [softmax(&x).unwrap(), composed(&x).unwrap()] {
            assert_eq!(got.to_vec2::<f32>().unwrap(), [[0.5, 0.0, 0.5, 0.0, 0.0], [0.0; 5]]);
        }
    }
}
