//! From logits to the next token.

use crate::types::llm::Sampling;

/// Chooses the token that follows `position` tokens of a sequence. `logits` is scratch afterwards; `generated`
/// are the tokens that penalties count. The choice depends on nothing else: the random number is drawn from
/// (`seed`, `position`), so batching cannot change it.
pub fn sample(logits: &mut [f32], sampling: &Sampling, seed: u64, position: usize, generated: &[u32]) -> u32 {
    penalise(logits, sampling, generated);
    if sampling.temperature <= 0.0 {
        return argmax(logits);
    }
    let candidates = nucleus(logits, sampling);
    let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
    let mut left = uniform(seed, position) * total;
    for &(token, p) in &candidates {
        left -= f64::from(p);
        if left < 0.0 {
            return token;
        }
    }
    candidates.last().map_or(0, |c| c.0)
}

/// Index of the largest value, the lowest on a tie; values that are not numbers never win.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &v) in logits.iter().enumerate() {
        if v > best.1 {
            best = (i as u32, v);
        }
    }
    best.0
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

/// The tokens to draw from and their weights (not normalised): all of them, or the most likely ones whose
/// share reaches `top_p`.
fn nucleus(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f32)> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = sampling.temperature.recip();
    let weight = |&l: &f32| ((l - top) * scale).exp();
    // What is below e^-20 of the likeliest could not be drawn in a million tries of a vocabulary of this size.
    let floor = (-20.0f32).exp();
    let mut all: Vec<(u32, f32)> =
        logits.iter().enumerate().map(|(i, l)| (i as u32, weight(l))).filter(|c| c.1 > floor).collect();
    if sampling.top_p < 1.0 {
        all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let target = f64::from(sampling.top_p) * all.iter().map(|c| f64::from(c.1)).sum::<f64>();
        let mut sum = 0.0;
        let keep = all.iter().take_while(|c| {
            let more = sum < target;
            sum += f64::from(c.1);
            more
        });
        let keep = keep.count().max(1);
        all.truncate(keep);
    }
    all
}

/// A number in [0, 1) that is a function of its arguments: two rounds of splitmix64 (Steele, Lea and Flood
/// 2014), 53 bits kept.
fn uniform(seed: u64, position: usize) -> f64 {
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (mix(mix(seed) ^ position as u64) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_and_never_nan() {
        assert_eq!(sample(&mut [0.0, 3.0, 3.0, f32::NAN], &greedy(), 0, 0, &[]), 1);
        assert_eq!(argmax(&[f32::NAN, f32::NAN]), 0);
    }

    #[test]
    fn penalties_count_what_was_generated() {
        let s = Sampling { presence_penalty: 0.5, frequency_penalty: 0.3, ..greedy() };
        // Token 1: 2.0 - 0.5 - 0.6 = 0.9 falls behind token 0 at 1.0.
        assert_eq!(sample(&mut [1.0, 2.0], &s, 0, 0, &[1, 1]), 0);
        assert_eq!(sample(&mut [1.0, 2.0], &s, 0, 0, &[1]), 1);
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_only() {
        let s = Sampling { temperature: 1.0, ..Sampling::default() };
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let draw = |seed, position| sample(&mut logits.clone(), &s, seed, position, &[]);
        assert_eq!(draw(7, 3), draw(7, 3));
        let many: std::collections::HashSet<u32> = (0..200).map(|p| draw(7, p)).collect();
        assert!(many.len() > 20, "{} different tokens in 200 draws", many.len());
    }

    #[test]
    fn draws_follow_the_distribution() {
        let s = Sampling { temperature: 0.5, ..Sampling::default() };
        let mut counts = [0u32; 3];
        for p in 0..20_000 {
            counts[sample(&mut [0.0, 0.5, 1.0], &s, 1, p, &[]) as usize] += 1;
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
            assert_eq!(sample(&mut logits.clone(), &s(1e-6), 3, p, &[]), 1);
        }
        let seen: std::collections::HashSet<u32> =
            (0..100).map(|p| sample(&mut logits.clone(), &s(1.0), 3, p, &[])).collect();
        assert_eq!(seen.len(), 3);
        // 0.3672 + 0.3322 reach 0.6: the least likely is out.
        let seen: std::collections::HashSet<u32> =
            (0..100).map(|p| sample(&mut logits.clone(), &s(0.6), 3, p, &[])).collect();
        assert_eq!(seen, [1, 2].into());
    }
}
