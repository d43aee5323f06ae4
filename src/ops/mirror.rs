//! Rows of time with their ends mirrored: what PyTorch calls padding by reflection.

use candle_core::{Result, Tensor, bail};

use super::cpu;

/// `(time, channels)` with `pad` rows more before and behind: those next to the ends, in reverse, without the ends
/// themselves. `2 1 | 0 1 2 3 | 2 1` is four rows with two.
///
/// # Errors
/// No more rows than `pad`; on the CPU, an `x` that is not contiguous.
pub fn mirrored(x: &Tensor, pad: usize) -> Result<Tensor> {
    let (time, channels) = x.dims2()?;
    if time <= pad {
        bail!("mirrored: {pad} rows on either side of {time}, of which there must be more");
    }
    if pad == 0 {
        return Ok(x.clone());
    }
    // `i - pad` is at most `last + pad`, and `pad` at most `last`: no row is before the first.
    let last = time - 1;
    let at = (0..time + 2 * pad).map(|i| if i < pad { pad - i } else { last - last.abs_diff(i - pad) });
    if !cpu::fused(&[x]) {
        let at = Tensor::from_iter(at.map(|at| at as u32), x.device())?;
        return x.contiguous()?.index_select(&at, 0);
    }
    let out = cpu::with(x, "mirrored", |x| {
        let mut out = Vec::with_capacity((time + 2 * pad) * channels);
        at.for_each(|at| out.extend_from_slice(&x[at * channels..][..channels]));
        Ok(out)
    })?;
    cpu::tensor(out, (time + 2 * pad, channels))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::ops::testing::{composed, noise};

    proptest! {
        #[test]
        fn ends_are_reflected(time in 1usize..30, channels in 1usize..5, pad in 0usize..12) {
            let values = noise(time * channels, 1);
            let x = Tensor::from_slice(&values, (time, channels), &Device::Cpu).unwrap();
            let all = || mirrored(&x, pad);
            if pad >= time {
                prop_assert!(all().is_err());
                return Ok(());
            }
            let mut rows: Vec<usize> = (1..=pad).rev().chain(0..time).collect();
            rows.extend((0..pad).map(|i| time - 2 - i));
            let want: Vec<f32> =
                rows.iter().flat_map(|row| values[row * channels..][..channels].to_vec()).collect();
            for got in [all().unwrap(), composed(all).unwrap()] {
                prop_assert_eq!(got.dims(), &[time + 2 * pad, channels]);
                prop_assert_eq!(&got.flatten_all().unwrap().to_vec1::<f32>().unwrap(), &want);
            }
        }
    }
}
