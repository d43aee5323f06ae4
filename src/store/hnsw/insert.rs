//! Adding vectors: their codes first, by one writer; then their links, by as many as there are cores, while others
//! search.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::scratch::{Near, Scratch};
use super::{Error, Hnsw, LEVELS};

impl Hnsw {
    /// Adds vectors; gives the number of the first. All of them or, where one cannot be, none.
    ///
    /// They are not found before [`link`](Self::link) has been called for their numbers.
    ///
    /// # Errors
    /// As [`query`](Self::query), or no number is left.
    pub fn append<'a>(&mut self, vectors: impl Iterator<Item = &'a [f32]>) -> Result<u32, Error> {
        let rounded = vectors.map(|vector| self.round(vector)).collect::<Result<Vec<_>, _>>()?;
        let first = self.len();
        if first + rounded.len() >= u32::MAX as usize {
            return Err(Error::Full);
        }
        self.codes.resize(first + rounded.len());
        for (at, (codes, scale)) in (first..).zip(rounded) {
            self.codes.set(at, &codes);
            self.scales.push(scale);
            self.links.push(level_of(at as u64, self.params.m));
        }
        Ok(first as u32)
    }

    /// Links nodes that were appended, each once, on all cores of the caller's pool.
    pub fn link(&self, nodes: std::ops::Range<u32>) {
        let mut nodes = nodes;
        if self.entry().is_none()
            && let Some(first) = nodes.next()
        {
            self.raise(first);
        }
        let one = |scratch: &mut Option<Scratch>, node| {
            self.link_one(node, scratch.get_or_insert_with(|| self.take_scratch()));
        };
        nodes.into_par_iter().for_each_init(|| None, one);
    }

    fn link_one(&self, node: u32, scratch: &mut Scratch) {
        let Some((entry, top)) = self.entry() else { return };
        let Some(&scale) = self.scales.get(node as usize) else { return };
        let level = self.links.level(node);
        let mut probe = self.codes.blank();
        self.codes.aim(&mut probe, node);
        let mut starts = vec![self.descend(&probe, scale, entry, top, level.min(top), scratch)];
        for level in (0..=level.min(top)).rev() {
            self.follow(&probe, scale, &starts, level, self.params.ef_construction, scratch);
            let mut nears = std::mem::take(&mut scratch.nears);
            nears.clear();
            nears.extend(scratch.beam.found().filter(|near| near.node != node));
            starts.clear();
            starts.extend(nears.iter().map(|near| near.node));
            self.choose(&mut nears, self.params.m, scratch);
            {
                let _held = self.links.lock(node);
                nears.iter().all(|near| self.links.add(node, level, near.node));
            }
            for near in &nears {
                self.link_back(near.node, level, Near { node, score: near.score }, scratch);
            }
            if level == 0 && !self.links.is_referred(node) {
                self.force(node, &starts);
            }
            scratch.nears = nears;
        }
        if level > top {
            self.raise(node);
        }
    }

    /// Of nodes, nearest first, leaves at most `most`: each nearer to the origin than to any that is left before it, so
    /// that links lead into all directions (algorithm 4 of the paper).
    fn choose(&self, nears: &mut Vec<Near>, most: usize, scratch: &mut Scratch) {
        let mut left = 0;
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
                at <= left || dots.next().is_some_and(|&dot| self.score(dot, scale, near.node) < near.score)
            });
        }
        nears.truncate(most);
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

    /// Links to a node that nobody chose from the nearest that has a link to spare: what cannot be reached is lost.
    fn force(&self, node: u32, nearest: &[u32]) {
        for &from in nearest {
            let _held = self.links.lock(from);
            let links: Vec<u32> = self.links.of(from, 0).collect();
            for spared in (0..links.len()).rev() {
                let kept: Vec<u32> = links.iter().copied().filter(|to| *to != links[spared]).collect();
                self.links.replace(from, 0, &kept, Some(node));
                if self.links.is_referred(node) {
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
