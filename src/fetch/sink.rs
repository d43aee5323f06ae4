//! Where bytes land: a partial file that is hashed while it is written, and renamed when it is right.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::error::{Error, Problem, Result};
use super::state::sync_folder;

const CHUNK: usize = 1 << 20;

/// What a file must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    pub size: u64,
    pub digest: Digest,
}

/// How its bytes are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Digest {
    /// Lower-case hexadecimal.
    Sha256(String),
    /// Git's name of the blob: SHA-1 over `blob <size>\0` and the bytes. What the hub tells of small files.
    GitBlob(String),
}

/// Runs both hashes that a [`Want`] may need.
struct Hasher {
    sha256: Sha256,
    git: Option<Sha1>,
}

impl Hasher {
    fn new(want: &Want) -> Hasher {
        let git = matches!(want.digest, Digest::GitBlob(_)).then(|| {
            let mut sha1 = Sha1::new();
            sha1.update(format!("blob {}\0", want.size).as_bytes());
            sha1
        });
        Hasher { sha256: Sha256::new(), git }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(git) = &mut self.git {
            git.update(bytes);
        }
    }

    /// The SHA-256, or what is wrong.
    fn finish(self, want: &Want) -> Result<String, Problem> {
        let sha256 = hex(&self.sha256.finalize());
        let (found, expected) = match (&want.digest, self.git) {
            (Digest::Sha256(expected), _) => (sha256.clone(), expected),
            (Digest::GitBlob(expected), git) => {
                (git.map(|g| hex(&g.finalize())).unwrap_or_default(), expected)
            }
        };
        if found == *expected {
            Ok(sha256)
        } else {
            Err(Problem::Checksum { found, expected: expected.clone() })
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Is the file at `path` what `want` says? Gives its SHA-256, `None` where it is absent or has other bytes.
pub fn check_file(path: &Path, want: &Want, mut seen: impl FnMut(u64)) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
    };
    let meta = file.metadata().map_err(Error::io(path))?;
    if !meta.is_file() || meta.len() != want.size {
        return Ok(None);
    }
    let mut hasher = Hasher::new(want);
    hash(&file, want.size, &mut hasher, &mut seen).map_err(Error::io(path))?;
    Ok(hasher.finish(want).ok())
}

/// The SHA-256 of a file of any content.
pub fn sha256_file(path: &Path, mut seen: impl FnMut(u64)) -> Result<String> {
    let mut hasher = Hasher { sha256: Sha256::new(), git: None };
    let file = File::open(path).map_err(Error::io(path))?;
    hash(&file, u64::MAX, &mut hasher, &mut seen).map_err(Error::io(path))?;
    Ok(hex(&hasher.sha256.finalize()))
}

fn hash(file: &File, limit: u64, hasher: &mut Hasher, seen: &mut impl FnMut(u64)) -> io::Result<()> {
    let mut reader = file.take(limit);
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = reader.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else { return Ok(()) };
        hasher.update(bytes);
        seen(n as u64);
    }
}

/// A partial file in work. Dropped, it stays for the next attempt.
pub struct Sink {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    written: u64,
    want: Want,
}

