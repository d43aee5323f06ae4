//! The exact GELU and powers of e, a vector at a time, and what follows a product on a device.

#![allow(unsafe_code)]

use candle_core::{Result, Tensor};

use super::gemm::Activation;
use super::simd::{self, Simd, dispatch};
use super::{cpu, par};

/// Rough cost of one value on one core, to decide whether threads pay.
const NS_A_VALUE: f64 = 0.5;

/// # Safety
/// The processor has `S`; `x` and `out` are valid for `n` values.
#[inline(always)]
unsafe fn gelu_generic<S: Simd>(x: *const f32, out: *mut f32, n: usize) {
    // SAFETY: both are valid for `n` values by the contract, and `out` is this call's alone.
    unsafe {
        std::ptr::copy_nonoverlapping(x, out, n);
        simd::map_in_place::<S>(std::slice::from_raw_parts_mut(out, n), simd::Gelu);
    }
}

dispatch! {
    /// # Safety
    /// `x` and `out` are valid for `n` values and do not overlap.
    unsafe fn gelu_run(x: *const f32, out: *mut f32, n: usize) = gelu_generic
}

/// # Safety
/// The processor has `S`; `x` is valid for `n` values that nothing else uses.
#[inline(always)]
unsafe fn exp_generic<S: Simd>(x: *mut f32, n: usize) {
    // SAFETY: the caller's contract.
    unsafe { simd::map_in_place::<S>(std::slice::from_raw_parts_mut(x, n), simd::Exp) }
}

dispatch! {
    /// # Safety
    /// `x` is valid for `n` values that nothing else uses.
    unsafe fn exp_run(x: *mut f32, n: usize) = exp_generic
}

/// `e^x` of every value, on this thread; 0 below -87.7.
pub(crate) fn exp_in_place(x: &mut [f32]) {
    // SAFETY: the values are this call's alone.
    unsafe { exp_run(x.as_mut_ptr(), x.len()) }
}

/// `x/2 (1 + erf(x/√2))`, the exact GELU (Hendrycks and Gimpel, 2016; not the tanh form), any shape.
///
/// # Errors
/// On the CPU, an `x` that is not contiguous.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    if !cpu::fused(&[x]) {
        return finished(x.clone(), None, Activation::Gelu);
    }
    let out = cpu::with(x, "gelu", |x| {
        // SAFETY: `rows_mut` covers every value.
        let mut out = unsafe { par::uninit(x.len()) };
        par::rows_mut(&mut out, 1, NS_A_VALUE, |at, part| {
            // SAFETY: `part` is values `at..` of an output as long as `x`.
            unsafe { gelu_run(x.as_ptr().add(at), part.as_mut_ptr(), part.len()) }
        });
        Ok(out)
    })?;
    cpu::tensor(out, x.shape())
}

/// `act(y + bias)` of a product `y` (.., outputs) on a device; `bias` is (outputs).
///
/// # Errors
/// Shapes that do not fit.
pub(super) fn finished(y: Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(out) = on_gpu(&y, bias, activation)? {
        return Ok(out);
    }
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    match activation {
        Activation::None => Ok(y),
        Activation::Gelu => y.gelu_erf(),
        Activation::Relu => y.relu(),
    }
}

/// By the kernel; `None` for what it does not take.
#[cfg(feature = "cuda")]
fn on_gpu(y: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Option<Tensor>> {
    use super::gpu::cuda::{address, in_fours, run, under, unset};

    let (width, count) = (y.dims().last().copied().unwrap_or(0), y.elem_count());
    let nothing = bias.is_none() && activation == Activation::None;
    if nothing || count == 0 || !in_fours(&[y, bias.unwrap_or(y)]) {
        return Ok(None);
    }
    if bias.is_some_and(|b| b.dims() != [width]) {
        candle_core::bail!("a bias of {:?} for rows of {width}", bias.map(Tensor::dims));
    }
    let device = under(y)?;
    let out = unset::<f32>(device, y.shape())?;
    let at = (address(y)?, bias.map_or(Ok(0), address)?, address(&out)?);
    run(device, &[launch(at, width, count, activation)])?;
    Ok(Some(out))
}

/// `count` values at `x` in rows of `width`, multiples of 4, with the bias added, which may be 0, and activated.
#[cfg(any(test, feature = "cuda"))]
fn launch(
    (x, bias, out): (u64, u64, u64),
    width: usize,
    count: usize,
    activation: Activation,
) -> super::gpu::Launch {
    const THREADS: usize = 256;
    let activation = match activation {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::Relu => 2,
    };
    super::gpu::Launch::new("elementwise", [(count / 4).div_ceil(THREADS), 1, 1], THREADS)
        .address(x)
        .address(bias)
        .address(out)
        .count(width / 4)
        .count(count / 4)
        .word(activation)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::gpu::host::{at, at_mut, run};
    use crate::ops::testing::{assert_close, noise};

    #[test]
    fn the_kernel_of_a_gpu_adds_the_bias_and_activates() {
        for (rows, width) in [(1, 4), (3, 384), (2, 5000)] {
            let (x, bias): (Vec<f32>, _) =
                (noise(rows * width, 1).iter().map(|v| v * 5.0).collect(), noise(width, 2));
            let tensor =
                |v: &[f32], rows: usize| Tensor::from_slice(v, (rows, v.len() / rows), &Device::Cpu).unwrap();
            for activation in [Activation::None, Activation::Gelu, Activation::Relu] {
                for bias in [None, Some(&bias)] {
                    let biased = bias.map(|b| tensor(b, 1).squeeze(0).unwrap());
                    let want = finished(tensor(&x, rows), biased.as_ref(), activation).unwrap();
                    let mut out = vec![f32::NAN; x.len()];
                    let places = (at(&x), bias.map_or(0, |b| at(b)), at_mut(&mut out));
                    run(&[launch(places, width, x.len(), activation)]);
                    assert_close(&out, &want.flatten_all().unwrap().to_vec1().unwrap(), 1e-6);
                }
            }
        }
    }

    /// erf in f64: its series below 3, its continued fraction above.
    fn erf(x: f64) -> f64 {
        let a = x.abs();
        if a < 3.0 {
            let (mut term, mut sum) = (a, a);
            for n in 1..120 {
                term *= -a * a / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            x.signum() * sum * std::f64::consts::FRAC_2_SQRT_PI
        } else {
            let fraction = (1..80).rev().fold(a, |f, n| a + f64::from(n) / 2.0 / f);
            x.signum() * (1.0 - (-a * a).exp() / fraction / std::f64::consts::PI.sqrt())
        }
    }

    #[test]
    fn gelu_is_exact_to_a_millionth() {
        let mut x: Vec<f32> = (-80_000..80_001).map(|i| i as f32 * 1e-4).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-30, 50.0, -50.0, 1e30, -1e30]);
        let got = gelu_erf(&Tensor::from_slice(&x, x.len(), &Device::Cpu).unwrap()).unwrap();
        for (x, g) in x.iter().zip(got.to_vec1::<f32>().unwrap()) {
            let wide = f64::from(*x);
            let want = 0.5 * wide * (1.0 + erf(wide / std::f64::consts::SQRT_2));
            assert!(
                (f64::from(g) - want).abs() < 1e-6 * wide.abs().max(1e-30),
                "gelu({x}) = {g}, want {want}"
            );
        }
        let nan = gelu_erf(&Tensor::new(&[f32::NAN; 3], &Device::Cpu).unwrap()).unwrap();
        assert!(nan.to_vec1::<f32>().unwrap().iter().all(|v| v.is_nan()));
    }
}
