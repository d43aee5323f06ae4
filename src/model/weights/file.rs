//! A file of weights, read by position.
//!
//! Not memory-mapped on purpose: a mapping needs `unsafe`, and whoever truncates a mapped file kills the whole
//! process with SIGBUS. A positioned read of the same bytes ends in an error instead, costs one copy that the
//! mapping would spend on page faults, and leaves nothing of the file in resident memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::Error;

/// An open file and the length it had when it was opened.
#[derive(Debug)]
pub struct WeightsFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl WeightsFile {
    /// Opens a regular file for reading.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), action: "open", source };
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        Ok(WeightsFile { path: path.to_owned(), file, len: meta.len() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` from `offset` on; `field` names in errors what was being read.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64, field: &str) -> Result<(), Error> {
        read_exact_at(&self.file, buf, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::malformed(&self.path, field, "the file ends before its data does")
            }
            _ => Error::Io { path: self.path.clone(), action: "read", source },
        })
    }

    /// Fills at most `buf` from `offset` on; 0 at the end of the file.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(&self.file, buf, offset)
    }
}

/// Reads in sequence over positioned ones.
pub(super) struct Buffered<'a> {
    file: &'a WeightsFile,
    /// Of the byte that is handed out next.
    pos: u64,
    buf: Vec<u8>,
    /// Of that byte in `buf`.
    at: usize,
}

impl<'a> Buffered<'a> {
    pub(super) fn new(file: &'a WeightsFile) -> Self {
        Buffered { file, pos: 0, buf: Vec::new(), at: 0 }
    }

    /// Bytes handed out or passed over.
    pub(super) fn position(&self) -> u64 {
        self.pos
    }
}

impl Read for Buffered<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buf.len() {
            self.buf.resize(1 << 18, 0);
            self.at = 0;
            let n = self.file.read_at(&mut self.buf, self.pos)?;
            self.buf.truncate(n);
        }
        let n = (&self.buf[self.at..]).read(out)?;
        self.at += n;
        self.pos += n as u64;
        Ok(n)
    }
}

impl Seek for Buffered<'_> {
    /// What has been read is kept where the new position lies in it.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.pos.checked_add_signed(by),
            SeekFrom::End(by) => self.file.len().checked_add_signed(by),
        };
        let to = to.ok_or(io::ErrorKind::InvalidInput)?;
        let inside = to.checked_sub(self.pos - self.at as u64).and_then(|at| usize::try_from(at).ok());
        match inside.filter(|&at| at <= self.buf.len()) {
            Some(at) => self.at = at,
            None => {
                self.buf.clear();
                self.at = 0;
            }
        }
        self.pos = to;
        Ok(to)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

#[cfg(unix)]
fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match read_at(file, buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
