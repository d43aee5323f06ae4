//! The pool of key-value blocks that one chat model's sequences share.

/// Index of a block of [`BlockPool::block_size`] token positions in the device's key-value cache.
pub type BlockId = u32;

/// Hands out blocks and takes them back. Invariant: free + held = total, and no block is both.
#[derive(Debug)]
pub struct BlockPool {
    block_size: usize,
    /// Last in, first out: the block freed last is the warmest in cache.
    free: Vec<BlockId>,
    held: Vec<bool>,
}

impl BlockPool {
    /// `total` blocks of `block_size` positions, all free.
    pub fn new(total: usize, block_size: usize) -> Self {
        let free = (0..total as BlockId).rev().collect();
        BlockPool { block_size: block_size.max(1), free, held: vec![false; total] }
    }

    /// Token positions a block holds.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks in the pool, free or held.
    pub fn total(&self) -> usize {
        self.held.len()
    }

    /// Blocks nobody holds.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that `tokens` positions need.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// Grows `table` until it covers `tokens` positions. Takes all blocks it needs or none.
    pub fn grow(&mut self, table: &mut Vec<BlockId>, tokens: usize) -> bool {
        let need = self.blocks_for(tokens).saturating_sub(table.len());
        if need > self.free.len() {
            return false;
        }
        for block in self.free.split_off(self.free.len() - need) {
            self.held[block as usize] = true;
            table.push(block);
        }
        true
    }

    /// Takes every block of `table` back and empties it.
    pub fn release(&mut self, table: &mut Vec<BlockId>) {
        for block in table.drain(..) {
            self.held[block as usize] = false;
            self.free.push(block);
        }
    }

    /// Checks the invariant against the tables of all living sequences.
    pub fn check_integrity<'a>(&self, tables: impl Iterator<Item = &'a [BlockId]>) -> Result<(), String> {
        let mut owner = vec![false; self.held.len()];
        for &block in tables.flatten() {
            let seen =
                owner.get_mut(block as usize).ok_or_else(|| format!("block {block} is not in the pool"))?;
            if std::mem::replace(seen, true) {
                return Err(format!("block {block} is in two tables"));
            }
        }
        let held = owner.iter().filter(|&&h| h).count();
        if owner != self.held {
            return Err("the pool and the tables disagree on who holds what".to_owned());
        }
        if held + self.free.len() != self.held.len() {
            return Err(format!("{held} held + {} free is not {}", self.free.len(), self.held.len()));
        }
        match self.free.iter().find(|&&b| self.held[b as usize]) {
            Some(block) => Err(format!("block {block} is free and held")),
            None => Ok(()),
        }
    }
}
