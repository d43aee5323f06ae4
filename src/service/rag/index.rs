//! From a document to passages in the store.

use std::collections::{BTreeMap, HashMap};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::read::{PASSAGES, Read, hashed, left_out};
use super::shelf::key;
use super::{ENTRIES, Place, Rag, Ruler, size};
use crate::documents::Chunk;
use crate::service::{Context, Error};
use crate::types::embed;
use crate::types::rag::{Entry, Indexed, NewDocument, Outcome, PassageSize};
use crate::types::store::{Change, Filter, Point, Record};

/// Texts that are embedded in one request: the model is kept busy, and others have their turn.
const TOGETHER: usize = 64;
/// Hexadecimal digits of a hash in an id.
const DIGITS: usize = 24;
const NAME_BYTES: usize = 512;
const ID_BYTES: usize = 256;
const TAGS: usize = 64;
const TAG_BYTES: usize = 128;

impl Rag {
    /// Reads a document, embeds what is new of it and puts it into the store, all of it or nothing. `progress` is told
    /// how many of its passages are done, of how many.
    ///
    /// # Errors
    /// It cannot be read, asks for too much, or the collection is none for it.
    pub async fn index(
        &self,
        ctx: &Context,
        place: &Place,
        mut new: NewDocument,
        progress: &(dyn Fn(usize, usize) + Send + Sync),
    ) -> Result<Indexed, Error> {
        check(&mut new)?;
        let ruler = self.ruler(ctx, place).await?;
        let size = size(place.size, &ruler);
        let begun = Instant::now();
        let (content, sha256) = hashed(std::mem::take(&mut new.content)).await?;
        let found = self.known(&place.collection, &new, &sha256).await?;
        let id = match &found {
            Some(entry) => entry.id.clone(),
            None => new.id.clone().unwrap_or_else(|| fresh(&new.name, &sha256)),
        };
        let _turn = self.turn(&key(&place.collection, &id)).await;
        // Another may have put it while this one waited.
        let before = self.entry(&place.collection, &id).await?;
        let same = |entry: &&Entry| entry.sha256 == sha256 && entry.size == size;
        if let Some(entry) = before.as_ref().filter(same) {
            let entry = self.again(entry.clone(), &new).await?;
            let read_ms = millis(begun);
            return Ok(Indexed { entry, outcome: Outcome::Same, embedded: 0, read_ms, embed_ms: 0 });
        }
        let (name, mime) = (new.name.clone(), new.mime.clone());
        let whole = NewDocument { name, mime, content, ..NewDocument::default() };
        let read = self.read_and_cut(whole, size, &ruler).await?;
        if let Some(tagger) = place.tagger.clone() {
            let own = self.tags_of(ctx, tagger, &new.name, &read.document).await;
            new.tags.extend(own);
            tidy(&mut new.tags);
        }
        let written = Written { id, sha256, size, created: before.as_ref().map(|before| before.created) };
        let entry = entry(&place.collection, new, &read, written);
        let read_ms = millis(begun);
        let begun = Instant::now();
        // Only now: what cannot be read leaves no empty collection behind.
        self.make(place, &ruler).await?;
        let (changes, embedded) = self.changes(ctx, &entry, &ruler, read.chunks, progress).await?;
        let embed_ms = millis(begun);
        self.points.write(&ENTRIES, changes).await?;
        let outcome = if before.is_some() { Outcome::Changed } else { Outcome::New };
        Ok(Indexed { entry, outcome, embedded, read_ms, embed_ms })
    }

    /// The document that a new one takes the place of, or is.
    async fn known(&self, collection: &str, new: &NewDocument, sha256: &str) -> Result<Option<Entry>, Error> {
        if let Some(id) = &new.id {
            return self.entry(collection, id).await;
        }
        let here = Filter::is("collection", collection);
        let mut found = Vec::new();
        // A name first: what is under it changes, even to what another says.
        if !new.name.is_empty() {
            let named = Filter::All(vec![here.clone(), Filter::is("name", &new.name)]);
            found = self.points.records(&ENTRIES, Some(named), 1).await?;
        }
        if found.is_empty() {
            let alike = Filter::All(vec![here, Filter::is("sha256", sha256)]);
            found = self.points.records(&ENTRIES, Some(alike), 1).await?;
        }
        Ok(found.pop())
    }

