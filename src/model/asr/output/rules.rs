//! Which tokens may come next, and which do (openai/whisper `decoding.py`).

use crate::model::asr::vocab::Vocab;
use crate::types::asr::Decoding;

/// A timestamp token stands for 20 ms.
const PER_SECOND: f32 = 50.0;

/// What may be said.
#[derive(Debug)]
pub(super) struct Rules {
    /// Never; ascending.
    suppress: Vec<u32>,
    /// Not as the first token.
    suppress_begin: Vec<u32>,
    /// Latest start of a window's first segment, in timestamp tokens.
    max_initial: usize,
    timestamps: bool,
}

impl Rules {
    pub(super) fn new(vocab: &Vocab, decoding: &Decoding) -> Rules {
        let special = vocab.special();
        let mut suppress = match &decoding.suppress {
            None => vocab.suppress().to_vec(),
            // Tokens that steer the network are no text, whatever a caller wants to hear.
            Some(only) => {
                only.iter().copied().filter(|&t| t != special.eot).chain(vocab.steering()).collect()
            }
        };
        suppress.sort_unstable();
        suppress.dedup();
        let begin = if decoding.suppress_blank { vocab.suppress_begin().to_vec() } else { Vec::new() };
        Rules {
            suppress,
            suppress_begin: begin,
            max_initial: (decoding.max_initial_timestamp * PER_SECOND).round() as usize,
            timestamps: !decoding.without_timestamps,
        }
    }

    /// Masks with minus infinity what may not follow `said`, the tokens of this window so far.
    ///
    /// Beyond the suppressed tokens these are the timestamp rules: a window starts with a timestamp that is not too
    /// late; timestamps come in pairs except before the end; they never decrease, and a segment is never empty;
    /// where all timestamps together are likelier than any one text token, a timestamp it is.
    pub(super) fn mask(&self, logits: &mut [f32], vocab: &Vocab, said: &[u32]) {
        let special = vocab.special();
        let (begin, eot) = (special.timestamp_begin as usize, special.eot as usize);
        for &token in &self.suppress {
            forbid(logits, token as usize, token as usize + 1);
        }
        forbid(logits, special.no_timestamps as usize, begin);
        if said.is_empty() {
            for &token in &self.suppress_begin {
                forbid(logits, token as usize, token as usize + 1);
            }
        }
        if !self.timestamps {
            return forbid(logits, begin, usize::MAX);
        }
        let Some(&last) = said.last() else {
            forbid(logits, 0, begin);
            forbid(logits, begin + self.max_initial + 1, usize::MAX);
            return;
        };
        let is_timestamp = |token: u32| token as usize >= begin;
        // The first token counts as preceded by a timestamp: text must follow it.
        let before = said.len() < 2 || is_timestamp(said[said.len() - 2]);
        match (is_timestamp(last), before) {
            (true, true) => forbid(logits, begin, usize::MAX),
            (true, false) => {
                forbid(logits, 0, eot);
                forbid(logits, begin, last as usize);
            }
            (false, _) => {
                if let Some(&latest) = said.iter().rev().find(|&&t| is_timestamp(t)) {
                    forbid(logits, begin, latest as usize + 1);
                }
            }
        }
        let (text, timestamps) = logits.split_at(begin.min(logits.len()));
        if log_sum_exp(timestamps) > max(text) {
            forbid(logits, 0, begin);
        }
    }
}

/// A token that may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub token: u32,
    /// At temperature 1.
    pub logprob: f32,
}

/// The `count` likeliest tokens, best first, of equals the lowest id. Fewer where fewer may come; none where a logit
/// is no number.
pub(super) fn likeliest(logits: &[f32], count: usize) -> Vec<Candidate> {
    let total = log_sum_exp(logits);
    if !total.is_finite() || count == 0 {
        return Vec::new();
    }
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    let mut least = f32::NEG_INFINITY;
    let mut offer = |token: usize, x: f32| {
        if x > least {
            let at = best.partition_point(|(other, _)| *other >= x);
            best.insert(at, (x, token as u32));
            best.truncate(count);
            if best.len() == count {
                least = best[count - 1].0;
            }
        }
        least
    };
    let mut bar = f32::NEG_INFINITY;
    for (at, part) in logits.chunks(64).enumerate() {
        if max(part) > bar {
            for (i, &x) in part.iter().enumerate() {
                bar = offer(at * 64 + i, x);
            }
        }
    }
    best.into_iter().map(|(x, token)| Candidate { token, logprob: x - total }).collect()
}

/// One token for each of `uniforms` in [0, 1), drawn at a temperature above 0. None where no logit is a number.
pub(super) fn draw(logits: &[f32], temperature: f32, uniforms: &[f64]) -> Vec<Candidate> {
    let (top, total) = (max(logits), log_sum_exp(logits));
    if !total.is_finite() {
        return Vec::new();
    }
    let one = |uniform: &f64| {
        let token = sample(logits, top, temperature, *uniform)?;
        let logprob = logits.get(token)? - total;
        logprob.is_finite().then_some(Candidate { token: token as u32, logprob })
    };
    uniforms.iter().filter_map(one).collect()
}

fn forbid(logits: &mut [f32], from: usize, to: usize) {
    let to = to.min(logits.len());
    if let Some(range) = logits.get_mut(from..to) {
        range.fill(f32::NEG_INFINITY);
    }
}

