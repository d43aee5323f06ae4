//! The kernels on the CPU against attention by its definition.

use super::*;
use crate::ops::gpu::host::{at, at_mut, run};
use crate::ops::testing::{assert_close, noise};

/// Rows of queries and keys, of heads within rows of `columns` values for queries, keys and values alike.
struct Case {
    heads: usize,
    dim: usize,
    rows: Vec<(usize, usize)>,
    causal: bool,
}

const SCALE: f32 = 0.4;

/// Memory that begins where a GPU's would.
fn aligned(values: &[f32]) -> Vec<u128> {
    let mut words = vec![0u128; values.len().div_ceil(4)];
    bytemuck::cast_slice_mut(&mut words)[..values.len()].copy_from_slice(values);
    words
}

/// Tokens of all rows: queries, keys and values of token `i` side by side, the longer of a row's queries and keys
/// between one row and the next.
fn check(case: &Case) {
    let (width, tokens) =
        (case.heads * case.dim, case.rows.iter().map(|(q, k)| *q.max(k)).sum::<usize>().max(1));
    let qkv = noise(tokens * 3 * width, 7);
    let memory = aligned(&qkv);
    let (mut spans, mut first) = (Vec::new(), 0);
    for &(queries, keys) in &case.rows {
        let place = first * 3 * width;
        spans.push(Span { q: place, queries, out: first * width, k: place, v: place, keys });
        first += queries.max(keys);
    }
    let mut out = aligned(&vec![f32::NAN; tokens * width]);
    let part = |i: usize| (at(&memory) + (i * width * size_of::<f32>()) as u64, 3 * width);
    let tensors = Tensors { q: part(0), k: part(1), v: part(2), out: (at_mut(&mut out), width) };
    run(&launches(&tensors, &spans, (case.heads, case.dim), SCALE, case.causal).unwrap());
    let got: &[f32] = &bytemuck::cast_slice(&out)[..tokens * width];
    for span in &spans {
        for i in 0..span.queries {
            let want = defined(&qkv, span, i, case);
            // Queries, keys, values and weights are rounded to halves.
            assert_close(&got[span.out + i * width..][..width], &want, 2e-3);
        }
    }
    let written: usize = spans.iter().map(|s| s.queries * width).sum();
    assert_eq!(got.iter().filter(|v| !v.is_nan()).count(), written, "nothing else is written");
}

/// Query `i` of a span.
fn defined(qkv: &[f32], span: &Span, i: usize, case: &Case) -> Vec<f32> {
    let (width, dim) = (case.heads * case.dim, case.dim);
    let seen = if case.causal { (span.keys + i + 1).saturating_sub(span.queries) } else { span.keys };
    let row = |token: usize, part: usize, head: usize| {
        &qkv[span.q + (3 * token + part) * width + head * dim..][..dim]
    };
    let mut out = Vec::new();
    for head in 0..case.heads {
        let dot = |k: &[f32]| row(i, 0, head).iter().zip(k).map(|(a, b)| a * b).sum::<f32>() * SCALE;
        let scores: Vec<f32> = (0..seen).map(|j| dot(row(j, 1, head))).collect();
        let top = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f32> = scores.iter().map(|s| (s - top).exp()).collect();
        let total: f32 = weights.iter().sum();
        out.extend((0..dim).map(|d| {
            let sum: f32 = weights.iter().enumerate().map(|(j, w)| w * row(j, 2, head)[d]).sum();
            if seen == 0 { 0.0 } else { sum / total }
        }));
    }
    out
}

#[test]
fn ragged_rows_of_every_head_size() {
    for (heads, dim) in [(3, 32), (2, 64), (1, 128)] {
        let rows = vec![(1, 1), (17, 17), (0, 0), (64, 64), (65, 65), (130, 130), (2, 2)];
        check(&Case { heads, dim, rows, causal: false });
    }
}

#[test]
fn rows_whose_keys_are_fewer_or_more_than_their_queries() {
    for causal in [false, true] {
        let rows = vec![(20, 3), (5, 0), (3, 150), (70, 64), (1, 65), (40, 90)];
        check(&Case { heads: 2, dim: 64, rows, causal });
    }
}

#[test]
fn causal_rows_see_what_is_before_them() {
    check(&Case { heads: 1, dim: 128, rows: vec![(100, 100), (33, 33)], causal: true });
    check(&Case { heads: 2, dim: 32, rows: vec![(16, 16), (129, 129)], causal: true });
}

/// Blocks of eight warps, the last of which have nothing to do.
#[test]
fn long_rows_have_larger_blocks() {
    check(&Case { heads: 1, dim: 32, rows: vec![(530, 530), (9, 9)], causal: false });
}

#[test]
fn more_rows_than_a_launch_takes() {
    let rows = (0..MOST + 7).map(|i| (i % 3, i % 3)).collect();
    check(&Case { heads: 1, dim: 32, rows, causal: false });
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let (dim, lens) = (32, [70, 520]);
    let qkv = noise(590 * 3 * dim, 1);
    let memory = aligned(&qkv);
    let attend = |spans: &[Span]| {
        let mut out = aligned(&vec![0.0; 590 * dim]);
        let part = |i: usize| (at(&memory) + (i * dim * size_of::<f32>()) as u64, 3 * dim);
        let tensors = Tensors { q: part(0), k: part(1), v: part(2), out: (at_mut(&mut out), dim) };
        run(&launches(&tensors, spans, (1, dim), SCALE, false).unwrap());
        bytemuck::cast_slice::<u128, f32>(&out)[..lens[0] * dim].to_vec()
    };
    let span = |first: usize, len: usize| {
        let place = first * 3 * dim;
        Span { q: place, queries: len, out: first * dim, k: place, v: place, keys: len }
    };
    assert_eq!(attend(&[span(0, lens[0])]), attend(&[span(0, lens[0]), span(lens[0], lens[1])]));
}

#[test]
fn what_no_kernel_takes_is_left_to_others() {
    let tensors = |stride: usize| Tensors { q: (0, stride), k: (0, stride), v: (0, stride), out: (0, 64) };
    let span = |q: usize| [Span { q, queries: 1, out: 0, k: 0, v: 0, keys: 1 }];
    assert!(launches(&tensors(64), &span(0), (1, 64), 1.0, false).is_some());
    assert!(launches(&tensors(66), &span(0), (1, 64), 1.0, false).is_none());
    assert!(launches(&tensors(64), &span(2), (1, 64), 1.0, false).is_none());
    assert!(launches(&tensors(80), &span(0), (1, 80), 1.0, false).is_none());
}
