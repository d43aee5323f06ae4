//! `stentor config`: the effective configuration, as a `stentor.toml` that says where each value came from.

use std::io::Write;

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(config: &Config, _args: Args) -> anyhow::Result<()> {
    match std::io::stdout().write_all(config.to_toml().as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
