//! `stentor models`.

use std::fmt::Write as _;

use serde_json::json;

use super::{out, running};
use crate::config::Config;
use crate::fetch::catalog::Catalog;
use crate::fetch::{Entry, Library, Status, bytes_text};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only models that are on this machine
    #[arg(long)]
    pub installed: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let library = Library::open(&config.home)?;
    let mut entries = library.status()?;
    if args.installed {
        entries.retain(|e| e.status != Status::Missing);
    }
    let loaded = running::server(config.addr).and_then(|running| running.loaded);
    let (catalog, loaded) = (library.catalog(), loaded.as_deref());
    match args.json {
        true => out::print(&format!("{}\n", serde_json::to_string_pretty(&json(&entries, catalog, loaded))?)),
        false => out::print(&table(&entries, catalog, loaded)),
    }
}

/// The models as a table, the profiles below it, and what is damaged last.
///
/// `loaded`: the ids that a running server holds in memory; `None` where none answered, and the table then
/// does not speak of it.
pub fn table(entries: &[Entry], catalog: &Catalog, loaded: Option<&[String]>) -> String {
    let header = ["MODEL", "KIND", "FORMAT", "SIZE", "STATUS", "PROFILES", "ALSO CALLED"];
    let mut rows = vec![header.map(str::to_owned)];
    for entry in entries {
        rows.push([
            entry.id.clone(),
            entry.kind.as_str().to_owned(),
            entry.format.as_str().to_owned(),
            if entry.bytes == 0 { "?".to_owned() } else { bytes_text(entry.bytes) },
            status(entry, loaded).to_owned(),
            entry.profiles.join(","),
            entry.aliases.join(", "),
        ]);
    }
    let mut text = columns(&rows);
    text.push_str("\nProfiles:\n");
    let width = catalog.profiles().map(|p| p.id.len()).max().unwrap_or(0);
    for profile in catalog.profiles() {
        let _ = writeln!(text, "  {:width$}  {}", profile.id, profile.title);
    }
    for entry in entries {
        if let Some(note) = &entry.note {
            let _ = write!(text, "\n{}: {note}", entry.id);
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn status(entry: &Entry, loaded: Option<&[String]>) -> &'static str {
    match loaded {
        Some(ids) if ids.contains(&entry.id) => "loaded",
        _ => entry.status.as_str(),
    }
}

/// Rows with their cells under each other.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// The same for programs.
pub fn json(entries: &[Entry], catalog: &Catalog, loaded: Option<&[String]>) -> serde_json::Value {
    let models: Vec<_> = entries.iter().map(|entry| model_json(entry, loaded)).collect();
    let profile =
        |p: &crate::fetch::manifest::Profile| json!({"id": p.id, "title": p.title, "models": p.models});
    json!({ "models": models, "profiles": catalog.profiles().map(profile).collect::<Vec<_>>() })
}

fn model_json(entry: &Entry, loaded: Option<&[String]>) -> serde_json::Value {
    json!({
        "id": entry.id,
        "aliases": entry.aliases,
        "kind": entry.kind.as_str(),
        "architecture": entry.architecture,
        "format": entry.format.as_str(),
        "licence": entry.licence,
        "bytes": entry.bytes,
        "status": entry.status.as_str(),
        "note": entry.note,
        "profiles": entry.profiles,
        "loaded": loaded.map(|ids| ids.contains(&entry.id)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_is_loaded() {
        let home = tempfile::tempdir().unwrap();
        let library = Library::open(home.path()).unwrap();
        let entries = library.status().unwrap();
        let text = table(&entries, library.catalog(), Some(&["whisper-base".into()]));
        let line = text.lines().find(|l| l.starts_with("whisper-base ")).unwrap();
        assert!(line.contains("loaded") && line.contains("148 MB") && line.contains("starter"), "{line}");
        assert!(
            text.lines().any(|l| l.starts_with("bge-m3") && l.contains(" ? ") && l.contains("missing")),
            "{text}"
        );
        let value = json(&entries, library.catalog(), None);
        assert_eq!(value["models"][0]["loaded"], serde_json::Value::Null);
    }
}
