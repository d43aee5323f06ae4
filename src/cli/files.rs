//! Which files are meant by names, folders and patterns.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// More than anyone means.
const MAX_FILES: usize = 100_000;

/// Which files of folders are meant. One that is named itself is taken, whatever it is called.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// In small letters, without a dot.
    pub extensions: &'a [&'a str],
    /// What they are, for people.
    pub what: &'static str,
    /// Look into the folders of folders too.
    pub recursive: bool,
}

/// A file that was named, or found in a folder that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub path: PathBuf,
    /// Where it lies in the folder that was named.
    pub place: PathBuf,
}

/// What names stand for.
#[derive(Debug, Default)]
pub struct Found {
    pub files: Vec<Named>,
    /// A line for each name that stands for nothing.
    pub problems: Vec<String>,
}

/// What these files, folders and patterns mean, each once.
///
/// # Errors
/// They are too many.
pub fn find(names: &[PathBuf], wanted: Wanted<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for name in names {
        if let Err(problem) = found.add(name, wanted) {
            found.problems.push(format!("{}: {problem:#}", name.display()));
        }
        anyhow::ensure!(found.files.len() <= MAX_FILES, "more than {MAX_FILES} files are meant");
    }
    let mut seen = HashSet::new();
    found.files.retain(|r| seen.insert(fs::canonicalize(&r.path).unwrap_or_else(|_| r.path.clone())));
    Ok(found)
}

impl Found {
    fn add(&mut self, name: &Path, wanted: Wanted<'_>) -> anyhow::Result<()> {
        match fs::metadata(name) {
            Ok(about) if about.is_dir() => self.add_folder(name, wanted),
            Ok(_) => {
                self.add_file(name);
                Ok(())
            }
            Err(error) => {
                // Shells that do not expand patterns hand them over, as do quotes.
                let pattern = name.to_str().filter(|text| text.contains(['*', '?', '[']));
                self.add_pattern(pattern.ok_or(error)?, wanted)
            }
        }
    }

    fn add_file(&mut self, path: &Path) {
        let place = path.file_name().map(PathBuf::from).unwrap_or_default();
        self.files.push(Named { path: path.to_path_buf(), place });
    }

    fn add_pattern(&mut self, pattern: &str, wanted: Wanted<'_>) -> anyhow::Result<()> {
        let before = self.files.len();
        // As shells: hidden files are not meant.
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        for path in glob::glob_with(pattern, options)? {
            let path = path?;
            match path.is_dir() {
                true if wanted.recursive => self.add_folder(&path, wanted)?,
                true => {}
                false => self.add_file(&path),
            }
            anyhow::ensure!(self.files.len() <= MAX_FILES, "more than {MAX_FILES} files are meant");
        }
        anyhow::ensure!(self.files.len() > before, "no file has such a name");
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path, wanted: Wanted<'_>) -> anyhow::Result<()> {
        let before = self.files.len();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(next) = folders.pop() {
            let entries = fs::read_dir(&next).with_context(|| next.display().to_string())?;
            let mut paths: Vec<_> =
                entries.map(|e| e.map(|e| (e.path(), e.file_type()))).collect::<Result<_, _>>()?;
            paths.sort_by(|a, b| a.0.cmp(&b.0));
            for (path, kind) in paths {
                let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                // Links to folders are not followed: they may lead in circles.
                if kind.is_ok_and(|kind| kind.is_dir()) {
                    folders.extend((wanted.recursive && !hidden).then_some(path));
                } else if !hidden && wanted.has(&path) && path.is_file() {
                    let place = path.strip_prefix(folder).unwrap_or(&path).to_path_buf();
                    self.files.push(Named { path, place });
                }
                anyhow::ensure!(self.files.len() <= MAX_FILES, "more than {MAX_FILES} files are meant");
            }
        }
        let hint = if wanted.recursive { "" } else { "; --recursive looks into its folders too" };
        anyhow::ensure!(self.files.len() > before, "no {} are in it{hint}", wanted.what);
        Ok(())
    }
}

impl Wanted<'_> {
    fn has(&self, path: &Path) -> bool {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        extension.is_some_and(|extension| self.extensions.contains(&extension.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        dir
    }

    fn wanted(recursive: bool) -> Wanted<'static> {
        Wanted { extensions: &["mp3", "ogg", "wav"], what: "recordings", recursive }
    }

    fn places(found: &Found) -> Vec<String> {
        found.files.iter().map(|recording| recording.place.display().to_string()).collect()
    }

    #[test]
    fn folders_patterns_and_files_are_found_once() {
        let dir = folder(&["b.MP3", "a.wav", "notes.txt", "._a.wav", "in/c.ogg", "in/.git/d.wav"]);
        let at = |name: &str| dir.path().join(name);
        let all = find(&[dir.path().to_path_buf()], wanted(false)).unwrap();
        assert_eq!(places(&all), ["a.wav", "b.MP3"]);
        let all = find(&[at("a.wav"), dir.path().to_path_buf(), at("./a.wav")], wanted(true)).unwrap();
        assert_eq!(places(&all), ["a.wav", "b.MP3", "in/c.ogg"]);
        let matched = find(&[at("*.[wM]*"), at("no*.wav")], wanted(false)).unwrap();
        assert_eq!(places(&matched), ["a.wav", "b.MP3"]);
        assert!(matched.problems[0].contains("no*.wav: no file has such a name"), "{:?}", matched.problems);
        // A file that is named is taken, whatever it is called.
        let named = find(&[at("notes.txt"), at("gone.wav"), at("in/.git")], wanted(false)).unwrap();
        assert_eq!(places(&named), ["notes.txt", "d.wav"]);
        assert!(named.problems[0].contains("No such file"), "{:?}", named.problems);
        let empty = find(&[at("in/none[")], wanted(false)).unwrap();
        assert_eq!((empty.files.len(), empty.problems.len()), (0, 1));
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_in_circles_are_not_followed() {
        let dir = folder(&["a/b.wav"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("a/b.wav"), dir.path().join("a/c.wav")).unwrap();
        let found = find(&[dir.path().to_path_buf()], wanted(true)).unwrap();
        assert_eq!(places(&found), ["a/b.wav"], "two names of a file are one");
    }
}
