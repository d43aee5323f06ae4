//! The home folder: what lies where, its lock, and the space left.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::progress::Progress;

/// Kept free beside what a download needs.
const MARGIN: u64 = 64 << 20;

/// Paths below the home folder.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

impl Home {
    pub fn new(path: &Path) -> Home {
        Home(path.to_path_buf())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the files of a model lie when they are whole.
    pub fn model(&self, id: &str) -> PathBuf {
        self.0.join("models").join(id)
    }

    /// Everything unfinished. May be deleted whenever no pull runs.
    pub fn downloads(&self) -> PathBuf {
        self.0.join("downloads")
    }

    /// Whole files of a model that lacks others.
    pub fn staged(&self, id: &str) -> PathBuf {
        self.downloads().join(id).join("whole")
    }

    /// Partial files of a model.
    pub fn partial(&self, id: &str) -> PathBuf {
        self.downloads().join(id).join("partial")
    }

    /// The ETags under which partial files were sent.
    pub fn etags(&self, id: &str) -> PathBuf {
        self.downloads().join(id).join("etags")
    }

    /// Wheels, until the pull that needs them is done.
    pub fn wheels(&self) -> PathBuf {
        self.downloads().join(".wheels")
    }

    /// Creates the folder and takes its lock, which ends with the value or the process.
    pub fn lock(&self, wait: bool, progress: &dyn Progress) -> Result<Lock> {
        let unusable = |source| Error::Home { path: self.0.clone(), source };
        fs::create_dir_all(&self.0).map_err(unusable)?;
        let path = self.0.join(".lock");
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(&path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::Error(e)) => return Err(Error::io(&path)(e)),
            Err(TryLockError::WouldBlock) if !wait => return Err(Error::Locked { home: self.0.clone() }),
            Err(TryLockError::WouldBlock) => {}
        }
        progress.note(&format!("another stentor process is changing {}; waiting for it", self.0.display()));
        file.lock().map_err(Error::io(&path))?;
        Ok(Lock { _file: file })
    }

    /// Fails unless `need` bytes and a margin are free.
    pub fn need_space(&self, need: u64) -> Result<()> {
        let free = free(&self.0).map_err(Error::io(&self.0))?;
        match need.saturating_add(MARGIN) {
            total if need > 0 && total > free => {
                Err(Error::NoSpace { path: self.0.clone(), need: total, free })
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that this user may still write to the disk of `folder`.
fn free(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Where a home folder lies.
#[derive(Debug)]
pub struct Disk {
    /// Bytes free.
    pub free: u64,
    /// Whether the folder is there already; it is made when it is first needed.
    pub exists: bool,
    /// Why nothing can be written there, if so.
    pub refused: Option<io::Error>,
}

impl Disk {
    /// Tries the folder, or the nearest one above it that is there. Leaves nothing behind.
    ///
    /// # Errors
    /// What is there cannot be looked at.
    pub fn of(home: &Path) -> Result<Disk> {
        let home = std::path::absolute(home).map_err(Error::io(home))?;
        let exists = home.exists();
        let folder = home.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        let free = free(folder).map_err(Error::io(folder))?;
        Ok(Disk { free, exists, refused: tempfile::tempfile_in(folder).err() })
    }

    /// Whether less is free than every download leaves.
    pub fn is_full(&self) -> bool {
        self.free < MARGIN
    }
}

/// The right to change the home folder.
pub struct Lock {
    _file: File,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::of(&dir.path().join("not/yet")).unwrap();
        assert!(!disk.exists && disk.refused.is_none() && disk.free > 0);
        assert!(Disk::of(dir.path()).unwrap().exists);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Disk::of(&file).unwrap().refused.is_some(), "a file is no home");
    }
}
