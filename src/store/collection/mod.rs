//! A collection in memory: its index, its vectors, what it is filtered by and its words, all of which are derived from the
//! truth and follow it.
//!
//! A write is in the truth before it is here, and here before it is answered. Searches and writes exclude each other for
//! as long as memory is changed, not while nodes are linked or files are written.

mod fields;
mod filter;
mod open;
mod search;
mod text;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use roaring::RoaringBitmap;

use self::fields::Fields;
use self::text::Text;
use super::bits::Bits;
use super::error::Error;
use super::flat::Flat;
use super::hnsw::Hnsw;
use super::truth::Truth;
use crate::types::store::{Described, Metric, Precision, Record, Spec, Vectors};

/// Nodes that are linked before others may write.
const LINKED: usize = 32;
/// Nodes that may be unlinked before writing waits for it: each search scores them all, 12 MB of 384 dimensions.
const UNLINKED: usize = 32_768;
/// Nodes whose links are led past what is gone before others may write.
const PASSED: u32 = 4096;
/// Changes after which the index is saved anew, and at least one in so many of its points.
const CHANGES: u64 = 4096;
const SHARE: u64 = 8;

/// A collection.
pub struct Collection {
    pub name: String,
    pub number: u32,
    pub spec: Spec,
    folder: PathBuf,
    state: RwLock<State>,
    text: Option<Text>,
    /// What filters mean, by how they are written, and of which change.
    filtered: Mutex<HashMap<String, (u64, Arc<Bits>)>>,
    /// Held by whoever links.
    linking: Mutex<()>,
    /// The change that the index on the disk holds.
    saved: AtomicU64,
}

struct State {
    /// The last change that is here.
    sequence: u64,
    live: RoaringBitmap,
    index: Option<Index>,
    fields: Fields,
}

/// Vectors as they are searched.
struct Index {
    graph: Hnsw,
    /// `None`: exact scores are computed from what is on the disk.
    exact: Option<Flat>,
}

/// What became of a point.
pub struct Applied {
    pub number: u32,
    pub was: Option<Record>,
    pub is: Option<Record>,
    /// Where it is new, its vector.
    pub vector: Option<Vec<f32>>,
}

impl Index {
    fn new(vectors: Vectors) -> Result<Index, super::hnsw::Error> {
        let graph = Hnsw::new(vectors.dim, vectors.metric, super::hnsw::Params::default())?;
        Ok(Index { graph, exact: rows(vectors) })
    }

    /// Puts vectors, of which each was checked before.
    fn put(&mut self, vectors: &[(u32, &[f32])]) -> Result<(), super::hnsw::Error> {
        self.graph.put(vectors)?;
        let cosine = self.graph.metric() == Metric::Cosine;
        if let Some(exact) = &mut self.exact {
            for (number, vector) in vectors {
                if cosine {
                    exact.set(*number, &unit(vector))
                } else {
                    exact.set(*number, vector)
                };
            }
        }
        Ok(())
    }
}

fn rows(vectors: Vectors) -> Option<Flat> {
    match vectors.precision {
        Precision::F32 => Some(Flat::f32(vectors.dim)),
        Precision::F16 => Some(Flat::f16(vectors.dim)),
        Precision::Int8 => None,
    }
}

/// A vector of length 1 in the direction of this.
fn unit(vector: &[f32]) -> Vec<f32> {
    // Squares of what is small vanish in f32.
    let length = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    vector.iter().map(|v| (f64::from(*v) / length) as f32).collect()
}

impl Collection {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes are to be noted: something derived from them is kept on the disk.
    pub fn is_derived(&self) -> bool {
        self.spec.vectors.is_some() || self.spec.text.is_some()
    }

    /// Free numbers for so many points.
    pub fn numbers(&self, count: usize) -> Vec<u32> {
        let state = self.state();
        match &state.index {
            Some(index) => index.graph.numbers(count).collect(),
            None => (0..u32::MAX).filter(|number| !state.live.contains(*number)).take(count).collect(),
        }
    }

