//! What networks do along time: means over stretches, pooling, normalising, with the channels last.
//!
//! All of it is bound by memory, so rows are read in order and every channel's sum is kept at once. Sums are of blocks in
//! f32 and of the blocks in f64: means over minutes are as exact as over a second.

use candle_core::{DType, Result, Tensor, bail};

use super::{cpu, par};

#[cfg(test)]
mod tests;

/// Rows whose sum is taken in f32.
const BLOCK: usize = 64;
/// Rough cost of one value on one core, to decide whether threads pay.
const NS_A_VALUE: f64 = 0.4;

/// Sums of `f` of every value, by channel, over rows of `channels`.
fn sums(rows: &[f32], channels: usize, f: impl Fn(usize, f32) -> f32) -> Vec<f64> {
    let mut total = vec![0f64; channels];
    let mut block = vec![0f32; channels];
    for rows in rows.chunks(BLOCK * channels) {
        block.fill(0.0);
        for row in rows.chunks_exact(channels) {
            for (c, (sum, value)) in block.iter_mut().zip(row).enumerate() {
                *sum += f(c, *value);
            }
        }
        total.iter_mut().zip(&block).for_each(|(total, sum)| *total += f64::from(*sum));
    }
    total
}

fn means(rows: &[f32], channels: usize) -> Vec<f32> {
    let count = (rows.len() / channels) as f64;
    sums(rows, channels, |_, v| v).into_iter().map(|sum| (sum / count) as f32).collect()
}

/// Sums of the squared distances from `means`.
fn spread(rows: &[f32], means: &[f32]) -> Vec<f64> {
    sums(rows, means.len(), |c, v| (v - means[c]) * (v - means[c]))
}

/// Shape of rows with values.
fn rows(x: &Tensor, what: &str) -> Result<(usize, usize)> {
    let (time, channels) = x.dims2()?;
    if time == 0 || channels == 0 {
        bail!("{what}: no values in a shape of {:?}", x.shape());
    }
    Ok((time, channels))
}

/// The mean of every `run` rows of `(time, channels)`, the last of which may be fewer: `(runs, channels)`.
///
/// # Errors
/// No values, a run of none; on the CPU, an `x` that is not contiguous.
pub fn run_means(x: &Tensor, run: usize) -> Result<Tensor> {
    let (time, channels) = rows(x, "run_means")?;
    if run == 0 {
        bail!("run_means: runs of no rows");
    }
    let runs = time.div_ceil(run);
    if !cpu::fused(&[x]) {
        let one = |i: usize| x.narrow(0, i * run, run.min(time - i * run))?.mean(0);
        return Tensor::stack(&(0..runs).map(one).collect::<Result<Vec<_>>>()?, 0);
    }
    let out = cpu::with(x, "run_means", |x| {
        Ok(x.chunks(run * channels).flat_map(|x| means(x, channels)).collect())
    })?;
    cpu::tensor(out, (runs, channels))
}

/// Every `run` rows of `(time, channels)` times a row of `(runs, channels)`.
///
/// # Errors
/// Shapes that do not fit; on the CPU, what is not contiguous.
pub fn scale_runs(x: &Tensor, scales: &Tensor, run: usize) -> Result<Tensor> {
    let (time, channels) = rows(x, "scale_runs")?;
    if run == 0 || scales.dims() != [time.div_ceil(run), channels] {
        bail!("scale_runs: {:?} for runs of {run} in {:?}", scales.shape(), x.shape());
    }
    if !cpu::fused(&[x, scales]) {
        let at: Vec<u32> = (0..time).map(|t| (t / run) as u32).collect();
        return x * scales.index_select(&Tensor::from_vec(at, time, x.device())?, 0)?;
    }
    let out = cpu::with(x, "scale_runs", |x| {
        cpu::with(scales, "scale_runs: scales", |scales| {
            let mut out = x.to_vec();
            for (rows, scales) in out.chunks_mut(run * channels).zip(scales.chunks_exact(channels)) {
                for row in rows.chunks_exact_mut(channels) {
                    row.iter_mut().zip(scales).for_each(|(v, s)| *v *= s);
                }
            }
            Ok(out)
        })
    })?;
    cpu::tensor(out, (time, channels))
}

/// Which variance a deviation is the root of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variance {
    /// Of a sample (divided by one less than the rows; of one row, zero), with so much added.
    Sample { added: f64 },
    /// Of all there is (divided by the rows), but at least so much.
    Whole { least: f64 },
}

