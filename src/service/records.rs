//! What the server notes for itself, in collections of the store that are its own: a type a collection, a record a point.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Error;
use super::points::{OWN, Points, make};
use crate::store::{self, Store};
use crate::types::store::{Change, Filter, Point, Record, Spec};

/// Records that are read at a time.
const READ: usize = 4096;

/// A collection of records of one type, which is written as a JSON object.
pub struct Records<T> {
    /// Begins with [`OWN`].
    name: &'static str,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Records<T> {
    /// Those of the collection `name`.
    pub const fn new(name: &'static str) -> Records<T> {
        Records { name, of: PhantomData }
    }

    /// The change that puts a record in the place of the one that has its id.
    pub fn put(&self, id: &str, value: &T) -> Change {
        let payload = match serde_json::to_value(value) {
            Ok(Value::Object(payload)) => payload,
            // The types that are kept have names for their fields and texts for their keys.
            _ => serde_json::Map::new(),
        };
        let record = Record { id: id.to_owned(), payload, ..Record::default() };
        Change::Put { collection: self.name.to_owned(), points: vec![Point { record, vector: None }] }
    }

    /// The change that takes records out.
    pub fn remove(&self, ids: Vec<String>) -> Change {
        Change::Remove { collection: self.name.to_owned(), ids }
    }

    /// The change that takes out all records that match.
    pub fn remove_where(&self, filter: Filter) -> Change {
        Change::RemoveWhere { collection: self.name.to_owned(), filter }
    }

    /// Makes the collection where it is not there.
    pub fn ensure(&self, store: &Store) -> Result<(), store::Error> {
        debug_assert!(self.name.starts_with(OWN));
        make(store, self.name, Spec::default)
    }

    /// Does changes, some of them of this collection.
    pub fn write(&self, store: &Store, changes: Vec<Change>) -> Result<(), store::Error> {
        self.ensure(store)?;
        store.write(changes).map(drop)
    }

    /// The record of this id. One that cannot be read is none.
    pub fn get(&self, store: &Store, id: &str) -> Result<Option<T>, store::Error> {
        match store.get(self.name, &[id.to_owned()]) {
            Ok(found) => Ok(found.into_iter().flatten().next().and_then(|point| self.read(point.record))),
            Err(store::Error::NoCollection(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that match, at most `most`, in no particular order.
    pub fn list(&self, store: &Store, filter: Option<&Filter>, most: usize) -> Result<Vec<T>, store::Error> {
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from.filter(|_| all.len() < most) {
            match store.list(self.name, filter, at, READ.min(most - all.len())) {
                Ok((records, next)) => {
                    all.extend(records.into_iter().filter_map(|record| self.read(record)));
                    from = next;
                }
                Err(store::Error::NoCollection(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn read(&self, record: Record) -> Option<T> {
        let read = serde_json::from_value(Value::Object(record.payload));
        read.inspect_err(|error| tracing::warn!(self.name, record.id, %error, "a record cannot be read")).ok()
    }
}

impl Points {
    /// Does changes, some of them of these records.
    pub(super) async fn write<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        records: &'static Records<T>,
        changes: Vec<Change>,
    ) -> Result<(), Error> {
        self.run(move |store| records.write(store, changes)).await
    }

    /// The record of this id.
    pub(super) async fn record<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        records: &'static Records<T>,
        id: String,
    ) -> Result<Option<T>, Error> {
        self.run(move |store| records.get(store, &id)).await
    }

    /// All records that match, at most `most`.
    pub(super) async fn records<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        records: &'static Records<T>,
        filter: Option<Filter>,
        most: usize,
    ) -> Result<Vec<T>, Error> {
        self.run(move |store| records.list(store, filter.as_ref(), most)).await
    }
}
