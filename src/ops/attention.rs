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
//! On a GPU `kernels/attention.cu` does the same on the tensor cores for heads of 32, 64 and 128: queries, keys, values and
//! probabilities rounded to halves, sums in f32.

#![allow(unsafe_code)]

pub(super) mod composed;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(test, feature = "cuda"))]
mod launch;
mod tiled;
mod vectors;

use std::cell::RefCell;

use candle_core::{Layout, Result, Tensor, bail};

use super::amx::{self, Step};
use super::simd::Simd;
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

/// Queries that are computed together at most.
const TOGETHER: usize = 32;

/// The softmax of some queries so far: their largest score, and the sum of probabilities relative to it.
struct Sums {
    largest: [f32; TOGETHER],
    of: [f32; TOGETHER],
}

impl Default for Sums {
    fn default() -> Sums {
        Sums { largest: [f32::NEG_INFINITY; TOGETHER], of: [0.0; TOGETHER] }
    }
}

impl Sums {
    /// Turns queries' scores of keys `key..key + n` into probabilities, zeros for keys that are not seen and up to `all`
    /// past `n`, and fades the sums of earlier keys' values to their measure.
    ///
    /// # Safety
    /// The processor has `S`; scores and values are the first of their rows and the distance to the next: `rows` rows of
    /// `all` scores, and of as many sums as the distance, a multiple of 16.
    #[inline(always)]
    unsafe fn absorb<S: Simd>(
        &mut self,
        h: &Head,
        (first, rows): (usize, usize),
        (key, n, all): (usize, usize, usize),
        scores: (*mut f32, usize),
        values: (*mut f32, usize),
    ) {
        for i in 0..rows {
            let seen = h.visible(first + i).saturating_sub(key).min(n);
            // SAFETY: row `i` of either.
            unsafe {
                let row = scores.0.add(i * scores.1);
                std::slice::from_raw_parts_mut(row.add(seen), all - seen).fill(f32::NEG_INFINITY);
                let largest = self.largest[i].max(softmax::max_generic::<S>(row, seen));
                // Where no key was seen yet, any finite number makes the probabilities of -inf zero.
                let base = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
                let fade = (self.largest[i] - base).exp();
                self.of[i] = self.of[i] * fade + softmax::exp_sum_generic::<S>(row, all, base);
                if fade != 1.0 && key > 0 {
                    scale_row::<S>(values.0.add(i * values.1), values.1, fade);
                }
                self.largest[i] = largest;
            }
        }
    }

    /// Writes queries' rows of the output: zeros where no key was seen.
    ///
    /// # Safety
    /// As [`absorb`](Self::absorb), once at least or for heads without keys; the output's rows are this call's alone.
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, h: &Head, (first, rows): (usize, usize), values: (*mut f32, usize)) {
        for (i, &sum) in self.of.iter().enumerate().take(rows) {
            // SAFETY: row `i` of the sums, row `first + i` of the output.
            unsafe {
                let (row, out) = (values.0.add(i * values.1), h.out.add((first + i) * h.out_stride));
                if sum == 0.0 {
                    std::slice::from_raw_parts_mut(out, h.dim).fill(0.0);
                } else {
                    scale_row::<S>(row, values.1, 1.0 / sum);
                    std::ptr::copy_nonoverlapping(row, out, h.dim);
                }
            }
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

/// A batch row: where its queries and keys begin in their tensors' values and how many there are.
struct Span {
    q: usize,
    queries: usize,
    out: usize,
    k: usize,
    v: usize,
    keys: usize,
}

/// The rows of a batch whose tensors have these distances between them: of queries, keys and values.
fn batched(q: &Tensor, keys: usize, mask: Mask, (qb, kb, vb): (usize, usize, usize)) -> Result<Vec<Span>> {
    let (batch, queries, width) = q.dims3()?;
    let span = |b: usize| Span {
        q: b * qb,
        queries,
        out: b * queries * width,
        k: b * kb,
        v: b * vb,
        keys: mask.kv_lens.map_or(keys, |lens| lens[b]),
    };
    Ok((0..batch).map(span).collect())
}

/// Rows of a fused projection of `3 * width` that lie one after the other.
fn ragged(starts: &[usize], width: usize) -> Vec<Span> {
    let span = |w: &[usize]| {
        let (at, len) = (w[0] * 3 * width, w[1] - w[0]);
        Span { q: at, queries: len, out: w[0] * width, k: at, v: at, keys: len }
    };
    starts.windows(2).map(span).collect()
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
            let values = vectors::scratch_len(h.way == Way::Few, h.keys, dim);
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
                    _ => vectors::run_head(h, std::slice::from_raw_parts_mut(at.cast(), values)),
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
    #[cfg(feature = "cuda")]
    if let Some(out) = cuda::attention([q, k, v], heads, scale, mask)? {
        return Ok(out);
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
        let spans = batched(q, keys, mask, (qb, kb, vb))?;
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
    #[cfg(feature = "cuda")]
    if let Some(out) = cuda::varlen(qkv, starts, heads, scale)? {
        return Ok(out);
    }
    if !cpu::fused(&[qkv]) {
        return composed::varlen(qkv, starts, heads, width, scale);
    }
    let out = cpu::with(qkv, "attention: qkv", |values| {
        // SAFETY: the rows cover every token, so `run` writes every value.
        let mut out = unsafe { par::uninit(tokens * width) };
        let spans = ragged(starts, width);
        let rows = |from: usize| Rows { values: after(values, from), stride: three };
        run((rows(0), rows(width), rows(2 * width)), &mut out, &spans, heads, width / heads, scale, false)?;
        Ok(out)
    })?;
    cpu::tensor(out, (tokens, width))
}

#[cfg(test)]
mod tests;
