//! What can go wrong in the store.

use std::io;
use std::path::PathBuf;

use super::hnsw;

/// Why the store cannot do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no collection `{0}`")]
    NoCollection(String),
    #[error("there is a collection `{0}` already")]
    Exists(String),
    #[error(
        "`{0}` is no name for a collection: 1 to 128 letters, digits and any of `._-:`, not beginning with `.`"
    )]
    Name(String),
    #[error("point `{id}`: {source}")]
    Vector { id: String, source: hnsw::Error },
    #[error("the vectors of a collection: {0}")]
    Spec(#[source] hnsw::Error),
    #[error("the vector that is searched for: {0}")]
    Query(#[source] hnsw::Error),
    #[error("point `{id}` has no vector, which collection `{collection}` needs")]
    NoVector { id: String, collection: String },
    #[error("point `{id}` has a vector, and collection `{collection}` takes none")]
    StrayVector { id: String, collection: String },
    #[error("an id has {0} bytes: there are 1 to {MOST}", MOST = super::ID_BYTES)]
    Id(usize),
    #[error("point `{id}` takes {bytes} bytes: {MOST} are the most", MOST = super::RECORD_BYTES)]
    Large { id: String, bytes: usize },
    #[error("points of `{0}` are put before others are removed by a filter: remove first")]
    Order(String),
    #[error("the text of collection `{0}` is not searched: it was made without")]
    NoText(String),
    #[error("collection `{0}` has no vectors to search for")]
    NoVectors(String),
    #[error("the store has as many collections as it takes")]
    Full,
    #[error("the store is busy: too many writes wait")]
    Busy,
    #[error("the store is being closed")]
    Closed,
    #[error("{0}: another process has this store open; end it, or choose another folder")]
    Locked(PathBuf),
    #[error("{file}: of format {version}, and this program knows up to {known}: use a newer program")]
    Version { file: PathBuf, version: u32, known: u32 },
    #[error(
        "{file}: damaged: {what}; `stentor store verify` tells how much, `stentor store restore` brings a snapshot back"
    )]
    Damaged { file: PathBuf, what: String },
    #[error("{file}: cannot be read or written: {source}")]
    Io { file: PathBuf, source: io::Error },
    #[error("{file}: {source}")]
    Database { file: PathBuf, source: Box<redb::Error> },
    #[error("{file}: the text index: {source}; `stentor store rebuild` makes it anew")]
    Text { file: PathBuf, source: Box<tantivy::TantivyError> },
}
