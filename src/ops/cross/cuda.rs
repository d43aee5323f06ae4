//! Slots on a GPU: what [`launch`](super::launch) describes, over tensors.

use candle_core::{DType, Result, Tensor, bail};
use half::f16;

use super::launch::{self, Attend, Look};
use super::{CrossCache, Span};
use crate::ops::gpu::cuda::{address, in_fours, run, under, unset};

/// One layer of a slot, keys and values in halves.
#[derive(Debug)]
pub(super) struct Cells {
    keys: Tensor,
    values: Tensor,
}

impl Cells {
    /// From keys beside values, (length, 2 heads DIM) f32.
    pub fn new(kv: &Tensor, heads: usize) -> Result<Cells> {
        let (device, length, kv) = (under(kv)?, kv.dim(0)?, kv.contiguous()?);
        if kv.dtype() != DType::F32 || kv.dim(1)? != 2 * heads * launch::DIM {
            bail!("cross write: {heads} heads of {:?} {:?}", kv.dtype(), kv.shape());
        }
        let room = || unset::<f16>(device, launch::cells(heads, length));
        let cells = Cells { keys: room()?, values: room()? };
        run(device, &[launch::place(address(&kv)?, length, heads, cells.at()?)])?;
        Ok(cells)
    }

    fn at(&self) -> Result<(u64, u64)> {
        Ok((address(&self.keys)?, address(&self.values)?))
    }

    fn look(&self, span: Span) -> Result<Look> {
        let (keys, values) = self.at()?;
        Ok(Look { keys, values, first: span.first, len: span.len })
    }
}

/// Rows and what they look at; the kernels want queries that lie as they read them.
fn of<R>(
    cache: &CrossCache,
    q: &Tensor,
    scale: f32,
    looks: &[(&Cells, Span)],
    f: impl FnOnce(Attend<'_>) -> Result<R>,
) -> Result<R> {
    let q = if in_fours(&[q]) { q.clone() } else { q.to_dtype(DType::F32)?.force_contiguous()? };
    let looks = looks.iter().map(|(cells, span)| cells.look(*span)).collect::<Result<Vec<_>>>()?;
    let (heads, length) = (cache.heads, cache.length);
    f(Attend { q: address(&q)?, heads, length, scale, looks: &looks })
}

/// [`CrossCache::attend`], whose arguments have been checked.
pub(super) fn attend(cache: &CrossCache, q: &Tensor, scale: f32, looks: &[(&Cells, Span)]) -> Result<Tensor> {
    let device = under(q)?;
    let out = unset::<f32>(device, q.shape())?;
    of(cache, q, scale, looks, |attend| {
        let partial = unset::<f32>(device, attend.partial_len().max(1))?;
        run(device, &attend.launches(address(&out)?, address(&partial)?))
    })?;
    Ok(out)
}

/// [`CrossCache::weights`], whose arguments have been checked.
pub(super) fn weights(
    cache: &CrossCache,
    q: &Tensor,
    scale: f32,
    look: (&Cells, Span),
    wanted: &[usize],
    keys: usize,
) -> Result<Vec<f32>> {
    let (device, count) = (under(q)?, wanted.len() * look.1.len * keys);
    if count == 0 {
        return Ok(Vec::new());
    }
    let out = unset::<f32>(device, count)?;
    of(cache, q, scale, &[look], |attend| run(device, &attend.weights(wanted, keys, address(&out)?)))?;
    out.to_vec1()
}
