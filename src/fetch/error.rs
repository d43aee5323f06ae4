//! What can go wrong between a manifest and a file on disk.

use std::io;
use std::path::{Path, PathBuf};

use super::progress::bytes_text;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Each text names the thing, the place and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("manifest {name}: {what}")]
    Manifest { name: String, what: String },
    #[error("no model or profile is named {name:?}{} `stentor models` lists all", did_you_mean(.nearest))]
    Unknown { name: String, nearest: Option<String> },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the home folder {path} cannot be used: {source}; choose another with --home or STENTOR_HOME, or give this user the right to write there"
    )]
    Home { path: PathBuf, source: io::Error },
    #[error(
        "not enough space on the disk of {path}: {need} needed, {free} free; free some, or set STENTOR_HOME to a larger disk",
        need = bytes_text(*.need), free = bytes_text(*.free)
    )]
    NoSpace { path: PathBuf, need: u64, free: u64 },
    #[error(
        "the disk of {path} is full ({source}); free some space and run the command again: it continues where it stopped"
    )]
    DiskFull { path: PathBuf, source: io::Error },
    #[error(
        "{path}: version {found} of the home folder's manifest is newer than this program ({known}); update stentor"
    )]
    NewerState { path: PathBuf, found: u64, known: u64 },
    #[error(
        "{path}: {what}; move the file away and run `stentor pull`: whole models are found again, nothing is downloaded twice"
    )]
    BadState { path: PathBuf, what: String },
    #[error("another stentor process is changing {home}; wait for it to end, or leave out --no-wait")]
    Locked { home: PathBuf },
    #[error(
        "offline: {model} is not whole on this machine and its sources need the network; run `stentor pull {model}` without --offline, or `stentor import` its files"
    )]
    Offline { model: String },
    #[error("{model}: no source could give {file}:\n{tried}")]
    NoSource { model: String, file: String, tried: String },
    #[error("{what}: {problem}")]
    Source { what: String, problem: Problem },
    #[error("{path}: {what}")]
    Import { path: PathBuf, what: String },
    #[error("{name:?} is taken by {by}; choose another with --id")]
    Taken { name: String, by: String },
    #[error("{id} is not installed; `stentor models --installed` lists what is")]
    NotInstalled { id: String },
}

/// Why one source did not give a file. The next source is tried after any of these.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("does not answer ({0})")]
    Unreachable(String),
    #[error("answers {status}{hint}")]
    Status { status: u16, hint: &'static str },
    #[error("is busy (answers {status})")]
    Busy { status: u16, after: Option<std::time::Duration> },
    #[error("the transfer broke off ({0})")]
    Broken(String),
    #[error("has other bytes: sha256 {found}, expected {expected}")]
    Checksum { found: String, expected: String },
    #[error("has another size: {found} bytes, expected {expected}")]
    Size { found: u64, expected: u64 },
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// Wraps an I/O error with its path; a full disk and a file-size limit become [`Error::DiskFull`].
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::DiskFull { path, source }
            }
            _ => Error::Io { path, source },
        }
    }

    /// A source's failure, which passes on to the next source.
    pub fn source(what: impl Into<String>, problem: Problem) -> Error {
        Error::Source { what: what.into(), problem }
    }

    /// The exit status of a command that ends with this error; `stentor help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Unknown { .. } | Error::NotInstalled { .. } | Error::Taken { .. } => 3,
            Error::NoSource { .. } | Error::Source { .. } | Error::Offline { .. } => 4,
            Error::NoSpace { .. } | Error::DiskFull { .. } => 5,
            Error::Locked { .. } => 6,
            _ => 1,
        }
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(";".to_owned(), |n| format!("; did you mean {n:?}?"))
}

/// The candidate that a mistyped `name` most likely meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(&name, &c.to_lowercase()), c))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}
