//! Products in steps against plain ones, on the unit where there is one and in plain Rust.

#![allow(unsafe_code)]

use super::pack::Source;
use super::*;
use crate::ops::gemm::Activation;
use crate::ops::testing::{assert_within, noise, split_rounding};

fn source(values: &[f32], width: usize) -> Source {
    Source { values: values.as_ptr(), rows: values.len() / width, width, stride: width }
}

/// `(rows, k)` by `(columns, k)` transposed, in f64, and the sums of the terms' absolute values.
fn plain(a: &[f32], b: &[f32], k: usize) -> (Vec<f32>, Vec<f32>) {
    let pairs = a.chunks(k).flat_map(|a| b.chunks(k).map(move |b| (a, b)));
    let sums = pairs.map(|(a, b)| {
        let terms = || a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        (terms().sum::<f64>() as f32, terms().map(f64::abs).sum::<f64>() as f32)
    });
    sums.unzip()
}

#[test]
fn one_group_by_one_is_the_product() {
    for (rows, columns, k) in [(32, 32, 64), (1, 32, 64), (16, 5, 96), (17, 31, 100), (31, 16, 600)] {
        let (a, b) = (noise(rows * k, 1), noise(columns * k, 2));
        let steps = k.div_ceil(DEPTH);
        let (want, size) = plain(&a, &b, k);
        // The right side by its columns, and the same by its rows.
        let turned: Vec<f32> = (0..k * columns).map(|i| b[i % columns * k + i / columns]).collect();
        let mut right = [vec![Step::ZERO; steps], vec![Step::ZERO; steps]];
        let mut left = vec![Step::ZERO; steps];
        // SAFETY: the sources are whole, the buffers have a group's steps.
        unsafe {
            pack_rows(source(&a, k), 1.0, left.as_mut_ptr());
            pack_columns(source(&b, k), right[0].as_mut_ptr());
            pack_pairs(source(&turned, columns), right[1].as_mut_ptr());
        }
        assert!(right[0].iter().zip(&right[1]).all(|(by_columns, by_rows)| by_columns.0 == by_rows.0));
        for (accumulate, emulated) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut c = [1.0; GROUP * GROUP];
            let micro = Micro {
                rows,
                steps,
                a: left.as_ptr(),
                b: right[0].as_ptr(),
                c: c.as_mut_ptr(),
                stride: GROUP,
                accumulate,
                count: 1,
                next: (0, 0, 0),
            };
            // SAFETY: the buffers hold one product.
            unsafe { if emulated { micro.emulated() } else { micro.run() } };
            let got: Vec<f32> = c.chunks(GROUP).take(rows).flat_map(|row| &row[..columns]).copied().collect();
            let want: Vec<f32> = want.iter().map(|w| w + f32::from(u8::from(accumulate))).collect();
            assert_within(&got, &want, |i| split_rounding(k, size[i] + 1.0));
            assert!(c[rows * GROUP..].iter().all(|&past| past == 1.0));
        }
    }
}

#[test]
fn products_at_even_distances_follow_one_another() {
    let (k, count) = (64, 3);
    let (a, b) = (noise(32 * k, 1), noise(count * 32 * k, 2));
    let (mut left, mut right) = (vec![Step::ZERO; 2], vec![Step::ZERO; count * 2]);
    let mut c = vec![0.0; 32 * count * GROUP];
    let micro = Micro {
        rows: 32,
        steps: 2,
        a: left.as_mut_ptr(),
        b: right.as_mut_ptr(),
        c: c.as_mut_ptr(),
        stride: count * GROUP,
        accumulate: false,
        count,
        next: (0, 2, GROUP),
    };
    // SAFETY: the sources are whole; one left group by `count` right ones.
    unsafe {
        pack_rows(source(&a, k), 1.0, left.as_mut_ptr());
        pack_columns(source(&b, k), right.as_mut_ptr());
        micro.run();
    }
    let (want, size) = plain(&a, &b, k);
    assert_within(&c, &want, |i| split_rounding(k, size[i]));
}

#[test]
fn halves_split_without_a_rest() {
    let halves: Vec<f32> = noise(512, 3).iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
    let mut step = Step::ZERO;
    // SAFETY: 16 rows of 32 values fill the first tiles of one step.
    unsafe { pack_rows(source(&halves, DEPTH), 1.0, &raw mut step) };
    let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    for (i, &half) in halves.iter().enumerate() {
        assert_eq!(value(step.0[0][i]) + value(step.0[2][i]), half);
    }
}

#[test]
fn every_shape_of_a_layer_is_the_product() {
    for (m, k, n) in [(1, 64, 32), (33, 65, 33), (64, 512, 64), (300, 1100, 70), (5, 2048, 100)] {
        let (x, w, bias) = (noise(m * k, 1), noise(n * k, 2), noise(n, 3));
        let got = product(&x, &Tiled::new(&w, n, k), Some(&bias), Activation::Relu);
        let (want, size) = plain(&x, &w, k);
        let want: Vec<f32> = want.iter().zip(bias.iter().cycle()).map(|(w, b)| (w + b).max(0.0)).collect();
        assert_within(&got, &want, |i| split_rounding(k, size[i] + 1.0));
    }
}
