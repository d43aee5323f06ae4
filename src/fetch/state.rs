//! `manifest.json` in the home folder: what is installed, so that nothing is hashed at start-up.
//!
//! | field | value |
//! |---|---|
//! | `version` | 1 |
//! | `models` | by id, one row a model |
//! | row: `origin` | `pulled` (under `models/<id>`, ours to delete) or `imported` (in place, only registered) |
//! | row: `path` | the model's folder, or for an imported GGUF its folder; absolute when imported, else relative to home |
//! | row: `kind`, `architecture`, `format`, `aliases`, `licence`, `owner` | as in a manifest |
//! | row: `created` | Unix seconds |
//! | row: `source` | where the bytes came from, for people |
//! | row: `files` | `path` under the row's path, `size`, `sha256` (absent until an imported file is verified), `mtime_ns` (Unix nanoseconds), `damaged` (a verification found other bytes) |
//!
//! A file counts as whole while its size and time of change are those written here. Written to a temporary
//! file, flushed to the disk and renamed, so a reader sees the old or the new whole and needs no lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::paths;
use crate::types::model::{Format, Kind};

/// The version written.
pub const VERSION: u64 = 1;
const FILE: &str = "manifest.json";
const MAX_BYTES: u64 = 32 << 20;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub version: u64,
    pub models: BTreeMap<String, Row>,
}

/// Who may delete a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Pulled,
    Imported,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub origin: Origin,
    pub path: PathBuf,
    pub kind: String,
    pub architecture: String,
    pub format: String,
    pub aliases: Vec<String>,
    pub licence: String,
    pub owner: String,
    pub created: u64,
    pub source: String,
    pub files: Vec<FileRow>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRow {
    pub path: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    pub mtime_ns: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
}

impl State {
    /// Reads the file of `home`; none is an empty state.
    pub fn load(home: &Path) -> Result<State> {
        let path = home.join(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(State { version: VERSION, models: BTreeMap::new() });
            }
            Err(e) => return Err(Error::io(&path)(e)),
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(Error::io(&path))?;
        let bad = |what: String| Error::BadState { path: path.clone(), what };
        if text.len() as u64 > MAX_BYTES {
            return Err(bad(format!("is longer than {MAX_BYTES} bytes")));
        }
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(VERSION) => {}
            Some(found) if found > VERSION => return Err(Error::NewerState { path, found, known: VERSION }),
            _ => return Err(bad("has no known version".into())),
        }
        let state: State = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        for (id, row) in &state.models {
            row.check(id).map_err(|what| bad(format!("model {id:?}: {what}")))?;
        }
        Ok(state)
    }

    /// Writes the file of `home`.
    pub fn save(&self, home: &Path) -> Result<()> {
        let path = home.join(FILE);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::BadState { path: path.clone(), what: e.to_string() })?;
        text.push(b'\n');
        let mut builder = tempfile::Builder::new();
        builder.prefix(".manifest-");
        // As readable as any file: the server may run as another user than the one who pulls.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(home).map_err(Error::io(home))?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(Error::io(&path))?;
        file.persist(&path).map_err(|e| Error::io(&path)(e.error))?;
        sync_folder(home)
    }
}

impl Row {
    fn check(&self, id: &str) -> Result<(), String> {
        if !paths::is_id(id) {
            return Err("is no id".into());
        }
        if Kind::parse(&self.kind).is_none() {
            return Err(format!("kind {:?} is not known", self.kind));
        }
        if Format::parse(&self.format).is_none() {
            return Err(format!("format {:?} is not known", self.format));
        }
        let own = self.path == Path::new("models").join(id);
        if self.origin == Origin::Pulled && !own
            || self.origin == Origin::Imported && !self.path.is_absolute()
        {
            return Err(format!("path {} does not fit its origin", self.path.display()));
        }
        match self.files.iter().find(|f| paths::join(Path::new(""), &f.path).is_none()) {
            Some(file) => Err(format!("file {:?} is no plain path", file.path)),
            None if self.files.is_empty() => Err("has no files".into()),
            None => Ok(()),
        }
    }

