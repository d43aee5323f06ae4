//! Splitting values into bfloat16 and laying them out in steps.

use half::bf16;

use super::{DEPTH, GROUP, Step, TILE};

/// A matrix in f32 to be packed: `rows` rows of `width` values, `stride` from one row to the next.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) values: *const f32,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl Source {
    /// Rows from `first` on, 32 at most.
    unsafe fn group(self, first: usize) -> Source {
        // SAFETY: the caller names a row that there is.
        let values = unsafe { self.values.add(first * self.stride) };
        Source { values, rows: GROUP.min(self.rows - first), ..self }
    }
}

/// The left side of a product: rows times `scale`, in groups of 32, each `ceil(width / 32)` steps. Values past the
/// width are zeros; those of rows past the last are left as they are.
///
/// # Safety
/// `from` is valid as it says; `out` has the steps of every group.
pub(crate) unsafe fn pack_rows(from: Source, scale: f32, out: *mut Step) {
    let steps = from.width.div_ceil(DEPTH);
    for first in (0..from.rows).step_by(GROUP) {
        // SAFETY: a row that there is, and the steps of its group.
        unsafe {
            let (rows, out) = (from.group(first), out.add(first / GROUP * steps));
            #[cfg(target_arch = "x86_64")]
            if super::unit() {
                x86::rows(rows, scale, out);
                continue;
            }
            for (r, k) in (0..rows.rows).flat_map(|r| (0..steps * DEPTH).map(move |k| (r, k))) {
                let value = if k < rows.width { *rows.values.add(r * rows.stride + k) * scale } else { 0.0 };
                let tiles = &mut (*out.add(k / DEPTH)).0;
                let (tile, at) = (r / TILE, r % TILE * DEPTH + k % DEPTH);
                (tiles[tile][at], tiles[2 + tile][at]) = split(value);
            }
        }
    }
}

/// The right side of a product from its columns, given as rows (as PyTorch keeps a linear layer's weight):
/// `ceil(rows / 32)` groups of `ceil(width / 32)` steps, zeros beyond.
///
/// # Safety
/// As [`pack_rows`].
pub(crate) unsafe fn pack_columns(from: Source, out: *mut Step) {
    let steps = from.width.div_ceil(DEPTH);
    for first in (0..from.rows).step_by(GROUP) {
        // SAFETY: a row that there is, and the steps of its group.
        unsafe {
            let (rows, group) = (from.group(first), out.add(first / GROUP * steps));
            if rows.rows < GROUP {
                std::slice::from_raw_parts_mut(group, steps).fill(Step::ZERO);
            }
            pack_rows(rows, 1.0, group);
            for step in std::slice::from_raw_parts_mut(group, steps) {
                step.0.iter_mut().for_each(transpose);
            }
        }
    }
}

/// Turns 16 rows of 16 pairs into 16 rows of 16 columns' pairs.
fn transpose(tile: &mut [u16; TILE * DEPTH]) {
    let from = *tile;
    for (pair, row) in tile.chunks_exact_mut(DEPTH).enumerate() {
        for (column, out) in row.chunks_exact_mut(2).enumerate() {
            out.copy_from_slice(&from[column * DEPTH + pair * 2..][..2]);
        }
    }
}

/// The right side of a product from its rows, `width` columns wide: `ceil(width / 32)` groups of `ceil(rows / 32)`
/// steps, zeros beyond.
///
/// # Safety
/// As [`pack_rows`].
pub(crate) unsafe fn pack_pairs(from: Source, out: *mut Step) {
    let steps = from.rows.div_ceil(DEPTH);
    for column in (0..from.width.div_ceil(GROUP) * GROUP).step_by(TILE) {
        for pair in 0..steps * DEPTH / 2 {
            // SAFETY: rows and columns that there are; the step that holds them.
            unsafe {
                let columns = TILE.min(from.width.saturating_sub(column));
                let tiles = &mut (*out.add(column / GROUP * steps + pair * 2 / DEPTH)).0;
                let rows: [Option<*const f32>; 2] = [0, 1].map(|i| {
                    let there = pair * 2 + i < from.rows && columns > 0;
                    there.then(|| from.values.add((pair * 2 + i) * from.stride + column))
                });
                let (tile, at) = (column / TILE % 2, pair % TILE * DEPTH);
                let [high, low] = &mut pair_of(rows, columns);
                tiles[tile][at..at + DEPTH].copy_from_slice(high);
                tiles[2 + tile][at..at + DEPTH].copy_from_slice(low);
            }
        }
    }
}

