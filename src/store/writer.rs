//! The thread that writes: whatever waits is done in one durable transaction, so that many callers share one wait for the
//! disk. A write is answered when it is on the disk and in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use half::f16;

use super::collection::{Applied, Collection};
use super::error::Error;
use super::hnsw;
use super::truth::{State, Tables};
use super::{COLLECTIONS, ID_BYTES, Inner};
use crate::types::store::{Change, Filter, Point, Precision, Record, Spec, Vectors};

/// Writes that may wait.
pub const WAITING: usize = 1024;
/// Writes, and points, that one transaction takes.
const TOGETHER: usize = 256;
const POINTS: usize = 8192;

/// What a write did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Points that were put or described.
    pub put: usize,
    pub removed: usize,
}

/// Where an answer goes.
type Reply<T> = SyncSender<Result<T, Error>>;

pub enum Command {
    Write(Vec<Change>, Reply<Done>),
    Create(String, Spec, Reply<()>),
    Drop(String, Reply<()>),
    /// What changes up to this one touched is on the disk.
    Forget(u32, u64),
    Stop,
}

/// Asks the thread and waits for its answer.
pub fn ask<T>(queue: &SyncSender<Command>, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
    let (reply, answer) = sync_channel(1);
    queue.try_send(command(reply)).map_err(|error| match error {
        TrySendError::Full(_) => Error::Busy,
        TrySendError::Disconnected(_) => Error::Closed,
    })?;
    answer.recv().unwrap_or(Err(Error::Closed))
}

/// Runs until it is told to stop.
pub fn run(inner: &Inner, queue: &Receiver<Command>) {
    let mut next = queue.recv().ok();
    while let Some(command) = next.take().filter(|command| !matches!(command, Command::Stop)) {
        // Who asked is told that there is no answer; the others are served. A transaction that was under way is undone.
        match catch_unwind(AssertUnwindSafe(|| act(inner, command, queue))) {
            Ok(left) => next = left,
            Err(_) => tracing::error!("a write panicked, and is not done"),
        }
        inner.writing.store(false, Ordering::Relaxed);
        next = next.or_else(|| queue.recv().ok());
    }
}

/// Does a command, and writes that wait with one; what came after them and is not done yet.
fn act(inner: &Inner, command: Command, queue: &Receiver<Command>) -> Option<Command> {
    match command {
        Command::Stop => {}
        Command::Create(name, spec, reply) => drop(reply.send(create(inner, &name, &spec))),
        Command::Drop(name, reply) => drop(reply.send(remove(inner, &name))),
        Command::Forget(collection, upto) => {
            if let Err(error) = inner.truth.write(|tables| tables.forget(collection, upto)) {
                tracing::warn!(%error, "noted changes are kept");
            }
        }
        Command::Write(changes, reply) => {
            inner.writing.store(true, Ordering::Relaxed);
            let mut group = Group::new(inner);
            group.take(changes, reply);
            let mut left = None;
            while left.is_none() && group.has_room() {
                match queue.try_recv() {
                    Ok(Command::Write(changes, reply)) if group.fits(&changes) => group.take(changes, reply),
                    Ok(other) => left = Some(other),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            group.commit();
            return left;
        }
    }
    None
}

fn create(inner: &Inner, name: &str, spec: &Spec) -> Result<(), Error> {
    if inner.all().len() >= COLLECTIONS {
        return Err(Error::Full);
    }
    let noted = inner.truth.write(|tables| tables.create(name, spec))?;
    let folder = inner.derived(noted.number);
    let collection = Collection::open(&inner.truth, noted, &folder)?;
    inner.collections_mut().insert(name.to_owned(), Arc::new(collection));
    Ok(())
}

fn remove(inner: &Inner, name: &str) -> Result<(), Error> {
    let collection = inner.collection(name)?;
    inner.truth.write(|tables| tables.drop(name, collection.number))?;
    inner.collections_mut().remove(name);
    // Whoever searches it still has its files open; what is left of them goes when the store is opened.
    let folder = inner.derived(collection.number);
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        tracing::warn!(folder = %folder.display(), %error, "an old index is left");
    }
    Ok(())
}

/// A change whose collection is known and whose points were checked.
enum Step {
    Put(Arc<Collection>, Vec<Point>),
    Describe(Arc<Collection>, Vec<Record>),
    Remove(Arc<Collection>, Vec<String>),
}

/// Writes that are done together.
struct Group<'a> {
    inner: &'a Inner,
    writes: Vec<(Vec<Step>, Reply<Done>)>,
    /// Collections that they change.
    changed: BTreeSet<String>,
    points: usize,
}

