//! `stentor bench ann`: the vector index on vectors of a file, beside a scan of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rayon::prelude::*;
use serde::Serialize;

use super::{Report, rounded};
use crate::ops::dot;
use crate::store::bits::Bits;
use crate::store::flat::Flat;
use crate::store::hnsw::{Hnsw, Params};
use crate::types::store::Metric;

/// Neighbours that are asked for.
const K: usize = 10;
/// Of what the index finds, so many times as many are scored exactly.
const RESCORED: usize = 3;
/// Nodes that searches follow.
const EF: [usize; 5] = [16, 32, 64, 128, 256];
/// Shares of the vectors that filtered searches are among, and the nodes that these follow.
const SHARES: [f64; 6] = [0.5, 0.3, 0.1, 0.03, 0.01, 0.001];
const FILTERED: usize = 64;

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

#[derive(Serialize)]
struct Lost {
    case: &'static str,
    ef: usize,
    lost: usize,
}

#[derive(Serialize)]
struct Filtered {
    case: &'static str,
    share: f64,
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
    let nodes: Vec<u32> = index.numbers(base.len()).collect();
    let vectors: Vec<(u32, &[f32])> = nodes.iter().copied().zip(base.iter().map(Vec::as_slice)).collect();
    pool.install(|| index.put(&vectors))?;
    pool.install(|| index.link(&nodes));
    index.settle(&nodes);
    let seconds = start.elapsed().as_secs_f64();
    let mut exact = Flat::f32(dim);
    for (row, vector) in (0u32..).zip(&base) {
        let length = dot::dot(vector, vector).sqrt();
        exact.set(row, &vector.iter().map(|v| v / length).collect::<Vec<_>>());
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
    let bench = Bench { index, exact, queries };
    for ef in EF {
        let (recall, qps) = pool.install(|| bench.search(ef, None))?;
        let case = Search { case: "search", ef, recall: rounded(recall, 4), qps: rounded(qps, 0) };
        report.case(&case, &format!("ef {ef}, recall@{K} {recall:.4}"), qps, "queries/s")?;
    }
    let lost = pool.install(|| bench.lost(&base));
    report.case(
        &Lost { case: "lost", ef: FILTERED, lost },
        &format!("ef {FILTERED}, do not find themselves"),
        lost as f64,
        "",
    )?;
    for share in SHARES {
        // Spread evenly, whatever the order of the vectors.
        let hash = |node: u32| f64::from(node.wrapping_mul(2_654_435_761)) / f64::from(u32::MAX);
        let among: Bits = (0..base.len() as u32).filter(|node| hash(*node) < share).collect();
        let (recall, qps) = pool.install(|| bench.search(FILTERED, Some(&among)))?;
        let case = Filtered {
            case: "filtered",
            share,
            ef: FILTERED,
            recall: rounded(recall, 4),
            qps: rounded(qps, 0),
        };
        let name = format!("ef {FILTERED}, of {}%, recall@{K} {recall:.4}", share * 100.0);
        report.case(&case, &name, qps, "queries/s")?;
    }
    Ok(())
}

struct Bench {
    index: Hnsw,
    exact: Flat,
    queries: Vec<Vec<f32>>,
}

impl Bench {
    /// Recall beside a scan, and queries a second: all of them one after the other, the best of three times.
    fn search(&self, ef: usize, among: Option<&Bits>) -> anyhow::Result<(f64, f64)> {
        let truth: Vec<Vec<u32>> = self.queries.par_iter().map(|query| self.scan(query, among)).collect();
        let (mut best, mut hits) = (Duration::MAX, 0);
        for _ in 0..3 {
            let start = Instant::now();
            let found = self
                .queries
                .iter()
                .map(|q| self.nearest(q, ef, among))
                .collect::<anyhow::Result<Vec<_>>>()?;
            best = best.min(start.elapsed());
            let same = |(a, b): (&Vec<u32>, &Vec<u32>)| a.iter().filter(|node| b.contains(node)).count();
            hits = found.iter().zip(&truth).map(same).sum();
        }
        let recall = hits as f64 / truth.iter().map(Vec::len).sum::<usize>().max(1) as f64;
        Ok((recall, self.queries.len() as f64 / best.as_secs_f64()))
    }

    /// The nearest by the index, in the order of their exact scores.
    fn nearest(&self, query: &[f32], ef: usize, among: Option<&Bits>) -> anyhow::Result<Vec<u32>> {
        let found = self.index.search(&self.index.query(query)?, RESCORED * K, ef, among);
        Ok(self.best(query, found.iter().map(|f| f.node)))
    }

    /// Vectors that a search for them does not find.
    fn lost(&self, base: &[Vec<f32>]) -> usize {
        let is_lost = |(vector, node): (&Vec<f32>, u32)| {
            let found = self.index.query(vector).map(|q| self.index.search(&q, K, FILTERED, None));
            !found.is_ok_and(|found| found.iter().any(|f| f.node == node))
        };
        base.par_iter().zip(0..base.len() as u32).filter(|(v, node)| is_lost((v, *node))).count()
    }

    fn scan(&self, query: &[f32], among: Option<&Bits>) -> Vec<u32> {
        let all = 0..self.index.len() as u32;
        self.best(query, all.filter(|node| among.is_none_or(|among| among.has(*node))))
    }

    fn best(&self, query: &[f32], nodes: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut scored: Vec<(f32, u32)> =
            nodes.filter_map(|n| Some((self.exact.dot(query, n)?, n))).collect();
        scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().take(K).map(|(_, node)| node).collect()
    }
}

/// The vectors of an .fvecs file.
pub fn fvecs(path: &Path) -> anyhow::Result<Vec<Vec<f32>>> {
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
