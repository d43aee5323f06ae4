//! Statistics of every channel over time where some times count more than others: attentive pooling (Okabe et al.,
//! "Attentive Statistics Pooling for Deep Speaker Embedding", 2018), with the channels last.

use candle_core::{Result, Tensor, bail};

use super::elementwise::exp_in_place;
use super::{cpu, par, softmax};

/// Channels that a task takes at once: their values of a time are two lines of the cache.
const BLOCK: usize = 32;
/// Rough cost of one value on one core, to decide whether threads pay.
const NS_A_VALUE: f64 = 1.5;

/// Mean and standard deviation of every channel of `(time, channels)`, one after the other: `(1, 2 channels)`. In each
/// channel a time counts as the softmax over time of `scores` of the same shape says. The variance is that of all there
/// is, and at least `least`.
///
/// # Errors
/// No values, scores of another shape; on the CPU, what is not contiguous.
pub fn attended(x: &Tensor, scores: &Tensor, least: f64) -> Result<Tensor> {
    let (time, channels) = x.dims2()?;
    if time == 0 || channels == 0 || scores.dims() != [time, channels] {
        bail!("attended: {:?} by scores of {:?}", x.shape(), scores.shape());
    }
    if !cpu::fused(&[x, scores]) {
        let shares = softmax(&scores.t()?.contiguous()?)?.t()?;
        let mean = (x * &shares)?.sum_keepdim(0)?;
        let variance = (x.broadcast_sub(&mean)?.sqr()? * &shares)?.sum_keepdim(0)?;
        return Tensor::cat(&[mean, variance.maximum(least)?.sqrt()?], 1);
    }
    let out = cpu::with(x, "attended", |x| {
        cpu::with(scores, "attended: scores", |scores| {
            let (mut means, mut deviations) = (vec![0f32; channels], vec![0f32; channels]);
            let parts = means.chunks_mut(BLOCK).zip(deviations.chunks_mut(BLOCK)).enumerate().collect();
            let work = |(at, (means, deviations)): (usize, (&mut [f32], &mut [f32]))| {
                let columns = Columns { x, scores, channels, from: at * BLOCK };
                columns.statistics(means, deviations, least);
            };
            if (x.len() as f64) * NS_A_VALUE > par::WORTH_A_THREAD_NS {
                par::each(parts, work);
            } else {
                parts.into_iter().for_each(work);
            }
            means.append(&mut deviations);
            Ok(means)
        })
    })?;
    cpu::tensor(out, (1, 2 * channels))
}

/// Some channels of all times.
struct Columns<'a> {
    x: &'a [f32],
    scores: &'a [f32],
    /// Of a time.
    channels: usize,
    /// The first of these.
    from: usize,
}

impl Columns<'_> {
    /// Values of these channels, `width` of them, time by time.
    fn rows<'a>(&self, values: &'a [f32], width: usize) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let from = self.from;
        values.chunks_exact(self.channels).map(move |row| &row[from..from + width])
    }

    fn statistics(&self, means: &mut [f32], deviations: &mut [f32], least: f64) {
        let width = means.len();
        // The largest first: no power of e then passes 1, and one of them is 1.
        let mut largest = vec![f32::NEG_INFINITY; width];
        for scores in self.rows(self.scores, width) {
            largest.iter_mut().zip(scores).for_each(|(l, s)| *l = l.max(*s));
        }
        let mut shares = Vec::with_capacity(self.x.len() / self.channels * width);
        for scores in self.rows(self.scores, width) {
            shares.extend(scores.iter().zip(&largest).map(|(s, l)| s - l));
        }
        exp_in_place(&mut shares);
        let (mut total, mut sums) = (vec![0f64; width], vec![0f64; width]);
        for (x, shares) in self.rows(self.x, width).zip(shares.chunks_exact(width)) {
            for (((total, sum), x), share) in total.iter_mut().zip(&mut sums).zip(x).zip(shares) {
                *total += f64::from(*share);
                *sum += f64::from(*share) * f64::from(*x);
            }
        }
        means.iter_mut().zip(&sums).zip(&total).for_each(|((mean, sum), total)| *mean = (sum / total) as f32);
        sums.fill(0.0);
        for (x, shares) in self.rows(self.x, width).zip(shares.chunks_exact(width)) {
            for (((sum, mean), x), share) in sums.iter_mut().zip(&*means).zip(x).zip(shares) {
                let apart = f64::from(x - mean);
                *sum += f64::from(*share) * apart * apart;
            }
        }
        for ((deviation, sum), total) in deviations.iter_mut().zip(&sums).zip(&total) {
            *deviation = (sum / total).max(least).sqrt() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::ops::testing::{assert_close, composed, noise};

    proptest! {
        #[test]
        fn times_count_as_their_scores_say(time in 1usize..200, channels in 1usize..80, sharp in 0.1f32..40.0) {
            let x: Vec<f32> = noise(time * channels, 1).iter().map(|v| v * 3.0 + 2.0).collect();
            let scores: Vec<f32> = noise(time * channels, 2).iter().map(|v| v * sharp).collect();
            let mut want = vec![0f32; 2 * channels];
            for c in 0..channels {
                let column = |v: &[f32]| v.iter().skip(c).step_by(channels).map(|v| f64::from(*v)).collect::<Vec<_>>();
                let (x, scores) = (column(&x), column(&scores));
                let shares: Vec<f64> = scores.iter().map(|s| s.exp()).collect();
                let total: f64 = shares.iter().sum();
                let mean = x.iter().zip(&shares).map(|(x, s)| x * s).sum::<f64>() / total;
                let spread: f64 = x.iter().zip(&shares).map(|(x, s)| s * (x - mean) * (x - mean)).sum();
                want[c] = mean as f32;
                want[channels + c] = (spread / total).max(1e-4).sqrt() as f32;
            }
            let tensor = |v: &[f32]| Tensor::from_slice(v, (time, channels), &Device::Cpu).unwrap();
            let (x, scores) = (tensor(&x), tensor(&scores));
            let all = || attended(&x, &scores, 1e-4).unwrap();
            for got in [all(), composed(all)] {
                prop_assert_eq!(got.dims(), &[1, 2 * channels]);
                assert_close(&got.flatten_all().unwrap().to_vec1().unwrap(), &want, 1e-4);
            }
        }
    }

    #[test]
    fn scores_of_another_shape_are_an_error() {
        let zeros =
            |t: usize, c: usize| Tensor::zeros((t, c), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(attended(&zeros(3, 2), &zeros(2, 3), 0.0).is_err());
        assert!(attended(&zeros(0, 2), &zeros(0, 2), 0.0).is_err());
    }
}