    /// The model's folder.
    pub fn folder(&self, home: &Path) -> PathBuf {
        home.join(&self.path)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).fold(0, u64::saturating_add)
    }

    /// What is wrong with the files, as far as sizes and times tell; `None` where nothing is.
    pub fn problem(&self, home: &Path) -> Option<String> {
        let folder = self.folder(home);
        self.files.iter().find_map(|f| f.problem(&folder))
    }
}

impl FileRow {
    /// The row of a file as it lies on disk.
    pub fn of(folder: &Path, path: &str, sha256: Option<String>) -> Result<FileRow> {
        let full = folder.join(path);
        let meta = fs::metadata(&full).map_err(Error::io(&full))?;
        Ok(FileRow {
            path: path.to_owned(),
            size: meta.len(),
            sha256,
            mtime_ns: mtime_ns(&meta),
            damaged: false,
        })
    }

    fn problem(&self, folder: &Path) -> Option<String> {
        let name = &self.path;
        let meta = match fs::metadata(folder.join(name)) {
            Ok(meta) if meta.is_file() => meta,
            Ok(_) => return Some(format!("{name} is not a file")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Some(format!("{name} is gone")),
            Err(e) => return Some(format!("{name}: {e}")),
        };
        if meta.len() != self.size {
            return Some(format!("{name} has {} bytes, not {}", meta.len(), self.size));
        }
        if self.damaged {
            return Some(format!("{name} has other bytes"));
        }
        (!same_time(mtime_ns(&meta), self.mtime_ns))
            .then(|| format!("{name} was changed after it was installed; `stentor verify` compares it"))
    }
}

/// Equal, or equal to the second where one side was kept to the second only, as archives do.
fn same_time(a: u64, b: u64) -> bool {
    const S: u64 = 1_000_000_000;
    a == b || (a / S == b / S && (a.is_multiple_of(S) || b.is_multiple_of(S)))
}

fn mtime_ns(meta: &fs::Metadata) -> u64 {
    let since = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.and_then(|d| u64::try_from(d.as_nanos()).ok()).unwrap_or(0)
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 1 wrote it; never edit.
    const VERSION_1: &str = include_str!("../../tests/golden/home-manifest-v1.json");

    #[test]
    fn every_older_version_opens() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(FILE), VERSION_1).unwrap();
        let state = State::load(home.path()).unwrap();
        assert_eq!(state.models["silero-vad"].files[0].size, 1_239_748);
        assert_eq!(state.models["mine"].origin, Origin::Imported);
        assert!(state.models["mine"].files[0].damaged);
        state.save(home.path()).unwrap();
        assert_eq!(fs::read_to_string(home.path().join(FILE)).unwrap(), VERSION_1);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let home = tempfile::tempdir().unwrap();
        for (from, to, says) in [
            ("\"version\": 1", "\"version\": 2", "newer"),
            ("\"version\": 1", "\"version\": \"1\"", "no known version"),
            ("models/silero-vad", "../../etc", "does not fit its origin"),
            ("\"silero-vad\": {", "\"../x\": {", "is no id"),
            ("silero_vad_16k.safetensors", "../../../etc/passwd", "no plain path"),
            ("\"vad\"", "\"vod\"", "kind"),
            ("{", "", "expected value"),
        ] {
            fs::write(home.path().join(FILE), VERSION_1.replace(from, to)).unwrap();
            let error = State::load(home.path()).unwrap_err().to_string();
            assert!(error.contains(says) || from == "{", "{error}");
        }
    }

    #[test]
    fn times_kept_to_the_second_count() {
        assert!(same_time(5_000_000_000, 5_123_456_789));
        assert!(!same_time(5_000_000_001, 5_123_456_789));
        assert!(!same_time(6_000_000_000, 5_999_999_999));
    }
}
