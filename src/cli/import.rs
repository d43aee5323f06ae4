//! `stentor import`.

use std::path::PathBuf;

use super::out;
use crate::app;
use crate::config::Config;
use crate::fetch::{Library, probe};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF file, a folder with config.json and *.safetensors, or Whisper: a CTranslate2 folder, a *.pt, a ggml-*.bin
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// What to call it [default: the name of the file or folder]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Another name that callers may use; may be given several times
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// Fail rather than wait when another process changes the home folder
    #[arg(long)]
    pub no_wait: bool,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let model = probe::model_at(&args.path)?;
    app::inspect(&model)?;
    let library = Library::open(&config.home)?;
    let id = library.import(&args.path, args.id.as_deref(), &args.alias, !args.no_wait)?;
    if !app::runs(&model) {
        out::note(&format!(
            "{id}: models of the architecture {} do not run here yet; it is registered all the same",
            model.architecture
        ));
    }
    match library.installed()?.into_iter().find(|m| m.id == id) {
        Some(m) => out::print(&format!(
            "{id}: {} model, {} {}, read in place from {}\n",
            m.kind.as_str(),
            m.architecture,
            m.format.as_str(),
            m.path.display()
        )),
        None => out::print(&format!("{id}: registered\n")),
    }
}
