//! Whether a device computes what the CPU does: the operations of encoders, embedders and a speech decoder, over random
//! values in ragged shapes. Tests hold a GPU's kernels against plain loops without a GPU; this holds, on a GPU, what
//! chooses and launches them.

use candle_core::{Device, Result, Tensor};

use super::{CrossCache, Half, HalfLinear, Linear, Mask, Span};

/// An operation on both devices.
#[derive(Debug, Clone)]
pub struct Agreement {
    /// The operation and its shape.
    pub name: String,
    /// The largest difference, as a share of the largest of the CPU's values; infinite where there is no number.
    pub worst: f64,
    /// What may be: where a GPU rounds factors to halves, some of their steps.
    pub allowed: f64,
}

/// Of products whose factors are rounded to halves, and of those that are not.
const HALVES: f64 = 4e-3;
const FLOATS: f64 = 1e-4;

/// Computes every operation on `device` and on the CPU.
///
/// # Errors
/// A device that fails.
pub fn agree(device: &Device) -> Result<Vec<Agreement>> {
    let mut found = Vec::new();
    let mut compare = |name: String, allowed: f64, op: &dyn Fn(&Device) -> Result<Vec<f32>>| {
        let (want, got) = (op(&Device::Cpu)?, op(device)?);
        found.push(Agreement { name, worst: apart(&got, &want), allowed });
        Ok::<_, candle_core::Error>(())
    };
    for dim in [32, 64, 128] {
        compare(format!("attention of ragged rows, heads of {dim}"), HALVES, &|on| ragged(dim, on))?;
        compare(format!("attention of a causal batch, heads of {dim}"), HALVES, &|on| causal(dim, on))?;
    }
    for width in [384, 1280] {
        compare(format!("layer norm of {width}"), FLOATS, &|on| norms(width, on))?;
        compare(format!("GELU of {width}"), FLOATS, &|on| {
            flat(&super::gelu_erf(&values(1, (7, width), on)?)?)
        })?;
    }
    for rows in [1, 5, 300] {
        compare(format!("linear, {rows} rows"), HALVES, &|on| linear(rows, on))?;
        compare(format!("linear of halves, {rows} rows"), HALVES, &|on| half_linear(rows, on))?;
    }
    for length in [100, 1500] {
        compare(format!("cross attention over {length}"), HALVES, &|on| cross(length, false, on))?;
        compare(format!("weights of cross attention over {length}"), HALVES, &|on| cross(length, true, on))?;
    }
    Ok(found)
}

fn apart(got: &[f32], want: &[f32]) -> f64 {
    let largest = want.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let differ =
        |(g, w): (&f32, &f32)| if (g - w).is_finite() { f64::from((g - w).abs()) } else { f64::INFINITY };
    let worst = got.iter().zip(want).map(differ).fold(0.0, f64::max);
    if got.len() == want.len() { worst / f64::from(largest) } else { f64::INFINITY }
}

fn flat(x: &Tensor) -> Result<Vec<f32>> {
    x.flatten_all()?.to_vec1()
}

/// Deterministic values within ±1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn values(seed: u64, (rows, width): (usize, usize), device: &Device) -> Result<Tensor> {
    Tensor::from_vec(noise(rows * width, seed), (rows, width), device)
}

fn ragged(dim: usize, device: &Device) -> Result<Vec<f32>> {
    let starts = [0, 1, 70, 72, 700];
    flat(&super::attention_varlen(&values(1, (700, 6 * dim), device)?, &starts, 2, 0.4)?)
}

/// Slices of one projection, of which a row has fewer keys than queries.
fn causal(dim: usize, device: &Device) -> Result<Vec<f32>> {
    let qkv = values(2, (3 * 90, 6 * dim), device)?.reshape((3, 90, 6 * dim))?;
    let part = |i: usize| qkv.narrow(2, i * 2 * dim, 2 * dim);
    let mask = Mask { kv_lens: Some(&[90, 33, 0]), causal: true };
    flat(&super::attention(&part(0)?, &part(1)?, &part(2)?, 2, 0.4, mask)?)
}

fn norms(width: usize, device: &Device) -> Result<Vec<f32>> {
    let (x, more) = (values(1, (9, width), device)?, values(2, (9, width), device)?);
    let (weight, bias) =
        (values(3, (1, width), device)?.squeeze(0)?, values(4, (1, width), device)?.squeeze(0)?);
    let (sum, both) = super::add_then_layer_norm(&x, &more, &weight, &bias, 1e-5)?;
    let alone = super::layer_norm(&x, &weight, &bias, 1e-5)?;
    let one = super::add_layer_norm(&x, &more, &weight, &bias, 1e-5)?;
    flat(&Tensor::cat(&[sum, both, alone, one], 0)?)
}

/// Outputs and inputs of products.
const SHAPE: (usize, usize) = (520, 384);

fn linear(rows: usize, device: &Device) -> Result<Vec<f32>> {
    let bias = values(2, (1, SHAPE.0), device)?.squeeze(0)?;
    let layer = Linear::new(&values(1, SHAPE, device)?, Some(&bias))?;
    let x = values(3, (rows, SHAPE.1), device)?;
    let all = [super::linear(&x, &layer)?, super::linear_gelu(&x, &layer)?, super::linear_relu(&x, &layer)?];
    flat(&Tensor::cat(&all, 0)?)
}

fn half_linear(rows: usize, device: &Device) -> Result<Vec<f32>> {
    let ((outputs, inputs), weight, bias) = (SHAPE, noise(SHAPE.0 * SHAPE.1, 1), noise(SHAPE.0, 2));
    let layer = HalfLinear::new(&weight, Some(&bias), outputs, inputs, Half::F16, device)?;
    let x = values(3, (rows, inputs), device)?;
    let mut all = flat(&layer.forward_gelu(&x)?)?;
    all.extend(flat(&layer.rows(&[0, 519])?)?);
    Ok(all)
}

/// Of rows over two slots, or the weights of the first ones.
fn cross(length: usize, weights: bool, device: &Device) -> Result<Vec<f32>> {
    let (heads, dim) = (3, 64);
    let mut cache = CrossCache::new(2, 1, length, (heads, dim), device)?;
    for slot in 0..2 {
        cache.write(slot, std::iter::once(values(slot as u64 + 1, (length, 2 * heads * dim), device)))?;
    }
    let spans = [Span { slot: 1, first: 0, len: 20 }, Span { slot: 0, first: 20, len: 1 }];
    let q = values(5, (21, heads * dim), device)?;
    if weights {
        return cache.weights(0, &q, 0.3, spans[0], &[2, 0], length - 1);
    }
    flat(&cache.attend(0, &q, 0.3, &spans)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both are the CPU, once with its kernels and once composed as on a device without any.
    #[test]
    fn the_cpu_agrees_with_itself() {
        for found in crate::ops::testing::composed(|| agree(&Device::Cpu).unwrap()) {
            assert!(found.worst == 0.0, "{found:?}");
        }
        let found = agree(&Device::Cpu).unwrap();
        assert!(found.len() > 15 && found.iter().all(|f| f.worst == 0.0));
    }

    #[test]
    fn what_differs_is_told() {
        assert_eq!(apart(&[1.0, -2.0], &[1.0, -4.0]), 0.5);
        for got in [&[1.0, f32::NAN][..], &[1.0]] {
            assert_eq!(apart(got, &[1.0, 2.0]), f64::INFINITY);
        }
    }
}
