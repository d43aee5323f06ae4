//! What tests of several modules share.

use std::path::{Path, PathBuf};

/// The folder of an installed model below `STENTOR_TEST_MODELS`, a home folder that `stentor pull` has filled.
/// Without it the test is to return; the word is printed here.
pub fn model(id: &str) -> Option<PathBuf> {
    let Some(home) = std::env::var_os("STENTOR_TEST_MODELS") else {
        println!("skipped: STENTOR_TEST_MODELS is not set, so there are no weights for {id}");
        return None;
    };
    let path = Path::new(&home).join("models").join(id);
    assert!(path.is_dir(), "{} is missing: run `stentor pull {id}` with that home folder", path.display());
    Some(path)
}

/// The one file with this extension in a folder.
pub fn only_file(folder: &Path, extension: &str) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    assert_eq!(files.len(), 1, "{} has {} .{extension} files", folder.display(), files.len());
    files.remove(0)
}
