//! Silero's detector for 16 kHz, version 6 (snakers4/silero-vad, `silero_vad_16k.safetensors`).
//!
//! | part | a frame |
//! |---|---|
//! | magnitudes of 4 spectra ([`spectra`]) | 4 x 129 |
//! | convolution over 3, ReLU | 4 x 128 |
//! | the same, of stride 2 | 2 x 64 |
//! | the same, of stride 2 | 64 |
//! | the same | 128 |
//! | LSTM | 128 |
//! | ReLU, one product, sigmoid | 1 |
//!
//! All but the LSTM sees one frame with the 64 samples before it, so all frames of all rows are one batch to it.

mod spectra;
#[cfg(test)]
mod tests;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{CONTEXT, Error, FRAME, HIDDEN, Row, Vad, VadState};
use crate::model::weights::safetensors::SafetensorsFolder;
use crate::model::{self, Model, Size};
use crate::ops::{self, Linear, Lstm, LstmState};
use crate::types::model::Footprint;
use spectra::{BINS, Frame, SPECTRA, Spectra, TAPS};

/// Frames that go through the convolutions at a time: few enough that what they pass on stays in the second-level
/// cache.
const PASS: usize = 256;
/// Channels between the convolutions.
const WIDE: usize = 128;
const NARROW: usize = 64;

/// A loaded detector.
pub struct SileroVad {
    spectra: Spectra,
    conv1: Linear,
    conv2: Linear,
    conv3: Linear,
    conv4: Linear,
    lstm: Lstm,
    out: Linear,
    device: Device,
}

impl SileroVad {
    /// Loads the folder with the one safetensors file.
    ///
    /// # Errors
    /// A file that is missing, broken or of another network; a device without room.
    pub fn load(dir: &Path, device: &Device) -> Result<SileroVad, Error> {
        let folder = SafetensorsFolder::open(dir)?;
        let get = |name: &str, shape: &[usize]| folder.tensor(name, shape, DType::F32, device);
        // Outputs by taps by channels, as the rows lie that a convolution sees. Taps outside `taps` only ever see the
        // padding.
        let conv = |i: usize, outputs: usize, inputs: usize, taps: std::ops::Range<usize>| {
            let weight = get(&format!("conv{i}.weight"), &[outputs, inputs, TAPS])?;
            let bias = get(&format!("conv{i}.bias"), &[outputs])?;
            let weight = weight.narrow(2, taps.start, taps.len())?.transpose(1, 2)?;
            Ok::<_, Error>(Linear::new(&weight.reshape((outputs, taps.len() * inputs))?, Some(&bias))?)
        };
        let gates = 4 * HIDDEN;
        let lstm = Lstm::new(
            &get("lstm_cell.weight_ih", &[gates, WIDE])?,
            &get("lstm_cell.weight_hh", &[gates, HIDDEN])?,
            &get("lstm_cell.bias_ih", &[gates])?,
            &get("lstm_cell.bias_hh", &[gates])?,
        )?;
        let out = get("final_conv.weight", &[1, HIDDEN, 1])?.reshape((1, HIDDEN))?;
        Ok(SileroVad {
            spectra: Spectra::load(&folder)?,
            conv1: conv(1, WIDE, BINS, 0..3)?,
            conv2: conv(2, NARROW, WIDE, 0..3)?,
            // Of two frames, with one of zeros before them.
            conv3: conv(3, NARROW, NARROW, 1..3)?,
            // Of one frame, between zeros.
            conv4: conv(4, WIDE, NARROW, 1..2)?,
            lstm,
            out: Linear::new(&out, Some(&get("final_conv.bias", &[1])?))?,
            device: device.clone(),
        })
    }

