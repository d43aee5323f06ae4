use half::f16;

use super::*;
use crate::ops::testing::{assert_close, composed, noise};

const HEADS: usize = 3;

fn halves(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|v| f16::from_f32(v).to_f32()).collect()
}

/// Weights of every head of a row, and its result, in f64.
fn naive(q: &[f32], kv: &[f32], dim: usize, keys: usize, scale: f32) -> (Vec<Vec<f64>>, Vec<f32>) {
    let width = HEADS * dim;
    let (mut weights, mut out) = (Vec::new(), Vec::new());
    for h in 0..HEADS {
        let score = |t: usize| -> f64 {
            let key = &kv[t * 2 * width + h * dim..][..dim];
            q[h * dim..][..dim].iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                * f64::from(scale)
        };
        let raw: Vec<f64> = (0..keys).map(|t| score(t).exp()).collect();
        let sum: f64 = raw.iter().sum();
        let row: Vec<f64> = raw.iter().map(|w| w / sum).collect();
        for d in 0..dim {
            let value = |t: usize| f64::from(kv[t * 2 * width + width + h * dim + d]);
            out.push(row.iter().enumerate().map(|(t, w)| w * value(t)).sum::<f64>() as f32);
        }
        weights.push(row);
    }
    (weights, out)
}

fn filled(layers: usize, length: usize, dim: usize) -> (CrossCache, Vec<Vec<f32>>) {
    let width = HEADS * dim;
    let mut cache = CrossCache::new(2, layers, length, (HEADS, dim), &Device::Cpu).unwrap();
    let mut all = Vec::new();
    for slot in 0..2 {
        let kv: Vec<Vec<f32>> =
            (0..layers).map(|l| halves(noise(length * 2 * width, (slot * 10 + l) as u64))).collect();
        let tensor = |kv: &Vec<f32>| Tensor::from_slice(kv, (length, 2 * width), &Device::Cpu);
        cache.write(slot, kv.iter().map(tensor)).unwrap();
        all.extend(kv);
    }
    (cache, all)
}

#[test]
fn rows_attend_to_their_own_slot() {
    for (length, dim) in [(1500, 64), (17, 20), (5, 8), (64, 33)] {
        let width = HEADS * dim;
        let spans = [(1, 2), (0, 7), (1, 1)].map(|(slot, len)| (slot, len));
        let rows: usize = spans.iter().map(|s| s.1).sum();
        let q = noise(rows * width, 5);
        let run = || {
            let (cache, all) = filled(2, length, dim);
            let mut first = 0;
            let spans: Vec<Span> = spans
                .iter()
                .map(|&(slot, len)| {
                    first += len;
                    Span { slot, first: first - len, len }
                })
                .collect();
            let tensor = Tensor::from_slice(&q, (rows, width), &Device::Cpu).unwrap();
            let out = cache.attend(1, &tensor, 0.3, &spans).unwrap();
            let heads = [2, 0];
            let weights = cache.weights(0, &tensor, 0.3, spans[1], &heads, length - 1).unwrap();
            (out.flatten_all().unwrap().to_vec1::<f32>().unwrap(), weights, all)
        };
        for (out, weights, all) in [run(), composed(run)] {
            let slots = spans.iter().flat_map(|&(slot, len)| std::iter::repeat_n(slot, len));
            for (row, slot) in slots.enumerate() {
                let (_, want) = naive(&q[row * width..][..width], &all[slot * 2 + 1], dim, length, 0.3);
                assert_close(&out[row * width..][..width], &want, 2e-5);
            }
            for (at, head) in [2, 0].into_iter().enumerate() {
                for row in 0..7 {
                    let (want, _) = naive(&q[(2 + row) * width..][..width], &all[0], dim, length - 1, 0.3);
                    let want: Vec<f32> = want[head].iter().map(|&w| w as f32).collect();
                    assert_close(&weights[(at * 7 + row) * (length - 1)..][..length - 1], &want, 1e-5);
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let (cache, _) = filled(1, 100, 16);
    let q = Tensor::from_vec(noise(13 * 48, 1), (13, 48), &Device::Cpu).unwrap();
    let all = cache.attend(0, &q, 0.2, &[Span { slot: 0, first: 0, len: 13 }]).unwrap();
    let all = all.to_vec2::<f32>().unwrap();
    for (i, want) in all.iter().enumerate() {
        let one = q.narrow(0, i, 1).unwrap().contiguous().unwrap();
        let got = cache.attend(0, &one, 0.2, &[Span { slot: 0, first: 0, len: 1 }]).unwrap();
        assert_eq!(&got.to_vec2::<f32>().unwrap()[0], want);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (mut cache, _) = filled(1, 10, 4);
    let q = Tensor::zeros((2, 12), DType::F32, &Device::Cpu).unwrap();
    for spans in [&[][..], &[Span { slot: 0, first: 0, len: 1 }], &[Span { slot: 5, first: 0, len: 2 }]] {
        assert!(cache.attend(0, &q, 1.0, spans).is_err(), "{spans:?}");
    }
    let span = Span { slot: 0, first: 0, len: 2 };
    assert!(cache.attend(1, &q, 1.0, &[span]).is_err());
    assert!(cache.weights(0, &q, 1.0, span, &[3], 10).is_err());
    assert!(cache.weights(0, &q, 1.0, span, &[0], 11).is_err());
    let short = Tensor::zeros((9, 24), DType::F32, &Device::Cpu).unwrap();
    assert!(cache.write(0, std::iter::once(Ok(short))).is_err());
    assert!(!cache.is_filled(0), "a slot that was half written holds nothing");
    cache.clear();
    assert!(!cache.is_filled(1));
    assert!(CrossCache::new(0, 1, 1, (1, 1), &Device::Cpu).is_err());
}
