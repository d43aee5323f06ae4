//! The CPU side: a task is one head of one span.

use std::cell::RefCell;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::Span;
use crate::ops::simd::{Simd, dispatch};
use crate::ops::{par, softmax};

/// Keys of a panel.
pub(super) const PANEL: usize = 16;
/// Halves of a cache line, and how far ahead of their use values are fetched.
const LINE: usize = 32;
const AHEAD: usize = 2048;
/// Rows that share each widened vector.
const ROWS: usize = 6;

/// Keys and values of one layer of one slot; see the table of the module.
#[derive(Debug)]
pub(super) struct Heard {
    heads: usize,
    dim: usize,
    length: usize,
    /// Bits of halves.
    keys: Vec<u16>,
    values: Vec<u16>,
}

impl Heard {
    pub(super) fn new(heads: usize, dim: usize, length: usize) -> Heard {
        let padded = length.next_multiple_of(PANEL);
        // Positions past the last are keys of zero, whose scores nobody reads.
        let zeros = |positions| bytemuck::allocation::zeroed_vec(heads * dim * positions);
        Heard { heads, dim, length, keys: zeros(padded), values: zeros(length) }
    }

    fn panels(&self) -> usize {
        self.length.div_ceil(PANEL)
    }

    /// Takes `(length, 2 * heads * dim)` f32, keys beside values.
    pub(super) fn fill(&mut self, kv: &[f32]) {
        let (dim, length, panels) = (self.dim, self.length, self.panels());
        let columns = 2 * self.heads * dim;
        let parts: Vec<_> = (self.keys.chunks_exact_mut(panels * dim * PANEL))
            .zip(self.values.chunks_exact_mut(length * dim))
            .enumerate()
            .collect();
        par::each(parts, |(head, (keys, values))| {
            let mut halves = vec![f16::ZERO; dim];
            for (t, row) in kv.chunks_exact(columns).enumerate() {
                halves.convert_from_f32_slice(&row[head * dim..][..dim]);
                let panel = &mut keys[t / PANEL * dim * PANEL..][..dim * PANEL];
                for (line, half) in panel.chunks_exact_mut(PANEL).zip(&halves) {
                    line[t % PANEL] = half.to_bits();
                }
                halves.convert_from_f32_slice(&row[columns / 2 + head * dim..][..dim]);
                for (to, half) in values[t * dim..][..dim].iter_mut().zip(&halves) {
                    *to = half.to_bits();
                }
            }
        });
    }
}

