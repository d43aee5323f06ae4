//! Every format on every instruction set against a plain product in f64 of the weights as candle widens them.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::lanes::every;
use super::*;
use crate::ops::testing::{assert_close, noise};

const TYPES: [GgmlDType; 8] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

/// A random matrix of a type, packed, and its values, row-major.
fn weight(dtype: GgmlDType, outputs: usize, inputs: usize, seed: u64) -> (Matrix, Vec<f32>) {
    // A mean that is not 0 makes minima and offsets matter.
    let values: Vec<f32> = noise(outputs * inputs, seed).iter().map(|v| v * 0.7 + 0.1).collect();
    let values = Tensor::from_vec(values, (outputs, inputs), &Device::Cpu).unwrap();
    let tensor = QTensor::quantize(&values, dtype).unwrap();
    let mut matrix = Matrix::new(Kind::of(dtype).unwrap(), outputs, inputs).unwrap();
    matrix.fill(0, &tensor.data().unwrap()).unwrap();
    (matrix, tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap())
}

/// `x w^T` in f64, and how far the rounding of `x` to 8 bits, may move each value.
fn plain(x: &[f32], w: &[f32], inputs: usize) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for x in x.chunks_exact(inputs) {
        for w in w.chunks_exact(inputs) {
            let (mut sum, mut slack) = (0.0, 1e-4);
            for (x, w) in x.chunks_exact(BLOCK).zip(w.chunks_exact(BLOCK)) {
                let step = f64::from(x.iter().fold(0f32, |m, v| m.max(v.abs()))) / 127.0;
                let products = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                sum += products().sum::<f64>();
                slack += step * 0.501 * w.iter().map(|w| f64::from(w.abs())).sum::<f64>();
                // The scale of a block, and its total, are halves; a minimum is up to twice the weights around it.
                slack += 3.0 * products().map(f64::abs).sum::<f64>() / 2048.0;
            }
            out.push((sum, slack));
        }
    }
    out
}

/// Whole numbers with -127 in each block, which 8 bits hold exactly, and a half the sum of a block.
fn whole(len: usize, seed: u64) -> Vec<f32> {
    let mut x: Vec<f32> = noise(len, seed).iter().map(|v| (v * 50.0).round()).collect();
    x.iter_mut().step_by(BLOCK).for_each(|v| *v = -127.0);
    x
}

