//! PyanNet as pyannote's segmentation-3.0 has it (Bredin, "pyannote.audio 2.1 speaker diarization pipeline", 2023; Plaquet
//! and Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization", 2023).
//!
//! | part | of 160,000 samples |
//! |---|---|
//! | 80 band-pass filters of 251 samples, stride 10, sizes, the largest of three ([`sinc`]) | `5325 x 80` |
//! | convolution over 5, the largest of three, twice | `589 x 60` |
//! | 4 layers of LSTM in both directions | `589 x 256` |
//! | 2 products | `589 x 128` |
//! | nobody, each of three speakers, each two of them | `589 x 7` |
//!
//! Before the filters, and behind every pooling, a channel is normalised over the window.

mod sinc;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{DType, Device, IndexOp, Tensor};

use super::{Error, Front, Listener};
use crate::model::weights::Checkpoint;
use crate::ops::{self, Conv, Linear, Lstm, LstmState, Moves};

/// Units of an LSTM in one direction.
const HIDDEN: usize = 128;
const LAYERS: usize = 4;
/// Channels of the filters, and of the convolutions.
const FILTERS: usize = 80;
const CHANNELS: usize = 60;
/// Outputs of the products, and classes.
const WIDE: usize = 128;
const CLASSES: usize = 7;
/// Values that the largest is taken of.
const POOL: usize = 3;
/// What is left of a value below zero.
const LEAK: f32 = 0.01;

/// Its windows: 10 s.
pub const FRONT: Front = Front {
    samples: 160_000,
    frames: 589,
    hop: 270,
    first: 495,
    speakers: 3,
    classes: &[0b000, 0b001, 0b010, 0b100, 0b011, 0b101, 0b110],
};

/// Bytes that a step takes besides weights for each 10 ms, on a CPU and on a GPU: measured, there as composed on a CPU with
/// the windows of the largest convolution.
pub const FRAME_BYTES: [u64; 2] = [8_000, 28_000];

/// A loaded network.
struct PyanNet {
    wave: (Tensor, Tensor),
    convs: Vec<(Conv, Tensor, Tensor)>,
    lstm: Vec<(Lstm, Lstm)>,
    products: Vec<Linear>,
    classes: Linear,
    device: Device,
}

