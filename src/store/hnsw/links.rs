//! Who is linked to whom, a list a node and level.
//!
//! Lists are read without a lock while others are written: a number is one atomic, a list is written by whoever holds
//! its node's lock. A reader may see half of an old list and half of a new one, both of whose nodes are there; nothing
//! that searches needs more.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks that nodes share.
const LOCKS: usize = 1024;

/// Lists of at most `2 m` links at level 0 and `m` above.
#[derive(Debug)]
pub(super) struct Links {
    m: usize,
    /// For every node its number of links, and room for them.
    ground: Vec<AtomicU32>,
    /// For every node the same for each of its levels above 0.
    upper: Vec<Box<[AtomicU32]>>,
    /// Links at level 0 to each node. Its last one is never taken, so that what was found once is found again.
    referrers: Vec<AtomicU32>,
    locks: Box<[Mutex<()>]>,
}

impl Links {
    pub fn new(m: usize) -> Links {
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        Links { m, ground: Vec::new(), upper: Vec::new(), referrers: Vec::new(), locks }
    }

    /// Links that a list has room for.
    pub fn room(&self, level: usize) -> usize {
        if level == 0 { 2 * self.m } else { self.m }
    }

    /// Gives a node, the next or one without links, the levels `0..=level`.
    pub fn open(&mut self, node: u32, level: usize) {
        let zeros = |count: usize| (0..count).map(|_| AtomicU32::new(0));
        let upper = zeros(level * (self.m + 1)).collect();
        match self.upper.get_mut(node as usize) {
            Some(lists) => *lists = upper,
            None => {
                self.ground.extend(zeros(self.room(0) + 1));
                self.upper.push(upper);
                self.referrers.push(AtomicU32::new(0));
            }
        }
    }

    /// Takes all links and levels above 0 from a node.
    pub fn clear(&mut self, node: u32) {
        self.set(node, 0, &[]);
        if let Some(lists) = self.upper.get_mut(node as usize) {
            *lists = Box::default();
        }
    }

    /// Makes a node's links these, whichever were the last to their nodes; the caller holds its lock.
    pub fn set(&self, node: u32, level: usize, to: &[u32]) {
        let Some((count, links)) = self.list(node, level).split_first() else { return };
        let to = &to[..to.len().min(links.len())];
        if level == 0 {
            to.iter().for_each(|&to| self.refer(to));
            let used = count.load(Ordering::Relaxed) as usize;
            for old in links.iter().take(used).map(|link| link.load(Ordering::Relaxed)) {
                if let Some(count) = self.referrers.get(old as usize) {
                    count.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        for (link, to) in links.iter().zip(to) {
            link.store(*to, Ordering::Relaxed);
        }
        count.store(to.len() as u32, Ordering::Release);
    }

    /// The highest level of a node.
    pub fn level(&self, node: u32) -> usize {
        self.upper.get(node as usize).map_or(0, |lists| lists.len() / (self.m + 1))
    }

    fn list(&self, node: u32, level: usize) -> &[AtomicU32] {
        let node = node as usize;
        let found = match level {
            0 => self.ground.get(node * (self.room(0) + 1)..(node + 1) * (self.room(0) + 1)),
            _ => self.upper.get(node).and_then(|l| l.get((level - 1) * (self.m + 1)..level * (self.m + 1))),
        };
        found.unwrap_or_default()
    }

    /// A node's links, none where it has no such level.
    pub fn of(&self, node: u32, level: usize) -> impl Iterator<Item = u32> + '_ {
        let list = self.list(node, level);
        let (count, links) = list
            .split_first()
            .map_or((0, list), |(count, links)| (count.load(Ordering::Acquire) as usize, links));
        links.iter().take(count).map(|link| link.load(Ordering::Relaxed))
    }

    /// Whoever holds it may change the node's lists.
    pub fn lock(&self, node: u32) -> MutexGuard<'_, ()> {
        let lock = &self.locks[node as usize % self.locks.len()];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Links at level 0 that lead to the node.
    pub fn referrers(&self, node: u32) -> u32 {
        self.referrers.get(node as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Whether there is one.
    pub fn is_referred(&self, node: u32) -> bool {
        self.referrers(node) > 0
    }

    /// Counts one link less to a node, unless it is the last.
    fn unrefer(&self, to: u32) -> bool {
        let Some(count) = self.referrers.get(to as usize) else { return true };
        let less = |count: u32| (count > 1).then(|| count - 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn refer(&self, to: u32) {
        if let Some(count) = self.referrers.get(to as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds a link, unless it is there; false where there is no room. The caller holds the node's lock.
    pub fn add(&self, node: u32, level: usize, to: u32) -> bool {
        if self.of(node, level).any(|there| there == to) {
            return true;
        }
        let Some((count, links)) = self.list(node, level).split_first() else { return true };
        let used = count.load(Ordering::Relaxed);
        let Some(free) = links.get(used as usize) else { return false };
        free.store(to, Ordering::Relaxed);
        if level == 0 {
            self.refer(to);
        }
        count.store(used + 1, Ordering::Release);
        true
    }

    /// Leaves of a full list's links those to keep, and adds one to `new`; the caller holds the node's lock. A link at
    /// level 0 that is the last to its node stays; where there is no room then, `new` is not linked to.
    pub fn replace(&self, node: u32, level: usize, keep: &[u32], new: Option<u32>) {
        let Some((count, links)) = self.list(node, level).split_first() else { return };
        let used = count.load(Ordering::Relaxed) as usize;
        let mut kept = 0;
        for at in 0..used.min(links.len()) {
            let to = links[at].load(Ordering::Relaxed);
            if keep.contains(&to) || (level == 0 && !self.unrefer(to)) {
                links[kept].store(to, Ordering::Relaxed);
                kept += 1;
            }
        }
        if let (Some(new), Some(free)) = (new, links.get(kept)) {
            free.store(new, Ordering::Relaxed);
            kept += 1;
            if level == 0 {
                self.refer(new);
            }
        }
        count.store(kept as u32, Ordering::Release);
    }

    /// Bytes that the lists take.
    pub fn bytes(&self) -> usize {
        let upper = self.upper.iter().map(|lists| size_of_val(lists) + lists.len() * 4);
        (self.ground.len() + self.referrers.len()) * 4 + upper.sum::<usize>()
    }
}
