//! Single-precision matrix products: one register tile, fed by whoever blocks the loops around it.
//!
//! The right-hand side is always cut into *panels* of 16 columns. Every element of the result is one chain of
//! fused multiply-adds in the order of `k`, whatever the tile or the number of rows around it: a row's result
//! does not depend on the rows it is computed with, to the last bit.

#![allow(unsafe_code)]

use super::simd::{self, Map, Simd, dispatch};

/// Columns of a panel.
pub(crate) const PANEL: usize = 16;
/// Steps of `k` between two turns of a tile's loop.
const UNROLL: usize = 8;

/// One step of a panel; a cache line, so that no load crosses two.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Line(pub(crate) [f32; PANEL]);

/// The right-hand side of a product, one group of panels.
#[derive(Clone, Copy)]
pub(crate) struct Rhs {
    /// First value of the first panel.
    pub(crate) ptr: *const f32,
    /// Values from one panel to the next.
    pub(crate) panel_stride: usize,
}

/// How a product ends: `c = act(c + bias)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// As it is.
    None,
    /// Exact GELU, see [`gelu_erf`](crate::ops::gelu_erf).
    Gelu,
    /// Nothing below zero.
    Relu,
}

impl Map for Activation {
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, v: S::V) -> S::V {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Activation::None => v,
                Activation::Gelu => simd::gelu::<S>(v),
                // The second where either is NaN, which stays one.
                Activation::Relu => S::max(S::splat(0.0), v),
            }
        }
    }
}

/// `MR` rows by `NV` vectors: `c = a b`, or `c += a b` with `accumulate`.
///
/// # Safety
/// As [`block`], for these rows and columns.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(
    k: usize,
    a: *const f32,
    lda: usize,
    b: Rhs,
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
) {
    // SAFETY: every offset is within the rows, columns and panels that the caller vouches for.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        if accumulate {
            for (i, row) in acc.iter_mut().enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    *v = S::load(c.add(i * ldc + j * S::LANES));
                }
            }
        }
        let rows: [*const f32; MR] = std::array::from_fn(|i| a.add(i * lda));
        let mut t = 0;
        while t + UNROLL <= k {
            for u in t..t + UNROLL {
                step::<S, MR, NV>(&mut acc, rows, b, u);
            }
            t += UNROLL;
        }
        while t < k {
            step::<S, MR, NV>(&mut acc, rows, b, t);
            t += 1;
        }
        for (i, row) in acc.iter().enumerate() {
            for (j, v) in row.iter().enumerate() {
                S::store(c.add(i * ldc + j * S::LANES), *v);
            }
        }
    }
}

/// Adds step `t` of `k` to a tile's sums.
///
/// # Safety
/// `rows` and the panels of `b` have a step `t`.
#[inline(always)]
unsafe fn step<S: Simd, const MR: usize, const NV: usize>(
    acc: &mut [[S::V; NV]; MR],
    rows: [*const f32; MR],
    b: Rhs,
    t: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let bp = b.ptr.add(t * PANEL);
        let mut bv = [S::splat(0.0); NV];
        for (j, v) in bv.iter_mut().enumerate() {
            let at = j * S::LANES;
            *v = S::load(bp.add(at / PANEL * b.panel_stride + at % PANEL));
        }
        for (row, a) in acc.iter_mut().zip(rows) {
            let av = S::splat(*a.add(t));
            for (v, bj) in row.iter_mut().zip(bv) {
                *v = S::fma(av, bj, *v);
            }
        }
    }
}

macro_rules! tiles {
    ($S:ty, $rows:expr, $args:tt, $nv:literal: $($mr:literal)*) => {
        match $rows { $($mr => tile::<$S, $mr, $nv> $args,)* _ => unreachable!("tile of {} rows", $rows) }
    };
}

