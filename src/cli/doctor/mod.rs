//! `stentor doctor`.

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_config: &Config, _args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
