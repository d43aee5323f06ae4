//! `stentor bench embed`: texts to vectors, tokenising included.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::words::Words;
use super::{Common, Report, find, rounded, start};
use crate::cli::out;
use crate::config::Config;
use crate::engine::Stay;
use crate::service::{Context, Options, Service};
use crate::types::embed::{Input, Request};
use crate::types::model::Kind;

/// Case, texts, and the range of words a text has (the upper end is not reached).
const BATCHES: [(&str, usize, usize, usize); 2] = [("short", 512, 8, 20), ("chunks", 128, 180, 220)];
/// The same for texts that come one at a time.
const SINGLE: (usize, usize, usize) = (50, 8, 12);
/// Texts before the clock starts.
const WARM_UP: usize = 16;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// An installed model, or a folder with its files
    #[arg(long, value_name = "ID|PATH")]
    pub model: String,
    /// Take the words of the texts from this file, at least 1000 of them [default: the GNU GPL, version 3, where
    /// the system has it, as other engines' script does; else a built-in passage, over and over]
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Serialize)]
struct Batch {
    case: &'static str,
    texts_s: f64,
}

#[derive(Serialize)]
struct Single {
    case: &'static str,
    ms: f64,
}

/// Runs the command.
pub fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let model = find(config, &args.model, Kind::Embed)?;
    let mut words = Words::read(args.texts.as_deref())?;
    out::note(&format!("Texts are made from {}", words.source()));
    let (runtime, engine) = start(config, &args.common, vec![model.clone()])?;
    let runs = usize::from(args.common.runs.unwrap_or(3));
    runtime.block_on(async {
        engine.preload(std::slice::from_ref(&model.id), Stay::Always).await?;
        let bench = Bench { service: Service::new(engine, Options::default()), model: model.id.clone() };
        let report = Report::begin(&args.common, &model)?;
        for (case, count, low, high) in BATCHES {
            let texts = words.texts(count, low, high);
            bench.embed(&texts[..WARM_UP.min(texts.len())]).await?;
            let mut best = Duration::MAX;
            for _ in 0..runs {
                best = best.min(bench.embed(&texts).await?);
            }
            let texts_s = count as f64 / best.as_secs_f64();
            let name = format!("{case}, {count} texts of {low} to {high} words");
            report.case(&Batch { case, texts_s: rounded(texts_s, 1) }, &name, texts_s, "texts/s")?;
        }
        let (count, low, high) = SINGLE;
        let texts = words.texts(count, low, high);
        let mut best = Duration::MAX;
        for _ in 0..runs {
            let mut spent = Duration::ZERO;
            for text in &texts {
                spent += bench.embed(std::slice::from_ref(text)).await?;
            }
            best = best.min(spent);
        }
        let ms = best.as_secs_f64() * 1e3 / count as f64;
        report.case(&Single { case: "single", ms: rounded(ms, 2) }, "single, one text at a time", ms, "ms")
    })
}

/// A model that is asked for vectors.
pub(super) struct Bench {
    pub service: Service,
    pub model: String,
}

impl Bench {
    /// One request, from texts to vectors.
    async fn embed(&self, texts: &[String]) -> anyhow::Result<Duration> {
        Ok(self.counted(texts).await?.0)
    }

    /// The same, and the tokens that the texts are.
    pub(super) async fn counted(&self, texts: &[String]) -> anyhow::Result<(Duration, usize)> {
        let inputs = texts.iter().cloned().map(Input::Text).collect();
        let request = Request::new(self.model.clone(), inputs);
        let start = Instant::now();
        let done = self.service.embed(Context::default(), request).await?;
        Ok((start.elapsed(), done.usage.prompt_tokens as usize))
    }
}
