//! Attention against its composition, over ragged shapes and every instruction set.

#![allow(unsafe_code)]

use candle_core::{DType, Device};
use proptest::prelude::*;

use super::*;
use crate::ops::simd::Simd;
use crate::ops::testing::{self, assert_within, noise, rounding, split_rounding};

fn tensor(seed: u64, shape: (usize, usize, usize)) -> Tensor {
    let v: Vec<f32> = noise(shape.0 * shape.1 * shape.2, seed).iter().map(|v| v * 3.0).collect();
    Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// How far attention may be from exact, for heads of `dim` values within `q`, `k` and `v`, whose sums are off by
/// `rounding`.
///
/// A score is at most `‖q‖‖k‖·scale` and off by the `δ` of such a sum; probabilities are then off by `2δ` of
/// themselves, and so is the mean of values, whose own sum rounds too.
fn limit([q, k, v]: [&[f32]; 3], dim: usize, scale: f32, rounding: fn(usize, f32) -> f32) -> f32 {
    let norm =
        |x: &[f32]| x.chunks(dim).map(|x| x.iter().map(|v| v * v).sum::<f32>().sqrt()).fold(0.0, f32::max);
    let largest = v.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    largest * 2.0 * rounding(dim, norm(q) * norm(k) * scale) + rounding(v.len() / dim + 2, largest)
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask) {
    let d = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let want = attention(&d(q), &d(k), &d(v), heads, 0.3, mask).unwrap();
    let got = attention(q, k, v, heads, 0.3, mask).unwrap();
    assert_eq!(got.dims(), q.dims());
    let near = |rounding| limit([&flat(q), &flat(k), &flat(v)], q.dim(2).unwrap() / heads, 0.3, rounding);
    let tiled = q.dim(1).unwrap() >= TILED;
    let of_ours = near(if tiled { split_rounding } else { rounding });
    assert_within(&flat(&got), &flat(&want), |_| of_ours);
    let near = near(rounding);
    let single = testing::composed(|| attention(q, k, v, heads, 0.3, mask).unwrap());
    assert_within(&flat(&single), &flat(&want), |_| near);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn matches_the_composition(
        batch in 1usize..4, queries in 0usize..60, keys in 1usize..450, heads in 1usize..4, dim in 1usize..70,
        lens in prop::collection::vec(0usize..450, 3), ragged: bool, causal: bool,
    ) {
        let width = heads * dim;
        let (q, kv) = (tensor(1, (batch, queries, width)), tensor(2, (batch, keys, 2 * width)));
        let (k, v) = (kv.narrow(2, 0, width).unwrap(), kv.narrow(2, width, width).unwrap());
        let lens: Vec<usize> = lens[..batch].iter().map(|l| (*l).min(keys)).collect();
        let mask = Mask { kv_lens: ragged.then_some(&lens), causal };
        check(&q, &k, &v, heads, mask);
    }

    #[test]
    fn ragged_rows_match_each_row_alone(lens in prop::collection::vec(0usize..90, 1..6), heads in 1usize..4) {
        let (dim, tokens) = (32, lens.iter().sum::<usize>());
        let width = heads * dim;
        let qkv = tensor(3, (1, tokens, 3 * width)).squeeze(0).unwrap();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(lens.iter().scan(0, |at, l| { *at += l; Some(*at) }))
            .collect();
        let got = attention_varlen(&qkv, &starts, heads, 0.2).unwrap();
        prop_assert_eq!(got.dims(), &[tokens, width]);
        for w in starts.windows(2).filter(|w| w[1] > w[0]) {
            let row = qkv.narrow(0, w[0], w[1] - w[0]).unwrap();
            let alone = attention_varlen(&row, &[0, w[1] - w[0]], heads, 0.2).unwrap();
            prop_assert_eq!(flat(&alone), flat(&got.narrow(0, w[0], w[1] - w[0]).unwrap()));
            let composed = composed::varlen(&row, &[0, w[1] - w[0]], heads, width, 0.2).unwrap();
            // Both are in f32.
            let near = 2.0 * limit([&flat(&row); 3], dim, 0.2, rounding);
            assert_within(&flat(&alone), &flat(&composed), |_| near);
        }
    }
}

#[test]
fn every_way_of_few_and_many_queries() {
    for queries in [1, 2, 3, 4, 5, 24, 25, 49, 128, 171] {
        for keys in [1, 15, 16, 17, 64, 191, 192, 193, 400] {
            let (q, k, v) =
                (tensor(1, (2, queries, 128)), tensor(2, (2, keys, 128)), tensor(3, (2, keys, 128)));
            check(&q, &k, &v, 2, Mask::default());
            check(&q, &k, &v, 2, Mask { causal: true, ..Mask::default() });
        }
    }
}

/// On the tile unit where there is one, else in its order of sums.
#[test]
fn the_tile_unit_gives_the_same() {
    for (queries, keys, dim) in [(1, 64, 64), (33, 65, 64), (70, 600, 80), (129, 256, 96)] {
        let (q, k, v) = (noise(queries * dim, 1), noise(keys * dim, 2), noise(keys * dim, 3));
        let t = |x: &[f32], n| Tensor::from_slice(x, (1, n, dim), &Device::Cpu).unwrap();
        for causal in [false, true] {
            let mask = Mask { causal, ..Mask::default() };
            let want =
                composed::attention(&t(&q, queries), &t(&k, keys), &t(&v, keys), 1, 0.7, mask).unwrap();
            let mut out = vec![f32::NAN; queries * dim];
            let mut scratch = vec![Step::ZERO; tiled::scratch_len(keys, dim)];
            let head = head((&q, &k, &v), &mut out, (queries, keys, dim), Way::Tiles, causal);
            // SAFETY: the buffers have the sizes named.
            unsafe { tiled::run_head(head, scratch.as_mut_ptr()) };
            let near = 2.0 * limit([&q, &k, &v], dim, 0.7, split_rounding);
            assert_within(&out, &flat(&want), |_| near);
        }
    }
}

#[test]
fn long_rows_match_each_row_alone() {
    let (heads, dim, lens) = (2, 64, [200, 130, 63, 1, 300]);
    let (width, tokens) = (heads * dim, lens.iter().sum::<usize>());
    let qkv = tensor(3, (1, tokens, 3 * width)).squeeze(0).unwrap();
    let mut starts = vec![0];
    lens.iter().for_each(|l| starts.push(starts[starts.len() - 1] + l));
    let got = attention_varlen(&qkv, &starts, heads, 0.2).unwrap();
    let vectors = testing::without_tiles(|| attention_varlen(&qkv, &starts, heads, 0.2).unwrap());
    let near = 2.0 * limit([&flat(&qkv); 3], dim, 0.2, split_rounding);
    assert_within(&flat(&got), &flat(&vectors), |_| near);
    for (&start, len) in starts.iter().zip(lens) {
        let alone = attention_varlen(&qkv.narrow(0, start, len).unwrap(), &[0, len], heads, 0.2).unwrap();
        assert_eq!(flat(&alone), flat(&got.narrow(0, start, len).unwrap()));
    }
}

/// One head over whole rows.
fn head(
    (q, k, v): (&[f32], &[f32], &[f32]),
    out: &mut [f32],
    (queries, keys, dim): (usize, usize, usize),
    way: Way,
    causal: bool,
) -> Head {
    Head {
        q: q.as_ptr(),
        k: k.as_ptr(),
        v: v.as_ptr(),
        out: out.as_mut_ptr(),
        q_stride: dim,
        k_stride: dim,
        v_stride: dim,
        out_stride: dim,
        queries,
        way,
        keys,
        dim,
        scale: 0.7,
        causal: causal.then_some(keys as isize + 1 - queries as isize),
    }
}

#[test]
fn every_set_gives_the_same() {
    fn check<S: Simd>() {
        for (queries, keys, dim) in [(1, 40, 20), (3, 200, 64), (30, 33, 32), (50, 400, 24)] {
            let (q, k, v) = (noise(queries * dim, 1), noise(keys * dim, 2), noise(keys * dim, 3));
            let t = |x: &[f32], n| Tensor::from_slice(x, (1, n, dim), &Device::Cpu).unwrap();
            let mask = Mask { causal: true, ..Mask::default() };
            let want =
                composed::attention(&t(&q, queries), &t(&k, keys), &t(&v, keys), 1, 0.7, mask).unwrap();
            let mut out = vec![f32::NAN; queries * dim];
            let few = queries <= FEW;
            let way = if few { Way::Few } else { Way::Vectors };
            let head = head((&q, &k, &v), &mut out, (queries, keys, dim), way, true);
            let mut scratch = vec![f32::NAN; vectors::scratch_len(few, keys, dim)];
            // SAFETY: the buffers have the sizes named; `every_set` calls with sets of this processor.
            unsafe { vectors::head_generic::<S>(head, &mut scratch) };
            let near = 2.0 * limit([&q, &k, &v], dim, 0.7, rounding);
            assert_within(&out, &flat(&want), |_| near);
        }
    }
    crate::ops::simd::every_set!(check);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (q, k) = (tensor(1, (2, 4, 32)), tensor(2, (2, 6, 32)));
    assert!(attention(&q, &k, &k, 3, 1.0, Mask::default()).is_err());
    assert!(attention(&q, &tensor(1, (1, 6, 32)), &k, 2, 1.0, Mask::default()).is_err());
    let mask = Mask { kv_lens: Some(&[7, 1]), causal: false };
    assert!(attention(&q, &k, &k, 2, 1.0, mask).is_err());
    let qkv = tensor(1, (1, 5, 96)).squeeze(0).unwrap();
    for starts in [&[0, 4][..], &[1, 5], &[0, 3, 2, 5], &[]] {
        assert!(attention_varlen(&qkv, starts, 2, 1.0).is_err());
    }
}
