//! Dot products of vectors of floats.

#![allow(unsafe_code)]

use half::f16;

use super::simd::{Simd, dispatch};

/// The product of two vectors of f32; values that only one of them has are left out.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    // SAFETY: both are valid for `len` values.
    unsafe { floats(a.as_ptr(), b.as_ptr(), len) }
}

/// The same, where one is kept in halves.
pub fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    let len = a.len().min(b.len());
    // SAFETY: as above.
    unsafe { halves(a.as_ptr(), b.as_ptr().cast(), len) }
}

dispatch! {
    /// # Safety
    /// `a` and `b` are valid for `len` values.
    unsafe fn floats(a: *const f32, b: *const f32, len: usize) -> f32 = floats_generic
}

dispatch! {
    /// # Safety
    /// As [`floats`]; `b` are the bits of halves.
    unsafe fn halves(a: *const f32, b: *const u16, len: usize) -> f32 = halves_generic
}

/// # Safety
/// As [`floats`].
#[inline(always)]
unsafe fn floats_generic<S: Simd>(a: *const f32, b: *const f32, len: usize) -> f32 {
    // SAFETY: the caller's contract.
    unsafe { sum::<S>(a, len, |at| S::load(b.add(at)), |at| *b.add(at)) }
}

/// # Safety
/// As [`halves`].
#[inline(always)]
unsafe fn halves_generic<S: Simd>(a: *const f32, b: *const u16, len: usize) -> f32 {
    // SAFETY: the caller's contract.
    unsafe { sum::<S>(a, len, |at| S::load_f16(b.add(at)), |at| f16::from_bits(*b.add(at)).to_f32()) }
}

/// Four vectors of sums, so that one product does not wait for the one before.
///
/// # Safety
/// `a` is valid for `len` values, and `vector` and `one` for every place before `len`.
#[inline(always)]
unsafe fn sum<S: Simd>(
    a: *const f32,
    len: usize,
    vector: impl Fn(usize) -> S::V,
    one: impl Fn(usize) -> f32,
) -> f32 {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let mut at = 0;
        while at + 4 * S::LANES <= len {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = at + i * S::LANES;
                *sum = S::fma(S::load(a.add(at)), vector(at), *sum);
            }
            at += 4 * S::LANES;
        }
        while at + S::LANES <= len {
            sums[0] = S::fma(S::load(a.add(at)), vector(at), sums[0]);
            at += S::LANES;
        }
        let mut total = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
        for at in at..len {
            total += *a.add(at) * one(at);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{noise, rounding};
    use super::*;

    #[test]
    fn products_of_any_length() {
        for len in (0..70).chain([384, 1000]) {
            let (a, b) = (noise(len, 1), noise(len + 3, 2));
            let halves: Vec<f16> = b.iter().map(|v| f16::from_f32(*v)).collect();
            let check = |got: f32, b: &dyn Fn(usize) -> f64| {
                let terms = || (0..len).map(|i| f64::from(a[i]) * b(i));
                let (want, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                assert!(
                    (f64::from(got) - want).abs() <= f64::from(rounding(len + 1, size as f32)),
                    "{len}: {got} {want}"
                );
            };
            check(dot(&a, &b), &|i| f64::from(b[i]));
            check(dot_f16(&a, &halves), &|i| halves[i].to_f64());
        }
    }
}
