//! The embedded store: collections of points, each with an id, JSON, tags, text and a vector.
//!
//! ```text
//! write  -> writer thread: one redb transaction, on the disk -> memory: index, fields, words -> answer
//! search -> memory: index or words, among what a filter means -> exact scores -> records from the disk
//! keeper thread: links what is new, frees what is gone, brings words up to date, saves indexes
//! ```
//!
//! | what | where |
//! |---|---|
//! | what is held, durably | [`truth`], one file `store.redb` |
//! | what is derived from it and can always be made anew | [`collection`], below the folder `derived` |
//! | the graph of vectors | [`hnsw`] |
//! | writing | [`writer`] |
//! | copies of the whole, and bringing one back | [`snapshot`] |
//!
//! Derived files carry the number of the change that they hold; what the truth changed since is read from it. A folder is
//! open in one process at a time.

pub mod bits;
mod collection;
mod error;
pub mod flat;
pub mod hnsw;
mod keeper;
mod snapshot;
#[cfg(test)]
mod tests;
mod truth;
mod writer;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::collection::Collection;
use self::truth::Truth;
use self::writer::Command;
use crate::types::store::{Change, Described, Filter, Hit, Point, Record, Search, Spec, Tags};

pub use self::error::Error;
pub use self::snapshot::{Checked, rebuild, restore, verify};
pub use self::writer::{Done, WAITING};

/// Bytes of an id at most.
const ID_BYTES: usize = 1024;
/// Bytes of a record as it is kept at most.
const RECORD_BYTES: usize = 16 << 20;
/// Collections at most: each has files open.
const COLLECTIONS: usize = 1024;
/// How long a folder may be locked that is to be opened.
const PATIENCE: Duration = Duration::from_millis(500);
/// The database, and the folder of what is derived from it.
const TRUTH: &str = "store.redb";
const DERIVED: &str = "derived";

/// A store; closed when it is dropped, which saves what is derived.
pub struct Store {
    inner: Arc<Inner>,
    queue: SyncSender<Command>,
    threads: Vec<JoinHandle<()>>,
    /// Held as long as the folder is this process's.
    _lock: File,
}

/// What its threads share.
struct Inner {
    truth: Truth,
    /// Of this epoch.
    derived: PathBuf,
    collections: RwLock<BTreeMap<String, Arc<Collection>>>,
    /// Wakes the keeper.
    wake: SyncSender<()>,
    closing: AtomicBool,
    /// Whether a write is under way, for which linking makes way.
    writing: AtomicBool,
    /// One snapshot at a time.
    snapshot: Mutex<()>,
}

impl Inner {
    fn collection(&self, name: &str) -> Result<Arc<Collection>, Error> {
        let collections = self.collections.read().unwrap_or_else(PoisonError::into_inner);
        collections.get(name).cloned().ok_or_else(|| Error::NoCollection(name.to_owned()))
    }

    fn collections_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Collection>>> {
        self.collections.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Collection>> {
        self.collections.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn derived(&self, collection: u32) -> PathBuf {
        self.derived.join(collection.to_string())
    }

    fn wake(&self) {
        // Where it is full, the keeper wakes anyway.
        let _ = self.wake.try_send(());
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

/// Makes the folder, and this process the only one that has it open.
fn lock(folder: &Path) -> Result<File, Error> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { file: folder.to_owned(), source })?;
    let file = folder.join("lock");
    let io = |source| Error::Io { file: file.clone(), source };
    let lock = File::options().write(true).create(true).truncate(false).open(&file).map_err(io)?;
    patiently(|| match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    })?;
    Ok(lock)
}

/// Tries for a moment what another has locked. A lock outlives its owner by as long as a child process takes to start, which
/// has its parent's files until it runs a program of its own; and a server that is started anew meets the end of the one
/// before it.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(Error::Locked(_)) if begun.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 50),
            done => return done,
        }
    }
}

