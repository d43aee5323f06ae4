//! The models of one home folder: what is known, what is there, and every way to change that.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::catalog::Catalog;
use super::error::{Error, Result, nearest};
use super::home::Home;
use super::manifest::Manifest;
use super::progress::{Progress, Silent};
use super::pull::{Options, Session, now};
use super::sink::sha256_file;
use super::state::{FileRow, Origin, Row, State};
use super::{paths, probe};
use crate::types::model::{Format, Installed, Kind};

/// A home folder opened. Cheap to make; reads the disk anew for each question, so it never goes stale.
#[derive(Debug, Clone)]
pub struct Library {
    home: Home,
    catalog: Catalog,
}

/// How a model stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Pulled and whole.
    Present,
    /// Registered in place and whole.
    Imported,
    /// Known, not here.
    Missing,
    /// Here, but a file is gone or not what it was.
    Damaged,
}

impl Status {
    /// The word in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Present => "present",
            Status::Imported => "imported",
            Status::Missing => "missing",
            Status::Damaged => "damaged",
        }
    }
}

/// One line of [`Library::status`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    pub aliases: Vec<String>,
    pub kind: Kind,
    pub architecture: String,
    pub format: Format,
    pub licence: String,
    /// Of the files here, else of those that the manifest knows the size of (0: of none).
    pub bytes: u64,
    pub status: Status,
    /// What is damaged.
    pub note: Option<String>,
    /// Profiles it is part of.
    pub profiles: Vec<String>,
}

/// What a pull did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Ids of models that were made whole.
    pub fetched: Vec<String>,
    /// Ids of models that were whole already.
    pub present: Vec<String>,
}

/// What a verification found of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub id: String,
    /// One line a damaged file; none: the model is whole.
    pub problems: Vec<String>,
}

impl Library {
    /// Reads the catalogue. Neither the folder nor anything in it need be there yet.
    ///
    /// # Errors
    /// A manifest or profile in the home folder that cannot be read.
    pub fn open(home: &Path) -> Result<Library> {
        Ok(Library { home: Home::new(home), catalog: Catalog::load(home)? })
    }

    /// The home folder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The manifests and profiles known.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The models that are whole by size and time of change of every file. Hashes nothing.
    ///
    /// Every id and alias is given once: where models share an alias, the one installed first has it.
    pub fn installed(&self) -> Result<Vec<Installed>> {
        let state = State::load(self.home())?;
        let mut whole: Vec<(&String, &Row)> =
            state.models.iter().filter(|(_, row)| row.problem(self.home()).is_none()).collect();
        whole.sort_by_key(|(id, row)| (row.created, *id));
        let mut taken: BTreeSet<&str> = state.models.keys().map(String::as_str).collect();
        let mut models = Vec::new();
        for (id, row) in whole {
            let (Some(kind), Some(format)) = (Kind::parse(&row.kind), Format::parse(&row.format)) else {
                continue;
            };
            let aliases = self.aliases(id, row).iter().filter(|a| taken.insert(a)).cloned().collect();
            models.push(Installed {
                id: id.clone(),
                aliases,
                kind,
                architecture: row.architecture.clone(),
                format,
                path: main_path(self.home(), row, format),
                bytes: row.bytes(),
                created: row.created,
                owner: row.owner.clone(),
            });
        }
        models.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(models)
    }

    /// The manifest's aliases where there is one, so that a newer program's apply; else those of the row.
    fn aliases<'a>(&'a self, id: &str, row: &'a Row) -> &'a [String] {
        match self.catalog.get(id) {
            Some(manifest) if row.origin == Origin::Pulled => &manifest.aliases,
            _ => &row.aliases,
        }
    }

