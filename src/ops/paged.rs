//! The key-value cache in blocks, writing to it, and attention straight over it.
//!
//! Layout of a layer's cache, f16, `B` blocks of `S` positions, `H` key-value heads of `D` dimensions:
//!
//! | tensor | shape | why |
//! |---|---|---|
//! | keys on the CPU | (B, H, D, S) | a query times one block's keys is `D` broadcasts over `S` adjacent lanes, no sums across lanes |
//! | values on the CPU | (B, H, S, D) | the weighted sum of values is `S` broadcasts over `D` adjacent lanes |
//! | both on a device | (B S, H D) | a token is one row, which candle's operations write and gather by its slot |
//!
//! On the CPU attention is computed a block of keys at a time with a running maximum (Milakov and Gimelshein 2018; Dao et
//! al. 2022), all query heads that share a key-value head together, so that each block is widened to f32 once.

use candle_core::{CpuStorage, CustomOp3, DType, Device, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::attention::composed::attend;
use super::cpu;
use super::multi::{exp, f32s, multiversion};

/// Keys and values of every layer.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    form: Form,
    blocks: usize,
    heads: usize,
    head_dim: usize,
}

/// How a layer lies in memory: the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Cells,
    Rows,
}

impl KvCache {
    /// Positions a block holds: two AVX-512 vectors of scores.
    pub const BLOCK: usize = 32;

    /// Room for `blocks` blocks. On the CPU its pages take memory only once they are written.
    pub fn new(layers: usize, blocks: usize, heads: usize, head_dim: usize, device: &Device) -> Result<Self> {
        let count = [heads, head_dim, Self::BLOCK].iter().try_fold(blocks, |n, &d| n.checked_mul(d));
        let Some(count) = count.filter(|&n| n > 0) else {
            bail!("a key-value cache of {blocks} blocks, {heads} heads of {head_dim} cannot be");
        };
        let form = if cpu::serves(device) { Form::Cells } else { Form::Rows };
        let layer = || -> Result<(Tensor, Tensor)> {
            // Zeros of the system's; candle would write each.
            let zeros = || {
                let mut zeros = bytemuck::allocation::zeroed_vec::<f16>(count);
                crate::device::take_pages_singly(bytemuck::cast_slice_mut(&mut zeros));
                zeros
            };
            let rows = || Tensor::zeros((blocks * Self::BLOCK, heads * head_dim), DType::F16, device);
            match form {
                Form::Cells => Ok((
                    Tensor::from_vec(zeros(), (blocks, heads, head_dim, Self::BLOCK), device)?,
                    Tensor::from_vec(zeros(), (blocks, heads, Self::BLOCK, head_dim), device)?,
                )),
                Form::Rows => Ok((rows()?, rows()?)),
            }
        };
        let layers = (0..layers).map(|_| layer()).collect::<Result<_>>()?;
        Ok(KvCache { layers, form, blocks, heads, head_dim })
    }

    /// Bytes of one block in all layers, keys and values.
    pub fn block_bytes(layers: usize, heads: usize, head_dim: usize) -> u64 {
        (layers * heads * head_dim * Self::BLOCK * 2 * size_of::<f16>()) as u64
    }

    /// Stores the keys and values of new tokens. `qkv` (tokens, columns) f32 has queries, keys and values side
    /// by side; `first` is the column of the first key. `slots[t]` is `block * BLOCK + offset` for token `t`.
    pub fn write(&self, layer: usize, qkv: &Tensor, first: usize, slots: &[u32]) -> Result<()> {
        let (tokens, columns) = qkv.dims2()?;
        let width = self.heads * self.head_dim;
        if tokens != slots.len() || first + 2 * width > columns {
            bail!("kv write: {} slots and column {first} do not fit {:?}", slots.len(), qkv.shape());
        }
        if let Some(bad) = slots.iter().find(|&&s| s as usize >= self.blocks * Self::BLOCK) {
            bail!("kv write: slot {bad} is past the cache's {} blocks", self.blocks);
        }
        let Some((keys, values)) = self.layers.get(layer) else {
            bail!("kv write: no layer {layer}");
        };
        if self.form == Form::Rows {
            let at = Tensor::new(slots, qkv.device())?.unsqueeze(1)?;
            let at = at.broadcast_as((tokens, width))?.contiguous()?;
            let part = |from| qkv.narrow(1, from, width)?.to_dtype(DType::F16)?.contiguous();
            keys.scatter_set(&at, &part(first)?, 0)?;
            return values.scatter_set(&at, &part(first + width)?, 0);
        }
        let write = |first, transposed| Write { cache: self, first, transposed, slots };
        keys.inplace_op2(qkv, &write(first, true))?;
        values.inplace_op2(qkv, &write(first + width, false))
    }