    /// The probability of speech in every frame of each row, and what its stream goes on with. A row's numbers do not
    /// depend on the others, nor on where its stream is cut into rows.
    ///
    /// # Errors
    /// A row that [`Row::check`] refuses; a device that fails.
    pub fn hear(&self, rows: &[Row]) -> Result<Vec<(Vec<f32>, VadState)>, Error> {
        rows.iter().try_for_each(Row::check)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let frames: Vec<Frame<'_>> = rows.iter().flat_map(frames).collect();
        let encoded = frames.chunks(PASS).map(|pass| self.encode(pass)).collect::<Result<Vec<_>, _>>()?;
        let mut starts = vec![0];
        starts.extend(rows.iter().scan(0, |end, row| {
            *end += row.frames();
            Some(*end)
        }));
        let gather = |part: fn(&VadState) -> &[f32; HIDDEN]| {
            let values = rows.iter().flat_map(|row| part(&row.state)).copied().collect();
            Tensor::from_vec(values, (rows.len(), HIDDEN), &self.device)
        };
        let state = LstmState { h: gather(|s| &s.h)?, c: gather(|s| &s.c)? };
        let (x, state) = ops::lstm(&Tensor::cat(&encoded, 0)?, &starts, &self.lstm, &state)?;
        let scores = ops::linear(&x.relu()?, &self.out)?.flatten_all()?.to_vec1::<f32>()?;
        let speech: Vec<f32> = scores.into_iter().map(|score| 1.0 / (1.0 + (-score).exp())).collect();
        let (h, c) = (state.h.to_vec2::<f32>()?, state.c.to_vec2::<f32>()?);
        let states = rows.iter().zip(h.iter().zip(&c)).map(|(row, (h, c))| after(row, h, c));
        Ok(starts.windows(2).map(|w| speech[w[0]..w[1]].to_vec()).zip(states).collect())
    }

    /// What the LSTM hears of each frame: `(frames, 128)`.
    fn encode(&self, frames: &[Frame<'_>]) -> candle_core::Result<Tensor> {
        let n = frames.len();
        let x = Tensor::from_vec(self.spectra.rows(frames), (n * SPECTRA, TAPS * BINS), &self.device)?;
        let x = ops::linear_relu(&x, &self.conv1)?.reshape((n, SPECTRA, WIDE))?;
        let x = ops::linear_relu(&ops::unfold(&x, TAPS, 2, 1)?, &self.conv2)?;
        let x = ops::linear_relu(&x.reshape((n, 2 * NARROW))?, &self.conv3)?;
        ops::linear_relu(&x, &self.conv4)
    }
}

/// A row's frames, each with the samples before it.
fn frames(row: &Row) -> impl Iterator<Item = Frame<'_>> {
    row.samples.chunks_exact(FRAME).enumerate().map(|(i, samples)| Frame {
        before: match (i * FRAME).checked_sub(CONTEXT) {
            Some(from) => &row.samples[from..i * FRAME],
            None => &row.state.context,
        },
        samples,
    })
}

/// The state behind a row, from the network's.
fn after(row: &Row, h: &[f32], c: &[f32]) -> VadState {
    let mut state = VadState::default();
    state.context.copy_from_slice(&row.samples[row.samples.len() - CONTEXT..]);
    state.h.copy_from_slice(h);
    state.c.copy_from_slice(c);
    state
}

/// Loads a folder; the registry's entry.
///
/// # Errors
/// As [`SileroVad::load`].
pub fn load(dir: &Path, device: &Device) -> Result<Box<dyn Model<Vad>>, Error> {
    Ok(Box::new(SileroVad::load(dir, device)?))
}

impl Model<Vad> for SileroVad {
    fn step(&mut self, rows: &Vec<Row>) -> Result<Vec<(Vec<f32>, VadState)>, model::Error> {
        Ok(self.hear(rows)?)
    }

    /// Its steps take less than its weights: a chunk of 32 ms a row.
    fn footprint(&self, _: Size) -> Footprint {
        let linears = [&self.conv1, &self.conv2, &self.conv3, &self.conv4, &self.out].map(Linear::bytes);
        let weights = (linears.iter().sum::<usize>() + self.lstm.bytes()) as u64;
        Footprint { weights, cache: 0, step: weights }
    }
}
