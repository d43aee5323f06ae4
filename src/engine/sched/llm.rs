//! Which sequences of one chat model take the next step, and with how many tokens.
//!
//! Life of a sequence: it waits for its turn, which [`queue`](super::queue) decides; is admitted when a row and the blocks of its first chunk are
//! free; takes the blocks that earlier sequences left of the same beginning; the rest of its prompt is computed in
//! chunks, beside the decode rows of others; then it decodes a token a step. While another sequence computes a
//! beginning that it shares, it waits for that: nothing is computed twice.
//!
//! Blocks are taken as they are needed. When none is left the least urgent sequence is preempted, of several the one
//! admitted last: its blocks go back, and it waits before all others of its owner to recompute those that are gone by
//! then. It continues with the same text, because a sampled token depends on seed, position and logits alone.
//!
//! A step that only decodes may check guesses behind a sequence's last token ([`speculate`]), for which blocks are
//! taken only where there are some to spare.

mod speculate;

use std::sync::Arc;

use super::JobId;
use super::blocks::{BlockId, BlockPool};
use super::guess::{Lookup, Luck, Pace};
use super::queue::{Claim, FairQueue};
use super::turns::Kind;
use crate::types::llm::{FinishReason, Sampling};
pub use speculate::{Guesses, Speculated};

/// What bounds a step. All are at least 1.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sequences that hold blocks at once.
    pub max_running: usize,
    /// Tokens a step computes when nothing decodes.
    pub prefill_tokens: usize,
    /// Prompt tokens a step computes beside decoding rows, so that their next token is not late.
    pub mixed_tokens: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// Blocks in the cache.
    pub blocks: usize,
    /// Positions a block.
    pub block_size: usize,
    /// Who guesses what sequences say next.
    pub guesses: Guesses,
}

/// Tokens of a prompt of which fewer do not make a step shorter: it reads all weights.
const WORTH_A_STEP: usize = 16;

/// What a sequence starts from. `prompt` is not empty and shorter than the context.
#[derive(Debug, Clone)]
pub struct Start {
    pub prompt: Vec<u32>,
    /// Tokens to generate at most; at least 1.
    pub max_new: usize,
    pub sampling: Sampling,
    /// Resolved: the request's, or drawn.
    pub seed: u64,
    /// Tokens that end the answer.
    pub stop: Arc<[u32]>,
    /// Whether guesses can be checked: not where a token depends on more than those before it.
    pub guessable: bool,
    pub claim: Claim,
}

/// A sequence and how far it is.
#[derive(Debug)]
pub struct Sequence {
    pub id: JobId,
    /// Prompt, then what was generated.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub max_new: usize,
    pub sampling: Sampling,
    pub seed: u64,
    /// Blocks that hold keys and values, in order of position.
    pub table: Vec<BlockId>,
    /// Leading tokens whose keys and values are in the cache.
    computed: usize,
    /// Leading tokens of the prompt that were there when it was admitted for the first time.
    cached: Option<usize>,
    stop: Arc<[u32]>,
    guessable: bool,
    lookup: Lookup,
    luck: Luck,
    /// What may follow `tokens`, as of the last plan; the row says how many of them it checks.
    guesses: Vec<u32>,
    claim: Claim,
}

impl Sequence {
    /// The tokens generated so far.
    pub fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Tokens of the prompt that did not have to be computed.
    pub fn cached(&self) -> usize {
        self.cached.unwrap_or(0)
    }

    /// Whose it is, and how urgent.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Tokens that end it.
    pub fn stop(&self) -> &Arc<[u32]> {
        &self.stop
    }

    /// The guesses behind its tokens that its row of a plan checks: as many as planned, or all if there are fewer.
    pub fn checked(&self, row: &Row) -> &[u32] {
        &self.guesses[..row.guesses.min(self.guesses.len())]
    }

    fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Its share of a step that computes the next `len` tokens.
    fn row(&self, len: usize) -> Row {
        Row { id: self.id, start: self.computed, len, samples: len == self.pending(), guesses: 0 }
    }

