//! Neighbouring frames side by side, so that a convolution over time is one matrix product.

use candle_core::{Result, Tensor, bail};

use super::{cpu, par};

/// Rough cost of one value on one core, to decide whether threads pay.
const NS_A_VALUE: f64 = 0.15;

/// Every window of `width` frames of `x` (batch, time, channels), `stride` frames apart, with `pad` frames of zeros
/// before and behind: (batch, windows, width * channels), a window's frames in order.
///
/// # Errors
/// No window at all; on the CPU, an `x` that is not contiguous.
pub fn unfold(x: &Tensor, width: usize, stride: usize, pad: usize) -> Result<Tensor> {
    let (batch, time, channels) = x.dims3()?;
    if width == 0 || stride == 0 || time + 2 * pad < width {
        bail!("unfold: no windows of {width} frames, {stride} apart, in {time} and {pad} on either side");
    }
    let windows = (time + 2 * pad - width) / stride + 1;
    let shape = (batch, windows, width * channels);
    if !cpu::fused(&[x]) {
        let at = (0..windows * width).map(|i| (i / width * stride + i % width) as u32).collect();
        let at = Tensor::from_vec(at, windows * width, x.device())?;
        return x.pad_with_zeros(1, pad, pad)?.index_select(&at, 1)?.reshape(shape);
    }
    let out = cpu::with(x, "unfold", |x| {
        let mut out = vec![0f32; batch * windows * width * channels];
        par::rows_mut(&mut out, width * channels, NS_A_VALUE, |first, part| {
            for (i, window) in part.chunks_exact_mut(width * channels).enumerate() {
                let (row, begin) = ((first + i) / windows, (first + i) % windows * stride);
                // Of its frames, those before `from` and from `to` on are padding.
                let from = pad.saturating_sub(begin).min(width);
                let to = (time + pad).saturating_sub(begin).min(width);
                if from < to {
                    let at = (row * time + begin + from - pad) * channels;
                    window[from * channels..to * channels]
                        .copy_from_slice(&x[at..][..(to - from) * channels]);
                }
            }
        });
        Ok(out)
    })?;
    cpu::tensor(out, shape)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::ops::testing::{composed, noise};

    proptest! {
        #[test]
        fn every_window_holds_its_frames(
            batch in 1usize..4, time in 1usize..9, channels in 1usize..5,
            width in 1usize..6, stride in 1usize..4, pad in 0usize..4,
        ) {
            let values = noise(batch * time * channels, 1);
            let x = Tensor::from_slice(&values, (batch, time, channels), &Device::Cpu).unwrap();
            let unfolded = || unfold(&x, width, stride, pad);
            if time + 2 * pad < width {
                prop_assert!(unfolded().is_err());
                return Ok(());
            }
            let windows = (time + 2 * pad - width) / stride + 1;
            let mut want = Vec::new();
            for (row, window, tap) in (0..batch * windows * width).map(|i| (i / width / windows, i / width % windows, i % width)) {
                let frame = (window * stride + tap).checked_sub(pad).filter(|f| *f < time);
                want.extend((0..channels).map(|c| frame.map_or(0.0, |f| values[(row * time + f) * channels + c])));
            }
            for got in [unfolded().unwrap(), composed(unfolded).unwrap()] {
                prop_assert_eq!(got.dims(), &[batch, windows, width * channels]);
                prop_assert_eq!(&got.flatten_all().unwrap().to_vec1::<f32>().unwrap(), &want);
            }
        }
    }
}
