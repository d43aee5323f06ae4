//! `stentor config`: the effective configuration, as a `stentor.toml` that says where each value came from.

use super::out;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(config: &Config, _args: Args) -> anyhow::Result<()> {
    out::print(&config.to_toml())
}
