//! The features that speech networks hear.

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

    /// Whether every energy is at the floor: digital silence, or nothing at all.
    pub fn is_silent(&self) -> bool {
        self.max == 0
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

    /// Writes the window of `frames` frames that starts at `seek` into `out`, bin-major (`bins` x `frames`),
    /// as Whisper hears it: clamped to 8 below the recording's maximum, then `(x + 4) / 4`. Frames past the
    /// end are zero, as the reference pads after scaling.
    pub fn window(&self, seek: usize, frames: usize, out: &mut [f32]) {
        debug_assert_eq!(out.len(), self.bins * frames);
        out.fill(0.0);
        let floor = Self::value(self.max) - 8.0;
        let have = self.frames().saturating_sub(seek).min(frames);
        for t in 0..have {
            let frame = &self.data[(seek + t) * self.bins..][..self.bins];
            for (m, &step) in frame.iter().enumerate() {
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
