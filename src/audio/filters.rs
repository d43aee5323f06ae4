//! Filters over a spectrum.

/// Filters, each over the few frequencies where it is not zero.
pub(super) struct FilterBank {
    /// First frequency, first weight, number of weights, for each bin.
    ranges: Vec<(usize, usize, usize)>,
    weights: Vec<f32>,
}

impl FilterBank {
    /// `bins` filters over `freqs` frequencies; `weight` of a bin and a frequency is above zero in one run of
    /// frequencies, and counts there only.
    pub fn new(bins: usize, freqs: usize, weight: impl Fn(usize, usize) -> f64) -> FilterBank {
        let mut bank = FilterBank { ranges: Vec::with_capacity(bins), weights: Vec::new() };
        for bin in 0..bins {
            let start = bank.weights.len();
            let first = (0..freqs).find(|&k| weight(bin, k) as f32 > 0.0).unwrap_or(0);
            bank.weights.extend((first..freqs).map(|k| weight(bin, k) as f32).take_while(|&w| w > 0.0));
            bank.ranges.push((first, start, bank.weights.len() - start));
        }
        bank
    }

    /// Energies of a power spectrum: the sum under each filter.
    pub fn apply(&self, power: &[f32], energies: &mut [f32]) {
        for (e, &(first, start, len)) in energies.iter_mut().zip(&self.ranges) {
            let weights = &self.weights[start..start + len];
            let power = &power[first..first + len];
            *e = weights.iter().zip(power).map(|(w, p)| w * p).sum();
        }
    }
}