/// What becomes of a collection's points by a group.
struct Delta {
    collection: Arc<Collection>,
    state: State,
    free: std::vec::IntoIter<u32>,
    points: BTreeMap<u32, Applied>,
}

impl<'a> Group<'a> {
    fn new(inner: &'a Inner) -> Group<'a> {
        Group { inner, writes: Vec::new(), changed: BTreeSet::new(), points: 0 }
    }

    fn has_room(&self) -> bool {
        self.writes.len() < TOGETHER && self.points < POINTS
    }

    /// Whether a write can be done with these: what a filter matches must not be about to change.
    fn fits(&self, changes: &[Change]) -> bool {
        !changes.iter().any(|change| match change {
            Change::RemoveWhere { collection, .. } => self.changed.contains(collection),
            Change::Put { .. } | Change::Describe { .. } | Change::Remove { .. } => false,
        })
    }

    /// Takes a write, or says why it cannot be done.
    fn take(&mut self, changes: Vec<Change>, reply: Reply<Done>) {
        match self.steps(changes) {
            Ok(steps) => {
                for step in &steps {
                    let (collection, points) = match step {
                        Step::Put(collection, points) => (collection, points.len()),
                        Step::Describe(collection, records) => (collection, records.len()),
                        Step::Remove(collection, ids) => (collection, ids.len()),
                    };
                    self.changed.insert(collection.name.clone());
                    self.points += points;
                }
                self.writes.push((steps, reply));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn steps(&self, changes: Vec<Change>) -> Result<Vec<Step>, Error> {
        let mut put = BTreeSet::new();
        let mut steps = Vec::with_capacity(changes.len());
        for change in changes {
            steps.push(match change {
                Change::Put { collection, points } => {
                    let collection = self.inner.collection(&collection)?;
                    check(&collection, &points)?;
                    put.insert(collection.number);
                    Step::Put(collection, points)
                }
                Change::Describe { collection, records } => {
                    let collection = self.inner.collection(&collection)?;
                    put.insert(collection.number);
                    Step::Describe(collection, records)
                }
                Change::Remove { collection, ids } => Step::Remove(self.inner.collection(&collection)?, ids),
                Change::RemoveWhere { collection, filter } => {
                    let collection = self.inner.collection(&collection)?;
                    if put.contains(&collection.number) {
                        return Err(Error::Order(collection.name.clone()));
                    }
                    let ids = self.matching(&collection, &filter)?;
                    Step::Remove(collection, ids)
                }
            });
        }
        Ok(steps)
    }

    fn matching(&self, collection: &Collection, filter: &Filter) -> Result<Vec<String>, Error> {
        let mut ids = Vec::new();
        collection.go_through(&self.inner.truth, Some(filter), 0, |_, record| {
            ids.push(record.id);
            true
        })?;
        Ok(ids)
    }

    /// Does the writes and answers them. Where they cannot be done together each is tried alone, so that what is wrong
    /// with one is answered to its caller only.
    fn commit(self) {
        let Group { inner, writes, .. } = self;
        match commit(inner, &writes) {
            Ok(done) => {
                for ((_, reply), done) in writes.iter().zip(done) {
                    drop(reply.send(Ok(done)));
                }
            }
            Err(error) if writes.len() < 2 => {
                let mut error = Some(error);
                writes
                    .iter()
                    .for_each(|(_, reply)| drop(reply.send(Err(error.take().unwrap_or(Error::Closed)))));
            }
            Err(_) => {
                for write in writes {
                    let done = commit(inner, std::slice::from_ref(&write));
                    drop(write.1.send(done.map(|done| done.into_iter().next().unwrap_or_default())));
                }
            }
        }
        inner.wake();
    }
}

/// Does writes in one transaction: on the disk, then in memory.
fn commit(inner: &Inner, writes: &[(Vec<Step>, Reply<Done>)]) -> Result<Vec<Done>, Error> {
    let mut counts: BTreeMap<u32, (Arc<Collection>, usize)> = BTreeMap::new();
    for step in writes.iter().flat_map(|(steps, _)| steps) {
        let (collection, puts) = match step {
            Step::Put(collection, points) => (collection, points.len()),
            Step::Describe(collection, _) | Step::Remove(collection, _) => (collection, 0),
        };
        counts.entry(collection.number).or_insert_with(|| (collection.clone(), 0)).1 += puts;
    }
    let (done, deltas) = inner.truth.write(|tables| {
        let mut deltas = BTreeMap::new();
        for (number, (collection, puts)) in counts {
            let free = collection.numbers(puts).into_iter();
            let state = tables.state(number)?;
            deltas.insert(number, Delta { collection, state, free, points: BTreeMap::new() });
        }
        let mut all = Vec::with_capacity(writes.len());
        for (steps, _) in writes {
            let mut done = Done::default();
            for step in steps {
                let (Step::Put(collection, _) | Step::Describe(collection, _) | Step::Remove(collection, _)) =
                    step;
                if let Some(delta) = deltas.get_mut(&collection.number) {
                    delta.step(tables, step, &mut done)?;
                }
            }
            all.push(done);
        }
        for delta in deltas.values_mut().filter(|delta| !delta.points.is_empty()) {
            delta.state.sequence += 1;
            let touched = delta.collection.is_derived().then(|| delta.points.keys().copied());
            tables.changed(delta.collection.number, delta.state, touched)?;
        }
        Ok((all, deltas))
    })?;
    for Delta { collection, state, points, .. } in deltas.into_values().filter(|d| !d.points.is_empty()) {
        if let Err(error) = collection.apply(points.into_values().collect(), state.sequence) {
            tracing::error!(collection = collection.name, %error, "a write is not in the index; `stentor store rebuild` mends it");
        }
        collection.catch_up();
    }
    Ok(done)
}

impl Delta {
    fn step(&mut self, tables: &mut Tables<'_>, step: &Step, done: &mut Done) -> Result<(), Error> {
        let collection = self.collection.number;
        match step {
            Step::Put(_, points) => {
                for point in points {
                    self.put(tables, point)?;
                }
                done.put += points.len();
            }
            Step::Describe(_, records) => {
                for record in records {
                    if let Some(number) = tables.number(collection, &record.id)? {
                        let was = tables.put_record((collection, number), record)?;
                        self.note(number, was, Some(record.clone()), None);
                        done.put += 1;
                    }
                }
            }
            Step::Remove(_, ids) => {
                for id in ids {
                    if let Some(number) = tables.number(collection, id)? {
                        self.remove(tables, number, id)?;
                        done.removed += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, tables: &mut Tables<'_>, Point { record, vector }: &Point) -> Result<(), Error> {
        let collection = self.collection.number;
        let precision = self.collection.spec.vectors.map(|vectors| vectors.precision).unwrap_or_default();
        if let Some(number) = tables.number(collection, &record.id)? {
            let key = (collection, number);
            let same = match vector {
                Some(vector) => tables.has_vector(key, vector, precision)?,
                None => true,
            };
            if same {
                let was = tables.put_record(key, record)?;
                self.note(number, was, Some(record.clone()), None);
                return Ok(());
            }
            self.remove(tables, number, &record.id)?;
        }
        // As many are free as points are put.
        let number = self.free.next().ok_or(Error::Full)?;
        tables.put_record((collection, number), record)?;
        if let Some(vector) = vector {
            tables.put_vector((collection, number), vector, precision)?;
        }
        self.state.points += 1;
        self.note(number, None, Some(record.clone()), vector.clone());
        Ok(())
    }

    fn remove(&mut self, tables: &mut Tables<'_>, number: u32, id: &str) -> Result<(), Error> {
        let was = tables.remove((self.collection.number, number), id)?;
        self.state.points = self.state.points.saturating_sub(1);
        self.note(number, was, None, None);
        Ok(())
    }

    /// Notes what became of a point: of what it was, the first counts.
    fn note(&mut self, number: u32, was: Option<Record>, is: Option<Record>, vector: Option<Vec<f32>>) {
        match self.points.get_mut(&number) {
            Some(noted) => {
                noted.vector = vector.or_else(|| noted.vector.take().filter(|_| is.is_some()));
                noted.is = is;
            }
            None => drop(self.points.insert(number, Applied { number, was, is, vector })),
        }
    }
}

/// Whether a collection takes these points.
fn check(collection: &Collection, points: &[Point]) -> Result<(), Error> {
    let name = || collection.name.clone();
    for Point { record, vector } in points {
        let id = || record.id.clone();
        if !(1..=ID_BYTES).contains(&record.id.len()) {
            return Err(Error::Id(record.id.len()));
        }
        match (collection.spec.vectors, vector) {
            (Some(_), None) => return Err(Error::NoVector { id: id(), collection: name() }),
            (None, Some(_)) => return Err(Error::StrayVector { id: id(), collection: name() }),
            (Some(Vectors { dim, metric, precision }), Some(vector)) => {
                let failed = |source| Error::Vector { id: id(), source };
                hnsw::check(vector, dim, metric).map_err(failed)?;
                if precision != Precision::F32 {
                    // What is too large or too small for halves would not come back as a vector.
                    let halves: Vec<f32> = vector.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
                    hnsw::check(&halves, dim, metric).map_err(failed)?;
                }
            }
            (None, None) => {}
        }
    }
    Ok(())
}