    /// What is there already gets the tags and attributes that it is sent with this time.
    async fn again(&self, mut entry: Entry, new: &NewDocument) -> Result<Entry, Error> {
        let before = (entry.tags.clone(), entry.attributes.clone());
        entry.tags.extend(new.tags.iter().cloned());
        tidy(&mut entry.tags);
        entry.attributes.extend(new.attributes.clone());
        if before != (entry.tags.clone(), entry.attributes.clone()) {
            self.describe(&mut entry).await?;
        }
        Ok(entry)
    }

    /// The changes that bring a document's passages to what it is now, and how many of them had to be embedded.
    async fn changes(
        &self,
        ctx: &Context,
        entry: &Entry,
        ruler: &Ruler,
        chunks: Vec<Chunk>,
        progress: &(dyn Fn(usize, usize) + Send + Sync),
    ) -> Result<(Vec<Change>, usize), Error> {
        let collection = entry.collection.clone();
        let mut there = self.passages(&collection, &entry.id).await?;
        let (mut new, mut kept) = (Vec::new(), Vec::new());
        for record in records(entry, chunks) {
            match there.remove(&record.id) {
                Some(before) if before == record => {}
                Some(_) => kept.push(record),
                None => new.push(record),
            }
        }
        let total = entry.passages as usize;
        let (mut done, embedded) = (total.saturating_sub(new.len()), new.len());
        progress(done, total);
        let mut points = Vec::with_capacity(new.len());
        let mut new = new.into_iter().peekable();
        while new.peek().is_some() {
            let batch: Vec<Record> = new.by_ref().take(TOGETHER).collect();
            let inputs = batch.iter().map(|record| embed::Input::Text(to_embed(record, ruler))).collect();
            let request = embed::Request {
                prompt: embed::Prompt::Document,
                ..embed::Request::new(ruler.model.clone(), inputs)
            };
            let vectors = self.models.embed(ctx.clone(), request).await?.vectors;
            done += batch.len();
            progress(done, total);
            points.extend(
                batch.into_iter().zip(vectors).map(|(record, vector)| Point { record, vector: Some(vector) }),
            );
        }
        let gone = there.into_keys().collect();
        let changes = vec![
            Change::Remove { collection: collection.clone(), ids: gone },
            Change::Describe { collection: collection.clone(), records: kept },
            Change::Put { collection, points },
            ENTRIES.put(&key(&entry.collection, &entry.id), entry),
        ];
        Ok((changes, embedded))
    }

    /// The passages of a document as they are kept, by their ids.
    pub(super) async fn passages(
        &self,
        collection: &str,
        document: &str,
    ) -> Result<HashMap<String, Record>, Error> {
        let (collection, filter) = (collection.to_owned(), Filter::is("document", document));
        let (records, _) =
            self.points.run(move |store| store.list(&collection, Some(&filter), 0, PASSAGES)).await?;
        Ok(records.into_iter().map(|record| (record.id.clone(), record)).collect())
    }
}

/// What of a document is known before it is read.
struct Written {
    id: String,
    sha256: String,
    size: PassageSize,
    /// Of what was under its id; Unix seconds.
    created: Option<u64>,
}

/// What is kept of a document that was read.
fn entry(collection: &str, new: NewDocument, read: &Read, written: Written) -> Entry {
    let now = now();
    Entry {
        collection: collection.to_owned(),
        id: written.id,
        name: new.name,
        mime: read.document.kind.mime().to_owned(),
        bytes: read.bytes,
        chars: read.chars,
        passages: read.chunks.len() as u64,
        pages: read.document.pages.map(|pages| pages as u64),
        sha256: written.sha256,
        size: written.size,
        tags: new.tags,
        attributes: new.attributes,
        created: written.created.unwrap_or(now),
        updated: now,
        left_out: left_out(&read.document),
    }
}

