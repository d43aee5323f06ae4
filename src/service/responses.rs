//! Answers that are kept, so that a later request can go on from them: a folder with one JSON file a response.
//!
//! The file `ID.json`, which only the server's user may read:
//!
//! | field | value |
//! |---|---|
//! | `version` | 1 |
//! | `id` | `resp_` and 32 hexadecimal digits in lower case, as in the file's name |
//! | `owner` | public id of the API key that asked; null where the server asked for none |
//! | `created` | Unix seconds |
//! | `previous` | id of the response that this one goes on from; null where a conversation begins |
//! | `input` | the request's items, as `GET /v1/responses/ID/input_items` gives them |
//! | `response` | the response, as it was answered |
//!
//! `input` and `response` are the dialect's business and not looked into here. A file is written under another name,
//! flushed to the disk and renamed, so it is whole or not there. Its time of change is when it was last used, which is
//! when it was written or a conversation went on from it; what was not used for longest goes first.

mod index;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Error;
use super::resolve::joined;
use index::Index;

/// The version written.
const VERSION: u64 = 1;
const PREFIX: &str = "resp_";
const DIGITS: usize = 32;
/// Begins the names of files that are not whole yet.
const UNFINISHED: &str = ".unfinished-";
/// Larger ones are not kept.
const MAX_FILE: u64 = 64 << 20;
/// The longest conversation that is restored: responses, and bytes of their files. It is in memory as a whole, and
/// more text than any model's context.
const MAX_CHAIN: usize = 1024;
const MAX_CHAIN_BYTES: u64 = 8 << 20;

/// The name of a response. Only what has this form ever becomes part of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ResponseId(String);

impl ResponseId {
    /// One that no other response has.
    pub fn random() -> ResponseId {
        ResponseId(format!("{PREFIX}{}", uuid::Uuid::new_v4().simple()))
    }

    /// `None` unless it is `resp_` and 32 hexadecimal digits in lower case.
    pub fn parse(text: &str) -> Option<ResponseId> {
        let digits = text.strip_prefix(PREFIX)?;
        let hexadecimal = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
        (digits.len() == DIGITS && digits.bytes().all(hexadecimal)).then(|| ResponseId(text.to_owned()))
    }

    /// Fit for a path and for a log line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ResponseId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<ResponseId, &'static str> {
        ResponseId::parse(&text).ok_or("not the id of a response")
    }
}

/// One response as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    version: u64,
    pub id: ResponseId,
    /// Whose it is: nobody else is told that it is there.
    pub owner: Option<String>,
    pub created: u64,
    pub previous: Option<ResponseId>,
    pub input: Box<RawValue>,
    pub response: Box<RawValue>,
}

impl Kept {
    /// A response to keep; `created` is in Unix seconds.
    pub fn new(
        id: ResponseId,
        owner: Option<String>,
        created: u64,
        previous: Option<ResponseId>,
        input: Box<RawValue>,
        response: Box<RawValue>,
    ) -> Kept {
        Kept { version: VERSION, id, owner, created, previous, input, response }
    }

    fn parse(text: &[u8]) -> Result<Kept, String> {
        #[derive(Deserialize)]
        struct Head {
            version: u64,
        }
        match serde_json::from_slice(text) {
            Ok(Head { version: VERSION }) => serde_json::from_slice(text).map_err(|e| e.to_string()),
            Ok(Head { version }) => Err(format!("it is of version {version}, and {VERSION} is known here")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// How much is kept, of all owners together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Responses; 0 keeps none.
    pub count: usize,
    /// Bytes of their files.
    pub bytes: u64,
}

/// The responses that are kept. Cheap to clone. Its work is done on threads that may wait for the disk.
#[derive(Debug, Clone)]
pub struct Responses(Option<Arc<Store>>);

#[derive(Debug)]
struct Store {
    folder: PathBuf,
    limits: Limits,
    index: Mutex<Index>,
}

impl Responses {
    /// Keeps nothing.
    pub fn none() -> Responses {
        Responses(None)
    }

    /// Opens the folder, makes it where it is not there, and removes what is over the limits or was never finished.
    /// Waits for the disk.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(folder: &Path, limits: Limits) -> io::Result<Responses> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (name, about) = (entry.file_name(), entry.metadata()?);
            let Some(name) = name.to_str().filter(|_| about.is_file()) else { continue };
            if name.starts_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            } else if let Some(id) = name.strip_suffix(".json").and_then(ResponseId::parse) {
                found.push((about.modified()?, id, about.len()));
            }
        }
        found.sort();
        let mut index = Index::default();
        found.into_iter().for_each(|(_, id, bytes)| index.insert(id, bytes));
        let store = Store { folder: folder.to_owned(), limits, index: Mutex::new(index) };
        store.make_room();
        Ok(Responses(Some(Arc::new(store))))
    }

