//! The gate of a gated feed-forward layer (Shazeer 2020): `activation(gate) * up`, from the two halves of one
//! projection's rows.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::multi::{exp, f32s, multiversion};
use super::{Input, cpu, par};

/// What the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`: SwiGLU.
    Silu,
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`: GeGLU in its usual approximation.
    GeluTanh,
}

/// `x` (.., 2n) f32, the gate before the up projection in each row; gives (.., n).
///
/// # Errors
/// Rows of an odd width; on the CPU, an `x` that is not contiguous.
pub fn gated(x: &Tensor, activation: Activation) -> Result<Input> {
    if cpu::fused(&[x]) {
        return Ok(x.apply_op1_no_bwd(&Gate(activation))?.into());
    }
    #[cfg(feature = "cuda")]
    if let Some(out) = on_gpu(x, activation)? {
        return Ok(out);
    }
    let n = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, 0, n)?;
    let gate = match activation {
        Activation::Silu => gate.silu()?,
        Activation::GeluTanh => gate.gelu()?,
    };
    Ok((gate * x.narrow(D::Minus1, n, n)?)?.into())
}

/// `rows` of 2 `width` values at `x` to `width` each at `out`, a multiple of 4, and rounded to codes and scales unless these
/// are zeros.
#[cfg(any(test, feature = "cuda"))]
fn launch(
    (x, out, rounded): (u64, u64, (u64, u64)),
    rows: usize,
    width: usize,
    activation: Activation,
) -> super::gpu::Launch {
    const THREADS: usize = 256;
    super::gpu::Launch::new("gate", [(width / 4).div_ceil(THREADS), rows, 1], THREADS)
        .address(x)
        .address(out)
        .count(width / 4)
        .word((activation == Activation::GeluTanh).into())
        .address(rounded.0)
        .address(rounded.1)
}

/// By the kernel; `None` for what it does not take.
#[cfg(feature = "cuda")]
fn on_gpu(x: &Tensor, activation: Activation) -> Result<Option<Input>> {
    use super::gpu::cuda::{address, of, run, unset};

    let mut dims = x.dims().to_vec();
    let (Some(device), Some(last)) = (of(x.device()), dims.last_mut()) else { return Ok(None) };
    if x.dtype() != candle_core::DType::F32 || !x.is_contiguous() || !last.is_multiple_of(8) || *last == 0 {
        return Ok(None);
    }
    *last /= 2;
    let width = *last;
    let out = unset::<f32>(device, dims)?;
    let rows = out.elem_count() / width;
    // A grid has 65,535 blocks along y.
    if rows > 65_535 {
        return Ok(None);
    }
    let (rounded, parts) = super::qlinear::room(device, rows, width)?;
    run(device, &[launch((address(x)?, address(&out)?, parts), rows, width, activation)])?;
    Ok(Some(Input::with(out, rounded)))
}

struct Gate(Activation);

/// Rough cost of one value on one core, to decide whether threads pay.
const NS_A_VALUE: f64 = 0.7;

impl CustomOp1 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32s(x, layout, "gate")?;
        let mut dims = layout.shape().dims().to_vec();
        let Some(last) = dims.last_mut().filter(|n| **n > 0 && n.is_multiple_of(2)) else {
            candle_core::bail!("gate: the last dimension of {:?} is not even", layout.shape());
        };
        *last /= 2;
        let n = *last;
        let mut out = vec![0f32; x.len() / 2];
        par::rows_mut(&mut out, n, NS_A_VALUE, |first, out| {
            let x = &x[2 * n * first..][..2 * out.len()];
            match self.0 {
                Activation::Silu => silu_rows(x, n, out),
                Activation::GeluTanh => gelu_rows(x, n, out),
            }
        });
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}

multiversion! {
    fn silu_rows(x: &[f32], n: usize, out: &mut [f32]) = silu_rows_body
}

multiversion! {
    fn gelu_rows(x: &[f32], n: usize, out: &mut [f32]) = gelu_rows_body
}

#[inline(always)]
fn silu_rows_body(x: &[f32], n: usize, out: &mut [f32]) {
    rows(x, n, out, |g| g / (1.0 + exp(-g)));
}

#[inline(always)]
fn gelu_rows_body(x: &[f32], n: usize, out: &mut [f32]) {
    // (1 + tanh(z)) / 2 = 1 / (1 + e^-2z)
    const TWICE_ROOT: f32 = 1.595_769;
    rows(x, n, out, |g| {
        let z = TWICE_ROOT * (0.044_715 * g * g).mul_add(g, g);
        g / (1.0 + exp(-z))
    });
}

#[inline(always)]
fn rows(x: &[f32], n: usize, out: &mut [f32], activation: impl Fn(f32) -> f32) {
    for (row, out) in x.chunks_exact(2 * n).zip(out.chunks_exact_mut(n)) {
        let (gate, up) = row.split_at(n);
        for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *out = activation(g) * u;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gpu::host::{at, at_mut, run};
    use crate::ops::testing::{assert_close, noise};

    #[test]
    fn the_kernel_of_a_gpu_gates_alike() {
        for (rows, width) in [(1, 4), (3, 1536), (2, 1100)] {
            let x: Vec<f32> = noise(2 * rows * width, 1).iter().map(|v| v * 8.0).collect();
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let (mut out, mut want) = (vec![f32::NAN; rows * width], vec![0.0; rows * width]);
                run(&[launch((at(&x), at_mut(&mut out), (0, 0)), rows, width, activation)]);
                match activation {
                    Activation::Silu => silu_rows(&x, width, &mut want),
                    Activation::GeluTanh => gelu_rows(&x, width, &mut want),
                }
                assert_close(&out, &want, 1e-5);
            }
        }
    }
}
