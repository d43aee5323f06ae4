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

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(sampling: Sampling) -> Drawing {
        let tokens = Tokens::new(&sampling, &[5, 2, 5], &[2, 9]);
        Drawing { sampling, seed: 7, prompt_len: 1, tokens, ends: [8, 2, 8].into(), least: 4 }
    }

    #[test]
    fn edits_are_one_a_token_by_what_came_before_the_place() {
        let drawing = drawing(Sampling {
            repetition_penalty: 1.5,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            logit_bias: vec![(5, 2.0), (40, 1.0), (5, -0.5)],
            ..Sampling::default()
        });
        let none = Edit::default();
        let five = Edit { token: 5, bias: 1.5, repeated: true, less: 0.75, ..none };
        let two = |less| Edit { token: 2, repeated: true, less, ..none };
        let forbidden = |edit| Edit { forbidden: true, ..edit };
        let eight = Edit { token: 8, ..none };
        assert_eq!(drawing.at(0, 40).edits, [forbidden(two(0.75)), five, forbidden(eight)]);
        // With the guess before it the answer is long enough to end.
        assert_eq!(drawing.at(1, 40).edits, [two(1.0), five]);
        let nine = Edit { token: 9, repeated: true, less: 0.75, ..none };
        assert_eq!(drawing.at(2, 40).edits, [two(1.0), five, nine]);
        // What the vocabulary has not is passed over.
        assert_eq!(drawing.at(2, 6).edits, [two(1.0), five]);
    }

    #[test]
    fn the_number_is_that_of_the_position() {
        let drawing = drawing(Sampling::default());
        for place in 0..3 {
            let draw = drawing.at(place, 40);
            assert_eq!(draw.number >> 11, number(7, 3 + place));
            assert_eq!(draw.number % (1 << 11), 0);
        }
    }

    #[test]
    fn only_what_keeps_all_that_is_typical_suits_devices() {
        let suits = |typical_p| drawing(Sampling { typical_p, ..Sampling::default() }).suits_devices();
        assert!(suits(1.0) && suits(f32::NAN) && !suits(0.99));
    }
}
