//! `stentor bench`: speed on this machine, a line a case.
//!
//! Jobs take the way that requests take: over the service or an engine handle to the device's thread, its
//! scheduler and the model, tokenising and decoding of files included; only HTTP is left out. Loading is not
//! timed. With `--json` the cases, names and units are those that other engines are timed with, so that two
//! programs' outputs compare line by line: `benches/README.md` has the list.

mod asr;
mod embed;
mod llm;
mod words;

use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::runtime::Runtime;

use super::out;
use crate::app;
use crate::config::Config;
use crate::engine::Engine;
use crate::fetch::{Library, probe};
use crate::types::model::{Installed, Kind};

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

/// The model that `name` means: an installed one's id or alias, else a GGUF file or a folder, which is not
/// registered.
fn find(config: &Config, name: &str, kind: Kind) -> anyhow::Result<Installed> {
    let library = Library::open(&config.home)?;
    let known =
        library.installed()?.into_iter().find(|m| m.id == name || m.aliases.iter().any(|a| a == name));
    let model = match known {
        Some(model) => model,
        None if Path::new(name).exists() => probe::model_at(Path::new(name))?,
        None => {
            let id = library.resolve(name).with_context(|| format!("`{name}` is no file or folder here"))?;
            bail!("{id} is not installed; fetch it with `stentor pull {id}`");
        }
    };
    if model.kind != kind {
        bail!("`{name}` is a {} model; this measures {} models", model.kind.as_str(), kind.as_str());
    }
    Ok(model)
}

/// The installed models of a kind that others work with.
fn helpers(config: &Config, kind: Kind) -> anyhow::Result<Vec<Installed>> {
    let installed = Library::open(&config.home)?.installed()?;
    Ok(installed.into_iter().filter(|m| m.kind == kind).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::synthetic;
    use crate::types::model::Format;

    #[test]
    fn a_file_is_found_without_being_registered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("Tiny Model.gguf");
        synthetic::write(&synthetic::spec("tiny:q8_0").unwrap(), &file, 1).unwrap();
        let mut config = Config::load(&crate::config::Overrides::default()).unwrap();
        config.home = dir.path().join("home");
        let name = file.to_str().unwrap();
        let model = find(&config, name, Kind::Chat).unwrap();
        assert_eq!((model.architecture.as_str(), model.format), ("llama", Format::Gguf));
        assert_eq!(model.path, file.canonicalize().unwrap());
        assert_eq!(model.bytes, std::fs::metadata(&file).unwrap().len());
        let error = find(&config, name, Kind::Asr).unwrap_err().to_string();
        assert!(error.contains("is a chat model; this measures asr models"), "{error}");
        assert!(!config.home.exists(), "measuring leaves no trace in the home folder");
    }

    #[test]
    fn what_is_not_there_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::load(&crate::config::Overrides::default()).unwrap();
        config.home = dir.path().to_path_buf();
        let error = format!("{:#}", find(&config, "whisper-base", Kind::Asr).unwrap_err());
        assert!(error.contains("`stentor pull whisper-base`"), "{error}");
        let error = format!("{:#}", find(&config, "no/such.gguf", Kind::Chat).unwrap_err());
        assert!(
            error.contains("is no file or folder here") && error.contains("no model or profile"),
            "{error}"
        );
    }
}
