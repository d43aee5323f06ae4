//! Root-mean-square layer normalisation (Zhang and Sennrich 2019), alone and fused with the residual addition
//! before it: `y = x / sqrt(mean(x^2) + eps) * weight`, over the last dimension.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};

use super::multi::{LANES, f32s, multiversion, sum_lanes};
use super::{cpu, wide};

/// Normalises the rows of `x` (.., n), f32, by `weight` (n).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    if cpu::fused(&[x, weight]) {
        return x.apply_op2_no_bwd(weight, &Norm { eps });
    }
    composed(x, weight, eps)
}

/// [`rms_norm`] out of candle's operations, in f32 at least.
pub(super) fn composed(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let values = x.to_dtype(wide(x.dtype()))?;
    let scale = (values.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?;
    values.broadcast_div(&scale)?.to_dtype(x.dtype())?.broadcast_mul(weight)
}

/// `(x + residual, rms_norm(x + residual))`, both (rows, n), in one pass.
pub fn add_rms_norm(x: &Tensor, residual: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
    if cpu::fused(&[x, residual, weight]) {
        let both = x.apply_op3_no_bwd(residual, weight, &AddNorm { eps })?;
        return Ok((both.get(0)?, both.get(1)?));
    }
    let sum = (x + residual)?;
    let normed = composed(&sum, weight, eps)?;
    Ok((sum, normed))
}

struct Norm {
    eps: f32,
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (f32s(x, lx, "rms_norm")?, f32s(w, lw, "rms_norm weight")?);
        check_rows(x.len(), w.len())?;
        let mut out = vec![0f32; x.len()];
        norm_rows(x, w, self.eps, &mut out);
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

struct AddNorm {
    eps: f32,
}

impl CustomOp3 for AddNorm {
    fn name(&self) -> &'static str {
        "add_rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        residual: &CpuStorage,
        lr: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, r) = (f32s(x, lx, "add_rms_norm")?, f32s(residual, lr, "add_rms_norm residual")?);
        let w = f32s(w, lw, "add_rms_norm weight")?;
        check_rows(x.len(), w.len())?;
        if x.len() != r.len() {
            candle_core::bail!("add_rms_norm: {} values and {} of residual", x.len(), r.len());
        }
        let mut out = vec![0f32; 2 * x.len()];
        let (sum, normed) = out.split_at_mut(x.len());
        add_norm_rows(x, r, w, self.eps, sum, normed);
        let mut dims = vec![2];
        dims.extend_from_slice(lx.shape().dims());
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}

fn check_rows(values: usize, n: usize) -> Result<()> {
    if n == 0 || !values.is_multiple_of(n) {
        candle_core::bail!("rms_norm: {values} values are not rows of {n}");
    }
    Ok(())
}

multiversion! {
    fn norm_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = norm_rows_body
}

multiversion! {
    fn add_norm_rows(x: &[f32], r: &[f32], weight: &[f32], eps: f32, sum: &mut [f32], out: &mut [f32]) =
        add_norm_rows_body
}

#[inline(always)]
fn norm_rows_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        norm_row(x, weight, eps, out);
    }
}

#[inline(always)]
fn add_norm_rows_body(x: &[f32], r: &[f32], weight: &[f32], eps: f32, sum: &mut [f32], out: &mut [f32]) {
    let n = weight.len();
    for (at, out) in out.chunks_exact_mut(n).enumerate() {
        let row = at * n..(at + 1) * n;
        let sum = &mut sum[row.clone()];
        for ((s, &a), &b) in sum.iter_mut().zip(&x[row.clone()]).zip(&r[row]) {
            *s = a + b;
        }
        norm_row(sum, weight, eps, out);
    }
}

#[inline(always)]
fn norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = v.mul_add(v, *lane);
        }
    }
    let scale = ((sum_lanes(lanes) + tail) / x.len() as f32 + eps).sqrt().recip();
    for ((out, &v), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = v * scale * w;
    }
}
