//! From logits to the next token: bias, penalties, temperature, then `min_p`, `top_k` and `top_p`, the order of vLLM,
//! and `typical_p` of what they leave, as transformers does.

pub use crate::ops::argmax;
use crate::types::llm::Sampling;

/// Whether [`sample`] comes to the largest of the logits as they are.
pub fn takes_largest(s: &Sampling) -> bool {
    let penalised = s.repetition_penalty != 1.0 || s.frequency_penalty != 0.0 || s.presence_penalty != 0.0;
    s.temperature <= 0.0 && s.logit_bias.is_empty() && !penalised
}

/// Chooses the token that follows `tokens`, of which the first `prompt_len` are the prompt. `logits` is scratch
/// afterwards. The choice depends on nothing else: the random number is drawn from (`seed`, position), so batching
/// cannot change it.
pub fn sample(logits: &mut [f32], sampling: &Sampling, seed: u64, tokens: &[u32], prompt_len: usize) -> u32 {
    for &(token, bias) in &sampling.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
    penalise_repetition(logits, sampling.repetition_penalty, tokens);
    penalise(logits, sampling, &tokens[prompt_len.min(tokens.len())..]);
    if sampling.temperature <= 0.0 {
        return argmax(logits);
    }
    let candidates = candidates(logits, sampling);
    let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
    let mut left = number(seed, tokens.len()) as f64 / (1u64 << 53) as f64 * total;
    for &(token, p) in &candidates {
        left -= f64::from(p);
        if left < 0.0 {
            return token;
        }
    }
    candidates.last().map_or(0, |c| c.0)
}

fn penalise(logits: &mut [f32], sampling: &Sampling, generated: &[u32]) {
    if sampling.frequency_penalty == 0.0 && sampling.presence_penalty == 0.0 {
        return;
    }
    let mut seen = generated.to_vec();
    seen.sort_unstable();
    for run in seen.chunk_by(|a, b| a == b) {
        if let Some(logit) = logits.get_mut(run[0] as usize) {
            *logit -= sampling.presence_penalty + sampling.frequency_penalty * run.len() as f32;
        }
    }
}

/// Each token once, however often it came (Keskar et al. 2019, section 4.1; negative logits are multiplied, as in
/// transformers, so that the token becomes less likely either way).
fn penalise_repetition(logits: &mut [f32], penalty: f32, tokens: &[u32]) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = tokens.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// Makes these tokens impossible, unless nothing else is possible.
pub fn forbid(logits: &mut [f32], tokens: &[u32]) {
    let mut before = Vec::with_capacity(tokens.len());
    for &token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            before.push((token as usize, std::mem::replace(logit, f32::NEG_INFINITY)));
        }
    }
    if logits.iter().all(|logit| *logit == f32::NEG_INFINITY) {
        // Backwards: a token that is named twice was possible before the first time.
        before.into_iter().rev().for_each(|(token, logit)| logits[token] = logit);
    }
}

/// The least weight of a token to draw from, where the likeliest has 1.
pub(super) fn floor(sampling: &Sampling) -> f32 {
    // What is below e^-20 of the likeliest could not be drawn in a million tries of a vocabulary of this size.
    (-20.0f32).exp().max(sampling.min_p)
}

/// The tokens to draw from and their weights (not normalised): all of them, or what `min_p`, `top_k`, `top_p` and
/// `typical_p` leave.
fn candidates(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f32)> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = sampling.temperature.recip();
    let weight = |&l: &f32| ((l - top) * scale).exp();
    let floor = floor(sampling);
    let mut all: Vec<(u32, f32)> =
        logits.iter().enumerate().map(|(i, l)| (i as u32, weight(l))).filter(|c| c.1 >= floor).collect();
    let likelier = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if let Some(k) = sampling.top_k.map(|k| k as usize).filter(|&k| (1..all.len()).contains(&k)) {
        all.select_nth_unstable_by(k - 1, likelier);
        all.truncate(k);
        // The order in which a draw goes through them must not depend on how they were found.
        all.sort_unstable_by_key(|c| c.0);
    }
    if sampling.top_p < 1.0 {
        all.sort_unstable_by(likelier);
        let count = reaching(sampling.top_p, all.iter().map(|c| c.1));
        all.truncate(count);
    }
    if sampling.typical_p < 1.0 {
        keep_typical(&mut all, sampling.typical_p);
    }
    all
}

/// How many of these weights, from the first on, make up `share` of all; at least one.
fn reaching(share: f32, weights: impl Iterator<Item = f32> + Clone) -> usize {
    let target = f64::from(share) * weights.clone().map(f64::from).sum::<f64>();
    let mut sum = 0.0;
    let counted = weights.take_while(|&weight| {
        let more = sum < target;
        sum += f64::from(weight);
        more
    });
    counted.count().max(1)
}