    /// The first `len` positions of a sequence in a layer's keys or values, (len, heads, head_dim) f16.
    fn gather(&self, layer: &Tensor, table: &Tensor, len: usize) -> Result<Tensor> {
        let blocks = layer.reshape((self.blocks, Self::BLOCK * self.heads * self.head_dim))?;
        let rows = blocks.index_select(table, 0)?;
        rows.reshape((table.dim(0)? * Self::BLOCK, self.heads, self.head_dim))?.narrow(0, 0, len)
    }
}

struct Write<'a> {
    cache: &'a KvCache,
    first: usize,
    transposed: bool,
    slots: &'a [u32],
}

impl InplaceOp2 for Write<'_> {
    fn name(&self) -> &'static str {
        "kv_write"
    }

    fn cpu_fwd(&self, dst: &mut CpuStorage, _: &Layout, src: &CpuStorage, ls: &Layout) -> Result<()> {
        let CpuStorage::F16(dst) = dst else { bail!("kv write: the cache is not f16") };
        let src = f32s(src, ls, "kv write")?;
        let columns = src.len() / self.slots.len().max(1);
        let (heads, dim, block) = (self.cache.heads, self.cache.head_dim, KvCache::BLOCK);
        for (row, &slot) in src.chunks_exact(columns.max(1)).zip(self.slots) {
            let (at, offset) = (slot as usize / block, slot as usize % block);
            for h in 0..heads {
                let head = &row[self.first + h * dim..][..dim];
                let cell = &mut dst[(at * heads + h) * dim * block..][..dim * block];
                if self.transposed {
                    for (lane, &v) in cell.iter_mut().skip(offset).step_by(block).zip(head) {
                        *lane = f16::from_f32(v);
                    }
                } else {
                    cell[offset * dim..][..dim].convert_from_f32_slice(head);
                }
            }
        }
        Ok(())
    }
}

/// One sequence's share of a step's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows<'a> {
    /// Index of its first token among the step's.
    pub first: usize,
    /// Its tokens in this step.
    pub len: usize,
    /// Position of the first: keys before it are in the cache from earlier steps.
    pub start: usize,
    /// Blocks that hold positions 0, 32, 64, ...
    pub table: &'a [u32],
}

/// What a query sees besides its own position, and how scores are scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sight {
    /// Multiplies every product of query and key.
    pub scale: f32,
    /// Positions seen at most, the query's own included: it and the `window - 1` before. `None` sees all before.
    pub window: Option<usize>,
}

