//! One head on f32 vectors: packed keys and values in register tiles, or in place for a few queries.

use super::super::gemm::{PANEL, Rhs, block};
use super::super::simd::{Simd, dispatch};
use super::super::softmax;
use super::{Head, QUERIES, Sums, Way};

/// Keys a step; with [`QUERIES`] their scores take 18 KB.
const KEYS: usize = 192;
/// # Safety
/// As [`run_head`].
#[inline(always)]
pub(super) unsafe fn head_generic<S: Simd>(h: Head, scratch: &mut [f32]) {
    if h.way == Way::Few {
        // SAFETY: the caller's contract.
        unsafe { few_queries::<S>(&h, scratch) };
        return;
    }
    let (wide, key_panels) = (h.dim.next_multiple_of(PANEL), h.keys.div_ceil(PANEL));
    let (kt, rest) = scratch.split_at_mut(key_panels * PANEL * h.dim);
    let (vp, rest) = rest.split_at_mut(h.keys * wide);
    let (q, rest) = rest.split_at_mut(QUERIES * h.dim);
    let (scores, rest) = rest.split_at_mut(QUERIES * KEYS);
    let acc = &mut rest[..QUERIES * wide];
    // SAFETY: keys and values are valid for `keys` rows of `dim` values; the buffers have the sizes that the
    // functions state.
    unsafe {
        pack_keys(&h, kt);
        pack_values(&h, wide, vp);
        for first in (0..h.queries).step_by(QUERIES) {
            let m = QUERIES.min(h.queries - first);
            for i in 0..m {
                for d in 0..h.dim {
                    *q.get_unchecked_mut(i * h.dim + d) = *h.q.add((first + i) * h.q_stride + d) * h.scale;
                }
            }
            query_block::<S>(&h, first, m, wide, q, kt, vp, scores, acc);
        }
    }
}

/// Keys, transposed into panels of 16: `kt[(panel * dim + d) * 16 + lane]`, zeros past the last key.
///
/// # Safety
/// `h.k` is valid for `keys` rows of `dim`; `kt` has `ceil(keys / 16) * 16 * dim` values.
#[inline(always)]
unsafe fn pack_keys(h: &Head, kt: &mut [f32]) {
    for (panel, out) in kt.chunks_exact_mut(PANEL * h.dim).enumerate() {
        let lanes = PANEL.min(h.keys - panel * PANEL);
        if lanes < PANEL {
            out.fill(0.0);
        }
        // A line of the panel at a time: strided loads and whole stores; the other way round compiles to scatters.
        // SAFETY: keys `panel * 16..panel * 16 + lanes` are below `keys`, `d < dim`.
        unsafe {
            let rows = h.k.add(panel * PANEL * h.k_stride);
            for (d, line) in out.chunks_exact_mut(PANEL).enumerate() {
                if lanes == PANEL {
                    for (lane, value) in line.iter_mut().enumerate() {
                        *value = *rows.add(lane * h.k_stride + d);
                    }
                } else {
                    for (lane, value) in line.iter_mut().enumerate().take(lanes) {
                        *value = *rows.add(lane * h.k_stride + d);
                    }
                }
            }
        }
    }
}

/// Values in panels of 16 dimensions: `vp[(panel * keys + key) * 16 + lane]`, zeros past the last dimension.
///
/// # Safety
/// `h.v` is valid for `keys` rows of `dim`; `vp` has `keys * wide` values.
#[inline(always)]
unsafe fn pack_values(h: &Head, wide: usize, vp: &mut [f32]) {
    for panel in 0..wide / PANEL {
        let lanes = PANEL.min(h.dim - panel * PANEL);
        for key in 0..h.keys {
            let out = &mut vp[(panel * h.keys + key) * PANEL..][..PANEL];
            out[lanes..].fill(0.0);
            // SAFETY: `key < keys`, and `panel * 16 + lanes <= dim`.
            unsafe {
                let row = h.v.add(key * h.v_stride + panel * PANEL);
                std::ptr::copy_nonoverlapping(row, out.as_mut_ptr(), lanes);
            }
        }
    }
}

