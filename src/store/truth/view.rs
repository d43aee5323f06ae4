//! The tables as they were at one moment.

use std::path::{Path, PathBuf};

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};

use super::record::{Key, read_numbers, read_record, read_vector};
use super::tables::{CHANGES, COLLECTIONS, IDS, META, RECORDS, STATES, State, VECTORS, damaged};
use super::{Noted, at, guarded, table};
use crate::store::error::Error;
use crate::types::store::{Record, Vectors};

/// What the database held at a moment.
pub struct View {
    file: PathBuf,
    meta: ReadOnlyTable<&'static str, &'static [u8]>,
    collections: ReadOnlyTable<&'static str, (u32, &'static [u8])>,
    states: ReadOnlyTable<u32, (u64, u64)>,
    ids: ReadOnlyTable<(u32, &'static str), u32>,
    records: ReadOnlyTable<Key, &'static [u8]>,
    vectors: ReadOnlyTable<Key, &'static [u8]>,
    changes: ReadOnlyTable<(u32, u64), &'static [u8]>,
}

impl View {
    pub(super) fn open(file: &Path, transaction: &ReadTransaction) -> Result<View, Error> {
        let failed = |error| table(file, error);
        Ok(View {
            file: file.to_owned(),
            meta: transaction.open_table(META).map_err(failed)?,
            collections: transaction.open_table(COLLECTIONS).map_err(failed)?,
            states: transaction.open_table(STATES).map_err(failed)?,
            ids: transaction.open_table(IDS).map_err(failed)?,
            records: transaction.open_table(RECORDS).map_err(failed)?,
            vectors: transaction.open_table(VECTORS).map_err(failed)?,
            changes: transaction.open_table(CHANGES).map_err(failed)?,
        })
    }

    /// Reads, with panics over damaged pages as errors.
    fn read<T>(&self, run: impl FnOnce() -> Result<T, redb::StorageError>) -> Result<T, Error> {
        guarded(&self.file, || run().map_err(|error| at(&self.file, error.into())))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::Damaged { file: self.file.clone(), what: what.to_owned() }
    }

    pub(super) fn format(&self) -> Result<u32, Error> {
        let found = self.read(|| self.meta.get("format"))?;
        let bytes = found.and_then(|found| found.value().try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or_else(|| self.damaged("its format is not noted"))
    }

    /// What derived indexes are told apart by.
    ///
    /// # Errors
    /// It is damaged, or the disk cannot be read.
    pub fn epoch(&self) -> Result<[u8; 16], Error> {
        let found = self.read(|| self.meta.get("epoch"))?;
        let bytes = found.and_then(|found| found.value().try_into().ok());
        bytes.ok_or_else(|| self.damaged("its epoch is not noted"))
    }

    /// The collections by name.
    ///
    /// # Errors
    /// One is damaged, or the disk cannot be read.
    pub fn collections(&self) -> Result<Vec<Noted>, Error> {
        let rows = self.read(|| {
            let mut rows = Vec::new();
            for row in self.collections.iter()? {
                let (name, value) = row?;
                let (number, spec) = value.value();
                rows.push((name.value().to_owned(), number, serde_json::from_slice(spec)));
            }
            Ok(rows)
        })?;
        rows.into_iter()
            .map(|(name, number, spec)| match spec {
                Ok(spec) => Ok(Noted { name, number, spec }),
                Err(_) => Err(self.damaged(&format!("collection `{name}`"))),
            })
            .collect()
    }

    /// How far a collection is.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn state(&self, collection: u32) -> Result<State, Error> {
        let found = self.read(|| self.states.get(collection))?;
        Ok(found.map(|found| found.value().into()).unwrap_or_default())
    }

    /// The number that an id has.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn number(&self, collection: u32, id: &str) -> Result<Option<u32>, Error> {
        self.read(|| Ok(self.ids.get((collection, id))?.map(|number| number.value())))
    }

    /// What is kept at a number.
    ///
    /// # Errors
    /// It is damaged, or the disk cannot be read.
    pub fn record(&self, key: Key) -> Result<Option<Record>, Error> {
        let found =
            self.read(|| Ok(self.records.get(key)?.map(|sealed| read_record(key, sealed.value()))))?;
        found.map(|record| record.ok_or_else(|| damaged(&self.file, key))).transpose()
    }

    /// The vector at a number.
    ///
    /// # Errors
    /// It is damaged, or the disk cannot be read.
    pub fn vector(&self, key: Key, vectors: Vectors) -> Result<Option<Vec<f32>>, Error> {
        let Vectors { dim, precision, .. } = vectors;
        let found = self.read(|| {
            Ok(self.vectors.get(key)?.map(|sealed| read_vector(key, sealed.value(), dim, precision)))
        })?;
        found.map(|vector| vector.ok_or_else(|| damaged(&self.file, key))).transpose()
    }

    /// Calls `each` with the records of a collection, by number from `from` on, until it says no. A record that is
    /// damaged is given as `None`.
    ///
    /// # Errors
    /// The disk cannot be read, or what `each` fails with.
    pub fn records(
        &self,
        collection: u32,
        from: u32,
        mut each: impl FnMut(u32, Option<Record>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut rows = self.read(|| self.records.range((collection, from)..=(collection, u32::MAX)))?;
        while let Some(row) = self.read(|| rows.next().transpose())? {
            let key = row.0.value();
            if !each(key.1, read_record(key, row.1.value()))? {
                break;
            }
        }
        Ok(())
    }

    /// The same with the vectors.
    ///
    /// # Errors
    /// The same.
    pub fn vectors(
        &self,
        collection: u32,
        Vectors { dim, precision, .. }: Vectors,
        mut each: impl FnMut(u32, Option<Vec<f32>>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut rows = self.read(|| self.vectors.range((collection, 0)..=(collection, u32::MAX)))?;
        while let Some(row) = self.read(|| rows.next().transpose())? {
            let key = row.0.value();
            each(key.1, read_vector(key, row.1.value(), dim, precision))?;
        }
        Ok(())
    }

    /// Numbers that changes after `since` touched; `None` where not all of those changes are noted any more.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn touched(&self, collection: u32, since: u64) -> Result<Option<Vec<u32>>, Error> {
        let state = self.state(collection)?;
        if since > state.sequence {
            return Ok(None);
        }
        self.read(|| {
            let mut next = since;
            let mut touched = Vec::new();
            for row in self.changes.range((collection, since.saturating_add(1))..=(collection, u64::MAX))? {
                let (key, numbers) = row?;
                next += 1;
                if key.value().1 != next {
                    return Ok(None);
                }
                touched.extend(read_numbers(numbers.value()));
            }
            Ok((next == state.sequence).then_some(touched))
        })
    }
}
