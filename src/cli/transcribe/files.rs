//! Which recordings are meant, and where what they say is written.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Names of files in folders that are taken for recordings.
const EXTENSIONS: [&str; 24] = [
    "aac", "aif", "aiff", "caf", "flac", "m4a", "m4b", "m4v", "mka", "mkv", "mov", "mp2", "mp3", "mp4",
    "mpeg", "mpga", "oga", "ogg", "ogv", "opus", "wav", "wave", "weba", "webm",
];
/// More than anyone means.
const MAX_FILES: usize = 100_000;

/// A recording that was named, or found in a folder that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recording {
    pub path: PathBuf,
    /// Where it lies in the folder that was named.
    place: PathBuf,
}

/// What names stand for.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub recordings: Vec<Recording>,
    /// A line for each name that stands for nothing.
    pub problems: Vec<String>,
}

/// The recordings that these files, folders and patterns mean, each once.
///
/// # Errors
/// They are too many.
pub(super) fn find(names: &[PathBuf], recursive: bool) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for name in names {
        if let Err(problem) = found.add(name, recursive) {
            found.problems.push(format!("{}: {problem:#}", name.display()));
        }
        anyhow::ensure!(found.recordings.len() <= MAX_FILES, "more than {MAX_FILES} files are meant");
    }
    let mut seen = HashSet::new();
    found.recordings.retain(|r| seen.insert(fs::canonicalize(&r.path).unwrap_or_else(|_| r.path.clone())));
    Ok(found)
}

impl Found {
    fn add(&mut self, name: &Path, recursive: bool) -> anyhow::Result<()> {
        match fs::metadata(name) {
            Ok(about) if about.is_dir() => self.add_folder(name, recursive),
            Ok(_) => {
                self.add_file(name);
                Ok(())
            }
            Err(error) => {
                // Shells that do not expand patterns hand them over, as do quotes.
                let pattern = name.to_str().filter(|text| text.contains(['*', '?', '[']));
                self.add_pattern(pattern.ok_or(error)?, recursive)
            }
        }
    }

    fn add_file(&mut self, path: &Path) {
        let place = path.file_name().map(PathBuf::from).unwrap_or_default();
        self.recordings.push(Recording { path: path.to_path_buf(), place });
    }

    fn add_pattern(&mut self, pattern: &str, recursive: bool) -> anyhow::Result<()> {
        let before = self.recordings.len();
        // As shells: hidden files are not meant.
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        for path in glob::glob_with(pattern, options)? {
            let path = path?;
            match path.is_dir() {
                true if recursive => self.add_folder(&path, true)?,
                true => {}
                false => self.add_file(&path),
            }
            anyhow::ensure!(self.recordings.len() <= MAX_FILES, "more than {MAX_FILES} files are meant");
        }
        anyhow::ensure!(self.recordings.len() > before, "no file has such a name");
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path, recursive: bool) -> anyhow::Result<()> {
        let before = self.recordings.len();
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
                    folders.extend((recursive && !hidden).then_some(path));
                } else if !hidden && is_recording(&path) && path.is_file() {
                    let place = path.strip_prefix(folder).unwrap_or(&path).to_path_buf();
                    self.recordings.push(Recording { path, place });
                }
                anyhow::ensure!(self.recordings.len() <= MAX_FILES, "more than {MAX_FILES} files are meant");
            }
        }
        let hint = if recursive { "" } else { "; --recursive looks into its folders too" };
        anyhow::ensure!(self.recordings.len() > before, "no audio or video files are in it{hint}");
        Ok(())
    }
}

fn is_recording(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Recordings, and the files that are written of them.
    pub tasks: Vec<(PathBuf, PathBuf)>,
    /// Files that are there and stay as they are.
    pub kept: Vec<PathBuf>,
    /// A line for each recording that is left out.
    pub problems: Vec<String>,
}

