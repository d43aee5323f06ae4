//! Attention of a decoder's tokens over what an encoder heard: keys and values of a fixed number of positions, kept
//! in slots, in halves.
//!
//! A slot's layer on the CPU, `H` heads of `D` dimensions over `T` positions in `P = ceil(T / 16)` panels:
//!
//! | array | shape | why |
//! |---|---|---|
//! | keys | (H, P, D, 16) | a query times 16 keys is `D` broadcasts over adjacent lanes, no sums across lanes |
//! | values | (H, T, D) | the weighted sum of values is `T` broadcasts over adjacent lanes |
//!
//! Rows that look at the same slot go together: the slot is read once for all of them. On a GPU, for heads of 64, both lie
//! in the paged cache's cells of 32 positions, (H, ceil(T / 32), 32, D) and (H, ceil(T / 32), D, 32). On any
//! other device keys lie as (H, D, T) and values as (H, T, D).

#![allow(unsafe_code)]

#[cfg(feature = "cuda")]
mod cuda;
mod host;
#[cfg(any(test, feature = "cuda"))]
mod launch;

use candle_core::{D, DType, Device, Result, Tensor, bail};

use self::host::Heard;
use super::cpu;

/// Keys and values of every layer, for as many encoded inputs as there are slots.
#[derive(Debug)]
pub struct CrossCache {
    slots: Vec<Slot>,
    layers: usize,
    heads: usize,
    dim: usize,
    length: usize,
    device: Device,
}

#[derive(Debug)]
enum Slot {
    Empty,
    Host(Vec<Heard>),
    #[cfg(feature = "cuda")]
    Cells(Vec<cuda::Cells>),
    Device(Vec<(Tensor, Tensor)>),
}

/// Adjacent rows that look at one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub slot: usize,
    /// Index of its first row among the step's.
    pub first: usize,
    pub len: usize,
}

impl CrossCache {
    /// Room for `slots` inputs of `length` positions; a slot takes memory when it is first written.
    ///
    /// # Errors
    /// A count of zero, or more than can be addressed.
    pub fn new(
        slots: usize,
        layers: usize,
        length: usize,
        (heads, dim): (usize, usize),
        device: &Device,
    ) -> Result<CrossCache> {
        let count = [layers, length, heads, dim, 16].iter().try_fold(slots, |n, &d| n.checked_mul(d));
        if count.is_none_or(|n| n == 0) {
            bail!(
                "no cache of {slots} slots, {layers} layers of {length} positions, {heads} heads of {dim} can be"
            );
        }
        let slots = (0..slots).map(|_| Slot::Empty).collect();
        Ok(CrossCache { slots, layers, heads, dim, length, device: device.clone() })
    }

    /// Bytes of one slot; on a GPU, whose values fill whole cells too, a little more.
    pub fn slot_bytes(layers: usize, length: usize, width: usize) -> u64 {
        let padded = length.next_multiple_of(host::PANEL);
        (layers * width * (padded + length) * size_of::<half::f16>()) as u64
    }

    /// How many inputs there is room for.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Whether the slot holds something.
    pub fn is_filled(&self, slot: usize) -> bool {
        !matches!(self.slots.get(slot), None | Some(Slot::Empty))
    }