thread_local! {
    /// A thread's scores and scaled queries; as large as the longest input it has seen.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One head of one span.
#[derive(Clone, Copy)]
struct Task {
    /// `(panels, dim, 16)` and `(length, dim)`.
    keys: *const u16,
    values: *const u16,
    q: *const f32,
    out: *mut f32,
    /// Distance between rows of `q`, and of `out`.
    q_stride: usize,
    out_stride: usize,
    rows: usize,
    dim: usize,
    /// Positions that count.
    length: usize,
    scale: f32,
    /// Whether the weights are wanted, `length` a row, instead of the weighted values.
    weights: bool,
}

/// Values that a task's scratch holds.
fn scratch_len(dim: usize, length: usize) -> usize {
    ROWS * (length.next_multiple_of(PANEL) + dim)
}

/// # Safety
/// As [`run_task`].
#[inline(always)]
unsafe fn task_generic<S: Simd>(t: Task, scratch: *mut f32) {
    let groups = t.rows.div_ceil(ROWS);
    let mut first = 0;
    for group in 0..groups {
        let rows = (t.rows - first).div_ceil(groups - group);
        // SAFETY: rows `first..first + rows` are within the task's.
        unsafe {
            match rows {
                1 => rows_generic::<S, 1>(&t, first, scratch),
                2 => rows_generic::<S, 2>(&t, first, scratch),
                3 => rows_generic::<S, 3>(&t, first, scratch),
                4 => rows_generic::<S, 4>(&t, first, scratch),
                5 => rows_generic::<S, 5>(&t, first, scratch),
                _ => rows_generic::<S, ROWS>(&t, first, scratch),
            }
        }
        first += rows;
    }
}

/// Rows `first..first + R`.
///
/// # Safety
/// As [`run_task`].
#[inline(always)]
unsafe fn rows_generic<S: Simd, const R: usize>(t: &Task, first: usize, scratch: *mut f32) {
    let padded = t.length.next_multiple_of(PANEL);
    // SAFETY: the scratch holds `R` rows of `padded` scores and of `dim` queries; rows and positions are within the
    // task's by its contract.
    unsafe {
        let q = scratch.add(R * padded);
        for r in 0..R {
            for d in 0..t.dim {
                *q.add(r * t.dim + d) = *t.q.add((first + r) * t.q_stride + d) * t.scale;
            }
        }
        score::<S, R>(t, q, scratch, padded);
        let mut sums = [0f32; R];
        for (r, sum) in sums.iter_mut().enumerate() {
            let row = scratch.add(r * padded);
            let max = softmax::max_generic::<S>(row, t.length);
            *sum = softmax::exp_sum_generic::<S>(row, t.length, max);
        }
        let out = t.out.add(first * t.out_stride);
        if t.weights {
            for (r, sum) in sums.iter().enumerate() {
                for i in 0..t.length {
                    *out.add(r * t.out_stride + i) = *scratch.add(r * padded + i) / sum;
                }
            }
        } else {
            mix::<S, R>(t, scratch, padded, &sums, out);
        }
    }
}

/// Scores of `R` scaled queries with every key, four vectors of keys at a time.
///
/// # Safety
/// As [`rows_generic`].
#[inline(always)]
unsafe fn score<S: Simd, const R: usize>(t: &Task, q: *const f32, scores: *mut f32, padded: usize) {
    let vectors = padded / S::LANES;
    let wide = vectors / 4 * 4;
    for v in (0..wide).step_by(4) {
        // SAFETY: vectors `v..v + 4` of keys are there.
        unsafe { score_tile::<S, R, 4>(t, q, scores, padded, v) };
    }
    for v in wide..vectors {
        // SAFETY: as above.
        unsafe { score_tile::<S, R, 1>(t, q, scores, padded, v) };
    }
}

/// # Safety
/// As [`score`]; vectors `v..v + N` are within the keys.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the same constant index into several arrays, unrolled
unsafe fn score_tile<S: Simd, const R: usize, const N: usize>(
    t: &Task,
    q: *const f32,
    scores: *mut f32,
    padded: usize,
    v: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[S::splat(0.0); N]; R];
        let keys: [*const u16; N] = std::array::from_fn(|n| {
            let lane = (v + n) * S::LANES;
            t.keys.add(lane / PANEL * t.dim * PANEL + lane % PANEL)
        });
        for d in 0..t.dim {
            let mut key = [S::splat(0.0); N];
            for n in 0..N {
                let at = keys[n].add(d * PANEL);
                // A line is two dimensions of a panel.
                if d.is_multiple_of(2) {
                    S::prefetch(at.wrapping_add(N * t.dim * PANEL));
                }
                key[n] = S::load_f16(at);
            }
            for r in 0..R {
                let query = S::splat(*q.add(r * t.dim + d));
                for n in 0..N {
                    acc[r][n] = S::fma(query, key[n], acc[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                S::store(scores.add(r * padded + (v + n) * S::LANES), acc[r][n]);
            }
        }
    }
}

/// The values, weighted by `e^score` over its sum.
///
/// # Safety
/// As [`rows_generic`].
#[inline(always)]
unsafe fn mix<S: Simd, const R: usize>(
    t: &Task,
    weights: *const f32,
    padded: usize,
    sums: &[f32; R],
    out: *mut f32,
) {
    let whole = t.dim / S::LANES * S::LANES;
    let wide = whole / (4 * S::LANES) * (4 * S::LANES);
    // SAFETY: dimensions `d..d + N * LANES` are within `dim`.
    unsafe {
        for d in (0..wide).step_by(4 * S::LANES) {
            mix_tile::<S, R, 4>(t, weights, padded, sums, out, d);
        }
        for d in (wide..whole).step_by(S::LANES) {
            mix_tile::<S, R, 1>(t, weights, padded, sums, out, d);
        }
        for d in whole..t.dim {
            for (r, sum) in sums.iter().enumerate() {
                let value = |i: usize| f16::from_bits(*t.values.add(i * t.dim + d)).to_f32();
                let total: f32 = (0..t.length).map(|i| *weights.add(r * padded + i) * value(i)).sum();
                *out.add(r * t.out_stride + d) = total / sum;
            }
        }
    }
}

/// # Safety
/// As [`mix`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as in `score_tile`
unsafe fn mix_tile<S: Simd, const R: usize, const N: usize>(
    t: &Task,
    weights: *const f32,
    padded: usize,
    sums: &[f32; R],
    out: *mut f32,
    d: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[S::splat(0.0); N]; R];
        for i in 0..t.length {
            let row = t.values.add(i * t.dim + d);
            let mut value = [S::splat(0.0); N];
            for n in 0..N {
                let at = row.add(n * S::LANES);
                if (n * S::LANES).is_multiple_of(LINE) {
                    S::prefetch(at.wrapping_add(AHEAD));
                }
                value[n] = S::load_f16(at);
            }
            for r in 0..R {
                let weight = S::splat(*weights.add(r * padded + i));
                for n in 0..N {
                    acc[r][n] = S::fma(weight, value[n], acc[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                let value = S::div(acc[r][n], S::splat(sums[r]));
                S::store(out.add(r * t.out_stride + d + n * S::LANES), value);
            }
        }
    }
}

dispatch! {
    /// One task.
    ///
    /// # Safety
    /// `keys` and `values` are valid for the whole panels and the positions of `length`, `q` for `rows` rows of `dim`
    /// at its stride, `out` for `rows` rows of what is wanted, which nothing else touches; `scratch` for
    /// [`scratch_len`] values.
    unsafe fn run_task(t: Task, scratch: *mut f32) = task_generic
}

fn run(t: Task) {
    SCRATCH.with_borrow_mut(|scratch| {
        let len = scratch_len(t.dim, t.length);
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        // SAFETY: whoever made the task vouches for its pointers; the scratch has the size asked for.
        unsafe { run_task(t, scratch.as_mut_ptr()) };
    });
}

/// Every row of every span; the spans cover `rows` rows of `q`, and the layers have one shape.
pub(super) fn attend(q: &[f32], scale: f32, spans: &[(&Heard, Span)], rows: usize) -> Vec<f32> {
    let width = q.len() / rows.max(1);
    // SAFETY: the spans cover every row, the tasks every head of them.
    let mut out = unsafe { par::uninit(rows * width) };
    let dst = par::SharedMut::new(&mut out);
    let Some(heads) = spans.first().map(|(heard, _)| heard.heads) else { return out };
    // Reading a slot from memory takes about 20 GB/s a core, a row some 40 GFLOP/s.
    let ns = spans.iter().map(|(h, s)| (h.length * width) as f64 * (0.2 + s.len as f64 * 0.1)).sum();
    par::for_each(spans.len() * heads, ns, |task| {
        let ((heard, span), head) = (spans[task / heads], task % heads);
        let at = span.first * width + head * heard.dim;
        // SAFETY: the slices have the shapes that `Heard` states; rows `first..first + len` are within `rows`, and
        // each task writes its own head of its own rows.
        let t = unsafe {
            Task {
                keys: heard.keys.as_ptr().add(head * heard.panels() * heard.dim * PANEL),
                values: heard.values.as_ptr().add(head * heard.length * heard.dim),
                q: q.as_ptr().add(at),
                out: dst.get().add(at),
                q_stride: width,
                out_stride: width,
                rows: span.len,
                dim: heard.dim,
                length: heard.length,
                scale,
                weights: false,
            }
        };
        run(t);
    });
    out
}

/// The weights of some heads of one span over the first `keys` positions.
pub(super) fn weights(
    q: &[f32],
    scale: f32,
    heard: &Heard,
    span: Span,
    heads: &[usize],
    keys: usize,
) -> Vec<f32> {
    let width = heard.heads * heard.dim;
    // SAFETY: a task for every head writes all of its rows.
    let mut out = unsafe { par::uninit(heads.len() * span.len * keys) };
    let dst = par::SharedMut::new(&mut out);
    let ns = (heads.len() * span.len * keys * heard.dim) as f64 * 0.1;
    par::for_each(heads.len(), ns, |task| {
        let head = heads[task];
        // SAFETY: as in `attend`; `keys` is at most the length, and each task writes its own head's weights.
        let t = unsafe {
            Task {
                keys: heard.keys.as_ptr().add(head * heard.panels() * heard.dim * PANEL),
                values: heard.values.as_ptr().add(head * heard.length * heard.dim),
                q: q.as_ptr().add(span.first * width + head * heard.dim),
                out: dst.get().add(task * span.len * keys),
                q_stride: width,
                out_stride: keys,
                rows: span.len,
                dim: heard.dim,
                length: keys,
                scale,
                weights: true,
            }
        };
        run(t);
    });
    out
}
