//! One owner floods the scheduler: the other is served as if it were one of two.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::JobId;
use super::llm::{Scheduler, Start};
use super::queue::Claim;
use super::tests::{claim, limits, run, start};

/// Larger than any prompt, and than any answer's bound, in [`Crowd::sizes`].
const PROMPT: usize = 20;
const ANSWER: usize = 12;

/// A scheduler and two owners, each of whom sends requests of these sizes.
struct Crowd {
    scheduler: Scheduler,
    owners: [Claim; 2],
    sizes: Vec<(usize, usize)>,
    next: u64,
    /// Let in at least once.
    admitted: BTreeSet<JobId>,
    /// Tokens of each owner: of prompts when they are let in, of answers as they are generated.
    served: [usize; 2],
}

impl Crowd {
    fn new(blocks: usize, sizes: Vec<(usize, usize)>) -> Crowd {
        Crowd {
            scheduler: Scheduler::new(limits(blocks)),
            owners: [claim(0, 0), claim(1, 0)],
            sizes,
            next: 0,
            admitted: BTreeSet::new(),
            served: [0; 2],
        }
    }

    fn submit(&mut self, owner: usize) -> JobId {
        self.next += 1;
        let (prompt, max_new) = self.sizes[self.next as usize % self.sizes.len()];
        let start = Start { claim: self.owners[owner].clone(), ..start(prompt, max_new) };
        self.scheduler.submit(JobId(self.next), start).unwrap();
        JobId(self.next)
    }

    /// Has so many of an owner's wait.
    fn fill(&mut self, owner: usize, count: usize) {
        let waiting = self.scheduler.waiting().filter(|s| *s.claim() == self.owners[owner]).count();
        for _ in waiting..count {
            self.submit(owner);
        }
    }

    /// Runs a step; gives who was let in for the first time.
    fn step(&mut self) -> Vec<JobId> {
        let owner = |claim: &Claim| usize::from(*claim == self.owners[1]);
        let waited: BTreeMap<JobId, (usize, usize)> =
            self.scheduler.waiting().map(|s| (s.id, (owner(s.claim()), s.prompt_len))).collect();
        let plan = self.scheduler.plan(usize::MAX, |_| false).unwrap();
        let mut new = Vec::new();
        for row in &plan.rows {
            if let Some((owner, prompt)) = waited.get(&row.id).filter(|_| self.admitted.insert(row.id)) {
                self.served[*owner] += prompt;
                new.push(row.id);
            }
            if row.samples {
                self.served[owner(self.scheduler.running(row.id).unwrap().claim())] += 1;
            }
        }
        run(&mut self.scheduler, &plan);
        self.scheduler.check_integrity().unwrap();
        new
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_flood_keeps_nobody_waiting(
        sizes in proptest::collection::vec((1..PROMPT, 1..ANSWER), 1..12),
        blocks in 8usize..40,
        arrival in 0usize..40,
    ) {
        let mut crowd = Crowd::new(blocks, sizes);
        for _ in 0..arrival {
            crowd.fill(0, 24);
            crowd.step();
        }
        crowd.fill(0, 24);
        // Of 24 that wait one at most is let in before it.
        let one = crowd.submit(1);
        let (mut before, mut steps) = (0, 0);
        while !crowd.admitted.contains(&one) {
            before += crowd.step().iter().take_while(|id| **id != one).count();
            steps += 1;
            prop_assert!(steps < 500, "it is never let in");
        }
        prop_assert!(before <= 1, "{before} went first");
    }

    #[test]
    fn owners_that_always_wait_are_served_as_much(
        sizes in proptest::collection::vec((1..PROMPT, 1..ANSWER), 1..12),
        blocks in 8usize..40,
        alone in 0usize..40,
    ) {
        let mut crowd = Crowd::new(blocks, sizes);
        for _ in 0..alone {
            crowd.fill(0, 24);
            crowd.step();
        }
        let begin = crowd.served;
        // What can be under way of one: all rows, each with a prompt and an answer.
        let bound = limits(blocks).max_running * (PROMPT + ANSWER);
        for _ in 0..250 {
            crowd.fill(0, 24);
            crowd.fill(1, 6);
            crowd.step();
            let [flood, quiet] = [0, 1].map(|owner| crowd.served[owner] - begin[owner]);
            prop_assert!(flood.abs_diff(quiet) <= 2 * bound, "{flood} and {quiet} tokens");
        }
    }
}
