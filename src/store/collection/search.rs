//! Searching a collection: by a vector, by words, or by both; and going through it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use roaring::RoaringBitmap;

use super::filter::Asked;
use super::{Collection, Index, State, unit};
use crate::ops::dot;
use crate::store::bits::Bits;
use crate::store::error::Error;
use crate::store::flat::squares;
use crate::store::truth::{Truth, View};
use crate::types::store::{Filter, Fusion, Hit, Metric, Point, Record, Search, Tags, Vectors};

/// Nodes that a search follows at least, and for each point that is asked for. All that were followed are scored exactly:
/// by 8 bits, vectors that are nearly the same come in any order.
const EF: usize = 64;
const EF_EACH: usize = 3;
/// Among so many points that suffices; among four times as many, twice as many nodes are followed, and so on.
const EF_POINTS: usize = 100_000;
const EF_MOST: usize = 512;
/// Filters whose points are remembered until the next write, and bytes that one of them is written in.
const FILTERS: usize = 32;
const FILTER_BYTES: usize = 4096;
/// Of each of two lists that become one, so many times as many as are asked for, and some more.
const FUSED: usize = 4;
const SPARE: usize = 16;
/// Points that are asked for at most.
pub const MOST: usize = 10_000;

/// A point and its scores, before it is read.
struct Found {
    number: u32,
    score: f32,
    nearness: Option<f32>,
    bm25: Option<f32>,
}

impl Collection {
    /// The best points, best first.
    ///
    /// # Errors
    /// It asks for what the collection has not, or for a vector of another length; the disk cannot be read.
    pub fn search(&self, truth: &Truth, search: &Search) -> Result<Vec<Hit>, Error> {
        let k = search.k.min(MOST);
        if search.text.is_some() {
            self.sync_words(truth)?;
        }
        self.sync_for(truth, search.filter.as_ref())?;
        let state = self.state();
        // Opened with the state held: what it has more than that is one write.
        let view = truth.view()?;
        let among = search.filter.as_ref().map(|filter| self.among(&state, &view, filter)).transpose()?;
        let both = search.vector.is_some() && search.text.is_some();
        let depth = if both { k * FUSED + SPARE } else { k };
        let near = match &search.vector {
            Some(vector) => self.nearest(&state, &view, vector, depth, search.ef, among.as_deref())?,
            None => Vec::new(),
        };
        let worded = match &search.text {
            Some(words) => {
                let text = self.text.as_ref().ok_or_else(|| Error::NoText(self.name.clone()))?;
                // Some may be gone since.
                let more = text.search(words, depth + SPARE, among.as_ref())?;
                more.into_iter().filter(|(_, number)| state.live.contains(*number)).take(depth).collect()
            }
            None => Vec::new(),
        };
        let mut found = match (&search.vector, &search.text) {
            (Some(_), Some(_)) => fused(&near, &worded, search.fusion),
            (Some(_), None) => near.iter().map(|&(score, number)| Found::near(number, score)).collect(),
            (None, Some(_)) => worded.iter().map(|&(score, number)| Found::worded(number, score)).collect(),
            (None, None) => return Err(Error::NoVectors(self.name.clone())),
        };
        found.truncate(k);
        if let (Some(vector), true) = (&search.vector, both) {
            self.complete(&state, &view, vector, &mut found)?;
        }
        let mut hits = Vec::with_capacity(found.len());
        for Found { number, score, nearness, bm25 } in found {
            if let Some(record) = view.record((self.number, number))? {
                hits.push(Hit { score, nearness, bm25, record });
            }
        }
        Ok(hits)
    }

    /// The points that match, as searches take them.
    fn among(&self, state: &State, view: &View, filter: &Filter) -> Result<Arc<Bits>, Error> {
        // Two that are written alike are the same.
        let key = format!("{filter:?}");
        let lock = || self.filtered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((sequence, points)) = lock().get(&key)
            && *sequence == state.sequence
        {
            return Ok(points.clone());
        }
        let points: Arc<Bits> = Arc::new(self.points(state, view, filter)?.into_iter().collect());
        let mut filtered = lock();
        filtered.retain(|_, (sequence, _)| *sequence == state.sequence);
        if filtered.len() < FILTERS && key.len() <= FILTER_BYTES {
            filtered.insert(key, (state.sequence, points.clone()));
        }
        Ok(points)
    }

    fn points(&self, state: &State, view: &View, filter: &Filter) -> Result<RoaringBitmap, Error> {
        let (collection, text) = (self.number, self.text.as_ref());
        let State { live, fields, .. } = state;
        Asked { name: &self.name, collection, view, live, fields, text }.points(filter)
    }

    /// The nearest by their vectors, nearest first, with exact scores.
    fn nearest(
        &self,
        state: &State,
        view: &View,
        vector: &[f32],
        k: usize,
        ef: Option<usize>,
        among: Option<&Bits>,
    ) -> Result<Vec<(f32, u32)>, Error> {
        let none = || Error::NoVectors(self.name.clone());
        let (index, vectors) = (state.index.as_ref().ok_or_else(none)?, self.spec.vectors.ok_or_else(none)?);
        let query = index.graph.query(vector).map_err(Error::Query)?;
        let ef = ef.unwrap_or_else(|| {
            let more = (index.graph.live() as f64 / EF_POINTS as f64).sqrt();
            ((EF as f64 * more) as usize).clamp(EF, EF_MOST).max(k * EF_EACH)
        });
        let ef = ef.clamp(k, MOST.max(k));
        let found = index.graph.search(&query, ef, ef, among);
        let vector = if vectors.metric == Metric::Cosine { unit(vector) } else { vector.to_vec() };
        let mut scored = Vec::with_capacity(found.len());
        for near in found {
            if let Some(score) = self.exact(index, view, vectors, &vector, near.node)? {
                scored.push((score, near.node));
            }
        }
        scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        scored.truncate(k);
        Ok(scored)
    }

