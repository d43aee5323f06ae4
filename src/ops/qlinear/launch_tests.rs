//! The kernels on the CPU against plain products of the same weights.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;

use super::*;
use crate::ops::gpu::host::{at, at_mut, run};
use crate::ops::gpu::tiles::Tiles;
use crate::ops::testing::{assert_close, noise};

const TYPES: [GgmlDType; 10] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
    GgmlDType::F16,
    GgmlDType::F32,
];

/// A matrix in tiles, and the weights that its blocks stand for.
struct Matrix {
    layout: Layout,
    tiles: Vec<u128>,
    weights: Vec<f32>,
}

impl Matrix {
    fn new(dtype: GgmlDType, outputs: usize, inputs: usize, seed: u64) -> Self {
        let values =
            Tensor::from_vec(noise(outputs * inputs, seed), (outputs, inputs), &Device::Cpu).unwrap();
        let blocks = QTensor::quantize(&values, dtype).unwrap();
        let mut tiles = Tiles::new(dtype, outputs, inputs).unwrap();
        let row = inputs / dtype.block_size() * dtype.type_size();
        for (i, rows) in blocks.data().unwrap().chunks(32 * row).enumerate() {
            tiles.fill(32 * i, rows);
        }
        let (layout, bytes) = tiles.finish();
        assert_eq!(bytes.len(), layout.bytes());
        // Aligned as a GPU's memory is.
        let mut aligned = vec![0u128; bytes.len().div_ceil(16)];
        bytemuck::cast_slice_mut(&mut aligned)[..bytes.len()].copy_from_slice(&bytes);
        let weights = blocks.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        Matrix { layout, tiles: aligned, weights }
    }

    fn argument(&self) -> (Address, Layout) {
        (at(&self.tiles), self.layout)
    }

    fn product(&self, x: &[f32]) -> impl Fn(usize, usize) -> f32 {
        let inputs = self.layout.inputs;
        move |row, output| {
            let weights = &self.weights[output * inputs..][..inputs];
            x[row * inputs..][..inputs].iter().zip(weights).map(|(x, w)| x * w).sum()
        }
    }
}

/// `x W^T + bias` by the kernels; what they leave unset stays no number.
fn kernels(matrices: &[&Matrix], x: &[f32], rows: usize, bias: Option<&[f32]>) -> Vec<f32> {
    by(2, matrices, x, rows, bias, |product, packed| product.launches(packed))
}

