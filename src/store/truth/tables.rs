//! The tables while they are written.

use std::path::Path;

use redb::{Database, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::record::{FORMAT, Key, read_record, write_numbers, write_record, write_vector};
use super::{Noted, at, table};
use crate::store::RECORD_BYTES;
use crate::store::error::Error;
use crate::types::store::{Precision, Record, Spec};

pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(super) const COLLECTIONS: TableDefinition<&str, (u32, &[u8])> = TableDefinition::new("collections");
pub(super) const STATES: TableDefinition<u32, (u64, u64)> = TableDefinition::new("states");
pub(super) const IDS: TableDefinition<(u32, &str), u32> = TableDefinition::new("ids");
pub(super) const RECORDS: TableDefinition<Key, &[u8]> = TableDefinition::new("records");
pub(super) const VECTORS: TableDefinition<Key, &[u8]> = TableDefinition::new("vectors");
pub(super) const CHANGES: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("changes");

/// How far a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// Changes so far.
    pub sequence: u64,
    pub points: u64,
}

/// As it is kept.
impl From<(u64, u64)> for State {
    fn from((sequence, points): (u64, u64)) -> State {
        State { sequence, points }
    }
}

/// The tables of one write.
pub struct Tables<'a> {
    file: &'a Path,
    meta: Table<'a, &'static str, &'static [u8]>,
    collections: Table<'a, &'static str, (u32, &'static [u8])>,
    states: Table<'a, u32, (u64, u64)>,
    ids: Table<'a, (u32, &'static str), u32>,
    records: Table<'a, Key, &'static [u8]>,
    vectors: Table<'a, Key, &'static [u8]>,
    changes: Table<'a, (u32, u64), &'static [u8]>,
}

