//! Root-mean-square layer normalisation (Zhang and Sennrich 2019), alone and fused with the residual addition
//! before it: `y = x / sqrt(mean(x^2) + eps) * weight`, over the last dimension.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, InplaceOp2, Layout, Result, Shape, Tensor};

use super::multi::{LANES, f32s, multiversion, sum_lanes};
use super::{Input, cpu, wide};

/// Normalises the rows of `x` (.., n), f32, by `weight` (n).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Input> {
    if cpu::fused(&[x, weight]) {
        return Ok(x.apply_op2_no_bwd(weight, &Norm { eps })?.into());
    }
    #[cfg(feature = "cuda")]
    if gpu::serves(&[x, weight]) {
        return Ok(gpu::norm(x, None, weight, eps)?.1);
    }
    Ok(composed(x, weight, eps)?.into())
}

/// [`rms_norm`] out of candle's operations, in f32 at least.
pub(super) fn composed(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let values = x.to_dtype(wide(x.dtype()))?;
    let scale = (values.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?;
    values.broadcast_div(&scale)?.to_dtype(x.dtype())?.broadcast_mul(weight)
}

/// `(x + residual, rms_norm(x + residual))`, both (rows, n), in one pass.
pub fn add_rms_norm(x: &Tensor, residual: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Input)> {
    if cpu::fused(&[x, residual, weight]) {
        let both = x.apply_op3_no_bwd(residual, weight, &AddNorm { eps })?;
        return Ok((both.get(0)?, both.get(1)?.into()));
    }
    #[cfg(feature = "cuda")]
    if gpu::serves(&[x, residual, weight]) {
        return gpu::norm(x, Some(residual), weight, eps);
    }
    let sum = (x + residual)?;
    let normed = composed(&sum, weight, eps)?;
    Ok((sum, normed.into()))
}

/// Kernels of a GPU.
#[cfg(any(test, feature = "cuda"))]
mod gpu {
    use crate::ops::gpu::{Address, Launch};

    /// Addresses of rows of `width` values, a multiple of 4; `residual` and `sum` are 0 where nothing is added.
    pub(super) struct Rows {
        pub x: Address,
        pub residual: Address,
        pub weight: Address,
        pub sum: Address,
        pub out: Address,
        /// Codes and scales of the rounded norm, or zeros.
        pub rounded: (Address, Address),
        pub count: usize,
        pub width: usize,
    }

    pub(super) fn launch(rows: &Rows, eps: f32) -> Launch {
        // Groups of 4; whole warps, some groups a thread.
        let groups = rows.width / 4;
        Launch::new("rms_norm", [rows.count, 1, 1], groups.next_multiple_of(32).clamp(32, 512))
            .address(rows.x)
            .address(rows.residual)
            .address(rows.weight)
            .address(rows.sum)
            .address(rows.out)
            .count(groups)
            .float(eps)
            .address(rows.rounded.0)
            .address(rows.rounded.1)
    }

    #[cfg(feature = "cuda")]
    pub(super) use tensors::{norm, serves};

    #[cfg(feature = "cuda")]
    mod tensors {
        use candle_core::{D, DType, Result, Tensor, bail};

        use super::{Rows, launch};
        use crate::ops::gpu::cuda::{address, run, under, unset};
        use crate::ops::qlinear::{Input, room};

        /// Whether the kernel takes these, of which the last is the weight.
        pub(in super::super) fn serves(tensors: &[&Tensor]) -> bool {
            let fits = |t: &&Tensor| {
                t.device().is_cuda()
                    && t.dtype() == DType::F32
                    && t.is_contiguous()
                    && t.dim(D::Minus1).is_ok_and(|n| n > 0 && n.is_multiple_of(4))
            };
            tensors.iter().all(fits)
        }

        /// The sum, which is `x` itself where nothing is added, and the norm.
        pub(in super::super) fn norm(
            x: &Tensor,
            residual: Option<&Tensor>,
            weight: &Tensor,
            eps: f32,
        ) -> Result<(Tensor, Input)> {
            let (device, width) = (under(x)?, weight.dims1()?);
            if x.dim(D::Minus1)? != width || residual.is_some_and(|r| r.dims() != x.dims()) {
                bail!("rms_norm: {:?} by a weight of {width}", x.shape());
            }
            let out = unset::<f32>(device, x.shape())?;
            let sum = match residual {
                Some(_) => unset::<f32>(device, x.shape())?,
                None => x.clone(),
            };
            let (rounded, parts) = room(device, x.elem_count() / width, width)?;
            let rows = Rows {
                x: address(x)?,
                residual: residual.map_or(Ok(0), address)?,
                weight: address(weight)?,
                sum: if residual.is_some() { address(&sum)? } else { 0 },
                out: address(&out)?,
                rounded: parts,
                count: x.elem_count() / width,
                width,
            };
            run(device, &[launch(&rows, eps)])?;
            Ok((sum, Input::with(out, rounded)))
        }
    }
}

/// Normalises each of `heads` heads in the columns of `x` (tokens, columns) from `first` on, in place, by `weight`
/// (head_dim), all f32: the norm of queries or of keys between projection and rotation.
///
/// # Errors
/// Heads that do not fit the columns; on the CPU, an `x` that is not contiguous.
pub fn rms_norm_heads(x: &Tensor, first: usize, heads: usize, weight: &Tensor, eps: f32) -> Result<()> {
    let ((rows, columns), dim) = (x.dims2()?, weight.dims1()?);
    if dim == 0 || first + heads * dim > columns {
        candle_core::bail!("rms_norm: {heads} heads of {dim} at column {first} of {:?}", x.shape());
    }
    if cpu::fused(&[x, weight]) {
        return x.inplace_op2(weight, &HeadNorm { first, heads, columns, eps });
    }
    let part = x.narrow(1, first, heads * dim)?.reshape((rows, heads, dim))?;
    let normed = composed(&part, weight, eps)?.reshape((rows, heads * dim))?;
    x.slice_set(&normed, 1, first)
}

struct HeadNorm {
    first: usize,
    heads: usize,
    columns: usize,
    eps: f32,
}

impl InplaceOp2 for HeadNorm {
    fn name(&self) -> &'static str {
        "rms_norm_heads"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<()> {
        let w = f32s(w, lw, "rms_norm weight")?;
        let (CpuStorage::F32(x), Some((start, end))) = (x, lx.contiguous_offsets()) else {
            candle_core::bail!("rms_norm: a contiguous f32 tensor is needed");
        };
        for row in x[start..end].chunks_exact_mut(self.columns) {
            norm_in_place(&mut row[self.first..][..self.heads * w.len()], w, self.eps);
        }
        Ok(())
    }
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

multiversion! {
    fn norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) = norm_in_place_body
}

#[inline(always)]
fn norm_in_place_body(x: &mut [f32], weight: &[f32], eps: f32) {
    for row in x.chunks_exact_mut(weight.len()) {
        let scale = scale_of(row, eps);
        for (v, &w) in row.iter_mut().zip(weight) {
            *v = *v * scale * w;
        }
    }
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
    let scale = scale_of(x, eps);
    for ((out, &v), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = v * scale * w;
    }
}

/// `1 / sqrt(mean(x^2) + eps)`
#[inline(always)]
fn scale_of(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = v.mul_add(v, *lane);
        }
    }
    ((sum_lanes(lanes) + tail) / x.len() as f32 + eps).sqrt().recip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gpu::host::{at, at_mut, run};
    use crate::ops::testing::{assert_close, noise};

    #[test]
    fn the_kernel_of_a_gpu_normalises_and_adds() {
        for (count, width) in [(1, 4), (3, 576), (2, 5000)] {
            let (x, residual, weight) = (noise(count * width, 1), noise(count * width, 2), noise(width, 3));
            let (mut sum, mut out) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            let (mut want_sum, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let mut rows = gpu::Rows {
                x: at(&x),
                residual: at(&residual),
                weight: at(&weight),
                sum: at_mut(&mut sum),
                out: at_mut(&mut out),
                rounded: (0, 0),
                count,
                width,
            };
            run(&[gpu::launch(&rows, 1e-5)]);
            add_norm_rows(&x, &residual, &weight, 1e-5, &mut want_sum, &mut want);
            assert_close(&sum, &want_sum, 1e-6);
            assert_close(&out, &want, 1e-5);
            (rows.residual, rows.sum) = (0, 0);
            run(&[gpu::launch(&rows, 1e-5)]);
            norm_rows(&x, &weight, 1e-5, &mut want);
            assert_close(&out, &want, 1e-5);
        }
    }

    #[test]
    fn the_kernel_rounds_what_it_normalises() {
        let (count, width) = (2, 352);
        let (x, weight) = (noise(count * width, 1), noise(width, 3));
        let mut out = vec![f32::NAN; x.len()];
        let (mut codes, mut scales) = (vec![0i8; x.len()], vec![[f32::NAN; 4]; x.len() / 32]);
        let rows = gpu::Rows {
            x: at(&x),
            residual: 0,
            weight: at(&weight),
            sum: 0,
            out: at_mut(&mut out),
            rounded: (at_mut(&mut codes), at_mut(&mut scales)),
            count,
            width,
        };
        run(&[gpu::launch(&rows, 1e-5)]);
        for (i, [scale, first, other, _]) in scales.into_iter().enumerate() {
            let (values, codes) = (&out[32 * i..][..32], &codes[32 * i..][..32]);
            // In the order in which the products read them.
            let code = |e: usize| f32::from(codes[e / 8 * 8 + [0, 2, 4, 6, 1, 3, 5, 7][e % 8]]) * scale;
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!((scale * 127.0 - largest).abs() < 1e-5);
            let kept: Vec<f32> = (0..32).map(code).collect();
            assert_close(&kept, values, scale * 0.51);
            assert_close(&[first, other], &[kept[..16].iter().sum(), kept[16..].iter().sum()], 1e-4);
        }
    }
}
