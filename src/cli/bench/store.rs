//! `stentor bench store`: durable writes, opening, and searches with what is kept beside vectors.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use serde_json::json;

use super::ann::fvecs;
use super::{Report, rounded};
use crate::store::Store;
use crate::types::store::{Change, Field, Filter, Point, Precision, Range, Record, Search, Spec, Vectors};

/// Points that are asked for.
const K: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Vectors to put: an .fvecs file, each its length in 32 bits and so many f32
    #[arg(long, value_name = "FILE")]
    pub base: PathBuf,
    /// Vectors to search for, the same
    #[arg(long, value_name = "FILE")]
    pub queries: PathBuf,
    /// Points of one write
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub batch: usize,
    /// In what vectors are kept: f32, f16, int8
    #[arg(long, value_name = "KIND", default_value = "f32", value_parser = precision)]
    pub precision: Precision,
    /// The folder; one that is there is opened, and nothing is put [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// Print a JSON object a case
    #[arg(long)]
    pub json: bool,
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "f32" => Ok(Precision::F32),
        "f16" => Ok(Precision::F16),
        "int8" => Ok(Precision::Int8),
        _ => Err("f32, f16 or int8".to_owned()),
    }
}

#[derive(Serialize)]
struct Rate {
    case: &'static str,
    per_s: f64,
}

#[derive(Serialize)]
struct Took {
    case: &'static str,
    seconds: f64,
    resident_mb: f64,
}

#[derive(Serialize)]
struct Found {
    case: &'static str,
    recall: f64,
    qps: f64,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().join("store"));
    let report = Report { json: args.json };
    if !folder.exists() {
        put(&report, args, &folder, &fvecs(&args.base)?)?;
    }
    let start = Instant::now();
    let store = Store::open(&folder)?;
    took(&report, "open", start)?;
    let (base, queries) = (fvecs(&args.base)?, fvecs(&args.queries)?);
    for (case, filter) in [
        ("search", None),
        ("search, of 10%", Some(Filter::Within(Field::Payload("tenth".into()), one(0.0)))),
        ("search, of 1%", Some(Filter::Within(Field::Payload("hundredth".into()), one(7.0)))),
    ] {
        let (recall, qps) = search(&store, &base, &queries, filter.as_ref())?;
        let found = Found { case, recall: rounded(recall, 4), qps: rounded(qps, 0) };
        report.case(&found, &format!("{case}, recall@{K} {recall:.4}"), qps, "queries/s")?;
    }
    Ok(())
}

/// Puts all vectors, and waits until they are linked.
fn put(report: &Report, args: &Args, folder: &Path, base: &[Vec<f32>]) -> anyhow::Result<()> {
    let dim = base.first().map_or(0, Vec::len);
    let store = Store::open(folder)?;
    let vectors = Vectors { dim, metric: Default::default(), precision: args.precision };
    store.create("bench", Spec { vectors: Some(vectors), ..Spec::default() })?;
    let writes: Vec<Vec<Change>> = (0..base.len())
        .step_by(args.batch.max(1))
        .map(|from| {
            let points = (from..base.len().min(from + args.batch)).map(|at| point(at, base)).collect();
            vec![Change::Put { collection: "bench".to_owned(), points }]
        })
        .collect();
    let start = Instant::now();
    for write in writes {
        store.write(write)?;
    }
    let per_s = base.len() as f64 / start.elapsed().as_secs_f64();
    let name = format!("put, {} of {dim}, {} a write", base.len(), args.batch);
    report.case(&Rate { case: "put", per_s: rounded(per_s, 0) }, &name, per_s, "points/s")?;
    store.settle()?;
    took(report, "linked and saved", start)
}

fn one(value: f64) -> Range {
    Range { gte: Some(value), lte: Some(value), ..Range::default() }
}

fn point(at: usize, base: &[Vec<f32>]) -> Point {
    let payload = json!({
        "name": format!("document {}", at / 20), "page": at % 20, "tenth": at % 10, "hundredth": at % 100,
    });
    let payload = payload.as_object().cloned().unwrap_or_default();
    let record = Record { id: at.to_string(), payload, ..Record::default() };
    Point { record, vector: base.get(at).cloned() }
}

fn took(report: &Report, case: &'static str, start: Instant) -> anyhow::Result<()> {
    let seconds = start.elapsed().as_secs_f64();
    let resident = resident()?;
    let line = Took { case, seconds: rounded(seconds, 3), resident_mb: rounded(resident, 0) };
    report.case(&line, &format!("{case}, {resident:.0} MB resident"), seconds, "s")
}

/// Memory of this process, in MB.
fn resident() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kb.unwrap_or(0.0) / 1e3)
}

/// Recall beside a scan of the first queries, and queries a second: the best of three times.
fn search(
    store: &Store,
    base: &[Vec<f32>],
    queries: &[Vec<f32>],
    filter: Option<&Filter>,
) -> anyhow::Result<(f64, f64)> {
    let searches: Vec<Search> = queries
        .iter()
        .map(|query| Search {
            vector: Some(query.clone()),
            filter: filter.cloned(),
            k: K,
            ..Search::default()
        })
        .collect();
    let mut best = Duration::MAX;
    let mut hits = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        hits = searches.iter().map(|search| store.search("bench", search)).collect::<Result<Vec<_>, _>>()?;
        best = best.min(start.elapsed());
    }
    // Of equal length, as embeddings are, or nearly: by the cosine.
    let lengths: Vec<f32> = base.iter().map(|v| crate::ops::dot::dot(v, v).sqrt()).collect();
    let checked = queries.len().min(200);
    let mut same = 0;
    for (query, hits) in queries.iter().zip(&hits).take(checked) {
        let counts = |at: &usize| match filter {
            Some(Filter::Within(Field::Payload(field), _)) if field == "tenth" => at.is_multiple_of(10),
            Some(_) => at % 100 == 7,
            None => true,
        };
        let score = |at: usize| crate::ops::dot::dot(query, &base[at]) / lengths[at];
        let mut all: Vec<(f32, usize)> = (0..base.len()).filter(counts).map(|at| (score(at), at)).collect();
        let k = K.min(all.len().saturating_sub(1));
        all.select_nth_unstable_by(k, |a, b| b.0.total_cmp(&a.0));
        let nearest: Vec<String> = all[..k].iter().map(|(_, at)| at.to_string()).collect();
        same += hits.iter().filter(|hit| nearest.contains(&hit.record.id)).count();
    }
    Ok((same as f64 / (checked * K) as f64, queries.len() as f64 / best.as_secs_f64()))
}
