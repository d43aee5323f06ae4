//! The documents that are kept: which there are, their tags, and taking them out.

use serde_json::Value;

use super::index::{now, tidy};
use super::{ENTRIES, Rag, own_not};
use crate::service::Error;
use crate::store;
use crate::types::rag::Entry;
use crate::types::store::{Change, Filter, Record, Tags};

/// Documents that are listed at most.
const LISTED: usize = 100_000;

/// What a document is kept under.
pub(in crate::service) fn key(collection: &str, id: &str) -> String {
    format!("{collection}/{id}")
}

impl Rag {
    /// A document; `None`: there is none of that id.
    pub async fn entry(&self, collection: &str, id: &str) -> Result<Option<Entry>, Error> {
        self.points.record(&ENTRIES, key(collection, id)).await
    }

    /// The documents of a collection, the newest first.
    pub async fn entries(&self, collection: &str) -> Result<Vec<Entry>, Error> {
        let here = Filter::is("collection", collection);
        let mut entries: Vec<Entry> = self.points.records(&ENTRIES, Some(here), LISTED).await?;
        entries.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        Ok(entries)
    }

    /// The documents of this id, in whichever collections they are.
    pub async fn entries_named(&self, id: &str) -> Result<Vec<Entry>, Error> {
        self.points.records(&ENTRIES, Some(Filter::is("id", id)), LISTED).await
    }

    /// Writes what an entry says now, and to its passages what they repeat of it.
    pub(super) async fn describe(&self, entry: &mut Entry) -> Result<(), Error> {
        entry.updated = now();
        let passage = |mut record: Record| {
            record.tags.clone_from(&entry.tags);
            match entry.attributes.is_empty() {
                true => drop(record.payload.remove("attributes")),
                false => {
                    drop(record.payload.insert("attributes".to_owned(), entry.attributes.clone().into()))
                }
            }
            record
        };
        let there = self.passages(&entry.collection, &entry.id).await?;
        let records = there.into_values().map(passage).collect();
        let changes = vec![
            Change::Describe { collection: entry.collection.clone(), records },
            ENTRIES.put(&key(&entry.collection, &entry.id), entry),
        ];
        self.points.write(&ENTRIES, changes).await
    }

    /// Changes the tags and attributes of a document; what it is now. `None`: there is none of that id.
    pub async fn change(
        &self,
        collection: &str,
        id: &str,
        change: impl FnOnce(&mut Entry) + Send,
    ) -> Result<Option<Entry>, Error> {
        let _turn = self.turn(&key(collection, id)).await;
        let Some(mut entry) = self.entry(collection, id).await? else { return Ok(None) };
        change(&mut entry);
        tidy(&mut entry.tags);
        self.describe(&mut entry).await?;
        Ok(Some(entry))
    }

    /// Takes a document out; whether it was there.
    pub async fn remove(&self, collection: &str, id: &str) -> Result<bool, Error> {
        let collection = own_not(collection)?;
        let _turn = self.turn(&key(&collection, id)).await;
        if self.entry(&collection, id).await?.is_none() {
            return Ok(false);
        }
        let changes = vec![
            Change::RemoveWhere { collection: collection.clone(), filter: Filter::is("document", id) },
            ENTRIES.remove(vec![key(&collection, id)]),
        ];
        self.points.write(&ENTRIES, changes).await?;
        Ok(true)
    }

    /// Takes a collection out with all its documents; whether it was there.
    pub async fn remove_collection(&self, collection: &str) -> Result<bool, Error> {
        let collection = own_not(collection)?;
        let was = self.points.describe(collection.clone()).await?.is_some();
        let gone = ENTRIES.remove_where(Filter::is("collection", &collection));
        self.points.write(&ENTRIES, vec![gone]).await?;
        self.points
            .run(move |store| match store.drop_collection(&collection) {
                Ok(()) | Err(store::Error::NoCollection(_)) => Ok(()),
                Err(error) => Err(error),
            })
            .await?;
        Ok(was)
    }

    /// What a document says, passage by passage.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn texts(&self, collection: &str, id: &str) -> Result<Vec<String>, Error> {
        let mut passages: Vec<Record> = self.passages(collection, id).await?.into_values().collect();
        passages.sort_by_key(|record| record.payload.get("number").and_then(Value::as_u64));
        Ok(passages.into_iter().map(|record| record.text).collect())
    }

    /// All tags of a collection and how many documents have each.
    pub async fn tags(&self, collection: &str) -> Result<Tags, Error> {
        let mut tags = Tags::new();
        for tag in self.entries(collection).await?.into_iter().flat_map(|entry| entry.tags) {
            *tags.entry(tag).or_default() += 1;
        }
        Ok(tags)
    }
}