/// Where each recording is written: beside it, or below `folder` as it lies below the one that was named.
pub(super) fn plan(
    recordings: Vec<Recording>,
    folder: Option<&Path>,
    extension: &str,
    overwrite: bool,
) -> Plan {
    let mut plan = Plan::default();
    let sources: HashSet<PathBuf> = recordings.iter().map(|recording| recording.path.clone()).collect();
    let mut taken: HashMap<PathBuf, PathBuf> = HashMap::new();
    for Recording { path, place } in recordings {
        let output =
            folder.map_or_else(|| path.clone(), |folder| folder.join(place)).with_extension(extension);
        let (from, to) = (path.display(), output.display());
        if sources.contains(&output) {
            plan.problems
                .push(format!("{from}: it would be written to {to}, which is to be transcribed too"));
        } else if let Some(other) = taken.get(&output) {
            let other = other.display();
            plan.problems.push(format!("{from}: it would be written to {to}, as {other} is"));
        } else if !overwrite && output.symlink_metadata().is_ok() {
            plan.kept.push(output);
        } else {
            taken.insert(output.clone(), path.clone());
            plan.tasks.push((path, output));
        }
    }
    plan
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

    fn places(found: &Found) -> Vec<String> {
        found.recordings.iter().map(|recording| recording.place.display().to_string()).collect()
    }

    #[test]
    fn folders_patterns_and_files_are_found_once() {
        let dir = folder(&["b.MP3", "a.wav", "notes.txt", "._a.wav", "in/c.ogg", "in/.git/d.wav"]);
        let at = |name: &str| dir.path().join(name);
        let all = find(&[dir.path().to_path_buf()], false).unwrap();
        assert_eq!(places(&all), ["a.wav", "b.MP3"]);
        let all = find(&[at("a.wav"), dir.path().to_path_buf(), at("./a.wav")], true).unwrap();
        assert_eq!(places(&all), ["a.wav", "b.MP3", "in/c.ogg"]);
        let matched = find(&[at("*.[wM]*"), at("no*.wav")], false).unwrap();
        assert_eq!(places(&matched), ["a.wav", "b.MP3"]);
        assert!(matched.problems[0].contains("no*.wav: no file has such a name"), "{:?}", matched.problems);
        // A file that is named is taken, whatever it is called.
        let named = find(&[at("notes.txt"), at("gone.wav"), at("in/.git")], false).unwrap();
        assert_eq!(places(&named), ["notes.txt", "d.wav"]);
        assert!(named.problems[0].contains("No such file"), "{:?}", named.problems);
        let empty = find(&[at("in/none[")], false).unwrap();
        assert_eq!((empty.recordings.len(), empty.problems.len()), (0, 1));
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_in_circles_are_not_followed() {
        let dir = folder(&["a/b.wav"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("a/b.wav"), dir.path().join("a/c.wav")).unwrap();
        let found = find(&[dir.path().to_path_buf()], true).unwrap();
        assert_eq!(places(&found), ["a/b.wav"], "two names of a file are one");
    }

    #[test]
    fn nothing_is_written_over_unless_it_is_wanted() {
        let dir = folder(&["a.wav", "b.wav", "b.mp3", "a.srt", "c.srt"]);
        let at = |name: &str| dir.path().join(name);
        let recordings = || find(&[at("a.wav"), at("b.wav"), at("b.mp3")], false).unwrap().recordings;
        let made = plan(recordings(), None, "srt", false);
        assert_eq!(made.kept, [at("a.srt")]);
        assert_eq!(made.tasks, [(at("b.wav"), at("b.srt"))]);
        assert!(made.problems[0].contains("b.mp3: it would be written to"), "{:?}", made.problems);
        assert_eq!(plan(recordings(), None, "srt", true).tasks[0], (at("a.wav"), at("a.srt")));
        let itself = find(&[at("c.srt")], false).unwrap().recordings;
        let made = plan(itself, None, "srt", true);
        assert_eq!((made.tasks.len(), made.problems.len()), (0, 1));
    }

    #[test]
    fn another_folder_has_the_same_shape() {
        let dir = folder(&["one/a.wav", "two/a.wav"]);
        let found = find(&[dir.path().to_path_buf()], true).unwrap();
        let made = plan(found.recordings, Some(Path::new("out")), "txt", false);
        let outputs: Vec<_> = made.tasks.iter().map(|(_, output)| output.display().to_string()).collect();
        assert_eq!(outputs.len(), 2);
        assert!(outputs.contains(&"out/one/a.txt".to_owned()), "{outputs:?}");
    }
}