    /// Gives every slot's memory back.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = Slot::Empty);
    }

    /// Fills a slot: for each layer in order, keys and values side by side, `(length, 2 * heads * dim)` f32.
    ///
    /// # Errors
    /// No such slot, or another shape.
    pub fn write(&mut self, slot: usize, layers: impl Iterator<Item = Result<Tensor>>) -> Result<()> {
        let width = self.heads * self.dim;
        if slot >= self.slots.len() {
            bail!("cross write: slot {slot} of {}", self.slots.len());
        }
        let old = std::mem::replace(&mut self.slots[slot], Slot::Empty);
        let mut new = self.room(old);
        let mut count = 0;
        for (layer, kv) in layers.enumerate() {
            let kv = kv?;
            if kv.dims() != [self.length, 2 * width] || layer >= self.layers {
                bail!("cross write: layer {layer} of shape {:?}", kv.shape());
            }
            match &mut new {
                Slot::Host(heard) => {
                    if heard.len() <= layer {
                        heard.push(Heard::new(self.heads, self.dim, self.length));
                    }
                    cpu::with(&kv, "cross write", |kv| {
                        heard[layer].fill(kv);
                        Ok(())
                    })?;
                }
                #[cfg(feature = "cuda")]
                Slot::Cells(cells) => cells.push(cuda::Cells::new(&kv, self.heads)?),
                Slot::Device(tensors) => {
                    let part = |from| kv.narrow(1, from, width)?.reshape((self.length, self.heads, self.dim));
                    let half = |t: Tensor| t.to_dtype(DType::F16)?.contiguous();
                    tensors.push((half(part(0)?.permute((1, 2, 0))?)?, half(part(width)?.transpose(0, 1)?)?));
                }
                Slot::Empty => bail!("cross write: slot {slot} has no room"),
            }
            count += 1;
        }
        if count != self.layers {
            bail!("cross write: {count} layers of {}", self.layers);
        }
        self.slots[slot] = new;
        Ok(())
    }

    /// Where a slot's layers go: on the CPU over those that it held.
    fn room(&self, old: Slot) -> Slot {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() && self.dim == launch::DIM {
            return Slot::Cells(Vec::new());
        }
        match old {
            Slot::Host(heard) if cpu::serves(&self.device) => Slot::Host(heard),
            _ if cpu::serves(&self.device) => Slot::Host(Vec::new()),
            _ => Slot::Device(Vec::new()),
        }
    }

    fn check(&self, q: &Tensor, layer: usize, spans: &[Span]) -> Result<usize> {
        let (rows, width) = q.dims2()?;
        if width != self.heads * self.dim || layer >= self.layers {
            bail!("cross attention: layer {layer}, queries of shape {:?}", q.shape());
        }
        let mut next = 0;
        for span in spans {
            if span.first != next || span.len == 0 || !self.is_filled(span.slot) {
                bail!("cross attention: {span:?} is not the next rows of a filled slot");
            }
            next += span.len;
        }
        if next != rows {
            bail!("cross attention: spans of {next} rows, {rows} are there");
        }
        Ok(rows)
    }

    /// `softmax(q kᵀ scale) v` of every row over its span's slot. `q` is `(rows, heads * dim)` f32, contiguous, and
    /// so is the result; the spans follow each other and cover all rows. On the CPU a row's result does not depend on
    /// the others, to the last bit.
    ///
    /// # Errors
    /// Spans that do not cover the rows, or a slot that is not filled.
    pub fn attend(&self, layer: usize, q: &Tensor, scale: f32, spans: &[Span]) -> Result<Tensor> {
        let rows = self.check(q, layer, spans)?;
        let mut tasks = Vec::new();
        #[cfg(feature = "cuda")]
        let mut looks = Vec::new();
        let mut parts = Vec::new();
        for span in spans {
            match &self.slots[span.slot] {
                Slot::Host(heard) => tasks.push((&heard[layer], *span)),
                #[cfg(feature = "cuda")]
                Slot::Cells(cells) => looks.push((&cells[layer], *span)),
                Slot::Device(tensors) => {
                    let (weights, values) =
                        (self.composed(tensors, layer, q, scale, *span, self.length)?, &tensors[layer].1);
                    let out = weights.matmul(&values.to_dtype(DType::F32)?)?;
                    parts.push(out.transpose(0, 1)?.reshape((span.len, self.heads * self.dim))?);
                }
                Slot::Empty => bail!("cross attention: slot {} is empty", span.slot),
            }
        }
        #[cfg(feature = "cuda")]
        if !looks.is_empty() {
            return cuda::attend(self, q, scale, &looks);
        }
        if tasks.is_empty() {
            return Tensor::cat(&parts, 0);
        }
        let out = cpu::with(q, "cross attention", |q| Ok(host::attend(q, scale, &tasks, rows)))?;
        cpu::tensor(out, (rows, self.heads * self.dim))
    }

    /// The weights of `heads` of one span's rows over the first `keys` positions, as if there were no others:
    /// `(heads.len(), span.len, keys)` in order.
    ///
    /// # Errors
    /// As [`attend`](Self::attend); heads or positions that are not there.
    pub fn weights(
        &self,
        layer: usize,
        q: &Tensor,
        scale: f32,
        span: Span,
        heads: &[usize],
        keys: usize,
    ) -> Result<Vec<f32>> {
        let (rows, width) = q.dims2()?;
        let fits = width == self.heads * self.dim && span.first + span.len <= rows && layer < self.layers;
        if !fits || keys == 0 || keys > self.length || heads.iter().any(|&h| h >= self.heads) {
            bail!("cross weights: {span:?}, heads {heads:?}, {keys} positions do not fit {:?}", q.shape());
        }
        match self.slots.get(span.slot) {
            Some(Slot::Host(heard)) => cpu::with(q, "cross weights", |q| {
                Ok(host::weights(q, scale, &heard[layer], span, heads, keys))
            }),
            #[cfg(feature = "cuda")]
            Some(Slot::Cells(cells)) => cuda::weights(self, q, scale, (&cells[layer], span), heads, keys),
            Some(Slot::Device(tensors)) => {
                let all = self.composed(tensors, layer, q, scale, span, keys)?;
                let ids: Vec<u32> = heads.iter().map(|&h| h as u32).collect();
                let picked = all.index_select(&Tensor::new(ids, &self.device)?, 0)?;
                picked.flatten_all()?.to_vec1()
            }
            _ => bail!("cross weights: slot {} is empty", span.slot),
        }
    }

    /// `(heads, rows, keys)` weights by candle's operations.
    fn composed(
        &self,
        tensors: &[(Tensor, Tensor)],
        layer: usize,
        q: &Tensor,
        scale: f32,
        span: Span,
        keys: usize,
    ) -> Result<Tensor> {
        let q = q.narrow(0, span.first, span.len)?.reshape((span.len, self.heads, self.dim))?;
        let q = (q.transpose(0, 1)?.contiguous()? * f64::from(scale))?;
        let k = tensors[layer].0.narrow(2, 0, keys)?.to_dtype(DType::F32)?.contiguous()?;
        let scores = q.matmul(&k)?;
        let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)
    }
}

#[cfg(test)]
mod tests;
