//! The scheduler's side of speculation: which guesses a step checks, and what is learned from them.

use super::super::guess::{MOST, choose};
use super::{JobId, Plan, Row, Scheduler};

/// Who guesses what sequences say next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guesses {
    Nobody,
    /// What was said before: [`Lookup`](super::Lookup).
    #[default]
    Lookup,
    /// A smaller model, which runs between a plan and its step: [`Scheduler::set_guesses`].
    Model,
}

/// Counts of all that was guessed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Speculated {
    /// Rows that had guesses checked.
    pub drafts: u64,
    /// Guesses checked.
    pub guesses: u64,
    /// Guesses that came true.
    pub accepted: u64,
}

impl Scheduler {
    /// Adds guesses to the rows of a step that only decodes, where that is likely to make it faster.
    pub(super) fn plan_guesses(&mut self, rows: &mut [Row]) {
        if self.limits.guesses == Guesses::Nobody || rows.iter().any(|r| r.len > 1 || !r.samples) {
            return;
        }
        let capacity = self.capacity();
        let mut each = Vec::with_capacity(rows.len());
        for row in rows.iter() {
            let Some(seq) = self.running.iter_mut().find(|s| s.id == row.id) else { return };
            // The last token of an answer is not computed, and every position must have a place.
            let left = seq.max_new.saturating_sub(seq.generated().len() + 1);
            let most = MOST.min(left).min(capacity - seq.tokens.len());
            seq.guesses.clear();
            let count = match self.limits.guesses {
                _ if !seq.guessable => 0,
                Guesses::Model => most,
                _ => {
                    seq.guesses = seq.lookup.guess(&seq.tokens, most);
                    seq.guesses.len()
                }
            };
            each.push((seq.luck, count));
        }
        let level = match self.limits.guesses {
            Guesses::Model => self.guess_pace.cost_beside(&self.pace, rows.len()),
            _ => 0.0,
        };
        let counts = choose(&self.pace, level, &each, self.limits.max_running.max(rows.len()));
        for (row, count) in rows.iter_mut().zip(counts) {
            let Some(at) = self.running.iter().position(|s| s.id == row.id) else { return };
            // Of the blocks to spare, one a sequence stays: nobody is preempted for a guess.
            let tokens = row.start + row.len + count;
            let seq = &mut self.running[at];
            let needs = self.pool.blocks_for(tokens).saturating_sub(seq.table.len());
            let spare = self.pool.num_available().saturating_sub(self.running.len());
            if count > 0 && needs <= spare && self.grow(at, row.len + count) {
                row.guesses = count;
            }
        }
    }

    /// What the model that guesses came up with for a planned row.
    pub fn set_guesses(&mut self, id: JobId, guesses: Vec<u32>) {
        if let Some(seq) = self.running.iter_mut().find(|s| s.id == id) {
            seq.guesses = guesses;
        }
    }

    /// Compares guesses with what was said, whether they were checked or not.
    pub(super) fn note_guesses(&mut self, at: usize, row: &Row, said: &[u32]) {
        let seq = &mut self.running[at];
        let Some(&first) = said.first() else { return };
        let checked = seq.checked(row).len();
        if checked > 0 {
            let accepted = (said.len() - 1).min(checked);
            (0..accepted).for_each(|_| seq.luck.note(true));
            if accepted < checked {
                seq.luck.note(false);
            }
            self.speculated.drafts += 1;
            self.speculated.guesses += checked as u64;
            self.speculated.accepted += accepted as u64;
        } else if let Some(&guess) = seq.guesses.first() {
            seq.luck.note(guess == first);
        } else if self.limits.guesses == Guesses::Model {
            seq.luck.forget();
        }
        seq.guesses.clear();
    }

    /// A step took so long. Those that compute prompts say nothing of what guesses cost.
    pub fn took(&mut self, plan: &Plan, seconds: f64) {
        if plan.rows.iter().all(|r| r.len == 1 && r.samples) {
            let guesses = |r: &Row| self.running(r.id).map_or(0, |seq| seq.checked(r).len());
            let rows = plan.rows.iter().map(|r| 1 + guesses(r)).sum();
            self.pace.note(rows, seconds);
        }
    }

    /// The model that guesses took so long for one token of each of `rows` sequences.
    pub fn guessing_took(&mut self, rows: usize, seconds: f64) {
        self.guess_pace.note(rows, seconds);
    }

    /// What was guessed so far.
    pub fn speculated(&self) -> Speculated {
        self.speculated
    }
}
