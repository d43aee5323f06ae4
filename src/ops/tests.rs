//! The decoder's operations against plain loops, over ragged shapes and on every path that this CPU has.

use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::testing::{assert_close, composed, noise};
use super::*;

fn tensor(values: &[f32], rows: usize) -> Tensor {
    Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn naive_norm(x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
    x.chunks(w.len())
        .flat_map(|row| {
            let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            row.iter().zip(w).map(|(v, w)| (f64::from(*v) * scale * f64::from(*w)) as f32).collect::<Vec<_>>()
        })
        .collect()
}

/// One sequence's tokens of a step, by the definition: every query against all keys up to its own position.
struct Sequence {
    /// Positions computed in earlier steps, and in this one.
    before: usize,
    now: usize,
    table: Vec<u32>,
}

fn naive_attention(
    keys: &[f32],
    vals: &[f32],
    queries: &[f32],
    before: usize,
    (heads, kv_heads, dim): (usize, usize, usize),
    window: Option<usize>,
) -> Vec<f32> {
    let scale = 1.0 / (dim as f64).sqrt();
    let mut out = vec![0f32; queries.len()];
    for t in 0..queries.len() / (heads * dim) {
        for h in 0..heads {
            let q = &queries[(t * heads + h) * dim..][..dim];
            let at =
                |x: &[f32], p: usize, d: usize| f64::from(x[(p * kv_heads + h * kv_heads / heads) * dim + d]);
            let first = window.map_or(0, |w| (before + t + 1).saturating_sub(w));
            let scores: Vec<f64> = (first..=before + t)
                .map(|p| scale * (0..dim).map(|d| f64::from(q[d]) * at(keys, p, d)).sum::<f64>())
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..dim {
                let v: f64 = weights.iter().enumerate().map(|(p, w)| w * at(vals, first + p, d)).sum();
                out[(t * heads + h) * dim + d] = (v / sum) as f32;
            }
        }
    }
    out
}

/// The kernels, and what devices compose.
fn check_paged(lengths: &[(usize, usize)], heads: (usize, usize, usize), window: Option<usize>) {
    for (kind, slack) in [(KvType::F32, 1e-5), (KvType::F16, 2e-3), (KvType::Q8, 2e-2)] {
        check_paged_once(lengths, heads, window, (kind, slack));
    }
    composed(|| check_paged_once(lengths, heads, window, (KvType::Q8, 2e-3)));
}

/// Random keys and values through the cache, in scattered blocks, then one ragged step over all sequences. The type
/// of the cache sets how far off it may be: halves have 11 bits, and what has 8 is off by 1/254 of the largest.
fn check_paged_once(
    lengths: &[(usize, usize)],
    (heads, kv_heads, dim): (usize, usize, usize),
    window: Option<usize>,
    (kind, slack): (KvType, f32),
) {
    let width = (heads + 2 * kv_heads) * dim;
    let blocks: usize = lengths.iter().map(|(b, n)| (b + n).div_ceil(KvCache::BLOCK)).sum();
    let cache = KvCache::new(kind, 2, blocks + 1, (kv_heads, dim), &Device::Cpu).unwrap();
    // Blocks are handed out from the end, alternately, so that no sequence's are adjacent.
    let mut free: Vec<u32> = (0..blocks as u32).collect();
    let mut sequences: Vec<Sequence> =
        lengths.iter().map(|&(before, now)| Sequence { before, now, table: Vec::new() }).collect();
    while let Some(short) = sequences
        .iter_mut()
        .filter(|s| s.table.len() * KvCache::BLOCK < s.before + s.now)
        .min_by_key(|s| s.table.len())
    {
        short.table.push(free.pop().unwrap());
    }
    let slots = |s: &Sequence, positions: std::ops::Range<usize>| -> Vec<u32> {
        positions
            .map(|p| s.table[p / KvCache::BLOCK] * KvCache::BLOCK as u32 + (p % KvCache::BLOCK) as u32)
            .collect()
    };
    let (mut step, mut step_slots, mut rows, mut want) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut first = 0;
    for (i, s) in sequences.iter().enumerate() {
        let all = noise((s.before + s.now) * width, 1 + i as u64);
        if s.before > 0 {
            let earlier = tensor(&all[..s.before * width], s.before);
            cache.write(1, &earlier, heads * dim, &slots(s, 0..s.before)).unwrap();
        }
        step.extend_from_slice(&all[s.before * width..]);
        step_slots.extend(slots(s, s.before..s.before + s.now));
        rows.push(Rows { first, len: s.now, start: s.before, table: &s.table });
        first += s.now;
        let columns = |from: usize, n: usize, rows: &[f32]| -> Vec<f32> {
            rows.chunks(width).flat_map(|r| r[from..from + n].to_vec()).collect()
        };
        let keys = columns(heads * dim, kv_heads * dim, &all);
        let vals = columns((heads + kv_heads) * dim, kv_heads * dim, &all);
        let queries = columns(0, heads * dim, &all[s.before * width..]);
        want.extend(naive_attention(&keys, &vals, &queries, s.before, (heads, kv_heads, dim), window));
    }
    let qkv = tensor(&step, first);
    cache.write(1, &qkv, heads * dim, &step_slots).unwrap();
    let sight = Sight { scale: (dim as f32).sqrt().recip(), window };
    let got = paged_attention(&cache, 1, &qkv, heads, sight, &rows).unwrap();
    assert_close(&values(&got), &want, slack);
}

#[test]
fn attention_over_blocks_equals_the_definition() {
    check_paged(&[(0, 1)], (1, 1, 64), None);
    for window in [None, Some(1), Some(32), Some(33), Some(1000)] {
        check_paged(&[(0, 33), (100, 1), (31, 2), (32, 1), (64, 40)], (9, 3, 64), window);
    }
    // Long enough that tasks are shared out, and heads whose width is no multiple of a vector.
    check_paged(&[(500, 70), (3, 1)], (8, 2, 80), None);
    check_paged(&[(5, 17)], (4, 4, 24), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn attention_over_blocks_equals_the_definition_everywhere(
        lengths in proptest::collection::vec((0usize..90, 1usize..40), 1..5),
        kv_heads in 1usize..4,
        group in 1usize..5,
        dim in 1usize..9,
        window in proptest::option::of(1usize..150),
    ) {
        check_paged(&lengths, (kv_heads * group, kv_heads, dim * 16), window);
    }

    #[test]
    fn norms_equal_the_definition(rows in 1usize..5, n in 1usize..70, seed in any::<u64>()) {
        let (x, r, w) = (noise(rows * n, seed), noise(rows * n, seed ^ 1), noise(n, seed ^ 2));
        let weight = Tensor::from_slice(&w, n, &Device::Cpu).unwrap();
        let want: Vec<f32> = x.iter().zip(&r).map(|(a, b)| a + b).collect();
        let check = || {
            let normed = rms_norm(&tensor(&x, rows), &weight, 1e-5).unwrap();
            assert_close(&values(normed.values()), &naive_norm(&x, &w, 1e-5), 1e-5);
            let (sum, normed) = add_rms_norm(&tensor(&x, rows), &tensor(&r, rows), &weight, 1e-5).unwrap();
            assert_close(&values(&sum), &want, 0.0);
            assert_close(&values(normed.values()), &naive_norm(&want, &w, 1e-5), 1e-5);
            // As two heads of one row, between columns that stay.
            let row = |x: &[f32]| [&[7.0], x, &[8.0, 9.0]].concat();
            if rows >= 2 {
                let heads = tensor(&row(&x[..2 * n]), 1);
                rms_norm_heads(&heads, 1, 2, &weight, 1e-5).unwrap();
                assert_close(&values(&heads), &row(&naive_norm(&x[..2 * n], &w, 1e-5)), 1e-5);
                assert!(rms_norm_heads(&heads, 4, 2, &weight, 1e-5).is_err());
            }
        };
        check();
        composed(check);
    }

    #[test]
    fn gates_equal_the_definition(rows in 1usize..4, n in 1usize..50, scale in 0.1f32..90.0, gelu: bool) {
        let x: Vec<f32> = noise(rows * 2 * n, 3).iter().map(|v| v * scale).collect();
        let activation = if gelu { Activation::GeluTanh } else { Activation::Silu };
        let gate = || gated(&tensor(&x, rows), activation).unwrap();
        let want: Vec<f32> = x
            .chunks(2 * n)
            .flat_map(|row| (0..n).map(|i| {
                let g = f64::from(row[i]);
                let z = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3));
                let gated = if gelu { g / 2.0 * (1.0 + z.tanh()) } else { g / (1.0 + (-g).exp()) };
                (gated * f64::from(row[n + i])) as f32
            }).collect::<Vec<_>>())
            .collect();
        for got in [gate(), composed(gate)] {
            assert_close(&values(got.values()), &want, 1e-5);
        }
    }

    #[test]
    fn positions_turn_pairs_by_their_angle(
        position in 0u32..5000,
        pairs in 1usize..20,
        rest in 0usize..5,
        halves in any::<bool>(),
    ) {
        let (style, dim) = (if halves { RopeStyle::Halves } else { RopeStyle::Interleaved }, 2 * pairs + rest);
                // Two heads turn; what lies behind them stays.
        let x = noise(2 * dim + 3, u64::from(position));
        let turn = || {
            let rope = Rope::new(style, &Angles::plain(10_000.0, 2 * pairs), 5000, &Device::Cpu).unwrap();
            let turned = tensor(&x.repeat(3), 3);
            rope.apply(&turned, 2, dim, &[position / 2, position, 0]).unwrap();
            turned
        };
        let mut want = x.clone();
        for head in 0..2 {
            for i in 0..pairs {
                let (a, b) = if halves { (i, i + pairs) } else { (2 * i, 2 * i + 1) };
                let angle = f64::from(position) * 10_000f64.powf(-(i as f64) / pairs as f64);
                let (x, y) = (f64::from(x[head * dim + a]), f64::from(x[head * dim + b]));
                want[head * dim + a] = (x * angle.cos() - y * angle.sin()) as f32;
                want[head * dim + b] = (x * angle.sin() + y * angle.cos()) as f32;
            }
        }
        for turned in [turn(), composed(turn)] {
            assert_close(&values(&turned.narrow(0, 1, 1).unwrap()), &want, 1e-5);
            assert_close(&values(&turned.narrow(0, 2, 1).unwrap()), &x, 0.0);
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    refused();
    composed(refused);
}

#[test]
fn eight_bits_keep_what_is_not_a_number_and_zeros() {
    let cache = KvCache::new(KvType::Q8, 1, 1, (1, 16), &Device::Cpu).unwrap();
    let mut qkv = vec![0f32; 3 * 48];
    (qkv[48 + 32], qkv[2 * 48 + 16]) = (3.5, f32::INFINITY);
    let qkv = tensor(&qkv, 3);
    cache.write(0, &qkv, 16, &[0, 1, 2]).unwrap();
    let sight = Sight { scale: 1.0, window: None };
    let row = |first, start| Rows { first, len: 1, start, table: &[0] };
    let got = paged_attention(&cache, 0, &qkv, 1, sight, &[row(0, 0), row(1, 1), row(2, 2)]).unwrap();
    let got = values(&got);
    // A position of zeros, then two of equal weight of which one has a value, then one that is broken.
    assert_eq!(got[..16], [0.0; 16]);
    assert!((got[16] - 1.75).abs() < 1e-6 && got[17..32].iter().all(|v| *v == 0.0));
    assert!(got[32..].iter().all(|v| v.is_nan()));
}

fn refused() {
    let cache = KvCache::new(KvType::F16, 1, 2, (2, 16), &Device::Cpu).unwrap();
    let qkv = tensor(&noise(64 * 3, 1), 3);
    assert!(cache.write(0, &qkv, 0, &[0, 1]).is_err(), "a slot a token");
    assert!(cache.write(0, &qkv, 0, &[0, 1, 64]).is_err(), "past the blocks");
    assert!(cache.write(0, &qkv, 1, &[0, 1, 2]).is_err(), "past the columns");
    assert!(cache.write(1, &qkv, 0, &[0, 1, 2]).is_err(), "no such layer");
    let sight = Sight { scale: 1.0, window: None };
    let attend = |heads, rows: &[Rows<'_>]| paged_attention(&cache, 0, &qkv, heads, sight, rows);
    let row = |first, len, start, table| Rows { first, len, start, table };
    assert!(attend(3, &[row(0, 3, 0, &[0])]).is_err(), "heads that do not group");
    assert!(attend(2, &[row(1, 3, 0, &[0])]).is_err(), "past the tokens");
    assert!(attend(2, &[row(0, 3, 30, &[0])]).is_err(), "too few blocks");
    assert!(attend(2, &[row(0, 3, 0, &[2])]).is_err(), "no such block");
    assert!(attend(2, &[row(0, 3, 30, &[1, 0])]).is_ok());
    let blind = Sight { window: Some(0), ..sight };
    assert!(paged_attention(&cache, 0, &qkv, 2, blind, &[row(0, 3, 0, &[0])]).is_err());
    let rope = Rope::new(RopeStyle::Halves, &Angles::plain(1e4, 16), 10, &Device::Cpu).unwrap();
    assert!(rope.apply(&qkv, 4, 16, &[0, 1, 10]).is_err() && rope.apply(&qkv, 5, 16, &[0, 1, 2]).is_err());
    assert!(KvCache::new(KvType::F16, 1, usize::MAX, (2, 16), &Device::Cpu).is_err());
}

#[test]
fn copied_blocks_attend_alike() {
    let run = |kind: KvType| {
        let cache = KvCache::new(kind, 2, 3, (2, 16), &Device::Cpu).unwrap();
        let qkv = Tensor::from_vec(noise(40 * 96, 3), (40, 96), &Device::Cpu).unwrap();
        let slots: Vec<u32> = (0..40).collect();
        cache.write(1, &qkv, 32, &slots).unwrap();
        cache.copy(&[(1, 2)]).unwrap();
        let attend = |table: &[u32]| {
            let rows = [Rows { first: 0, len: 1, start: 39, table }];
            let sight = Sight { scale: 0.25, window: None };
            let q = qkv.narrow(0, 0, 1).unwrap();
            let out = paged_attention(&cache, 1, &q, 2, sight, &rows).unwrap();
            out.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(attend(&[0, 1]), attend(&[0, 2]));
        assert!(cache.copy(&[(0, 3)]).is_err());
    };
    for kind in [KvType::F32, KvType::F16, KvType::Q8] {
        run(kind);
        testing::composed(|| run(kind));
    }
}
