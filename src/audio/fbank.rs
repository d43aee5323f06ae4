//! Log energies in mel bins, which networks of voices hear: a recording cut into frames of 25 ms every 10 ms.
//!
//! | file | does |
//! |---|---|
//! | `kaldi` | frames, window, filters and logarithm as Kaldi has them |
//! | `speechbrain` | the same as SpeechBrain has them |
//!
//! Both are filters over the power spectrum of windowed frames; where a frame lies, what is done to it and what becomes
//! of the energies is a [`Recipe`]'s.

mod kaldi;
mod speechbrain;

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use self::kaldi::Kaldi;
use self::speechbrain::SpeechBrain;
use super::filters::FilterBank;
use crate::types::asr::HOP;
use crate::types::speaker::Features;

/// Samples of a frame.
const FRAME: usize = 400;
const BINS: usize = Fbank::BINS;

/// What is a kind's own.
trait Recipe: Send + Sync {
    /// Samples that a spectrum is taken of: a frame, and zeros behind it.
    fn size(&self) -> usize;

    /// Filters over a spectrum's frequencies.
    fn bank(&self) -> FilterBank;

    /// Samples that a recording's first frame begins before it: frames reach as far beyond its ends, where zeros are.
    fn before(&self) -> usize {
        0
    }

    /// Makes [`FRAME`] samples what the spectrum is taken of.
    fn window(&self, frame: &mut [f32]);

    /// From energies to their logarithms.
    fn log(&self, energies: &mut [f32]);

    /// Raises logarithms that lie far below the loudest of all.
    fn floor(&self, _energies: &mut [f32]) {}
}

/// Computes frames of [`BINS`](Fbank::BINS) bins.
pub struct Fbank {
    recipe: Box<dyn Recipe>,
    fft: Arc<dyn RealToComplex<f32>>,
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
    /// Samples from the beginning of a frame to its middle.
    pub const MIDDLE: usize = FRAME / 2;

    /// As a network hears them.
    pub fn new(features: Features) -> Fbank {
        let recipe: Box<dyn Recipe> = match features {
            Features::Kaldi { window, scale } => Box::new(Kaldi::new(window, scale)),
            Features::SpeechBrain => Box::new(SpeechBrain::new()),
        };
        let fft = RealFftPlanner::<f32>::new().plan_fft_forward(recipe.size());
        Fbank {
            bank: recipe.bank(),
            frame: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            fft_scratch: fft.make_scratch_vec(),
            power: vec![0.0; recipe.size() / 2 + 1],
            recipe,
            fft,
        }
    }

    /// Frames of a recording of so many samples.
    pub fn frames(&self, samples: usize) -> usize {
        frames(samples + 2 * self.recipe.before())
    }

    /// The energies of a recording at 16 kHz within [-1, 1], `(frames, bins)`.
    pub fn energies(&mut self, samples: &[f32]) -> Vec<f32> {
        let zeros = self.recipe.before();
        let mut energies = match zeros {
            0 => self.whole(samples),
            zeros => self.whole(&[&vec![0.0; zeros], samples, &vec![0.0; zeros]].concat()),
        };
        self.floor(&mut energies);
        energies
    }

    /// The energies of frames that lie whole in some samples of a recording, the first at their beginning: whoever joins
    /// frames of several such calls has [`floor`](Self::floor) see all that the network hears of it.
    pub fn whole(&mut self, samples: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; frames(samples.len()) * BINS];
        for (at, energies) in out.chunks_exact_mut(BINS).enumerate() {
            self.frame[..FRAME].copy_from_slice(&samples[at * HOP..][..FRAME]);
            self.recipe.window(&mut self.frame[..FRAME]);
            self.frame[FRAME..].fill(0.0);
            let (frame, spectrum) = (&mut self.frame, &mut self.spectrum);
            let done = self.fft.process_with_scratch(frame, spectrum, &mut self.fft_scratch);
            debug_assert!(done.is_ok(), "buffers are made by the transform itself");
            for (power, value) in self.power.iter_mut().zip(&self.spectrum) {
                *power = value.norm_sqr();
            }
            self.bank.apply(&self.power, energies);
        }
        self.recipe.log(&mut out);
        out
    }

    /// Raises energies that lie so far below the loudest of all these that the network was never shown such.
    pub fn floor(&self, energies: &mut [f32]) {
        self.recipe.floor(energies);
    }
}

/// Frames that lie whole in so many samples.
fn frames(samples: usize) -> usize {
    samples.checked_sub(FRAME).map_or(0, |room| room / HOP + 1)
}
