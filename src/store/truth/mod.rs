//! What the store holds, durably: one redb database, in which a write is all there or not at all.
//!
//! redb checks pages where it must recover; where a page was damaged otherwise it may panic. Whatever is asked of it is
//! asked within [`guarded`], which makes that an error.

mod record;
mod tables;
mod view;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{CompactionError, Database, DatabaseError, Durability, ReadableDatabase, TableError};

use super::error::Error;
use super::patiently;
use crate::types::store::Spec;

pub use self::record::FORMAT;
pub use self::tables::{State, Tables};
pub use self::view::View;

/// Bytes of pages that are kept in memory; the system keeps others.
const CACHE: usize = 64 << 20;

/// The database.
pub struct Truth {
    file: PathBuf,
    database: Database,
}

/// A collection as it is noted.
#[derive(Debug, Clone)]
pub struct Noted {
    pub name: String,
    pub number: u32,
    pub spec: Spec,
}

impl Truth {
    /// Opens a database, or makes one. Every page is checked: one that was damaged as it lay on the disk would have points
    /// vanish unnoticed.
    ///
    /// # Errors
    /// Another process has it open, it is of a later format, damaged, or cannot be read.
    pub fn open(file: &Path) -> Result<Truth, Error> {
        Truth::open_by(file, true)
    }

    /// The same without looking at every page: some of it may be damaged.
    ///
    /// # Errors
    /// The same.
    pub fn open_unchecked(file: &Path) -> Result<Truth, Error> {
        Truth::open_by(file, false)
    }

    fn open_by(file: &Path, check: bool) -> Result<Truth, Error> {
        guarded(file, || {
            let is_new = !file.exists();
            let mut builder = redb::Builder::new();
            builder.set_cache_size(CACHE).set_check_integrity_on_open(check);
            let database = patiently(|| {
                builder.create(file).map_err(|error| match error {
                    DatabaseError::DatabaseAlreadyOpen => {
                        Error::Locked(file.parent().unwrap_or(file).to_owned())
                    }
                    other => at(file, other.into()),
                })
            })?;
            let truth = Truth { file: file.to_owned(), database };
            truth.write(|tables| tables.begin())?;
            if let (true, Some(folder)) = (is_new, file.parent()) {
                // The file's name is to outlive a crash as what is in it does.
                let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
                synced.map_err(|source| Error::Io { file: folder.to_owned(), source })?;
            }
            let view = truth.view()?;
            match view.format()? {
                FORMAT => Ok(truth),
                version => Err(Error::Version { file: file.to_owned(), version, known: FORMAT }),
            }
        })
    }

    /// Does one durable write: all that `change` does, or nothing where it fails.
    ///
    /// # Errors
    /// What `change` fails with; the disk cannot be written.
    pub fn write<T>(&self, change: impl FnOnce(&mut Tables<'_>) -> Result<T, Error>) -> Result<T, Error> {
        guarded(&self.file, || {
            let failed = |error: redb::Error| at(&self.file, error);
            let mut transaction = self.database.begin_write().map_err(|e| failed(e.into()))?;
            transaction.set_durability(Durability::Immediate).map_err(|e| failed(e.into()))?;
            let done = {
                let mut tables = Tables::open(&self.file, &transaction)?;
                change(&mut tables)
            };
            match done {
                Ok(done) => transaction.commit().map(|()| done).map_err(|e| failed(e.into())),
                Err(error) => {
                    transaction.abort().map_err(|e| failed(e.into()))?;
                    Err(error)
                }
            }
        })
    }

    /// Makes the file as small as it can be.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn compact(mut self) -> Result<(), Error> {
        let database = &mut self.database;
        guarded(&self.file, || match database.compact() {
            Ok(_) => Ok(()),
            Err(CompactionError::Storage(error)) => Err(at(&self.file, error.into())),
            Err(other) => Err(at(&self.file, other.into())),
        })
    }

    /// What the database holds at this moment.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn view(&self) -> Result<View, Error> {
        guarded(&self.file, || {
            let transaction = self.database.begin_read().map_err(|e| at(&self.file, e.into()))?;
            View::open(&self.file, &transaction)
        })
    }
}

impl Truth {
    /// Writes all that is held at this moment to a new file, which is a database like this one.
    ///
    /// # Errors
    /// There is such a file, or it cannot be written; then it is not there.
    pub fn copy(&self, to: &Path) -> Result<(), Error> {
        if to.exists() {
            let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(Error::Io { file: to.to_owned(), source });
        }
        let part = to.with_extension("part");
        let io = |source| Error::Io { file: to.to_owned(), source };
        let _ = std::fs::remove_file(&part);
        let done = guarded(&part, || {
            let failed = |error: redb::Error| at(&part, error);
            let from = self.database.begin_read().map_err(|e| at(&self.file, e.into()))?;
            let copy =
                redb::Builder::new().set_cache_size(CACHE).create(&part).map_err(|e| failed(e.into()))?;
            tables::copy(&from, &copy).map_err(failed)?;
            copy.close().map_err(|e| failed(e.into()))
        })
        .and_then(|()| std::fs::rename(&part, to).map_err(io));
        if done.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        done
    }
}

/// An error of the database, with its place.
fn at(file: &Path, error: redb::Error) -> Error {
    let file = file.to_owned();
    match error {
        redb::Error::Corrupted(what) => Error::Damaged { file, what },
        // So it says that a file is none of its own, or ends early.
        redb::Error::Io(source)
            if matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            Error::Damaged { file, what: source.to_string() }
        }
        redb::Error::Io(source) => Error::Io { file, source },
        other => Error::Database { file, source: Box::new(other) },
    }
}

/// An error of opening a table.
fn table(file: &Path, error: TableError) -> Error {
    match error {
        TableError::TableTypeMismatch { table, .. } => {
            Error::Damaged { file: file.to_owned(), what: format!("table `{table}` is another one") }
        }
        other => at(file, other.into()),
    }
}

/// Makes a panic over a damaged page an error. A transaction that was under way is dropped, which undoes it.
fn guarded<T>(file: &Path, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        Err(Error::Damaged { file: file.to_owned(), what: "a page is not what it should be".to_owned() })
    })
}
