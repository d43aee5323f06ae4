//! The book of speakers: who is known by voice. It outlives the process, and who is taken out of it is not found again.
//!
//! A speaker is a record of the store's collection `stentor:speakers`:
//!
//! | field | what |
//! |---|---|
//! | `id`, `name`, `tags`, `created_at`, `updated_at` | the speaker; Unix seconds |
//! | `model`, `version`, `dim` | what embedded the samples; vectors of two models cannot be compared |
//! | `samples` | a recording each: `id`, `source`, `seconds`, `speech`, `snr_db`, `audio` (id of the kept file), `embedding` |
//! | `centroid` | the direction of the samples' mean, each as heavy as its speech |
//!
//! Vectors are of length 1, and written as the base64 of little-endian f32. The centroids, and what is told of a
//! speaker, are in memory, too. Changes go one after the other: what is changed is on the disk first, then in memory,
//! then answered; whoever looks sees all of a change or nothing of it.

mod change;
mod enrol;
mod identify;
mod renew;
mod score;
mod shelf;
mod vector;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use self::shelf::Shelf;
use self::vector::{Vector, centroid};
use super::Error;
use super::files::Files;
use super::points::Points;
use super::records::Records;
use crate::store;
use crate::types::speaker::Embedder;
use crate::types::store::Change;

pub use self::change::Changed;
pub use self::enrol::{Enrolment, NewSample};
pub use self::identify::{Asked, Found, Identified, Recognised, Verified};
pub use self::shelf::Match;

static ENTRIES: Records<Entry<Noted>> = Records::new("stentor:speakers");
/// The same without the samples' vectors, which need not be in memory.
static SPEAKERS: Records<Entry<Sample>> = Records::new("stentor:speakers");

/// Speakers at most, samples of all of them, and of one.
const SPEAKERS_MOST: usize = 100_000;
const SAMPLES_MOST: usize = 500_000;
pub const SAMPLES: usize = 32;
/// Bytes of a name, tags of a speaker, bytes of one, bytes of an id.
pub const NAME_BYTES: usize = 256;
const TAGS: usize = 32;
const TAG_BYTES: usize = 64;
pub const ID_BYTES: usize = 64;
/// What clients read where nobody is recognised.
pub const UNKNOWN: &str = "unknown";
/// Words that stand in the place of an id in paths.
const RESERVED: &[&str] = &["async", "enroll", "identify", "jobs", "list", "verify", UNKNOWN];

/// A speaker, with samples of the form `S`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card<S> {
    /// `spk_` and 32 hexadecimal digits, or what its client chose.
    pub id: String,
    pub name: String,
    pub tags: Vec<String>,
    /// Unix seconds.
    pub created_at: u64,
    pub updated_at: u64,
    /// Id of the model that embedded the samples.
    pub model: String,
    /// Of its weights.
    pub version: String,
    /// Of its vectors.
    pub dim: usize,
    pub samples: Vec<S>,
}

/// A speaker as it is told of.
pub type Speaker = Card<Sample>;

/// A recording that a speaker is known by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// 32 hexadecimal digits.
    pub id: String,
    pub source: Source,
    /// Of the recording.
    pub seconds: f64,
    /// Seconds of speech in it.
    pub speech: f64,
    pub snr_db: Option<f32>,
    /// Id of the kept file, where recordings are kept.
    #[serde(default)]
    pub audio: Option<String>,
}

/// Where a recording came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "lowercase")]
pub enum Source {
    /// A file of this name.
    Upload(String),
    Url(String),
}

impl Source {
    /// What is called.
    pub fn name(&self) -> &str {
        match self {
            Source::Upload(name) | Source::Url(name) => name,
        }
    }
}

impl<S> Card<S> {
    /// Whether this model embedded the samples.
    pub fn is_of(&self, embedder: &Embedder) -> bool {
        self.model == embedder.model && self.version == embedder.version
    }

    fn with<T>(self, to: impl FnMut(S) -> T) -> Card<T> {
        let Card { id, name, tags, created_at, updated_at, model, version, dim, samples } = self;
        let samples = samples.into_iter().map(to).collect();
        Card { id, name, tags, created_at, updated_at, model, version, dim, samples }
    }
}

