//! `stentor bench ann`: the vector index on vectors of a file, beside a scan of them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use rayon::prelude::*;
use serde::Serialize;

use super::{Report, rounded};
use crate::ops::dot;
use crate::store::flat::Flat;
use crate::store::hnsw::{Hnsw, Metric, Params};

/// Neighbours that are asked for.
const K: usize = 10;
/// Of what the index finds, so many times as many are scored exactly.
const RESCORED: usize = 3;
/// Nodes that searches follow.
const EF: [usize; 5] = [16, 32, 64, 128, 256];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Vectors to search in: an .fvecs file, each its length in 32 bits and so many f32
    #[arg(long, value_name = "FILE")]
    pub base: PathBuf,
    /// Vectors to search for, the same
    #[arg(long, value_name = "FILE")]
    pub queries: PathBuf,
    /// Threads that build the index [default: as many as there are cores]; one searches
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print a JSON object a case
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Build {
    case: &'static str,
    seconds: f64,
    mb: f64,
}

#[derive(Serialize)]
struct Search {
    case: &'static str,
    ef: usize,
    recall: f64,
    qps: f64,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (base, queries) = (fvecs(&args.base)?, fvecs(&args.queries)?);
    let dim = base.first().map_or(0, Vec::len);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads.map_or(0, usize::from)).build()?;
    let start = Instant::now();
    let mut index = Hnsw::new(dim, Metric::Cosine, Params::default())?;
    let first = index.append(base.iter().map(Vec::as_slice))?;
    pool.install(|| index.link(first..index.len() as u32));
    let seconds = start.elapsed().as_secs_f64();
    let mut exact = Flat::f32(dim);
    for vector in &base {
        let length = dot::dot(vector, vector).sqrt();
        exact.push(&vector.iter().map(|v| v / length).collect::<Vec<_>>());
    }
    let mb = (index.bytes() + exact.bytes()) as f64 / 1e6;
    let report = Report { json: args.json };
    let name = format!("build, {} of {dim} dimensions", base.len());
    report.case(
        &Build { case: "build", seconds: rounded(seconds, 2), mb: rounded(mb, 1) },
        &name,
        seconds,
        "s",
    )?;
    let truth: Vec<Vec<u32>> =
        pool.install(|| queries.par_iter().map(|q| scan(&exact, base.len(), q)).collect());
    for ef in EF {
        let start = Instant::now();
        let found =
            queries.iter().map(|q| search(&index, &exact, q, ef)).collect::<anyhow::Result<Vec<_>>>()?;
        let qps = queries.len() as f64 / start.elapsed().as_secs_f64();
        let same = |(a, b): (&Vec<u32>, &Vec<u32>)| a.iter().filter(|node| b.contains(node)).count();
        let hits: usize = found.iter().zip(&truth).map(same).sum();
        let recall = hits as f64 / truth.iter().map(Vec::len).sum::<usize>() as f64;
        let case = Search { case: "search", ef, recall: rounded(recall, 4), qps: rounded(qps, 0) };
        report.case(&case, &format!("ef {ef}, recall@{K} {recall:.4}"), qps, "queries/s")?;
    }
    Ok(())
}

/// The nearest by the index, in the order of their exact scores.
fn search(index: &Hnsw, exact: &Flat, query: &[f32], ef: usize) -> anyhow::Result<Vec<u32>> {
    let found = index.search(&index.query(query)?, RESCORED * K, ef);
    Ok(nearest(found.iter().filter_map(|f| Some((exact.dot(query, f.node)?, f.node))).collect()))
}

fn scan(exact: &Flat, count: usize, query: &[f32]) -> Vec<u32> {
    nearest((0..count as u32).filter_map(|node| Some((exact.dot(query, node)?, node))).collect())
}

fn nearest(mut scored: Vec<(f32, u32)>) -> Vec<u32> {
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(K).map(|(_, node)| node).collect()
}

/// The vectors of an .fvecs file.
fn fvecs(path: &Path) -> anyhow::Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let mut rest = bytes.as_slice();
    let mut vectors: Vec<Vec<f32>> = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let same = vectors.first().is_none_or(|first| first.len() == length);
        let values = length.checked_mul(4).and_then(|bytes| after.split_at_checked(bytes)).filter(|_| same);
        let Some((values, after)) = values else {
            bail!("{}: vector {} is cut off or of another length", path.display(), vectors.len());
        };
        let (values, _) = values.as_chunks::<4>();
        vectors.push(values.iter().map(|v| f32::from_le_bytes(*v)).collect());
        rest = after;
    }
    if vectors.is_empty() {
        bail!("{}: it holds no vectors", path.display());
    }
    Ok(vectors)
}