/// Keeps the tokens whose information is nearest to what the distribution gives on average, its entropy, until they
/// make up `share` of the probability; and those that are as near as the last (transformers' `TypicalLogitsWarper`).
fn keep_typical(all: &mut Vec<(u32, f32)>, share: f32) {
    let total: f64 = all.iter().map(|c| f64::from(c.1)).sum();
    let information = |weight: f32| -(f64::from(weight) / total).ln();
    let entropy: f64 = all.iter().map(|&(_, weight)| f64::from(weight) / total * information(weight)).sum();
    let distance = |weight: f32| (information(weight) - entropy).abs();
    let mut nearest: Vec<f32> = all.iter().map(|c| c.1).collect();
    // Equal weights are equally far: which of them stands first makes no difference.
    nearest.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let count = reaching(share, nearest.iter().copied());
    if let Some(last) = nearest.get(count - 1).map(|&weight| distance(weight)) {
        all.retain(|&(_, weight)| distance(weight) <= last);
    }
}

/// A number below 2^53 that is a function of its arguments: two rounds of splitmix64 (Steele, Lea and Flood 2014).
pub(super) fn number(seed: u64, position: usize) -> u64 {
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix(seed) ^ position as u64) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_and_never_nan() {
        assert_eq!(sample(&mut [0.0, 3.0, 3.0, f32::NAN], &greedy(), 0, &[], 0), 1);
    }

    #[test]
    fn penalties_count_what_was_generated() {
        let s = Sampling { presence_penalty: 0.5, frequency_penalty: 0.3, ..greedy() };
        // Token 1: 2.0 - 0.5 - 0.6 = 0.9 falls behind token 0 at 1.0.
        assert_eq!(sample(&mut [1.0, 2.0], &s, 0, &[1, 1], 0), 0);
        assert_eq!(sample(&mut [1.0, 2.0], &s, 0, &[1], 0), 1);
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_only() {
        let s = Sampling { temperature: 1.0, ..Sampling::default() };
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let draw = |seed, position| sample(&mut logits.clone(), &s, seed, &vec![0; position], position);
        assert_eq!(draw(7, 3), draw(7, 3));
        let many: std::collections::HashSet<u32> = (0..200).map(|p| draw(7, p)).collect();
        assert!(many.len() > 20, "{} different tokens in 200 draws", many.len());
    }

    #[test]
    fn draws_follow_the_distribution() {
        let s = Sampling { temperature: 0.5, ..Sampling::default() };
        let mut counts = [0u32; 3];
        let zeros = vec![0; 20_000];
        for p in 0..20_000 {
            counts[sample(&mut [0.0, 0.5, 1.0], &s, 1, &zeros[..p], p) as usize] += 1;
        }
        // softmax([0, 1, 2])
        for (count, p) in counts.iter().zip([0.0900, 0.2447, 0.6652]) {
            let share = f64::from(*count) / 20_000.0;
            assert!((share - p).abs() < 0.012, "{share} instead of {p}");
        }
    }

    #[test]
    fn a_small_nucleus_is_greedy_and_a_whole_one_keeps_all() {
        let s = |top_p| Sampling { temperature: 1.0, top_p, ..Sampling::default() };
        let logits = [0.1, 0.3, 0.2];
        for p in 0..100 {
            assert_eq!(sample(&mut logits.clone(), &s(1e-6), 3, &[0; 100][..p], p), 1);
        }
        let seen: std::collections::HashSet<u32> =
            (0..100).map(|p| sample(&mut logits.clone(), &s(1.0), 3, &[0; 100][..p], p)).collect();
        assert_eq!(seen.len(), 3);
        // 0.3672 + 0.3322 reach 0.6: the least likely is out.
        let seen: std::collections::HashSet<u32> =
            (0..100).map(|p| sample(&mut logits.clone(), &s(0.6), 3, &[0; 100][..p], p)).collect();
        assert_eq!(seen, [1, 2].into());
    }

    /// What can be drawn in 300 tries.
    fn drawn(logits: &[f32], sampling: &Sampling) -> Vec<u32> {
        let draws = (0..300).map(|seed| sample(&mut logits.to_vec(), sampling, seed, &[], 0));
        draws.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    #[test]
    fn top_k_and_min_p_leave_the_likeliest() {
        let logits = [0.0, 0.6, 0.3, 0.6, f32::NAN];
        let s = |top_k, min_p| Sampling { top_k, min_p, ..Sampling::default() };
        assert_eq!(drawn(&logits, &s(None, 0.0)), [0, 1, 2, 3]);
        // Of two that are alike the first counts as likelier.
        assert_eq!(drawn(&logits, &s(Some(1), 0.0)), [1]);
        assert_eq!(drawn(&logits, &s(Some(3), 0.0)), [1, 2, 3]);
        assert_eq!(drawn(&logits, &s(Some(9), 0.0)), [0, 1, 2, 3]);
        // e^-0.3 = 0.74, e^-0.6 = 0.55
        assert_eq!(drawn(&logits, &s(None, 0.6)), [1, 2, 3]);
        assert_eq!(drawn(&logits, &s(None, 1.0)), [1, 3]);
        assert_eq!(drawn(&logits, &s(Some(1), 0.6)), [1]);
    }

    #[test]
    fn typical_tokens_are_as_likely_as_the_entropy_says() {
        let s = |typical_p| Sampling { typical_p, ..Sampling::default() };
        // Probabilities 0.5, 0.2, 0.2, 0.1: an entropy of 1.22 nats; they are 0.53, 0.39, 0.39 and 1.08 away.
        let logits = [0.5f32, 0.2, 0.2, 0.1].map(f32::ln);
        // The two in the middle are alike, so both stay where one would do.
        for (share, kept) in [
            (0.01, vec![1, 2]),
            (0.39, vec![1, 2]),
            (0.41, vec![0, 1, 2]),
            (0.89, vec![0, 1, 2]),
            (0.91, vec![0, 1, 2, 3]),
        ] {
            assert_eq!(drawn(&logits, &s(share)), kept, "{share}");
        }
        // Of what top_k leaves: 0.5 and 0.2, as 5/7 and 2/7, with 0.60 nats; 0.26 and 0.65 away.
        let both = Sampling { top_k: Some(2), ..s(0.6) };
        assert_eq!(drawn(&logits, &both), [0]);
        // Nothing but equals is nothing to choose between.
        assert_eq!(drawn(&[1.0; 3], &s(0.1)), [0, 1, 2]);
    }

    #[test]
    fn filters_work_one_after_the_other_on_what_is_left() {
        // Weights 8, 4, 2 and 1: the first two are 0.8 of all, 0.86 of the first three, and the first 0.67 of two.
        let logits = [3.0f32, 2.0, 1.0, 0.0].map(|x| x * std::f32::consts::LN_2);
        let s = |top_k, top_p, min_p| Sampling { top_k, top_p, min_p, ..Sampling::default() };
        assert_eq!(drawn(&logits, &s(None, 0.81, 0.0)), [0, 1, 2]);
        assert_eq!(drawn(&logits, &s(Some(3), 0.81, 0.0)), [0, 1]);
        assert_eq!(drawn(&logits, &s(Some(2), 0.6, 0.0)), [0]);
        // What min_p takes away counts for nothing in the nucleus.
        assert_eq!(drawn(&logits, &s(None, 0.85, 0.2)), [0, 1]);
        // Temperature comes before all of them: at 2 the weights are roots, and min_p reaches one further.
        let warm = Sampling { temperature: 2.0, ..s(None, 1.0, 0.34) };
        assert_eq!(drawn(&logits, &warm), [0, 1, 2, 3]);
        assert_eq!(drawn(&logits, &s(None, 1.0, 0.34)), [0, 1]);
        // And a bias comes before the penalties: 4 + 1 is divided by 2.
        let s = Sampling { repetition_penalty: 2.0, logit_bias: vec![(0, 1.0)], ..greedy() };
        assert_eq!(sample(&mut [4.0, 2.7], &s, 0, &[0], 1), 1);
    }

    #[test]
    fn what_is_forbidden_is_not_chosen_unless_nothing_else_is_left() {
        let mut logits = [3.0, 2.0, 1.0];
        forbid(&mut logits, &[0, 9]);
        assert_eq!(argmax(&logits), 1);
        let none = f32::NEG_INFINITY;
        let mut held = [3.0, none, 1.0];
        forbid(&mut held, &[0, 2, 0]);
        assert_eq!(held, [3.0, none, 1.0]);
    }

    #[test]
    fn a_repetition_counts_prompt_and_answer_once_and_a_bias_is_added() {
        let s = Sampling { repetition_penalty: 2.0, ..greedy() };
        let choose =
            |logits: &[f32], s: &Sampling, tokens: &[u32]| sample(&mut logits.to_vec(), s, 0, tokens, 1);
        // 3 / 2 falls behind 2; the second time changes nothing, or 3 / 4 would fall behind 1.
        assert_eq!(choose(&[3.0, 2.0], &s, &[0]), 1);
        assert_eq!(choose(&[3.0, 1.0], &s, &[0, 0]), 0);
        // -1 * 2 falls behind -1.5.
        assert_eq!(choose(&[-1.0, -1.5], &s, &[0]), 1);
        let s = Sampling { logit_bias: vec![(1, 5.0), (0, -100.0), (9, 1.0)], ..greedy() };
        assert_eq!(choose(&[50.0, 1.0, 5.5], &s, &[]), 1);
    }
}