/// A speaker as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry<S> {
    #[serde(flatten)]
    speaker: Card<S>,
    centroid: Vector,
}

/// A sample as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Noted {
    #[serde(flatten)]
    sample: Sample,
    embedding: Vector,
}

impl Entry<Noted> {
    /// With the centroid of its samples.
    fn of(speaker: Card<Noted>) -> Entry<Noted> {
        let weighed = speaker.samples.iter();
        let centroid = centroid(weighed.map(|noted| (noted.embedding.0.as_slice(), noted.sample.speech)));
        Entry { speaker: Card { dim: centroid.len(), ..speaker }, centroid: Vector(centroid) }
    }

    /// The kept files of its samples.
    fn audio(&self) -> impl Iterator<Item = &String> {
        self.speaker.samples.iter().filter_map(|noted| noted.sample.audio.as_ref())
    }
}

/// How the book is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether recordings are kept, so that they can be embedded anew by another model.
    pub keep_audio: bool,
}

/// The book. Cheap to clone.
#[derive(Clone)]
pub struct Book(Arc<Inner>);

struct Inner {
    points: Points,
    files: Files,
    options: Options,
    shelf: RwLock<Shelf>,
    /// One change at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// One speaker is embedded anew at a time.
    renewing: tokio::sync::Mutex<()>,
    /// Ids of those whose kept audio the model of this process cannot embed.
    failed: Mutex<HashSet<String>>,
}

/// Whoever has it changes the book.
type Turn = OwnedMutexGuard<()>;

impl Book {
    /// The book in this store, whose recordings are among these files. It reads all of it, and blocks.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn open(points: Points, files: Files, options: Options) -> Result<Book, store::Error> {
        let mut shelf = Shelf::default();
        for entry in points.read(|store| SPEAKERS.list(store, None, SPEAKERS_MOST))? {
            shelf.put(entry.speaker, &entry.centroid.0);
        }
        Ok(Book(Arc::new(Inner {
            points,
            files,
            options,
            shelf: RwLock::new(shelf),
            turn: Arc::default(),
            renewing: tokio::sync::Mutex::default(),
            failed: Mutex::default(),
        })))
    }

    fn shelf(&self) -> RwLockReadGuard<'_, Shelf> {
        self.0.shelf.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// All speakers that have this tag, or all; the newest first.
    pub fn list(&self, tag: Option<&str>) -> Vec<Arc<Speaker>> {
        let mut all = self.shelf().list(tag);
        all.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        all
    }

    /// How many speakers there are.
    pub fn len(&self) -> usize {
        self.shelf().size().0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A speaker.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn get(&self, id: &str) -> Result<Arc<Speaker>, Error> {
        self.shelf().get(id).ok_or_else(|| missing(id))
    }

    async fn turn(&self) -> Turn {
        self.0.turn.clone().lock_owned().await
    }

    /// What is written of a speaker.
    async fn entry(&self, id: &str) -> Result<Option<Entry<Noted>>, Error> {
        self.0.points.record(&ENTRIES, id.to_owned()).await
    }

    /// Makes changes durable, then shows them. What was begun is ended though its caller goes away, so that memory is
    /// never behind the disk.
    async fn commit(
        &self,
        turn: Turn,
        changes: Vec<Change>,
        show: impl FnOnce(&mut Shelf) + Send + 'static,
    ) -> Result<(), Error> {
        let book = self.clone();
        let work = move |store: &store::Store| {
            let _turn = turn;
            ENTRIES.write(store, changes)?;
            show(&mut book.0.shelf.write().unwrap_or_else(std::sync::PoisonError::into_inner));
            Ok(())
        };
        self.0.points.run(work).await
    }

    /// Writes what a speaker is now.
    async fn put(&self, turn: Turn, entry: Entry<Noted>) -> Result<Arc<Speaker>, Error> {
        let put = ENTRIES.put(&entry.speaker.id, &entry);
        let (centroid, speaker) = (entry.centroid.0, entry.speaker.with(|noted| noted.sample));
        let answer = Arc::new(speaker.clone());
        // Other recordings may be better ones.
        self.failed().remove(&speaker.id);
        self.commit(turn, vec![put], move |shelf| shelf.put(speaker, &centroid)).await?;
        Ok(answer)
    }

    /// Deletes kept recordings.
    async fn forget(&self, audio: impl IntoIterator<Item = String>) -> Result<(), Error> {
        for file in audio {
            self.0.files.remove(&file).await?;
        }
        Ok(())
    }
}

