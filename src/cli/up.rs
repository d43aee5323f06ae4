//! `stentor up`: `pull starter`, then `serve`.

use crate::config::Config;

/// Runs the command.
pub fn run(_config: &Config, _args: super::serve::Args) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