    /// Every model known or registered, by id.
    pub fn status(&self) -> Result<Vec<Entry>> {
        let state = State::load(self.home())?;
        let mut entries: Vec<Entry> = Vec::new();
        for (id, row) in &state.models {
            let (Some(kind), Some(format)) = (Kind::parse(&row.kind), Format::parse(&row.format)) else {
                continue;
            };
            let manifest = self.catalog.get(id).filter(|_| row.origin == Origin::Pulled);
            let note = row.problem(self.home()).or_else(|| manifest.and_then(|m| outdated(m, row)));
            let status = match (&note, row.origin) {
                (Some(_), _) => Status::Damaged,
                (None, Origin::Pulled) => Status::Present,
                (None, Origin::Imported) => Status::Imported,
            };
            entries.push(Entry {
                id: id.clone(),
                aliases: self.aliases(id, row).to_vec(),
                kind,
                architecture: row.architecture.clone(),
                format,
                licence: row.licence.clone(),
                bytes: row.bytes(),
                status,
                note,
                profiles: self.profiles_of(id),
            });
        }
        for manifest in self.catalog.manifests().filter(|m| !state.models.contains_key(&m.id)) {
            entries.push(self.missing(manifest));
        }
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(entries)
    }

    fn missing(&self, manifest: &Manifest) -> Entry {
        Entry {
            id: manifest.id.clone(),
            aliases: manifest.aliases.clone(),
            kind: manifest.kind,
            architecture: manifest.architecture.clone(),
            format: manifest.format,
            licence: manifest.licence.clone(),
            bytes: manifest.bytes(),
            status: Status::Missing,
            note: None,
            profiles: self.profiles_of(&manifest.id),
        }
    }

    fn profiles_of(&self, id: &str) -> Vec<String> {
        let has = |models: &[String]| models.iter().any(|m| m == id);
        self.catalog.profiles().filter(|p| has(&p.models)).map(|p| p.id.clone()).collect()
    }

    /// The id that `name` means: an id, an alias of an installed model, or an alias of a known one.
    ///
    /// # Errors
    /// [`Error::Unknown`], with the nearest name.
    pub fn resolve(&self, name: &str) -> Result<String> {
        let state = State::load(self.home())?;
        if state.models.contains_key(name) || self.catalog.get(name).is_some() {
            return Ok(name.to_owned());
        }
        if let Some(model) = self.installed()?.into_iter().find(|m| m.aliases.iter().any(|a| a == name)) {
            return Ok(model.id);
        }
        if let Some((id, _)) = state.models.iter().find(|(_, row)| row.aliases.iter().any(|a| a == name)) {
            return Ok(id.clone());
        }
        match self.catalog.find(name) {
            Some(manifest) => Ok(manifest.id.clone()),
            None => Err(self.unknown(name, &state)),
        }
    }

    fn unknown(&self, name: &str, state: &State) -> Error {
        let rows = state.models.iter().flat_map(|(id, row)| std::iter::once(id).chain(&row.aliases));
        let nearest = nearest(name, self.catalog.names().chain(rows.map(String::as_str))).map(str::to_owned);
        Error::Unknown { name: name.to_owned(), nearest }
    }

