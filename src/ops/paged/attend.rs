//! Attention straight over the cells, on the CPU: a block of keys at a time with a running maximum (Milakov and
//! Gimelshein 2018; Dao et al. 2022), all query heads that share a key-value head together, so that each cell is
//! widened to f32 once.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

use super::cells::Element;
use super::{KvCache, Rows, Sight};
use crate::ops::multi::{exp, f32s, multiversion};

/// Attention of a step's tokens as an operation on (qkv, keys, values).
pub(super) struct Attend<'a> {
    pub cache: &'a KvCache,
    pub heads: usize,
    pub sight: Sight,
    pub rows: &'a [Rows<'a>],
}

/// Tokens of one row that a task takes: enough to pay for widening the keys, few enough to share out.
const TILE: usize = 16;
/// Multiply-adds below which a second thread costs more than it saves.
const SERIAL: usize = 1 << 17;

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "paged_attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        lq: &Layout,
        keys: &CpuStorage,
        _: &Layout,
        values: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let qkv = f32s(qkv, lq, "attention")?;
        let columns = lq.dims()[1];
        let out = match (keys, values) {
            (CpuStorage::F32(k), CpuStorage::F32(v)) => self.all(&Input { qkv, keys: k, values: v, columns }),
            (CpuStorage::F16(k), CpuStorage::F16(v)) => self.all(&Input { qkv, keys: k, values: v, columns }),
            (CpuStorage::U8(k), CpuStorage::U8(v)) => self.all(&Input { qkv, keys: k, values: v, columns }),
            _ => bail!("attention: no cache is of this type"),
        };
        Ok((CpuStorage::F32(out), Shape::from((lq.dims()[0], self.heads * self.cache.head_dim))))
    }
}

/// `len` tokens of `row` from its `from`-th on, for all query heads that share key head `head`.
struct Task<'a> {
    row: &'a Rows<'a>,
    from: usize,
    len: usize,
    head: usize,
}

struct Input<'a, E> {
    qkv: &'a [f32],
    keys: &'a [E],
    values: &'a [E],
    columns: usize,
}

/// Where tasks write. Each writes the (token, head) cells of its own tile, and no two tiles share a cell.
struct Target(*mut f32);
// SAFETY: see above; the buffer outlives the tasks, which end before `cpu_fwd` returns it.
#[allow(unsafe_code)]
unsafe impl Sync for Target {}

/// Queries computed together: with 32 keys they keep 8 vector accumulators busy.
const QUAD: usize = 4;

impl Attend<'_> {
    fn all<E: Element>(&self, input: &Input<'_, E>) -> Vec<f32> {
        let width = self.heads * self.cache.head_dim;
        let mut out = vec![0f32; input.qkv.len() / input.columns * width];
        let mut tasks = Vec::new();
        let mut work = 0;
        for row in self.rows {
            let last = row.start + row.len;
            work += row.len * (last - self.sight.first(row.start)) * width;
            for from in (0..row.len).step_by(TILE) {
                let len = TILE.min(row.len - from);
                tasks.extend((0..self.cache.heads).map(|head| Task { row, from, len, head }));
            }
        }
        let target = Target(out.as_mut_ptr());
        match work < SERIAL {
            true => tasks.iter().for_each(|task| self.tile(input, task, &target)),
            false => tasks.par_iter().for_each(|task| self.tile(input, task, &target)),
        }
        out
    }

    fn tile<E: Element>(&self, input: &Input<'_, E>, task: &Task<'_>, target: &Target) {
        let dim = self.cache.head_dim;
        let group = self.heads / self.cache.heads;
        let queries = task.len * group;
        let padded = queries.next_multiple_of(QUAD);
        let mut state = State::new(padded, dim);
        for i in 0..queries {
            let (token, head) = (task.row.first + task.from + i / group, task.head * group + i % group);
            let q = &input.qkv[token * input.columns + head * dim..][..dim];
            for (s, &v) in state.q[i * dim..][..dim].iter_mut().zip(q) {
                *s = v * self.sight.scale;
            }
            let position = task.row.start + task.from + i / group;
            state.seen[i] = (self.sight.first(position), position + 1);
        }
        let (first, last) = (task.row.start + task.from, task.row.start + task.from + task.len);
        let blocks = self.sight.first(first) / KvCache::BLOCK..last.div_ceil(KvCache::BLOCK);
        for (at, &block) in blocks.clone().zip(&task.row.table[blocks]) {
            let size = E::cell(dim);
            let cell = (block as usize * self.cache.heads + task.head) * size;
            E::widen(&input.keys[cell..][..size], true, &mut state.k);
            E::widen(&input.values[cell..][..size], false, &mut state.v);
            absorb(&mut state, at * KvCache::BLOCK, dim);
        }
        for i in 0..queries {
            let (token, head) = (task.row.first + task.from + i / group, task.head * group + i % group);
            let norm = state.sum[i].recip();
            #[allow(unsafe_code)]
            // SAFETY: `token` and `head` are in bounds (checked by `paged_attention`), and this task alone
            // writes this cell.
            let cell = unsafe {
                std::slice::from_raw_parts_mut(target.0.add((token * self.heads + head) * dim), dim)
            };
            for (out, &v) in cell.iter_mut().zip(&state.acc[i * dim..][..dim]) {
                *out = v * norm;
            }
        }
    }
}

