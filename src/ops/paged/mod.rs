//! The key-value cache in blocks, writing to it, and attention straight over it.
//!
//! Layout of a layer's cache, `B` blocks of `S` positions, `H` key-value heads of `D` dimensions:
//!
//! | tensor | shape | why |
//! |---|---|---|
//! | keys on the CPU | (B, H, D, S) | a query times one block's keys is `D` broadcasts over `S` adjacent lanes, no sums across lanes |
//! | values on the CPU | (B, H, S, D) | the weighted sum of values is `S` broadcasts over `D` adjacent lanes |
//! | keys on a GPU | (B, H, S, D) | 8 dimensions of a position are 16 bytes, a lane's share of a product of the tensor cores |
//! | values on a GPU | (B, H, D, S) | so are 8 positions of a dimension |
//! | both elsewhere | (B S, H D) | a token is one row, which candle's operations write and gather by its slot |
//!
//! A pair of a block and a head is a *cell*. On the CPU it is of any [`KvType`] ([`cells`]); on a device of f16. A GPU's
//! cache has one block more than it is asked for, for the rows that fill a [step](Step) up.

mod attend;
mod cells;
mod composed;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(test, feature = "cuda"))]
mod launch;
mod step;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::f16;

use self::attend::Attend;
use self::cells::{Element, Write};
pub use self::step::{Projection, SteadyStep, Step};
use super::cpu;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    F32,
    #[default]
    F16,
    /// 8 bits a number and a scale for each position and head: half of f16 and a little.
    Q8,
}

/// Keys and values of every layer.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    form: Form,
    kind: KvType,
    blocks: usize,
    heads: usize,
    head_dim: usize,
}

/// How a layer lies in memory: the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Cells,
    /// Cells of halves for the kernels of a GPU.
    #[cfg(feature = "cuda")]
    Halves,
    Rows,
}

impl Form {
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    fn of(device: &Device, head_dim: usize) -> Self {
        #[cfg(feature = "cuda")]
        if device.is_cuda() && launch::serves(head_dim) {
            return Form::Halves;
        }
        if cpu::serves(device) { Form::Cells } else { Form::Rows }
    }
}

impl KvCache {
    /// Positions a block holds: two AVX-512 vectors of scores.
    pub const BLOCK: usize = 32;

    /// Room for `blocks` blocks. On the CPU its pages take memory only once they are written.
    ///
    /// # Errors
    /// No blocks, heads or dimensions, or more than can be addressed.
    pub fn new(
        kind: KvType,
        layers: usize,
        blocks: usize,
        (heads, head_dim): (usize, usize),
        device: &Device,
    ) -> Result<Self> {
        let count = [heads, head_dim, Self::BLOCK, 8].iter().try_fold(blocks, |n, &d| n.checked_mul(d));
        if count.is_none_or(|n| n == 0) {
            bail!("a key-value cache of {blocks} blocks, {heads} heads of {head_dim} cannot be");
        }
        let (form, kind) = (Form::of(device, head_dim), Self::kept(kind, device));
        let part = || match (form, kind) {
            #[cfg(feature = "cuda")]
            (Form::Halves, _) => {
                Tensor::zeros((blocks + 1, heads * head_dim * Self::BLOCK), DType::F16, device)
            }
            (Form::Rows, _) => Tensor::zeros((blocks * Self::BLOCK, heads * head_dim), DType::F16, device),
            (Form::Cells, KvType::F32) => cells::zeros::<f32>(blocks, heads, head_dim),
            (Form::Cells, KvType::F16) => cells::zeros::<f16>(blocks, heads, head_dim),
            (Form::Cells, KvType::Q8) => cells::zeros::<u8>(blocks, heads, head_dim),
        };
        let layers = (0..layers).map(|_| Ok((part()?, part()?))).collect::<Result<_>>()?;
        Ok(KvCache { layers, form, kind, blocks, heads, head_dim })
    }

    /// What `kind` comes to on `device`.
    pub fn kept(kind: KvType, device: &Device) -> KvType {
        if cpu::serves(device) { kind } else { KvType::F16 }
    }

    /// How keys and values are kept.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// Bytes of one block in all layers, keys and values.
    pub fn block_bytes(kind: KvType, layers: usize, heads: usize, head_dim: usize) -> u64 {
        let cell = match kind {
            KvType::F32 => f32::cell(head_dim) * size_of::<f32>(),
            KvType::F16 => f16::cell(head_dim) * size_of::<f16>(),
            KvType::Q8 => u8::cell(head_dim),
        };
        2 * layers as u64 * heads as u64 * cell as u64
    }