    /// Scores by their vectors what only words found.
    fn complete(&self, state: &State, view: &View, vector: &[f32], found: &mut [Found]) -> Result<(), Error> {
        let (Some(index), Some(vectors)) = (state.index.as_ref(), self.spec.vectors) else { return Ok(()) };
        let vector = if vectors.metric == Metric::Cosine { unit(vector) } else { vector.to_vec() };
        for found in found.iter_mut().filter(|found| found.nearness.is_none()) {
            found.nearness = self.exact(index, view, vectors, &vector, found.number)?;
        }
        Ok(())
    }

    /// The exact score of a point; `None` where it is gone.
    fn exact(
        &self,
        index: &Index,
        view: &View,
        vectors: Vectors,
        query: &[f32],
        number: u32,
    ) -> Result<Option<f32>, Error> {
        if let Some(rows) = &index.exact {
            return Ok(match vectors.metric {
                Metric::Cosine | Metric::Dot => rows.dot(query, number),
                Metric::Euclidean => rows.distance(query, number).map(|squares| -squares.sqrt()),
            });
        }
        let Some(vector) = view.vector((self.number, number), vectors)? else { return Ok(None) };
        Ok(Some(match vectors.metric {
            Metric::Cosine => dot::dot(query, &unit(&vector)),
            Metric::Dot => dot::dot(query, &vector),
            Metric::Euclidean => -squares(query, &vector).sqrt(),
        }))
    }

    /// The points of these ids, in their order.
    ///
    /// # Errors
    /// The disk cannot be read, or what is there is damaged.
    pub fn get(&self, truth: &Truth, ids: &[String]) -> Result<Vec<Option<Point>>, Error> {
        let view = truth.view()?;
        let one = |id: &String| -> Result<Option<Point>, Error> {
            let Some(number) = view.number(self.number, id)? else { return Ok(None) };
            let Some(record) = view.record((self.number, number))? else { return Ok(None) };
            let vector = match self.spec.vectors {
                Some(vectors) => view.vector((self.number, number), vectors)?,
                None => None,
            };
            Ok(Some(Point { record, vector }))
        };
        ids.iter().map(one).collect()
    }

    /// How many points there are, or match.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn count(&self, truth: &Truth, filter: Option<&Filter>) -> Result<u64, Error> {
        let Some(filter) = filter else { return Ok(self.state().live.len()) };
        self.sync_for(truth, Some(filter))?;
        let state = self.state();
        Ok(self.points(&state, &truth.view()?, filter)?.len())
    }

    /// Calls `each` with points in the order of their numbers, from `from` on, until it says no.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn go_through(
        &self,
        truth: &Truth,
        filter: Option<&Filter>,
        from: u32,
        mut each: impl FnMut(u32, Record) -> bool,
    ) -> Result<(), Error> {
        self.sync_for(truth, filter)?;
        let (view, mut points) = {
            let state = self.state();
            let view = truth.view()?;
            let points = filter.map(|filter| self.points(&state, &view, filter)).transpose()?;
            (view, points.unwrap_or_else(|| state.live.clone()))
        };
        points.remove_range(0..from);
        for number in points {
            if let Some(record) = view.record((self.number, number))?
                && !each(number, record)
            {
                break;
            }
        }
        Ok(())
    }

    /// Brings the words up to date where a filter asks for some.
    fn sync_for(&self, truth: &Truth, filter: Option<&Filter>) -> Result<(), Error> {
        if filter.is_some_and(Filter::has_words) { self.sync_words(truth) } else { Ok(()) }
    }

    fn sync_words(&self, truth: &Truth) -> Result<(), Error> {
        self.text.as_ref().map_or(Ok(()), |text| text.sync(truth, self.number))
    }

    /// All tags, and how many points have each.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn tags(&self, truth: &Truth) -> Result<Tags, Error> {
        let state = self.state();
        state.fields.tags(&truth.view()?, self.number)
    }
}

impl Found {
    fn near(number: u32, score: f32) -> Found {
        Found { number, score, nearness: Some(score), bm25: None }
    }

    fn worded(number: u32, score: f32) -> Found {
        Found { number, score, nearness: None, bm25: Some(score) }
    }
}

/// Two lists, each best first, as one.
fn fused(near: &[(f32, u32)], worded: &[(f32, u32)], fusion: Fusion) -> Vec<Found> {
    let Fusion { rank_constant, vector_weight, text_weight } = fusion;
    let mut found: Vec<Found> = Vec::new();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for (rank, &(nearness, number)) in near.iter().enumerate() {
        places.insert(number, found.len());
        let score = vector_weight / (rank_constant + rank as f32 + 1.0);
        found.push(Found { number, score, nearness: Some(nearness), bm25: None });
    }
    for (rank, &(bm25, number)) in worded.iter().enumerate() {
        let score = text_weight / (rank_constant + rank as f32 + 1.0);
        match places.get(&number).and_then(|at| found.get_mut(*at)) {
            Some(both) => (both.score, both.bm25) = (both.score + score, Some(bm25)),
            None => found.push(Found { number, score, nearness: None, bm25: Some(bm25) }),
        }
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.number.cmp(&b.number)));
    found
}