impl Sink {
    /// Opens the partial file at `path`, keeping and hashing what an earlier attempt left.
    pub fn open(path: &Path, want: &Want) -> Result<Sink> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(Error::io(path))?;
        let len = file.metadata().map_err(Error::io(path))?.len();
        let mut sink = Sink {
            path: path.to_path_buf(),
            file,
            hasher: Hasher::new(want),
            written: 0,
            want: want.clone(),
        };
        if len > want.size {
            sink.restart()?;
        } else {
            hash(&sink.file, len, &mut sink.hasher, &mut |_| {}).map_err(Error::io(path))?;
            sink.file.seek(SeekFrom::Start(len)).map_err(Error::io(path))?;
            sink.written = len;
        }
        Ok(sink)
    }

    /// Bytes there.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// What the file is to become.
    pub fn want(&self) -> &Want {
        &self.want
    }

    /// Forgets everything written.
    pub fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(Error::io(&self.path))?;
        self.hasher = Hasher::new(&self.want);
        self.written = 0;
        Ok(())
    }

    /// Appends, but never past the size wanted. A full disk leaves what fitted.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Result<(), Problem>> {
        let end = self.written.saturating_add(bytes.len() as u64);
        if end > self.want.size {
            return Ok(Err(Problem::Size { found: end, expected: self.want.size }));
        }
        if let Err(error) = self.file.write_all(bytes) {
            // A short write left an unhashed tail; the partial must end where the hash does.
            let _ = self.file.set_len(self.written);
            return Err(Error::io(&self.path)(error));
        }
        self.hasher.update(bytes);
        self.written = end;
        Ok(Ok(()))
    }

    /// Checks size and digest, flushes, and renames to `whole`. Wrong bytes are deleted. Gives the SHA-256.
    pub fn land(self, whole: &Path) -> Result<Result<String, Problem>> {
        if self.written != self.want.size {
            return Ok(Err(Problem::Size { found: self.written, expected: self.want.size }));
        }
        let sha256 = match self.hasher.finish(&self.want) {
            Ok(sha256) => sha256,
            Err(problem) => {
                fs::remove_file(&self.path).map_err(Error::io(&self.path))?;
                return Ok(Err(problem));
            }
        };
        self.file.sync_all().map_err(Error::io(&self.path))?;
        let folder = whole.parent().unwrap_or(whole);
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        fs::rename(&self.path, whole).map_err(Error::io(whole))?;
        sync_folder(folder)?;
        Ok(Ok(sha256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(bytes: &[u8]) -> Want {
        Want { size: bytes.len() as u64, digest: Digest::Sha256(hex(&Sha256::digest(bytes))) }
    }

    #[test]
    fn a_partial_is_continued_and_lands() {
        let dir = tempfile::tempdir().unwrap();
        let (part, whole) = (dir.path().join("p/x"), dir.path().join("w/x"));
        let mut sink = Sink::open(&part, &want(b"hello world")).unwrap();
        sink.write(b"hello").unwrap().unwrap();
        drop(sink);
        let mut sink = Sink::open(&part, &want(b"hello world")).unwrap();
        assert_eq!(sink.written(), 5);
        sink.write(b" world").unwrap().unwrap();
        assert!(matches!(sink.write(b"!").unwrap(), Err(Problem::Size { .. })));
        sink.land(&whole).unwrap().unwrap();
        assert_eq!(fs::read(&whole).unwrap(), b"hello world");
        assert!(!part.exists());
    }

    #[test]
    fn wrong_bytes_are_deleted_and_never_land() {
        let dir = tempfile::tempdir().unwrap();
        let (part, whole) = (dir.path().join("x.part"), dir.path().join("x"));
        let mut sink = Sink::open(&part, &want(b"hello")).unwrap();
        sink.write(b"hellO").unwrap().unwrap();
        assert!(matches!(sink.land(&whole).unwrap(), Err(Problem::Checksum { .. })));
        assert!(!part.exists() && !whole.exists());
        fs::write(&part, b"longer than wanted").unwrap();
        assert_eq!(Sink::open(&part, &want(b"hello")).unwrap().written(), 0);
    }

    #[test]
    fn small_hub_files_are_checked_by_their_git_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, b"hello\n").unwrap();
        // git hash-object: the reference.
        let digest = Digest::GitBlob("ce013625030ba8dba906f756967f9e9ca394464a".into());
        assert!(check_file(&path, &Want { size: 6, digest: digest.clone() }, |_| {}).unwrap().is_some());
        fs::write(&path, b"hellO\n").unwrap();
        assert!(check_file(&path, &Want { size: 6, digest }, |_| {}).unwrap().is_none());
    }

    /// `/dev/full` refuses every byte with ENOSPC, as a full disk does.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("x");
        std::os::unix::fs::symlink("/dev/full", &part).unwrap();
        let mut sink = Sink::open(&part, &want(b"hello")).unwrap();
        let error = sink.write(b"hello").unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("continues where it stopped"));
        assert_eq!(sink.written(), 0);
    }
}
