//! One block of a decoder: attention, then a feed-forward layer or experts.

use candle_core::{Device, Tensor};

use super::config::Config;
use super::experts::Mixture;
use super::source::Tensors;
use crate::model::Error;
use crate::ops::{Activation, Input, KvCache, Projection, QLinear, Rope, Sight, Step, gated};

/// The weights of a block.
pub(super) struct Layer {
    pub attention_norm: Tensor,
    attention: Attention,
    /// Norm of attention's output, before it is added.
    pub attention_post_norm: Option<Tensor>,
    pub feed_forward_norm: Tensor,
    feed_forward: FeedForward,
    pub feed_forward_post_norm: Option<Tensor>,
}

struct Attention {
    /// To (heads + 2 kv_heads) * head_dim, with the biases that some models' projections have.
    qkv: QLinear,
    /// Of each head's queries and keys.
    norms: Option<(Tensor, Tensor)>,
    output: QLinear,
    heads: usize,
    norm_eps: f32,
    sight: Sight,
}

enum FeedForward {
    Dense { gate_up: QLinear, down: QLinear, activation: Activation },
    Mixture(Mixture),
}

impl Layer {
    /// Loads block `i`.
    pub fn load(source: &dyn Tensors, c: &Config, i: usize, device: &Device) -> Result<Self, Error> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let norm = |part: &str| source.vector(&name(part), c.hidden, device);
        let optional = |part: &str| source.has(&name(part)).then(|| norm(part)).transpose();
        Ok(Layer {
            attention_norm: norm("attn_norm.weight")?,
            attention: Attention::load(source, c, i, device)?,
            attention_post_norm: optional("post_attention_norm.weight")?,
            feed_forward_norm: norm("ffn_norm.weight")?,
            feed_forward: FeedForward::load(source, c, name, device)?,
            feed_forward_post_norm: optional("post_ffw_norm.weight")?,
        })
    }

    /// Attention over the normalised input, whose keys and values are written to layer `i` of the cache.
    pub fn attend(
        &self,
        normed: &Input,
        rope: &Rope,
        (cache, i): (&KvCache, usize),
        step: &Step<'_>,
    ) -> Result<Tensor, Error> {
        let a = &self.attention;
        let qkv = a.qkv.forward(normed)?;
        let norms = a.norms.as_ref().map(|(query, key)| (query, key));
        let by = Projection { heads: a.heads, norms, eps: a.norm_eps, rope: Some(rope) };
        step.place(&qkv, by, cache, i)?;
        let attended = step.attend(cache, i, &qkv, a.heads, a.sight)?;
        Ok(a.output.forward(&attended.into())?)
    }

    /// The feed-forward layer over the normalised input.
    pub fn feed(&self, normed: &Input) -> Result<Tensor, Error> {
        match &self.feed_forward {
            FeedForward::Dense { gate_up, down, activation } => {
                Ok(down.forward(&gated(&gate_up.forward(normed)?, *activation)?)?)
            }
            FeedForward::Mixture(mixture) => mixture.forward(normed.values()),
        }
    }

    /// Bytes of its matrices.
    pub fn bytes(&self) -> u64 {
        let feed_forward = match &self.feed_forward {
            FeedForward::Dense { gate_up, down, .. } => gate_up.bytes() + down.bytes(),
            FeedForward::Mixture(mixture) => mixture.bytes(),
        };
        self.attention.qkv.bytes() + self.attention.output.bytes() + feed_forward
    }
}

impl Attention {
    fn load(source: &dyn Tensors, c: &Config, i: usize, device: &Device) -> Result<Self, Error> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let parts = match source.has(&name("attn_qkv.weight")) {
            true => vec![("attn_qkv", q + 2 * kv)],
            false => vec![("attn_q", q), ("attn_k", kv), ("attn_v", kv)],
        };
        let tensors = |end: &str| -> Vec<(String, usize)> {
            parts.iter().map(|(part, n)| (name(&format!("{part}.{end}")), *n)).collect()
        };
        let biases = tensors("bias");
        let bias = match biases.iter().any(|(name, _)| source.has(name)) {
            false => None,
            true => {
                let biases = biases.iter().map(|(name, n)| source.vector(name, *n, device));
                Some(Tensor::cat(&biases.collect::<Result<Vec<_>, _>>()?, 0)?)
            }
        };
        let head = |part: &str| source.vector(&name(part), c.head_dim, device);
        let norms = match source.has(&name("attn_q_norm.weight")) {
            true => Some((head("attn_q_norm.weight")?, head("attn_k_norm.weight")?)),
            false => None,
        };
        let sight = Sight { scale: c.attention_scale, window: c.local(i).map(|local| local.window) };
        Ok(Attention {
            qkv: source.linear(&tensors("weight"), c.hidden, device)?.biased(bias)?,
            norms,
            output: source.linear(&[(name("attn_output.weight"), c.hidden)], q, device)?,
            heads: c.heads,
            norm_eps: c.norm_eps,
            sight,
        })
    }
}

impl FeedForward {
    fn load(
        source: &dyn Tensors,
        c: &Config,
        name: impl Fn(&str) -> String,
        device: &Device,
    ) -> Result<Self, Error> {
        if let Some(experts) = c.experts {
            return Ok(FeedForward::Mixture(Mixture::load(source, c, experts, name, device)?));
        }
        let (gate, up, down) = (name("ffn_gate.weight"), name("ffn_up.weight"), name("ffn_down.weight"));
        // Where there is no gate of its own it lies before the up projection, in one matrix.
        let parts = match source.has(&gate) {
            true => vec![(gate, c.feed_forward), (up, c.feed_forward)],
            false => vec![(up, 2 * c.feed_forward)],
        };
        Ok(FeedForward::Dense {
            gate_up: source.linear(&parts, c.hidden, device)?,
            down: source.linear(&[(down, c.hidden)], c.feed_forward, device)?,
            activation: c.activation,
        })
    }
}
