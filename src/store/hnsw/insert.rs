//! Adding vectors: their codes first, by one writer; then their links, by as many as there are cores, while others
//! search.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::scratch::{Near, Scratch};
use super::{Error, Hnsw, LEVELS, Scale};

/// Nodes that are linked one after the other before several are at a time: who begins beside others finds nobody.
const ALONE: usize = 256;
/// Nodes that a search follows which is to find what is searched for itself.
const SURE: usize = 48;
/// Vectors that one core rounds at least before another is asked.
const ROUNDED: usize = 64;
/// Times that what such searches miss is linked to anew.
const MENDS: usize = 4;

impl Hnsw {
    /// The `count` lowest numbers that no vector has.
    pub fn numbers(&self, count: usize) -> impl Iterator<Item = u32> + '_ {
        self.free.iter().chain(self.len() as u32..u32::MAX).take(count)
    }

    /// Puts vectors at free numbers, each another one: all of them or, where one cannot be, none. They are found from now
    /// on, and quickly once they are [linked](Self::link) and [settled](Self::settle).
    ///
    /// # Errors
    /// As [`query`](Self::query), or a number that is taken or out of range.
    pub fn put(&mut self, vectors: &[(u32, &[f32])]) -> Result<(), Error> {
        let taken = |node: &u32| (*node as usize) < self.len() && !self.free.has(*node);
        if let Some((node, _)) = vectors.iter().find(|(node, _)| taken(node)) {
            return Err(Error::Taken(*node));
        }
        let rounded = vectors
            .par_iter()
            .with_min_len(ROUNDED)
            .map(|(_, vector)| self.round(vector))
            .collect::<Result<Vec<_>, _>>()?;
        let end = vectors.iter().map(|(node, _)| *node as usize + 1).max().unwrap_or(0).max(self.len());
        if end >= u32::MAX as usize {
            return Err(Error::Full);
        }
        for node in self.len() as u32..end as u32 {
            self.links.open(node, 0);
            self.gone.insert(node);
            self.free.insert(node);
        }
        self.codes.resize(end);
        self.scales.resize(end, Scale::default());
        for (&(node, _), (codes, scale)) in vectors.iter().zip(rounded) {
            self.free.remove(node);
            self.gone.remove(node);
            self.fresh.insert(node);
            self.codes.set(node as usize, &codes);
            self.scales[node as usize] = scale;
            self.links.open(node, level_of(self.levels, self.params.m));
            self.levels += 1;
        }
        Ok(())
    }

    /// Links nodes that were put, on all cores of the caller's pool; searches may run meanwhile.
    pub fn link(&self, nodes: &[u32]) {
        let nodes: Vec<u32> = nodes.iter().copied().filter(|node| !self.gone.has(*node)).collect();
        if self.entry().is_none()
            && let Some(&first) = nodes.first()
        {
            self.raise(first);
        }
        let linked = self.live().saturating_sub(self.fresh.count());
        let (first, rest) = nodes.split_at(nodes.len().min(ALONE.saturating_sub(linked)));
        let one = |scratch: &mut Option<Scratch>, node: &u32| {
            self.link_one(*node, scratch.get_or_insert_with(|| self.take_scratch()));
        };
        first.iter().fold(None, |mut scratch, node| {
            one(&mut scratch, node);
            scratch
        });
        rest.par_iter().for_each_init(|| None, one);
        for _ in 0..MENDS {
            let lost: Vec<_> =
                nodes.par_iter().filter_map(|node| Some((*node, self.misses(*node)?))).collect();
            lost.iter().for_each(|(node, nearest)| self.force(*node, nearest));
            if lost.is_empty() {
                break;
            }
        }
    }

    /// Says that nodes have been linked: searches rely on it.
    pub fn settle(&mut self, nodes: &[u32]) {
        nodes.iter().for_each(|node| {
            self.fresh.remove(*node);
        });
    }

    /// What a search for a node's own vector finds, where it misses the node: one in some ten thousand lies where
    /// following links passes by.
    fn misses(&self, node: u32) -> Option<Vec<u32>> {
        let (entry, top) = self.entry()?;
        let &scale = self.scales.get(node as usize)?;
        let mut scratch = self.take_scratch();
        let mut probe = self.codes.blank();
        self.codes.aim(&mut probe, node);
        let start = self.descend(&probe, scale, entry, top, 0, &mut scratch);
        self.follow(&probe, scale, &[start], 0, SURE, &mut scratch);
        let found: Vec<u32> = scratch.beam.found().map(|near| near.node).collect();
        self.put_scratch(scratch);
        (!found.contains(&node)).then_some(found)
    }

    fn link_one(&self, node: u32, scratch: &mut Scratch) {
        let Some((entry, top)) = self.entry() else { return };
        let Some(&scale) = self.scales.get(node as usize) else { return };
        let level = self.links.level(node);
        let mut probe = self.codes.blank();
        self.codes.aim(&mut probe, node);
        let mut starts = vec![self.descend(&probe, scale, entry, top, level.min(top), scratch)];
        let mut lists = Vec::new();
        for level in (0..=level.min(top)).rev() {
            self.follow(&probe, scale, &starts, level, self.params.ef_construction, scratch);
            let mut nears: Vec<Near> = scratch.beam.found().filter(|near| near.node != node).collect();
            starts.clear();
            starts.extend(nears.iter().map(|near| near.node));
            // What is gone leads on only until it is led past.
            if nears.iter().any(|near| !self.gone.has(near.node)) {
                nears.retain(|near| !self.gone.has(near.node));
            }
            self.choose(&mut nears, self.params.m, scratch);
            lists.push((level, nears));
        }
        // From the ground up, and all its own links first: who comes upon it at one level goes on from it below.
        for (level, nears) in lists.iter().rev() {
            let _held = self.links.lock(node);
            nears.iter().all(|near| self.links.add(node, *level, near.node));
        }
        for (level, nears) in lists.iter().rev() {
            for near in nears {
                self.link_back(near.node, *level, Near { node, score: near.score }, scratch);
            }
        }
        if !self.links.is_referred(node) {
            self.force(node, &starts);
        }
        if level > top {
            self.raise(node);
        }
    }

    /// Of nodes, nearest first, leaves at most `most`: each nearer to the origin than to any that is left before it, so
    /// that links lead into all directions (algorithm 4 of the paper). Where these are few, the nearest of the others
    /// make up a quarter of `most`: what lies apart from all others would be left with one link, and be missed by
    /// searches that pass that by.
    pub(super) fn choose(&self, nears: &mut Vec<Near>, most: usize, scratch: &mut Scratch) {
        let mut left = 0;
        let mut passed = Vec::new();
        while left < nears.len().min(most) {
            let chosen = nears[left].node;
            left += 1;
            let Some(&scale) = self.scales.get(chosen as usize) else { continue };
            scratch.nodes.clear();
            scratch.nodes.extend(nears[left..].iter().map(|near| near.node));
            self.codes.aim(&mut scratch.probe, chosen);
            self.codes.dots(&scratch.probe, &scratch.nodes, &mut scratch.dots);
            let mut dots = scratch.dots.iter();
            let mut at = 0;
            nears.retain(|near| {
                at += 1;
                let stays = at <= left
                    || dots.next().is_some_and(|&dot| self.score(dot, scale, near.node) < near.score);
                if !stays {
                    passed.push(*near);
                }
                stays
            });
        }
        nears.truncate(most);
        let few = (most / 4).saturating_sub(nears.len());
        passed.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
        nears.extend(passed.into_iter().take(few));
    }

    /// Adds a link from `node` to a new one, where it is among the best; without room the links are chosen anew.
    fn link_back(&self, node: u32, level: usize, new: Near, scratch: &mut Scratch) {
        let _held = self.links.lock(node);
        if self.links.add(node, level, new.node) {
            return;
        }
        let Some(&scale) = self.scales.get(node as usize) else { return };
        scratch.nodes.clear();
        scratch.nodes.extend(self.links.of(node, level));
        self.codes.aim(&mut scratch.probe, node);
        self.codes.dots(&scratch.probe, &scratch.nodes, &mut scratch.dots);
        let scored = scratch.nodes.iter().zip(&scratch.dots);
        let mut nears: Vec<Near> =
            scored.map(|(&node, &dot)| Near { node, score: self.score(dot, scale, node) }).collect();
        nears.push(new);
        nears.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
        self.choose(&mut nears, self.links.room(level), scratch);
        let chosen: Vec<u32> = nears.iter().map(|near| near.node).collect();
        let new = Some(new.node).filter(|new| chosen.contains(new));
        self.links.replace(node, level, &chosen, new);
    }

    /// Links to a node from the nearest of others that has a link to spare: what cannot be reached is lost. The link to
    /// what most others link to gives way.
    fn force(&self, node: u32, nearest: &[u32]) {
        for &from in nearest.iter().filter(|from| **from != node) {
            let _held = self.links.lock(from);
            if self.links.add(from, 0, node) {
                return;
            }
            let mut links: Vec<u32> = self.links.of(from, 0).collect();
            links.sort_unstable_by_key(|to| self.links.referrers(*to));
            while let Some(spared) = links.pop() {
                let kept: Vec<u32> = self.links.of(from, 0).filter(|to| *to != spared).collect();
                self.links.replace(from, 0, &kept, Some(node));
                if self.links.of(from, 0).any(|to| to == node) {
                    return;
                }
            }
        }
    }

    /// Makes a node the entry where it has more levels than that.
    fn raise(&self, node: u32) {
        let _held = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        let level = self.links.level(node);
        if self.entry().is_none_or(|(_, top)| level > top) {
            self.entry.store((level as u64) << 32 | u64::from(node), Ordering::Release);
        }
    }
}

/// The level of the `number`-th node: `floor(-ln(u) / ln(m))` of a number `u` between 0 and 1 made of it (SplitMix64).
fn level_of(number: u64, m: usize) -> usize {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let u = (z >> 11) as f64 / (1u64 << 53) as f64;
    let level = -(u.max(f64::MIN_POSITIVE)).ln() / (m as f64).ln();
    (level as usize).min(LEVELS)
}
