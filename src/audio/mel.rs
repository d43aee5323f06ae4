//! Log-mel energies as Whisper hears them, from a stream of samples.
//!
//! The reference is openai/whisper's `log_mel_spectrogram` (and faster-whisper's `FeatureExtractor`, which
//! agrees with it): frames of 400 samples every 160, centred on their time, the front padded by reflection and
//! the end by zeros, a periodic Hann window, power spectrum, Slaney-style mel filters, log10 floored at 1e-10.
//! A recording of `n` samples has `n / 160` frames of content; one frame more counts for the maximum that
//! the clamp of [`LogMel::window`] is relative to, as in the reference.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::filters::FilterBank;
use crate::types::asr::{HOP, LogMel, SAMPLE_RATE};

/// Samples of a frame.
const N_FFT: usize = 400;
/// Frequencies of a frame's spectrum.
const N_FREQS: usize = N_FFT / 2 + 1;
/// Samples before a frame's centre.
const HALF: usize = N_FFT / 2;
/// Power below this counts as this.
const MIN_POWER: f32 = 1e-10;
/// Samples kept back at once: a second.
const BUFFER: usize = SAMPLE_RATE as usize;

/// Makes a [`LogMel`] from samples at 16 kHz.
pub struct MelExtractor {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    bank: FilterBank,
    mel: LogMel,
    /// Samples not yet used up; its first belongs to the next frame's first.
    pending: Vec<f32>,
    /// Whether the reflected front is in `pending`.
    begun: bool,
    samples: u64,
    // Scratch, so that no frame allocates.
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    fft_scratch: Vec<Complex<f32>>,
    power: Vec<f32>,
    energies: Vec<f32>,
}

impl MelExtractor {
    /// An extractor of `bins` mel bins: 80, or 128 for large-v3 and its descendants.
    pub fn new(bins: usize) -> Self {
        let fft = RealFftPlanner::<f32>::new().plan_fft_forward(N_FFT);
        let turn = 2.0 * std::f64::consts::PI / N_FFT as f64;
        MelExtractor {
            window: (0..N_FFT).map(|i| (0.5 - 0.5 * (turn * i as f64).cos()) as f32).collect(),
            bank: slaney(bins),
            mel: LogMel::new(bins),
            pending: Vec::with_capacity(BUFFER + N_FFT),
            begun: false,
            samples: 0,
            frame: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            fft_scratch: fft.make_scratch_vec(),
            power: vec![0.0; N_FREQS],
            energies: vec![0.0; bins],
            fft,
        }
    }

    /// Takes the next samples, any number of them, within [-1, 1].
    pub fn push(&mut self, mut samples: &[f32]) {
        self.samples += samples.len() as u64;
        while !samples.is_empty() {
            let room = (BUFFER - self.pending.len().min(BUFFER)).max(HOP);
            let (now, later) = samples.split_at(room.min(samples.len()));
            self.pending.extend_from_slice(now);
            samples = later;
            self.begin(false);
            self.drain();
        }
    }

    /// The energies of all samples pushed.
    pub fn finish(mut self) -> LogMel {
        let content = usize::try_from(self.samples / HOP as u64).unwrap_or(usize::MAX);
        if content > 0 {
            // Zeros for the last frame of content and the one that counts for the maximum only.
            let len = self.pending.len();
            self.pending.resize(len + N_FFT, 0.0);
            self.begin(true);
            self.drain_up_to(content);
            if self.pending.len() >= N_FFT {
                self.energies(0);
                self.mel.hear(&self.energies);
            }
        }
        self.mel.set_samples(self.samples);
        self.mel
    }

    /// Puts the reflection in front as soon as it is known.
    fn begin(&mut self, at_end: bool) {
        if self.begun || (self.pending.len() <= HALF && !at_end) {
            return;
        }
        let front: Vec<f32> = (1..=HALF).rev().map(|i| self.pending.get(i).copied().unwrap_or(0.0)).collect();
        self.pending.splice(0..0, front);
        self.begun = true;
    }

    /// Computes every frame that lies in what is pending.
    fn drain(&mut self) {
        if self.begun {
            self.drain_up_to(usize::MAX);
        }
    }

    /// Computes frames until there are `frames` in all or samples run out.
    fn drain_up_to(&mut self, frames: usize) {
        let mut at = 0;
        while at + N_FFT <= self.pending.len() && self.mel.frames() < frames {
            self.energies(at);
            self.mel.push(&self.energies);
            at += HOP;
        }
        self.pending.drain(..at);
    }

    /// log10 energies of the frame at `pending[at..at + N_FFT]`.
    fn energies(&mut self, at: usize) {
        let samples = &self.pending[at..at + N_FFT];
        for ((f, &s), &w) in self.frame.iter_mut().zip(samples).zip(&self.window) {
            *f = s * w;
        }
        let done = self.fft.process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.fft_scratch);
        debug_assert!(done.is_ok(), "buffers are made by the transform itself");
        for (p, c) in self.power.iter_mut().zip(&self.spectrum) {
            *p = c.norm_sqr();
        }
        self.bank.apply(&self.power, &mut self.energies);
        for e in &mut self.energies {
            *e = e.max(MIN_POWER).log10();
        }
    }
}

/// Slaney-style filters from 0 to 8000 Hz, each of area 1 (as `librosa.filters.mel` makes them).
fn slaney(bins: usize) -> FilterBank {
    let top = hz_to_mel(f64::from(SAMPLE_RATE) / 2.0);
    let edges: Vec<f64> = (0..bins + 2).map(|i| mel_to_hz(top * i as f64 / (bins + 1) as f64)).collect();
    FilterBank::new(bins, N_FREQS, |bin, k| {
        let (low, centre, high) = (edges[bin], edges[bin + 1], edges[bin + 2]);
        let f = k as f64 * f64::from(SAMPLE_RATE) / N_FFT as f64;
        let rise = (f - low) / (centre - low);
        let fall = (high - f) / (high - centre);
        rise.min(fall) * 2.0 / (high - low)
    })
}

/// Slaney's mel scale: linear to 1000 Hz, logarithmic above.
const LINEAR_STEP: f64 = 200.0 / 3.0;
const LOG_FROM_HZ: f64 = 1000.0;
const LOG_FROM_MEL: f64 = LOG_FROM_HZ / LINEAR_STEP;

fn log_step() -> f64 {
    6.4f64.ln() / 27.0
}

fn hz_to_mel(hz: f64) -> f64 {
    if hz < LOG_FROM_HZ { hz / LINEAR_STEP } else { LOG_FROM_MEL + (hz / LOG_FROM_HZ).ln() / log_step() }
}

fn mel_to_hz(mel: f64) -> f64 {
    if mel < LOG_FROM_MEL {
        mel * LINEAR_STEP
    } else {
        LOG_FROM_HZ * (log_step() * (mel - LOG_FROM_MEL)).exp()
    }
}
