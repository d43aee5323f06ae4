//! A step's tokens as the layers of a decoder see them, told to a GPU once for all layers.

use candle_core::{Device, Result, Tensor, bail};

use super::{KvCache, Rows, Sight};
use crate::ops::{QEmbedding, Rope, rms_norm_heads};

/// The tokens of a step: which they are, where they stand and where their keys and values go.
pub struct Step<'a> {
    tokens: &'a [u32],
    /// Position of each token.
    positions: &'a [u32],
    /// `block * BLOCK + offset` of each token in the cache.
    slots: &'a [u32],
    rows: &'a [Rows<'a>],
    #[cfg(feature = "cuda")]
    placed: Option<std::borrow::Cow<'a, super::cuda::Placed>>,
}

/// A step in which each row has one token, that stays in a GPU's memory and is filled anew each time: for recordings.
#[derive(Debug)]
pub struct SteadyStep {
    /// Zeros, of the recorded size: what is checked on the way was checked as it was filled in.
    #[cfg(feature = "cuda")]
    tokens: Vec<u32>,
    #[cfg(feature = "cuda")]
    placed: super::cuda::Placed,
}

impl SteadyStep {
    /// For so many rows with tables of `width` blocks; `None` where no kernels of ours attend.
    ///
    /// # Errors
    /// A device without room.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables, clippy::unnecessary_wraps))]
    pub fn new(rows: usize, width: usize, cache: &KvCache, device: &Device) -> Result<Option<Self>> {
        #[cfg(feature = "cuda")]
        if cache.form == super::Form::Halves {
            let placed = super::cuda::Placed::steady(rows, width, cache, device)?;
            return Ok(Some(SteadyStep { tokens: vec![0; rows], placed }));
        }
        Ok(None)
    }

    /// What is recorded.
    pub fn step(&self) -> Step<'_> {
        #[cfg(feature = "cuda")]
        {
            let tokens = &self.tokens;
            let placed = Some(std::borrow::Cow::Borrowed(&self.placed));
            Step { tokens, positions: tokens, slots: tokens, rows: &[], placed }
        }
        #[cfg(not(feature = "cuda"))]
        Step { tokens: &[], positions: &[], slots: &[], rows: &[] }
    }

    /// Fills in the next run: a token, its position, its slot and its table for each row.
    ///
    /// # Errors
    /// More rows or longer tables than there is room for, blocks past the cache.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables, clippy::unnecessary_wraps))]
    pub fn fill(
        &self,
        tokens: &[u32],
        positions: &[u32],
        slots: &[u32],
        tables: &[&[u32]],
        cache: &KvCache,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        self.placed.fill(tokens, positions, slots, tables, cache)?;
        Ok(())
    }
}

/// What becomes of a projection's heads on their way to attention.
#[derive(Clone, Copy)]
pub struct Projection<'a> {
    /// Query heads; those of keys and of values follow them.
    pub heads: usize,
    /// Norms of each head's queries and of its keys, and their epsilon.
    pub norms: Option<(&'a Tensor, &'a Tensor)>,
    pub eps: f32,
    /// `None` where positions are told otherwise.
    pub rope: Option<&'a Rope>,
}

impl<'a> Step<'a> {
    /// Tells `device` of these tokens.
    ///
    /// # Errors
    /// Slices of different lengths, a device without room.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn new(
        tokens: &'a [u32],
        positions: &'a [u32],
        slots: &'a [u32],
        rows: &'a [Rows<'a>],
        device: &Device,
    ) -> Result<Self> {
        if positions.len() != tokens.len() || slots.len() != tokens.len() {
            bail!("{} tokens at {} positions and {} slots", tokens.len(), positions.len(), slots.len());
        }
        Ok(Step {
            tokens,
            positions,
            slots,
            rows,
            #[cfg(feature = "cuda")]
            placed: match device.is_cuda() {
                true => {
                    let placed = super::cuda::Placed::with_tokens(tokens, rows, positions, slots, device)?;
                    Some(std::borrow::Cow::Owned(placed))
                }
                false => None,
            },
        })
    }

    /// The rows of an embedding table for the step's tokens, times `factor`.
    ///
    /// # Errors
    /// A token past the table.
    pub fn embed(&self, table: &QEmbedding, factor: f32, device: &Device) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(placed) = &self.placed
            && let Some(rows) = table.rows_at(placed.tokens()?, self.tokens, factor)?
        {
            return Ok(rows);
        }
        let x = table.forward(self.tokens, device)?;
        if factor == 1.0 { Ok(x) } else { x * f64::from(factor) }
    }

    /// Queries, keys and values side by side in `qkv` (tokens, columns) f32: queries and keys are normalised and turned,
    /// keys and values go into the cache. The queries are left in place, of the rest of `qkv` nothing is promised.
    ///
    /// # Errors
    /// Heads that do not fit the columns, slots past the cache, positions past the rotations.
    pub fn place(&self, qkv: &Tensor, by: Projection<'_>, cache: &KvCache, layer: usize) -> Result<()> {
        let queries = by.heads * cache.head_dim;
        #[cfg(feature = "cuda")]
        if let Some(placed) = self.placed.as_deref().filter(|_| cache.form == super::Form::Halves) {
            // A GPU does not check: it would write past the cache, and read past the rotations.
            cache.check_slots(self.slots)?;
            if let Some(far) = by.rope.and_then(|rope| rope.first_past(self.positions)) {
                bail!("position {far} is past the rotations");
            }
            return super::cuda::place(placed, qkv, by, cache, layer);
        }
        if let Some((query, key)) = by.norms {
            rms_norm_heads(qkv, 0, by.heads, query, by.eps)?;
            rms_norm_heads(qkv, queries, cache.heads, key, by.eps)?;
        }
        if let Some(rope) = by.rope {
            rope.apply(qkv, by.heads + cache.heads, cache.head_dim, self.positions)?;
        }
        cache.write(layer, qkv, queries, self.slots)
    }

    /// [`paged_attention`](super::paged_attention) of the step's rows.
    ///
    /// # Errors
    /// As there.
    pub fn attend(
        &self,
        cache: &KvCache,
        layer: usize,
        qkv: &Tensor,
        heads: usize,
        sight: Sight,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(placed) = self.placed.as_deref().filter(|_| cache.form == super::Form::Halves) {
            super::check_heads(cache, qkv, heads, sight)?;
            cache.check(self.rows, qkv.dim(0)?)?;
            return super::cuda::attention(cache, layer, qkv, heads, sight, placed);
        }
        super::paged_attention(cache, layer, qkv, heads, sight, self.rows)
    }
}