/// The passages of a document as they are kept. Those that say the same are told apart by a number.
fn records(entry: &Entry, chunks: Vec<Chunk>) -> Vec<Record> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let record = |chunk: Chunk| {
        let mut hasher = Sha256::new();
        chunk.headings.iter().for_each(|heading| {
            hasher.update(heading.as_bytes());
            hasher.update([0]);
        });
        hasher.update(chunk.text.as_bytes());
        let hash = hex(&hasher.finalize());
        let count = seen.entry(hash.clone()).or_default();
        let id = match *count {
            0 => format!("{}#{hash}", entry.id),
            again => format!("{}#{hash}.{again}", entry.id),
        };
        *count += 1;
        let mut payload = Map::new();
        payload.insert("document".to_owned(), entry.id.as_str().into());
        payload.insert("name".to_owned(), entry.name.as_str().into());
        payload.insert("number".to_owned(), chunk.number.into());
        if let Some(page) = chunk.page {
            payload.insert("page".to_owned(), page.into());
        }
        if !chunk.headings.is_empty() {
            payload.insert("headings".to_owned(), chunk.headings.into());
        }
        if !entry.attributes.is_empty() {
            payload.insert("attributes".to_owned(), Value::Object(entry.attributes.clone()));
        }
        Record { id, tags: entry.tags.clone(), text: chunk.text, payload }
    };
    chunks.into_iter().map(record).collect()
}

/// What the vector of a passage is made of: the headings above it tell what it is about. Where the model would not read
/// to the end then, the passage alone.
fn to_embed(record: &Record, ruler: &Ruler) -> String {
    let headings: Vec<&str> = record
        .payload
        .get("headings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if headings.is_empty() {
        return record.text.clone();
    }
    let whole = format!("{}\n\n{}", headings.join(" > "), record.text);
    if (ruler.measure)(&whole) <= ruler.max_tokens { whole } else { record.text.clone() }
}

/// Checks and tidies what a caller sent.
fn check(new: &mut NewDocument) -> Result<(), Error> {
    let wrong = |param, message: String| Err(Error::Invalid { param, message });
    if new.name.len() > NAME_BYTES {
        return wrong("name", format!("the name of a document has at most {NAME_BYTES} bytes"));
    }
    if let Some(id) = &new.id
        && (!(1..=ID_BYTES).contains(&id.len()) || id.contains('#') || id.chars().any(char::is_control))
    {
        return wrong("id", format!("a document's id has 1 to {ID_BYTES} bytes, and no `#` among them"));
    }
    tidy(&mut new.tags);
    if new.tags.len() > TAGS || new.tags.iter().any(|tag| tag.len() > TAG_BYTES) {
        return wrong(
            "tags",
            format!("a document has at most {TAGS} tags, of at most {TAG_BYTES} bytes each"),
        );
    }
    Ok(())
}

/// Tags without blanks around them, each once, in the order in which they came.
pub(super) fn tidy(tags: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    let tidied = tags.iter().map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty());
    *tags = tidied.filter(|tag| seen.insert(tag.clone())).collect();
}

/// The id of a document that has none yet: of its name, so that it stays when the document changes, else of what it says.
fn fresh(name: &str, sha256: &str) -> String {
    let digits = if name.is_empty() { sha256.to_owned() } else { hex(&Sha256::digest(name.as_bytes())) };
    format!("doc-{}", digits.get(..DIGITS).unwrap_or(&digits))
}

/// As many digits of a hash as ids have.
fn hex(hash: &[u8]) -> String {
    hash.iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// Unix seconds.
pub(in crate::service) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
