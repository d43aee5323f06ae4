//! Hierarchical navigable small worlds (Malkov and Yashunin, 2016, <https://arxiv.org/abs/1603.09320>): the nearest of
//! many vectors, found by following links between near ones.
//!
//! Every vector is kept in 8 bits a dimension with a scale of its own, and all that is followed is scored by these:
//! a quarter of the bytes of f32, and whole-number products. Who needs exact scores asks for a few more and scores them
//! by the vectors themselves.
//!
//! Why not hnsw_rs 0.3.5, measured on the same 50,000 vectors of 384 dimensions (`benches/README.md`): it builds in 48 s where
//! this takes 5 and hnswlib 10, answers 1,686 queries a second at recall 1 (22,832 and 8,935), does not find 5 of the vectors
//! by themselves, and neither removes nor replaces any.
//!
//! | what | where |
//! |---|---|
//! | the vectors in 8 bits | [`Codes`] |
//! | links, 2 M a node at level 0 and M at each level above | [`links`] |
//! | following them | [`search`] |
//! | linking new nodes, several at a time | [`insert`] |
//! | taking nodes out | [`remove`] |
//! | keeping it on a disk | [`file`] |
//!
//! The caller numbers the nodes; [`Hnsw::numbers`] says which numbers are free, the lowest first. A node is found as soon as
//! it is put there: until it is linked, every search scores it. A level is drawn for each from how many were drawn before,
//! so that the same vectors give the same levels.

mod file;
mod insert;
mod links;
mod remove;
mod scratch;
mod search;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use self::links::Links;
use self::scratch::{Beam, Scratch, Seen};
use crate::ops::codes::{Codes, Probe};
use crate::store::bits::Bits;
use crate::types::store::Metric;

pub use self::file::FileError;
pub use self::search::Found;

/// Levels that a node may have at most; of 16 links, one in 16^15 would have more.
const LEVELS: usize = 15;
/// Searches whose memory is kept for the next ones.
const KEPT: usize = 64;

/// How densely nodes are linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// Links a node at each level above 0; twice as many at level 0.
    pub m: usize,
    /// Nodes that a new one's links are chosen from.
    pub ef_construction: usize,
}

impl Default for Params {
    fn default() -> Self {
        Params { m: 16, ef_construction: 200 }
    }
}

/// Why a vector or an index cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("vectors of {0} dimensions: there are 1 to 65536")]
    Dimensions(usize),
    #[error("{0} links a node: there are 2 to 128")]
    Links(usize),
    #[error("links chosen from {0} nodes: there are 1 to 10000")]
    Breadth(usize),
    #[error("a vector of {got} dimensions, {want} are needed")]
    Length { got: usize, want: usize },
    #[error("dimension {0} of a vector is not a finite number")]
    NotFinite(usize),
    #[error("a vector of zeros has no direction, which the cosine needs")]
    Zero,
    #[error("number {0} has a vector: remove it, and compact")]
    Taken(u32),
    #[error("the index is full: it holds 4294967295 vectors at most")]
    Full,
}

/// A vector as it is searched for.
#[derive(Debug)]
pub struct Query {
    probe: Probe,
    scale: f32,
    /// Less its length squared where distances are asked for.
    bias: f32,
}

/// What is kept of a node's vector beside its codes.
#[derive(Debug, Clone, Copy, Default)]
struct Scale {
    scale: f32,
    bias: f32,
}

/// An index.
#[derive(Debug)]
pub struct Hnsw {
    /// Cosine: vectors are normalised as they are put. Euclidean: a score is the distance squared, negative.
    metric: Metric,
    params: Params,
    codes: Codes,
    scales: Vec<Scale>,
    links: Links,
    /// Nodes that were removed, and those of them that nothing leads to any more.
    gone: Bits,
    free: Bits,
    /// Nodes that are not linked yet.
    fresh: Bits,
    /// Levels that were drawn.
    levels: u64,
    /// Where searches begin: level in the upper half, node in the lower; [`NOWHERE`] without nodes.
    entry: AtomicU64,
    /// Held by whoever raises the entry.
    raising: Mutex<()>,
    scratch: Mutex<Vec<Scratch>>,
}