    /// Keeps a response; false where it is not, since none are or it is too large.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn keep(&self, kept: Kept) -> Result<bool, Error> {
        match &self.0 {
            None => Ok(false),
            Some(store) => blocking(store, move |store| store.keep(&kept).map_err(disk)).await,
        }
    }

    /// The response of this name, if it is `owner`'s.
    ///
    /// # Errors
    /// [`Error::UnknownResponse`]; or its file cannot be read.
    pub async fn find(&self, owner: Option<&str>, id: &ResponseId) -> Result<Kept, Error> {
        let (store, owner, id) = (self.store(id)?, owner.map(str::to_owned), id.clone());
        blocking(store, move |store| store.find(owner.as_deref(), &id).map(|(kept, _)| kept)).await
    }

    /// The responses of a conversation up to this one, the oldest first. They count as used.
    ///
    /// # Errors
    /// [`Error::UnknownResponse`] names the one that is not there; the conversation is too long to restore; a file
    /// cannot be read.
    pub async fn conversation(&self, owner: Option<&str>, last: &ResponseId) -> Result<Vec<Kept>, Error> {
        let (store, owner, last) = (self.store(last)?, owner.map(str::to_owned), last.clone());
        blocking(store, move |store| store.conversation(owner.as_deref(), last)).await
    }

    /// Removes the response of this name, if it is `owner`'s.
    ///
    /// # Errors
    /// [`Error::UnknownResponse`]; or its file cannot be removed.
    pub async fn remove(&self, owner: Option<&str>, id: &ResponseId) -> Result<(), Error> {
        let (store, owner, id) = (self.store(id)?, owner.map(str::to_owned), id.clone());
        blocking(store, move |store| store.remove(owner.as_deref(), &id)).await
    }

    fn store(&self, id: &ResponseId) -> Result<&Arc<Store>, Error> {
        self.0.as_ref().ok_or_else(|| unknown(id))
    }
}

async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let store = store.clone();
    joined(tokio::task::spawn_blocking(move || work(&store)).await)?
}

fn unknown(id: &ResponseId) -> Error {
    Error::UnknownResponse { id: id.as_str().to_owned() }
}

fn disk(error: io::Error) -> Error {
    Error::Internal { detail: format!("the folder of responses: {error}") }
}

impl Store {
    fn path(&self, id: &ResponseId) -> PathBuf {
        self.folder.join(format!("{}.json", id.as_str()))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, kept: &Kept) -> io::Result<bool> {
        let text = serde_json::to_vec(kept)?;
        let bytes = text.len() as u64;
        if self.limits.count == 0 || bytes > self.limits.bytes.min(MAX_FILE) {
            return Ok(false);
        }
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(self.path(&kept.id)).map_err(|e| e.error)?;
        self.index().insert(kept.id.clone(), bytes);
        self.make_room();
        Ok(true)
    }

    /// Removes what was not used for longest until the rest is within the limits.
    fn make_room(&self) {
        let over = self.index().take_over(self.limits);
        for id in over {
            let path = self.path(&id);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a response that is over the limit stays");
                }
                _ => {}
            }
        }
    }

    /// With the bytes of its file. A file that is none of ours is logged and not found.
    fn find(&self, owner: Option<&str>, id: &ResponseId) -> Result<(Kept, u64), Error> {
        let path = self.path(id);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(unknown(id)),
            opened => opened.map_err(disk)?,
        };
        let mut text = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(disk)?;
        let kept = Kept::parse(&text).inspect_err(|what| {
            tracing::warn!(path = %path.display(), what, "this file is no response");
        });
        match kept {
            Ok(kept) if kept.id == *id && kept.owner.as_deref() == owner => Ok((kept, text.len() as u64)),
            _ => Err(unknown(id)),
        }
    }

    fn conversation(&self, owner: Option<&str>, last: ResponseId) -> Result<Vec<Kept>, Error> {
        let (mut turns, mut size, mut next) = (Vec::new(), 0u64, Some(last));
        while let Some(id) = next {
            let (kept, bytes) = self.find(owner, &id)?;
            size = size.saturating_add(bytes);
            if turns.len() == MAX_CHAIN || size > MAX_CHAIN_BYTES {
                let message = format!(
                    "the conversation has more than {MAX_CHAIN} turns or {MAX_CHAIN_BYTES} bytes; \
                     send what is still needed of it as `input`"
                );
                return Err(Error::Invalid { param: "previous_response_id", message });
            }
            next = kept.previous.clone();
            turns.push(kept);
        }
        turns.reverse();
        turns.iter().for_each(|kept| self.used(&kept.id));
        Ok(turns)
    }

    fn used(&self, id: &ResponseId) {
        self.index().used(id);
        // For the next start alone; without it, the order is that of writing.
        let marked = File::open(self.path(id)).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = marked {
            tracing::debug!(id = id.as_str(), %error, "a response cannot be marked as used");
        }
    }

    fn remove(&self, owner: Option<&str>, id: &ResponseId) -> Result<(), Error> {
        self.find(owner, id)?;
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(unknown(id)),
            removed => removed.map_err(disk)?,
        }
        self.index().remove(id);
        Ok(())
    }
}