/// Mean and standard deviation of every channel of `(time, channels)`, one after the other: `(1, 2 channels)`.
///
/// # Errors
/// No values; on the CPU, an `x` that is not contiguous.
pub fn mean_and_deviation(x: &Tensor, variance: Variance) -> Result<Tensor> {
    let (time, channels) = rows(x, "mean_and_deviation")?;
    let (count, added, least) = match variance {
        Variance::Sample { added } => ((time - 1).max(1) as f64, added, 0.0),
        Variance::Whole { least } => (time as f64, 0.0, least),
    };
    if !cpu::fused(&[x]) {
        let mean = x.mean_keepdim(0)?;
        let variance = (x.broadcast_sub(&mean)?.sqr()?.sum_keepdim(0)? / count)?;
        return Tensor::cat(&[mean, (variance + added)?.maximum(least)?.sqrt()?], 1);
    }
    let out = cpu::with(x, "mean_and_deviation", |x| {
        let mut out = means(x, channels);
        let spread = spread(x, &out);
        out.extend(spread.into_iter().map(|s| (s / count + added).max(least).sqrt() as f32));
        Ok(out)
    })?;
    cpu::tensor(out, (1, 2 * channels))
}

/// The largest of every `width` rows of `(time, channels)`, or the largest size if `sizes`; rows beyond the last whole
/// window are left out: `(time / width, channels)`.
///
/// # Errors
/// Fewer rows than a window has; on the CPU, an `x` that is not contiguous.
pub fn max_pool(x: &Tensor, width: usize, sizes: bool) -> Result<Tensor> {
    let (time, channels) = rows(x, "max_pool")?;
    if width == 0 || time < width {
        bail!("max_pool: windows of {width} rows in {time}");
    }
    let windows = time / width;
    if !cpu::fused(&[x]) {
        let x = x.narrow(0, 0, windows * width)?.reshape((windows, width, channels))?;
        return if sizes { x.abs()?.max(1) } else { x.max(1) };
    }
    let out = cpu::with(x, "max_pool", |x| {
        let mut out = vec![0f32; windows * channels];
        par::rows_mut(&mut out, channels, NS_A_VALUE * width as f64, |first, part| {
            let rows = x[first * width * channels..].chunks_exact(width * channels);
            for (out, window) in part.chunks_exact_mut(channels).zip(rows) {
                let value = |v: f32| if sizes { v.abs() } else { v };
                out.iter_mut().zip(window).for_each(|(o, v)| *o = value(*v));
                for row in window.chunks_exact(channels).skip(1) {
                    // The second where the first is NaN, and the first where the second is.
                    out.iter_mut()
                        .zip(row)
                        .for_each(|(o, v)| *o = if value(*v) > *o { value(*v) } else { *o });
                }
            }
        });
        Ok(out)
    })?;
    cpu::tensor(out, (windows, channels))
}

/// Each channel of `(time, channels)` without its mean and divided by its deviation, times `weight` and with `bias`, and
/// what is below zero times `slope`: PyTorch's `InstanceNorm1d` (variance of all rows, with 1e-5), then `leaky_relu`.
///
/// # Errors
/// Shapes that do not fit; on the CPU, what is not contiguous.
pub fn instance_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, slope: f32) -> Result<Tensor> {
    const EPSILON: f64 = 1e-5;
    let (time, channels) = rows(x, "instance_norm")?;
    if weight.dims() != [channels] || bias.dims() != [channels] {
        bail!("instance_norm: {:?} and {:?} for {channels} channels", weight.shape(), bias.shape());
    }
    if !cpu::fused(&[x, weight, bias]) {
        let centred = x.broadcast_sub(&x.mean_keepdim(0)?)?;
        let deviation = ((centred.sqr()?.mean_keepdim(0)? + EPSILON)?).sqrt()?;
        let y = centred.broadcast_div(&deviation)?.broadcast_mul(weight)?.broadcast_add(bias)?;
        return y.relu()? + (y.minimum(0f64)? * f64::from(slope))?;
    }
    let affine = cpu::with(x, "instance_norm", |x| {
        let means = means(x, channels);
        let spread = spread(x, &means);
        let weight = cpu::with(weight, "instance_norm: weight", |w| Ok(w.to_vec()))?;
        let bias = cpu::with(bias, "instance_norm: bias", |b| Ok(b.to_vec()))?;
        let scale = spread
            .iter()
            .zip(&weight)
            .map(|(s, w)| (f64::from(*w) / (s / time as f64 + EPSILON).sqrt()) as f32);
        let scale: Vec<f32> = scale.collect();
        let shift = bias.iter().zip(&means).zip(&scale).map(|((b, m), s)| b - m * s);
        Ok((scale.clone(), shift.collect::<Vec<f32>>()))
    })?;
    let out = cpu::with(x, "instance_norm", |x| {
        Ok(scaled(x, &affine.0, &affine.1, |v| if v < 0.0 { v * slope } else { v }))
    })?;
    cpu::tensor(out, (time, channels))
}

