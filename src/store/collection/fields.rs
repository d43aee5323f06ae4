//! What points are filtered by: for each field that was ever asked for, which points have which value.
//!
//! A field's index is made from the records when the first filter asks for it, and kept up to date from then on. So a
//! collection that nobody filters costs nothing, and no field must be declared.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock};

use roaring::RoaringBitmap;
use serde_json::Value;

use crate::store::error::Error;
use crate::store::truth::View;
use crate::types::store::{Field, Range, Record, Scalar, Tags};

/// Fields whose index is kept; the one that was made first gives way.
const KEPT: usize = 64;
/// Members of a list that count.
const MEMBERS: usize = 4096;

/// A value as values are ordered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Bool(bool),
    /// The bits of a number such that their order is its order.
    Number(u64),
    Text(Box<str>),
}

impl Key {
    fn number(number: f64) -> Key {
        // Zero has one form, and so has what is no number.
        let bits = (number + 0.0).to_bits();
        Key::Number(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
    }
}

impl From<&Scalar> for Key {
    fn from(scalar: &Scalar) -> Key {
        match scalar {
            Scalar::Bool(value) => Key::Bool(*value),
            Scalar::Number(value) => Key::number(*value),
            Scalar::Text(value) => Key::Text(value.as_str().into()),
        }
    }
}

/// Calls `each` with the values of a field of a record.
fn values(field: &Field, record: &Record, mut each: impl FnMut(Key)) {
    match field {
        Field::Tags => record.tags.iter().for_each(|tag| each(Key::Text(tag.as_str().into()))),
        Field::Payload(path) => {
            let mut names = path.split('.');
            let first = names.next().and_then(|name| record.payload.get(name));
            // A name may have dots itself.
            let whole = record.payload.get(path);
            let found = whole.or_else(|| names.try_fold(first?, |value, name| value.get(name)));
            match found {
                Some(Value::Array(members)) => members.iter().take(MEMBERS).filter_map(key).for_each(each),
                Some(value) => key(value).into_iter().for_each(each),
                None => {}
            }
        }
    }
}

fn key(value: &Value) -> Option<Key> {
    match value {
        Value::Bool(value) => Some(Key::Bool(*value)),
        Value::Number(value) => value.as_f64().map(Key::number),
        Value::String(value) => Some(Key::Text(value.as_str().into())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[derive(Debug, Default)]
struct Index {
    values: BTreeMap<Key, RoaringBitmap>,
    /// In which order the fields were made.
    made: u64,
}

impl Index {
    fn add(&mut self, field: &Field, number: u32, record: &Record) {
        values(field, record, |key| {
            self.values.entry(key).or_default().insert(number);
        });
    }

    fn remove(&mut self, field: &Field, number: u32, record: &Record) {
        values(field, record, |key| {
            if let Some(points) = self.values.get_mut(&key) {
                points.remove(number);
                if points.is_empty() {
                    self.values.remove(&key);
                }
            }
        });
    }
}

/// The indexes of a collection's fields.
#[derive(Debug, Default)]
pub struct Fields {
    indexes: RwLock<HashMap<Field, Index>>,
}

impl Fields {
    /// Replaces what a point was by what it is.
    pub fn change(&mut self, number: u32, was: Option<&Record>, is: Option<&Record>) {
        let indexes = self.indexes.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (field, index) in indexes {
            was.iter().for_each(|record| index.remove(field, number, record));
            is.iter().for_each(|record| index.add(field, number, record));
        }
    }

    /// Asks a field's index, which is made first where it is not there. The caller sees to it that no change is counted
    /// meanwhile: one that `view` has already may be counted after.
    fn ask<T>(
        &self,
        field: &Field,
        view: &View,
        collection: u32,
        ask: impl FnOnce(&BTreeMap<Key, RoaringBitmap>) -> T,
    ) -> Result<T, Error> {
        if let Some(index) = self.indexes.read().unwrap_or_else(PoisonError::into_inner).get(field) {
            return Ok(ask(&index.values));
        }
        let mut indexes = self.indexes.write().unwrap_or_else(PoisonError::into_inner);
        if !indexes.contains_key(field) {
            let made = indexes.values().map(|index| index.made + 1).max().unwrap_or(0);
            let mut index = Index { made, ..Index::default() };
            view.records(collection, 0, |number, record| {
                record.iter().for_each(|record| index.add(field, number, record));
                Ok(true)
            })?;
            if indexes.len() >= KEPT
                && let Some(first) = indexes.iter().min_by_key(|(_, index)| index.made)
            {
                let first = first.0.clone();
                indexes.remove(&first);
            }
            indexes.insert(field.clone(), index);
        }
        let none = BTreeMap::new();
        Ok(ask(indexes.get(field).map_or(&none, |index| &index.values)))
    }

    /// Points of which the field has one of these values.
    pub fn having(
        &self,
        field: &Field,
        scalars: &[Scalar],
        view: &View,
        collection: u32,
    ) -> Result<RoaringBitmap, Error> {
        self.ask(field, view, collection, |values| {
            let found = scalars.iter().filter_map(|scalar| values.get(&Key::from(scalar)));
            found.fold(RoaringBitmap::new(), |all, points| all | points)
        })
    }

    /// Points of which the field has a number within a range.
    pub fn within(
        &self,
        field: &Field,
        range: Range,
        view: &View,
        collection: u32,
    ) -> Result<RoaringBitmap, Error> {
        let least = [range.gte, range.gt].into_iter().flatten().map(Key::number).max();
        let least = least.unwrap_or(Key::Number(0));
        let above = |key: &Key| range.gt.is_none_or(|gt| *key > Key::number(gt));
        let below = |key: &Key| {
            range.lt.is_none_or(|lt| *key < Key::number(lt))
                && range.lte.is_none_or(|lte| *key <= Key::number(lte))
        };
        self.ask(field, view, collection, |values| {
            let numbers = values.range(least..=Key::Number(u64::MAX)).filter(|(key, _)| above(key));
            let within = numbers.take_while(|(key, _)| below(key));
            within.fold(RoaringBitmap::new(), |all, (_, points)| all | points)
        })
    }

    /// Points of which the field has a value.
    pub fn existing(&self, field: &Field, view: &View, collection: u32) -> Result<RoaringBitmap, Error> {
        self.ask(field, view, collection, |values| {
            values.values().fold(RoaringBitmap::new(), |all, points| all | points)
        })
    }

    /// All tags.
    pub fn tags(&self, view: &View, collection: u32) -> Result<Tags, Error> {
        self.ask(&Field::Tags, view, collection, |values| {
            let tag = |(key, points): (&Key, &RoaringBitmap)| match key {
                Key::Text(tag) => Some((tag.to_string(), points.len())),
                Key::Bool(_) | Key::Number(_) => None,
            };
            values.iter().filter_map(tag).collect()
        })
    }
}
