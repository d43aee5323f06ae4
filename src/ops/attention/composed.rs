//! Attention out of candle's operations, on any device.

use candle_core::{Result, Tensor};

use super::Mask;
use crate::ops::softmax;

/// Scores held at a time, 256 MiB in f32; a call with more goes over its queries in several passes.
const SCORES: usize = 64 << 20;

/// [`attention`](super::attention) a batch row at a time: each has its own number of keys.
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    scale: f32,
    mask: Mask,
) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    let by_head = |t: &Tensor, b: usize, len: usize| -> Result<Tensor> {
        let row = t.narrow(0, b, 1)?.narrow(1, 0, len)?;
        row.reshape((len, heads, width / heads))?.transpose(0, 1)?.contiguous()
    };
    let mut rows = Vec::with_capacity(batch);
    for b in 0..batch {
        let keys = mask.kv_lens.map_or(keys, |lens| lens[b]);
        if keys == 0 {
            rows.push(Tensor::zeros((queries, width), q.dtype(), q.device())?);
            continue;
        }
        let (q, k, v) = (by_head(q, b, queries)?, by_head(k, b, keys)?, by_head(v, b, keys)?);
        // Lengths of allocated rows: each is below `isize::MAX`.
        let first = mask.causal.then(|| (keys + 1) as isize - queries as isize);
        let out = attend(&q, &k.t()?, &v, scale, first)?;
        rows.push(out.transpose(0, 1)?.reshape((queries, width))?);
    }
    Tensor::stack(&rows, 0)
}

/// [`attention_varlen`](super::attention_varlen) a row at a time.
pub(super) fn varlen(
    qkv: &Tensor,
    starts: &[usize],
    heads: usize,
    width: usize,
    scale: f32,
) -> Result<Tensor> {
    let mut parts = Vec::new();
    for w in starts.windows(2).filter(|w| w[0] < w[1]) {
        let row = qkv.narrow(0, w[0], w[1] - w[0])?.unsqueeze(0)?;
        let part = |i: usize| row.narrow(2, i * width, width);
        let out = attention(&part(0)?, &part(1)?, &part(2)?, heads, scale, Mask::default())?;
        parts.push(out.squeeze(0)?);
    }
    if parts.is_empty() { qkv.narrow(1, 0, width) } else { Tensor::cat(&parts, 0) }
}

/// `softmax(q k scale) v`: `q` is `(heads, queries, dim)`, `k` `(key heads, dim, keys)`, `v` `(key heads, keys, dim)`;
/// neighbouring query heads share a key head. Gives the shape of `q`.
///
/// With `first`, query `i` sees the keys below `first + i`; one that sees none gives zeros. Without, all see all.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32, first: Option<isize>) -> Result<Tensor> {
    attend_within(SCORES, q, k, v, scale, first)
}

/// [`attend`] with at most `limit` scores at a time, or those of one query.
fn attend_within(
    limit: usize,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f32,
    first: Option<isize>,
) -> Result<Tensor> {
    let (heads, queries, _) = q.dims3()?;
    let pass = (limit / (heads * v.dim(1)?)).max(1);
    if queries <= pass {
        return attend_pass(q, k, v, scale, first);
    }
    let mut parts = Vec::new();
    for from in (0..queries).step_by(pass) {
        let q = q.narrow(1, from, pass.min(queries - from))?;
        parts.push(attend_pass(&q, k, v, scale, first.map(|first| first.saturating_add_unsigned(from)))?);
    }
    Tensor::cat(&parts, 1)
}

fn attend_pass(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32, first: Option<isize>) -> Result<Tensor> {
    let (heads, queries, dim) = q.dims3()?;
    let (key_heads, keys, _) = v.dims3()?;
    let shared = (key_heads, heads / key_heads * queries, dim);
    let scores = (q.contiguous()?.reshape(shared)?.matmul(k)? * f64::from(scale))?;
    let scores = match first {
        Some(first) if first < keys.cast_signed() => {
            let scores = scores.reshape((heads, queries, keys))?;
            scores.broadcast_add(&causal_bias(&scores, queries, keys, first)?)?
        }
        _ => scores,
    };
    let weights = softmax::composed(&scores)?.reshape((shared.0, shared.1, keys))?;
    weights.matmul(v)?.reshape((heads, queries, dim))
}

/// 0 where query `i` sees key `j < first + i`, -inf elsewhere: `(queries, keys)` in the type of `like`, on its device.
/// Only the keys that some query does not see are written here.
fn causal_bias(like: &Tensor, queries: usize, keys: usize, first: isize) -> Result<Tensor> {
    let open = first.max(0).cast_unsigned();
    let seen = |i: usize| first.saturating_add_unsigned(i).max(0).cast_unsigned();
    let rest: Vec<f32> = (0..queries)
        .flat_map(|i| (open..keys).map(move |j| if j < seen(i) { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    let rest = Tensor::from_vec(rest, (queries, keys - open), like.device())?.to_dtype(like.dtype())?;
    match open {
        0 => Ok(rest),
        _ => Tensor::cat(&[Tensor::zeros((queries, open), like.dtype(), like.device())?, rest], 1),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{assert_close, noise};

    /// Query heads in groups, in one pass and in several.
    #[test]
    fn passes_and_groups_change_nothing() {
        let (key_heads, group, queries, keys, dim) = (2, 3, 7, 11, 5);
        let make = |seed, shape: (usize, usize, usize)| {
            Tensor::from_vec(noise(shape.0 * shape.1 * shape.2, seed), shape, &Device::Cpu).unwrap()
        };
        let q = make(1, (key_heads * group, queries, dim));
        let (k, v) = (make(2, (key_heads, dim, keys)), make(3, (key_heads, keys, dim)));
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (first, limit) in [(None, SCORES), (Some(5), SCORES), (Some(-2), 200), (Some(4), 1)] {
            let all = attend_within(limit, &q, &k, &v, 0.4, first).unwrap();
            for head in 0..key_heads * group {
                for i in 0..queries {
                    let one = q.narrow(0, head, 1).unwrap().narrow(1, i, 1).unwrap();
                    let (k, v) =
                        (k.narrow(0, head / group, 1).unwrap(), v.narrow(0, head / group, 1).unwrap());
                    let alone = attend_pass(&one, &k, &v, 0.4, first.map(|f| f + i as isize)).unwrap();
                    let together = all.narrow(0, head, 1).unwrap().narrow(1, i, 1).unwrap();
                    assert_close(&flat(&together), &flat(&alone), 1e-6);
                    if first.is_some_and(|f| f + i as isize <= 0) {
                        assert_close(&flat(&together), &[0.0; 5], 0.0);
                    }
                }
            }
        }
    }
}
