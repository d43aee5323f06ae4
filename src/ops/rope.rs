//! Rotary position embedding (Su et al. 2021), applied in place to the query and key columns of a fused
//! projection.

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor, bail};

use super::cpu;
use super::multi::multiversion;

/// Which two dimensions of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// `2i` and `2i + 1`: the llama family as GGUF stores it.
    Interleaved,
    /// `i` and `i + n/2`: GPT-NeoX, Qwen.
    Halves,
}

/// The rotations of every position up to the context, and which pairs they turn.
#[derive(Debug)]
pub struct Rope {
    style: RopeStyle,
    /// Pairs of dimensions that turn; the rest of a head stays.
    pairs: usize,
    context: usize,
    table: Table,
}

/// Cosine and sine of each pair at each position.
#[derive(Debug)]
enum Table {
    /// (context, pairs), for the kernel.
    Host(Vec<(f32, f32)>),
    /// Cosines and sines apart, (context, pairs) each, for the composition.
    Device(Tensor, Tensor),
}

/// Rotations in a GPU's memory, (context, pairs) f32 each.
#[cfg(feature = "cuda")]
pub(super) struct TurnsAt {
    pub cosines: u64,
    pub sines: u64,
    pub pairs: usize,
    /// Pairs lie side by side.
    pub interleaved: bool,
}

/// How fast each pair of dimensions turns.
#[derive(Debug, Clone, PartialEq)]
pub struct Angles {
    /// Radians a position, one for each pair.
    pub steps: Vec<f64>,
    /// What cosines and sines are multiplied with; 1 but for contexts stretched beyond the training's.
    pub magnitude: f64,
}

impl Angles {
    /// `base^(-2i/dims)` for `dims / 2` pairs: the embedding as it was published.
    pub fn plain(base: f64, dims: usize) -> Angles {
        let steps = (0..dims / 2).map(|i| base.powf(-2.0 * i as f64 / dims as f64)).collect();
        Angles { steps, magnitude: 1.0 }
    }
}

impl Rope {
    /// The rotations of `angles` at positions below `context`, computed in f64, for tensors on `device`.
    ///
    /// # Errors
    /// A device without room.
    pub fn new(style: RopeStyle, angles: &Angles, context: usize, device: &Device) -> Result<Self> {
        let Angles { steps, magnitude } = angles;
        let pairs = steps.len();
        let turns = (0..context).flat_map(|p| steps.iter().map(move |s| (p as f64 * s).sin_cos()));
        let turns: Vec<(f32, f32)> =
            turns.map(|(sin, cos)| ((cos * magnitude) as f32, (sin * magnitude) as f32)).collect();
        let table = if cpu::serves(device) {
            Table::Host(turns)
        } else {
            let part = |pick: fn(&(f32, f32)) -> f32| {
                Tensor::from_vec(turns.iter().map(pick).collect::<Vec<f32>>(), (context, pairs), device)
            };
            Table::Device(part(|t| t.0)?, part(|t| t.1)?)
        };
        Ok(Rope { style, pairs, context, table })
    }

    /// Where the rotations lie on a GPU, for a kernel.
    #[cfg(feature = "cuda")]
    pub(super) fn at(&self) -> Result<TurnsAt> {
        let Table::Device(cos, sin) = &self.table else { bail!("rope: the rotations are not on the GPU") };
        let interleaved = self.style == RopeStyle::Interleaved;
        let address = super::gpu::cuda::address;
        Ok(TurnsAt { cosines: address(cos)?, sines: address(sin)?, pairs: self.pairs, interleaved })
    }

    /// The first of these positions that has no rotation.
    pub fn first_past(&self, positions: &[u32]) -> Option<u32> {
        positions.iter().copied().find(|p| *p as usize >= self.context)
    }

