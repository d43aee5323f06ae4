//! What sets one decoder apart from another: sizes, constants and the parts it has.

use crate::model::llm::Limits;
use crate::model::{Error, Size, Widths};
use crate::ops::{Activation, Angles, KvCache, KvType, RopeStyle};

/// Bounds that no published model comes near: a file beyond them lies.
pub(super) const MAX_LAYERS: usize = 1_024;
pub(super) const MAX_WIDTH: usize = 1 << 17;
pub(super) const MAX_CONTEXT: usize = 1 << 24;
pub(super) const MAX_EXPERTS: usize = 1_024;
/// Positions that a sequence has on the smallest device: fewer are no use.
const LEAST_CONTEXT: usize = 2_048;

/// A decoder. Whether projections have biases, queries and keys are normalised, or the outputs of attention and
/// feed-forward layers are, is told by the tensors themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer; of one expert where there are experts.
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub context: usize,
    pub vocabulary: usize,
    pub norm_eps: f32,
    pub activation: Activation,
    /// Multiplies token embeddings; 1 does nothing.
    pub embedding_scale: f32,
    /// Multiplies products of queries and keys.
    pub attention_scale: f32,
    pub rope_style: RopeStyle,
    pub rope: Angles,
    /// Layers that see a window of positions only.
    pub local: Option<Local>,
    pub experts: Option<Experts>,
}

/// The layers with a sliding window (Beltagy et al. 2020).
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    /// Positions a query sees, its own included.
    pub window: usize,
    pub rope: Angles,
    /// Which layers these are.
    pub layers: Vec<bool>,
}

/// A mixture of experts in place of the feed-forward layer (Shazeer et al. 2017). Each token goes through the `used`
/// likeliest; their outputs are weighted by the softmax of their scores among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    pub count: usize,
    pub used: usize,
}

impl Config {
    /// The local layers' part, if layer `i` is one of them.
    pub fn local(&self, i: usize) -> Option<&Local> {
        self.local.as_ref().filter(|local| local.layers.get(i) == Some(&true))
    }

    /// Positions that a sequence may have.
    pub fn positions(&self, limits: Limits) -> usize {
        self.context.min(limits.context.max(1))
    }

    /// Blocks of the key-value cache, beside `others` bytes that the model takes.
    pub fn blocks(&self, limits: Limits, kept: KvType, others: u64) -> usize {
        limits
            .blocks
            .unwrap_or_else(|| blocks(self.block_bytes(kept), self.positions(limits), limits, others))
    }

    /// Bytes of one such block.
    pub fn block_bytes(&self, kept: KvType) -> u64 {
        KvCache::block_bytes(kept, self.layers, self.kv_heads, self.head_dim)
    }

    /// Of experts each token goes through a few, whose activations are not all there at once.
    fn widths(&self) -> Widths {
        Widths {
            hidden: self.hidden,
            qkv: (self.heads + 2 * self.kv_heads) * self.head_dim,
            attended: self.heads * self.head_dim,
            wide: 2 * self.feed_forward,
            inner: self.feed_forward,
        }
    }

    fn logits_bytes(&self, largest: Size) -> u64 {
        (largest.logits * self.vocabulary * size_of::<f32>()) as u64
    }

    /// Bytes that a step takes besides what the model holds.
    pub fn step_bytes(&self, largest: Size) -> u64 {
        let (widths, logits) = (self.widths(), self.logits_bytes(largest));
        // A GPU's logits are read elsewhere.
        let products = if largest.gpu { widths.halves_bytes() } else { logits };
        widths.pass_bytes(largest.units, largest.gpu) + products + logits
    }

    /// Bytes that recorded steps of a GPU lie in: two layers' activations by turns, the logits among them, and these once
    /// more to be read.
    pub fn recorded_bytes(&self, largest: Size) -> u64 {
        match largest.gpu && self.experts.is_none() {
            true => 2 * (self.widths().pass_bytes(largest.logits, true) + self.logits_bytes(largest)),
            false => 0,
        }
    }

    /// Refuses sizes that do not fit each other; `named` gives the name that the file has for a setting.
    pub(super) fn check(self, named: impl Fn(&str) -> String) -> Result<Config, Error> {
        let fail = |setting: &str, problem: String| Err(Error::config(named(setting), problem));
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fail("kv_heads", format!("{} do not divide {} heads", self.kv_heads, self.heads));
        }
        let ropes = std::iter::once(&self.rope).chain(self.local.as_ref().map(|l| &l.rope));
        for rope in ropes {
            if 2 * rope.steps.len() > self.head_dim || rope.steps.is_empty() {
                let problem = format!("{} of {} dimensions", 2 * rope.steps.len(), self.head_dim);
                return fail("rope_dims", problem);
            }
            let usable = |v: &f64| v.is_finite() && *v >= 0.0;
            if !rope.steps.iter().all(usable) || !usable(&rope.magnitude) {
                return fail("rope", "gives angles that are no numbers".to_owned());
            }
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return fail("norm_eps", format!("{} is not a small number", self.norm_eps));
        }
        if !(self.attention_scale.is_finite() && self.embedding_scale.is_finite()) {
            return fail("attention_scale", "is not a number".to_owned());
        }
        if let Some(e) = self.experts.filter(|e| e.used == 0 || e.used > e.count) {
            return fail("experts", format!("{} used of {}", e.used, e.count));
        }
        Ok(self)
    }
}

/// Blocks of a key-value cache, of so many bytes each, beside the `others` that the model takes: what is granted, if there is
/// room for it. One sequence of all `positions` fits, whatever is granted, unless it took more than half of the room, which
/// other models may need; one of [`LEAST_CONTEXT`] in any case.
pub fn blocks(block_bytes: u64, positions: usize, limits: Limits, others: u64) -> usize {
    let of = |bytes: u64| usize::try_from(bytes / block_bytes.max(1)).unwrap_or(usize::MAX);
    let left = limits.room.saturating_sub(others);
    let one = positions.div_ceil(KvCache::BLOCK);
    let least = one.min(LEAST_CONTEXT / KvCache::BLOCK);
    of(limits.cache_bytes).min(of(left)).max(one.min(of(left / 2))).max(least)
}

/// A size that is not 0 and not beyond `max`.
pub(super) fn checked(key: &str, value: usize, max: usize) -> Result<usize, Error> {
    match value {
        0 => Err(Error::config(key, "is 0")),
        v if v > max => Err(Error::config(key, format!("is {v}; at most {max} can be"))),
        v => Ok(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::model::Quantise;

    #[test]
    fn a_cache_takes_what_is_granted_and_one_context_at_least_where_there_is_room() {
        let blocks = |cache_bytes, room, positions, others| {
            let quantise = Quantise::None;
            let limits =
                Limits { context: 8_192, cache_bytes, cache: KvType::F16, quantise, blocks: None, room };
            blocks(10, positions, limits, others)
        };
        assert_eq!(blocks(5_000, u64::MAX, 6_400, 300), 500);
        assert_eq!(blocks(100, u64::MAX, 6_400, 300), 200, "one sequence");
        assert_eq!(blocks(5_000, 1_500, 6_400, 300), 120, "what is left");
        assert_eq!(blocks(100, 2_300, 6_400, 300), 100, "half of it");
        assert_eq!(blocks(100, 300, 6_400, 300), LEAST_CONTEXT / KvCache::BLOCK);
        assert_eq!(blocks(100, 0, 320, 300), 10, "a context that is shorter than that");
    }
}
