//! Following links towards a vector.
//!
//! Of a search among some nodes only, three ways lead to the nearest of these, by what each would cost:
//!
//! | where | way |
//! |---|---|
//! | few enough that scoring each costs less | all of them are scored |
//! | a quarter of all, or more | as without a choice, along so many more nodes |
//! | between | along chosen nodes only; past others to their links (the ACORN-1 of Patel et al., 2024) |
//!
//! Where too few are found, all are scored after all: whoever asks for `k` gets them, if there are so many.

use super::scratch::{Near, Scratch, Seen};
use super::{Hnsw, Query, Scale};
use crate::ops::codes::Probe;
use crate::store::bits::Bits;

/// What a node that is followed costs, in scores of a scan: of all, and among chosen ones.
const FOLLOWED: usize = 24;
const FOLLOWED_CHOSEN: usize = 150;
/// Chosen nodes that one node leads to at most, past others.
const LED: usize = 24;
/// Rows that a scan scores at a time.
const SCANNED: usize = 256;

/// A node that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    pub node: u32,
    /// By its 8 bits.
    pub score: f32,
}

/// How a search is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Along so many nodes.
    All(usize),
    Chosen,
    Scan,
}

impl Hnsw {
    /// The `k` nearest, nearest first, as far as following the `ef` nearest at a time finds them; of `among`, where
    /// that is given, and never of those that were removed.
    pub fn search(&self, query: &Query, k: usize, ef: usize, among: Option<&Bits>) -> Vec<Found> {
        let ef = ef.max(k);
        self.search_by(self.way(ef, among), query, k, ef, among)
    }

    fn way(&self, ef: usize, among: Option<&Bits>) -> Way {
        let all = self.len();
        let some = among.map_or(self.live(), Bits::count);
        let followed = if among.is_some() { FOLLOWED_CHOSEN } else { FOLLOWED };
        if some <= ef * followed {
            return Way::Scan;
        }
        // Of all nodes those that are gone are followed too.
        if some * 4 >= all { Way::All((ef * all).div_ceil(some.max(1))) } else { Way::Chosen }
    }

    pub(super) fn search_by(
        &self,
        way: Way,
        query: &Query,
        k: usize,
        ef: usize,
        among: Option<&Bits>,
    ) -> Vec<Found> {
        let counts = |node: u32| !self.gone.has(node) && among.is_none_or(|among| among.has(node));
        let mut scratch = self.take_scratch();
        let scale = Scale { scale: query.scale, bias: query.bias };
        match (way, self.entry()) {
            (Way::Scan, _) | (_, None) => self.scan(&query.probe, scale, k, among, &mut scratch),
            (_, Some((entry, level))) => {
                let start = self.descend(&query.probe, scale, entry, level, 0, &mut scratch);
                match way {
                    Way::All(ef) => self.follow(&query.probe, scale, &[start], 0, ef, &mut scratch),
                    _ => self.follow_some(&query.probe, scale, start, ef, &counts, &mut scratch),
                }
                // No link leads to these yet.
                self.offer(&query.probe, scale, self.fresh.iter().filter(|&node| counts(node)), &mut scratch);
            }
        }
        let found = scratch.beam.found().filter(|near| counts(near.node)).take(k);
        let found: Vec<Found> = found.map(|Near { score, node }| Found { node, score }).collect();
        self.put_scratch(scratch);
        let there = among.map_or(self.live(), Bits::count);
        if way != Way::Scan && found.len() < k.min(there) {
            return self.search_by(Way::Scan, query, k, ef, among);
        }
        found
    }

    /// Leaves the nearest `k` of all that count in the beam.
    fn scan(&self, probe: &Probe, scale: Scale, k: usize, among: Option<&Bits>, scratch: &mut Scratch) {
        scratch.beam.start(k);
        scratch.seen.start(self.len());
        let live = |node: &u32| !self.gone.has(*node);
        match among {
            Some(among) => self.offer(probe, scale, among.iter().filter(live), scratch),
            None => self.offer(probe, scale, (0..self.len() as u32).filter(live), scratch),
        }
    }

