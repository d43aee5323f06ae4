//! Multi-head attention straight from the rows that the projections write: no transposes, no score matrix.
//!
//! Queries, keys and values are `(batch, time, heads * head_dim)` with any distance between rows, so a slice of
//! a fused QKV projection is taken as it is. On the CPU a task is one head of one batch row (or a part of its
//! queries): it packs the head's keys and values once and goes over blocks of keys with a running maximum and
//! sum (online softmax: Milakov and Gimelshein, 2018; tiled as in FlashAttention: Dao et al., 2022), so its
//! memory grows with the keys of one head and never with queries times keys.
//!
//! A query's result does not depend on the other rows of the batch, to the last bit.
//!
#![allow(unsafe_code)]

pub(super) mod composed;
mod tiled;

use std::cell::RefCell;

use candle_core::{Layout, Result, Tensor, bail};

use super::amx::{self, Step};
use super::gemm::{PANEL, Rhs, block};
use super::simd::{Simd, dispatch};
use super::{cpu, par, softmax};

/// What a query may look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mask<'a> {
    /// Keys that count, one length a batch row; `None`: all.
    pub kv_lens: Option<&'a [usize]>,
    /// Query `i` of `q` sees keys up to `kv_len - q + i`: the last query sees all.
    pub causal: bool,
}

/// Queries in flight: rows of a tile of scores.
const QUERIES: usize = 24;
/// Keys a step; with [`QUERIES`] their scores take 18 KB.
const KEYS: usize = 192;
/// Queries up to which keys are read in place: packing would cost more than it saves.
const FEW: usize = 3;
/// Queries from which the tile unit is the faster, and keys and dimensions over which its errors average
/// out.
const TILED: usize = 128;
const DEEP: usize = 64;

/// One head of one batch row, or a part of its queries.
#[derive(Clone, Copy)]
struct Head {
    q: *const f32,
    k: *const f32,
    v: *const f32,
    out: *mut f32,
    q_stride: usize,
    k_stride: usize,
    v_stride: usize,
    out_stride: usize,
    queries: usize,
    way: Way,
    keys: usize,
    dim: usize,
    scale: f32,
    /// Keys that the first query sees, below zero where later ones see none either; each next query sees one
    /// more. `None`: all see all.
    causal: Option<isize>,
}

/// How a head is computed. It follows from the batch row's own lengths before it is cut, so that the last bit does not
/// depend on the rest of the batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// At most [`FEW`] queries.
    Few,
    /// Tiles of f32 vectors.
    Vectors,
    /// The [tile unit](amx).
    Tiles,
}

impl Way {
    fn of(queries: usize, keys: usize, dim: usize) -> Way {
        match queries {
            0..=FEW => Way::Few,
            TILED.. if keys >= DEEP && dim >= DEEP && amx::serves() => Way::Tiles,
            _ => Way::Vectors,
        }
    }
}

impl Head {
    /// Keys that query `i` sees.
    #[inline(always)]
    fn visible(&self, i: usize) -> usize {
        self.causal
            .map_or(self.keys, |first| first.saturating_add_unsigned(i).max(0).cast_unsigned().min(self.keys))
    }
}

thread_local! {
    /// A thread's buffer for packed keys and values; as large as the longest head it has seen.
    static SCRATCH: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

/// Steps a thread keeps between calls; a longer head's buffer is freed after use (16 MiB).
const KEEP: usize = 4 << 10;

/// # Safety
/// As [`run_head`].
#[inline(always)]
unsafe fn head_generic<S: Simd>(h: Head, scratch: &mut [f32]) {
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
    let (mut max, mut sum) = ([f32::NEG_INFINITY; QUERIES], [0f32; QUERIES]);
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
                let group = S::TILE.1.min(panels - p);
                block::<S>(m, group, h.dim, q.as_ptr(), h.dim, b, s.add(p * PANEL), KEYS, false);
            }
            for i in 0..m {
                let row = s.add(i * KEYS);
                let seen = h.visible(first + i).saturating_sub(key).min(n);
                std::slice::from_raw_parts_mut(row.add(seen), n - seen).fill(0.0);
                if seen == 0 {
                    continue;
                }
                let largest = max[i].max(softmax::max_generic::<S>(row, seen));
                let fade = if max[i] == f32::NEG_INFINITY { 0.0 } else { (max[i] - largest).exp() };
                sum[i] = sum[i] * fade + softmax::exp_sum_generic::<S>(row, seen, largest);
                if largest > max[i] && key > 0 {
                    scale_row::<S>(a.add(i * wide), wide, fade);
                }
                max[i] = largest;
            }
            for p in (0..wide / PANEL).step_by(S::TILE.1) {
                let b =
                    Rhs { ptr: vp.as_ptr().add((p * h.keys + key) * PANEL), panel_stride: PANEL * h.keys };
                let group = S::TILE.1.min(wide / PANEL - p);
                block::<S>(m, group, n, s, KEYS, b, a.add(p * PANEL), wide, true);
            }
        }
    }
    for (i, &sum) in sum.iter().enumerate().take(m) {
        // SAFETY: row `i < m` of `acc`, row `first + i` of the output.
        unsafe {
            let row = a.add(i * wide);
            scale_row::<S>(row, wide, if sum > 0.0 { 1.0 / sum } else { 0.0 });
            let out = h.out.add((first + i) * h.out_stride);
            std::ptr::copy_nonoverlapping(row, out, h.dim);
        }
    }
}

