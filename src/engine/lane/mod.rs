//! A loaded model on its device's thread, with its scheduler and its jobs: the three verbs.
//!
//! [`Lane::plan`] decides what the next step computes, [`Lane::run`] computes it, [`Lane::commit`] applies the
//! result and sends events. [`Lane::step`] is the only place that calls them, so failures are handled once: a
//! step that fails or panics fails the jobs in it and no other.

pub mod asr;
pub mod draft;
pub mod embed;
pub mod llm;
pub mod vad;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::job::Failure;
use super::worker::AnyJob;

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A step was computed.
    Worked,
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

    /// Forgets jobs that are over, then decides on a step. `None`: nothing can be computed now.
    fn plan(&mut self, now: Instant) -> Option<Self::Plan>;

    /// Computes the step. The only part that touches tensors.
    fn run(&mut self, plan: &Self::Plan) -> Result<Self::Output, Failure>;

    /// Applies the output: advances sequences, sends events, ends jobs.
    fn commit(&mut self, plan: Self::Plan, output: Self::Output);

    /// Ends the jobs of a step that failed.
    fn fail(&mut self, plan: Self::Plan, failure: &Failure);

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
    /// Plans, runs and commits one step.
    fn step(&mut self, now: Instant) -> Turn;
    /// See [`Lane::submit`].
    fn submit(&mut self, job: AnyJob);
    /// See [`Lane::fail_all`].
    fn fail_all(&mut self, failure: &Failure);
    /// See [`Lane::rest`].
    fn rest(&mut self);
}

impl<L: Lane> AnyLane for L {
    fn step(&mut self, now: Instant) -> Turn {
        let Some(plan) = self.plan(now) else {
            return if self.num_jobs() == 0 { Turn::Idle } else { Turn::Blocked };
        };
        // A panic leaves the lane usable: `run` changes nothing that `plan` or `commit` reads except the
        // model's caches, and the jobs whose cache entries may be half-written are ended by `fail`.
        let result = catch_unwind(AssertUnwindSafe(|| self.run(&plan)));
        match result {
            Ok(Ok(output)) => self.commit(plan, output),
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
        Turn::Worked
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

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
