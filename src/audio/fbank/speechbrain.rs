//! Energies as SpeechBrain computes them (`speechbrain.lobes.features.Fbank` with 80 bins).
//!
//! Frames of 25 ms are centred on every 10 ms, with zeros around the recording; a periodic Hamming window; the power
//! spectrum under filters whose centres are even on the scale `2595 log10(1 + f / 700)` from 0 Hz to the Nyquist
//! frequency; decibels, floored at -100 and at 80 below the loudest of the whole recording.

use super::{BINS, FRAME, FilterBank, Recipe};
use crate::types::asr::SAMPLE_RATE;

/// Samples before a frame's centre.
const HALF: usize = FRAME / 2;
/// Energy below this counts as this.
const LEAST: f32 = 1e-10;
/// How far below the loudest an energy may lie, in decibels.
const RANGE: f32 = 80.0;

pub(super) struct SpeechBrain {
    window: Vec<f32>,
}

impl SpeechBrain {
    pub fn new() -> SpeechBrain {
        let turn = 2.0 * std::f64::consts::PI / FRAME as f64;
        SpeechBrain { window: (0..FRAME).map(|i| (0.54 - 0.46 * (turn * i as f64).cos()) as f32).collect() }
    }
}

impl Recipe for SpeechBrain {
    fn size(&self) -> usize {
        FRAME
    }

    /// Both flanks of a filter are as wide as its left one: it ends before the centre of the next.
    fn bank(&self) -> FilterBank {
        let nyquist = f64::from(SAMPLE_RATE) / 2.0;
        let top = 2595.0 * (1.0 + nyquist / 700.0).log10();
        let hz = |at: usize| 700.0 * (10f64.powf(top * at as f64 / (BINS + 1) as f64 / 2595.0) - 1.0);
        FilterBank::new(BINS, HALF + 1, |bin, k| {
            let (low, centre) = (hz(bin), hz(bin + 1));
            1.0 - (k as f64 * nyquist / HALF as f64 - centre).abs() / (centre - low)
        })
    }

    fn before(&self) -> usize {
        HALF
    }

    fn window(&self, frame: &mut [f32]) {
        frame.iter_mut().zip(&self.window).for_each(|(value, window)| *value *= window);
    }

    fn log(&self, energies: &mut [f32]) {
        for energy in energies {
            *energy = 10.0 * energy.max(LEAST).log10();
        }
    }

    fn floor(&self, energies: &mut [f32]) {
        let loudest = energies.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for energy in energies {
            *energy = energy.max(loudest - RANGE);
        }
    }
}