/// One group of at most `S::TILE.1` whole panels, any number of rows.
///
/// # Safety
/// The processor has `S`; `a` is valid for `m` rows of `k` values, `b` for `panels` panels of `k` steps, `c`
/// for `m` rows of `16 * panels` values, and nothing else uses `c`'s rows meanwhile.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn block<S: Simd>(
    m: usize,
    panels: usize,
    k: usize,
    a: *const f32,
    lda: usize,
    b: Rhs,
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
) {
    debug_assert!(panels >= 1 && panels <= S::TILE.1);
    let groups = m.div_ceil(S::TILE.0);
    let mut i = 0;
    for group in 0..groups {
        // Rows are shared out evenly: nine rows are 5 + 4, not 8 + 1.
        let rows = (m - i).div_ceil(groups - group);
        // SAFETY: rows `i..i + rows` are within the caller's `m`.
        unsafe {
            let (a, c) = (a.add(i * lda), c.add(i * ldc));
            match (S::LANES, panels) {
                (16, 1) => tiles!(S, rows, (k, a, lda, b, c, ldc, accumulate), 1: 1 2 3 4 5 6 7 8),
                (16, 2) => tiles!(S, rows, (k, a, lda, b, c, ldc, accumulate), 2: 1 2 3 4 5 6 7 8),
                (16, 3) => tiles!(S, rows, (k, a, lda, b, c, ldc, accumulate), 3: 1 2 3 4 5 6 7 8),
                (8, _) => tiles!(S, rows, (k, a, lda, b, c, ldc, accumulate), 2: 1 2 3 4 5 6),
                _ => tiles!(S, rows, (k, a, lda, b, c, ldc, accumulate), 4: 1 2),
            }
        }
        i += rows;
    }
}

/// What [`gemm`] computes: `c[m, n] = act(a[m, k] b[k, n] + bias[n])`; with several taps the sum of such products, whose
/// left-hand sides lie `tap_stride` apart and whose right-hand sides follow each other in every panel.
#[derive(Clone, Copy)]
pub(crate) struct Gemm {
    pub(crate) m: usize,
    pub(crate) n: usize,
    /// Of one tap.
    pub(crate) k: usize,
    /// At least 1.
    pub(crate) taps: usize,
    pub(crate) tap_stride: usize,
    pub(crate) a: *const f32,
    /// May be less than `k`: rows of a convolution overlap.
    pub(crate) lda: usize,
    pub(crate) b: Rhs,
    /// Whether the sums begin with what is in `c`: only for columns in whole panels.
    pub(crate) onto: bool,
    pub(crate) end: End,
}

/// Where a product's sums go, and what becomes of them on the way.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// One value a column, or null.
    pub(crate) bias: *const f32,
    pub(crate) activation: Activation,
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
}

/// Steps of `k` between visits to the result: a group of panels of this depth stays in the first-level cache.
const KC: usize = 256;
/// Rows that share one group of panels while it is there.
pub(crate) const MC: usize = 96;

/// # Safety
/// As [`gemm`].
#[inline(always)]
unsafe fn gemm_generic<S: Simd>(g: Gemm) {
    let group_width = S::TILE.1 * PANEL;
    let parts = g.k.div_ceil(KC).max(1);
    let mut spill = [0f32; MC * PANEL * 3];
    for i in (0..g.m).step_by(MC) {
        let m = MC.min(g.m - i);
        for j in (0..g.n).step_by(group_width) {
            let cols = group_width.min(g.n - j);
            let panels = cols.div_ceil(PANEL);
            // A last panel that is not whole is computed beside the result, whose rows end before it does.
            let (c, ldc) = if cols == panels * PANEL {
                // SAFETY: row `i < m`, column `j < n`.
                (unsafe { g.end.c.add(i * g.end.ldc + j) }, g.end.ldc)
            } else {
                (spill.as_mut_ptr(), group_width)
            };
            for (tap, part) in (0..g.taps).flat_map(|tap| (0..parts).map(move |part| (tap, part))) {
                let (from, to) = (g.k * part / parts, g.k * (part + 1) / parts);
                let onto = g.onto || tap + part > 0;
                // SAFETY: `a` has rows `i..i + m` and columns `from..to` of this tap, `b` has `panels` panels from
                // column `j` on, padded to whole panels; `c` has room for whole panels by the choice above.
                unsafe {
                    let step = (tap * g.k + from) * PANEL;
                    let b = Rhs { ptr: g.b.ptr.add(j / PANEL * g.b.panel_stride + step), ..g.b };
                    let a = g.a.add(tap * g.tap_stride + i * g.lda + from);
                    block::<S>(m, panels, to - from, a, g.lda, b, c, ldc, onto);
                }
            }
            // SAFETY: the same rows and columns as above.
            unsafe { g.end.write::<S>((i, m), (j, cols), c, ldc) };
        }
    }
}