fn missing(id: &str) -> Error {
    Error::Missing { what: "speaker", id: id.chars().take(ID_BYTES).collect() }
}

fn wrong(param: &'static str, message: String) -> Error {
    Error::Invalid { param, message }
}

/// A name as it is kept.
fn name(name: &str) -> Result<String, Error> {
    let name = name.trim();
    if name.is_empty() || name.len() > NAME_BYTES || name.chars().any(char::is_control) {
        let message = format!("`name` must have 1 to {NAME_BYTES} bytes, and no control characters");
        return Err(wrong("name", message));
    }
    if name.eq_ignore_ascii_case(UNKNOWN) {
        return Err(wrong("name", format!("`name`: `{UNKNOWN}` is what is said of those whom nobody knows")));
    }
    Ok(name.to_owned())
}

/// Tags as they are kept: each once.
fn tags(tags: Vec<String>) -> Result<Vec<String>, Error> {
    let mut kept: Vec<String> = Vec::new();
    for tag in tags {
        let tag = tag.trim();
        if tag.is_empty() || tag.len() > TAG_BYTES || tag.chars().any(char::is_control) {
            let message = format!("`tags`: each must have 1 to {TAG_BYTES} bytes, and no control characters");
            return Err(wrong("tags", message));
        }
        if kept.iter().any(|known| known == tag) {
            continue;
        }
        if kept.len() == TAGS {
            return Err(wrong("tags", format!("`tags` has more than {TAGS} entries")));
        }
        kept.push(tag.to_owned());
    }
    Ok(kept)
}

/// An id that a client chose.
fn id(id: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = (1..=ID_BYTES).contains(&id.len()) && id.chars().all(plain) && !id.starts_with('.');
    if good && !RESERVED.contains(&id) {
        return Ok(());
    }
    let message = format!(
        "`id` must have 1 to {ID_BYTES} letters, digits and any of `._-`, not begin with `.`, and be none of {}",
        RESERVED.join(", ")
    );
    Err(wrong("id", message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_read_as_it_is_written() {
        let written = json!({
            "id": "spk_1", "name": "Anna", "tags": ["a"], "created_at": 1, "updated_at": 2,
            "model": "m", "version": "v", "dim": 1,
            "samples": [
                {"id": "1", "source": {"kind": "upload", "name": "a.wav"}, "seconds": 3.5, "speech": 2.0,
                    "snr_db": 20.0, "audio": "file-1", "embedding": "AACAPw=="},
                {"id": "2", "source": {"kind": "url", "name": "http://x/a"}, "seconds": 3.0, "speech": 2.5,
                    "snr_db": null, "audio": null, "embedding": "AACAPw=="},
            ],
            "centroid": "AACAPw==",
        });
        let whole: Entry<Noted> = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&whole).unwrap(), written);
        assert_eq!(whole, Entry::of(whole.speaker.clone()));
        let brief: Entry<Sample> = serde_json::from_value(written).unwrap();
        assert_eq!(brief.speaker, whole.speaker.with(|noted| noted.sample));
    }

    #[test]
    fn names_tags_and_ids_are_bounded() {
        assert_eq!(name("  Anna K. ").unwrap(), "Anna K.");
        assert_eq!(tags(vec![" a".into(), "a".into(), "b".into()]).unwrap(), ["a", "b"]);
        let many = |count: usize| (0..count).map(|tag| tag.to_string()).collect::<Vec<_>>();
        assert!(tags(many(TAGS)).is_ok() && tags(many(TAGS + 1)).is_err() && tags(vec![" ".into()]).is_err());
        for good in ["spk_1", "a", "A-b.c", &"x".repeat(ID_BYTES)] {
            assert!(id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "list", "async", "a b", "ä", "a/b", &"x".repeat(ID_BYTES + 1)] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
