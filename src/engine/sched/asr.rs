//! Which windows of one speech model are held, and the blocks of their sequences.
//!
//! Life of a window: it is given a slot when one is free and as many rows as its recording may follow side by side;
//! its prompt is computed into the *root* sequence; texts branch off the root and off each other, sharing whole
//! blocks and copying the last one. When it ends, everything goes back.
//!
//! A window never waits for blocks once it has its slot: rows are promised when it begins, and there are blocks for
//! every promised row at its longest.

use super::blocks::{BlockCopy, BlockId, BlockPool};

/// A sequence's blocks, and how many leading positions of them count.
#[derive(Debug, Default)]
struct Table {
    blocks: Vec<BlockId>,
    positions: usize,
}

/// A window that is held.
#[derive(Debug)]
struct Held {
    promised: usize,
    root: Table,
    texts: Vec<Table>,
}

/// The slots and blocks of a speech model.
#[derive(Debug)]
pub struct Scheduler {
    pool: BlockPool,
    slots: Vec<Option<Held>>,
    /// Rows that may be promised, and that are.
    rows: usize,
    promised: usize,
    /// Blocks to copy before the next step: from, to.
    copies: Vec<BlockCopy>,
}

/// A window's scheduler was asked for what it has not promised: a fault of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("slot {slot} of the speech model has no sequence or no block for what was asked")]
pub struct Unpromised {
    pub slot: usize,
}

impl Scheduler {
    /// `windows` slots and `rows` rows, over `blocks` blocks of `block_size` positions.
    pub fn new(windows: usize, rows: usize, blocks: usize, block_size: usize) -> Self {
        Scheduler {
            pool: BlockPool::new(blocks, block_size),
            slots: (0..windows).map(|_| None).collect(),
            rows,
            promised: 0,
            copies: Vec::new(),
        }
    }

    /// Rows that one window can be promised at most.
    pub fn most_rows(&self) -> usize {
        self.rows
    }

    /// Takes a slot for a window of at most `rows` texts; `None`: not now.
    pub fn open(&mut self, rows: usize) -> Option<usize> {
        if self.promised + rows > self.rows {
            return None;
        }
        let slot = self.slots.iter().position(Option::is_none)?;
        self.promised += rows;
        self.slots[slot] = Some(Held { promised: rows, root: Table::default(), texts: Vec::new() });
        Some(slot)
    }

    /// Gives back what a window holds.
    pub fn close(&mut self, slot: usize) {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        self.promised -= held.promised;
        for mut table in held.texts.into_iter().chain([held.root]) {
            self.pool.release(&mut table.blocks);
        }
    }

    /// The blocks of a text of the window, or of its root, for `len` tokens at `position`; what lay behind them is
    /// forgotten.
    pub fn cover(
        &mut self,
        slot: usize,
        text: Option<usize>,
        position: usize,
        len: usize,
    ) -> Result<Vec<BlockId>, Unpromised> {
        let held = self.slots.get_mut(slot).and_then(Option::as_mut).ok_or(Unpromised { slot })?;
        let table = match text {
            None => Some(&mut held.root),
            Some(text) => held.texts.get_mut(text),
        };
        let table = table.ok_or(Unpromised { slot })?;
        if position > table.positions || !self.pool.grow(&mut table.blocks, position + len) {
            return Err(Unpromised { slot });
        }
        table.positions = position + len;
        Ok(table.blocks.clone())
    }

    /// Replaces the window's texts by new ones, each of which continues one of the old or (`None`) the root.
    pub fn follow(&mut self, slot: usize, parents: &[Option<usize>]) -> Result<(), Unpromised> {
        let unpromised = Unpromised { slot };
        let held = self.slots.get_mut(slot).and_then(Option::as_mut).ok_or(unpromised)?;
        if parents.len() > held.promised {
            return Err(unpromised);
        }
        let mut next = Vec::with_capacity(parents.len());
        // Whoever comes last takes the blocks over; those before it branch off.
        for (at, parent) in parents.iter().enumerate() {
            let is_last = !parents[at + 1..].contains(parent);
            let from = match parent {
                None => &mut held.root,
                Some(text) => held.texts.get_mut(*text).ok_or(unpromised)?,
            };
            if is_last && parent.is_some() {
                next.push(std::mem::take(from));
                continue;
            }
            let (blocks, copy) = self.pool.fork(&from.blocks, from.positions).ok_or(unpromised)?;
            self.copies.extend(copy);
            next.push(Table { blocks, positions: from.positions });
        }
        for mut table in std::mem::replace(&mut held.texts, next) {
            self.pool.release(&mut table.blocks);
        }
        Ok(())
    }

    /// Blocks to copy before anything else of the next step, in this order.
    pub fn take_copies(&mut self) -> Vec<BlockCopy> {
        std::mem::take(&mut self.copies)
    }

    /// Copies that were taken and not made.
    pub fn put_back_copies(&mut self, copies: Vec<BlockCopy>) {
        self.copies.splice(..0, copies);
    }

    /// Share of the blocks that are held.
    pub fn usage(&self) -> f64 {
        1.0 - self.pool.num_available() as f64 / self.pool.total().max(1) as f64
    }

