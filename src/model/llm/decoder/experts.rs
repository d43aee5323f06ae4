//! A mixture of experts: a router, and many small feed-forward layers of which each token takes a few.

use candle_core::{Device, Tensor};

use super::config::{Config, Experts};
use super::source::Tensors;
use crate::model::Error;
use crate::ops::{Activation, QLinear, gated};

/// The experts of one layer.
pub(super) struct Mixture {
    router: QLinear,
    experts: Vec<Expert>,
    used: usize,
    activation: Activation,
}

struct Expert {
    gate_up: QLinear,
    down: QLinear,
}

impl Mixture {
    /// Loads the experts whose tensors are named `name("ffn_...")`.
    pub fn load(
        source: &dyn Tensors,
        c: &Config,
        Experts { count, used }: Experts,
        name: impl Fn(&str) -> String,
        device: &Device,
    ) -> Result<Self, Error> {
        let router = source.linear(&[(name("ffn_gate_inp.weight"), count)], c.hidden, device)?;
        let expert = |at: usize| -> Result<Expert, Error> {
            let part = |tensor: &str, shape| source.expert(&name(tensor), at, count, shape, device);
            let inner = [c.feed_forward, c.hidden];
            let gate_up = vec![part("ffn_gate_exps.weight", inner)?, part("ffn_up_exps.weight", inner)?];
            let down = vec![part("ffn_down_exps.weight", [c.hidden, c.feed_forward])?];
            Ok(Expert { gate_up: QLinear::new(gate_up)?, down: QLinear::new(down)? })
        };
        let experts = (0..count).map(expert).collect::<Result<_, _>>()?;
        Ok(Mixture { router, experts, used, activation: c.activation })
    }

    /// `x` (tokens, hidden) through each token's experts.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let scores: Vec<f32> = self.router.forward(&x.clone().into())?.flatten_all()?.to_vec1()?;
        let mut rows: Vec<Vec<(u32, f32)>> = vec![Vec::new(); self.experts.len()];
        for (token, scores) in (0u32..).zip(scores.chunks_exact(self.experts.len())) {
            for (expert, weight) in choose(scores, self.used) {
                rows[expert].push((token, weight));
            }
        }
        let out = x.zeros_like()?;
        for (expert, rows) in self.experts.iter().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
            let (tokens, weights): (Vec<u32>, Vec<f32>) = rows.into_iter().unzip();
            let count = tokens.len();
            let at = Tensor::from_vec(tokens, count, x.device())?;
            let weights = Tensor::from_vec(weights, (count, 1), x.device())?;
            let inner = gated(&expert.gate_up.forward(&x.index_select(&at, 0)?.into())?, self.activation)?;
            let part = expert.down.forward(&inner)?.broadcast_mul(&weights)?;
            let at = at.unsqueeze(1)?.broadcast_as(part.shape())?.contiguous()?;
            out.scatter_add_set(&at, &part, 0)?;
        }
        Ok(out)
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        let experts: u64 = self.experts.iter().map(|e| e.gate_up.bytes() + e.down.bytes()).sum();
        experts + self.router.bytes()
    }
}

/// The `used` experts with the highest scores, the first of two that are alike, and the softmax of their scores
/// among themselves. Scores that are no numbers rank last.
fn choose(scores: &[f32], used: usize) -> Vec<(usize, f32)> {
    let rank = |&i: &usize| if scores[i].is_nan() { f32::NEG_INFINITY } else { scores[i] };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    order.truncate(used);
    let top = order.first().map_or(0.0, |&i| scores[i]);
    let weights: Vec<f32> = order.iter().map(|&i| (scores[i] - top).exp()).collect();
    let sum: f32 = weights.iter().sum();
    order.into_iter().zip(weights).map(|(i, w)| (i, w / sum)).collect()
}