    /// Appends a token; says whether that completes the answer.
    fn say(&mut self, token: u32) -> Option<FinishReason> {
        self.tokens.push(token);
        if self.stop.contains(&token) {
            Some(FinishReason::Stop)
        } else if self.generated().len() >= self.max_new {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// The tokens whose keys and values may come from others: not the last one, whose logits are wanted.
    fn sharable(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }
}

/// One sequence's share of a step: `len` tokens from position `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub id: JobId,
    pub start: usize,
    pub len: usize,
    /// Whether these are the last known tokens, so that the next one is to be sampled.
    pub samples: bool,
    /// Guesses to check behind them, at most: see [`Sequence::checked`].
    pub guesses: usize,
}

/// A step: rows that go on, the most urgent first and of those in order of admission, then new ones; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub rows: Vec<Row>,
}

/// What a step did to one sequence that sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub id: JobId,
    pub token: u32,
    /// Set when the sequence is complete; it is gone from the scheduler then. A stop token is counted and not
    /// part of the text.
    pub finish: Option<FinishReason>,
    /// Tokens generated, this one included.
    pub generated: usize,
    /// Tokens of the prompt that did not have to be computed.
    pub cached: usize,
}

/// The chat scheduler.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pace: Pace,
    /// Of the model that guesses.
    guess_pace: Pace,
    speculated: Speculated,
    pool: BlockPool,
    waiting: FairQueue<Sequence>,
    /// The most urgent first, and of those in order of admission.
    running: Vec<Sequence>,
    preemptions: u64,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(limits: Limits) -> Self {
        let pool = BlockPool::new(limits.blocks, limits.block_size);
        Scheduler {
            limits,
            pace: Pace::default(),
            guess_pace: Pace::default(),
            speculated: Speculated::default(),
            pool,
            waiting: FairQueue::default(),
            running: Vec::new(),
            preemptions: 0,
        }
    }

    /// Positions that one sequence can have: the context, or the whole cache if that is smaller.
    pub fn capacity(&self) -> usize {
        self.limits.context.min(self.pool.total() * self.pool.block_size())
    }

    /// Queues a sequence. Its total length is cut to [`capacity`](Self::capacity), so it can always finish
    /// alone; `Err` gives the prompt's limit when not even one token fits behind it.
    pub fn submit(&mut self, id: JobId, start: Start) -> Result<(), usize> {
        let room = self.capacity().saturating_sub(start.prompt.len());
        if room == 0 || start.prompt.is_empty() {
            return Err(self.capacity().saturating_sub(1));
        }
        let claim = start.claim.clone();
        let sequence = Sequence {
            id,
            prompt_len: start.prompt.len(),
            tokens: start.prompt,
            max_new: start.max_new.clamp(1, room),
            sampling: start.sampling,
            seed: start.seed,
            table: Vec::new(),
            computed: 0,
            cached: None,
            stop: start.stop,
            guessable: start.guessable,
            lookup: Lookup::default(),
            luck: if self.limits.guesses == Guesses::Model { Luck::of_model() } else { Luck::default() },
            guesses: Vec::new(),
            claim: start.claim,
        };
        self.waiting.push(&claim, sequence);
        Ok(())
    }

    /// Forgets a sequence; its blocks are free before the next plan. Unknown ids are ignored.
    pub fn cancel(&mut self, id: JobId) {
        self.waiting.remove(|s| s.id == id);
        if let Some(at) = self.running.iter().position(|s| s.id == id) {
            let mut gone = self.running.remove(at);
            self.pool.release(&mut gone.table);
            self.waiting.leave(&gone.claim);
        }
    }

    /// What the next step would be, as far as can be told without planning it: `None` where nothing goes on, and
    /// nothing waits.
    pub fn next(&self, stalled: impl Fn(JobId) -> bool) -> Option<Kind> {
        let mut going = self.running.iter().filter(|seq| !stalled(seq.id)).peekable();
        let any = going.peek().is_some() || !self.waiting.is_empty();
        match going.any(|seq| seq.pending() == 1) {
            true => Some(Kind::Stream),
            false => any.then_some(Kind::Prompt),
        }
    }

    /// The next step, or `None` when there is nothing to do. Where nothing decodes, `most` tokens of prompts are in it
    /// if there may be more. Rows for which `stalled` holds are left out: their reader has not taken what it was sent.
    pub fn plan(&mut self, most: usize, stalled: impl Fn(JobId) -> bool) -> Option<Plan> {
        let mut rows = Vec::new();
        self.plan_decode(&stalled, &mut rows);
        let most = self.limits.prefill_tokens.min(most.max(WORTH_A_STEP));
        let budget = if rows.is_empty() { most } else { self.limits.mixed_tokens };
        let left = self.plan_prefill(&stalled, budget, &mut rows);
        self.admit(&stalled, left, &mut rows);
        self.plan_guesses(&mut rows);
        (!rows.is_empty()).then_some(Plan { rows })
    }

    /// One row for each sequence whose prompt is done, in order.
    fn plan_decode(&mut self, stalled: &impl Fn(JobId) -> bool, rows: &mut Vec<Row>) {
        let mut at = 0;
        while at < self.running.len() {
            let seq = &self.running[at];
            if seq.pending() == 1 && !stalled(seq.id) && self.grow_or_preempt(at, 1) {
                let seq = &self.running[at];
                rows.push(seq.row(1));
            }
            at += 1;
        }
    }

    /// Chunks of prompts that are under way. Returns what is left of the budget.
    fn plan_prefill(
        &mut self,
        stalled: &impl Fn(JobId) -> bool,
        mut budget: usize,
        rows: &mut Vec<Row>,
    ) -> usize {
        let mut at = 0;
        while at < self.running.len() && budget > 0 {
            let seq = &self.running[at];
            let len = seq.pending().min(budget);
            // A chunk that would preempt itself or a row already planned waits for blocks instead.
            if seq.pending() > 1 && !stalled(seq.id) && self.grow(at, len) {
                let seq = &self.running[at];
                rows.push(seq.row(len));
                budget -= len;
            }
            at += 1;
        }
        // Every prompt under way waits for blocks that only another one of them could give: let the first go on.
        let first = self.running.iter().position(|s| s.pending() > 1 && !stalled(s.id));
        if let Some(at) = first.filter(|_| rows.is_empty()) {
            let len = self.running[at].pending().min(budget);
            if self.grow_or_preempt(at, len) {
                let seq = &self.running[at];
                rows.push(seq.row(len));
                budget -= len;
            }
        }
        budget
    }

    /// Lets waiting sequences in, in turn, while rows, blocks and budget last. Where the next does not fit, none is
    /// let in before it.
    fn admit(&mut self, stalled: &impl Fn(JobId) -> bool, mut budget: usize, rows: &mut Vec<Row>) {
        while budget > 0 && self.running.len() < self.limits.max_running {
            let Some(mut seq) = self.waiting.pop() else { break };
            seq.table = self.pool.take_prefix(seq.sharable());
            seq.computed = seq.table.len() * self.pool.block_size();
            let len = seq.pending().min(budget);
            if !self.has_room(&seq, len)
                || self.is_under_way(&seq, stalled)
                || !self.pool.grow(&mut seq.table, seq.computed + len)
            {
                self.take_back(seq);
                break;
            }
            // What it computes again after a preemption is not its owner's doing.
            if seq.cached.is_none() {
                seq.cached = Some(seq.computed);
                self.waiting.charge(&seq.claim, seq.pending());
            }
            rows.push(seq.row(len));
            budget -= len;
            let at = self.running.partition_point(|other| other.claim.priority <= seq.claim.priority);
            self.running.insert(at, seq);
        }
    }

    /// Whether one block a running sequence stays available, so that an arrival does not preempt at once.
    fn has_room(&self, seq: &Sequence, len: usize) -> bool {
        let needs = self.pool.blocks_for(seq.computed + len) - seq.table.len();
        self.running.is_empty() || needs + self.running.len() <= self.pool.num_available()
    }

    /// Whether a prompt that is being computed will leave more blocks that `seq` can take than there are now.
    fn is_under_way(&self, seq: &Sequence, stalled: &impl Fn(JobId) -> bool) -> bool {
        let size = self.pool.block_size();
        self.running.iter().filter(|s| s.pending() > 1 && !stalled(s.id)).any(|other| {
            let pairs = seq.sharable().iter().zip(&other.tokens);
            let common = pairs.take_while(|(a, b)| a == b).count() / size * size;
            common > seq.computed && common > other.computed
        })
    }

    /// To the head of its owner's, without blocks.
    fn take_back(&mut self, mut seq: Sequence) {
        self.pool.release(&mut seq.table);
        seq.computed = 0;
        let claim = seq.claim.clone();
        self.waiting.put_back(&claim, seq);
    }

    fn grow(&mut self, at: usize, len: usize) -> bool {
        let seq = &mut self.running[at];
        let tokens = seq.computed + len;
        self.pool.grow(&mut seq.table, tokens)
    }

    /// Takes blocks for `len` more positions, preempting sequences behind it for them. The first of all always
    /// succeeds, because [`submit`](Self::submit) made sure that it fits alone.
    fn grow_or_preempt(&mut self, at: usize, len: usize) -> bool {
        while !self.grow(at, len) {
            if self.running.len() <= at + 1 {
                return false;
            }
            self.preempt_last();
        }
        true
    }

    fn preempt_last(&mut self) {
        if let Some(seq) = self.running.pop() {
            self.preemptions += 1;
            self.take_back(seq);
        }
    }

    /// A step was too large: those to come have half as many tokens of prompts. What was in it is planned anew, over the
    /// same blocks.
    pub fn shrink(&mut self, plan: &Plan) {
        let tokens = plan.rows.iter().filter(|row| row.len > 1).map(|row| row.len).sum::<usize>();
        let most = (tokens / 2).max(1);
        self.limits.prefill_tokens = self.limits.prefill_tokens.min(most);
        self.limits.mixed_tokens = self.limits.mixed_tokens.min(most);
    }

    /// Applies a step. `said` has, for each row that samples, in order, what the sequence said: those of the checked
    /// guesses that came true, and one token more.
    pub fn commit(&mut self, plan: &Plan, said: &[Vec<u32>]) -> Vec<Outcome> {
        let mut said = said.iter();
        let mut outcomes = Vec::with_capacity(said.len());
        for row in &plan.rows {
            let said = if row.samples { said.next().map_or(&[][..], Vec::as_slice) } else { &[] };
            let Some(at) = self.running.iter().position(|s| s.id == row.id) else { continue };
            self.note_guesses(at, row, said);
            let seq = &mut self.running[at];
            let before = seq.computed;
            seq.computed += row.len;
            let mut finish = None;
            for (i, &token) in said.iter().enumerate() {
                // What a guess that came true computed is in the cache.
                seq.computed += usize::from(i > 0);
                finish = seq.say(token);
                self.waiting.charge(&seq.claim, 1);
                let (generated, cached) = (seq.generated().len(), seq.cached());
                outcomes.push(Outcome { id: row.id, token, finish, generated, cached });
                if finish.is_some() {
                    break;
                }
            }
            let size = self.pool.block_size();
            for block in before / size..seq.computed / size {
                self.pool.seal(&mut seq.table, block, &seq.tokens[block * size..][..size]);
            }
            if finish.is_some() {
                self.cancel(row.id);
            }
        }
        outcomes
    }

    /// A sequence that holds blocks.
    pub fn running(&self, id: JobId) -> Option<&Sequence> {
        self.running.iter().find(|s| s.id == id)
    }

    /// Sequences that hold blocks.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Times a sequence gave its blocks back to one before it.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Share of the cache's blocks that sequences hold, 0 to 1.
    pub fn usage(&self) -> f64 {
        let total = self.pool.total().max(1);
        (total - self.pool.num_available()) as f64 / total as f64
    }

    /// Everything that waits.
    pub fn waiting(&self) -> impl Iterator<Item = &Sequence> {
        self.waiting.iter().map(|(_, seq)| seq)
    }

    /// Checks every invariant: the pool's, the queue's, that tables cover what is computed, that waiting sequences
    /// hold nothing, that running ones are in order.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.pool.check_integrity(self.running.iter().map(|s| (s.table.as_slice(), s.computed)))?;
        for seq in &self.running {
            if seq.table.len() * self.pool.block_size() < seq.computed {
                return Err(format!("{:?} has computed more than its blocks hold", seq.id));
            }
            if seq.pending() == 0 {
                return Err(format!("{:?} has nothing to compute", seq.id));
            }
        }
        if !self.running.is_sorted_by_key(|seq| seq.claim.priority) {
            return Err("a less urgent sequence is before a more urgent one".to_owned());
        }
        self.waiting.check_integrity(self.running.iter().map(|seq| &seq.claim))?;
        match self.waiting().find(|s| !s.table.is_empty() || s.computed != 0) {
            Some(seq) => Err(format!("{:?} waits and holds blocks", seq.id)),
            None => Ok(()),
        }
    }
}
