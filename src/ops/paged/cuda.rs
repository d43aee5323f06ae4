//! The cache and attention on a GPU: what [`launch`](super::launch) describes, over tensors.

use candle_core::{CpuStorage, CudaStorage, Device, InplaceOp1, Layout, Result, Tensor, bail};

use super::launch::{self, Attend, CacheAt, HeadsAt, StepAt};
use super::{KvCache, Projection, Rows, Sight};
use crate::ops::gpu::{Address, cuda};

/// A step's tokens in the GPU's memory, in one tensor of u32: tokens, positions, slots, three numbers of each row, the
/// rows in the order of their lengths, their tables.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    all: Tensor,
    tokens: usize,
    /// Tokens of each row, ascending.
    lengths: Vec<u32>,
    /// Blocks of a table.
    width: usize,
}

impl Placed {
    /// Without the tokens themselves.
    pub fn new(rows: &[Rows<'_>], positions: &[u32], slots: &[u32], device: &Device) -> Result<Self> {
        let count = rows.iter().map(|r| r.first + r.len).max().unwrap_or(0).max(slots.len());
        let mut zeros = [positions.to_vec(), slots.to_vec()];
        zeros.iter_mut().for_each(|values| values.resize(count, 0));
        Self::with_tokens(&vec![0; count], rows, &zeros[0], &zeros[1], device)
    }

    /// Everything; the slices are of one length.
    pub fn with_tokens(
        tokens: &[u32],
        rows: &[Rows<'_>],
        positions: &[u32],
        slots: &[u32],
        device: &Device,
    ) -> Result<Self> {
        let width = rows.iter().map(|r| (r.start + r.len).div_ceil(KvCache::BLOCK)).max().unwrap_or(0).max(1);
        let (all, lengths) = gather([tokens, positions, slots], rows, width);
        let count = all.len();
        Ok(Placed { all: Tensor::from_vec(all, count, device)?, tokens: tokens.len(), lengths, width })
    }

    /// Rows of a token each, with tables of `width` blocks, to be [filled](Self::fill): all of nobody now.
    pub fn steady(rows: usize, width: usize, cache: &KvCache, device: &Device) -> Result<Self> {
        let (all, lengths) = filled_up([&[], &[], &[]], &[], (rows, width), cache);
        let count = all.len();
        Ok(Placed { all: Tensor::from_vec(all, count, device)?, tokens: rows, lengths, width })
    }

    /// Fills a steady step in.
    pub fn fill(
        &self,
        tokens: &[u32],
        positions: &[u32],
        slots: &[u32],
        tables: &[&[u32]],
        cache: &KvCache,
    ) -> Result<()> {
        let count = tokens.len();
        if count > self.tokens || positions.len() != count || slots.len() != count || tables.len() != count {
            bail!("{count} tokens do not fit a step of {}", self.tokens);
        }
        let past = slots.iter().any(|s| *s as usize >= cache.blocks * KvCache::BLOCK);
        let fits = |(table, position): (&&[u32], &u32)| {
            let needed = *position as usize / KvCache::BLOCK;
            needed < table.len()
                && table.len() <= self.width
                && table.iter().all(|b| (*b as usize) < cache.blocks)
        };
        if past || !tables.iter().zip(positions).all(fits) {
            bail!("a step's tables and slots do not fit a cache of {} blocks", cache.blocks);
        }
        let (all, _) = filled_up([tokens, positions, slots], tables, (self.tokens, self.width), cache);
        self.all.inplace_op1(&Overwrite(&all))
    }

    fn at(&self, index: usize) -> Result<Address> {
        Ok(cuda::address(&self.all)? + (index * size_of::<u32>()) as u64)
    }

    /// Where the tokens lie.
    pub fn tokens(&self) -> Result<Address> {
        self.at(0)
    }

    fn order(&self) -> Result<Address> {
        self.at(3 * self.tokens + 3 * self.lengths.len())
    }

    fn step(&self) -> Result<StepAt> {
        Ok(StepAt {
            positions: self.at(self.tokens)?,
            slots: self.at(2 * self.tokens)?,
            rows: self.at(3 * self.tokens)?,
            tables: self.at(3 * self.tokens + 4 * self.lengths.len())?,
            width: self.width as u32,
            unused: 0,
        })
    }
}

/// What [`Placed`] holds of these rows, and their lengths, ascending.
fn gather(parts: [&[u32]; 3], rows: &[Rows<'_>], width: usize) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    order.sort_by_key(|r| rows[*r as usize].len);
    let lengths = order.iter().map(|r| rows[*r as usize].len as u32).collect();
    let mut all = parts.concat();
    all.extend(rows.iter().flat_map(|r| [r.first, r.len, r.start].map(|n| n as u32)));
    all.extend(order);
    for row in rows {
        let table = &row.table[..row.table.len().min(width)];
        all.extend(table);
        all.extend(std::iter::repeat_n(0, width - table.len()));
    }
    (all, lengths)
}

/// The same for rows of a token each, and as many more as make `rows` of them: those write to and see the block behind
/// the cache's.
fn filled_up(
    parts: [&[u32]; 3],
    tables: &[&[u32]],
    (rows, width): (usize, usize),
    cache: &KvCache,
) -> (Vec<u32>, Vec<u32>) {
    let nobodys = [cache.blocks as u32];
    let [tokens, positions, slots] = parts.map(<[u32]>::to_vec);
    let mut parts = [tokens, positions, slots];
    for (part, value) in parts.iter_mut().zip([0, 0, nobodys[0] * KvCache::BLOCK as u32]) {
        part.resize(rows, value);
    }
    let row = |i: usize| Rows {
        first: i,
        len: 1,
        start: parts[1][i] as usize,
        table: tables.get(i).copied().unwrap_or(&nobodys),
    };
    let all: Vec<Rows<'_>> = (0..rows).map(row).collect();
    gather([&parts[0], &parts[1], &parts[2]], &all, width)
}

/// Puts these values in place of a tensor's own.
struct Overwrite<'a>(&'a [u32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("a tensor of the GPU is needed")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        if layout.shape().elem_count() != self.0.len() || layout.start_offset() != 0 {
            bail!("{} values in place of {:?}", self.0.len(), layout.shape());
        }
        let device = storage.device.clone();
        device.memcpy_htod(self.0, storage.as_cuda_slice_mut::<u32>()?)
    }
}

fn cache_at(cache: &KvCache, layer: usize) -> Result<CacheAt> {
    let Some((keys, values)) = cache.layers.get(layer) else { bail!("no layer {layer} of the cache") };
    Ok(CacheAt {
        keys: cuda::address(keys)?,
        values: cuda::address(values)?,
        heads: cache.heads as u32,
        unused: 0,
    })
}

/// [`Step::place`](super::Step::place).
pub(super) fn place(
    placed: &Placed,
    qkv: &Tensor,
    by: Projection<'_>,
    cache: &KvCache,
    layer: usize,
) -> Result<()> {
    let (tokens, columns) = qkv.dims2()?;
    let dim = cache.head_dim;
    let turned = by.rope.map(|rope| rope.at()).transpose()?;
    if tokens != placed.tokens || (by.heads + 2 * cache.heads) * dim > columns {
        bail!("{} heads for {} tokens do not fit {:?}", by.heads, placed.tokens, qkv.shape());
    }
    if turned.as_ref().is_some_and(|t| 2 * t.pairs > dim) {
        bail!("rotations are of more than {dim} dimensions");
    }
    let norm = |norm: Option<&Tensor>| norm.map_or(Ok(0), cuda::address);
    let heads = HeadsAt {
        queries: by.heads as u32,
        columns: columns as u32,
        query_norm: norm(by.norms.map(|n| n.0))?,
        key_norm: norm(by.norms.map(|n| n.1))?,
        eps: by.eps,
        unused: 0,
        cosines: turned.as_ref().map_or(0, |t| t.cosines),
        sines: turned.as_ref().map_or(0, |t| t.sines),
        pairs: turned.as_ref().map_or(0, |t| t.pairs as u32),
        interleaved: turned.as_ref().is_some_and(|t| t.interleaved).into(),
    };
    let cache = cache_at(cache, layer)?;
    let launch = launch::place(&heads, (&cache, dim), &placed.step()?, tokens, cuda::address(qkv)?)?;
    cuda::run(cuda::under(qkv)?, &[launch])
}

/// [`KvCache::write`]: keys from column `first` on, as they are.
pub(super) fn write(cache: &KvCache, layer: usize, qkv: &Tensor, first: usize, slots: &[u32]) -> Result<()> {
    if !first.is_multiple_of(cache.head_dim) {
        bail!("kv write: keys from column {first} on, in heads of {}", cache.head_dim);
    }
    let placed = Placed::new(&[], &[], slots, qkv.device())?;
    let by = Projection { heads: first / cache.head_dim, norms: None, eps: 0.0, rope: None };
    place(&placed, qkv, by, cache, layer)
}

/// [`paged_attention`](super::paged_attention), whose arguments have been checked.
pub(super) fn attention(
    cache: &KvCache,
    layer: usize,
    qkv: &Tensor,
    heads: usize,
    sight: Sight,
    placed: &Placed,
) -> Result<Tensor> {
    let device = cuda::under(qkv)?;
    let (tokens, columns) = qkv.dims2()?;
    let out = match placed.lengths.iter().sum::<u32>() as usize == tokens {
        true => cuda::unset::<f32>(device, (tokens, heads * cache.head_dim))?,
        // Tokens of no row get zeros.
        false => Tensor::zeros((tokens, heads * cache.head_dim), candle_core::DType::F32, qkv.device())?,
    };
    let (at, step) = (cache_at(cache, layer)?, placed.step()?);
    let attend = Attend {
        qkv: cuda::address(qkv)?,
        columns,
        heads,
        head_dim: cache.head_dim,
        cache: &at,
        step: &step,
        scale: sight.scale,
        window: sight.window,
        out: cuda::address(&out)?,
        lengths: &placed.lengths,
        order: placed.order()?,
    };
    let partial = cuda::unset::<f32>(device, attend.partial_len(tokens).max(1))?;
    cuda::run(device, &attend.launches(cuda::address(&partial)?)?)?;
    Ok(out)
}
