//! The features that speech networks hear.

use std::ops::Range;

use super::SAMPLE_RATE;

/// Log10 mel energies of a whole recording, before Whisper's clamp and scale.
///
/// Kept as 16-bit fixed point over [`LogMel::FLOOR`]..[`LogMel::CEIL`]: an hour of 80 bins takes 58 MB, and
/// the rounding (1.1e-4 in log10, 2.7e-5 after Whisper's scale) is below what the reference's own f32 FFT
/// differs by from machine to machine.
#[derive(Debug, Clone, PartialEq)]
pub struct LogMel {
    bins: usize,
    /// Frame-major: frame `t`, bin `m` at `t * bins + m`.
    data: Vec<u16>,
    /// Samples at [`SAMPLE_RATE`] that the frames cover.
    samples: u64,
    max: u16,
}

impl LogMel {
    /// log10 of the smallest energy kept (Whisper's own floor of 1e-10).
    pub const FLOOR: f32 = -10.0;
    /// log10 above any energy that samples within [-1, 1] can give.
    pub const CEIL: f32 = 5.0;
    const STEPS_PER_UNIT: f32 = 65_535.0 / (Self::CEIL - Self::FLOOR);

    /// No frames yet, `bins` energies a frame.
    pub fn new(bins: usize) -> Self {
        LogMel { bins, data: Vec::new(), samples: 0, max: 0 }
    }

    /// Mel bins a frame.
    pub fn bins(&self) -> usize {
        self.bins
    }

    /// Frames held.
    pub fn frames(&self) -> usize {
        self.data.len() / self.bins.max(1)
    }

    /// Seconds of audio covered.
    pub fn seconds(&self) -> f64 {
        self.samples as f64 / f64::from(SAMPLE_RATE)
    }

    /// Sets the number of samples that the frames were made from.
    pub fn set_samples(&mut self, samples: u64) {
        self.samples = samples;
    }

    /// Appends one frame of log10 energies; `frame.len()` must be [`bins`](Self::bins).
    pub fn push(&mut self, frame: &[f32]) {
        debug_assert_eq!(frame.len(), self.bins);
        for &energy in frame {
            let step = Self::step(energy);
            self.max = self.max.max(step);
            self.data.push(step);
        }
    }

    /// Counts a frame for the recording's maximum without keeping it: the reference computes one frame past the
    /// last that it transcribes, and clamps relative to the loudest of all.
    pub fn hear(&mut self, frame: &[f32]) {
        for &energy in frame {
            self.max = self.max.max(Self::step(energy));
        }
    }

    /// The loudest energy, as [`window`](Self::window) takes it; 0 is silence.
    pub fn loudest(&self) -> u16 {
        self.max
    }

    /// The loudest of these frames, as far as there are such.
    pub fn loudest_of(&self, frames: Range<usize>) -> u16 {
        let end = frames.end.min(self.frames());
        let energies = self.data.get(frames.start * self.bins..end * self.bins);
        energies.unwrap_or_default().iter().copied().max().unwrap_or_default()
    }

    /// Writes a window of `frames` frames into `out`, bin-major (`bins` x `frames`): those of `stretches` one after
    /// the other as Whisper hears them, clamped to 8 below the `loudest`, then `(x + 4) / 4`. What is left of the
    /// window is zero, as the reference pads after scaling.
    pub fn window(
        &self,
        stretches: impl Iterator<Item = Range<usize>>,
        frames: usize,
        loudest: u16,
        out: &mut [f32],
    ) {
        debug_assert_eq!(out.len(), self.bins * frames);
        out.fill(0.0);
        let floor = Self::value(loudest) - 8.0;
        for (t, frame) in stretches.flatten().take_while(|&f| f < self.frames()).take(frames).enumerate() {
            for (m, &step) in self.data[frame * self.bins..][..self.bins].iter().enumerate() {
                out[m * frames + t] = (Self::value(step).max(floor) + 4.0) / 4.0;
            }
        }
    }

    fn step(energy: f32) -> u16 {
        ((energy.clamp(Self::FLOOR, Self::CEIL) - Self::FLOOR) * Self::STEPS_PER_UNIT).round() as u16
    }

    fn value(step: u16) -> f32 {
        f32::from(step) / Self::STEPS_PER_UNIT + Self::FLOOR
    }
}
