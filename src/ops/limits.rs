//! What a device can do at most, measured: the yardsticks that speeds are shares of.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};

/// A device's own measured limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes read and written in a second by a copy that no cache holds.
    pub copy: f64,
    /// Operations in a second of a large product of halves, a multiplication and an addition being two.
    pub product: f64,
}

/// Copies, and the side of the square factors.
const COPY: usize = 1 << 30;
const SIDE: usize = 8192;
const RUNS: usize = 8;

/// Measures `device`; a GPU takes about a second and 3 GiB.
///
/// # Errors
/// Too little memory.
pub fn limits(device: &Device) -> Result<Limits> {
    let large = if device.is_cpu() { (COPY >> 4, SIDE >> 3) } else { (COPY, SIDE) };
    // Wide rows of floats: what a copy of bytes one by one does is no limit.
    let shape = (large.0 >> 12, 1024);
    let from = Tensor::zeros(shape, DType::F32, device)?;
    let to = Tensor::zeros(shape, DType::F32, device)?;
    let copy = best(device, || copied(&from, &to))?;
    drop((from, to));
    // Random: zeros take less power, and run faster than anything real.
    let factor = || Tensor::randn(0f32, 1.0, (large.1, large.1), device)?.to_dtype(DType::F16);
    let (a, b) = (factor()?, factor()?);
    let product = best(device, || a.matmul(&b).map(drop))?;
    Ok(Limits { copy: 2.0 * large.0 as f64 / copy, product: 2.0 * (large.1 as f64).powi(3) / product })
}

#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
fn copied(from: &Tensor, to: &Tensor) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Some(gpu) = super::gpu::cuda::of(from.device()) {
        return super::gpu::cuda::copy(gpu, from, to);
    }
    to.slice_set(from, 0, 0)
}

/// Seconds that the fastest of some runs takes, after one that is not counted.
fn best(device: &Device, run: impl Fn() -> Result<()>) -> Result<f64> {
    run()?;
    device.synchronize()?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let begun = Instant::now();
        run()?;
        device.synchronize()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_has_limits_too() {
        let limits = limits(&Device::Cpu).unwrap();
        assert!(limits.copy > 1e8 && limits.product > 1e8, "{limits:?}");
    }
}
