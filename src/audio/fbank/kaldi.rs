//! Energies as Kaldi computes them (`compute-fbank-feats`).
//!
//! The reference is `torchaudio.compliance.kaldi.fbank`, which agrees with Kaldi: frames of 25 ms every 10 ms that lie
//! whole in the recording, no dither, no energy; each without its mean, pre-emphasised by 0.97, windowed, padded to 512
//! samples; the power spectrum below the Nyquist frequency under triangles that are even on the scale
//! `1127 ln(1 + f / 700)` from 20 Hz to the Nyquist frequency; the natural logarithm of it, floored at 2^-23.

use super::{BINS, FRAME, FilterBank, Recipe};
use crate::types::asr::SAMPLE_RATE;
use crate::types::speaker::Window;

const N_FFT: usize = 512;
const PRE_EMPHASIS: f32 = 0.97;
const LOWEST_HZ: f64 = 20.0;

pub(super) struct Kaldi {
    /// With the scale of the samples in it.
    window: Vec<f32>,
}

impl Kaldi {
    pub fn new(window: Window, scale: f32) -> Kaldi {
        let turn = 2.0 * std::f64::consts::PI / (FRAME - 1) as f64;
        let value = |i: usize| match window {
            Window::Povey => (0.5 - 0.5 * (turn * i as f64).cos()).powf(0.85) as f32,
            Window::Hamming => (0.54 - 0.46 * (turn * i as f64).cos()) as f32,
        };
        Kaldi { window: (0..FRAME).map(|i| value(i) * scale).collect() }
    }
}

impl Recipe for Kaldi {
    fn size(&self) -> usize {
        N_FFT
    }

    fn bank(&self) -> FilterBank {
        let mel = |hz: f64| 1127.0 * (hz / 700.0).ln_1p();
        let (low, high) = (mel(LOWEST_HZ), mel(f64::from(SAMPLE_RATE) / 2.0));
        let step = (high - low) / (BINS + 1) as f64;
        FilterBank::new(BINS, N_FFT / 2, |bin, k| {
            let at = (mel(k as f64 * f64::from(SAMPLE_RATE) / N_FFT as f64) - low) / step - bin as f64;
            at.min(2.0 - at)
        })
    }

    fn window(&self, frame: &mut [f32]) {
        let mean = frame.iter().sum::<f32>() / FRAME as f32;
        let mut before = frame.first().copied().unwrap_or(0.0) - mean;
        for (value, window) in frame.iter_mut().zip(&self.window) {
            let sample = *value - mean;
            *value = (sample - PRE_EMPHASIS * before) * window;
            before = sample;
        }
    }

    fn log(&self, energies: &mut [f32]) {
        for energy in energies {
            *energy = energy.max(f32::EPSILON).ln();
        }
    }
}
