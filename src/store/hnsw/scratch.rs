//! What a search writes to while it runs; kept for the next one.

use crate::ops::codes::Probe;

/// A node and how near it is: higher is nearer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Near {
    pub score: f32,
    pub node: u32,
}

/// The nearest nodes found so far, nearest first, and which of them have been followed.
#[derive(Debug, Default)]
pub(super) struct Beam {
    found: Vec<(Near, bool)>,
    width: usize,
    /// All before it have been followed.
    next: usize,
}

impl Beam {
    /// Begins anew, with room for so many.
    pub fn start(&mut self, width: usize) {
        self.found.clear();
        (self.width, self.next) = (width.max(1), 0);
    }

    /// Takes a node where it is among the nearest.
    #[inline]
    pub fn offer(&mut self, near: Near) {
        if self.found.len() >= self.width
            && self.found.last().is_some_and(|(last, _)| last.score >= near.score)
        {
            return;
        }
        let at = self.found.partition_point(|(other, _)| other.score >= near.score);
        if self.found.len() >= self.width {
            self.found.pop();
        }
        self.found.insert(at, (near, false));
        self.next = self.next.min(at);
    }

    /// The nearest that has not been followed.
    pub fn follow(&mut self) -> Option<u32> {
        while let Some((near, followed)) = self.found.get_mut(self.next) {
            self.next += 1;
            if !std::mem::replace(followed, true) {
                return Some(near.node);
            }
        }
        None
    }

    /// Nearest first.
    pub fn found(&self) -> impl ExactSizeIterator<Item = Near> + '_ {
        self.found.iter().map(|(near, _)| *near)
    }
}

/// Nodes that a search has seen: those that hold its number.
#[derive(Debug, Default)]
pub(super) struct Seen {
    marks: Vec<u16>,
    number: u16,
}

impl Seen {
    /// Forgets all, of so many nodes.
    pub fn start(&mut self, nodes: usize) {
        if self.marks.len() < nodes {
            self.marks.resize(nodes, 0);
        }
        self.number = self.number.wrapping_add(1);
        if self.number == 0 {
            self.marks.fill(0);
            self.number = 1;
        }
    }

    /// Whether it is seen for the first time; what is not there never is.
    #[inline]
    pub fn is_new(&mut self, node: u32) -> bool {
        let Some(mark) = self.marks.get_mut(node as usize) else { return false };
        std::mem::replace(mark, self.number) != self.number
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Scratch {
    pub beam: Beam,
    pub seen: Seen,
    /// Nodes to score, and their products.
    pub nodes: Vec<u32>,
    pub dots: Vec<i32>,
    /// A node's own vector.
    pub probe: Probe,
}
