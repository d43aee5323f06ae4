//! Band-pass filters of learnt bounds (Ravanelli and Bengio, "Speaker recognition from raw waveform with SincNet", 2018),
//! in pairs of a cosine and a sine, as `asteroid_filterbanks.ParamSincFB` makes them.

use std::f64::consts::PI;

use candle_core::{Device, Tensor};

use super::{Error, FILTERS};
use crate::model::weights::Checkpoint;

/// Samples of a filter.
const WIDTH: usize = 251;
const HALF: usize = WIDTH / 2;
/// Bounds, and the least width, of a band in Hz.
const LOWEST: f64 = 50.0;
const HIGHEST: f64 = 8000.0;
const SAMPLE_RATE: f64 = 16_000.0;

/// The filters of a checkpoint: `(FILTERS, 1, WIDTH)`.
pub(super) fn filters(file: &Checkpoint, device: &Device) -> Result<Tensor, Error> {
    let bounds = |name: &str| {
        let name = format!("sincnet.conv1d.0.filterbank.{name}");
        let values = file.tensor(&name, &[FILTERS / 2, 1], &Device::Cpu)?;
        Ok::<_, Error>(values.flatten_all()?.to_vec1::<f32>()?)
    };
    let (lows, widths) = (bounds("low_hz_")?, bounds("band_hz_")?);
    let mut all = vec![0f32; FILTERS * WIDTH];
    let (cosines, sines) = all.split_at_mut(FILTERS / 2 * WIDTH);
    let pairs = cosines.chunks_exact_mut(WIDTH).zip(sines.chunks_exact_mut(WIDTH));
    for ((cosine, sine), (low, width)) in pairs.zip(lows.iter().zip(&widths)) {
        let low = LOWEST + f64::from(low.abs());
        let high = (low + LOWEST + f64::from(width.abs())).clamp(LOWEST, HIGHEST);
        pair(low, high, cosine, sine);
    }
    Ok(Tensor::from_vec(all, (FILTERS, 1, WIDTH), device)?)
}

/// The two filters of one band.
fn pair(low: f64, high: f64, cosine: &mut [f32], sine: &mut [f32]) {
    let band = high - low;
    cosine[HALF] = 1.0;
    sine[HALF] = 0.0;
    for tap in 0..HALF {
        // The sample's angle at 1 Hz, and half of a Hamming window.
        let n = 2.0 * PI * (tap as f64 - HALF as f64) / SAMPLE_RATE;
        let window = 0.54 - 0.46 * (2.0 * PI * tap as f64 / (WIDTH - 1) as f64).cos();
        let scale = window / (n / 2.0) / (2.0 * band);
        let even = (((high * n).sin() - (low * n).sin()) * scale) as f32;
        let odd = (((low * n).cos() - (high * n).cos()) * scale) as f32;
        (cosine[tap], cosine[WIDTH - 1 - tap]) = (even, even);
        (sine[tap], sine[WIDTH - 1 - tap]) = (odd, -odd);
    }
}