/// # Safety
/// The processor has `S`; `row` is valid for `wide` values, a multiple of 16.
#[inline(always)]
unsafe fn scale_row<S: Simd>(row: *mut f32, wide: usize, by: f32) {
    for d in (0..wide).step_by(S::LANES) {
        // SAFETY: `wide` is a multiple of 16, hence of `LANES`.
        unsafe { S::store(row.add(d), S::mul(S::load(row.add(d)), S::splat(by))) };
    }
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
    unsafe fn run_head(h: Head, scratch: &mut [f32]) = head_generic
}

/// Values that [`run_head`] needs.
fn scratch_len(few: bool, keys: usize, dim: usize) -> usize {
    if few {
        return keys;
    }
    let wide = dim.next_multiple_of(PANEL);
    keys.next_multiple_of(PANEL) * dim + keys * wide + QUERIES * (dim + KEYS + wide)
}

/// A batch row: where its queries and keys begin (in rows of their tensors' strides) and how many there are.
struct Span {
    q: usize,
    queries: usize,
    out: usize,
    k: usize,
    v: usize,
    keys: usize,
}

/// A tensor's values from its first on, and the distance between its rows.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
}

/// Attention over `spans`; the output's rows are `heads * dim` wide and adjacent.
#[allow(clippy::too_many_arguments)]
fn run(
    (q, k, v): (Rows, Rows, Rows),
    out: &mut [f32],
    spans: &[Span],
    heads: usize,
    dim: usize,
    scale: f32,
    causal: bool,
) -> Result<()> {
    let reach = |from: usize, rows: usize, stride: usize| match rows {
        0 => 0,
        _ => from + (rows - 1) * stride + heads * dim,
    };
    let mut ns = 0.0;
    for s in spans {
        let fits = reach(s.q, s.queries, q.stride) <= q.values.len()
            && reach(s.k, s.keys, k.stride) <= k.values.len()
            && reach(s.v, s.keys, v.stride) <= v.values.len()
            && reach(s.out, s.queries, heads * dim) <= out.len();
        if !fits {
            bail!("attention: a row reaches past its tensor");
        }
        ns += (s.queries * s.keys) as f64 * (4 * heads * dim) as f64 / 100.0;
    }
    // Few and long heads are cut by queries, so that every thread has work.
    let longest = spans.iter().map(|s| s.queries).max().unwrap_or(0);
    let parts =
        (par::threads() * 2).div_ceil((spans.len() * heads).max(1)).min(longest.div_ceil(QUERIES)).max(1);
    let dst = par::SharedMut::new(out);
    par::for_each(spans.len() * heads * parts, ns, |task| {
        let (s, head, part) = (&spans[task / (heads * parts)], task / parts % heads, task % parts);
        let (from, to) = (s.queries * part / parts, s.queries * (part + 1) / parts);
        if from == to {
            return;
        }
        let at = head * dim;
        // SAFETY: `reach` was checked against every tensor above; tasks write disjoint heads and queries.
        let h = unsafe {
            Head {
                q: q.values.as_ptr().add(s.q + from * q.stride + at),
                k: k.values.as_ptr().add((s.k + at) * usize::from(s.keys > 0)),
                v: v.values.as_ptr().add((s.v + at) * usize::from(s.keys > 0)),
                out: dst.get().add(s.out + from * heads * dim + at),
                q_stride: q.stride,
                k_stride: k.stride,
                v_stride: v.stride,
                out_stride: heads * dim,
                queries: to - from,
                way: Way::of(s.queries, s.keys, dim),
                keys: s.keys,
                dim,
                scale,
                // Lengths of allocated rows: each is below `isize::MAX`.
                causal: causal.then(|| (s.keys + from + 1) as isize - s.queries as isize),
            }
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let values = scratch_len(h.way == Way::Few, h.keys, dim);
            let len = match h.way {
                Way::Tiles => tiled::scratch_len(h.keys, dim),
                _ => values.div_ceil(size_of::<Step>() / size_of::<f32>()),
            };
            if scratch.len() < len {
                scratch.resize(len, Step::ZERO);
            }
            let at = scratch.as_mut_ptr();
            // SAFETY: as for `h`; the buffer has room for what the way asks, and every bit pattern is an f32.
            unsafe {
                match h.way {
                    Way::Tiles => tiled::run_head(h, at),
                    _ => run_head(h, std::slice::from_raw_parts_mut(at.cast(), values)),
                }
            }
            if scratch.len() > KEEP {
                *scratch = Vec::new();
            }
        });
    });
    Ok(())
}

