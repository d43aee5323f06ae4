//! The home folder: what lies where, its lock, and the space left.

use std::fs::{self, File, TryLockError};
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
        fs::create_dir_all(&self.0).map_err(Error::io(&self.0))?;
        let path = self.0.join(".lock");
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
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
        let stat = rustix::fs::statvfs(&self.0).map_err(|e| Error::io(&self.0)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        match need.saturating_add(MARGIN) {
            total if need > 0 && total > free => {
                Err(Error::NoSpace { path: self.0.clone(), need: total, free })
            }
            _ => Ok(()),
        }
    }
}

/// The right to change the home folder.
pub struct Lock {
    _file: File,
}
