//! Which tokens may come next, and which one does (openai/whisper `decoding.py`).

use crate::model::asr::vocab::Vocab;

/// Latest start of a window's first segment, in timestamp tokens of 20 ms: 1.0 s.
const MAX_INITIAL_TIMESTAMP: usize = 50;

/// Masks with minus infinity what may not follow `sampled`, the tokens chosen in this window so far.
///
/// Beyond the suppressed tokens these are the timestamp rules: a window starts with a timestamp of at most
/// 1.0 s; timestamps come in pairs except before the end; they never decrease, and a segment is never empty;
/// where all timestamps together are likelier than any one text token, a timestamp it is.
pub(super) fn mask(logits: &mut [f32], vocab: &Vocab, sampled: &[u32]) {
    let special = vocab.special();
    let (begin, eot) = (special.timestamp_begin as usize, special.eot as usize);
    for &token in vocab.suppress() {
        forbid(logits, token as usize, token as usize + 1);
    }
    forbid(logits, special.no_timestamps as usize, begin);
    let Some(&last) = sampled.last() else {
        for &token in vocab.suppress_begin() {
            forbid(logits, token as usize, token as usize + 1);
        }
        forbid(logits, 0, begin);
        forbid(logits, begin + MAX_INITIAL_TIMESTAMP + 1, usize::MAX);
        return;
    };
    let is_timestamp = |token: u32| token as usize >= begin;
    // The first token counts as preceded by a timestamp: text must follow it.
    let before = sampled.len() < 2 || is_timestamp(sampled[sampled.len() - 2]);
    match (is_timestamp(last), before) {
        (true, true) => forbid(logits, begin, usize::MAX),
        (true, false) => {
            forbid(logits, 0, eot);
            forbid(logits, begin, last as usize);
        }
        (false, _) => {
            if let Some(&latest) = sampled.iter().rev().find(|&&t| is_timestamp(t)) {
                forbid(logits, begin, latest as usize + 1);
            }
        }
    }
    let (text, timestamps) = logits.split_at(begin.min(logits.len()));
    if log_sum_exp(timestamps) > max(text) {
        forbid(logits, 0, begin);
    }
}

fn forbid(logits: &mut [f32], from: usize, to: usize) {
    let to = to.min(logits.len());
    if let Some(range) = logits.get_mut(from..to) {
        range.fill(f32::NEG_INFINITY);
    }
}

/// The likeliest token at temperature 0 (the lowest id of equals), a sampled one above it; with its
/// log-probability at temperature 1. `uniform` is in [0, 1). `None` if no logit is a number.
pub(super) fn choose(logits: &[f32], temperature: f32, uniform: f64) -> Option<(u32, f32)> {
    let top = max(logits);
    if !top.is_finite() {
        return None;
    }
    let token = match temperature > 0.0 {
        false => logits.iter().position(|&x| x == top)?,
        true => sample(logits, top, temperature, uniform)?,
    };
    let logprob = logits.get(token)? - log_sum_exp(logits);
    logprob.is_finite().then_some((token as u32, logprob))
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
            let (token, _) = choose(&logits, 1.0, f64::from(i) / 10_000.0).unwrap();
            counts[token as usize] += 1;
        }
        let e = std::f64::consts::E;
        let total = 1.0 + e + e * e;
        for (count, weight) in counts.iter().zip([1.0, e, 0.0, e * e]) {
            assert!((f64::from(*count) / 10_000.0 - weight / total).abs() < 2e-3);
        }
        let (greedy, logprob) = choose(&logits, 0.0, 0.9).unwrap();
        assert_eq!(greedy, 3);
        assert!((f64::from(logprob) - (e * e / total).ln()).abs() < 1e-6);
        assert_eq!(choose(&[f32::NEG_INFINITY; 4], 0.0, 0.0), None);
        assert_eq!(choose(&[f32::NAN; 4], 0.2, 0.0), None);
        assert_eq!(choose(&[0.0, f32::INFINITY], 0.0, 0.0), None);
    }
}