/// Queries `first..first + m`, scaled, in `q`: all keys block by block, then the rows of the output.
///
/// # Safety
/// The buffers have the sizes that [`head_generic`] gives them; the output rows are this call's alone.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn query_block<S: Simd>(
    h: &Head,
    first: usize,
    m: usize,
    wide: usize,
    q: &[f32],
    kt: &[f32],
    vp: &[f32],
    scores: &mut [f32],
    acc: &mut [f32],
) {
    let mut sums = Sums::default();
    acc.fill(0.0);
    let (s, a) = (scores.as_mut_ptr(), acc.as_mut_ptr());
    for key in (0..h.visible(first + m - 1)).step_by(KEYS) {
        let n = KEYS.min(h.keys - key);
        let panels = n.div_ceil(PANEL);
        // SAFETY: `q` has `m` rows of `dim`; `kt` has the panels from `key` on (`KEYS` is a multiple of 16);
        // a row of scores has room for `KEYS` whole panels; `acc` has `m` rows of `wide`; `vp` has rows
        // `key..key + n` in each of its `wide / 16` panels.
        unsafe {
            for p in (0..panels).step_by(S::TILE.1) {
                let b = Rhs {
                    ptr: kt.as_ptr().add((key / PANEL + p) * PANEL * h.dim),
                    panel_stride: PANEL * h.dim,
                };
                block::<S>(
                    m,
                    S::TILE.1.min(panels - p),
                    h.dim,
                    q.as_ptr(),
                    h.dim,
                    b,
                    s.add(p * PANEL),
                    KEYS,
                    false,
                );
            }
            sums.absorb::<S>(h, (first, m), (key, n, n), (s, KEYS), (a, wide));
            for p in (0..wide / PANEL).step_by(S::TILE.1) {
                let b =
                    Rhs { ptr: vp.as_ptr().add((p * h.keys + key) * PANEL), panel_stride: PANEL * h.keys };
                block::<S>(m, S::TILE.1.min(wide / PANEL - p), n, s, KEYS, b, a.add(p * PANEL), wide, true);
            }
        }
    }
    // SAFETY: row `i < m` of `acc` for query `first + i`.
    unsafe { sums.finish::<S>(h, (first, m), (a, wide)) };
}

/// Each query by itself, keys and values read where they lie; `scratch` has `keys` values.
///
/// # Safety
/// As [`run_head`].
#[inline(always)]
unsafe fn few_queries<S: Simd>(h: &Head, scratch: &mut [f32]) {
    let whole = h.dim - h.dim % S::LANES;
    let scores = scratch.as_mut_ptr();
    // SAFETY: queries, keys, values and output are valid by the contract; `scores` has `keys` values.
    unsafe {
        for i in 0..h.queries {
            let (q, out) = (h.q.add(i * h.q_stride), h.out.add(i * h.out_stride));
            let seen = h.visible(i);
            for key in 0..seen {
                let k = h.k.add(key * h.k_stride);
                let mut dot = S::splat(0.0);
                for d in (0..whole).step_by(S::LANES) {
                    dot = S::fma(S::load(q.add(d)), S::load(k.add(d)), dot);
                }
                let rest: f32 = (whole..h.dim).map(|d| *q.add(d) * *k.add(d)).sum();
                *scores.add(key) = (S::sum(dot) + rest) * h.scale;
            }
            let max = softmax::max_generic::<S>(scores, seen);
            let sum = softmax::exp_sum_generic::<S>(scores, seen, max);
            let norm = if seen > 0 { 1.0 / sum } else { 0.0 };
            for d in (0..whole).step_by(S::LANES) {
                let mut acc = S::splat(0.0);
                for key in 0..seen {
                    acc = S::fma(S::splat(*scores.add(key)), S::load(h.v.add(key * h.v_stride + d)), acc);
                }
                S::store(out.add(d), S::mul(acc, S::splat(norm)));
            }
            for d in whole..h.dim {
                let acc: f32 = (0..seen).map(|key| *scores.add(key) * *h.v.add(key * h.v_stride + d)).sum();
                *out.add(d) = acc * norm;
            }
        }
    }
}

dispatch! {
    /// One task.
    ///
    /// # Safety
    /// `q` and `out` are valid for `queries` rows of `dim` values at their strides, `k` and `v` for `keys`;
    /// `out` is this call's alone; `scratch` has [`scratch_len`] values.
    pub(super) unsafe fn run_head(h: Head, scratch: &mut [f32]) = head_generic
}

/// Values that [`run_head`] needs.
pub(super) fn scratch_len(few: bool, keys: usize, dim: usize) -> usize {
    if few {
        return keys;
    }
    let wide = dim.next_multiple_of(PANEL);
    keys.next_multiple_of(PANEL) * dim + keys * wide + QUERIES * (dim + KEYS + wide)
}
