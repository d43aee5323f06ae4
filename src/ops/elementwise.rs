//! GELU and SiLU, a vector at a time.

#![allow(unsafe_code)]

use candle_core::{Result, Tensor, bail};

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
/// The processor has `S`; `gate`, `up` and `out` are valid for `n` values.
#[inline(always)]
unsafe fn silu_mul_generic<S: Simd>(gate: *const f32, up: *const f32, out: *mut f32, n: usize) {
    let mut i = 0;
    // SAFETY: loads and stores are at `i + LANES <= n`, the rest at `i < n`.
    unsafe {
        while i + S::LANES <= n {
            S::store(out.add(i), silu_mul_one::<S>(S::load(gate.add(i)), S::load(up.add(i))));
            i += S::LANES;
        }
        if i < n {
            let (mut g, mut u) = ([0f32; 16], [0f32; 16]);
            std::ptr::copy_nonoverlapping(gate.add(i), g.as_mut_ptr(), n - i);
            std::ptr::copy_nonoverlapping(up.add(i), u.as_mut_ptr(), n - i);
            S::store(u.as_mut_ptr(), silu_mul_one::<S>(S::load(g.as_ptr()), S::load(u.as_ptr())));
            std::ptr::copy_nonoverlapping(u.as_ptr(), out.add(i), n - i);
        }
    }
}

/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn silu_mul_one<S: Simd>(gate: S::V, up: S::V) -> S::V {
    // SAFETY: arithmetic only; the set is the caller's contract.
    unsafe {
        let e = simd::exp::<S>(S::sub(S::splat(0.0), gate));
        S::mul(S::div(gate, S::add(S::splat(1.0), e)), up)
    }
}

dispatch! {
    /// # Safety
    /// All three are valid for `n` values; `out` overlaps neither of the others.
    unsafe fn silu_mul_run(gate: *const f32, up: *const f32, out: *mut f32, n: usize) = silu_mul_generic
}

/// `x/2 (1 + erf(x/√2))`, the exact GELU (Hendrycks and Gimpel, 2016; not the tanh form), any shape.
///
/// # Errors
/// On the CPU, an `x` that is not contiguous.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    if !cpu::fused(&[x]) {
        return x.gelu_erf();
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

/// `silu(gate) * up` with `silu(x) = x / (1 + e^-x)`, both of one shape.
///
/// # Errors
/// Shapes that differ; on the CPU, inputs that are not contiguous.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("silu_mul: shapes {:?} and {:?} differ", gate.shape(), up.shape());
    }
    if !cpu::fused(&[gate, up]) {
        return gate.silu()?.mul(up);
    }
    let out = cpu::with(gate, "silu_mul: gate", |g| {
        cpu::with(up, "silu_mul: up", |u| {
            // SAFETY: `rows_mut` covers every value.
            let mut out = unsafe { par::uninit(g.len()) };
            par::rows_mut(&mut out, 1, NS_A_VALUE, |at, part| {
                // SAFETY: `part` is values `at..` of an output as long as both inputs.
                unsafe {
                    silu_mul_run(g.as_ptr().add(at), u.as_ptr().add(at), part.as_mut_ptr(), part.len());
                }
            });
            Ok(out)
        })
    })?;
    cpu::tensor(out, gate.shape())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{assert_close, noise};

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

    #[test]
    fn silu_mul_matches_f64_at_every_length() {
        for n in (0..70).chain([1000, 100_001]) {
            let (g, u): (Vec<f32>, _) = (noise(n, 1).iter().map(|v| v * 100.0).collect(), noise(n, 2));
            let want: Vec<f32> = g
                .iter()
                .zip(&u)
                .map(|(&g, &u)| (f64::from(g) / (1.0 + (-f64::from(g)).exp()) * f64::from(u)) as f32)
                .collect();
            let t = |v: &[f32]| Tensor::from_slice(v, n, &Device::Cpu).unwrap();
            assert_close(&silu_mul(&t(&g), &t(&u)).unwrap().to_vec1().unwrap(), &want, 1e-6);
        }
    }
}
