//! `stentor bench`: speed on this machine, a line a case.
//!
//! Jobs take the way that requests take: over the service or an engine handle to the device's thread, its
//! scheduler and the model, tokenising and decoding of files included; only HTTP is left out. Loading is not
//! timed. With `--json` the cases, names and units are those that other engines are timed with, so that two
//! programs' outputs compare line by line: `benches/README.md` has the list.

mod ann;
mod asr;
mod diarize;
mod embed;
mod gpu;
mod llm;
mod mixed;
mod speakers;
mod store;
mod words;

use serde::Serialize;
use tokio::runtime::Runtime;

use super::installed::find;
use super::out;
use crate::app;
use crate::config::Config;
use crate::engine::Engine;
use crate::types::model::Installed;

/// Positions of a chat model's context: every case fits, and a large model's cache stays small.
const CONTEXT: usize = 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// A chat model: a prompt of 512 tokens; then 1, 4, 8 and 16 sequences decoded together
    Llm(llm::Args),
    /// An embedding model: short texts, chunks of 200 words, one text at a time
    Embed(embed::Args),
    /// A speech model: a recording, from the file to the text
    Asr(asr::Args),
    /// Speaker and segmentation models: recordings, from the file to who spoke when
    Diarize(diarize::Args),
    /// A speaker model: whether recordings of one person are told from those of others
    Speakers(speakers::Args),
    /// The vector index: building it, then searches, by how many nodes they follow
    Ann(ann::Args),
    /// The store: durable writes, opening, searches
    Store(store::Args),
    /// What an answer waits for while the same device transcribes and embeds
    Mixed(mixed::Args),
    /// A GPU: whether it computes what the CPU does, and how near its limits chat models come
    Gpu(gpu::Args),
}

/// What every kind takes.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Print a JSON object a case
    #[arg(long)]
    pub json: bool,
    /// Threads that compute [default: as configured]; products with quantised weights have a pool of their own,
    /// sized by the environment variable CANDLE_NUM_THREADS
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Time each case so often and give the best [default: 3 for embed, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: Option<u16>,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Llm(args) => llm::run(config, &args),
        What::Embed(args) => embed::run(config, &args),
        What::Asr(args) => asr::run(config, &args),
        What::Diarize(args) => diarize::run(config, &args),
        What::Speakers(args) => speakers::run(config, &args),
        What::Ann(args) => ann::run(&args),
        What::Store(args) => store::run(&args),
        What::Mixed(args) => mixed::run(config, &args),
        What::Gpu(args) => gpu::run(config, &args),
    }
}

/// Prints cases as they are measured, and measures no more once nobody reads them.
struct Report {
    json: bool,
}

impl Report {
    fn begin(common: &Common, model: &Installed) -> anyhow::Result<Report> {
        if !common.json {
            let (architecture, format) = (&model.architecture, model.format.as_str());
            let mb = model.bytes / 1_000_000;
            out::stream(&format!("{}: {architecture} {format}, {mb} MB\n", model.id))?;
        }
        Ok(Report { json: common.json })
    }

    /// One case: its JSON line, or its row of the table.
    fn case(&self, line: &impl Serialize, name: &str, figure: f64, unit: &str) -> anyhow::Result<()> {
        out::stream(&match self.json {
            true => format!("{}\n", serde_json::to_string(line)?),
            false => format!("  {name:<36}{figure:>10.1} {unit}\n"),
        })
    }
}

/// `value` to so many decimal places, as the lines give it.
fn rounded(value: f64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    (value * scale).round() / scale
}

/// An engine that knows these models, as the configuration has it. The runtime only waits: a model computes on
/// its device's thread.
fn start(config: &Config, common: &Common, models: Vec<Installed>) -> anyhow::Result<(Runtime, Engine)> {
    let mut options = app::engine_options(config);
    options.context = CONTEXT;
    options.threads = common.threads.map(usize::from).or(options.threads);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok((runtime, Engine::start(models, options)?))
}
