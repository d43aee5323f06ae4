//! Draws that a device makes: what [`sample`](super::output::sample) is given, as [`ops::sample`](crate::ops::sample)
//! takes it.

use std::sync::Arc;

use super::output::{floor, number};
use crate::ops::sample::{Draw, Edit};
use crate::types::llm::Sampling;

/// What decides the tokens that follow a sequence, besides the logits.
#[derive(Debug, Clone)]
pub struct Drawing {
    pub sampling: Sampling,
    pub seed: u64,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// The tokens before the first place, then what is guessed to follow there.
    pub tokens: Tokens,
    /// What is forbidden at places before which there are fewer than `least` tokens.
    pub ends: Arc<[u32]>,
    pub least: usize,
}

/// A sequence's tokens, or their number where no penalty asks which they are.
#[derive(Debug, Clone)]
pub struct Tokens {
    known: Vec<u32>,
    /// Before the first place.
    count: usize,
}

impl Tokens {
    /// Those of a sequence, and guesses behind them, as `sampling` asks for.
    pub fn new(sampling: &Sampling, tokens: &[u32], guesses: &[u32]) -> Self {
        let asks = repeats(sampling) || counts(sampling);
        Tokens { known: if asks { [tokens, guesses].concat() } else { Vec::new() }, count: tokens.len() }
    }
}

fn repeats(s: &Sampling) -> bool {
    s.repetition_penalty != 1.0
}

fn counts(s: &Sampling) -> bool {
    s.frequency_penalty != 0.0 || s.presence_penalty != 0.0
}

impl Drawing {
    /// Whether a device can draw by it: all of [`Sampling`] but `typical_p`, whose order of tokens is another one than
    /// that of their likelihood.
    pub fn suits_devices(&self) -> bool {
        // What is no number keeps all.
        self.sampling.typical_p.is_nan() || self.sampling.typical_p >= 1.0
    }

    /// The draw at the `place`-th of the logits, with the guesses before it, from so many tokens.
    pub fn at(&self, place: usize, vocabulary: usize) -> Draw {
        let (s, position) = (&self.sampling, self.tokens.count + place);
        Draw {
            number: number(self.seed, position) << 11,
            temperature: s.temperature,
            top_k: s.top_k,
            top_p: s.top_p,
            floor: floor(s),
            repetition: s.repetition_penalty,
            edits: self.edits(position, vocabulary),
        }
    }

    fn edits(&self, position: usize, vocabulary: usize) -> Vec<Edit> {
        let s = &self.sampling;
        let edit = |token| Edit { token, ..Edit::default() };
        let mut edits: Vec<Edit> = Vec::new();
        if position < self.least {
            edits.extend(self.ends.iter().map(|&token| Edit { forbidden: true, ..edit(token) }));
        }
        edits.extend(s.logit_bias.iter().map(|&(token, bias)| Edit { bias, ..edit(token) }));
        let known = &self.tokens.known[..position.min(self.tokens.known.len())];
        let sorted = |tokens: &[u32]| {
            let mut tokens = tokens.to_vec();
            tokens.sort_unstable();
            tokens
        };
        if repeats(s) {
            let runs = sorted(known);
            edits.extend(runs.chunk_by(|a, b| a == b).map(|run| Edit { repeated: true, ..edit(run[0]) }));
        }
        if counts(s) {
            let runs = sorted(&known[self.prompt_len.min(known.len())..]);
            edits.extend(runs.chunk_by(|a, b| a == b).map(|run| {
                let less = s.presence_penalty + s.frequency_penalty * run.len() as f32;
                Edit { less, ..edit(run[0]) }
            }));
        }
        edits.retain(|edit| (edit.token as usize) < vocabulary);
        // In the order of their making among those of one token, which is that of biases too.
        edits.sort_by_key(|edit| edit.token);
        edits.dedup_by(|next, edit| {
            let same = next.token == edit.token;
            if same {
                edit.forbidden |= next.forbidden;
                edit.bias += next.bias;
                edit.repeated |= next.repeated;
                edit.less += next.less;
            }
            same
        });
        edits
    }
}
