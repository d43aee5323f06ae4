//! The index against a scan.

use super::*;

/// Clustered vectors of length 1, as embeddings are.
pub(super) fn clustered(count: usize, dim: usize, clusters: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut state = seed | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 + 0.5) / (1u64 << 24) as f32
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos();
    let centres: Vec<Vec<f32>> = (0..clusters).map(|_| (0..dim).map(|_| normal()).collect()).collect();
    (0..count)
        .map(|i| {
            let vector: Vec<f32> = centres[i * 7919 % clusters].iter().map(|c| c + 0.9 * normal()).collect();
            let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            vector.iter().map(|v| v / length).collect()
        })
        .collect()
}

fn index(metric: Metric, vectors: &[Vec<f32>]) -> Hnsw {
    let mut index = Hnsw::new(vectors[0].len(), metric, Params::default()).unwrap();
    let first = index.append(vectors.iter().map(Vec::as_slice)).unwrap();
    index.link(first..first + vectors.len() as u32);
    index
}

fn exact(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    match metric {
        Metric::Dot => dot(a, b),
        Metric::Cosine => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Metric::Euclidean => 2.0 * dot(a, b) - dot(a, a) - dot(b, b),
    }
}

#[test]
fn the_nearest_are_found_by_every_metric() {
    let mut vectors = clustered(3000, 48, 40, 1);
    // Of different lengths: the metrics differ.
    for (i, vector) in vectors.iter_mut().enumerate() {
        vector.iter_mut().for_each(|v| *v *= 0.5 + (i % 10) as f32 / 5.0);
    }
    let queries = clustered(100, 48, 40, 1);
    for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
        let index = index(metric, &vectors);
        let mut hits = 0;
        for query in &queries {
            let mut want: Vec<(usize, f64)> =
                vectors.iter().enumerate().map(|(i, v)| (i, exact(metric, query, v))).collect();
            want.sort_by(|a, b| b.1.total_cmp(&a.1));
            let found = index.search(&index.query(query).unwrap(), 30, 100);
            assert!(found.is_sorted_by(|a, b| a.score >= b.score));
            for Found { node, score } in &found {
                let want = exact(metric, query, &vectors[*node as usize]);
                assert!((f64::from(*score) - want).abs() < 0.03, "{metric:?}: {score} for {want}");
            }
            hits += want[..10].iter().filter(|(i, _)| found.iter().any(|f| f.node as usize == *i)).count();
        }
        assert!(hits >= 990, "{metric:?}: {hits} of 1000");
    }
}

#[test]
fn every_vector_finds_itself() {
    for (count, dim, clusters) in [(1, 8, 1), (2, 8, 1), (5000, 24, 1000), (5000, 24, 3)] {
        let vectors = clustered(count, dim, clusters, 5);
        let index = index(Metric::Cosine, &vectors);
        let lost: Vec<usize> = (0..count)
            .filter(|&i| {
                let found = index.search(&index.query(&vectors[i]).unwrap(), 10, 64);
                !found.iter().any(|f| f.node as usize == i)
            })
            .collect();
        assert!(lost.is_empty(), "{} of {count} in {clusters} clusters: {lost:?}", lost.len());
    }
}

#[test]
fn what_is_no_vector_is_refused() {
    let mut index = Hnsw::new(3, Metric::Cosine, Params::default()).unwrap();
    assert_eq!(index.search(&index.query(&[1.0, 0.0, 0.0]).unwrap(), 5, 10), []);
    for (vector, error) in [
        (&[1.0, 2.0][..], Error::Length { got: 2, want: 3 }),
        (&[1.0, f32::NAN, 0.0], Error::NotFinite(1)),
        (&[0.0; 3], Error::Zero),
    ] {
        assert_eq!(index.query(vector).unwrap_err(), error);
        assert_eq!(index.append([&[1.0, 0.0, 0.0], vector].into_iter()).unwrap_err(), error);
    }
    assert!(index.is_empty(), "all or none");
    assert!(Hnsw::new(0, Metric::Dot, Params::default()).is_err());
    assert!(Hnsw::new(3, Metric::Dot, Params { m: 1, ..Params::default() }).is_err());
}