    /// Scores nodes that were not seen, and leaves the nearest there.
    fn offer(&self, probe: &Probe, scale: Scale, mut from: impl Iterator<Item = u32>, scratch: &mut Scratch) {
        let Scratch { beam, seen, nodes, dots, .. } = scratch;
        loop {
            nodes.clear();
            nodes.extend(from.by_ref().filter(|&node| seen.is_new(node)).take(SCANNED));
            if nodes.is_empty() {
                return;
            }
            self.codes.dots(probe, nodes, dots);
            for (&node, &dot) in nodes.iter().zip(dots.iter()) {
                beam.offer(Near { score: self.score(dot, scale, node), node });
            }
        }
    }

    /// From the entry down to the nearest node of the level above `to`, a step at a time.
    pub(super) fn descend(
        &self,
        probe: &Probe,
        scale: Scale,
        entry: u32,
        level: usize,
        to: usize,
        scratch: &mut Scratch,
    ) -> u32 {
        let mut best = Near { score: self.score_one(probe, scale, entry, scratch), node: entry };
        for level in (to + 1..=level).rev() {
            loop {
                let from = best.node;
                scratch.nodes.clear();
                scratch.nodes.extend(self.links.of(from, level));
                self.codes.dots(probe, &scratch.nodes, &mut scratch.dots);
                for (&node, &dot) in scratch.nodes.iter().zip(&scratch.dots) {
                    let score = self.score(dot, scale, node);
                    if score > best.score {
                        best = Near { score, node };
                    }
                }
                if best.node == from {
                    break;
                }
            }
        }
        best.node
    }

    fn score_one(&self, probe: &Probe, scale: Scale, node: u32, scratch: &mut Scratch) -> f32 {
        self.codes.dots(probe, &[node], &mut scratch.dots);
        scratch.dots.first().map_or(f32::NEG_INFINITY, |&dot| self.score(dot, scale, node))
    }

    /// Leaves the nearest `ef` nodes of a level in the beam, as far as following links from `starts` finds them.
    pub(super) fn follow(
        &self,
        probe: &Probe,
        scale: Scale,
        starts: &[u32],
        level: usize,
        ef: usize,
        scratch: &mut Scratch,
    ) {
        self.follow_by(probe, scale, starts, ef, scratch, |nearest, seen, nodes| {
            nodes.extend(self.links.of(nearest, level).filter(|&node| seen.is_new(node)));
        });
    }

    /// The same at level 0 among nodes that count: past one that does not, to what it is linked to.
    fn follow_some(
        &self,
        probe: &Probe,
        scale: Scale,
        start: u32,
        ef: usize,
        counts: &impl Fn(u32) -> bool,
        scratch: &mut Scratch,
    ) {
        self.follow_by(probe, scale, &[start], ef, scratch, |nearest, seen, nodes| {
            for node in self.links.of(nearest, 0) {
                if counts(node) {
                    nodes.extend(Some(node).filter(|&node| seen.is_new(node)));
                } else if nodes.len() < LED {
                    nodes.extend(self.links.of(node, 0).filter(|&next| counts(next) && seen.is_new(next)));
                }
            }
        });
    }

    /// The loop of both: `lead` adds the new nodes that one leads to.
    fn follow_by(
        &self,
        probe: &Probe,
        scale: Scale,
        starts: &[u32],
        ef: usize,
        scratch: &mut Scratch,
        lead: impl Fn(u32, &mut Seen, &mut Vec<u32>),
    ) {
        let Scratch { beam, seen, nodes, dots, .. } = scratch;
        beam.start(ef);
        seen.start(self.len());
        nodes.clear();
        nodes.extend(starts.iter().filter(|&&start| seen.is_new(start)));
        loop {
            self.codes.dots(probe, nodes, dots);
            for (&node, &dot) in nodes.iter().zip(dots.iter()) {
                beam.offer(Near { score: self.score(dot, scale, node), node });
            }
            let Some(nearest) = beam.follow() else { return };
            nodes.clear();
            lead(nearest, seen, nodes);
        }
    }
}
