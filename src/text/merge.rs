//! Joins neighbouring symbols, best pair first, until none can be joined: the core of BPE and SentencePiece.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Marks the end of the list.
const NONE: u32 = u32::MAX;

/// A stretch of the text and the token it is, if it is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    pub start: u32,
    /// 0 once it is joined to its left neighbour.
    pub len: u32,
    pub id: Option<u32>,
    prev: u32,
    next: u32,
}

impl Symbol {
    pub fn end(&self) -> usize {
        (self.start + self.len) as usize
    }
}

/// Two symbols that join. Best first: lowest rank, then leftmost.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: u32,
    right: u32,
    /// Bytes of both when they were queued.
    len: u32,
    id: u32,
}

/// Buffers that calls share, so that encoding allocates per text and not per word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Pair>>,
}

impl Merger {
    /// Forgets the last text.
    pub fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends the next symbol of the text, `len` bytes long.
    pub fn push(&mut self, len: usize, id: Option<u32>) {
        let n = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |s| s.start + s.len);
        if let Some(last) = self.symbols.last_mut() {
            last.next = n;
        }
        self.symbols.push(Symbol {
            start,
            len: len as u32,
            id,
            prev: n.checked_sub(1).unwrap_or(NONE),
            next: NONE,
        });
    }

    /// Joins pairs in the order of `rank`, which gives rank (lower is better) and id of the joined token, or
    /// `None` where two symbols do not join. O(n log n) in symbols. Gives what is left, in order.
    pub fn run(
        &mut self,
        rank: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) -> impl Iterator<Item = &Symbol> {
        for right in 1..self.symbols.len() as u32 {
            self.offer(right - 1, right, &rank);
        }
        while let Some(Reverse(Pair { left, right, len, id, .. })) = self.queue.pop() {
            let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
            // Either side may have been joined to something else since the pair was queued.
            if l.len == 0 || r.len == 0 || l.len + r.len != len || l.next != right {
                continue;
            }
            self.symbols[left as usize] = Symbol { len, id: Some(id), next: r.next, ..l };
            self.symbols[right as usize].len = 0;
            if r.next != NONE {
                self.symbols[r.next as usize].prev = left;
                self.offer(left, r.next, &rank);
            }
            if l.prev != NONE {
                self.offer(l.prev, left, &rank);
            }
        }
        self.symbols.iter().filter(|s| s.len > 0)
    }

    fn offer(&mut self, left: u32, right: u32, rank: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((rank, id)) = rank(l, r) {
            self.queue.push(Reverse(Pair { rank, left, right, len: l.len + r.len, id }));
        }
    }
}
