//! The manifests and profiles that this program knows: those built in, and those in the home folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use include_dir::{Dir, include_dir};

use super::error::{Error, Result, nearest};
use super::manifest::{MAX_TEXT, Manifest, Profile};

static BUILT_IN: Dir = include_dir!("$CARGO_MANIFEST_DIR/models");

/// Most files read from a home folder's `manifests/`.
const MAX_FILES: usize = 4096;

/// All manifests and profiles, by id.
#[derive(Debug, Clone)]
pub struct Catalog {
    manifests: BTreeMap<String, Manifest>,
    profiles: BTreeMap<String, Profile>,
}

impl Catalog {
    /// The built-in ones, then `manifests/*.toml` and `manifests/profiles/*.toml` of `home`, which replace
    /// built-in ones of the same id.
    pub fn load(home: &Path) -> Result<Catalog> {
        let mut catalog = Catalog { manifests: BTreeMap::new(), profiles: BTreeMap::new() };
        for file in BUILT_IN.files() {
            catalog.add(&file.path().to_string_lossy(), file.contents_utf8().unwrap_or_default())?;
        }
        for file in BUILT_IN.get_dir("profiles").into_iter().flat_map(Dir::files) {
            catalog.add_profile(&file.path().to_string_lossy(), file.contents_utf8().unwrap_or_default())?;
        }
        for (name, text) in read_folder(&home.join("manifests"))? {
            catalog.add(&name, &text)?;
        }
        for (name, text) in read_folder(&home.join("manifests").join("profiles"))? {
            catalog.add_profile(&name, &text)?;
        }
        catalog.check()?;
        Ok(catalog)
    }

    fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let fail = |what: String| Error::Manifest { name: name.to_owned(), what };
        let manifest = Manifest::parse(text).map_err(fail)?;
        named_after(name, &manifest.id).map_err(fail)?;
        self.manifests.insert(manifest.id.clone(), manifest);
        Ok(())
    }

    fn add_profile(&mut self, name: &str, text: &str) -> Result<()> {
        let fail = |what: String| Error::Manifest { name: name.to_owned(), what };
        let profile = Profile::parse(text).map_err(fail)?;
        named_after(name, &profile.id).map_err(fail)?;
        self.profiles.insert(profile.id.clone(), profile);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        for profile in self.profiles.values() {
            let fail = |what: String| Error::Manifest { name: format!("profile {}", profile.id), what };
            if self.manifests.contains_key(&profile.id) {
                return Err(fail("a model has the same id".into()));
            }
            if let Some(id) = profile.models.iter().find(|id| !self.manifests.contains_key(*id)) {
                let hint = nearest(id, self.manifests.keys().map(String::as_str));
                let hint = hint.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
                return Err(fail(format!("names {id:?}, which has no manifest{hint}")));
            }
        }
        Ok(())
    }

    /// All manifests, by id.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests.values()
    }

    /// All profiles, by id.
    pub fn profiles(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.values()
    }

    /// The manifest with this id.
    pub fn get(&self, id: &str) -> Option<&Manifest> {
        self.manifests.get(id)
    }

    /// The profile with this id.
    pub fn profile(&self, id: &str) -> Option<&Profile> {
        self.profiles.get(id)
    }

    /// The manifest with this id or alias. An alias that several share means the one in `starter`, else the
    /// first by id.
    pub fn find(&self, name: &str) -> Option<&Manifest> {
        let starter = self.profile("starter");
        let in_starter = |m: &Manifest| starter.is_some_and(|p| p.models.contains(&m.id));
        self.get(name).or_else(|| {
            let by_alias = || self.manifests().filter(|m| m.aliases.iter().any(|a| a == name));
            by_alias().find(|m| in_starter(m)).or_else(|| by_alias().next())
        })
    }

    /// Every id, alias and profile, for suggestions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let manifests = self.manifests.values();
        let ids = manifests.flat_map(|m| std::iter::once(&m.id).chain(&m.aliases));
        ids.chain(self.profiles.keys()).map(String::as_str)
    }
}

fn named_after(file: &str, id: &str) -> Result<(), String> {
    let stem = Path::new(file).file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".toml"));
    if stem == Some(id) {
        Ok(())
    } else {
        Err(format!("`id` is {id:?}, so the file must be called {id}.toml"))
    }
}

fn read_folder(folder: &Path) -> Result<Vec<(String, String)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(folder)(e)),
    };
    let mut texts = Vec::new();
    for entry in entries.take(MAX_FILES) {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let size = fs::metadata(&path).map_err(Error::io(&path))?.len();
        let name = path.display().to_string();
        if size > MAX_TEXT as u64 {
            return Err(Error::Manifest { name, what: format!("is longer than {MAX_TEXT} bytes") });
        }
        texts.push((name, fs::read_to_string(&path).map_err(Error::io(&path))?));
    }
    texts.sort();
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_models_are_sound() {
        let catalog = Catalog::load(Path::new("/nonexistent")).unwrap();
        let starter = &catalog.profile("starter").unwrap().models;
        assert_eq!(starter.len(), 6);
        for id in starter {
            let manifest = catalog.get(id).unwrap();
            assert!(manifest.files.iter().all(|f| f.pin.is_some()), "{id} is not pinned");
        }
        assert_eq!(catalog.find("whisper-1").unwrap().id, "whisper-base");
        assert_eq!(catalog.find("Systran/faster-whisper-medium").unwrap().id, "whisper-medium");
    }

    /// Cargo does not see a new file in `models/` by itself: touch this file when this fails.
    #[test]
    fn every_file_in_models_is_built_in() {
        for folder in ["models", "models/profiles"] {
            for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/models")).unwrap();
                assert!(path.is_dir() || BUILT_IN.get_file(name).is_some(), "{name:?}: touch catalog.rs");
            }
        }
    }

    #[test]
    fn a_home_folder_adds_and_replaces() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("manifests/profiles");
        fs::create_dir_all(&folder).unwrap();
        let text = BUILT_IN.get_file("silero-vad.toml").unwrap().contents_utf8().unwrap();
        let path = home.path().join("manifests/silero-vad.toml");
        fs::write(&path, text.replace("snakers4\"", "mine\"")).unwrap();
        fs::write(folder.join("p.toml"), "id = \"p\"\ntitle = \"t\"\nmodels = [\"silero-vda\"]").unwrap();
        let error = Catalog::load(home.path()).unwrap_err().to_string();
        assert!(error.contains("did you mean \"silero-vad\"?"), "{error}");
        fs::remove_file(folder.join("p.toml")).unwrap();
        assert_eq!(Catalog::load(home.path()).unwrap().get("silero-vad").unwrap().owner, "mine");
        fs::rename(&path, home.path().join("manifests/other.toml")).unwrap();
        let error = Catalog::load(home.path()).unwrap_err().to_string();
        assert!(error.contains("must be called silero-vad.toml"), "{error}");
    }
}
