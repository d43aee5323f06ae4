//! `stentor verify`.

use super::progress::Shown;
use super::{Exit, out};
use crate::config::Config;
use crate::fetch::Library;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Models to compare; all installed ones where none is named
    #[arg(value_name = "ID")]
    pub names: Vec<String>,
    /// Fail rather than wait when another process changes the home folder
    #[arg(long)]
    pub no_wait: bool,
}

/// Runs the command. Ends with status 7 where a file is damaged.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let library = Library::open(&config.home)?;
    let report = library.verify(&args.names, !args.no_wait, &Shown::new(false))?;
    if report.is_empty() {
        out::print("no models are installed\n")?;
    }
    let mut damaged = Vec::new();
    for model in &report {
        if model.problems.is_empty() {
            out::print(&format!("{}: whole\n", model.id))?;
            continue;
        }
        damaged.push(model.id.as_str());
        for problem in &model.problems {
            out::print(&format!("{}: {problem}\n", model.id))?;
        }
    }
    match damaged.is_empty() {
        true => Ok(()),
        false => Err(Exit::damaged(format!(
            "damaged: {0}; `stentor pull {0}` mends what was pulled",
            damaged.join(" ")
        ))
        .into()),
    }
}
