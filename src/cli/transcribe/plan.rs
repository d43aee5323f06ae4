//! Which files are recordings, and where what they say is written.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::cli::files::{Named, Wanted};

/// Names of files in folders that are taken for recordings.
const EXTENSIONS: [&str; 24] = [
    "aac", "aif", "aiff", "caf", "flac", "m4a", "m4b", "m4v", "mka", "mkv", "mov", "mp2", "mp3", "mp4",
    "mpeg", "mpga", "oga", "ogg", "ogv", "opus", "wav", "wave", "weba", "webm",
];
/// Recordings in folders.
pub(in crate::cli) fn wanted(recursive: bool) -> Wanted<'static> {
    Wanted { extensions: &EXTENSIONS, what: "audio or video files", recursive }
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
pub(super) fn plan(recordings: Vec<Named>, folder: Option<&Path>, extension: &str, overwrite: bool) -> Plan {
    let mut plan = Plan::default();
    let sources: HashSet<PathBuf> = recordings.iter().map(|recording| recording.path.clone()).collect();
    let mut taken: HashMap<PathBuf, PathBuf> = HashMap::new();
    for Named { path, place } in recordings {
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
    use std::fs;

    use super::*;
    use crate::cli::files::find;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        dir
    }

    #[test]
    fn nothing_is_written_over_unless_it_is_wanted() {
        let dir = folder(&["a.wav", "b.wav", "b.mp3", "a.srt", "c.srt"]);
        let at = |name: &str| dir.path().join(name);
        let recordings = || find(&[at("a.wav"), at("b.wav"), at("b.mp3")], wanted(false)).unwrap().files;
        let made = plan(recordings(), None, "srt", false);
        assert_eq!(made.kept, [at("a.srt")]);
        assert_eq!(made.tasks, [(at("b.wav"), at("b.srt"))]);
        assert!(made.problems[0].contains("b.mp3: it would be written to"), "{:?}", made.problems);
        assert_eq!(plan(recordings(), None, "srt", true).tasks[0], (at("a.wav"), at("a.srt")));
        let itself = find(&[at("c.srt")], wanted(false)).unwrap().files;
        let made = plan(itself, None, "srt", true);
        assert_eq!((made.tasks.len(), made.problems.len()), (0, 1));
    }

    #[test]
    fn another_folder_has_the_same_shape() {
        let dir = folder(&["one/a.wav", "two/a.wav"]);
        let found = find(&[dir.path().to_path_buf()], wanted(true)).unwrap();
        let made = plan(found.files, Some(Path::new("out")), "txt", false);
        let outputs: Vec<_> = made.tasks.iter().map(|(_, output)| output.display().to_string()).collect();
        assert_eq!(outputs.len(), 2);
        assert!(outputs.contains(&"out/one/a.txt".to_owned()), "{outputs:?}");
    }
}
