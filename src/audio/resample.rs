//! Any sample rate to 16 kHz, mono, a stream at a time, without delay.
//!
//! The resampler is rubato's synchronous FFT one: linear phase, with an anti-aliasing filter of about
//! 32 ms whose stop band begins at 8 kHz. Its delay is taken off the front and its tail is flushed, so sample
//! `i` of the output is the signal at `i / 16000` s and the output lasts as long as the input.

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use super::error::{Error, Stop};
use crate::types::asr::SAMPLE_RATE;

/// Sample rates that are believed. Below, speech is lost; above, no recorder goes.
pub(super) const RATES: std::ops::RangeInclusive<u32> = 4_000..=768_000;
/// Most samples handed to a sink at once.
pub(super) const CHUNK: usize = 4096;

/// Where samples at 16 kHz go.
pub type Sink<'a> = &'a mut dyn FnMut(&[f32]) -> Result<(), Stop>;

/// A stream at one sample rate on its way to 16 kHz.
pub struct Resampler {
    rate: u32,
    /// `None` where the input is at 16 kHz already.
    fft: Option<Box<Fft<f32>>>,
    input: Vec<f32>,
    output: Vec<f32>,
    /// Output samples still to be dropped: the delay of the filter.
    drop: usize,
    taken: u64,
    given: u64,
}

impl Resampler {
    /// A stream at `rate` samples a second.
    ///
    /// # Errors
    /// The rate is not believed.
    pub fn new(rate: u32) -> Result<Self, Error> {
        let unsupported = || Error::Unsupported { what: format!("audio at {rate} samples a second") };
        if !RATES.contains(&rate) {
            return Err(unsupported());
        }
        let mut resampler =
            Resampler { rate, fft: None, input: Vec::new(), output: Vec::new(), drop: 0, taken: 0, given: 0 };
        if rate != SAMPLE_RATE {
            // The block of an FFT resampler is its filter: about 32 ms.
            let block = (rate / 32).max(256) as usize;
            let fft = Fft::new_custom(
                rate as usize,
                SAMPLE_RATE as usize,
                block,
                1,
                1,
                rubato::WindowFunction::BlackmanHarris2,
                FixedSync::Both,
            )
            .map_err(|_| unsupported())?;
            resampler.drop = fft.output_delay();
            resampler.output = vec![0.0; fft.output_frames_max()];
            resampler.input.reserve(fft.input_frames_max());
            resampler.fft = Some(Box::new(fft));
        }
        Ok(resampler)
    }

    /// Samples a second of the input.
    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// Samples given to sinks so far.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Takes samples in and hands on what is ready.
    ///
    /// # Errors
    /// The sink wants no more.
    pub fn push(&mut self, mut samples: &[f32], sink: Sink<'_>) -> Result<(), Error> {
        self.taken = self.taken.saturating_add(samples.len() as u64);
        let Some(block) = self.fft.as_ref().map(|fft| fft.input_frames_next()) else {
            return self.pass(samples, sink);
        };
        while !samples.is_empty() {
            let n = (block - self.input.len()).min(samples.len());
            let (now, later) = samples.split_at(n);
            self.input.extend_from_slice(now);
            samples = later;
            if self.input.len() == block {
                self.block(u64::MAX, sink)?;
            }
        }
        Ok(())
    }

    /// Hands on what the filter still holds.
    ///
    /// # Errors
    /// The sink wants no more.
    pub fn finish(&mut self, sink: Sink<'_>) -> Result<(), Error> {
        let Some(block) = self.fft.as_ref().map(|fft| fft.input_frames_next()) else { return Ok(()) };
        let whole = (u128::from(self.taken) * u128::from(SAMPLE_RATE)).div_ceil(u128::from(self.rate)) as u64;
        while self.given < whole {
            self.input.resize(block, 0.0);
            self.block(whole, sink)?;
        }
        Ok(())
    }

    /// Resamples the full input block and hands on its output, up to `whole` samples in all.
    fn block(&mut self, whole: u64, sink: Sink<'_>) -> Result<(), Error> {
        let Some(fft) = self.fft.as_mut() else { return Ok(()) };
        let failed = |e: &dyn std::fmt::Display| Error::Io(std::io::Error::other(format!("resampler: {e}")));
        let (frames_in, frames_out) = (self.input.len(), self.output.len());
        let input = SequentialSlice::new(self.input.as_slice(), 1, frames_in).map_err(|e| failed(&e))?;
        let mut output =
            SequentialSlice::new_mut(self.output.as_mut_slice(), 1, frames_out).map_err(|e| failed(&e))?;
        let (_, made) = fft.process_into_buffer(&input, &mut output, None).map_err(|e| failed(&e))?;
        self.input.clear();
        let late = self.drop.min(made);
        self.drop -= late;
        let output = std::mem::take(&mut self.output);
        let ready = output.get(late..made).unwrap_or_default();
        let keep = usize::try_from(whole - self.given.min(whole)).unwrap_or(usize::MAX).min(ready.len());
        let result = self.pass(&ready[..keep], sink);
        self.output = output;
        result
    }

    /// Hands samples on in bounded chunks, limited to the range that recorders keep: a float file may hold
    /// anything, and every network here was trained on [-1, 1].
    fn pass(&mut self, samples: &[f32], sink: Sink<'_>) -> Result<(), Error> {
        let mut chunk = [0.0f32; CHUNK];
        for part in samples.chunks(CHUNK) {
            let out = &mut chunk[..part.len()];
            for (o, &s) in out.iter_mut().zip(part) {
                *o = s.clamp(-1.0, 1.0);
            }
            self.given += out.len() as u64;
            sink(out)?;
        }
        Ok(())
    }
}