/// Loads the tensors of a checkpoint.
///
/// # Errors
/// Tensors that are missing or of other shapes; a device without room.
pub fn load(file: &Checkpoint, device: &Device) -> Result<Box<dyn Listener>, Error> {
    let get = |name: &str, shape: &[usize]| file.tensor(name, shape, device);
    let pair = |name: &str, size: usize| {
        Ok::<_, Error>((get(&format!("{name}.weight"), &[size])?, get(&format!("{name}.bias"), &[size])?))
    };
    let strided = Moves { stride: (10, 1), ..Moves::PLAIN };
    let filters = Conv::over_time(&sinc::filters(file, device)?, None, strided)?;
    let norm = |at: usize, size: usize| pair(&format!("sincnet.norm1d.{at}"), size);
    let (weight, bias) = norm(0, FILTERS)?;
    let mut convs = vec![(filters, weight, bias)];
    for (at, inputs) in [(1, FILTERS), (2, CHANNELS)] {
        let name = format!("sincnet.conv1d.{at}");
        let weight = get(&format!("{name}.weight"), &[CHANNELS, inputs, 5])?;
        let bias = get(&format!("{name}.bias"), &[CHANNELS])?;
        let (scale, shift) = norm(at, CHANNELS)?;
        convs.push((Conv::over_time(&weight, Some(&bias), Moves::PLAIN)?, scale, shift));
    }
    let one = |layer: usize, end: &str| {
        let inputs = if layer == 0 { CHANNELS } else { 2 * HIDDEN };
        let part = |name: &str, shape: &[usize]| get(&format!("lstm.{name}_l{layer}{end}"), shape);
        let (input, hidden) =
            (part("weight_ih", &[4 * HIDDEN, inputs])?, part("weight_hh", &[4 * HIDDEN, HIDDEN])?);
        let biases = (part("bias_ih", &[4 * HIDDEN])?, part("bias_hh", &[4 * HIDDEN])?);
        Ok::<_, Error>(Lstm::new(&input, &hidden, &biases.0, &biases.1)?)
    };
    let product = |name: &str, outputs: usize, inputs: usize| {
        let weight = get(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok::<_, Error>(Linear::new(&weight, Some(&get(&format!("{name}.bias"), &[outputs])?))?)
    };
    Ok(Box::new(PyanNet {
        wave: pair("sincnet.wav_norm1d", 1)?,
        convs,
        lstm: (0..LAYERS).map(|i| Ok((one(i, "")?, one(i, "_reverse")?))).collect::<Result<_, Error>>()?,
        products: vec![product("linear.0", WIDE, 2 * HIDDEN)?, product("linear.1", WIDE, WIDE)?],
        classes: product("classifier", CLASSES, WIDE)?,
        device: device.clone(),
    }))
}

impl PyanNet {
    /// What the convolutions make of a window: `(frames, channels)`.
    fn encode(&self, window: &[f32]) -> candle_core::Result<Tensor> {
        let x = Tensor::from_slice(window, (window.len(), 1), &self.device)?;
        // Leaks nothing: what is below zero stays as it is.
        let mut x = ops::instance_norm(&x, &self.wave.0, &self.wave.1, 1.0)?;
        for (at, (conv, weight, bias)) in self.convs.iter().enumerate() {
            let y = ops::conv(&x.unsqueeze(1)?, conv)?.squeeze(1)?;
            x = ops::instance_norm(&ops::max_pool(&y, POOL, at == 0)?, weight, bias, LEAK)?;
        }
        Ok(x)
    }

    /// One layer over rows of as many frames each, in both directions: `(rows * frames, 2 HIDDEN)`.
    fn both_ways(
        &self,
        x: &Tensor,
        rows: usize,
        (ahead, back): &(Lstm, Lstm),
    ) -> candle_core::Result<Tensor> {
        let steps = x.dim(0)?;
        let frames = steps / rows;
        let starts: Vec<usize> = (0..=rows).map(|row| row * frames).collect();
        let turned: Vec<u32> =
            (0..steps).map(|at| (at / frames * frames + frames - 1 - at % frames) as u32).collect();
        let turned = Tensor::from_vec(turned, steps, &self.device)?;
        let zeros = Tensor::zeros((rows, HIDDEN), DType::F32, &self.device)?;
        let state = LstmState { h: zeros.clone(), c: zeros };
        let (ahead, _) = ops::lstm(x, &starts, ahead, &state)?;
        let (back, _) = ops::lstm(&x.index_select(&turned, 0)?, &starts, back, &state)?;
        Tensor::cat(&[ahead, back.index_select(&turned, 0)?], 1)
    }
}

impl Listener for PyanNet {
    fn hear(&self, windows: &[Arc<[f32]>]) -> candle_core::Result<Vec<Vec<f32>>> {
        let encoded = windows.iter().map(|window| self.encode(window)).collect::<Result<Vec<_>, _>>()?;
        let mut x = Tensor::cat(&encoded, 0)?;
        for layer in &self.lstm {
            x = self.both_ways(&x, windows.len(), layer)?;
        }
        for product in &self.products {
            let y = ops::linear(&x, product)?;
            x = (y.relu()? + (y.minimum(0f64)? * f64::from(LEAK))?)?;
        }
        let scores = ops::linear(&x, &self.classes)?.reshape((windows.len(), (), CLASSES))?;
        (0..windows.len()).map(|row| Ok(log_softmax(scores.i(row)?.flatten_all()?.to_vec1()?))).collect()
    }

    fn bytes(&self) -> usize {
        let convs: usize = self.convs.iter().map(|(conv, ..)| conv.bytes()).sum();
        let lstm: usize = self.lstm.iter().map(|(ahead, back)| ahead.bytes() + back.bytes()).sum();
        convs + lstm + self.products.iter().map(Linear::bytes).sum::<usize>() + self.classes.bytes()
    }
}

/// Logarithms of the probabilities of every frame's classes.
fn log_softmax(mut scores: Vec<f32>) -> Vec<f32> {
    for frame in scores.chunks_exact_mut(CLASSES) {
        let most = frame.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = frame.iter().map(|score| (score - most).exp()).sum();
        let all = most + sum.ln();
        frame.iter_mut().for_each(|score| *score -= all);
    }
    scores
}
