//! `stentor store`: what the store holds, whether it is whole, copies of it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Exit, out, running};
use crate::config::Config;
use crate::service::points::SNAPSHOTS;
use crate::store::{Checked, Error, Store, rebuild, restore, verify};
use crate::types::store::{Precision, Vectors};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// The collections, and how much each takes
    Stats {
        /// Print a JSON object a collection
        #[arg(long)]
        json: bool,
    },
    /// Look at every point
    Verify,
    /// Write all that the store holds to a file; a server that has it open goes on
    Snapshot {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Put a snapshot in the place of what the store holds
    Restore {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make all indexes anew, and the file as small as it can be
    Rebuild,
}

/// Runs the command. Ends with status 7 where something is damaged, and 6 where a server has the store open.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    act(config, args.what).map_err(|error| match error.downcast_ref::<Error>() {
        Some(locked @ Error::Locked(_)) => Exit::held(locked.to_string()).into(),
        Some(damaged @ Error::Damaged { .. }) => Exit::damaged(damaged.to_string()).into(),
        _ => error,
    })
}

fn act(config: &Config, what: What) -> anyhow::Result<()> {
    let folder = &config.store();
    match what {
        What::Stats { json } => stats(folder, json),
        What::Verify => {
            let checked = verify(folder)?;
            show(&checked)?;
            let faults: u64 = checked.iter().map(|checked| checked.faults).sum();
            match faults {
                0 => Ok(()),
                _ => Err(Exit::damaged(format!(
                    "{faults} faults; `stentor store restore FILE` brings a snapshot back"
                ))
                .into()),
            }
        }
        What::Snapshot { file } => {
            match Store::open(folder) {
                Err(Error::Locked(_)) => by_server(config, &file)?,
                store => store?.snapshot(&file)?,
            }
            let bytes = std::fs::metadata(&file).map_or(0, |file| file.len());
            out::print(&format!("{}: {} MB\n", file.display(), bytes.div_ceil(1_000_000)))
        }
        What::Restore { file } => show(&restore(folder, &file)?),
        What::Rebuild => {
            rebuild(folder)?;
            stats(folder, false)
        }
    }
}

/// Has the server that holds the store write a snapshot, and takes it from there.
fn by_server(config: &Config, file: &Path) -> anyhow::Result<()> {
    let Some(name) = running::snapshot(config.addr)? else {
        return Err(Error::Locked(config.store()).into());
    };
    let written = config.store().join(SNAPSHOTS).join(name);
    // A file that is there is not written over.
    let mut to = File::create_new(file).with_context(|| file.display().to_string())?;
    std::io::copy(&mut File::open(&written)?, &mut to)?;
    to.sync_all()?;
    std::fs::remove_file(&written)?;
    Ok(())
}

fn show(checked: &[Checked]) -> anyhow::Result<()> {
    if checked.is_empty() {
        return out::print("the store has no collections\n");
    }
    for Checked { name, points, wrong, faults } in checked {
        out::print(&match faults {
            0 => format!("{name}: {points} points, whole\n"),
            _ => format!("{name}: {points} points, {faults} faults\n"),
        })?;
        for what in wrong {
            out::print(&format!("  {what}\n"))?;
        }
    }
    Ok(())
}

fn stats(folder: &Path, json: bool) -> anyhow::Result<()> {
    let store = Store::open(folder)?;
    let collections = store.collections();
    if collections.is_empty() && !json {
        return out::print("the store has no collections\n");
    }
    for collection in collections {
        let vectors = collection.spec.vectors;
        if json {
            let line = serde_json::json!({
                "collection": collection.name,
                "points": collection.points,
                "memory_bytes": collection.memory,
                "unlinked": collection.unlinked,
                "spec": collection.spec,
            });
            out::print(&format!("{line}\n"))?;
            continue;
        }
        let kind = match vectors {
            Some(Vectors { dim, precision, .. }) => {
                let precision = match precision {
                    Precision::F32 => "f32",
                    Precision::F16 => "f16",
                    Precision::Int8 => "int8",
                };
                format!("{dim} dimensions in {precision}")
            }
            None => "no vectors".to_owned(),
        };
        let mb = collection.memory as f64 / 1e6;
        out::print(&format!(
            "{}: {} points, {kind}, {mb:.1} MB in memory\n",
            collection.name, collection.points
        ))?;
    }
    Ok(())
}
