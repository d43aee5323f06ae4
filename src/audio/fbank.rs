//! Log energies in mel bins as Kaldi computes them (`compute-fbank-feats`), which networks of voices hear.
//!
//! The reference is `torchaudio.compliance.kaldi.fbank`, which agrees with Kaldi: frames of 25 ms every 10 ms that lie
//! whole in the recording, no dither, no energy; each without its mean, pre-emphasised by 0.97, windowed, padded to 512
//! samples; the power spectrum below the Nyquist frequency under triangles that are even on the scale
//! `1127 ln(1 + f / 700)` from 20 Hz to the Nyquist frequency; the natural logarithm of it, floored at 2^-23.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::filters::FilterBank;
use crate::types::asr::{HOP, SAMPLE_RATE};
use crate::types::speaker::{Features, Window};

/// Samples of a frame.
const FRAME: usize = 400;
const N_FFT: usize = 512;
const PRE_EMPHASIS: f32 = 0.97;
const LOWEST_HZ: f64 = 20.0;

/// Computes frames of [`BINS`](Fbank::BINS) bins.
pub struct Fbank {
    fft: Arc<dyn RealToComplex<f32>>,
    /// With the scale of the samples in it.
    window: Vec<f32>,
    bank: FilterBank,
    // Scratch, so that no frame allocates.
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    fft_scratch: Vec<Complex<f32>>,
    power: Vec<f32>,
}

impl Fbank {
    /// Mel bins of a frame.
    pub const BINS: usize = 80;
    /// Samples from the beginning of one frame to that of the next.
    pub const HOP: usize = HOP;

    /// As a network hears them.
    pub fn new(features: Features) -> Fbank {
        let Features::Kaldi { window, scale } = features;
        let fft = RealFftPlanner::<f32>::new().plan_fft_forward(N_FFT);
        let turn = 2.0 * std::f64::consts::PI / (FRAME - 1) as f64;
        let value = |i: usize| match window {
            Window::Povey => (0.5 - 0.5 * (turn * i as f64).cos()).powf(0.85) as f32,
            Window::Hamming => (0.54 - 0.46 * (turn * i as f64).cos()) as f32,
        };
        Fbank {
            window: (0..FRAME).map(|i| value(i) * scale).collect(),
            bank: triangles(),
            frame: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            fft_scratch: fft.make_scratch_vec(),
            power: vec![0.0; N_FFT / 2],
            fft,
        }
    }

    /// Frames of so many samples.
    pub fn frames(samples: usize) -> usize {
        samples.checked_sub(FRAME).map_or(0, |room| room / HOP + 1)
    }

    /// The energies of samples at 16 kHz within [-1, 1], `(frames, bins)`.
    pub fn energies(&mut self, samples: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; Self::frames(samples.len()) * Self::BINS];
        for (at, energies) in out.chunks_exact_mut(Self::BINS).enumerate() {
            self.one(&samples[at * HOP..][..FRAME], energies);
        }
        out
    }

    fn one(&mut self, samples: &[f32], energies: &mut [f32]) {
        let mean = samples.iter().sum::<f32>() / FRAME as f32;
        let mut before = samples[0] - mean;
        for ((out, sample), window) in self.frame.iter_mut().zip(samples).zip(&self.window) {
            let sample = sample - mean;
            *out = (sample - PRE_EMPHASIS * before) * window;
            before = sample;
        }
        self.frame[FRAME..].fill(0.0);
        let done = self.fft.process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.fft_scratch);
        debug_assert!(done.is_ok(), "buffers are made by the transform itself");
        for (power, value) in self.power.iter_mut().zip(&self.spectrum) {
            *power = value.norm_sqr();
        }
        self.bank.apply(&self.power, energies);
        for energy in energies {
            *energy = energy.max(f32::EPSILON).ln();
        }
    }
}

fn triangles() -> FilterBank {
    let mel = |hz: f64| 1127.0 * (hz / 700.0).ln_1p();
    let (low, high) = (mel(LOWEST_HZ), mel(f64::from(SAMPLE_RATE) / 2.0));
    let step = (high - low) / (Fbank::BINS + 1) as f64;
    FilterBank::new(Fbank::BINS, N_FFT / 2, |bin, k| {
        let at = (mel(k as f64 * f64::from(SAMPLE_RATE) / N_FFT as f64) - low) / step - bin as f64;
        at.min(2.0 - at)
    })
}
