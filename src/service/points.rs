//! Points in the store, for callers that do not wait on a disk themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::resolve::joined;
use crate::store::{self, Done, Store};
use crate::types::store::{Change, Described, Point, Spec, Stemming, Vectors};

/// What a caller is told to wait when too many writes wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the names of the server's own collections begin with. Callers neither see them nor write to them.
pub(super) const OWN: &str = "stentor:";

/// The folder, in the store's, of snapshots that are written while it is open; how many may lie there.
pub const SNAPSHOTS: &str = "snapshots";
const SNAPSHOTS_KEPT: usize = 16;

/// The store as requests see it. Cheap to clone; the store is closed with the last of them.
#[derive(Clone)]
pub struct Points(Arc<Store>, Arc<PathBuf>);

impl Points {
    /// Opens the store of a folder, or makes one. It may take seconds, and blocks.
    ///
    /// # Errors
    /// Another process has it open, it is damaged, or the disk cannot be used.
    pub fn open(folder: &Path) -> Result<Points, store::Error> {
        Ok(Points(Arc::new(Store::open(folder)?), Arc::new(folder.to_owned())))
    }

    /// The collections by name, but for the server's own.
    pub fn collections(&self) -> Vec<Described> {
        let mut collections = self.0.collections();
        collections.retain(|collection| !collection.name.starts_with(OWN));
        collections
    }

    /// Writes all that the store holds at this moment to a file in the folder [`SNAPSHOTS`] of the store; its name, and its
    /// bytes. Writes go on meanwhile.
    ///
    /// # Errors
    /// As many lie there as are kept, which is for the operator to end and no fault of the server; or the disk cannot be
    /// written.
    pub async fn snapshot(&self) -> Result<(String, u64), Error> {
        let folder = self.1.join(SNAPSHOTS);
        let io = |error: std::io::Error| Error::Internal { detail: format!("a snapshot: {error}") };
        std::fs::create_dir_all(&folder).map_err(io)?;
        if std::fs::read_dir(&folder).map_err(io)?.count() >= SNAPSHOTS_KEPT {
            let message = format!(
                "{SNAPSHOTS_KEPT} snapshots lie in `{SNAPSHOTS}` of the store; take some of them away"
            );
            return Err(Error::Conflict { message });
        }
        let name = format!("{}.snapshot", uuid::Uuid::new_v4().simple());
        let file = folder.join(&name);
        let written = file.clone();
        self.run(move |store| store.snapshot(&written)).await?;
        let bytes = std::fs::metadata(&file).map_err(io)?.len();
        Ok((name, bytes))
    }

    /// Puts points, all of them or none, durably. A collection that is not there is made for vectors like the first,
    /// compared by the cosine of their angle, and for the text of the points.
    ///
    /// # Errors
    /// A point is none for the collection, or the disk cannot be written.
    pub async fn put(&self, collection: String, points: Vec<Point>) -> Result<(Done, Described), Error> {
        self.run(move |store| {
            if collection.starts_with(OWN) {
                return Err(store::Error::Name(collection));
            }
            make(store, &collection, || {
                let dim = points.iter().find_map(|point| Some(point.vector.as_ref()?.len()));
                let vectors =
                    dim.map(|dim| Vectors { dim, metric: Default::default(), precision: Default::default() });
                Spec { vectors, text: Some(Stemming::None), ..Spec::default() }
            })?;
            let done = store.write(vec![Change::Put { collection: collection.clone(), points }])?;
            Ok((done, store.describe(&collection)?))
        })
        .await
    }

    /// A collection; `None`: there is none of that name.
    pub(super) async fn describe(&self, collection: String) -> Result<Option<Described>, Error> {
        self.run(move |store| match store.describe(&collection) {
            Ok(described) => Ok(Some(described)),
            Err(store::Error::NoCollection(_)) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    /// Makes a collection where it is not there.
    pub(super) async fn make(&self, collection: String, spec: Spec) -> Result<(), Error> {
        self.run(move |store| make(store, &collection, || spec)).await
    }

    /// Works with the store on this thread.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, store::Error>,
    ) -> Result<T, store::Error> {
        work(&self.0)
    }

    /// Works with the store on a thread that may wait for the disk.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.0.clone();
        Ok(joined(tokio::task::spawn_blocking(move || work(&store)).await)??)
    }
}

/// Makes a collection where it is not there.
pub(super) fn make(store: &Store, collection: &str, spec: impl FnOnce() -> Spec) -> Result<(), store::Error> {
    match store.describe(collection) {
        Err(store::Error::NoCollection(_)) => match store.create(collection, spec()) {
            // Another caller may have been quicker.
            Ok(()) | Err(store::Error::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        },
        described => described.map(drop),
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        use store::Error as E;
        let message = error.to_string();
        match error {
            E::NoCollection(name) => Error::UnknownCollection { name },
            E::Exists(_) => Error::Conflict { message },
            E::Name(_) | E::Spec(_) | E::NoText(_) | E::NoVectors(_) => {
                Error::Invalid { param: "collection", message }
            }
            E::Query(_) => Error::Invalid { param: "vector", message },
            E::Vector { .. }
            | E::NoVector { .. }
            | E::StrayVector { .. }
            | E::Id(_)
            | E::Large { .. }
            | E::Order(_) => Error::Invalid { param: "points", message },
            E::Busy => Error::Overloaded { queued: store::WAITING, retry_after: RETRY_AFTER },
            E::Closed => Error::Unavailable { reason: message },
            E::Full
            | E::Locked(_)
            | E::Version { .. }
            | E::Damaged { .. }
            | E::Io { .. }
            | E::Database { .. }
            | E::Text { .. } => Error::Internal { detail: message },
        }
    }
}