impl<'a> Tables<'a> {
    pub(super) fn open(file: &'a Path, transaction: &'a WriteTransaction) -> Result<Tables<'a>, Error> {
        let failed = |error| table(file, error);
        Ok(Tables {
            file,
            meta: transaction.open_table(META).map_err(failed)?,
            collections: transaction.open_table(COLLECTIONS).map_err(failed)?,
            states: transaction.open_table(STATES).map_err(failed)?,
            ids: transaction.open_table(IDS).map_err(failed)?,
            records: transaction.open_table(RECORDS).map_err(failed)?,
            vectors: transaction.open_table(VECTORS).map_err(failed)?,
            changes: transaction.open_table(CHANGES).map_err(failed)?,
        })
    }

    fn failed(&self) -> impl Fn(redb::StorageError) -> Error + use<'a> {
        let file = self.file;
        move |error| at(file, error.into())
    }

    /// Makes a new database one of this format.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        let failed = self.failed();
        if self.meta.get("format").map_err(&failed)?.is_none() {
            self.meta.insert("format", FORMAT.to_le_bytes().as_slice()).map_err(&failed)?;
            self.renew()?;
        }
        Ok(())
    }

    /// Begins another epoch: what was derived before is not this store's.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn renew(&mut self) -> Result<(), Error> {
        let failed = self.failed();
        let epoch: [u8; 16] = *uuid::Uuid::new_v4().as_bytes();
        self.meta.insert("epoch", epoch.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// Notes a new collection; its number.
    ///
    /// # Errors
    /// There is one of that name, or the disk cannot be read.
    pub fn create(&mut self, name: &str, spec: &Spec) -> Result<Noted, Error> {
        let failed = self.failed();
        if self.collections.get(name).map_err(&failed)?.is_some() {
            return Err(Error::Exists(name.to_owned()));
        }
        let next = self.meta.get("next").map_err(&failed)?;
        let number = next.and_then(|next| next.value().try_into().ok()).map_or(0, u32::from_le_bytes);
        let after = number.checked_add(1).ok_or(Error::Full)?;
        self.meta.insert("next", after.to_le_bytes().as_slice()).map_err(&failed)?;
        let json = serde_json::to_vec(spec).unwrap_or_default();
        self.collections.insert(name, (number, json.as_slice())).map_err(failed)?;
        Ok(Noted { name: name.to_owned(), number, spec: spec.clone() })
    }

    /// Takes a collection and all its points out.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn drop(&mut self, name: &str, number: u32) -> Result<(), Error> {
        let failed = self.failed();
        let (from, to) = (number, number.saturating_add(1));
        self.collections.remove(name).map_err(&failed)?;
        self.states.remove(number).map_err(&failed)?;
        self.ids.retain_in((from, "")..(to, ""), |_, _| false).map_err(&failed)?;
        self.records.retain_in((from, 0)..(to, 0), |_, _| false).map_err(&failed)?;
        self.vectors.retain_in((from, 0)..(to, 0), |_, _| false).map_err(&failed)?;
        self.changes.retain_in((from, 0)..(to, 0), |_, _| false).map_err(&failed)?;
        Ok(())
    }

    /// The number that an id has.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn number(&self, collection: u32, id: &str) -> Result<Option<u32>, Error> {
        let found = self.ids.get((collection, id)).map_err(self.failed())?;
        Ok(found.map(|number| number.value()))
    }

    /// Whether this vector is kept at a number.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn has_vector(&self, key: Key, vector: &[f32], precision: Precision) -> Result<bool, Error> {
        let found = self.vectors.get(key).map_err(self.failed())?;
        Ok(found.is_some_and(|sealed| sealed.value() == write_vector(key, vector, precision)))
    }

    /// Keeps a record at a number; what was there. A damaged one is replaced as if nothing had been.
    ///
    /// # Errors
    /// It is too large, or the disk cannot be written.
    pub fn put_record(&mut self, key: Key, record: &Record) -> Result<Option<Record>, Error> {
        let failed = self.failed();
        let bytes = write_record(key, record);
        if bytes.len() > RECORD_BYTES {
            return Err(Error::Large { id: record.id.clone(), bytes: bytes.len() });
        }
        self.ids.insert((key.0, record.id.as_str()), key.1).map_err(&failed)?;
        let was = self.records.insert(key, bytes.as_slice()).map_err(&failed)?;
        Ok(was.and_then(|sealed| read_record(key, sealed.value())))
    }

    /// Keeps a vector at a number.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn put_vector(&mut self, key: Key, vector: &[f32], precision: Precision) -> Result<(), Error> {
        let failed = self.failed();
        self.vectors.insert(key, write_vector(key, vector, precision).as_slice()).map_err(failed)?;
        Ok(())
    }

    /// Takes out what is at a number; what it was.
    ///
    /// # Errors
    /// The disk cannot be read. A record that is damaged is taken out too, under the id that leads to it.
    pub fn remove(&mut self, key: Key, id: &str) -> Result<Option<Record>, Error> {
        let failed = self.failed();
        self.ids.remove((key.0, id)).map_err(&failed)?;
        self.vectors.remove(key).map_err(&failed)?;
        let was = self.records.remove(key).map_err(&failed)?;
        Ok(was.and_then(|sealed| read_record(key, sealed.value())))
    }

    /// How far a collection is.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn state(&self, collection: u32) -> Result<State, Error> {
        let found = self.states.get(collection).map_err(self.failed())?;
        Ok(found.map(|found| found.value().into()).unwrap_or_default())
    }

    /// Notes how far a collection is now and, where something is derived from it, which numbers the last change touched.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn changed(
        &mut self,
        collection: u32,
        state: State,
        touched: Option<impl Iterator<Item = u32>>,
    ) -> Result<(), Error> {
        let failed = self.failed();
        self.states.insert(collection, (state.sequence, state.points)).map_err(&failed)?;
        if let Some(touched) = touched {
            let numbers = write_numbers(touched);
            self.changes.insert((collection, state.sequence), numbers.as_slice()).map_err(&failed)?;
        }
        Ok(())
    }

    /// Forgets what the changes up to this one touched: everything derived holds them.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn forget(&mut self, collection: u32, upto: u64) -> Result<(), Error> {
        let failed = self.failed();
        self.changes.retain_in((collection, 0)..=(collection, upto), |_, _| false).map_err(failed)
    }
}

/// A record that cannot be read.
pub(super) fn damaged(file: &Path, (collection, number): Key) -> Error {
    let what = format!("the point of number {number} of collection {collection}");
    Error::Damaged { file: file.to_owned(), what }
}

/// Rows that are copied in one transaction.
const COPIED: usize = 4096;

/// Copies all tables but the changes, which only what was derived from the original needs.
pub(super) fn copy(from: &ReadTransaction, to: &Database) -> Result<(), redb::Error> {
    copy_table(from, to, META)?;
    copy_table(from, to, COLLECTIONS)?;
    copy_table(from, to, STATES)?;
    copy_table(from, to, IDS)?;
    copy_table(from, to, RECORDS)?;
    copy_table(from, to, VECTORS)
}

fn copy_table<K: redb::Key + 'static, V: redb::Value + 'static>(
    from: &ReadTransaction,
    to: &Database,
    table: TableDefinition<'static, K, V>,
) -> Result<(), redb::Error> {
    let rows = from.open_table(table)?;
    let mut rows = rows.iter()?.peekable();
    loop {
        let transaction = to.begin_write()?;
        {
            let mut copied = transaction.open_table(table)?;
            for row in rows.by_ref().take(COPIED) {
                let (key, value) = row?;
                copied.insert(key.value(), value.value())?;
            }
        }
        transaction.commit()?;
        if rows.peek().is_none() {
            return Ok(());
        }
    }
}
