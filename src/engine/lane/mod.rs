//! A loaded model on its device's thread, with its scheduler and its jobs: the three verbs.
//!
//! [`Lane::plan`] decides what the next step computes, [`Lane::run`] computes it, [`Lane::commit`] applies the
//! result and sends events. [`AnyLane::step`] is the only place that calls them, so failures are handled once: a
//! step that fails or panics fails the jobs in it and no other. Before, [`Lane::look`] tells whoever shares the device out
//! among lanes what the step would be.

pub mod asr;
pub mod draft;
pub mod embed;
pub mod llm;
pub mod vad;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::job::Failure;
use super::sched::turns::Kind;
use super::worker::AnyJob;

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A step was computed.
    Worked,
    /// A step failed, and its jobs are over.
    Failed,
    /// There was too little memory for a step; the next ones are smaller.
    Starved,
    /// There are jobs, and every one of them waits for its reader.
    Blocked,
    /// There are no jobs.
    Idle,
}

/// What a lane has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A step of this kind; `overdue` if somebody has waited for longer than they should.
    Ready { kind: Kind, overdue: bool },
    /// There are jobs, and every one of them waits for its reader.
    Blocked,
    /// There are no jobs.
    Idle,
}

/// One model's work.
pub trait Lane {
    /// What a step computes.
    type Plan;
    /// What it gave.
    type Output;

    /// Forgets jobs that are over, delivers what readers were behind on, and says what the next step would be as far as can
    /// be told without planning it.
    fn look(&mut self, now: Instant) -> Look;

    /// Decides on a step, which takes `room` at most if it can be cut to size. `None`: nothing can be computed now.
    fn plan(&mut self, now: Instant, room: Option<Duration>) -> Option<Self::Plan>;

    /// Computes the step. The only part that touches tensors.
    fn run(&mut self, plan: &Self::Plan) -> Result<Self::Output, Failure>;

    /// Applies the output: advances sequences, sends events, ends jobs.
    fn commit(&mut self, plan: Self::Plan, output: Self::Output);

    /// Ends the jobs of a step that failed.
    fn fail(&mut self, plan: Self::Plan, failure: &Failure);

    /// There was too little memory for a step: steps to come are smaller, or one job less is in them. Gives the plan back
    /// where it cannot be made smaller; else what is in it is planned anew.
    fn shrink(&mut self, plan: Self::Plan) -> Option<Self::Plan>;

    /// Takes a job. One of another kind is a wiring error and fails.
    fn submit(&mut self, job: AnyJob);

    /// Jobs that are not over.
    fn num_jobs(&self) -> usize;

    /// Ends every job.
    fn fail_all(&mut self, failure: &Failure);

    /// There has been nothing to do for a while: gives up memory that the next job can take anew.
    fn rest(&mut self) {}
}

/// [`Lane`] as the worker keeps it, whatever its plans look like.
pub trait AnyLane {
    /// See [`Lane::look`].
    fn look(&mut self, now: Instant) -> Look;
    /// Plans, runs and commits one step, of `room` at most if it can be cut to size.
    fn step(&mut self, now: Instant, room: Option<Duration>) -> Turn;
    /// See [`Lane::submit`].
    fn submit(&mut self, job: AnyJob);
    /// See [`Lane::fail_all`].
    fn fail_all(&mut self, failure: &Failure);
    /// See [`Lane::rest`].
    fn rest(&mut self);
}

impl<L: Lane> AnyLane for L {
    fn look(&mut self, now: Instant) -> Look {
        Lane::look(self, now)
    }

    fn step(&mut self, now: Instant, room: Option<Duration>) -> Turn {
        // Nothing that is over is planned, whoever looked before.
        Lane::look(self, now);
        let Some(plan) = self.plan(now, room) else {
            return if self.num_jobs() == 0 { Turn::Idle } else { Turn::Blocked };
        };
        // A panic leaves the lane usable: `run` changes nothing that `plan` or `commit` reads except the
        // model's caches, and the jobs whose cache entries may be half-written are ended by `fail`.
        let result = catch_unwind(AssertUnwindSafe(|| self.run(&plan)));
        match result {
            Ok(Ok(output)) => {
                self.commit(plan, output);
                return Turn::Worked;
            }
            Ok(Err(failure @ Failure::OutOfMemory)) => match self.shrink(plan) {
                None => {
                    tracing::warn!("a step does not fit into the device's memory: smaller ones are tried");
                    return Turn::Starved;
                }
                Some(plan) => {
                    tracing::error!(%failure, "a step failed");
                    self.fail(plan, &failure);
                }
            },
            Ok(Err(failure)) => {
                tracing::error!(%failure, "a step failed");
                self.fail(plan, &failure);
            }
            Err(panic) => {
                let detail = panic_text(panic.as_ref());
                tracing::error!(detail, "a step panicked");
                self.fail(plan, &Failure::Step(format!("the step panicked: {detail}")));
            }
        }
        Turn::Failed
    }

    fn submit(&mut self, job: AnyJob) {
        Lane::submit(self, job);
    }

    fn fail_all(&mut self, failure: &Failure) {
        Lane::fail_all(self, failure);
    }

    fn rest(&mut self) {
        Lane::rest(self);
    }
}

/// How much a lane computes in a second, by its last steps: what fits into the room it is given.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rate(f64);

impl Rate {
    /// Weight of the last step.
    const NEWEST: f64 = 0.25;

    /// A step of so many tokens took so long.
    pub fn note(&mut self, tokens: usize, took: Duration) {
        let rate = tokens as f64 / took.as_secs_f64().max(1e-9);
        self.0 = if self.0 > 0.0 { self.0 + (rate - self.0) * Self::NEWEST } else { rate };
    }

    /// Tokens that fit; all where nothing is known, or nothing is asked.
    pub fn fit(self, room: Option<Duration>) -> usize {
        match room {
            Some(room) if self.0 > 0.0 => (self.0 * room.as_secs_f64()) as usize,
            _ => usize::MAX,
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