/// `f` of every value times its channel's scale and with its shift.
fn scaled(x: &[f32], scale: &[f32], shift: &[f32], f: impl Fn(f32) -> f32 + Sync + Send) -> Vec<f32> {
    let mut out = x.to_vec();
    par::rows_mut(&mut out, scale.len(), NS_A_VALUE, |_, part| {
        for row in part.chunks_exact_mut(scale.len()) {
            for ((value, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
                *value = f(*value * scale + shift);
            }
        }
    });
    out
}

/// A batch normalisation that has been trained: a scale and a shift a channel.
#[derive(Clone)]
pub struct Affine {
    scale: Tensor,
    shift: Tensor,
}

impl Affine {
    /// Takes a scale and a shift of the same `(channels)`.
    ///
    /// # Errors
    /// Other shapes.
    pub fn new(scale: Tensor, shift: Tensor) -> Result<Affine> {
        if scale.dims1()? != shift.dims1()? {
            bail!("affine: {:?} and {:?}", scale.shape(), shift.shape());
        }
        Ok(Affine { scale, shift })
    }

    /// What it multiplies with.
    pub fn scale(&self) -> &Tensor {
        &self.scale
    }

    /// What it adds.
    pub fn shift(&self) -> &Tensor {
        &self.shift
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        2 * self.scale.elem_count() * self.scale.dtype().size_in_bytes()
    }
}

/// Every channel of `(time, channels)` scaled and shifted.
///
/// # Errors
/// Channels that are not those of `by`; on the CPU, what is not contiguous.
pub fn affine(x: &Tensor, by: &Affine) -> Result<Tensor> {
    let (time, channels) = rows(x, "affine")?;
    if by.scale.dims() != [channels] {
        bail!("affine: {channels} channels, {:?} are scaled", by.scale.shape());
    }
    if !cpu::fused(&[x, &by.scale, &by.shift]) {
        return x.broadcast_mul(&by.scale)?.broadcast_add(&by.shift);
    }
    let out = cpu::with(x, "affine", |x| {
        cpu::with(&by.scale, "affine: scale", |scale| {
            cpu::with(&by.shift, "affine: shift", |shift| Ok(scaled(x, scale, shift, |v| v)))
        })
    })?;
    cpu::tensor(out, (time, channels))
}

/// Parts `(time, channels_i)` side by side, scaled, shifted, and nothing below zero: `(time, channels)`. On the CPU in one
/// pass, so that layers that see all before them cost no copy.
///
/// # Errors
/// No parts, parts of different lengths, channels that are not those of `affine`; on the CPU, what is not contiguous.
pub fn joined_relu(parts: &[Tensor], affine: &Affine) -> Result<Tensor> {
    let channels: usize = parts.iter().map(|part| part.dim(1)).sum::<Result<_>>()?;
    let time = parts.first().map_or(Ok(0), |part| part.dim(0))?;
    if time == 0
        || affine.scale.dims() != [channels]
        || parts.iter().any(|part| part.dims2().ok().is_none_or(|d| d.0 != time))
    {
        bail!(
            "joined_relu: {} parts of {time} rows and {channels} channels, {:?} are scaled",
            parts.len(),
            affine.scale.shape()
        );
    }
    let all: Vec<&Tensor> = parts.iter().chain([&affine.scale, &affine.shift]).collect();
    if !cpu::fused(&all) {
        let joined = Tensor::cat(parts, 1)?.to_dtype(DType::F32)?;
        return joined.broadcast_mul(&affine.scale)?.broadcast_add(&affine.shift)?.relu();
    }
    let mut out = vec![0f32; time * channels];
    let mut from = 0;
    for part in parts {
        let width = part.dim(1)?;
        let (scale, shift) = (affine.scale.narrow(0, from, width)?, affine.shift.narrow(0, from, width)?);
        cpu::with(part, "joined_relu", |part| {
            cpu::with(&scale, "joined_relu: scale", |scale| {
                cpu::with(&shift, "joined_relu: shift", |shift| {
                    for (row, from_row) in out.chunks_exact_mut(channels).zip(part.chunks_exact(width)) {
                        let row = &mut row[from..from + width];
                        for (((out, value), scale), shift) in
                            row.iter_mut().zip(from_row).zip(scale).zip(shift)
                        {
                            let value = value * scale + shift;
                            *out = if value > 0.0 { value } else { 0.0 };
                        }
                    }
                    Ok(())
                })
            })
        })?;
        from += width;
    }
    cpu::tensor(out, (time, channels))
}
