//! Scores: cosines, compared with those of the other speakers.
//!
//! A cosine of 0.6 means little where a voice is like everybody's, and much where it is like nobody's. So it is compared
//! with a cohort, by adaptive symmetric normalisation (AS-norm: Matejka et al., "Analysis of Score Normalization in
//! Multilingual Speaker Recognition", 2017):
//!
//! ```text
//! z = 1/2 [(s - mean_e) / sd_e + (s - mean_t) / sd_t]
//! ```
//!
//! `s` is the cosine of a voice `e` and a speaker `t`, and each mean and standard deviation are of the [`TOP`] highest
//! cosines of the one side with the cohort: the other speakers of the book, `t` not among them. Fewer than
//! [`COHORT_LEAST`] say too little, and then the score is the cosine itself.
//!
//! `z` has another scale than the cosine, and thresholds are cosines. So it is put back on the scale of the model's
//! strangers, whose cosines have a mean `m` and a standard deviation `d`:
//!
//! ```text
//! score = m' + d' z,   m' = m + d λ,   d' = d sqrt(1 + a λ - λ²),   λ = φ(a) / p,   a = Φ⁻¹(1 - p)
//! ```
//!
//! `m'` and `d'` are what a normal distribution of `m` and `d` has above its quantile `1 - p`, where `p` is the share of
//! the cohort that is among the highest. Where all of it is, `m' = m` and `d' = d`. So whoever is to the cohort as
//! strangers are to each other keeps the cosine, however large the book is, and one threshold is right with and without
//! a cohort.

/// Others that a score is compared with: at least, and at most (evenly spread over the book).
pub(super) const COHORT_LEAST: usize = 30;
pub(super) const COHORT_MOST: usize = 1000;
/// Of these the highest cosines count.
const TOP: usize = 300;
/// A cohort of voices that are all the same tells nothing of how much they differ.
const LEAST_SD: f32 = 1e-3;

/// Mean and standard deviation of some cosines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub mean: f32,
    pub sd: f32,
}

impl Spread {
    /// Of the highest [`TOP`].
    pub fn top(mut cosines: Vec<f32>) -> Spread {
        if cosines.len() > TOP {
            cosines.select_nth_unstable_by(TOP, |a, b| b.total_cmp(a));
            cosines.truncate(TOP);
        }
        let count = cosines.len().max(1) as f32;
        let mean = cosines.iter().sum::<f32>() / count;
        let variance = cosines.iter().map(|cosine| (cosine - mean).powi(2)).sum::<f32>() / count;
        Spread { mean, sd: variance.sqrt().max(LEAST_SD) }
    }

    /// What [`top`](Self::top) gives of `count` strangers, if their cosines are distributed normally.
    pub fn expected((mean, sd): (f32, f32), count: usize) -> Spread {
        let share = TOP as f32 / count.max(1) as f32;
        if share >= 1.0 {
            return Spread { mean, sd };
        }
        let at = upper_quantile(share);
        let hazard = (-at * at / 2.0).exp() / (2.0 * std::f32::consts::PI).sqrt() / share;
        let variance = (1.0 + at * hazard - hazard * hazard).max(0.0);
        Spread { mean: mean + sd * hazard, sd: sd * variance.sqrt() }
    }

    /// How many standard deviations a cosine is above the mean.
    fn above(self, cosine: f32) -> f32 {
        (cosine - self.mean) / self.sd
    }
}

/// The score of a cosine, between a voice and a speaker of whose cosines with the cohort these are the spreads;
/// `expected` is the spread of strangers'.
pub(super) fn normalised(cosine: f32, voice: Spread, speaker: Spread, expected: Spread) -> f32 {
    let z = (voice.above(cosine) + speaker.above(cosine)) / 2.0;
    expected.mean + expected.sd * z
}

/// Where a normal distribution has so much above: Abramowitz and Stegun, 26.2.23, right to 4.5e-4.
fn upper_quantile(share: f32) -> f32 {
    let tail = share.min(1.0 - share).max(1e-6);
    let t = (-2.0 * tail.ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    let at = t - above / below;
    if share <= 0.5 { at } else { -at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_tables() {
        for (share, at) in [(0.5, 0.0), (0.3, 0.5244), (0.025, 1.96), (0.9, -1.2816)] {
            assert!((upper_quantile(share) - at).abs() < 1e-3, "{share}: {}", upper_quantile(share));
        }
    }

    /// Cosines as strangers have them: sums of twelve uniform numbers are normal, nearly.
    fn strangers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        (0..count).map(|_| 0.4 + 0.1 * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0)).collect()
    }

    #[test]
    fn strangers_keep_their_scale_however_many_they_are() {
        for count in [30, 300, 500, 1000] {
            let expected = Spread::expected((0.4, 0.1), count);
            let (voice, speaker) = (Spread::top(strangers(count, 1)), Spread::top(strangers(count, 2)));
            assert!((voice.mean - expected.mean).abs() < 0.03, "{count}: {voice:?} {expected:?}");
            assert!((voice.sd - expected.sd).abs() < 0.03, "{count}: {voice:?} {expected:?}");
            for cosine in [0.3, 0.5, 0.7] {
                let score = normalised(cosine, voice, speaker, expected);
                assert!((score - cosine).abs() < 0.1, "{count}: {cosine} became {score}");
            }
        }
    }

    #[test]
    fn who_is_like_everybody_scores_lower() {
        let expected = Spread::expected((0.4, 0.1), 100);
        let usual = Spread { mean: 0.4, sd: 0.1 };
        let hub = Spread { mean: 0.6, sd: 0.1 };
        assert!(normalised(0.7, usual, hub, expected) < normalised(0.7, usual, usual, expected) - 0.05);
        assert_eq!(Spread::top(vec![0.5; 40]), Spread { mean: 0.5, sd: LEAST_SD });
    }
}
