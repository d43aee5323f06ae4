//! Activations in 8 bits: `x = scale * q` for each block of 32, `q` within ±127.

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
        (*scale, *sums) = quantise_block(x, codes);
        *total = *scale * (sums[0] + sums[1]) as f32;
    }
}

/// The scale, and the sum of either half. A block that is not all finite has scale NaN, so that every output it
/// takes part in is NaN; one too small to divide by has scale 0.
#[inline(always)]
fn quantise_block(x: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> (f32, [i32; 2]) {
    /// Adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Magnitudes order like their bits, and integers may be compared in any order: this vectorises.
    let largest = x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    if !largest.is_finite() || largest < 1e-30 {
        codes.fill(0);
        return (if largest.is_finite() { 0.0 } else { f32::NAN }, [0; 2]);
    }
    let inverse = 127.0 / largest;
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
    (largest / 127.0, [first, second])
}
