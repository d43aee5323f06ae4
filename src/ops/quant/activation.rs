//! Activations in 8 bits: `x = scale * q` for each block of 32, `q` within ±127.
//!
//! The grid is ggml's for weights in blocks of 32 (`quantize_row_q8_0` and `_q8_1` in `ggml-quants.c`), half-precision
//! scales and totals included, so that a model's logits are those of llama.cpp as far as sums of f32 can be. K-quants go
//! with the same grid; ggml's for them has one scale for 256 values, which is coarser.

use super::format::BLOCK;
use crate::ops::multi::multiversion;
use crate::ops::par;

/// Rows of activations, quantised once for every weight that they are multiplied with.
pub(super) struct Activations {
    /// Blocks in a row.
    pub(super) blocks: usize,
    /// (rows, 32 blocks).
    pub(super) codes: Vec<i8>,
    /// (rows, blocks).
    pub(super) scales: Vec<f32>,
    /// Sums of codes, (rows, blocks, 2): of each half of a block.
    sums: Vec<i32>,
    /// (rows, blocks): a block's scale times its sum, what a weight's minimum is multiplied with.
    pub(super) totals: Vec<f32>,
}

/// Rough cost of a value on one core.
const NS_A_VALUE: f64 = 0.3;

impl Activations {
    /// `x` is (rows, inputs), `inputs` a multiple of 32.
    pub(super) fn new(x: &[f32], inputs: usize) -> Self {
        let blocks = inputs / BLOCK;
        let rows = x.len() / inputs.max(1);
        let mut a = Activations {
            blocks,
            codes: vec![0; x.len()],
            scales: vec![0.0; rows * blocks],
            sums: vec![0; 2 * rows * blocks],
            totals: vec![0.0; rows * blocks],
        };
        // A few rows' share of each array, or all of it.
        let share = if x.len() as f64 * NS_A_VALUE > 30_000.0 {
            rows.div_ceil(4 * par::threads()).max(1) * blocks
        } else {
            rows * blocks
        };
        if share == 0 {
            return a;
        }
        let parts: Vec<_> = (x.chunks(share * BLOCK).zip(a.codes.chunks_mut(share * BLOCK)))
            .zip(a.scales.chunks_mut(share).zip(a.sums.chunks_mut(2 * share)))
            .zip(a.totals.chunks_mut(share))
            .collect();
        par::each(parts, |(((x, codes), (scales, sums)), totals)| quantise(x, codes, scales, sums, totals));
        a
    }

    /// What an integer sum over a block (or over half a block) begins with, so that codes counted from `offset`
    /// need no subtraction: `-offset` times the sum of the activations' codes. (rows, blocks, halves).
    pub(super) fn starts(&self, offset: i32, halves: usize) -> Vec<i32> {
        match halves {
            1 => self.sums.as_chunks::<2>().0.iter().map(|[a, b]| -offset * (a + b)).collect(),
            _ => self.sums.iter().map(|s| -offset * s).collect(),
        }
    }
}

multiversion! {
    fn quantise(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32], totals: &mut [f32]) =
        quantise_body
}

#[inline(always)]
fn quantise_body(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32], totals: &mut [f32]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(codes.as_chunks_mut::<BLOCK>().0);
    let rest = scales.iter_mut().zip(sums.as_chunks_mut::<2>().0).zip(totals);
    for ((x, codes), ((scale, sums), total)) in blocks.zip(rest) {
        let largest = magnitude(x);
        // One too small to divide by is 0; one that is not all finite makes every output it takes part in NaN.
        let (inverse, step) = match largest.is_finite() {
            true if largest >= 1e-30 => (127.0 / largest, largest / 127.0),
            finite => (0.0, if finite { 0.0 } else { f32::NAN }),
        };
        *sums = round(x, inverse, codes);
        *scale = to_half(step);
        *total = to_half(step * (sums[0] + sums[1]) as f32);
    }
}

/// The largest magnitude; not finite where any value is not.
#[inline(always)]
fn magnitude(x: &[f32]) -> f32 {
    // Magnitudes order like their bits, and integers may be compared in any order: this vectorises.
    f32::from_bits(x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff)))
}

/// Codes are the nearest integers of `x * inverse`, even on a tie; gives the sum of either half. An inverse of 0 makes
/// all of them 0, whatever `x` is.
#[inline(always)]
fn round(x: &[f32; BLOCK], inverse: f32, codes: &mut [i8; BLOCK]) -> [i32; 2] {
    /// Adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    if inverse == 0.0 {
        codes.fill(0);
        return [0; 2];
    }
    let mut whole = [0i32; BLOCK];
    for (q, v) in whole.iter_mut().zip(x) {
        *q = (v * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
    }
    let (mut first, mut second) = (0, 0);
    for i in 0..BLOCK / 2 {
        first += whole[i];
        second += whole[i + BLOCK / 2];
    }
    for (code, q) in codes.iter_mut().zip(whole) {
        *code = q as i8;
    }
    [first, second]
}

/// The nearest number of half precision, even on a tie; what would not be finite there stays as it is.
#[inline(always)]
fn to_half(x: f32) -> f32 {
    /// Numbers of half precision below are multiples of 2^-24, which is the distance of single ones around 3/4.
    const SUBNORMAL: f32 = 6.103_515_6e-5;
    /// From here on infinity is the nearest.
    const OVERFLOW: f32 = 65_520.0;
    if x.abs() < SUBNORMAL {
        return (x + 0.75) - 0.75;
    }
    let bits = x.to_bits();
    let rounded = f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff);
    if x.abs() < OVERFLOW { rounded } else { x }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn numbers_of_half_precision_are_met_exactly() {
        // Every half, its neighbours in single precision, and the ties between halves.
        for bits in 0..0x7c00u16 {
            let (x, next) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            let tie = if next.is_finite() { x.midpoint(next) } else { x };
            for x in [x, x.next_up(), x.next_down(), tie, tie.next_up(), tie.next_down()] {
                for x in [x, -x] {
                    assert_eq!(to_half(x), f16::from_f32(x).to_f32(), "{x:e}");
                }
            }
        }
        assert_eq!(to_half(1e9), 1e9);
        assert!(to_half(f32::NAN).is_nan());
    }
}
