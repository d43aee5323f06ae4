//! The pool of key-value blocks that one chat model's sequences share, and what past sequences left in it.
//!
//! A block that is full is *sealed*: it gets a content, named by its tokens and by the content of the block before
//! it, so that equal names mean equal keys and values. Sequences that begin with the same tokens hold the same
//! blocks. A sealed block nobody holds is *idle*: it keeps its content until its room is needed, longest idle
//! first. Names are compared whole, not by hash: nobody can be given another's blocks by a collision.
//!
//! Tables are released from their end, so a block is never idle for longer than those that continue it: what is
//! given up first is always the end of a chain.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Index of a block of [`BlockPool::block_size`] token positions in the device's key-value cache.
pub type BlockId = u32;

/// A block to copy, and where to.
pub type BlockCopy = (BlockId, BlockId);

/// Names a content; never reused. 0 is what comes before the first block.
type ContentId = u64;

/// What a sealed block holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    before: ContentId,
    tokens: Arc<[u32]>,
}

#[derive(Debug, Clone)]
struct Content {
    id: ContentId,
    name: Name,
}

#[derive(Debug, Clone, Default)]
struct Block {
    holders: u32,
    content: Option<Content>,
    /// When it became idle; its key in [`BlockPool::idle`].
    idle_since: u64,
}

/// Hands out blocks and takes them back. Invariant: free + idle + held = total, and no block is two of these.
#[derive(Debug)]
pub struct BlockPool {
    block_size: usize,
    blocks: Vec<Block>,
    /// Without content. Last in, first out: the block freed last is the warmest in cache.
    free: Vec<BlockId>,
    /// Every sealed block.
    sealed: HashMap<Name, BlockId>,
    /// Sealed blocks nobody holds, longest idle first.
    idle: BTreeMap<u64, BlockId>,
    releases: u64,
    contents: ContentId,
}

impl BlockPool {
    /// `total` blocks of `block_size` positions, all free.
    pub fn new(total: usize, block_size: usize) -> Self {
        BlockPool {
            block_size: block_size.max(1),
            blocks: vec![Block::default(); total],
            free: (0..total as BlockId).rev().collect(),
            sealed: HashMap::new(),
            idle: BTreeMap::new(),
            releases: 0,
            contents: 0,
        }
    }

    /// Token positions a block holds.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks in the pool.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that can be had: free or idle.
    pub fn num_available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Blocks that `tokens` positions need.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// Takes the sealed blocks that `tokens` begin with: a new table.
    pub fn take_prefix(&mut self, tokens: &[u32]) -> Vec<BlockId> {
        let (mut table, mut before) = (Vec::new(), 0);
        for tokens in tokens.chunks_exact(self.block_size) {
            let Some(&block) = self.sealed.get(&Name { before, tokens: tokens.into() }) else { break };
            self.hold(block);
            table.push(block);
            before = self.content_of(block);
        }
        table
    }

    /// Grows `table` until it covers `tokens` positions. Takes all blocks it needs or none.
    pub fn grow(&mut self, table: &mut Vec<BlockId>, tokens: usize) -> bool {
        let need = self.blocks_for(tokens).saturating_sub(table.len());
        if need > self.num_available() {
            return false;
        }
        for _ in 0..need {
            let Some(block) = self.free.pop().or_else(|| self.forget_longest_idle()) else { return false };
            self.blocks[block as usize].holders = 1;
            table.push(block);
        }
        true
    }

    /// A second table over the first `positions` of `table`: whole blocks are shared, of a last one that is not whole
    /// it gets a block of its own. That one is to be copied before either is written: from, to. `None`: no block is
    /// left, and nothing has changed.
    pub fn fork(&mut self, table: &[BlockId], positions: usize) -> Option<(Vec<BlockId>, Option<BlockCopy>)> {
        let whole = positions / self.block_size;
        let mut forked: Vec<BlockId> = table[..whole].to_vec();
        let part = table.get(whole).copied().filter(|_| !positions.is_multiple_of(self.block_size));
        // Held first: taking a block may give up idle ones, and these are not to be among them.
        forked.iter().for_each(|&block| self.hold(block));
        if part.is_some() && !self.grow(&mut forked, positions) {
            self.release(&mut forked);
            return None;
        }
        let copy = part.zip(forked.last().copied());
        Some((forked, copy))
    }

    /// Notes that block `at` of `table`, and all before it, are computed, and that it holds `tokens`. Where another
    /// block has the same content already, the table takes that one and gives its own back.
    pub fn seal(&mut self, table: &mut [BlockId], at: usize, tokens: &[u32]) {
        debug_assert_eq!(tokens.len(), self.block_size);
        let before = at.checked_sub(1).map_or(0, |last| self.content_of(table[last]));
        let name = Name { before, tokens: tokens.into() };
        let block = table[at];
        match self.sealed.get(&name) {
            Some(&same) => {
                self.hold(same);
                self.let_go(block);
                table[at] = same;
            }
            None => {
                self.contents += 1;
                self.sealed.insert(name.clone(), block);
                self.blocks[block as usize].content = Some(Content { id: self.contents, name });
            }
        }
    }

