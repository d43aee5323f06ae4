//! The vocabulary: token id to bytes and back, in three allocations.
//!
//! A hash map of owned strings takes 100 bytes a token; this takes the token's bytes and 13 to 21 more:
//! 6 MB instead of 26 for Gemma's 262,144 tokens.

use std::hash::{BuildHasher, RandomState};

use super::TokenKind;

/// Token bytes as they appear in text (byte symbols and word-boundary marks already decoded).
pub(super) struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    /// Open addressing with linear probing, at most half full; id + 1, 0 is free.
    slots: Vec<u32>,
    hasher: RandomState,
}

impl Vocab {
    /// Room for `n` tokens.
    pub fn with_capacity(n: usize) -> Self {
        Vocab {
            bytes: Vec::with_capacity(n.saturating_mul(8)),
            ends: Vec::with_capacity(n),
            kinds: Vec::with_capacity(n),
            slots: vec![0; (n.max(1) * 2).next_power_of_two()],
            hasher: RandomState::new(),
        }
    }

    /// Appends the next token; false where all of them together would pass 4 GiB, or more come than the room
    /// asked for. Where two have the same bytes, [`find`](Self::find) gives the first. Only normal
    /// tokens are found by text: the others are matched before any merging, or never.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8], kind: TokenKind) -> bool {
        let end = self.bytes.len().checked_add(bytes.len()).and_then(|n| u32::try_from(n).ok());
        let Some(end) = end.filter(|_| self.ends.len() * 2 < self.slots.len()) else { return false };
        let id = self.ends.len() as u32;
        self.bytes.extend_from_slice(bytes);
        self.ends.push(end);
        self.kinds.push(kind);
        let findable = matches!(kind, TokenKind::Normal | TokenKind::Unused);
        if findable
            && !bytes.is_empty()
            && let Err(slot) = self.slot(bytes)
        {
            self.slots[slot] = id + 1;
        }
        true
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = if id == 0 { 0 } else { *self.ends.get(id - 1)? as usize };
        self.bytes.get(start..end)
    }

    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.slot(bytes).ok()
    }

    /// The id that holds these bytes, or else the free slot where it would be.
    fn slot(&self, bytes: &[u8]) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut i = self.hasher.hash_one(bytes) as usize & mask;
        loop {
            match self.slots[i] {
                0 => return Err(i),
                id if self.get(id - 1) == Some(bytes) => return Ok(id - 1),
                _ => i = (i + 1) & mask,
            }
        }
    }
}