impl End {
    /// Rows `i..i + m`, columns `j..j + cols` of the sums, which lie at `src`: in place, or `ld` apart elsewhere.
    ///
    /// # Safety
    /// `src` has `m` rows of `cols` values, the result those rows and columns, the bias those columns.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd>(
        &self,
        (i, m): (usize, usize),
        (j, cols): (usize, usize),
        src: *const f32,
        ld: usize,
    ) {
        // SAFETY: row `i`, column `j` of the result.
        let in_place = std::ptr::eq(src, unsafe { self.c.add(i * self.ldc + j) });
        if in_place && self.bias.is_null() && self.activation == Activation::None {
            return;
        }
        for r in 0..m {
            // SAFETY: row `r` of `src` has `cols` values, row `i + r` of the result has them from `j` on, and so
            // has the bias.
            unsafe {
                let (src, dst) = (src.add(r * ld), self.c.add((i + r) * self.ldc + j));
                let mut x = 0;
                while x + S::LANES <= cols {
                    let mut v = S::load(src.add(x));
                    if !self.bias.is_null() {
                        v = S::add(v, S::load(self.bias.add(j + x)));
                    }
                    S::store(dst.add(x), self.activation.apply::<S>(v));
                    x += S::LANES;
                }
                if x < cols {
                    let mut last = [0f32; PANEL];
                    for (t, v) in last.iter_mut().enumerate().take(cols - x) {
                        *v = *src.add(x + t)
                            + if self.bias.is_null() { 0.0 } else { *self.bias.add(j + x + t) };
                    }
                    simd::map_in_place::<S>(&mut last, self.activation);
                    std::ptr::copy_nonoverlapping(last.as_ptr(), dst.add(x), cols - x);
                }
            }
        }
    }
}

dispatch! {
    /// One thread's product.
    ///
    /// # Safety
    /// `a` is valid for `m` rows of `k` values `lda` apart at every tap, `b` for `ceil(n / 16)` whole panels of
    /// `taps * k` steps, `c` is initialised where `onto` is set, which whole panels must end,
    /// `bias` for `n` values unless null, and `c` for `m` rows of `n` values `ldc` apart that nothing else uses.
    pub(crate) unsafe fn gemm(g: Gemm) = gemm_generic
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::every_set;
    use crate::ops::testing::{assert_close, noise};

    /// Small whole numbers, so that every order of additions gives the same sum.
    fn whole(len: usize, seed: u64) -> Vec<f32> {
        noise(len, seed).iter().map(|v| (v * 8.0).round()).collect()
    }

    #[test]
    fn every_set_and_tile_gives_the_product() {
        fn check<S: Simd>() {
            for (m, n, k) in
                [(1, 1, 1), (1, 16, 7), (3, 17, 5), (8, 48, 9), (9, 100, 300), (97, 63, 513), (15, 80, 1)]
            {
                let (a, w, bias) = (whole(m * k, 1), whole(n * k, 2), whole(n, 3));
                let mut panels = vec![0f32; n.div_ceil(PANEL) * PANEL * k];
                for (j, row) in w.chunks(k).enumerate() {
                    for (t, v) in row.iter().enumerate() {
                        panels[j / PANEL * PANEL * k + t * PANEL + j % PANEL] = *v;
                    }
                }
                let want: Vec<f32> = (0..m * n)
                    .map(|at| {
                        let (i, j) = (at / n, at % n);
                        bias[j] + (0..k).map(|t| a[i * k + t] * w[j * k + t]).sum::<f32>()
                    })
                    .collect();
                let mut c = vec![f32::NAN; m * n];
                let b = Rhs { ptr: panels.as_ptr(), panel_stride: PANEL * k };
                let (a, bias, activation) = (a.as_ptr(), bias.as_ptr(), Activation::None);
                let c_ptr = c.as_mut_ptr();
                // SAFETY: the buffers have the sizes named; `every_set` calls with sets of this processor.
                unsafe {
                    gemm_generic::<S>(Gemm {
                        m,
                        n,
                        k,
                        taps: 1,
                        tap_stride: 0,
                        a,
                        lda: k,
                        b,
                        onto: false,
                        end: End { bias, activation, c: c_ptr, ldc: n },
                    })
                };
                assert_close(&c, &want, 0.0);
            }
        }
        every_set!(check);
    }
}