    /// Copies whole blocks in every layer, one pair after the other: from, to.
    ///
    /// # Errors
    /// A block that is not there.
    pub fn copy(&self, pairs: &[(u32, u32)]) -> Result<()> {
        if let Some((from, to)) = pairs.iter().find(|(from, to)| (*from).max(*to) as usize >= self.blocks) {
            bail!("kv copy: from block {from} to {to} of {}", self.blocks);
        }
        for tensor in self.layers.iter().flat_map(|(keys, values)| [keys, values]) {
            match self.form {
                Form::Cells => tensor.inplace_op1(&cells::CopyBlocks { pairs, blocks: self.blocks })?,
                #[cfg(feature = "cuda")]
                Form::Halves => copy_rows(tensor, pairs, 1)?,
                Form::Rows => copy_rows(tensor, pairs, Self::BLOCK)?,
            }
        }
        Ok(())
    }

    /// Refuses rows that do not fit `tokens` or the cache.
    fn check(&self, rows: &[Rows<'_>], tokens: usize) -> Result<()> {
        for row in rows {
            let blocks = (row.start + row.len).div_ceil(Self::BLOCK);
            if row.first + row.len > tokens || row.table.len() < blocks {
                bail!("attention: {row:?} does not fit {tokens} tokens");
            }
            if let Some(bad) = row.table.iter().find(|&&b| b as usize >= self.blocks) {
                bail!("attention: block {bad} is past the cache's {}", self.blocks);
            }
        }
        Ok(())
    }

    /// Refuses slots that are not the cache's.
    fn check_slots(&self, slots: &[u32]) -> Result<()> {
        match slots.iter().find(|&&s| s as usize >= self.blocks * Self::BLOCK) {
            Some(bad) => bail!("kv write: slot {bad} is past the cache's {} blocks", self.blocks),
            None => Ok(()),
        }
    }

    /// Stores the keys and values of new tokens. `qkv` (tokens, columns) f32 has queries, keys and values side
    /// by side; `first` is the column of the first key. `slots[t]` is `block * BLOCK + offset` for token `t`.
    pub fn write(&self, layer: usize, qkv: &Tensor, first: usize, slots: &[u32]) -> Result<()> {
        let (tokens, columns) = qkv.dims2()?;
        let width = self.heads * self.head_dim;
        if tokens != slots.len() || first + 2 * width > columns {
            bail!("kv write: {} slots and column {first} do not fit {:?}", slots.len(), qkv.shape());
        }
        self.check_slots(slots)?;
        let Some((keys, values)) = self.layers.get(layer) else {
            bail!("kv write: no layer {layer}");
        };
        #[cfg(feature = "cuda")]
        if self.form == Form::Halves {
            return cuda::write(self, layer, qkv, first, slots);
        }
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

/// Copies so many rows at each pair's places.
fn copy_rows(tensor: &Tensor, pairs: &[(u32, u32)], rows: usize) -> Result<()> {
    for &(from, to) in pairs {
        let copied = tensor.narrow(0, from as usize * rows, rows)?.copy()?;
        tensor.slice_set(&copied, 0, to as usize * rows)?;
    }
    Ok(())
}

fn check_heads(cache: &KvCache, qkv: &Tensor, heads: usize, sight: Sight) -> Result<()> {
    let columns = qkv.dim(1)?;
    if sight.window == Some(0) {
        bail!("attention: a window of no position");
    }
    if heads == 0 || !heads.is_multiple_of(cache.heads) || heads * cache.head_dim > columns {
        bail!("attention: {heads} query heads on {} key heads in {columns} columns", cache.heads);
    }
    Ok(())
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
    check_heads(cache, qkv, heads, sight)?;
    cache.check(rows, qkv.dim(0)?)?;
    let Some((keys, values)) = cache.layers.get(layer) else { bail!("attention: no layer {layer}") };
    #[cfg(feature = "cuda")]
    if cache.form == Form::Halves {
        let placed = cuda::Placed::new(rows, &[], &[], qkv.device())?;
        return cuda::attention(cache, layer, qkv, heads, sight, &placed);
    }
    if cache.form == Form::Rows {
        return composed::attention(cache, (keys, values), qkv, heads, sight, rows);
    }
    qkv.apply_op3_no_bwd(keys, values, &Attend { cache, heads, sight, rows })
}
