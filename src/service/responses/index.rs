//! Which responses there are, by when they were last used.

use std::collections::{BTreeMap, HashMap};

use super::{Limits, ResponseId};

/// The responses and the bytes of their files.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By the number of their last use, which only grows.
    by_use: BTreeMap<u64, (ResponseId, u64)>,
    uses: HashMap<ResponseId, u64>,
    next: u64,
    bytes: u64,
}

impl Index {
    /// Takes a response in, as the one used last.
    pub fn insert(&mut self, id: ResponseId, bytes: u64) {
        self.remove(&id);
        self.uses.insert(id.clone(), self.next);
        self.by_use.insert(self.next, (id, bytes));
        self.next += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Makes a response the one used last, if it is here.
    pub fn used(&mut self, id: &ResponseId) {
        if let Some(bytes) = self.remove(id) {
            self.insert(id.clone(), bytes);
        }
    }

    /// Forgets a response; gives its bytes.
    pub fn remove(&mut self, id: &ResponseId) -> Option<u64> {
        let (_, bytes) = self.by_use.remove(&self.uses.remove(id)?)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        Some(bytes)
    }

    /// Forgets what was not used for longest until the rest is within the limits; gives what it forgot.
    pub fn take_over(&mut self, limits: Limits) -> Vec<ResponseId> {
        let mut over = Vec::new();
        while self.by_use.len() > limits.count || self.bytes > limits.bytes {
            let Some((_, (id, bytes))) = self.by_use.pop_first() else { break };
            self.bytes = self.bytes.saturating_sub(bytes);
            self.uses.remove(&id);
            over.push(id);
        }
        over
    }
}