    /// Brings what was written here. What was written is in the truth: where it cannot be here, `stentor store rebuild`
    /// helps, and the error says so.
    ///
    /// # Errors
    /// The index does not take a vector.
    pub fn apply(&self, changes: Vec<Applied>, sequence: u64) -> Result<(), super::hnsw::Error> {
        let mut state = self.state_mut();
        let State { live, index, fields, .. } = &mut *state;
        let mut put = Vec::new();
        for Applied { number, was, is, vector } in &changes {
            fields.change(*number, was.as_ref(), is.as_ref());
            if is.is_some() {
                live.insert(*number)
            } else {
                live.remove(*number)
            };
            put.extend(vector.as_deref().map(|vector| (*number, vector)));
            if let (None, Some(index)) = (is, &mut *index) {
                index.graph.remove(*number);
            }
        }
        let done = index.as_mut().map_or(Ok(()), |index| index.put(&put));
        if let Some(text) = &self.text {
            text.touch(changes.iter().map(|change| change.number), sequence);
        }
        state.sequence = sequence;
        done
    }

    /// Links nodes on the caller's pool where more are not linked than searches should have to score.
    pub fn catch_up(&self) {
        let behind = |collection: &Collection| {
            collection.state().index.as_ref().is_some_and(|index| index.graph.fresh().count() > UNLINKED)
        };
        while behind(self) && self.link() {}
    }

    /// Links some nodes that are not linked yet, on the caller's pool; false where there are none.
    pub fn link(&self) -> bool {
        let _one = self.linking.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes: Vec<u32> = {
            let state = self.state();
            let Some(index) = &state.index else { return false };
            let nodes: Vec<u32> = index.graph.fresh().take(LINKED).collect();
            index.graph.link(&nodes);
            nodes
        };
        if let Some(index) = &mut self.state_mut().index {
            index.graph.settle(&nodes);
        }
        !nodes.is_empty()
    }

    /// Frees the room of what was removed, where that is worth its time; on the caller's pool.
    pub fn compact(&self) {
        let Some((leaving, end)) = self.state().index.as_ref().and_then(|Index { graph, .. }| {
            graph.wants_compacting().then(|| (graph.leaving(), graph.len() as u32))
        }) else {
            return;
        };
        for from in (0..end).step_by(PASSED as usize) {
            if let Some(index) = &self.state().index {
                index.graph.lead_past(from..from.saturating_add(PASSED));
            }
        }
        if let Some(index) = &mut self.state_mut().index {
            index.graph.release(&leaving);
        }
    }

    /// Brings the words up to date where they are far behind.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn keep_up(&self, truth: &Truth) -> Result<(), Error> {
        match &self.text {
            Some(text) if text.is_behind() => text.sync(truth, self.number),
            _ => Ok(()),
        }
    }

    /// Whether so much changed that it should be saved; with `any`, whether anything did.
    pub fn wants_saving(&self, any: bool) -> bool {
        let state = self.state();
        let changes = state.sequence.saturating_sub(self.saved.load(Ordering::Relaxed));
        self.is_derived() && changes > if any { 0 } else { CHANGES.max(state.live.len() / SHARE) }
    }

    /// Saves what is derived; the change up to which it is on the disk.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn save(&self, truth: &Truth) -> Result<u64, Error> {
        if let Some(text) = &self.text {
            text.sync(truth, self.number)?;
        }
        let state = self.state();
        if let Some(index) = &state.index {
            let file = self.folder.join(open::INDEX);
            index.graph.save(&file, state.sequence).map_err(|error| match error {
                super::hnsw::FileError::Io { file, source } => Error::Io { file, source },
                other => Error::Damaged { file, what: other.to_string() },
            })?;
        }
        self.saved.store(state.sequence, Ordering::Relaxed);
        let words = self.text.as_ref().map(Text::stamp);
        Ok(words.unwrap_or(u64::MAX).min(state.sequence))
    }

    /// The collection as it is listed.
    pub fn describe(&self) -> Described {
        let state = self.state();
        let index = state.index.as_ref();
        let exact = index.and_then(|index| index.exact.as_ref()).map_or(0, Flat::bytes);
        Described {
            name: self.name.clone(),
            spec: self.spec.clone(),
            points: state.live.len() as usize,
            memory: index.map_or(0, |index| index.graph.bytes()) + exact,
            unlinked: index.map_or(0, |index| index.graph.fresh().count()),
        }
    }
}
