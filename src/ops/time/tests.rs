use candle_core::Device;
use proptest::prelude::*;

use super::*;
use crate::ops::testing::{assert_close, composed, noise};

fn tensor(values: &[f32], shape: (usize, usize)) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// A column of rows.
fn column(values: &[f32], channels: usize, c: usize) -> Vec<f64> {
    values.iter().skip(c).step_by(channels).map(|v| f64::from(*v)).collect()
}

proptest! {
    #[test]
    fn stretches_are_as_one_by_one(time in 1usize..300, channels in 1usize..9, run in 1usize..120) {
        let values = noise(time * channels, 1);
        let x = tensor(&values, (time, channels));
        let mut want = Vec::new();
        for rows in values.chunks(run * channels) {
            for c in 0..channels {
                let column = column(rows, channels, c);
                want.push((column.iter().sum::<f64>() / column.len() as f64) as f32);
            }
        }
        let scales = noise(want.len(), 2);
        let runs = time.div_ceil(run);
        let scaled: Vec<f32> = (0..values.len())
            .map(|i| values[i] * scales[i / channels / run * channels + i % channels]).collect();
        let all = || {
            let means = run_means(&x, run).unwrap();
            (flat(&means), flat(&scale_runs(&x, &tensor(&scales, (runs, channels)), run).unwrap()))
        };
        for (means, got) in [all(), composed(all)] {
            assert_close(&means, &want, 1e-6);
            assert_close(&got, &scaled, 1e-6);
        }
    }

    #[test]
    fn channels_are_judged_by_themselves(time in 1usize..300, channels in 1usize..9) {
        let values: Vec<f32> = noise(time * channels, 1).iter().map(|v| v * 3.0 + 5.0).collect();
        let (w, b) = (noise(channels, 2), noise(channels, 3));
        let x = tensor(&values, (time, channels));
        let (mut stats, mut normed) = (vec![0f32; 2 * channels], vec![0f32; values.len()]);
        let (mut whole, mut scaled) = (vec![0f32; 2 * channels], vec![0f32; values.len()]);
        for c in 0..channels {
            let column = column(&values, channels, c);
            let mean = column.iter().sum::<f64>() / time as f64;
            let spread: f64 = column.iter().map(|v| (v - mean) * (v - mean)).sum();
            stats[c] = mean as f32;
            stats[channels + c] = (spread / (time - 1).max(1) as f64 + 0.5).sqrt() as f32;
            whole[c] = mean as f32;
            whole[channels + c] = (spread / time as f64).max(0.5).sqrt() as f32;
            for (t, v) in column.iter().enumerate() {
                let y = (v - mean) / (spread / time as f64 + 1e-5).sqrt() * f64::from(w[c]) + f64::from(b[c]);
                normed[t * channels + c] = (if y < 0.0 { y * 0.01 } else { y }) as f32;
                scaled[t * channels + c] = (v * f64::from(w[c]) + f64::from(b[c])) as f32;
            }
        }
        let all = || {
            let vector = |v: &[f32]| Tensor::from_slice(v, channels, &Device::Cpu).unwrap();
            let normed = instance_norm(&x, &vector(&w), &vector(&b), 0.01).unwrap();
            let scaled = affine(&x, &Affine::new(vector(&w), vector(&b)).unwrap()).unwrap();
            let of = |variance| flat(&mean_and_deviation(&x, variance).unwrap());
            let (sample, all) = (of(Variance::Sample { added: 0.5 }), of(Variance::Whole { least: 0.5 }));
            (sample, all, flat(&normed), flat(&scaled))
        };
        for (sample, all, norm, linear) in [all(), composed(all)] {
            assert_close(&sample, &stats, 2e-5);
            assert_close(&all, &whole, 2e-5);
            assert_close(&linear, &scaled, 1e-6);
            // One row is its own mean: nothing of it is left but what rounding leaves.
            assert_close(&norm, &normed, if time < 3 { 1e-2 } else { 1e-4 });
        }
    }

    #[test]
    fn the_largest_of_every_window_is_left(time in 1usize..60, channels in 1usize..5, width in 1usize..5, sizes: bool) {
        let values = noise(time * channels, 1);
        let x = tensor(&values, (time, channels));
        if time < width {
            prop_assert!(max_pool(&x, width, sizes).is_err());
            return Ok(());
        }
        let size = |v: f32| if sizes { v.abs() } else { v };
        let mut want = Vec::new();
        for window in values.chunks_exact(width * channels) {
            want.extend((0..channels).map(|c| {
                window.iter().skip(c).step_by(channels).map(|v| size(*v)).fold(f32::NEG_INFINITY, f32::max)
            }));
        }
        let all = || flat(&max_pool(&x, width, sizes).unwrap());
        for got in [all(), composed(all)] {
            prop_assert_eq!(&got, &want);
        }
    }

    #[test]
    fn parts_lie_side_by_side(time in 1usize..40, widths in prop::collection::vec(1usize..20, 1..5)) {
        let channels: usize = widths.iter().sum();
        let parts: Vec<Tensor> =
            widths.iter().enumerate().map(|(i, w)| tensor(&noise(time * w, i as u64), (time, *w))).collect();
        let vector = |seed: u64| Tensor::from_vec(noise(channels, seed), channels, &Device::Cpu).unwrap();
        let by = Affine::new(vector(8), vector(9)).unwrap();
        let all = || flat(&joined_relu(&parts, &by).unwrap());
        let got = all();
        assert_close(&got, &composed(all), 1e-6);
        let first = flat(&parts[0])[0] * noise(channels, 8)[0] + noise(channels, 9)[0];
        assert_close(&got[..1], &[first.max(0.0)], 1e-6);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let x = tensor(&[0.0; 6], (3, 2));
    assert!(run_means(&x, 0).is_err());
    assert!(scale_runs(&x, &tensor(&[0.0; 2], (1, 2)), 2).is_err());
    assert!(max_pool(&x, 4, false).is_err() && max_pool(&x, 0, false).is_err());
    let one = Tensor::from_slice(&[1f32], 1, &Device::Cpu).unwrap();
    assert!(instance_norm(&x, &one, &one, 0.0).is_err());
    let by = Affine::new(one.clone(), one).unwrap();
    assert!(affine(&x, &by).is_err());
    assert!(joined_relu(&[x], &by).is_err() && joined_relu(&[], &by).is_err());
}
