//! How likely a model found the tokens of an answer.
//!
//! Probabilities are those of the model itself, as vLLM's are by default: the softmax of the logits that it gave,
//! before any bias, penalty, temperature or form of the answer is applied to them.

/// What is reported where a token is impossible or its logit no number: JSON has no infinities (OpenAI's value).
pub const LEAST: f32 = -9999.0;

/// The log-probability of a token that was chosen, and the likeliest tokens in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm, at least [`LEAST`].
    pub chosen: f32,
    /// As many as were asked for, the likeliest first and of equals the first; the chosen one may be missing.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Of a step's `logits`, of which `token` was chosen; with the `top` likeliest.
    pub fn new(logits: &[f32], token: u32, top: usize) -> Logprobs {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let numbers = logits.iter().filter(|l| !l.is_nan());
        let sum: f64 = numbers.map(|l| f64::from((l - largest).exp())).sum();
        let total = f64::from(largest) + sum.ln();
        let logprob = |logit: f32| ((f64::from(logit) - total) as f32).max(LEAST);
        let chosen = logits.get(token as usize).map_or(LEAST, |&logit| logprob(logit));
        let top = likeliest(logits, top).into_iter().map(|(token, logit)| (token, logprob(logit))).collect();
        Logprobs { chosen, top }
    }
}

/// The `count` largest, largest first, of equals the first. One pass: `count` is small, and what is not among the
/// largest so far, as nearly all are not, costs one comparison.
fn likeliest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    let mut bar = f32::NEG_INFINITY;
    for (token, &logit) in (0u32..).zip(logits) {
        if logit > bar {
            let at = best.partition_point(|&(_, other)| other >= logit);
            best.insert(at, (token, logit));
            best.truncate(count);
            if best.len() == count {
                bar = best.last().map_or(f32::INFINITY, |&(_, least)| least);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_likeliest_are_those_that_sorting_gives(
            logits in prop::collection::vec((-9i8..9).prop_map(f32::from), 0..60),
            count in 0usize..25,
        ) {
            let mut sorted: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(count);
            prop_assert_eq!(likeliest(&logits, count), sorted);
        }

        #[test]
        fn probabilities_sum_to_one(logits in prop::collection::vec(-200f32..200.0, 1..200)) {
            let all = Logprobs::new(&logits, 0, logits.len());
            let sum: f64 = all.top.iter().map(|(_, l)| f64::from(*l).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-4, "{sum}");
            let chosen = all.top.iter().find(|(token, _)| *token == 0).map(|(_, l)| *l);
            prop_assert_eq!(chosen, Some(all.chosen));
        }
    }

    #[test]
    fn what_is_no_number_is_as_unlikely_as_can_be() {
        let said = Logprobs::new(&[1.0, f32::NAN, f32::NEG_INFINITY, 1.0], 1, 4);
        let half = -std::f32::consts::LN_2;
        assert_eq!(said, Logprobs { chosen: LEAST, top: vec![(0, half), (3, half)] });
        assert_eq!(Logprobs::new(&[0.0, f32::NEG_INFINITY], 1, 0).chosen, LEAST);
        assert_eq!(Logprobs::new(&[0.0], 7, 0).chosen, LEAST);
    }
}
