//! `stentor key`: makes an API key, shows it once, keeps its hash.

use super::out;
use crate::config::{Config, new_key};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name for the key, seen in logs: letters, digits, `.`, `_` and `-`
    name: String,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let path = config.key_file();
    let key = new_key(&path, &args.name)?;
    out::note(&format!(
        "Key `{}` (its hash is in {}; the key itself is shown only now). A running server takes it up when \
         it is started again.",
        key.id,
        path.display()
    ));
    out::print(&format!("{}\n", key.secret))
}
