//! Attention on a GPU: what [`launch`](super::launch) describes, over tensors.

use candle_core::{DType, Result, Tensor};

use super::launch::{self, Tensors};
use super::{Mask, batched, ragged, strides};
use crate::ops::gpu::cuda::{address, of, run, start, unset};

/// [`attention`](super::attention), whose arguments have been checked; `None` for what no kernel takes.
pub(super) fn attention(all: [&Tensor; 3], heads: usize, scale: f32, mask: Mask) -> Result<Option<Tensor>> {
    let [q, k, v] = all;
    let (Some(device), width) = (of(q.device()), q.dim(2)?) else { return Ok(None) };
    let rows = |t: &Tensor| strides(t.layout(), "").ok().filter(|_| t.dtype() == DType::F32);
    let (Some((qb, qt)), Some((kb, kt)), Some((vb, vt))) = (rows(q), rows(k), rows(v)) else {
        return Ok(None);
    };
    let spans = batched(q, k.dim(1)?, mask, (qb, kb, vb))?;
    let out = unset::<f32>(device, q.shape())?;
    let tensors =
        Tensors { q: (start(q)?, qt), k: (start(k)?, kt), v: (start(v)?, vt), out: (address(&out)?, width) };
    let launches = launch::launches(&tensors, &spans, (heads, width / heads), scale, mask.causal);
    launches.map(|launches| run(device, &launches).map(|()| out)).transpose()
}

/// [`attention_varlen`](super::attention_varlen), whose arguments have been checked; `None` for what no kernel takes.
pub(super) fn varlen(qkv: &Tensor, starts: &[usize], heads: usize, scale: f32) -> Result<Option<Tensor>> {
    let Some(device) = of(qkv.device()) else { return Ok(None) };
    let (tokens, three) = qkv.dims2()?;
    if qkv.dtype() != DType::F32 || !qkv.is_contiguous() || tokens == 0 {
        return Ok(None);
    }
    let width = three / 3;
    let out = unset::<f32>(device, (tokens, width))?;
    let from = address(qkv)?;
    let part = |i: usize| (from + (i * width * size_of::<f32>()) as u64, three);
    let tensors = Tensors { q: part(0), k: part(1), v: part(2), out: (address(&out)?, width) };
    let launches = launch::launches(&tensors, &ragged(starts, width), (heads, width / heads), scale, false);
    launches.map(|launches| run(device, &launches).map(|()| out)).transpose()
}
