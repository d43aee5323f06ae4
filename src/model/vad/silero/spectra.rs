//! What the network sees of a frame: the magnitudes of four overlapping spectra.
//!
//! The reference computes them as a convolution with a basis of windowed sines and cosines, which its file holds. A
//! fast transform gives the same in a thirtieth of the work; that the basis is this one is checked.

use std::f64::consts::TAU;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::Error;
use crate::model::vad::{CONTEXT, FRAME};
use crate::model::weights;
use crate::model::weights::safetensors::SafetensorsFolder;
use crate::ops::par;

/// Samples of a spectrum, and from one to the next.
const WINDOW: usize = 256;
const HOP: usize = 128;
/// Magnitudes of a spectrum.
pub(super) const BINS: usize = WINDOW / 2 + 1;
/// Samples that the end of a frame is continued with, as its mirror image.
const MIRRORED: usize = 64;
const SIGNAL: usize = CONTEXT + FRAME + MIRRORED;
/// Spectra of a frame.
pub(super) const SPECTRA: usize = (SIGNAL - WINDOW) / HOP + 1;
/// Spectra that the first convolution sees at a time.
pub(super) const TAPS: usize = 3;
/// Width of a row: what the first convolution sees at one place.
const ROW: usize = TAPS * BINS;
/// Rough cost of one value on one core, to decide whether threads pay.
const NS_A_VALUE: f64 = 0.7;

/// One frame of a stream.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    /// The [`CONTEXT`] samples before it.
    pub(super) before: &'a [f32],
    /// Its [`FRAME`] samples.
    pub(super) samples: &'a [f32],
}

/// The transform.
pub(super) struct Spectra {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
}

/// What one thread works in.
struct Scratch {
    signal: Vec<f32>,
    windowed: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    fft: Vec<Complex<f32>>,
}

impl Spectra {
    /// The transform that the file's basis stands for.
    ///
    /// # Errors
    /// A basis that is missing, or another one.
    pub(super) fn load(folder: &SafetensorsFolder) -> Result<Spectra, Error> {
        let (name, mut basis) = ("stft_conv.weight", Vec::new());
        let file = folder.append_f32(name, &[2 * BINS, 1, WINDOW], &mut basis)?;
        let turn = |bin: usize, n: usize| (bin * n % WINDOW) as f64 / WINDOW as f64 * TAU;
        // Hann's, periodic.
        let window: Vec<f64> = (0..WINDOW).map(|n| 0.5 - 0.5 * turn(1, n).cos()).collect();
        let differs = |row: usize, n: usize, value: f32| {
            let angle = turn(row % BINS, n);
            let wave = if row < BINS { angle.cos() } else { -angle.sin() };
            (window[n] * wave - f64::from(value)).abs() > 1e-5
        };
        let mut values = basis.iter().enumerate();
        if values.any(|(i, value)| differs(i / WINDOW, i % WINDOW, *value)) {
            let problem = "is not the short-time Fourier transform of Silero's 16 kHz detectors";
            return Err(weights::Error::unsupported(file, format!("tensor {name}"), problem).into());
        }
        let window = window.into_iter().map(|w| w as f32).collect();
        Ok(Spectra { fft: RealFftPlanner::new().plan_fft_forward(WINDOW), window })
    }

    /// For each spectrum of each frame: the magnitudes of the one before it, its own, and those of the one after it;
    /// zeros beyond the frame's ends.
    pub(super) fn rows(&self, frames: &[Frame<'_>]) -> Vec<f32> {
        let mut out = vec![0f32; frames.len() * SPECTRA * ROW];
        par::rows_mut(&mut out, SPECTRA * ROW, NS_A_VALUE, |first, part| {
            let mut scratch = Scratch {
                signal: vec![0.0; SIGNAL],
                windowed: self.fft.make_input_vec(),
                spectrum: self.fft.make_output_vec(),
                fft: self.fft.make_scratch_vec(),
            };
            for (frame, rows) in frames[first..].iter().zip(part.chunks_exact_mut(SPECTRA * ROW)) {
                self.frame(*frame, rows, &mut scratch);
            }
        });
        out
    }

    fn frame(&self, frame: Frame<'_>, rows: &mut [f32], scratch: &mut Scratch) {
        let Scratch { signal, windowed, spectrum, fft } = scratch;
        let (heard, mirrored) = signal.split_at_mut(CONTEXT + FRAME);
        heard[..CONTEXT].copy_from_slice(frame.before);
        heard[CONTEXT..].copy_from_slice(frame.samples);
        // The last sample is the mirror.
        mirrored.iter_mut().zip(heard.iter().rev().skip(1)).for_each(|(m, s)| *m = *s);
        for i in 0..SPECTRA {
            for ((out, sample), weight) in windowed.iter_mut().zip(&signal[i * HOP..]).zip(&self.window) {
                *out = sample * weight;
            }
            let done = self.fft.process_with_scratch(windowed, spectrum, fft);
            debug_assert!(done.is_ok(), "buffers are made by the transform itself");
            let own = i * ROW + BINS;
            for (out, value) in rows[own..own + BINS].iter_mut().zip(spectrum.iter()) {
                *out = value.norm_sqr().sqrt();
            }
            if i > 0 {
                rows.copy_within(own..own + BINS, (i - 1) * ROW + 2 * BINS);
            }
            if i + 1 < SPECTRA {
                rows.copy_within(own..own + BINS, (i + 1) * ROW);
            }
        }
    }
}