    /// Positions that have rotations.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Turns the first `heads` heads of `head_dim` columns in each row of `x` (tokens, columns), f32, by that
    /// row's position. Query and key heads lie side by side, so `heads` counts both.
    pub fn apply(&self, x: &Tensor, heads: usize, head_dim: usize, positions: &[u32]) -> Result<()> {
        let (rows, columns) = x.dims2()?;
        if rows != positions.len() || heads * head_dim > columns || 2 * self.pairs > head_dim {
            bail!(
                "rope: {heads} heads of {head_dim} at {} positions do not fit {:?}",
                positions.len(),
                x.shape()
            );
        }
        if let Some(far) = self.first_past(positions) {
            bail!("rope: position {far} is past the context of {}", self.context());
        }
        match &self.table {
            Table::Host(table) => x.inplace_op1(&Turn { rope: self, table, heads, head_dim, positions }),
            Table::Device(cos, sin) => {
                let at = Tensor::new(positions, x.device())?;
                // (tokens, 1, pairs): the same turn for every head.
                let turns = |t: &Tensor| t.index_select(&at, 0)?.unsqueeze(1);
                let columns = x.narrow(1, 0, heads * head_dim)?.reshape((rows, heads, head_dim))?;
                let turned = self.composed(&columns, &turns(cos)?, &turns(sin)?)?;
                x.slice_set(&turned.reshape((rows, heads * head_dim))?, 1, 0)
            }
        }
    }

    /// `x` (tokens, heads, head_dim) turned, out of candle's operations.
    fn composed(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let (rows, heads, head_dim) = x.dims3()?;
        let pairs = self.pairs;
        let (a, b) = match self.style {
            RopeStyle::Interleaved => {
                let x = x.narrow(2, 0, 2 * pairs)?.contiguous()?.reshape((rows, heads, pairs, 2))?;
                (x.narrow(3, 0, 1)?.squeeze(3)?, x.narrow(3, 1, 1)?.squeeze(3)?)
            }
            RopeStyle::Halves => (x.narrow(2, 0, pairs)?, x.narrow(2, pairs, pairs)?),
        };
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (a.broadcast_mul(sin)? + b.broadcast_mul(cos)?)?;
        let turned = match self.style {
            RopeStyle::Interleaved => {
                Tensor::stack(&[first, second], 3)?.reshape((rows, heads, 2 * pairs))?
            }
            RopeStyle::Halves => Tensor::cat(&[first, second], 2)?,
        };
        match head_dim - 2 * pairs {
            0 => Ok(turned),
            rest => Tensor::cat(&[turned, x.narrow(2, 2 * pairs, rest)?], 2),
        }
    }
}

struct Turn<'a> {
    rope: &'a Rope,
    table: &'a [(f32, f32)],
    heads: usize,
    head_dim: usize,
    positions: &'a [u32],
}

impl InplaceOp1 for Turn<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("rope: a contiguous f32 tensor is needed");
        };
        let columns = (end - start) / self.positions.len().max(1);
        if columns == 0 {
            return Ok(());
        }
        let pairs = self.rope.pairs;
        for (row, &position) in data[start..end].chunks_exact_mut(columns).zip(self.positions) {
            let turns = &self.table[position as usize * pairs..][..pairs];
            for head in row[..self.heads * self.head_dim].chunks_exact_mut(self.head_dim) {
                match self.rope.style {
                    RopeStyle::Interleaved => turn_interleaved(head, turns),
                    RopeStyle::Halves => turn_halves(head, turns),
                }
            }
        }
        Ok(())
    }
}

multiversion! {
    fn turn_interleaved(head: &mut [f32], turns: &[(f32, f32)]) = turn_interleaved_body
}

multiversion! {
    fn turn_halves(head: &mut [f32], turns: &[(f32, f32)]) = turn_halves_body
}

#[inline(always)]
fn turn_interleaved_body(head: &mut [f32], turns: &[(f32, f32)]) {
    for (pair, &(cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}

#[inline(always)]
fn turn_halves_body(head: &mut [f32], turns: &[(f32, f32)]) {
    let (low, high) = head[..2 * turns.len()].split_at_mut(turns.len());
    for ((a, b), &(cos, sin)) in low.iter_mut().zip(high).zip(turns) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}