/// Two rows of up to 16 values, interleaved: their high parts and their low parts.
///
/// # Safety
/// Rows are valid for `columns` values, 16 at most.
unsafe fn pair_of(rows: [Option<*const f32>; 2], columns: usize) -> [[u16; DEPTH]; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if super::unit() {
            return x86::pair(rows, columns);
        }
        let mut out = [[0; DEPTH]; 2];
        for (i, row) in rows.into_iter().enumerate() {
            let Some(row) = row else { continue };
            for c in 0..columns {
                (out[0][c * 2 + i], out[1][c * 2 + i]) = split(*row.add(c));
            }
        }
        out
    }
}

/// High and low part of a value: the nearest bfloat16, and the nearest to what is left.
fn split(value: f32) -> (u16, u16) {
    let high = bf16::from_f32(value);
    (high.to_bits(), bf16::from_f32(value - high.to_f32()).to_bits())
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{DEPTH, Source, Step, TILE};

    /// Two vectors' high parts, one after the other, and their low parts.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn split(first: __m512, second: __m512) -> (__m512i, __m512i) {
        let bits = |first, second| -> __m512i {
            let halves = _mm512_cvtne2ps_pbh(second, first);
            // SAFETY: both types are 64 bytes of which every bit pattern is a value.
            unsafe { std::mem::transmute(halves) }
        };
        let widen = |half: __m256i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
        let high = bits(first, second);
        let low = bits(
            _mm512_sub_ps(first, widen(_mm512_castsi512_si256(high))),
            _mm512_sub_ps(second, widen(_mm512_extracti64x4_epi64::<1>(high))),
        );
        (high, low)
    }

    /// A mask of the first `n` of 16 lanes.
    fn first(n: usize) -> __mmask16 {
        if n >= 16 { u16::MAX } else { (1 << n) - 1 }
    }

    /// # Safety
    /// As [`pack_rows`](super::pack_rows), for one group; the processor has the sets.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn rows(from: Source, scale: f32, out: *mut Step) {
        let (steps, scale) = (from.width.div_ceil(DEPTH), _mm512_set1_ps(scale));
        for r in 0..from.rows {
            for s in 0..steps {
                let left = from.width - s * DEPTH;
                // SAFETY: the masks leave out what is past the row; a step has the row's 64 bytes twice.
                unsafe {
                    let at = from.values.add(r * from.stride + s * DEPTH);
                    let a = _mm512_maskz_loadu_ps(first(left), at);
                    let b = _mm512_maskz_loadu_ps(first(left.saturating_sub(16)), at.wrapping_add(16));
                    let (high, low) = split(_mm512_mul_ps(a, scale), _mm512_mul_ps(b, scale));
                    let to = out.add(s).cast::<u16>().add(r * DEPTH);
                    _mm512_store_si512(to.cast(), high);
                    _mm512_store_si512(to.add(2 * TILE * DEPTH).cast(), low);
                }
            }
        }
    }

    /// # Safety
    /// As [`pair_of`](super::pair_of); the processor has the sets.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn pair(rows: [Option<*const f32>; 2], columns: usize) -> [[u16; DEPTH]; 2] {
        // Lane 2i takes value i of the first row, lane 2i + 1 that of the second.
        const ORDER: [u16; DEPTH] = {
            let mut order = [0; DEPTH];
            let mut i = 0;
            while i < DEPTH {
                order[i] = (i / 2 + i % 2 * 16) as u16;
                i += 1;
            }
            order
        };
        let [a, b] = rows.map(|row| match row {
            // SAFETY: the mask leaves out what is past the row.
            Some(row) => unsafe { _mm512_maskz_loadu_ps(first(columns), row) },
            None => _mm512_setzero_ps(),
        });
        let (high, low) = split(a, b);
        // SAFETY: loads and stores of whole arrays of 64 bytes.
        unsafe {
            let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
            let mut out = [[0u16; DEPTH]; 2];
            _mm512_storeu_si512(out[0].as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, high));
            _mm512_storeu_si512(out[1].as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, low));
            out
        }
    }
}
