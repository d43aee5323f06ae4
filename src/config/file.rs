//! `stentor.toml`: settings with the line that each stands on.

use std::io::{ErrorKind, Read};
use std::path::Path;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::Error;
use super::settings::{self, SETTINGS, Setting};

/// A setting found in the file.
pub(super) struct Entry {
    pub setting: &'static Setting,
    pub value: Value,
    /// Counted from 1.
    pub line: usize,
}

/// A configuration is a page of text; anything near this is another file.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the file. One that is absent has no entries, unless it is `required`.
///
/// # Errors
/// Unreadable, not TOML, or a key that is no setting: with the line and the nearest known name.
pub(super) fn read(path: &Path, required: bool) -> Result<Vec<Entry>, Error> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(fail)?,
        Err(e) if e.kind() == ErrorKind::NotFound && !required => return Ok(Vec::new()),
        Err(source) => return Err(fail(source)),
    };
    if text.len() as u64 > MAX_BYTES {
        return Err(fail(std::io::Error::other("larger than 1 MiB; is it a configuration?")));
    }
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, Error> {
    let syntax = |e: toml::de::Error| Error::Syntax {
        path: path.to_owned(),
        line: e.span().map_or(1, |span| line_at(text, span.start)),
        message: e.message().to_owned(),
    };
    let spans = DeTable::parse(text).map_err(syntax)?;
    let values: toml::Table = toml::from_str(text).map_err(syntax)?;
    let mut entries = Vec::new();
    walk(path, text, "", spans.get_ref(), &values, &mut entries)?;
    Ok(entries)
}

fn walk(
    path: &Path,
    text: &str,
    prefix: &str,
    spans: &DeTable<'_>,
    values: &toml::Table,
    entries: &mut Vec<Entry>,
) -> Result<(), Error> {
    for (key, spanned) in spans.iter() {
        let line = line_at(text, key.span().start);
        let name = format!("{prefix}{}", key.get_ref());
        let Some(value) = values.get(key.get_ref().as_ref()) else { continue };
        if let Some(setting) = settings::find(&name) {
            entries.push(Entry { setting, value: value.clone(), line });
            continue;
        }
        let section = format!("{name}.");
        let known = SETTINGS.iter().any(|setting| setting.name.starts_with(&section));
        match (spanned.get_ref(), value) {
            (DeValue::Table(spans), Value::Table(values)) if known => {
                walk(path, text, &section, spans, values, entries)?;
            }
            _ => {
                let nearest = nearest(&name);
                return Err(Error::Unknown { path: path.to_owned(), line, key: name, nearest });
            }
        }
    }
    Ok(())
}

/// The known name that is most like this one; a last part that matches a known last part counts as well, so
/// that a setting in the wrong table is found.
fn nearest(name: &str) -> Option<&'static str> {
    let tail = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    SETTINGS
        .iter()
        .map(|setting| {
            let whole = strsim::jaro_winkler(name, setting.name);
            let last = strsim::jaro_winkler(&tail(name), &tail(setting.name)) * 0.98;
            (setting.name, whole.max(last))
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .filter(|(_, score)| *score > 0.7)
        .map(|(name, _)| name)
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}
