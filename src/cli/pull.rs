//! `stentor pull`.

use std::time::Duration;

use super::out;
use super::progress::Shown;
use crate::config::Config;
use crate::fetch::http::Limits;
use crate::fetch::{Library, Options, Pulled};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Models or profiles; `stentor models` lists both
    #[arg(required = true, value_name = "ID|PROFILE")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub network: Network,
    /// Fail rather than wait when another process changes the home folder
    #[arg(long)]
    pub no_wait: bool,
    /// No progress, only what needs attention
    #[arg(long, short)]
    pub quiet: bool,
}

/// How long to wait for sources.
#[derive(Debug, Clone, clap::Args)]
pub struct Network {
    /// Seconds for a source to accept a connection, and again to answer, before it is passed over
    #[arg(long, env = "STENTOR_CONNECT_TIMEOUT", value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=600))]
    pub connect_timeout: u64,
    /// Seconds without a byte after which a download is taken up anew
    #[arg(long, env = "STENTOR_STALL_TIMEOUT", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub stall_timeout: u64,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let report = fetch(config, &args.names, &args.network, !args.no_wait, args.quiet)?;
    if !args.quiet {
        for id in &report.present {
            out::print(&format!("{id}: is there\n"))?;
        }
        for id in &report.fetched {
            out::print(&format!("{id}: ready\n"))?;
        }
    }
    Ok(())
}

/// Fetches what is missing, showing progress.
pub fn fetch(
    config: &Config,
    names: &[String],
    network: &Network,
    wait: bool,
    quiet: bool,
) -> Result<Pulled, crate::fetch::Error> {
    let library = Library::open(&config.home)?;
    let limits = Limits {
        connect: Duration::from_secs(network.connect_timeout),
        stall: Duration::from_secs(network.stall_timeout),
        ..Limits::default()
    };
    let options = Options { offline: config.offline, wait, limits };
    library.pull(names, &options, &Shown::new(quiet))
}