impl Store {
    /// Opens the store of a folder, or makes one.
    ///
    /// # Errors
    /// Another process has it open, it is of a later format or damaged, or the disk cannot be read and written.
    pub fn open(folder: &Path) -> Result<Store, Error> {
        let lock = lock(folder)?;
        let truth = Truth::open(&folder.join(TRUTH))?;
        let view = truth.view()?;
        let all = folder.join(DERIVED);
        let derived = all.join(view.epoch()?.map(|byte| format!("{byte:02x}")).concat());
        let mut collections = BTreeMap::new();
        for noted in view.collections()? {
            let place = derived.join(noted.number.to_string());
            let collection = Collection::open(&truth, noted, &place)?;
            collections.insert(collection.name.clone(), Arc::new(collection));
        }
        forget_others(&all, |folder| folder == derived);
        let used: Vec<PathBuf> =
            collections.values().map(|one: &Arc<Collection>| derived.join(one.number.to_string())).collect();
        forget_others(&derived, |folder| used.iter().any(|used| used == folder));
        let (wake, woken) = sync_channel(1);
        let (queue, commands) = sync_channel(writer::WAITING);
        let inner = Arc::new(Inner {
            truth,
            derived,
            collections: RwLock::new(collections),
            wake,
            closing: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            snapshot: Mutex::new(()),
        });
        let thread = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|source| Error::Io { file: folder.to_owned(), source })
        };
        let (one, other, forget) = (inner.clone(), inner.clone(), queue.clone());
        let threads = vec![
            thread("store-writer", Box::new(move || writer::run(&one, &commands)))?,
            thread("store-keeper", Box::new(move || keeper::run(&other, &woken, &forget)))?,
        ];
        inner.wake();
        Ok(Store { inner, queue, threads, _lock: lock })
    }

    /// Makes a collection.
    ///
    /// # Errors
    /// There is one of that name, it is no name, its vectors have dimensions that are not taken, or the disk cannot be
    /// written.
    pub fn create(&self, name: &str, spec: Spec) -> Result<(), Error> {
        let plain = |c: char| c.is_alphanumeric() || "._-:".contains(c);
        if !(1..=128).contains(&name.len()) || name.starts_with('.') || !name.chars().all(plain) {
            return Err(Error::Name(name.to_owned()));
        }
        if let Some(vectors) = spec.vectors {
            hnsw::Hnsw::new(vectors.dim, vectors.metric, hnsw::Params::default()).map_err(Error::Spec)?;
        }
        writer::ask(&self.queue, |reply| Command::Create(name.to_owned(), spec, reply))
    }

    /// Takes a collection out, with all its points.
    ///
    /// # Errors
    /// There is none, or the disk cannot be written.
    pub fn drop_collection(&self, name: &str) -> Result<(), Error> {
        writer::ask(&self.queue, |reply| Command::Drop(name.to_owned(), reply))
    }

    /// The collections by name.
    pub fn collections(&self) -> Vec<Described> {
        self.inner.all().iter().map(|collection| collection.describe()).collect()
    }

    /// A collection.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn describe(&self, name: &str) -> Result<Described, Error> {
        Ok(self.inner.collection(name)?.describe())
    }

    /// Does changes, all of them or none; they outlive the process and the machine's power once this returns.
    ///
    /// # Errors
    /// A change cannot be done, too many writes wait, or the disk cannot be written.
    pub fn write(&self, changes: Vec<Change>) -> Result<Done, Error> {
        writer::ask(&self.queue, |reply| Command::Write(changes, reply))
    }

    /// The best points by a vector, by words or by both, best first.
    ///
    /// # Errors
    /// It asks for what the collection has not; the disk cannot be read.
    pub fn search(&self, collection: &str, search: &Search) -> Result<Vec<Hit>, Error> {
        self.inner.collection(collection)?.search(&self.inner.truth, search)
    }

    /// The points of these ids, in their order.
    ///
    /// # Errors
    /// There is no such collection, or the disk cannot be read.
    pub fn get(&self, collection: &str, ids: &[String]) -> Result<Vec<Option<Point>>, Error> {
        self.inner.collection(collection)?.get(&self.inner.truth, ids)
    }

    /// How many points there are, or match.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn count(&self, collection: &str, filter: Option<&Filter>) -> Result<u64, Error> {
        self.inner.collection(collection)?.count(&self.inner.truth, filter)
    }

    /// So many records that match, in the order in which their room was given to them, and where to go on.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn list(
        &self,
        collection: &str,
        filter: Option<&Filter>,
        from: u32,
        most: usize,
    ) -> Result<(Vec<Record>, Option<u32>), Error> {
        let (mut records, mut next) = (Vec::new(), None);
        self.inner.collection(collection)?.go_through(
            &self.inner.truth,
            filter,
            from,
            |number, record| {
                if records.len() == most {
                    next = Some(number);
                    return false;
                }
                records.push(record);
                true
            },
        )?;
        Ok((records, next))
    }

    /// All tags of a collection, and how many points have each.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn tags(&self, collection: &str) -> Result<Tags, Error> {
        self.inner.collection(collection)?.tags(&self.inner.truth)
    }

    /// Writes all that the store holds to a file; writes go on meanwhile.
    ///
    /// # Errors
    /// There is such a file, or it cannot be written.
    pub fn snapshot(&self, file: &Path) -> Result<(), Error> {
        let _one = self.inner.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.truth.copy(file)
    }

    /// Waits until every vector is linked and everything derived is on the disk.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn settle(&self) -> Result<(), Error> {
        for collection in self.inner.all() {
            while collection.describe().unlinked > 0 && !self.inner.is_closing() {
                self.inner.wake();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        keeper::save(&self.inner, &self.queue, true)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.inner.closing.store(true, Ordering::Relaxed);
        self.inner.wake();
        // Full, it is emptied soon.
        let _ = self.queue.send(Command::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Err(error) = keeper::save(&self.inner, &self.queue, true) {
            tracing::warn!(%error, "indexes are not saved, and are made anew");
        }
    }
}

/// Takes away what was derived in other epochs, or for collections that are no more.
fn forget_others(all: &Path, is_used: impl Fn(&Path) -> bool) {
    for other in std::fs::read_dir(all).into_iter().flatten().flatten() {
        if !is_used(&other.path())
            && let Err(error) = std::fs::remove_dir_all(other.path())
        {
            tracing::warn!(folder = %other.path().display(), %error, "an old index is left");
        }
    }
}
