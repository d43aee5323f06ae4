//! The fused operations at the shapes of Whisper base and MiniLM.

#![allow(clippy::unwrap_used)]

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use stentor::ops::{self, Linear, Mask};

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn linear(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    group.sample_size(10);
    for (m, k, n) in [
        (1, 384, 1536),
        (16, 384, 1536),
        (1500, 512, 512),
        (1500, 512, 2048),
        (1500, 2048, 512),
        (8192, 384, 1536),
    ] {
        let (x, w, b) = (random(&[m, k]), random(&[n, k]), random(&[n]));
        let layer = Linear::new(&w, Some(&b)).unwrap();
        let name = format!("{m}x{k}x{n}");
        // Elements are floating-point operations: criterion prints their rate.
        group.throughput(Throughput::Elements((2 * m * k * n) as u64));
        group.bench_function(BenchmarkId::new("ours", &name), |b| {
            b.iter(|| black_box(ops::linear(&x, &layer).unwrap()))
        });
        group.bench_function(BenchmarkId::new("ours+gelu", &name), |b| {
            b.iter(|| black_box(ops::linear_gelu(&x, &layer).unwrap()))
        });
        let wt = w.t().unwrap();
        group.bench_function(BenchmarkId::new("candle", &name), |b| {
            b.iter(|| black_box(x.matmul(&wt).unwrap()))
        });
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    group.sample_size(10);
    for (batch, time, heads, dim) in [(1, 1500, 8, 64), (32, 256, 12, 32), (32, 20, 12, 32)] {
        let width = heads * dim;
        let qkv = random(&[batch, time, 3 * width]);
        let part = |i| qkv.narrow(2, i * width, width).unwrap();
        let (q, k, v) = (part(0), part(1), part(2));
        group.throughput(Throughput::Elements((4 * batch * time * time * width) as u64));
        group.bench_function(BenchmarkId::new("self", format!("{batch}x{time}x{heads}x{dim}")), |b| {
            b.iter(|| black_box(ops::attention(&q, &k, &v, heads, 0.125, Mask::default()).unwrap()))
        });
    }
    let (q, k) = (random(&[1, 1, 512]), random(&[1, 1500, 512]));
    group.throughput(Throughput::Elements(4 * 1500 * 512));
    group.bench_function("cross/1x1500x8x64", |b| {
        b.iter(|| black_box(ops::attention(&q, &k, &k, 8, 0.125, Mask::default()).unwrap()))
    });
    group.finish();
}

fn elementwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("elementwise");
    group.sample_size(10);
    let (x, w, b) = (random(&[1500, 2048]), random(&[2048]), random(&[2048]));
    group.throughput(Throughput::Elements(1500 * 2048));
    group.bench_function("gelu", |bench| bench.iter(|| black_box(ops::gelu_erf(&x).unwrap())));
    group.bench_function("silu_mul", |bench| {
        bench.iter(|| black_box(ops::gated(&x, ops::Activation::Silu).unwrap()))
    });
    group.bench_function("softmax", |bench| bench.iter(|| black_box(ops::softmax(&x).unwrap())));
    group.bench_function("layer_norm", |bench| {
        bench.iter(|| black_box(ops::layer_norm(&x, &w, &b, 1e-5).unwrap()))
    });
    group.bench_function("add_layer_norm", |bench| {
        bench.iter(|| black_box(ops::add_layer_norm(&x, &x, &w, &b, 1e-5).unwrap()))
    });
    group.finish();
}

/// Products with quantised weights in the shapes of a small and of a larger chat model.
fn quantised(c: &mut Criterion) {
    let mut group = c.benchmark_group("quantised");
    group.sample_size(10);
    for dtype in [GgmlDType::Q4_0, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q6K] {
        for (k, n) in [(576usize, 3072), (1536, 8960)] {
            if !k.is_multiple_of(dtype.block_size()) {
                continue;
            }
            let bytes = QTensor::quantize(&random(&[n, k]), dtype).unwrap().data().unwrap().into_owned();
            let mut packer = ops::Packer::new(dtype, n, k, &Device::Cpu).unwrap();
            bytes.chunks(packer.chunk_bytes()).for_each(|piece| packer.push(piece).unwrap());
            let weight = ops::QLinear::new(vec![packer.finish().unwrap()]).unwrap();
            for m in [1, 4, 16, 256] {
                let input = ops::Input::from(random(&[m, k]));
                group.throughput(Throughput::Elements((2 * m * k * n) as u64));
                group.bench_function(BenchmarkId::new(format!("{dtype:?}"), format!("{m}x{k}x{n}")), |b| {
                    b.iter(|| black_box(weight.forward(&input).unwrap()));
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, linear, attention, elementwise, quantised);
criterion_main!(benches);
