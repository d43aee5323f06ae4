//! `stentor up`: `pull starter`, then `serve`.

use super::{pull, serve};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub serve: serve::Args,
    #[command(flatten)]
    pub network: pull::Network,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    pull::fetch(config, &["starter".to_owned()], &args.network, true, false)?;
    serve::run(config, args.serve)
}
