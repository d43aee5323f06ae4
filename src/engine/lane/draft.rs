//! A smaller model that guesses what sequences say next, for speculation.
//!
//! Its key-value cache has the blocks of the large model's, and a sequence uses the same ones in both: so sequences
//! share beginnings here too, and no block is accounted for twice. What the cache holds of a block that the small model
//! never computed is somebody else's; guesses get worse by that and answers do not.

use std::collections::HashMap;
use std::time::Instant;

use crate::engine::sched::JobId;
use crate::engine::sched::llm::{Plan, Scheduler};
use crate::model::llm::{Batch, Choice, Llm, Row};
use crate::model::{Error, Model};

/// Tokens that one plan has the small model catch up on: what a prompt adds to the others' next token stays small.
const CATCH_UP: usize = 256;

/// The small model and how far it is.
pub struct Drafter {
    model: Box<dyn Model<Llm>>,
    /// Positions it was trained for.
    context: usize,
    /// Leading tokens of each sequence, guesses included, that it has computed.
    computed: HashMap<JobId, usize>,
    preemptions: u64,
}

/// A sequence that wants guesses.
struct Wish {
    id: JobId,
    /// Known tokens and guesses so far; `next` and what follows is to be computed.
    tokens: Vec<u32>,
    next: usize,
    known: usize,
    count: usize,
}

impl Drafter {
    /// For a model with the vocabulary of the large one, and as many blocks in its cache.
    pub fn new(model: Box<dyn Model<Llm>>, context: usize) -> Self {
        Drafter { model, context, computed: HashMap::new(), preemptions: 0 }
    }

    /// Gives the scheduler the guesses that a plan is to check. Sequences that the model has not caught up with get
    /// none yet.
    pub fn guess(&mut self, scheduler: &mut Scheduler, plan: &Plan) -> Result<(), Error> {
        self.forget(scheduler);
        let mut budget = CATCH_UP;
        let mut wishes = Vec::new();
        for row in plan.rows.iter().filter(|r| r.guesses > 0) {
            let Some(seq) = scheduler.running(row.id) else { continue };
            let known = seq.tokens.len();
            if known + row.guesses > self.context {
                continue;
            }
            let had = self.computed.get(&row.id).copied().unwrap_or_else(|| seq.cached());
            let next = had.min(known - 1);
            if known - next > budget {
                self.catch_up(scheduler, row.id, next, budget)?;
                budget = 0;
                continue;
            }
            budget -= known - next;
            wishes.push(Wish { id: row.id, tokens: seq.tokens.clone(), next, known, count: row.guesses });
        }
        for depth in 0.. {
            let open: Vec<&mut Wish> = wishes.iter_mut().filter(|w| w.count > depth).collect();
            if open.is_empty() {
                break;
            }
            self.deepen(scheduler, open, depth)?;
        }
        for mut wish in wishes {
            self.computed.insert(wish.id, wish.next);
            scheduler.set_guesses(wish.id, wish.tokens.split_off(wish.known));
        }
        Ok(())
    }

    /// One more guess of each.
    fn deepen(&mut self, scheduler: &mut Scheduler, open: Vec<&mut Wish>, depth: usize) -> Result<(), Error> {
        let mut batch = Batch::default();
        for wish in &open {
            let Some(seq) = scheduler.running(wish.id) else { return Ok(()) };
            batch.tokens.extend_from_slice(&wish.tokens[wish.next..]);
            let len = wish.tokens.len() - wish.next;
            let table = seq.table.clone();
            batch.rows.push(Row { len, start: wish.next, table, logits: 1, choice: Choice::Largest });
        }
        let begun = Instant::now();
        let logits = self.model.step(&batch)?;
        if depth > 0 {
            // The first may catch up on more than a token, which says nothing of the next.
            scheduler.guessing_took(batch.rows.len(), begun.elapsed().as_secs_f64());
        }
        for (wish, best) in open.into_iter().zip(logits.chosen.into_iter().flatten()) {
            wish.next = wish.tokens.len();
            wish.tokens.push(best);
        }
        Ok(())
    }

    /// Computes a part of what a sequence is behind.
    fn catch_up(
        &mut self,
        scheduler: &Scheduler,
        id: JobId,
        next: usize,
        budget: usize,
    ) -> Result<(), Error> {
        let Some(seq) = scheduler.running(id).filter(|_| budget > 0) else { return Ok(()) };
        let tokens = seq.tokens[next..next + budget].to_vec();
        let rows = vec![Row {
            len: budget,
            start: next,
            table: seq.table.clone(),
            logits: 0,
            choice: Choice::Logits,
        }];
        self.model.step(&Batch { tokens, rows })?;
        self.computed.insert(id, next + budget);
        Ok(())
    }

    /// Drops what is known of sequences that are gone. Those that gave their blocks back begin anew.
    fn forget(&mut self, scheduler: &Scheduler) {
        if self.preemptions != scheduler.preemptions() || self.computed.len() > 2 * scheduler.num_running() {
            self.preemptions = scheduler.preemptions();
            self.computed.retain(|&id, _| scheduler.running(id).is_some());
        }
    }
}