/// What a tile carries from one block of keys to the next.
struct State {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Weighted sum of values, (queries, dim).
    acc: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
    /// First position that each query sees, and the one behind its last.
    seen: Vec<(usize, usize)>,
}

impl State {
    fn new(queries: usize, dim: usize) -> Self {
        let zeros = |n: usize| vec![0f32; n];
        State {
            q: zeros(queries * dim),
            k: zeros(dim * KvCache::BLOCK),
            v: zeros(dim * KvCache::BLOCK),
            acc: zeros(queries * dim),
            max: vec![f32::NEG_INFINITY; queries],
            sum: zeros(queries),
            seen: vec![(0, 1); queries],
        }
    }
}

multiversion! {
    /// Takes one block of keys, at positions `base` and up, into the running sums.
    fn absorb(state: &mut State, base: usize, dim: usize) = absorb_body
}

#[inline(always)]
fn absorb_body(state: &mut State, base: usize, dim: usize) {
    for quad in 0..state.max.len() / QUAD {
        let at = quad * QUAD;
        let mut scores = score_quad(&state.q[at * dim..][..QUAD * dim], &state.k, dim);
        let mut shrink = [1f32; QUAD];
        for i in 0..QUAD {
            // Padding queries see the first position at most; their sums are never read.
            let (from, to) = state.seen[at + i];
            let within = |p: usize| p.saturating_sub(base).min(KvCache::BLOCK);
            scores[i][..within(from)].fill(f32::NEG_INFINITY);
            scores[i][within(to)..].fill(f32::NEG_INFINITY);
            let top = scores[i].iter().fold(state.max[at + i], |a, &b| if b > a { b } else { a });
            if top == f32::NEG_INFINITY {
                scores[i].fill(0.0);
                continue;
            }
            shrink[i] = exp(state.max[at + i] - top);
            state.max[at + i] = top;
            let mut sum = 0f32;
            for s in &mut scores[i] {
                *s = exp(*s - top);
            }
            for s in scores[i] {
                sum += s;
            }
            state.sum[at + i] = state.sum[at + i].mul_add(shrink[i], sum);
        }
        weigh_quad(&scores, &shrink, &state.v, &mut state.acc[at * dim..][..QUAD * dim], dim);
    }
}

#[inline(always)]
fn score_quad(q: &[f32], keys: &[f32], dim: usize) -> [[f32; KvCache::BLOCK]; QUAD] {
    let mut scores = [[0f32; KvCache::BLOCK]; QUAD];
    for (d, keys) in keys.as_chunks::<{ KvCache::BLOCK }>().0.iter().enumerate() {
        for i in 0..QUAD {
            let q = q[i * dim + d];
            for (s, &k) in scores[i].iter_mut().zip(keys) {
                *s = q.mul_add(k, *s);
            }
        }
    }
    scores
}

/// Dimensions summed in registers at a time.
const SPAN: usize = 32;

#[inline(always)]
fn weigh_quad(
    weights: &[[f32; KvCache::BLOCK]; QUAD],
    shrink: &[f32; QUAD],
    values: &[f32],
    acc: &mut [f32],
    dim: usize,
) {
    let mut from = 0;
    while from + SPAN <= dim {
        let mut sums = [[0f32; SPAN]; QUAD];
        for i in 0..QUAD {
            for (s, &a) in sums[i].iter_mut().zip(&acc[i * dim + from..][..SPAN]) {
                *s = a * shrink[i];
            }
        }
        for j in 0..KvCache::BLOCK {
            let value = &values[j * dim + from..][..SPAN];
            for i in 0..QUAD {
                let w = weights[i][j];
                for (s, &v) in sums[i].iter_mut().zip(value) {
                    *s = w.mul_add(v, *s);
                }
            }
        }
        for i in 0..QUAD {
            acc[i * dim + from..][..SPAN].copy_from_slice(&sums[i]);
        }
        from += SPAN;
    }
    for d in from..dim {
        for i in 0..QUAD {
            let mut sum = acc[i * dim + d] * shrink[i];
            for (j, w) in weights[i].iter().enumerate() {
                sum = w.mul_add(values[j * dim + d], sum);
            }
            acc[i * dim + d] = sum;
        }
    }
}
