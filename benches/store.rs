//! The vector index, beside hnsw_rs: building and searching 10,000 clustered vectors of 128 dimensions.
//!
//! `cargo bench --bench store`

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hnsw_rs::prelude::{DistL2, Hnsw as Reference};
use stentor::store::hnsw::{Hnsw, Params};
use stentor::types::store::Metric;

const COUNT: usize = 10_000;
const DIM: usize = 128;
const CLUSTERS: usize = 500;
const EF: usize = 64;

/// Vectors about their clusters' centres; the same each time.
fn vectors(count: usize, mut state: u64) -> Vec<Vec<f32>> {
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let centres: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| (0..DIM).map(|_| uniform()).collect()).collect();
    let near = |at: usize| centres[at * 7919 % CLUSTERS].iter().map(|c| c + 0.7 * uniform()).collect();
    (0..count).map(near).collect()
}

fn ours(vectors: &[Vec<f32>]) -> Hnsw {
    let made = Hnsw::new(DIM, Metric::Euclidean, Params::default());
    let mut index = made.unwrap_or_else(|error| unreachable!("{error}"));
    let nodes: Vec<u32> = index.numbers(vectors.len()).collect();
    let rows: Vec<(u32, &[f32])> = nodes.iter().copied().zip(vectors.iter().map(Vec::as_slice)).collect();
    index.put(&rows).unwrap_or_else(|error| unreachable!("{error}"));
    index.link(&nodes);
    index.settle(&nodes);
    index
}

fn theirs(vectors: &[Vec<f32>]) -> Reference<'static, f32, DistL2> {
    let index = Reference::new(16, vectors.len(), 16, 200, DistL2 {});
    let rows: Vec<(&Vec<f32>, usize)> = vectors.iter().enumerate().map(|(id, vector)| (vector, id)).collect();
    index.parallel_insert(&rows);
    index
}

fn bench(c: &mut Criterion) {
    let (base, queries) = (vectors(COUNT, 7), vectors(256, 8));
    let mut group = c.benchmark_group("hnsw");
    group.sample_size(10);
    group.bench_function("build", |b| b.iter_batched(|| (), |()| ours(&base), BatchSize::PerIteration));
    group.bench_function("build, hnsw_rs", |b| {
        b.iter_batched(|| (), |()| theirs(&base), BatchSize::PerIteration)
    });
    let (index, reference) = (ours(&base), theirs(&base));
    let mut at = 0;
    let mut next = move || {
        at = (at + 1) % 256;
        at
    };
    group.bench_function("search", |b| {
        b.iter(|| {
            let query = index.query(&queries[next()]).unwrap_or_else(|error| unreachable!("{error}"));
            index.search(&query, 10, EF, None)
        });
    });
    group.bench_function("search, hnsw_rs", |b| b.iter(|| reference.search(&queries[next()], 10, EF)));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