/// Whether a vector can be put into an index of these dimensions.
///
/// # Errors
/// Another length, a value that is not finite, or zeros where the cosine is asked for.
pub fn check(vector: &[f32], dim: usize, metric: Metric) -> Result<(), Error> {
    if vector.len() != dim {
        return Err(Error::Length { got: vector.len(), want: dim });
    }
    if let Some(at) = vector.iter().position(|v| !v.is_finite()) {
        return Err(Error::NotFinite(at));
    }
    if metric == Metric::Cosine && vector.iter().all(|v| *v == 0.0) {
        return Err(Error::Zero);
    }
    Ok(())
}

/// No entry.
const NOWHERE: u64 = u64::MAX;

impl Hnsw {
    /// An empty index.
    ///
    /// # Errors
    /// Dimensions or links out of range.
    pub fn new(dim: usize, metric: Metric, params: Params) -> Result<Hnsw, Error> {
        let codes = Codes::new(dim).ok_or(Error::Dimensions(dim))?;
        if !(2..=128).contains(&params.m) {
            return Err(Error::Links(params.m));
        }
        if !(1..=10_000).contains(&params.ef_construction) {
            return Err(Error::Breadth(params.ef_construction));
        }
        Ok(Hnsw {
            metric,
            params,
            codes,
            scales: Vec::new(),
            links: Links::new(params.m),
            gone: Bits::default(),
            free: Bits::default(),
            fresh: Bits::default(),
            levels: 0,
            entry: AtomicU64::new(NOWHERE),
            raising: Mutex::new(()),
            scratch: Mutex::new(Vec::new()),
        })
    }

    /// Numbers that were given, those of removed vectors included.
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    /// Vectors that can be found.
    pub fn live(&self) -> usize {
        self.len() - self.gone.count()
    }

    /// Nodes that can be found, the lowest first.
    pub fn nodes(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len() as u32).filter(|node| !self.gone.has(*node))
    }

    /// Nodes that are not linked yet, the lowest first.
    pub fn fresh(&self) -> impl Iterator<Item = u32> + '_ {
        self.fresh.iter()
    }

    /// How they are scored.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Dimensions of a vector.
    pub fn dim(&self) -> usize {
        self.codes.dim()
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + size_of_val(self.scales.as_slice()) + self.links.bytes()
    }

    /// A vector to search for.
    ///
    /// # Errors
    /// Another length, a value that is not finite, or zeros where the cosine is asked for.
    pub fn query(&self, vector: &[f32]) -> Result<Query, Error> {
        let (codes, Scale { scale, bias }) = self.round(vector)?;
        Ok(Query { probe: self.codes.probe(codes.into_iter()), scale, bias })
    }

    /// A vector in 8 bits.
    fn round(&self, vector: &[f32]) -> Result<(Vec<i8>, Scale), Error> {
        check(vector, self.dim(), self.metric)?;
        let squares: f64 = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let largest = vector.iter().fold(0f32, |most, v| most.max(v.abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let codes = vector.iter().map(|v| (v * inverse).round() as i8).collect();
        let scale = match self.metric {
            Metric::Cosine => (f64::from(largest) / 127.0 / squares.sqrt()) as f32,
            Metric::Dot | Metric::Euclidean => largest / 127.0,
        };
        let bias = if self.metric == Metric::Euclidean { -squares as f32 } else { 0.0 };
        Ok((codes, Scale { scale, bias }))
    }

    /// What a product of codes comes to.
    #[inline]
    fn score(&self, dot: i32, a: Scale, b: u32) -> f32 {
        let b = self.scales.get(b as usize).copied().unwrap_or_default();
        let dot = dot as f32 * (a.scale * b.scale);
        match self.metric {
            Metric::Cosine | Metric::Dot => dot,
            Metric::Euclidean => 2.0 * dot + a.bias + b.bias,
        }
    }

    /// Where searches begin: node and level.
    fn entry(&self) -> Option<(u32, usize)> {
        match self.entry.load(Ordering::Acquire) {
            NOWHERE => None,
            entry => Some((entry as u32, (entry >> 32) as usize)),
        }
    }

    fn take_scratch(&self) -> Scratch {
        let kept = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| Scratch {
            beam: Beam::default(),
            seen: Seen::default(),
            nodes: Vec::new(),
            dots: Vec::new(),
            probe: self.codes.blank(),
        })
    }

    fn put_scratch(&self, scratch: Scratch) {
        let mut kept = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(scratch);
        }
    }
}
