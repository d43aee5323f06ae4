//! The gate of a SwiGLU feed-forward layer (Shazeer 2020): `silu(gate) * up`, from the two halves of one
//! projection's rows.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::cpu;
use super::multi::{exp, f32s, multiversion};

/// `x` (.., 2n) f32, the gate before the up projection in each row; gives (.., n).
pub fn silu_mul(x: &Tensor) -> Result<Tensor> {
    if cpu::fused(&[x]) {
        return x.apply_op1_no_bwd(&SiluMul);
    }
    composed(x)
}

/// [`silu_mul`] out of candle's operations.
pub(super) fn composed(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(D::Minus1)? / 2;
    x.narrow(D::Minus1, 0, n)?.silu()? * x.narrow(D::Minus1, n, n)?
}

struct SiluMul;

impl CustomOp1 for SiluMul {
    fn name(&self) -> &'static str {
        "silu_mul"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32s(x, layout, "silu_mul")?;
        let mut dims = layout.shape().dims().to_vec();
        let Some(last) = dims.last_mut().filter(|n| **n > 0 && n.is_multiple_of(2)) else {
            candle_core::bail!("silu_mul: the last dimension of {:?} is not even", layout.shape());
        };
        *last /= 2;
        let n = *last;
        let mut out = vec![0f32; x.len() / 2];
        gate_rows(x, n, &mut out);
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}

multiversion! {
    fn gate_rows(x: &[f32], n: usize, out: &mut [f32]) = gate_rows_body
}

#[inline(always)]
fn gate_rows_body(x: &[f32], n: usize, out: &mut [f32]) {
    for (row, out) in x.chunks_exact(2 * n).zip(out.chunks_exact_mut(n)) {
        let (gate, up) = row.split_at(n);
        for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }
}