/// `(batch, time)` distances of a `(batch, time, width)` tensor whose rows have unit stride.
fn strides(layout: &Layout, what: &str) -> Result<(usize, usize)> {
    match layout.stride() {
        &[batch, time, last] if last == 1 || layout.dims()[2] == 1 => Ok((batch, time)),
        strides => bail!("attention: the rows of {what} must have unit stride, strides are {strides:?}"),
    }
}

/// `softmax(q kᵀ scale) v` for every head.
///
/// `q` is `(batch, queries, heads * head_dim)`, `k` and `v` are `(batch, keys, heads * head_dim)`; gives the shape
/// of `q`. A query that sees no key gives zeros.
///
/// # Errors
/// Shapes that do not fit, a width that `heads` does not divide, a `kv_lens` of another length than the batch or
/// with a length above `keys`; on the CPU, rows without unit stride.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, scale: f32, mask: Mask) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let (k_batch, keys, k_width) = k.dims3()?;
    if k.dims() != v.dims() || k_batch != batch || k_width != width || heads == 0 || width % heads != 0 {
        bail!("attention: q {:?}, k {:?}, v {:?} do not fit {heads} heads", q.dims(), k.dims(), v.dims());
    }
    if let Some(lens) = mask.kv_lens
        && (lens.len() != batch || lens.iter().any(|&l| l > keys))
    {
        bail!("attention: key lengths {lens:?} do not fit a batch of {batch} with {keys} keys");
    }
    if queries == 0 || keys == 0 {
        return Tensor::zeros(q.shape(), q.dtype(), q.device());
    }
    if !cpu::fused(&[q, k, v]) {
        return composed::attention(q, k, v, heads, scale, mask);
    }
    // SAFETY: every batch row's queries and heads are covered by `run`.
    let mut out = unsafe { par::uninit(batch * queries * width) };
    {
        let (qs, ql) = q.storage_and_layout();
        let (ks, kl) = k.storage_and_layout();
        let (vs, vl) = v.storage_and_layout();
        let ((qb, qt), (kb, kt), (vb, vt)) = (strides(ql, "q")?, strides(kl, "k")?, strides(vl, "v")?);
        let spans: Vec<Span> = (0..batch)
            .map(|b| Span {
                q: b * qb,
                queries,
                out: b * queries * width,
                k: b * kb,
                v: b * vb,
                keys: mask.kv_lens.map_or(keys, |lens| lens[b]),
            })
            .collect();
        let q = Rows { values: after(cpu::raw(&qs)?, ql.start_offset()), stride: qt };
        let k = Rows { values: after(cpu::raw(&ks)?, kl.start_offset()), stride: kt };
        let v = Rows { values: after(cpu::raw(&vs)?, vl.start_offset()), stride: vt };
        run((q, k, v), &mut out, &spans, heads, width / heads, scale, mask.causal)?;
    }
    cpu::tensor(out, (batch, queries, width))
}

fn after(values: &[f32], offset: usize) -> &[f32] {
    values.get(offset..).unwrap_or_default()
}

/// Self-attention of rows of different lengths that lie one after the other, without padding between.
///
/// `qkv` is `(tokens, 3 * heads * head_dim)`, a fused projection in this order; row `i` is the tokens
/// `starts[i]..starts[i + 1]`, so `starts` begins with 0 and ends with `tokens`. Gives `(tokens, heads * head_dim)`.
///
/// # Errors
/// A width that `3 * heads` does not divide, or `starts` that do not rise from 0 to `tokens`; on the CPU, a `qkv`
/// that is not contiguous.
pub fn attention_varlen(qkv: &Tensor, starts: &[usize], heads: usize, scale: f32) -> Result<Tensor> {
    let (tokens, three) = qkv.dims2()?;
    if heads == 0 || three % (3 * heads) != 0 {
        bail!("attention: a fused projection {three} wide does not fit {heads} heads");
    }
    let rising = starts.windows(2).all(|w| w[0] <= w[1]);
    if starts.first() != Some(&0) || starts.last() != Some(&tokens) || !rising {
        bail!("attention: row starts must rise from 0 to {tokens}");
    }
    let width = three / 3;
    if !cpu::fused(&[qkv]) {
        return composed::varlen(qkv, starts, heads, width, scale);
    }
    let out = cpu::with(qkv, "attention: qkv", |values| {
        // SAFETY: the rows cover every token, so `run` writes every value.
        let mut out = unsafe { par::uninit(tokens * width) };
        let spans: Vec<Span> = starts
            .windows(2)
            .map(|w| {
                let (at, len) = (w[0] * three, w[1] - w[0]);
                Span { q: at, queries: len, out: w[0] * width, k: at, v: at, keys: len }
            })
            .collect();
        let rows = |from: usize| Rows { values: after(values, from), stride: three };
        run((rows(0), rows(width), rows(2 * width)), &mut out, &spans, heads, width / heads, scale, false)?;
        Ok(out)
    })?;
    cpu::tensor(out, (tokens, width))
}

#[cfg(test)]
mod tests;
