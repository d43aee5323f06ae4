//! Paged attention out of candle's operations, for devices without kernels of ours.

use candle_core::{DType, Result, Tensor};

use super::{KvCache, Rows, Sight};
use crate::ops::attention::composed::attend;

/// [`paged_attention`](super::paged_attention) out of candle's operations, a sequence at a time; tokens of no row get zeros.
pub(super) fn attention(
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
        let k = gather(cache, keys, &table, seen)?.permute((1, 2, 0))?.to_dtype(DType::F32)?;
        let v = gather(cache, values, &table, seen)?.transpose(0, 1)?.to_dtype(DType::F32)?;
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

/// The first `len` positions of a sequence in a layer's keys or values, (len, heads, head_dim) f16.
fn gather(cache: &KvCache, layer: &Tensor, table: &Tensor, len: usize) -> Result<Tensor> {
    let blocks = layer.reshape((cache.blocks, KvCache::BLOCK * cache.heads * cache.head_dim))?;
    let rows = blocks.index_select(table, 0)?;
    rows.reshape((table.dim(0)? * KvCache::BLOCK, cache.heads, cache.head_dim))?.narrow(0, 0, len)
}
