//! Texts a second of MiniLM, ours and candle-transformers' BERT on the same weights.
//!
//! Needs `STENTOR_TEST_MODELS`, a home folder with `models/all-minilm-l6-v2`. The cases are those of sentence
//! encoders' usual loads: short texts and chunks in batches of 32, sorted by length, and one text at a time.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::bert::{BertModel as Stock, Config, DTYPE};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stentor::model::embed::{BertModel, EmbedTokenizer};

/// Prose, for the usual tokens a word.
const WORDS: &str = "every river that reaches the sea carries with it the sand of mountains long since worn \
    away and the people who live along its banks have learned to read the colour of the water as others read \
    a newspaper for it tells them when the snow has melted when the harvest upstream has failed and whether \
    the bridge below the old mill will stand another winter without repairs from the engineers of the county";

fn folder() -> Option<PathBuf> {
    let home = std::env::var_os("STENTOR_TEST_MODELS")?;
    Some(Path::new(&home).join("models/all-minilm-l6-v2"))
}

/// `count` texts of `low..high` words, longest first.
fn rows(tokenizer: &EmbedTokenizer, count: usize, low: usize, high: usize) -> Vec<Vec<u32>> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut rows: Vec<Vec<u32>> = (0..count)
        .map(|i| {
            let (at, len) = (i * 31 % words.len(), low + i * 7 % (high - low));
            let text: Vec<&str> = words.iter().cycle().skip(at).take(len).copied().collect();
            tokenizer.encode(&text.join(" ")).unwrap()
        })
        .collect();
    rows.sort_by_key(|r| std::cmp::Reverse(r.len()));
    rows
}

/// Stock candle-transformers: padded to the longest row, mean over the real tokens.
fn stock(model: &Stock, rows: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let pad = |f: &dyn Fn(&Vec<u32>, usize) -> u32| -> Tensor {
        let flat: Vec<u32> = rows.iter().flat_map(|r| (0..longest).map(move |t| f(r, t))).collect();
        Tensor::from_vec(flat, (rows.len(), longest), &Device::Cpu).unwrap()
    };
    let ids = pad(&|r, t| r.get(t).copied().unwrap_or(0));
    let mask = pad(&|r, t| u32::from(t < r.len()));
    let hidden = model.forward(&ids, &ids.zeros_like().unwrap(), Some(&mask)).unwrap();
    let mask = mask.to_dtype(DType::F32).unwrap().unsqueeze(2).unwrap();
    let sum = hidden.broadcast_mul(&mask).unwrap().sum(1).unwrap();
    let mean = sum.broadcast_div(&mask.sum(1).unwrap()).unwrap();
    let norm = mean.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
    mean.broadcast_div(&norm).unwrap().to_vec2().unwrap()
}

fn embed(c: &mut Criterion) {
    let Some(dir) = folder() else {
        println!("skipped: STENTOR_TEST_MODELS is not set");
        return;
    };
    let mut ours = BertModel::load(&dir, &Device::Cpu).unwrap();
    let tokenizer = EmbedTokenizer::load(&dir, ours.max_tokens(), ours.config().vocab_size).unwrap();
    let config: Config = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let weights = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let weights = candle_nn::VarBuilder::from_tensors(weights, DTYPE, &Device::Cpu);
    let theirs = Stock::load(weights, &config).unwrap();
    for (case, count, low, high) in [("short", 128, 8, 20), ("chunks", 32, 180, 220), ("single", 1, 10, 12)] {
        let rows = rows(&tokenizer, count, low, high);
        for (a, b) in ours.embed(&rows[..1]).unwrap()[0].iter().zip(&stock(&theirs, &rows[..1])[0]) {
            assert!((a - b).abs() < 1e-4, "the two do not compute the same: {a} and {b}");
        }
        let mut group = c.benchmark_group(case);
        group.sample_size(10).throughput(Throughput::Elements(count as u64));
        group.bench_function("ours", |b| {
            b.iter(|| rows.chunks(32).for_each(|r| drop(black_box(ours.embed(r).unwrap()))))
        });
        group.bench_function("candle-transformers", |b| {
            b.iter(|| rows.chunks(32).for_each(|r| drop(black_box(stock(&theirs, r)))))
        });
        group.finish();
    }
}

criterion_group!(benches, embed);
criterion_main!(benches);
