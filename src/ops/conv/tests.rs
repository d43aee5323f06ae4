use candle_core::Device;
use proptest::prelude::*;

use super::*;
use crate::ops::testing::{assert_within, composed as within_composed, noise, rounding};

/// The sums one by one in f64, and those of the terms' absolute values.
fn naive(
    x: &[f32],
    (t, f, c): (usize, usize, usize),
    w: &[f32],
    layer: &Conv,
    out: (usize, usize),
) -> (Vec<f32>, Vec<f32>) {
    let Moves { stride, pad, dilation } = layer.moves;
    let (mut sums, mut sizes) = (Vec::new(), Vec::new());
    for (time, freq, output) in (0..out.0 * out.1 * layer.outputs)
        .map(|i| (i / layer.outputs / out.1, i / layer.outputs % out.1, i % layer.outputs))
    {
        let (mut sum, mut size) = (0f64, 0f64);
        for (tap, at, input) in
            (0..layer.taps.0 * layer.taps.1 * c).map(|i| (i / c / layer.taps.1, i / c % layer.taps.1, i % c))
        {
            let from = (time * stride.0 + tap * dilation).checked_sub(pad.0).filter(|from| *from < t);
            let freq = (freq * stride.1 + at).checked_sub(pad.1).filter(|freq| *freq < f);
            let (Some(from), Some(freq)) = (from, freq) else { continue };
            let weight = w[((output * c + input) * layer.taps.0 + tap) * layer.taps.1 + at];
            let term = f64::from(x[(from * f + freq) * c + input]) * f64::from(weight);
            (sum, size) = (sum + term, size + term.abs());
        }
        sums.push(sum as f32);
        sizes.push(size as f32);
    }
    (sums, sizes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_place_is_the_sum_of_its_taps(
        (t, f, c) in (1usize..130, 1usize..12, 1usize..20), panels in 1usize..5, odd in 0usize..3,
        taps in (1usize..6, 1usize..4), stride in (1usize..4, 1usize..3), pad in (0usize..3, 0usize..2), dilation in 1usize..3,
        onto: bool,
    ) {
        let outputs = 16 * panels - odd;
        // Without a frequency there is nothing to pad it with.
        let (f, taps, pad) = if f < 3 { (1, (taps.0, 1), (pad.0, 0)) } else { (f, taps, pad) };
        let (x, w, b) = (noise(t * f * c, 1), noise(outputs * c * taps.0 * taps.1, 2), noise(outputs, 3));
        let device = Device::Cpu;
        let weight = Tensor::from_slice(&w, (outputs, c, taps.0, taps.1), &device).unwrap();
        let bias = Tensor::from_slice(&b, outputs, &device).unwrap();
        let input = Tensor::from_slice(&x, (t, f, c), &device).unwrap();
        let moves = Moves { stride, pad, dilation };
        let layer = Conv::new(&weight, Some(&bias), moves).unwrap();
        let Ok(places) = layer.places(t, f) else {
            prop_assert!(conv(&input, &layer).is_err());
            return Ok(());
        };
        let (want, sizes) = naive(&x, (t, f, c), &w, &layer, places);
        let before = noise(want.len(), 4);
        let first = onto.then(|| Tensor::from_slice(&before, (places.0, places.1, outputs), &device).unwrap());
        let run = || {
            let layer = Conv::new(&weight, Some(&bias), moves).unwrap();
            apply(&input, &layer, first.as_ref(), Activation::Relu).unwrap()
        };
        for got in [run(), within_composed(run)] {
            prop_assert_eq!(got.dims(), &[places.0, places.1, outputs]);
            let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let beside = |i: usize| b[i % outputs] + if onto { before[i] } else { 0.0 };
            let want: Vec<f32> = want.iter().enumerate().map(|(i, w)| (w + beside(i)).max(0.0)).collect();
            assert_within(&got, &want, |i| 4.0 * rounding(c * taps.0 * taps.1 + 2, sizes[i] + beside(i).abs() + 1.0));
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let layer = Conv::over_time(&zeros(&[10, 4, 3]), None, Moves::PLAIN).unwrap();
    assert!(conv(&zeros(&[2, 1, 4]), &layer).is_err(), "too short");
    assert!(conv(&zeros(&[9, 1, 5]), &layer).is_err(), "other channels");
    assert!(conv_add_relu(&zeros(&[9, 1, 4]), &layer, &zeros(&[7, 1, 9])).is_err(), "beside another shape");
    assert!(Conv::new(&zeros(&[4, 4, 3, 1]), Some(&zeros(&[5])), Moves::PLAIN).is_err());
    let still = Moves { stride: (0, 1), ..Moves::PLAIN };
    assert!(Conv::new(&zeros(&[4, 4, 3, 1]), None, still).is_err());
}
