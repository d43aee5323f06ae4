//! Which texts go into the next batch of one embedding model, or pairs of texts into that of a reranker.
//!
//! Batches have a token budget, not a row count: the network computes ragged rows without padding, so tokens
//! are what a step costs. Jobs take turns by the row: a single query waits for one batch at most, however many
//! texts a bulk job before it still has.

use std::collections::VecDeque;

use super::JobId;

/// Row `index` of job `id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub id: JobId,
    pub index: usize,
}

/// A batch; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub rows: Vec<Row>,
}

#[derive(Debug)]
struct Pending {
    id: JobId,
    /// Tokens of each row.
    lens: Vec<usize>,
    /// Rows before it are planned.
    next: usize,
    done: usize,
}

/// The scheduler of work in rows.
#[derive(Debug)]
pub struct Scheduler {
    /// Tokens a batch may have; a single longer row goes alone.
    max_tokens: usize,
    jobs: VecDeque<Pending>,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(max_tokens: usize) -> Self {
        Scheduler { max_tokens: max_tokens.max(1), jobs: VecDeque::new() }
    }

    /// Queues a job with the token counts of its rows.
    pub fn submit(&mut self, id: JobId, lens: Vec<usize>) {
        self.jobs.push_back(Pending { id, lens, next: 0, done: 0 });
    }

    /// Forgets a job. Unknown ids are ignored.
    pub fn cancel(&mut self, id: JobId) {
        self.jobs.retain(|j| j.id != id);
    }

    /// Jobs that are not complete.
    pub fn num_jobs(&self) -> usize {
        self.jobs.len()
    }

    /// The next batch, of `most` tokens if it may have more, or `None` when there is nothing to do.
    pub fn plan(&mut self, most: usize) -> Option<Plan> {
        let max_tokens = self.max_tokens.min(most);
        let mut rows = Vec::new();
        let mut tokens = 0;
        let mut passed = 0;
        // Ends when every job in turn had no row left or none that fits.
        while passed < self.jobs.len() {
            let Some(mut job) = self.jobs.pop_front() else { break };
            match job.lens.get(job.next) {
                Some(&len) if rows.is_empty() || tokens + len <= max_tokens => {
                    rows.push(Row { id: job.id, index: job.next });
                    tokens += len;
                    job.next += 1;
                    passed = 0;
                }
                _ => passed += 1,
            }
            self.jobs.push_back(job);
        }
        (!rows.is_empty()).then_some(Plan { rows })
    }

    /// A batch was too large: its rows are planned anew, in batches of half as many tokens.
    pub fn shrink(&mut self, plan: &Plan) {
        let mut tokens = 0;
        for row in &plan.rows {
            if let Some(job) = self.jobs.iter_mut().find(|j| j.id == row.id) {
                tokens += job.lens.get(row.index).copied().unwrap_or(0);
                // Rows of a job are planned in order: all from the first of the batch on are to be planned.
                job.next = job.next.min(row.index);
            }
        }
        self.max_tokens = (tokens / 2).clamp(1, self.max_tokens);
    }

    /// Applies a batch; gives the jobs whose last row it held, which are gone from the scheduler then.
    pub fn commit(&mut self, plan: &Plan) -> Vec<JobId> {
        let mut complete = Vec::new();
        for row in &plan.rows {
            if let Some(job) = self.jobs.iter_mut().find(|j| j.id == row.id) {
                job.done += 1;
                if job.done == job.lens.len() {
                    complete.push(row.id);
                }
            }
        }
        self.jobs.retain(|j| j.done < j.lens.len());
        complete
    }
}