    /// Checks the books: blocks against windows, promises against what there is.
    pub fn check_integrity(&self) -> Result<(), String> {
        let held = || self.slots.iter().flatten();
        let promised: usize = held().map(|h| h.promised).sum();
        if promised != self.promised || promised > self.rows {
            return Err(format!(
                "{promised} rows are promised, {} counted, {} there",
                self.promised, self.rows
            ));
        }
        let tables = held().flat_map(|h| h.texts.iter().chain([&h.root]));
        self.pool.check_unsealed(tables.map(|t| (t.blocks.as_slice(), t.positions)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const BLOCK: usize = 4;
    const CONTEXT: usize = 22;

    /// A cache that remembers which token of which text was written to each place.
    #[derive(Default)]
    struct Cache(HashMap<(BlockId, usize), u32>);

    impl Cache {
        fn copy(&mut self, pairs: &[BlockCopy]) {
            for &(from, to) in pairs {
                for offset in 0..BLOCK {
                    if let Some(&token) = self.0.get(&(from, offset)) {
                        self.0.insert((to, offset), token);
                    }
                }
            }
        }

        fn write(&mut self, table: &[BlockId], position: usize, tokens: &[u32]) {
            for (at, &token) in (position..).zip(tokens) {
                self.0.insert((table[at / BLOCK], at % BLOCK), token);
            }
        }

        fn read(&self, table: &[BlockId], len: usize) -> Vec<u32> {
            (0..len)
                .map(|at| self.0.get(&(table[at / BLOCK], at % BLOCK)).copied().unwrap_or(u32::MAX))
                .collect()
        }
    }

    /// A window as its texts should be.
    struct Model {
        rows: usize,
        prompt: Vec<u32>,
        texts: Vec<Vec<u32>>,
    }

    proptest! {
        /// Whatever branches off whatever, every text's cache holds its own tokens, and nothing is lost.
        #[test]
        fn texts_keep_their_tokens(steps in proptest::collection::vec((0u8..8, any::<u64>()), 1..200)) {
            let (windows, rows) = (3, 9);
            let blocks = rows * CONTEXT.div_ceil(BLOCK) + windows;
            let mut scheduler = Scheduler::new(windows, rows, blocks, BLOCK);
            let mut cache = Cache::default();
            let mut models: HashMap<usize, Model> = HashMap::new();
            let mut token = 0;
            for (what, seed) in steps {
                let pick = |n: usize, salt: u64| (seed.wrapping_add(salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % n.max(1);
                let mut slots: Vec<usize> = models.keys().copied().collect();
                slots.sort_unstable();
                if what == 0 {
                    let rows = 1 + pick(5, 1);
                    if let Some(slot) = scheduler.open(rows) {
                        let len = 1 + pick(CONTEXT / 2, 2);
                        let prompt: Vec<u32> = (0..len).map(|i| token + i as u32).collect();
                        token += len as u32;
                        let table = scheduler.cover(slot, None, 0, len).unwrap();
                        cache.copy(&scheduler.take_copies());
                        cache.write(&table, 0, &prompt);
                        models.insert(slot, Model { rows, prompt, texts: Vec::new() });
                    }
                } else if let Some(&slot) = slots.get(pick(slots.len(), 3)) {
                    let model = models.get_mut(&slot).unwrap();
                    let full = model.texts.iter().any(|t| t.len() >= CONTEXT);
                    if what == 1 || full {
                        scheduler.close(slot);
                        models.remove(&slot);
                    } else {
                        let from_root = what == 2 || model.texts.is_empty();
                        let parent = |i| (!from_root).then(|| pick(model.texts.len(), 5 + i as u64));
                        let parents: Vec<_> = (0..pick(model.rows + 1, 4)).map(parent).collect();
                        scheduler.follow(slot, &parents).unwrap();
                        model.texts = parents
                            .iter()
                            .map(|p| p.map_or_else(|| model.prompt.clone(), |p| model.texts[p].clone()))
                            .collect();
                        let tables: Vec<_> = (model.texts.iter().enumerate())
                            .map(|(i, text)| scheduler.cover(slot, Some(i), text.len(), 1).unwrap())
                            .collect();
                        cache.copy(&scheduler.take_copies());
                        for (text, table) in model.texts.iter_mut().zip(&tables) {
                            cache.write(table, text.len(), &[token]);
                            text.push(token);
                            token += 1;
                        }
                    }
                }
                for (&slot, model) in &models {
                    let held = scheduler.slots[slot].as_ref().unwrap();
                    let read = |(table, text): (&Table, &Vec<u32>)| cache.read(&table.blocks, text.len());
                    let kept: Vec<Vec<u32>> = held.texts.iter().zip(&model.texts).map(read).collect();
                    prop_assert_eq!(&kept, &model.texts);
                }
                prop_assert_eq!(scheduler.check_integrity(), Ok(()));
            }
            models.keys().for_each(|&slot| scheduler.close(slot));
            prop_assert_eq!(scheduler.usage(), 0.0);
        }
    }

    #[test]
    fn more_than_was_promised_is_refused() {
        let mut scheduler = Scheduler::new(2, 3, 20, BLOCK);
        assert_eq!(scheduler.most_rows(), 3);
        assert_eq!(scheduler.open(4), None);
        let slot = scheduler.open(2).unwrap();
        assert_eq!(scheduler.open(2), None);
        assert!(scheduler.open(1).is_some());
        scheduler.cover(slot, None, 0, 3).unwrap();
        assert!(scheduler.cover(slot, None, 4, 1).is_err(), "a gap");
        assert!(scheduler.cover(slot, Some(0), 0, 1).is_err());
        assert!(scheduler.follow(slot, &[None, None, None]).is_err());
        assert!(scheduler.follow(slot, &[Some(0)]).is_err());
        assert!(scheduler.follow(9, &[]).is_err());
        scheduler.follow(slot, &[None, None]).unwrap();
        scheduler.close(slot);
        scheduler.close(slot);
        assert_eq!(scheduler.check_integrity(), Ok(()));
    }
}