/// By the launches that `f` makes of the product and the place of what is packed, on a card of so many multiprocessors.
fn by(
    multiprocessors: usize,
    matrices: &[&Matrix],
    x: &[f32],
    rows: usize,
    bias: Option<&[f32]>,
    f: impl FnOnce(&Product<'_>, Address) -> Vec<Launch>,
) -> Vec<f32> {
    let columns: usize = matrices.iter().map(|m| m.layout.outputs).sum();
    let mut out = vec![f32::NAN; rows * columns];
    let arguments: Vec<_> = matrices.iter().map(|m| m.argument()).collect();
    let mut partial = vec![u128::MAX; Bench::partial_bytes(multiprocessors) / 16];
    let mut arrived = vec![0u32; GROUPS];
    let product = Product {
        matrices: &arguments,
        x: at(x),
        rows,
        bias: bias.map_or(0, at),
        out: at_mut(&mut out),
        rounded: None,
        bench: Bench { multiprocessors, partial: at_mut(&mut partial), arrived: at_mut(&mut arrived) },
    };
    assert!(product.shared_groups() <= GROUPS);
    let mut packed = vec![u128::MAX; product.packed_bytes() / 16];
    run(&f(&product, at_mut(&mut packed)));
    assert!(arrived.iter().all(|n| *n == 0), "the next launch counts on it");
    out
}

/// Sums of `inputs` products of weights and activations within 1: a few rows' are rounded to 8 bits, others to halves as
/// are the scales that 32 weights share.
fn tolerance(rows: usize, inputs: usize) -> f32 {
    (inputs as f32).sqrt() / 3.0 * if rows <= FEW { 0.02 } else { 2f32.powi(-8) }
}

#[test]
fn every_format_multiplies_like_its_weights() {
    for (i, dtype) in TYPES.into_iter().enumerate() {
        let k = dtype.block_size() == 256;
        for (rows, outputs, inputs) in [(1, 17, 256), (3, 33, 512), (8, 16, if k { 768 } else { 352 })] {
            let matrix = Matrix::new(dtype, outputs, inputs, i as u64);
            let x = noise(rows * inputs, 7);
            let want = matrix.product(&x);
            let want: Vec<f32> =
                (0..rows).flat_map(|r| (0..outputs).map(move |o| (r, o))).map(|(r, o)| want(r, o)).collect();
            assert_close(&kernels(&[&matrix], &x, rows, None), &want, tolerance(rows, inputs));
        }
    }
}

#[test]
fn matrices_of_several_formats_stand_side_by_side_with_their_bias() {
    let types = [GgmlDType::Q4K, GgmlDType::Q6K, GgmlDType::Q8_0];
    for rows in [2, 9, 20, 40, 70] {
        let inputs = 512;
        let matrices: Vec<Matrix> =
            types.iter().zip([40, 100, 7]).map(|(t, n)| Matrix::new(*t, n, inputs, rows as u64)).collect();
        let all: Vec<&Matrix> = matrices.iter().collect();
        let (x, bias) = (noise(rows * inputs, 3), noise(147, 5));
        let got = kernels(&all, &x, rows, Some(&bias));
        let mut want = Vec::new();
        for row in 0..rows {
            for matrix in &matrices {
                let product = matrix.product(&x);
                want.extend((0..matrix.layout.outputs).map(|o| product(row, o)));
            }
        }
        let want: Vec<f32> = want.iter().enumerate().map(|(i, v)| v + bias[i % 147]).collect();
        assert_close(&got, &want, tolerance(rows, inputs));
    }
}

#[test]
fn packed_products_take_every_format_and_odd_depths() {
    for dtype in TYPES {
        let inputs = if dtype.block_size() == 256 { 768 } else { 288 };
        let matrix = Matrix::new(dtype, 70, inputs, 1);
        let x = noise(12 * inputs, 2);
        let product = matrix.product(&x);
        let want: Vec<f32> = (0..12 * 70).map(|i| product(i / 70, i % 70)).collect();
        assert_close(&kernels(&[&matrix], &x, 12, None), &want, tolerance(12, inputs));
    }
}

#[test]
fn matrices_of_many_outputs_take_the_wide_kernels() {
    let outputs = 16 * 4 * FILLED;
    let matrix = Matrix::new(GgmlDType::Q8_0, outputs, 32, 1);
    for rows in [5, 16, 30, 64] {
        let x = noise(rows * 32, 2);
        let product = matrix.product(&x);
        let want: Vec<f32> = (0..rows * outputs).map(|i| product(i / outputs, i % outputs)).collect();
        assert_close(&kernels(&[&matrix], &x, rows, None), &want, tolerance(rows, 32));
    }
}

#[test]
fn blocks_share_out_matrices_of_any_shape() {
    // Few blocks that have many groups of outputs each, many that share one, and more than there are steps.
    let cases = [
        (GgmlDType::Q6K, 1040, 256, 1),
        (GgmlDType::F16, 130, 1536, 3),
        (GgmlDType::Q4K, 70, 768, 40),
        (GgmlDType::Q5_1, 260, 672, 5),
    ];
    for (dtype, outputs, inputs, multiprocessors) in cases {
        let matrix = Matrix::new(dtype, outputs, inputs, 1);
        let other = Matrix::new(GgmlDType::Q8_0, 20, inputs, 2);
        for (rows, name, crowd) in [(30, "qlinear_32_shared", CROWD[0]), (61, "qlinear_64_shared", CROWD[1])]
        {
            let (x, bias) = (noise(rows * inputs, 2), noise(outputs + 20, 5));
            let (first, second) = (matrix.product(&x), other.product(&x));
            let want = (0..rows * (outputs + 20)).map(|i| (i / (outputs + 20), i % (outputs + 20)));
            let want: Vec<f32> = want
                .map(|(r, o)| bias[o] + if o < outputs { first(r, o) } else { second(r, o - outputs) })
                .collect();
            let got = by(multiprocessors, &[&matrix, &other], &x, rows, Some(&bias), |product, packed| {
                product.strip_by(product.shared(name, crowd), 0, rows, packed).to_vec()
            });
            assert_close(&got, &want, tolerance(rows, inputs));
        }
    }
}

#[test]
fn a_rows_result_is_the_same_beside_others() {
    let matrix = Matrix::new(GgmlDType::Q4K, 48, 1024, 3);
    let x = noise(8 * 1024, 4);
    let all = kernels(&[&matrix], &x, 8, None);
    let [one, three] = [1, 3].map(|n| kernels(&[&matrix], &x[..n * 1024], n, None));
    assert_eq!(one, three[..48]);
    let four = kernels(&[&matrix], &x[4 * 1024..], 4, None);
    assert_eq!(four, all[4 * 48..]);
}

#[test]
fn activations_past_the_range_of_halves_are_multiplied() {
    let matrix = Matrix::new(GgmlDType::Q8_0, 16, 64, 3);
    for rows in [1, 5] {
        let x: Vec<f32> = noise(rows * 64, 4).iter().map(|v| v * 1e6).collect();
        let product = matrix.product(&x);
        let want: Vec<f32> = (0..rows * 16).map(|i| product(i / 16, i % 16)).collect();
        let scaled = |values: &[f32]| values.iter().map(|v| v * 1e-6).collect::<Vec<f32>>();
        assert_close(&scaled(&kernels(&[&matrix], &x, rows, None)), &scaled(&want), tolerance(rows, 64));
    }
}

#[test]
fn what_is_no_number_makes_no_number() {
    for (rows, bad) in [(1, f32::NAN), (1, f32::INFINITY), (2, f32::NAN)] {
        let matrix = Matrix::new(GgmlDType::Q8_0, 16, 64, 3);
        let mut x = noise(rows * 64, 4);
        x[37] = bad;
        let out = kernels(&[&matrix], &x, rows, None);
        assert!(out[..16].iter().all(|v| v.is_nan()) && out[16..].iter().all(|v| v.is_finite()), "{out:?}");
    }
}

#[test]
fn matrices_and_rows_come_back_out_of_their_tiles() {
    for dtype in TYPES {
        let (outputs, inputs) = (37, if dtype.block_size() == 256 { 512 } else { 416 });
        let matrix = Matrix::new(dtype, outputs, inputs, 9);
        let mut halves = vec![u128::MAX; outputs * inputs / 8];
        run(&[unpack(matrix.argument(), at_mut(&mut halves))]);
        let halves: &[f16] = bytemuck::cast_slice(&halves);
        let got: Vec<f32> = halves.iter().map(|h| h.to_f32()).collect();
        // Scale times code and minimum are rounded to halves, one after the other.
        assert_close(&got, &matrix.weights, 2f32.powi(-9));

        let ids = [36u32, 0, 9, 9];
        let mut out = vec![f32::NAN; ids.len() * inputs];
        run(&[rows(matrix.argument(), at(&ids), ids.len(), 2.0, at_mut(&mut out))]);
        let want: Vec<f32> =
            ids.iter().flat_map(|id| &got[*id as usize * inputs..][..inputs]).map(|v| v * 2.0).collect();
        assert_close(&out, &want, 1e-6);
    }
}

#[test]
fn shrinking_divides_by_64() {
    let x = noise(1028, 6);
    let mut out = vec![0u64; 1028 / 4];
    run(&[shrink(at(&x), at_mut(&mut out), x.len())]);
    let out: &[f16] = bytemuck::cast_slice(&out);
    for (half, x) in out.iter().zip(&x) {
        assert_eq!(*half, f16::from_f32(x / 64.0));
    }
}

#[test]
fn warps_have_about_as_much_to_do() {
    // (tiles, tiles deep) of a model of 7 billion weights: queries and keys, output, gate and up, down, vocabulary.
    for (tiles, deep, want) in [(288, 14, 14), (224, 14, 14), (2368, 14, 7), (224, 74, 15), (9504, 14, 7)] {
        let warps = warps(tiles, deep);
        assert!(warps * deep.div_ceil(warps) <= deep + deep / 8, "{tiles} {deep}: {warps}");
        assert!(warps <= want.max(16));
    }
}
