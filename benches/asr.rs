//! Whisper base, ours and candle-transformers' on the same weights; voice activity detection.
//!
//! The stock model makes the weights (random, in the real shape) and its `model.safetensors` is what ours loads;
//! speed does not depend on their values. Timed are the encoder on one window of 30 s, and 48 tokens after a
//! prompt of 4, one at a time. The detector, with random weights too, hears a minute, alone and eight at once.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::f64::consts::TAU;
use std::hint::black_box;

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::whisper::Config;
use candle_transformers::models::whisper::model::Whisper as Stock;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stentor::model::asr::whisper::{WINDOW, WhisperModel};
use stentor::model::asr::{Decode, Limits, Row, RowOutput, Want};
use stentor::model::vad::silero::SileroVad;
use stentor::model::vad::{FRAME, Row as Piece};
use stentor::types::model::{Format, Precision};

const PROMPT: [u32; 4] = [50258, 50259, 50359, 50363];
const STEPS: usize = 48;
const LIMITS: Limits = Limits { windows: 1, window_bytes: u64::MAX, precision: Precision::F16 };

/// The configuration of openai/whisper-base, as its repository has it.
const BASE: &str = r#"{"model_type": "whisper", "num_mel_bins": 80, "max_source_positions": 1500, "d_model": 512,
    "encoder_attention_heads": 8, "encoder_layers": 6, "encoder_ffn_dim": 2048, "vocab_size": 51865,
    "max_target_positions": 448, "decoder_attention_heads": 8, "decoder_layers": 6, "decoder_ffn_dim": 2048,
    "activation_function": "gelu", "scale_embedding": false}"#;

/// The stock decoder recomputes the whole prefix at every token.
fn stock(model: &mut Stock, features: &Tensor) -> Vec<f32> {
    let mut tokens = PROMPT.to_vec();
    let mut last = Vec::new();
    for i in 0..STEPS {
        let x = Tensor::new(tokens.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let hidden = model.decoder.forward(&x, features, i == 0).unwrap();
        let end = hidden.i((.., tokens.len() - 1..)).unwrap();
        last = model.decoder.final_linear(&end).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        tokens.push(1000 + i as u32);
    }
    last
}

fn ours(model: &mut WhisperModel) -> Vec<f32> {
    let (mut tokens, mut position) = (PROMPT.to_vec(), 0);
    let mut last = Vec::new();
    for i in 0..STEPS {
        let table = (0..14).collect();
        let row = Row { slot: 0, tokens: tokens.clone(), position, table, want: Want::Last };
        let step = Decode { copies: Vec::new(), rows: vec![row] };
        if let RowOutput::Logits { last: logits, .. } = model.decode(&step).unwrap().remove(0) {
            last = logits;
        }
        position += tokens.len();
        tokens = vec![1000 + i as u32];
    }
    last
}

fn asr(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let config: Config = serde_json::from_str(BASE).unwrap();
    let weights = VarMap::new();
    let builder = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
    let mut theirs = Stock::load(&builder, config).unwrap();
    weights.save(dir.path().join("model.safetensors")).unwrap();
    std::fs::write(dir.path().join("config.json"), BASE).unwrap();
    let mut mine = WhisperModel::load(dir.path(), Format::Safetensors, &Device::Cpu, LIMITS).unwrap();

    let mel: Vec<f32> = (0..80 * WINDOW).map(|i| ((i % 251) as f32 / 125.0 - 1.0) * 0.7).collect();
    let window = Tensor::from_slice(&mel, (1, 80, WINDOW), &Device::Cpu).unwrap();
    let features = theirs.encoder.forward(&window, true).unwrap();
    mine.encode(&[(0, &mel)]).unwrap();
    let off = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    // Decoder weights are rounded to half precision, and stock GELU is the tanh form.
    let (a, b) = (ours(&mut mine), stock(&mut theirs, &features));
    assert!(off(&a, &b) < 0.1, "the two do not compute the same: a logit is off by {}", off(&a, &b));

    let mut group = c.benchmark_group("encode 30 s");
    group.sample_size(10).throughput(Throughput::Elements(30));
    group.bench_function("ours", |b| b.iter(|| mine.encode(&[(0, black_box(&mel))]).unwrap()));
    group.bench_function("candle-transformers", |b| {
        b.iter(|| black_box(theirs.encoder.forward(&window, true).unwrap()))
    });
    group.finish();
    let mut group = c.benchmark_group("decode");
    group.sample_size(10).throughput(Throughput::Elements(STEPS as u64));
    group.bench_function("ours", |b| b.iter(|| black_box(ours(&mut mine))));
    group.bench_function("candle-transformers", |b| b.iter(|| black_box(stock(&mut theirs, &features))));
    group.finish();
}

/// A file of the detector's shape, and its basis: the rest is random.
fn detector() -> SileroVad {
    let basis = (0..258 * 256).map(|i| {
        let (bin, n) = (i / 256 % 129, i % 256);
        let angle = (bin * n % 256) as f64 / 256.0 * TAU;
        let window = 0.5 - 0.5 * (n as f64 / 256.0 * TAU).cos();
        (window * if i < 129 * 256 { angle.cos() } else { -angle.sin() }) as f32
    });
    let basis = Tensor::from_iter(basis, &Device::Cpu).unwrap().reshape((258, 1, 256)).unwrap();
    let random = |shape: &[usize]| Tensor::randn(0f32, 0.05, shape, &Device::Cpu).unwrap();
    let mut all = HashMap::from([("stft_conv.weight".to_owned(), basis)]);
    for (i, shape) in [[128, 129, 3], [64, 128, 3], [64, 64, 3], [128, 64, 3]].iter().enumerate() {
        all.insert(format!("conv{}.weight", i + 1), random(shape));
        all.insert(format!("conv{}.bias", i + 1), random(&shape[..1]));
    }
    for (name, shape) in [
        ("lstm_cell.weight_ih", &[512, 128][..]),
        ("lstm_cell.weight_hh", &[512, 128]),
        ("lstm_cell.bias_ih", &[512]),
        ("lstm_cell.bias_hh", &[512]),
        ("final_conv.weight", &[1, 128, 1]),
        ("final_conv.bias", &[1]),
    ] {
        all.insert(name.to_owned(), random(shape));
    }
    let dir = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&all, dir.path().join("model.safetensors")).unwrap();
    SileroVad::load(dir.path(), &Device::Cpu).unwrap()
}

fn vad(c: &mut Criterion) {
    let model = detector();
    let frames = 60 * 16_000 / FRAME;
    let samples: Vec<f32> = (0..frames * FRAME).map(|i| (i as f32 * 0.01).sin() * 0.3).collect();
    let row = Piece { samples, ..Piece::default() };
    let mut group = c.benchmark_group("vad");
    group.sample_size(20);
    for streams in [1, 8] {
        let rows = vec![row.clone(); streams];
        group.throughput(Throughput::Elements((streams * frames) as u64));
        group.bench_function(format!("streams {streams}"), |b| {
            b.iter(|| black_box(model.hear(black_box(&rows)).unwrap()))
        });
    }
    group.finish();
}

criterion_group!(benches, asr, vad);
criterion_main!(benches);
