//! Tokens a second of SmolLM2, ours and candle-transformers' quantized_llama on the same file.
//!
//! Needs `STENTOR_TEST_MODELS`, a home folder with `models/smollm2-135m-instruct`. A prompt of 512, then 32 tokens
//! one at a time; the stock model serves one sequence, so there is no larger batch to compare.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights as Stock;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stentor::model::Model;
use stentor::model::llm::decoder;
use stentor::model::llm::{Batch, Choice, Limits, Llm, Row};
use stentor::model::weights::gguf::Gguf;
use stentor::ops::{KvCache, KvType};
use stentor::types::model::Quantise;

const PROMPT: usize = 512;
const STEPS: usize = 32;

fn file() -> Option<PathBuf> {
    let home = std::env::var_os("STENTOR_TEST_MODELS")?;
    let folder = Path::new(&home).join("models/smollm2-135m-instruct");
    let files = std::fs::read_dir(folder).ok()?.map(|e| e.unwrap().path());
    files.into_iter().find(|f| f.extension().is_some_and(|e| e == "gguf"))
}

fn tokens(len: usize) -> Vec<u32> {
    (0..len).map(|i| (i * 7919 % 30_000 + 100) as u32).collect()
}

/// Logits after the last of `tokens`, which begin at `start`.
fn ours(model: &mut dyn Model<Llm>, tokens: &[u32], start: usize) -> Vec<f32> {
    let table = (0..(start + tokens.len()).div_ceil(KvCache::BLOCK) as u32).collect();
    let row = Row { len: tokens.len(), start, table, logits: 1, choice: Choice::Logits };
    model.step(&Batch { tokens: tokens.to_vec(), rows: vec![row] }).unwrap().data
}

fn stock(model: &mut Stock, tokens: &[u32], start: usize) -> Vec<f32> {
    let x = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    model.forward(&x, start).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn llm(c: &mut Criterion) {
    let Some(path) = file() else {
        println!("skipped: STENTOR_TEST_MODELS is not set, or has no smollm2-135m-instruct");
        return;
    };
    let limits = Limits { context: 2048, blocks: 96, cache: KvType::F16, quantise: Quantise::None };
    let mut mine = decoder::load(&Gguf::open(&path).unwrap(), &Device::Cpu, limits).unwrap().0;
    let mut reader = std::fs::File::open(&path).unwrap();
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let mut theirs = Stock::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
    let prompt = tokens(PROMPT);
    let (a, b) = (ours(&mut *mine, &prompt, 0), stock(&mut theirs, &prompt, 0));
    let off = (a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / a.len() as f32).sqrt();
    assert!(off < 1.0, "the two do not compute the same: off by {off}");

    let mut group = c.benchmark_group("prefill 512");
    group.sample_size(10).throughput(Throughput::Elements(PROMPT as u64));
    group.bench_function("ours", |b| b.iter(|| black_box(ours(&mut *mine, &prompt, 0))));
    group.bench_function("candle-transformers", |b| b.iter(|| black_box(stock(&mut theirs, &prompt, 0))));
    group.finish();

    // After a prompt of 16, as in `stentor bench llm`.
    let begin = tokens(16);
    let mut group = c.benchmark_group("decode");
    group.sample_size(10).throughput(Throughput::Elements(STEPS as u64));
    ours(&mut *mine, &begin, 0);
    group.bench_function("ours", |b| {
        b.iter(|| (0..STEPS).for_each(|i| drop(black_box(ours(&mut *mine, &[500 + i as u32], 16 + i)))))
    });
    // The stock model's cache only grows; each round starts anew, and its prompt is not timed.
    group.bench_function("candle-transformers", |b| {
        b.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..rounds {
                stock(&mut theirs, &begin, 0);
                let start = std::time::Instant::now();
                (0..STEPS).for_each(|i| drop(black_box(stock(&mut theirs, &[500 + i as u32], 16 + i))));
                spent += start.elapsed();
            }
            spent
        })
    });
    group.finish();
}

criterion_group!(benches, llm);
criterion_main!(benches);