    /// Takes every block of `table` back and empties it.
    pub fn release(&mut self, table: &mut Vec<BlockId>) {
        for block in table.drain(..).rev() {
            self.let_go(block);
        }
    }

    /// The content of a sealed block. The blocks of a table are sealed in order, each before the next is asked for.
    fn content_of(&self, block: BlockId) -> ContentId {
        let content = &self.blocks[block as usize].content;
        debug_assert!(content.is_some(), "block {block} is not sealed");
        content.as_ref().map_or(ContentId::MAX, |c| c.id)
    }

    fn hold(&mut self, block: BlockId) {
        let state = &mut self.blocks[block as usize];
        if state.holders == 0 {
            self.idle.remove(&state.idle_since);
        }
        state.holders += 1;
    }

    fn let_go(&mut self, block: BlockId) {
        let state = &mut self.blocks[block as usize];
        state.holders = state.holders.saturating_sub(1);
        if state.holders > 0 {
            return;
        }
        if state.content.is_some() {
            self.releases += 1;
            state.idle_since = self.releases;
            self.idle.insert(self.releases, block);
        } else {
            self.free.push(block);
        }
    }

    fn forget_longest_idle(&mut self) -> Option<BlockId> {
        let (_, block) = self.idle.pop_first()?;
        if let Some(content) = self.blocks[block as usize].content.take() {
            self.sealed.remove(&content.name);
        }
        Some(block)
    }

    /// Checks the invariants against the living sequences: each one's table, and how many leading positions it has
    /// computed.
    pub fn check_integrity<'a>(
        &self,
        sequences: impl Iterator<Item = (&'a [BlockId], usize)>,
    ) -> Result<(), String> {
        self.check(sequences, true)
    }

    /// The same where sequences never seal what they compute.
    pub fn check_unsealed<'a>(
        &self,
        sequences: impl Iterator<Item = (&'a [BlockId], usize)>,
    ) -> Result<(), String> {
        self.check(sequences, false)
    }

    fn check<'a>(
        &self,
        sequences: impl Iterator<Item = (&'a [BlockId], usize)>,
        seals: bool,
    ) -> Result<(), String> {
        let mut holders = vec![0u32; self.total()];
        for (table, computed) in sequences {
            for (at, &block) in table.iter().enumerate() {
                let count = holders
                    .get_mut(block as usize)
                    .ok_or_else(|| format!("block {block} is not in the pool"))?;
                *count += 1;
                let state = &self.blocks[block as usize];
                let full = (at + 1) * self.block_size <= computed;
                if (full && seals) != state.content.is_some() {
                    return Err(format!("block {block} is full: {full}, but sealed: {}", !full));
                }
                if !full && state.holders > 1 {
                    return Err(format!("block {block} is still written and has {} holders", state.holders));
                }
            }
        }
        if let Some(block) = (0..self.total()).find(|&b| holders[b] != self.blocks[b].holders) {
            return Err(format!("block {block} has not the holders that the pool counts"));
        }
        let held = holders.iter().filter(|&&h| h > 0).count();
        let (free, idle) = (self.free.len(), self.idle.len());
        if held + free + idle != self.total() {
            return Err(format!("{held} held + {free} free + {idle} idle is not {}", self.total()));
        }
        self.check_contents()
    }

    fn check_contents(&self) -> Result<(), String> {
        let state = |block: BlockId| &self.blocks[block as usize];
        if let Some(block) = self.free.iter().find(|&&b| state(b).holders > 0 || state(b).content.is_some()) {
            return Err(format!("block {block} is free, and held or sealed"));
        }
        let idle = |(&since, &block): (&u64, &BlockId)| {
            state(block).holders == 0 && state(block).content.is_some() && state(block).idle_since == since
        };
        if !self.idle.iter().all(idle) {
            return Err("an idle block is held or has no content".to_owned());
        }
        let contents: HashMap<ContentId, BlockId> = (0..self.total() as BlockId)
            .filter_map(|b| state(b).content.as_ref().map(|c| (c.id, b)))
            .collect();
        if contents.len() != self.sealed.len() {
            return Err(format!("{} sealed blocks, {} names", contents.len(), self.sealed.len()));
        }
        for (name, &block) in &self.sealed {
            if state(block).content.as_ref().is_none_or(|c| c.name != *name) {
                return Err(format!("block {block} is not what its name says"));
            }
            let chained = name.before == 0 || contents.contains_key(&name.before);
            if !chained {
                return Err(format!("block {block} continues a block that was given up"));
            }
        }
        Ok(())
    }
}
