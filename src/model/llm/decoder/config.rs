//! What sets one decoder apart from another: sizes, constants and the parts it has.

use crate::model::{Error, Size, Widths};
use crate::ops::{Activation, Angles, KvCache, KvType, RopeStyle};

/// Bounds that no published model comes near: a file beyond them lies.
pub(super) const MAX_LAYERS: usize = 1_024;
pub(super) const MAX_WIDTH: usize = 1 << 17;
pub(super) const MAX_CONTEXT: usize = 1 << 24;
pub(super) const MAX_EXPERTS: usize = 1_024;

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

    /// Positions that a sequence may have, `most` at most.
    pub fn positions(&self, most: usize) -> usize {
        self.context.min(most.max(1))
    }

    /// Bytes of a block of the key-value cache.
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

/// A size that is not 0 and not beyond `max`.
pub(super) fn checked(key: &str, value: usize, max: usize) -> Result<usize, Error> {
    match value {
        0 => Err(Error::config(key, "is 0")),
        v if v > max => Err(Error::config(key, format!("is {v}; at most {max} can be"))),
        v => Ok(v),
    }
}
