//! Taking vectors out.
//!
//! A node that is removed is found no more at once, yet searches still follow its links. [`Hnsw::lead_past`] leads the
//! links of its neighbours past it (as FreshDiskANN does: Singh et al., 2021), after which [`Hnsw::release`] frees its
//! number for another vector. So memory does not grow with what was removed, and what is left stays linked.

use std::ops::Range;

use rayon::prelude::*;

use super::scratch::Near;
use super::{Hnsw, NOWHERE};

/// Of nodes so many may be gone before [`Hnsw::wants_compacting`]: one in eight.
const GONE: usize = 8;

impl Hnsw {
    /// Takes a node out; false where it is not there.
    pub fn remove(&mut self, node: u32) -> bool {
        (node as usize) < self.len() && !self.free.has(node) && self.gone.insert(node)
    }

    /// Whether so many nodes are gone that compacting is worth its time.
    pub fn wants_compacting(&self) -> bool {
        (self.gone.count() - self.free.count()) * GONE > self.len()
    }

    /// Nodes that are gone and whose numbers are not free yet.
    pub fn leaving(&self) -> Vec<u32> {
        self.gone.iter().filter(|node| !self.free.has(*node)).collect()
    }

    /// Leads the links of these nodes past what is gone, on all cores of the caller's pool; searches may run meanwhile.
    pub fn lead_past(&self, nodes: Range<u32>) {
        let end = nodes.end.min(self.len() as u32);
        (nodes.start..end).into_par_iter().filter(|node| !self.gone.has(*node)).for_each(|n| self.bypass(n));
    }

    /// Frees the numbers of nodes that are gone. Links that still lead there are led past them first: where
    /// [`lead_past`](Self::lead_past) was called for all nodes before, few.
    pub fn release(&mut self, leaving: &[u32]) {
        self.lead_past(0..self.len() as u32);
        for &node in leaving.iter().filter(|node| self.gone.has(**node)) {
            self.links.clear(node);
            self.free.insert(node);
            self.fresh.remove(node);
        }
        self.choose_entry();
        // What only nodes that are gone led to.
        let lost =
            |node: &u32| !(self.gone.has(*node) || self.fresh.has(*node) || self.links.is_referred(*node));
        let lost: Vec<u32> = (0..self.len() as u32).filter(lost).collect();
        self.link(&lost);
    }

    /// Replaces the links of a node that lead to what is gone by those that lead on from there.
    fn bypass(&self, node: u32) {
        let mut scratch = self.take_scratch();
        for level in 0..=self.links.level(node) {
            let links: Vec<u32> = self.links.of(node, level).collect();
            if !links.iter().any(|to| self.gone.has(*to)) {
                continue;
            }
            scratch.seen.start(self.len());
            scratch.seen.is_new(node);
            let mut nodes: Vec<u32> = Vec::new();
            for &to in &links {
                let further = self.links.of(to, level).filter(|_| self.gone.has(to));
                let reached = std::iter::once(to).chain(further);
                nodes.extend(reached.filter(|&next| !self.gone.has(next) && scratch.seen.is_new(next)));
            }
            let Some(&scale) = self.scales.get(node as usize) else { continue };
            self.codes.aim(&mut scratch.probe, node);
            self.codes.dots(&scratch.probe, &nodes, &mut scratch.dots);
            let scored = nodes.iter().zip(&scratch.dots);
            let mut nears: Vec<Near> =
                scored.map(|(&node, &dot)| Near { node, score: self.score(dot, scale, node) }).collect();
            nears.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
            self.choose(&mut nears, self.links.room(level), &mut scratch);
            let chosen: Vec<u32> = nears.iter().map(|near| near.node).collect();
            let _held = self.links.lock(node);
            self.links.set(node, level, &chosen);
        }
        self.put_scratch(scratch);
    }

    /// Begins searches at a live node of the highest level.
    fn choose_entry(&mut self) {
        let linked = |node: &u32| !(self.gone.has(*node) || self.fresh.has(*node));
        let live = (0..self.len() as u32).filter(linked);
        let highest = live
            .map(|node| (self.links.level(node), node))
            .max_by_key(|(level, node)| (*level, u32::MAX - node));
        *self.entry.get_mut() =
            highest.map_or(NOWHERE, |(level, node)| (level as u64) << 32 | u64::from(node));
    }
}