fn shapes() -> impl Strategy<Value = (usize, usize, usize, u64)> {
    (1usize..20, 1usize..50, 1usize..5, any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn products_are_exact_but_for_the_rounding_of_activations((rows, outputs, blocks, seed) in shapes()) {
        for dtype in TYPES {
            let inputs = blocks * dtype.block_size();
            let (matrix, values) = weight(dtype, outputs, inputs, seed);
            for isa in every() {
                let x = noise(rows * inputs, seed ^ 1);
                let got = product_on(isa, &x, &[&matrix]).unwrap();
                for (got, (want, slack)) in got.iter().zip(plain(&x, &values, inputs)) {
                    prop_assert!((f64::from(*got) - want).abs() <= slack, "{dtype:?} {isa:?}: {got}, not {want}");
                }
                let x = whole(rows * inputs, seed ^ 2);
                let got = product_on(isa, &x, &[&matrix]).unwrap();
                for (got, (want, slack)) in got.iter().zip(plain(&x, &values, inputs)) {
                    prop_assert!((f64::from(*got) - want).abs() <= slack * 1e-4, "{dtype:?} {isa:?}: {got}, not {want}");
                }
            }
        }
    }

    #[test]
    fn instruction_sets_and_batches_agree((rows, outputs, blocks, seed) in shapes()) {
        for dtype in TYPES {
            let inputs = blocks * dtype.block_size();
            let (matrix, _) = weight(dtype, outputs, inputs, seed);
            let x = noise(rows * inputs, seed);
            let best = product(&x, &[&matrix]).unwrap();
            for isa in every() {
                let got = product_on(isa, &x, &[&matrix]).unwrap();
                if isa == Isa::Portable {
                    // Without fused multiply-adds each step rounds once more.
                    assert_close(&got, &best, 1e-5);
                } else {
                    prop_assert_eq!(&got, &best, "{:?} {:?}", dtype, isa);
                }
            }
            for (x, want) in x.chunks_exact(inputs).zip(best.chunks_exact(outputs)) {
                prop_assert_eq!(&product(x, &[&matrix]).unwrap(), want);
            }
        }
    }
}

#[test]
fn sums_of_extreme_codes_are_exact_on_every_set() {
    // Weights and activations at both ends: 16-bit sums would overflow.
    let (rows, outputs, inputs) = (3, 17, 64);
    for (q, value) in [(-128i8, -127.0), (-128, 127.0), (127, 127.0), (127, -127.0)] {
        let mut bytes = Vec::new();
        for _ in 0..outputs * inputs / BLOCK {
            bytes.extend(half::f16::ONE.to_le_bytes());
            bytes.extend([q as u8; BLOCK]);
        }
        let mut matrix = Matrix::new(Kind::Q8_0, outputs, inputs).unwrap();
        matrix.fill(0, &bytes).unwrap();
        for isa in every() {
            let got = product_on(isa, &vec![value; rows * inputs], &[&matrix]).unwrap();
            assert_eq!(got, vec![f32::from(q) * value * inputs as f32; rows * outputs], "{isa:?}");
        }
    }
}

#[test]
fn parts_lie_side_by_side_whatever_their_formats() {
    let (rows, inputs) = (37, 512);
    let x = noise(rows * inputs, 9);
    let parts = [(GgmlDType::Q4K, 33), (GgmlDType::Q6K, 16), (GgmlDType::Q4_1, 7), (GgmlDType::Q8_0, 130)];
    let parts: Vec<Matrix> = parts.iter().map(|&(t, outputs)| weight(t, outputs, inputs, 5).0).collect();
    let all = product(&x, &parts.iter().collect::<Vec<_>>()).unwrap();
    let mut want = vec![Vec::new(); rows];
    for part in &parts {
        let alone = product(&x, &[part]).unwrap();
        want.iter_mut().zip(alone.chunks_exact(part.outputs)).for_each(|(w, a)| w.extend_from_slice(a));
    }
    assert_eq!(all, want.concat());
}

#[test]
fn rows_come_back_as_they_went_in() {
    for dtype in TYPES {
        let (outputs, inputs) = (35, 2 * dtype.block_size());
        let (matrix, values) = weight(dtype, outputs, inputs, 3);
        for (i, want) in values.chunks_exact(inputs).enumerate() {
            let mut got = vec![0.0; inputs];
            matrix.row(i, &mut got);
            assert_close(&got, want, 1e-6);
        }
    }
}

#[test]
fn blocks_that_are_not_numbers_say_so_and_tiny_ones_are_zero() {
    let (matrix, _) = weight(GgmlDType::Q4_1, 16, 64, 1);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![1.0; 128];
        x[40] = bad;
        let out = product(&x, &[&matrix]).unwrap();
        assert!(out[..16].iter().all(|v| v.is_nan()) && out[16..].iter().all(|v| v.is_finite()));
    }
    assert_eq!(product(&[1e-38; 64], &[&matrix]).unwrap(), [0.0; 16]);
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(Matrix::new(Kind::Q8_0, 16, 33).is_err());
    assert!(Matrix::new(Kind::Q4K, 16, 32).is_err());
    assert!(Matrix::new(Kind::Q8_0, 0, 32).is_err());
    assert!(Matrix::new(Kind::Q8_0, usize::MAX, 1 << 20).is_err());
    let mut matrix = Matrix::new(Kind::Q8_0, 17, 32).unwrap();
    assert!(matrix.fill(1, &[0; 34]).is_err());
    assert!(matrix.fill(0, &[0; 33]).is_err());
    assert!(matrix.fill(16, &[0; 68]).is_err());
    matrix.fill(16, &[0; 34]).unwrap();
    assert!(product(&[0.0; 33], &[&matrix]).is_err());
    assert!(product(&[0.0; 32], &[]).is_err());
    assert!(product(&[], &[&matrix]).unwrap().is_empty());
}