/// Inverse of the cumulative distribution at `uniform`.
fn sample(logits: &[f32], top: f32, temperature: f32, uniform: f64) -> Option<usize> {
    let weight = |x: f32| f64::from(((x - top) / temperature).exp());
    let total: f64 = logits.iter().map(|&x| weight(x)).sum();
    let mut left = uniform * total;
    let mut chosen = None;
    for (token, &x) in logits.iter().enumerate() {
        let weight = weight(x);
        if weight > 0.0 {
            chosen = Some(token);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    chosen
}

/// How likely each language is among all, likeliest first; none where a logit is no number.
pub(super) fn languages(logits: &[f32], vocab: &Vocab) -> Vec<(String, f32)> {
    let scores: Vec<(&String, f32)> = (vocab.languages().iter())
        .filter_map(|(code, &token)| Some((code, *logits.get(token as usize)?)))
        .collect();
    let only: Vec<f32> = scores.iter().map(|(_, x)| *x).collect();
    let total = log_sum_exp(&only);
    if !total.is_finite() {
        return Vec::new();
    }
    let mut likely: Vec<(String, f32)> =
        scores.into_iter().map(|(code, x)| (code.clone(), (x - total).exp())).collect();
    likely.sort_by(|a, b| b.1.total_cmp(&a.1));
    likely
}

/// A number in [0, 1) that depends on seed and counters alone (SplitMix64's finaliser over each): the same seed
/// gives the same text whatever else runs.
pub(super) fn uniform(seed: u64, counters: &[u64]) -> f64 {
    let mixed = std::iter::once(&seed).chain(counters).fold(0x9E37_79B9_7F4A_7C15_u64, |state, &counter| {
        let mut z = (state ^ counter).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    });
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

/// Probability of `token` among all logits.
pub(super) fn probability(logits: &[f32], token: u32) -> Option<f32> {
    let p = (logits.get(token as usize)? - log_sum_exp(logits)).exp();
    p.is_finite().then_some(p)
}

pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// `ln Σ exp(x)`; minus infinity where every value is.
pub(super) fn log_sum_exp(values: &[f32]) -> f32 {
    let top = max(values);
    if !top.is_finite() {
        return top;
    }
    let mut total = 0.0f64;
    // Sums of a few hundred terms in f32, of those in f64: a vocabulary's tail must not be rounded away.
    for part in values.chunks(4096) {
        let mut lanes = [0.0f32; 16];
        let (chunks, rest) = part.as_chunks::<16>();
        for chunk in chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane += exp(value - top);
            }
        }
        total += lanes.iter().map(|&l| f64::from(l)).sum::<f64>();
        total += rest.iter().map(|&x| f64::from(exp(x - top))).sum::<f64>();
    }
    top + total.ln() as f32
}

/// `exp` for `x <= 0` without a call or a branch, so that loops over it vectorise; 2 units in the last place.
/// Range reduction to ±ln2/2 and a polynomial of degree 6 (Cephes `expf`).
#[inline]
fn exp(x: f32) -> f32 {
    /// 1.5 x 2^23: adding it rounds to an integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    p * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_units() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let want = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - want).abs() / want;
            assert!(relative < 3e-7, "exp({x}) is off by {relative:e}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn log_sum_exp_matches_f64() {
        let values: Vec<f32> = (0..51_865).map(|i| ((i * 7919) % 10_007) as f32 / 500.0 - 10.0).collect();
        let want = values.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln();
        assert!((f64::from(log_sum_exp(&values)) - want).abs() < 1e-5);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn sampling_follows_the_distribution_and_temperature() {
        let logits = [0.0, 1.0, f32::NEG_INFINITY, 2.0];
        let mut counts = [0; 4];
        for i in 0..10_000 {
            let drawn = draw(&logits, 1.0, &[f64::from(i) / 10_000.0]);
            counts[drawn[0].token as usize] += 1;
        }
        let e = std::f64::consts::E;
        let total = 1.0 + e + e * e;
        for (count, weight) in counts.iter().zip([1.0, e, 0.0, e * e]) {
            assert!((f64::from(*count) / 10_000.0 - weight / total).abs() < 2e-3);
        }
        assert!(draw(&[f32::NAN; 4], 0.2, &[0.0]).is_empty());
    }

    #[test]
    fn the_likeliest_come_first() {
        let mut logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1009) as f32 / 100.0).collect();
        logits[3] = 20.0;
        logits[700] = 20.0;
        logits[999] = 19.0;
        let best = likeliest(&logits, 4);
        assert_eq!(best.iter().map(|c| c.token).collect::<Vec<_>>()[..3], [3, 700, 999]);
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        assert!((f64::from(best[2].logprob) - (19.0 - total.ln())).abs() < 1e-5);
        let masked = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
        assert_eq!(likeliest(&masked, 3), [Candidate { token: 1, logprob: 0.0 }]);
        assert!(likeliest(&[f32::NEG_INFINITY; 4], 2).is_empty());
        assert!(likeliest(&[f32::NAN; 4], 2).is_empty());
        assert!(likeliest(&[0.0, f32::INFINITY], 1).is_empty());
    }
}
