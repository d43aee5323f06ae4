//! Following links towards a vector.

use super::scratch::{Near, Scratch};
use super::{Hnsw, Query, Scale};
use crate::ops::codes::Probe;

/// A node that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    pub node: u32,
    /// By its 8 bits.
    pub score: f32,
}

impl Hnsw {
    /// The `k` nearest, nearest first, as far as following the `ef` nearest at a time finds them.
    pub fn search(&self, query: &Query, k: usize, ef: usize) -> Vec<Found> {
        let Some((entry, level)) = self.entry() else { return Vec::new() };
        let mut scratch = self.take_scratch();
        let scale = Scale { scale: query.scale, bias: query.bias };
        let start = self.descend(&query.probe, scale, entry, level, 0, &mut scratch);
        self.follow(&query.probe, scale, &[start], 0, ef.max(k), &mut scratch);
        let found = scratch.beam.found().take(k).map(|Near { score, node }| Found { node, score }).collect();
        self.put_scratch(scratch);
        found
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
            nodes.extend(self.links.of(nearest, level).filter(|&node| seen.is_new(node)));
        }
    }
}