    /// Makes the named models and the models of the named profiles whole.
    ///
    /// Where all are whole already this touches neither the lock nor the network. Models made whole before
    /// an error stay so.
    ///
    /// # Errors
    /// An unknown name (nothing is fetched then), [`Error::Offline`], [`Error::NoSource`],
    /// [`Error::NoSpace`], [`Error::DiskFull`], [`Error::Locked`].
    pub fn pull<S: AsRef<str>>(
        &self,
        names: &[S],
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        let ids = self.expand(names)?;
        let mut report = Pulled::default();
        let state = State::load(self.home())?;
        if ids.iter().all(|id| self.is_whole(id, &state)) {
            report.present = ids;
            return Ok(report);
        }
        let _lock = self.home.lock(options.wait, progress)?;
        let mut state = State::load(self.home())?;
        let mut session = Session::new(&self.home, options, progress);
        let mut failure = None;
        for id in ids {
            if self.is_whole(&id, &state) {
                report.present.push(id);
                continue;
            }
            let Some(manifest) = self.catalog.get(&id) else {
                failure = failure.or(Some(self.cannot_pull(&id, &state)));
                continue;
            };
            match session.fetch(manifest, state.models.get(&id).filter(|r| r.origin == Origin::Pulled)) {
                Ok(row) => {
                    state.models.insert(id.clone(), row);
                    state.save(self.home())?;
                    report.fetched.push(id);
                }
                // The others may have sources that answer; a full disk they share.
                Err(error @ (Error::NoSource { .. } | Error::Offline { .. })) => {
                    failure = failure.or(Some(error))
                }
                Err(error) => return Err(error),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => {
                let _ = fs::remove_dir_all(self.home.wheels());
                Ok(report)
            }
        }
    }

    fn cannot_pull(&self, id: &str, state: &State) -> Error {
        let path = state.models.get(id).map(|r| r.folder(self.home())).unwrap_or_default();
        let what = format!("{id} was imported from here and is damaged; import it again");
        Error::Import { path, what }
    }

    /// The ids that names of models and profiles mean, each once.
    ///
    /// # Errors
    /// [`Error::Unknown`], with the nearest name.
    pub fn expand<S: AsRef<str>>(&self, names: &[S]) -> Result<Vec<String>> {
        let mut ids: Vec<String> = Vec::new();
        for name in names {
            let found = match self.catalog.profile(name.as_ref()) {
                Some(profile) => profile.models.clone(),
                None => vec![self.resolve(name.as_ref())?],
            };
            for id in found {
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        Ok(ids)
    }

    fn is_whole(&self, id: &str, state: &State) -> bool {
        state.models.get(id).is_some_and(|row| {
            let manifest = self.catalog.get(id).filter(|_| row.origin == Origin::Pulled);
            row.problem(self.home()).is_none() && manifest.is_none_or(|m| outdated(m, row).is_none())
        })
    }

    /// Hashes the files of the named models (of all, where none is named) and writes down what it found.
    ///
    /// An imported file that was never hashed is hashed now, and from now on must stay what it is.
    ///
    /// # Errors
    /// An unknown or not installed name; a damaged file is not an error but a line in the report.
    pub fn verify<S: AsRef<str>>(
        &self,
        names: &[S],
        wait: bool,
        progress: &dyn Progress,
    ) -> Result<Vec<Verified>> {
        let mut ids = names.iter().map(|n| self.resolve(n.as_ref())).collect::<Result<Vec<_>>>()?;
        let _lock = self.home.lock(wait, progress)?;
        let mut state = State::load(self.home())?;
        if names.is_empty() {
            ids = state.models.keys().cloned().collect();
        }
        let mut report = Vec::new();
        for id in ids {
            let Some(row) = state.models.get_mut(&id) else { return Err(Error::NotInstalled { id }) };
            let folder = row.folder(self.home());
            let mut problems = Vec::new();
            for file in &mut row.files {
                problems.extend(verify_file(&id, &folder, file, progress)?);
            }
            report.push(Verified { id, problems });
            state.save(self.home())?;
        }
        Ok(report)
    }

    /// Registers the model at `path` where it lies. Gives its id.
    ///
    /// # Errors
    /// [`Error::Import`] where `path` is no model that is served, [`Error::Taken`] where `id` or an alias is.
    pub fn import(&self, path: &Path, id: Option<&str>, aliases: &[String], wait: bool) -> Result<String> {
        let found = probe::probe(path)?;
        let fail = |what: String| Error::Import { path: path.to_path_buf(), what };
        let made = id.map_or_else(|| paths::to_id(&found.name), |id| Some(id.to_owned()));
        let id = made.filter(|id| paths::is_id(id)).ok_or_else(|| {
            let not = id.map(|id| format!(", not {id:?}")).unwrap_or_default();
            fail(format!("needs an --id of lower-case letters, digits, `.`, `-` and `_`{not}"))
        })?;
        if let Some(bad) = aliases.iter().find(|a| !paths::is_alias(a)) {
            return Err(fail(format!(
                "the alias {bad:?} must be visible ASCII, at most {} bytes",
                paths::MAX_NAME
            )));
        }
        let _lock = self.home.lock(wait, &Silent)?;
        let mut state = State::load(self.home())?;
        self.check_free(&id, aliases, &state)?;
        let files =
            found.files.iter().map(|f| FileRow::of(&found.folder, f, None)).collect::<Result<Vec<_>>>()?;
        let row = Row {
            origin: Origin::Imported,
            source: found.folder.display().to_string(),
            path: found.folder,
            kind: found.kind.as_str().to_owned(),
            architecture: found.architecture,
            format: found.format.as_str().to_owned(),
            aliases: aliases.to_vec(),
            licence: "unknown".into(),
            owner: "local".into(),
            created: now(),
            files,
        };
        state.models.insert(id.clone(), row);
        state.save(self.home())?;
        Ok(id)
    }

    fn check_free(&self, id: &str, aliases: &[String], state: &State) -> Result<()> {
        let taken = |name: &str, by: &str| Err(Error::Taken { name: name.to_owned(), by: by.to_owned() });
        if state.models.get(id).is_some_and(|r| r.origin == Origin::Pulled) {
            return taken(id, "a pulled model");
        }
        if self.catalog.get(id).is_some() || self.catalog.profile(id).is_some() {
            return taken(id, "a manifest or profile");
        }
        for (other, row) in state.models.iter().filter(|(other, _)| *other != id) {
            let names: BTreeSet<&String> = std::iter::once(other).chain(self.aliases(other, row)).collect();
            if let Some(name) = aliases.iter().find(|a| names.contains(a)) {
                return taken(name, other);
            }
        }
        Ok(())
    }

    /// Removes a model: a pulled one with its files and what an unfinished pull left, an imported one from the
    /// register only. Gives the bytes freed.
    ///
    /// # Errors
    /// An unknown name, or [`Error::NotInstalled`].
    pub fn remove(&self, name: &str, wait: bool) -> Result<u64> {
        let id = self.resolve(name)?;
        let _lock = self.home.lock(wait, &Silent)?;
        let mut state = State::load(self.home())?;
        let row = state.models.remove(&id);
        let imported = row.as_ref().is_some_and(|r| r.origin == Origin::Imported);
        let unfinished = self.home.downloads().join(&id);
        if row.is_none() && !unfinished.exists() && !self.home.model(&id).exists() {
            return Err(Error::NotInstalled { id });
        }
        // First the row, then the files: killed between, files without a row are found again by a pull.
        state.save(self.home())?;
        if imported {
            return Ok(0);
        }
        for folder in [self.home.model(&id), unfinished] {
            match fs::remove_dir_all(&folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(folder)(e)),
                _ => {}
            }
        }
        Ok(row.map_or(0, |r| r.bytes()))
    }
}

/// Ends of the names of files that hold no weights.
const SETTINGS: [&str; 4] = [".yaml", ".yml", ".json", ".txt"];

/// The file of the weights, of a split model the first; else the folder.
fn main_path(home: &Path, row: &Row, format: Format) -> PathBuf {
    // Settings may lie beside them.
    let is_weights = |path: &str| !SETTINGS.iter().any(|extension| path.ends_with(extension));
    let weights = row.files.iter().find(|file| is_weights(&file.path)).or(row.files.first());
    match weights.filter(|_| format.is_file()) {
        Some(file) => row.folder(home).join(&file.path),
        None => row.folder(home),
    }
}

/// Where the manifest has come to name other bytes than those installed.
fn outdated(manifest: &Manifest, row: &Row) -> Option<String> {
    let same = |path: &str, sha256: &str| {
        row.files.iter().any(|f| f.path == path && f.sha256.as_deref().is_none_or(|s| s == sha256))
    };
    let other = manifest.files.iter().find(|f| match &f.pin {
        Some(pin) => !same(&f.path, &pin.sha256),
        None => !row.files.iter().any(|r| r.path == f.path),
    })?;
    Some(format!("{} is of another version than the manifest's; pull it again", other.path))
}

fn verify_file(
    id: &str,
    folder: &Path,
    file: &mut FileRow,
    progress: &dyn Progress,
) -> Result<Option<String>> {
    let path = folder.join(&file.path);
    let size = match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => meta.len(),
        _ => return Ok(Some(format!("{} is gone", file.path))),
    };
    if size != file.size {
        return Ok(Some(format!("{} has {size} bytes, not {}", file.path, file.size)));
    }
    progress.start(&format!("{id}/{}", file.path), Some(size), 0);
    let found = sha256_file(&path, |n| progress.advance(n));
    progress.finish();
    let found = found?;
    file.damaged = file.sha256.as_ref().is_some_and(|s| *s != found);
    if file.damaged {
        return Ok(Some(format!("{} has other bytes", file.path)));
    }
    *file = FileRow::of(folder, &file.path, Some(found))?;
    Ok(None)
}

#[cfg(test)]
#[path = "library_tests.rs"]
mod tests;
