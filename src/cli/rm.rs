//! `stentor rm`.

use super::out;
use crate::config::Config;
use crate::fetch::{Library, bytes_text};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Models to remove; an imported one is only forgotten, its files stay where they are
    #[arg(required = true, value_name = "ID")]
    pub names: Vec<String>,
    /// Fail rather than wait when another process changes the home folder
    #[arg(long)]
    pub no_wait: bool,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let library = Library::open(&config.home)?;
    // All names are looked up before anything is removed.
    let ids = args.names.iter().map(|name| library.resolve(name)).collect::<Result<Vec<_>, _>>()?;
    for id in ids {
        match library.remove(&id, !args.no_wait)? {
            0 => out::print(&format!("{id}: forgotten\n"))?,
            bytes => out::print(&format!("{id}: removed, {} freed\n", bytes_text(bytes)))?,
        }
    }
    Ok(())
}