impl Sight {
    /// The first position that a query at `position` sees.
    fn first(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Causal attention of each row's tokens over the positions up to their own that `sight` leaves, whose keys and
/// values have been written. `qkv` (tokens, columns) f32 begins with `heads` query heads; gives (tokens,
/// heads * head_dim).
///
/// # Errors
/// Heads that do not group, rows outside the tokens, tables too short or outside the cache, a window of 0.
pub fn paged_attention(
    cache: &KvCache,
    layer: usize,
    qkv: &Tensor,
    heads: usize,
    sight: Sight,
    rows: &[Rows<'_>],
) -> Result<Tensor> {
    let (tokens, columns) = qkv.dims2()?;
    if sight.window == Some(0) {
        bail!("attention: a window of no position");
    }
    if heads == 0 || !heads.is_multiple_of(cache.heads) || heads * cache.head_dim > columns {
        bail!("attention: {heads} query heads on {} key heads in {columns} columns", cache.heads);
    }
    for row in rows {
        let blocks = (row.start + row.len).div_ceil(KvCache::BLOCK);
        if row.first + row.len > tokens || row.table.len() < blocks {
            bail!("attention: {row:?} does not fit {tokens} tokens");
        }
        if let Some(bad) = row.table.iter().find(|&&b| b as usize >= cache.blocks) {
            bail!("attention: block {bad} is past the cache's {}", cache.blocks);
        }
    }
    let Some((keys, values)) = cache.layers.get(layer) else { bail!("attention: no layer {layer}") };
    if cache.form == Form::Rows {
        return composed(cache, (keys, values), qkv, heads, sight, rows);
    }
    qkv.apply_op3_no_bwd(keys, values, &Attend { cache, heads, sight, rows })
}

/// [`paged_attention`] out of candle's operations, a sequence at a time; tokens of no row get zeros.
fn composed(
    cache: &KvCache,
    (keys, values): (&Tensor, &Tensor),
    qkv: &Tensor,
    heads: usize,
    sight: Sight,
    rows: &[Rows<'_>],
) -> Result<Tensor> {
    let (tokens, dim) = (qkv.dim(0)?, cache.head_dim);
    let out = Tensor::zeros((tokens, heads * dim), DType::F32, qkv.device())?;
    for row in rows.iter().filter(|r| r.len > 0) {
        let seen = row.start + row.len;
        let table = Tensor::new(&row.table[..seen.div_ceil(KvCache::BLOCK)], qkv.device())?;
        // Widened in the order that the products read: (key heads, dim, seen) and (key heads, seen, dim).
        let k = cache.gather(keys, &table, seen)?.permute((1, 2, 0))?.to_dtype(DType::F32)?;
        let v = cache.gather(values, &table, seen)?.transpose(0, 1)?.to_dtype(DType::F32)?;
        let q = qkv.narrow(0, row.first, row.len)?.narrow(1, 0, heads * dim)?;
        let q = q.reshape((row.len, heads, dim))?.transpose(0, 1)?;
        let attended = match sight.window {
            // The first query sees every earlier position and its own.
            None => attend(&q, &k, &v, sight.scale, Some(row.start.cast_signed() + 1))?,
            Some(_) => attend_windows(&q, &k, &v, sight, row.start)?,
        };
        let attended = attended.transpose(0, 1)?.reshape((row.len, heads * dim))?;
        out.slice_set(&attended, 0, row.first)?;
    }
    Ok(out)
}

/// Attention within a window, a query at a time: what it sees is a run of positions.
fn attend_windows(q: &Tensor, k: &Tensor, v: &Tensor, sight: Sight, start: usize) -> Result<Tensor> {
    let each = (0..q.dim(1)?).map(|i| {
        let (first, last) = (sight.first(start + i), start + i);
        let (k, v) = (k.narrow(2, first, last + 1 - first)?, v.narrow(1, first, last + 1 - first)?);
        attend(&q.narrow(1, i, 1)?, &k.contiguous()?, &v.contiguous()?, sight.scale, None)
    });
    Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 1)
}

struct Attend<'a> {
    cache: &'a KvCache,
    heads: usize,
    sight: Sight,
    rows: &'a [Rows<'a>],
}

/// Tokens of one row that a task takes: enough to pay for widening the keys, few enough to share out.
const TILE: usize = 16;
/// Multiply-adds below which a second thread costs more than it saves.
const SERIAL: usize = 1 << 20;

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
        let (CpuStorage::F16(keys), CpuStorage::F16(values)) = (keys, values) else {
            bail!("attention: the cache is not f16");
        };
        let tokens = lq.dims()[0];
        let width = self.heads * self.cache.head_dim;
        let mut out = vec![0f32; tokens * width];
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
        let run = |task: &Task<'_>| {
            let input = Input { qkv, keys, values, columns: lq.dims()[1] };
            self.tile(&input, task, &target);
        };
        match work < SERIAL {
            true => tasks.iter().for_each(run),
            false => tasks.par_iter().for_each(run),
        }
        Ok((CpuStorage::F32(out), Shape::from((tokens, width))))
    }
}

/// `len` tokens of `row` from its `from`-th on, for all query heads that share key head `head`.
struct Task<'a> {
    row: &'a Rows<'a>,
    from: usize,
    len: usize,
    head: usize,
}

struct Input<'a> {
    qkv: &'a [f32],
    keys: &'a [f16],
    values: &'a [f16],
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
    fn tile(&self, input: &Input<'_>, task: &Task<'_>, target: &Target) {
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
            let cell = (block as usize * self.cache.heads + task.head) * dim * KvCache::BLOCK;
            let size = dim * KvCache::BLOCK;
            input.keys[cell..][..size].convert_to_f32_slice(&mut state.k);
            input.values[cell..][..size].convert_to_f32_slice(&mut state.v);
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
