//! Fills chunks with the pieces of one section.

use std::collections::HashMap;

use super::super::pieces::{Of, Piece, Scale};
use super::{Chunk, Path, enter};

pub(super) struct Packer<'p, 'd> {
    scale: &'p Scale<'p>,
    /// Tokens that a chunk may repeat.
    overlap: usize,
    /// Names above all headings.
    above: &'p [String],
    /// Headings above the chunk that is open.
    path: Path,
    /// The pieces of that chunk.
    open: Vec<Piece<'d>>,
    /// How many of them the chunk before has too: the first.
    repeated: usize,
    /// What they cost.
    sum: usize,
    /// Heads of tables.
    heads: HashMap<usize, Piece<'d>>,
    pub(super) done: Vec<Chunk>,
}

impl<'p, 'd> Packer<'p, 'd> {
    pub(super) fn new(scale: &'p Scale<'p>, overlap: usize, above: &'p [String], path: Path) -> Self {
        let (open, heads, done) = (Vec::new(), HashMap::new(), Vec::new());
        Packer { scale, overlap, above, path, open, repeated: 0, sum: 0, heads, done }
    }

    pub(super) fn pack(&mut self, pieces: Vec<Piece<'d>>) {
        for piece in pieces {
            if let Of::Head(table) = piece.part {
                self.heads.insert(table, Piece { again: true, ..piece.clone() });
            }
            self.make_room(&piece);
            let head = self.head(&piece).filter(|head| self.fits(head.cost() + piece.cost()));
            self.push(head);
            self.push(Some(piece));
        }
        while self.open.len() > self.repeated {
            self.close(None);
        }
    }

    /// Ends chunks until the piece, and the head of its table if that is not there, has room.
    fn make_room(&mut self, piece: &Piece<'d>) {
        loop {
            let cost = piece.cost() + self.head(piece).map_or(0, |head| head.cost());
            if self.open.is_empty() || self.fits(cost) {
                return;
            }
            if self.open.len() > self.repeated {
                self.close(Some(piece.part));
            } else {
                self.forget();
            }
        }
    }

    fn push(&mut self, piece: Option<Piece<'d>>) {
        self.sum += piece.as_ref().map_or(0, Piece::cost);
        self.open.extend(piece);
    }

    /// Whether there is room for so many tokens more. The gap before the first piece is counted, and is none.
    fn fits(&self, tokens: usize) -> bool {
        let first = self.open.first().is_some_and(|first| first.cost() > first.tokens);
        self.sum + tokens <= self.scale.room() + usize::from(first)
    }

    /// The head of the table that a row is of, if the chunk does not have it and it leaves room for rows.
    fn head(&self, piece: &Piece<'d>) -> Option<Piece<'d>> {
        let Of::Row(table) = piece.part else { return None };
        let has = self
            .open
            .last()
            .is_some_and(|last| matches!(last.part, Of::Row(of) | Of::Head(of) if of == table));
        self.heads.get(&table).filter(|head| !has && head.tokens * 2 <= self.scale.room()).cloned()
    }

    /// Leaves out the first of what is repeated.
    fn forget(&mut self) {
        if self.repeated > 0 {
            let piece = self.open.remove(0);
            self.repeated -= 1;
            self.sum = self.sum.saturating_sub(piece.cost());
        }
    }

    /// Ends the chunk with as many of its pieces as fit, at least one that is not repeated; what is left, and what is
    /// shared, begins the next one.
    fn close(&mut self, next: Option<Of>) {
        let mut keep = self.open.len();
        if next.is_some() {
            keep = self.without_headings(keep);
        }
        let mut text = join(self.open.get(..keep).unwrap_or_default());
        while !self.scale.fits(&text) {
            if self.repeated > 0 {
                self.forget();
                keep -= 1;
            } else if keep > 1 && self.open.first().is_some_and(|first| first.again) {
                self.open.remove(0);
                keep -= 1;
            } else if keep > 1 {
                keep = self.without_headings(keep - 1);
            } else {
                break;
            }
            text = join(self.open.get(..keep).unwrap_or_default());
        }
        let mut left = self.open.split_off(keep);
        let done = std::mem::take(&mut self.open);
        let part = left.first().map(|piece| piece.part).or(next);
        self.emit(text, &done);
        self.repeated = 0;
        if part == Some(Of::Text) {
            self.open = self.shared(&done);
            self.repeated = self.open.len();
        }
        self.open.append(&mut left);
        self.sum = self.open.iter().map(Piece::cost).sum();
    }

    /// So many pieces without the headings at their end, which go with what is under them, if more than those are new.
    fn without_headings(&self, keep: usize) -> usize {
        let mut fewer = keep;
        while fewer > self.repeated
            && self.open.get(fewer - 1).is_some_and(|last| last.again || is_heading(last))
        {
            fewer -= 1;
        }
        if fewer > self.repeated { fewer } else { keep }
    }

    fn emit(&mut self, text: String, done: &[Piece<'d>]) {
        let page = done.get(self.repeated.min(done.len().saturating_sub(1))).and_then(|piece| piece.page);
        let headings =
            self.above.iter().chain(self.path.iter().map(|(_, heading)| heading)).cloned().collect();
        self.done.push(Chunk { text, headings, page, number: 0 });
        for piece in done {
            if let Of::Heading(level) = piece.part {
                enter(&mut self.path, level, piece.text);
            }
        }
    }

    /// The last sentences of a chunk, but not all of it, that the next one repeats.
    fn shared(&self, done: &[Piece<'d>]) -> Vec<Piece<'d>> {
        let (mut sum, mut count) = (0, 0);
        for piece in done.iter().skip(1).rev().take_while(|piece| piece.part == Of::Text) {
            sum += if count > 0 { piece.cost() } else { piece.tokens };
            if sum > self.overlap {
                break;
            }
            count += 1;
        }
        let mut shared = done.get(done.len() - count..).unwrap_or_default();
        while !shared.is_empty() && self.scale.of(&join(shared)) > self.overlap {
            shared = shared.get(1..).unwrap_or_default();
        }
        shared.to_vec()
    }
}

fn is_heading(piece: &Piece<'_>) -> bool {
    matches!(piece.part, Of::Heading(_))
}

fn join(pieces: &[Piece<'_>]) -> String {
    let mut text = String::new();
    for piece in pieces {
        if !text.is_empty() {
            // A head that is there again begins its table.
            text.push_str(if piece.again { "\n\n" } else { piece.gap });
        }
        text.push_str(piece.text);
    }
    text
}
