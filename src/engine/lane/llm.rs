//! Text generation.

mod say;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::draft::Drafter;
use super::{Lane, Look, Rate};
use crate::engine::job::{Draining, Event, Failure, Job, Modality};
use crate::engine::sched::JobId;
use crate::engine::sched::llm::{Outcome, Plan, Scheduler, Speculated, Start};
use crate::engine::sched::queue::Claim;
use crate::engine::worker::AnyJob;
use crate::model::Model;
use crate::model::llm::guide::Guide;
use crate::model::llm::logprobs::Logprobs;
use crate::model::llm::{Batch, Choice, Front, Llm, Logits, Row};
use crate::obs::{ModelMetrics, Outcome as Ended, RequestTimer};
use crate::types::Usage;
use crate::types::llm::{FinishReason, Sampling};
use crate::types::model::Kind;
pub use say::Sampled;
use say::{choice, choose_while_true, keep_while_true};

/// Tells a lane that whoever hangs up has all that was wanted, as when a stop string has come: that is an end like
/// any other, and no cancellation.
#[derive(Debug, Clone, Default)]
pub struct Satisfied(Arc<AtomicBool>);

impl Satisfied {
    /// To be said before the reader is dropped.
    pub fn say(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_said(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What a generation starts from; the prompt's ids are within the vocabulary.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub prompt: Vec<u32>,
    pub max_new: usize,
    pub sampling: Sampling,
    /// Resolved: the request's, or drawn by the caller.
    pub seed: u64,
    /// Goes on past the model's end tokens, as measurements need.
    pub ignore_stop: bool,
    /// Tokens that end the answer besides those.
    pub stop: Vec<u32>,
    /// Tokens before which none that ends the answer is chosen, while there is another.
    pub min_new: usize,
    /// What holds the answer, at its beginning.
    pub guide: Option<Guide>,
    /// Report each token's log-probability, and those of so many of the likeliest.
    pub logprobs: Option<u32>,
    /// Lower numbers go first.
    pub priority: i32,
    /// Shared with the reader.
    pub satisfied: Satisfied,
}

/// What a generation says as it goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// The prompt is computed; this many of its tokens were in the cache. Comes once, before the first token.
    Prompt { cached: u32 },
    /// The next token, with its log-probability where it was asked for; stop tokens are not sent.
    Token(u32, Option<Box<Logprobs>>),
}

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub reason: FinishReason,
    pub usage: Usage,
}

impl Modality for Llm {
    const KIND: Kind = Kind::Chat;
    type Input = Input;
    type Delta = Delta;
    type Done = Done;
    type Front = Front;
}

/// What is logged where the scheduler's invariants do not hold: a fault of this program.
pub const UNBALANCED: &str = "the blocks of the key-value cache are not all accounted for";

/// A chat model on its device.
pub struct LlmLane {
    metrics: ModelMetrics,
    model: Box<dyn Model<Llm>>,
    scheduler: Scheduler,
    /// The model that guesses, where there is one.
    drafter: Option<Drafter>,
    stop: Arc<[u32]>,
    jobs: HashMap<JobId, Active>,
    next: u64,
    draining: Draining<Llm>,
    /// What the metrics know of.
    preemptions: u64,
    speculated: Speculated,
    steps: u64,
    /// At which prompts are computed while nothing is written.
    rate: Rate,
}

/// Steps between two looks over the books of the cache, which take as long as a small part of one.
const AUDIT: u64 = 64;
/// How long a prompt waits beside text that another model writes.
const PATIENCE: Duration = Duration::from_millis(200);

struct Active {
    job: Job<Llm>,
    prompt_tokens: u32,
    /// Whether it has said something.
    begun: bool,
    /// Counts the job as cancelled if it is dropped before it is finished.
    timer: RequestTimer,
}

impl LlmLane {
    /// A lane without jobs.
    pub fn new(
        metrics: ModelMetrics,
        model: Box<dyn Model<Llm>>,
        scheduler: Scheduler,
        drafter: Option<Drafter>,
        stop: Arc<[u32]>,
    ) -> Self {
        LlmLane {
            metrics,
            model,
            scheduler,
            drafter,
            stop,
            jobs: HashMap::new(),
            next: 0,
            draining: Draining::default(),
            preemptions: 0,
            speculated: Speculated::default(),
            steps: 0,
            rate: Rate::default(),
        }
    }

    /// Drops the jobs nobody waits for; delivers what readers were behind on.
    fn sweep(&mut self, now: Instant) {
        self.draining.flush();
        let over = self.jobs.iter_mut().filter_map(|(id, active)| {
            active.job.events.flush();
            active.job.is_over(now).then_some(*id)
        });
        for id in over.collect::<Vec<_>>() {
            self.scheduler.cancel(id);
            let ended = self.jobs.remove(&id).filter(|active| active.job.input.satisfied.is_said());
            if let Some(active) = ended {
                active.timer.finish(now, Ended::Stop, active.prompt_tokens);
            }
        }
    }

    /// Moves the sequence's guide on. One that has come to its end there is complete: its last token is
    /// text, unlike a stop token.
    fn advance(&mut self, outcome: &mut Outcome) -> Result<bool, Failure> {
        let active = self.jobs.get_mut(&outcome.id);
        let Some(guide) = active.and_then(|a| a.job.input.guide.as_mut()) else { return Ok(false) };
        if outcome.finish == Some(FinishReason::Stop) {
            return Ok(false);
        }
        let complete = guide.advance(outcome.token).map_err(|e| Failure::Step(format!("grammar: {e}")))?;
        if complete {
            outcome.finish = Some(FinishReason::Stop);
            self.scheduler.cancel(outcome.id);
        }
        Ok(complete)
    }

    /// The tokens that end an answer.
    fn stop(&self, input: &Input) -> Arc<[u32]> {
        match (input.ignore_stop, &input.stop[..]) {
            (false, []) => self.stop.clone(),
            (false, more) => self.stop.iter().chain(more).copied().collect(),
            (true, only) => only.into(),
        }
    }

    fn deliver(&mut self, mut outcome: Outcome, logprobs: Option<Box<Logprobs>>, now: Instant) {
        let complete = match self.advance(&mut outcome) {
            Ok(complete) => complete,
            Err(failure) => return self.break_off(outcome.id, &failure),
        };
        let Some(active) = self.jobs.get_mut(&outcome.id) else { return };
        active.timer.token(now);
        let cached_tokens = outcome.cached as u32;
        active.begun = true;
        if outcome.generated == 1 {
            self.metrics.prefix_cache(active.prompt_tokens, cached_tokens);
            active.timer.prompt(active.prompt_tokens);
            active.job.events.send(Event::Delta(Delta::Prompt { cached: cached_tokens }));
        }
        if complete || outcome.finish != Some(FinishReason::Stop) {
            active.job.events.send(Event::Delta(Delta::Token(outcome.token, logprobs)));
        }
        let Some(reason) = outcome.finish else { return };
        let Some(mut active) = self.jobs.remove(&outcome.id) else { return };
        let usage = Usage {
            prompt_tokens: active.prompt_tokens,
            completion_tokens: outcome.generated as u32,
            cached_tokens,
            reasoning_tokens: 0,
        };
        active.job.events.send(Event::Done(Done { reason, usage }));
        self.draining.add(active.job.events);
        let ended = match reason {
            FinishReason::Stop | FinishReason::ToolCalls => Ended::Stop,
            FinishReason::Length => Ended::Length,
        };
        active.timer.finish(now, ended, active.prompt_tokens);
    }

    fn break_off(&mut self, id: JobId, failure: &Failure) {
        self.scheduler.cancel(id);
        if let Some(mut active) = self.jobs.remove(&id) {
            active.job.events.send(Event::Failed(failure.clone()));
            self.draining.add(active.job.events);
            active.timer.finish(Instant::now(), Ended::Error, active.prompt_tokens);
        }
    }

    fn audit(&self) {
        if let Err(broken) = self.scheduler.check_integrity() {
            tracing::error!(broken, "{UNBALANCED}");
        }
    }

    fn count(&mut self) {
        self.metrics.set_load(self.scheduler.num_running(), self.scheduler.num_waiting());
        self.metrics.set_kv_usage(self.scheduler.usage());
        while self.preemptions < self.scheduler.preemptions() {
            self.preemptions += 1;
            self.metrics.preempted();
        }
        let now = self.scheduler.speculated();
        if now != self.speculated {
            let before = std::mem::replace(&mut self.speculated, now);
            self.metrics.speculated(
                now.drafts - before.drafts,
                now.guesses - before.guesses,
                now.accepted - before.accepted,
            );
        }
    }

    /// The tokens of a step, guesses among them.
    fn batch(&self, plan: &Plan) -> Result<Batch, Failure> {
        let mut batch = Batch::default();
        for row in &plan.rows {
            let Some(seq) = self.scheduler.running(row.id) else {
                return Err(Failure::Step("a planned sequence is gone".to_owned()));
            };
            let guesses = seq.checked(row);
            batch.tokens.extend_from_slice(&seq.tokens[row.start..row.start + row.len]);
            batch.tokens.extend_from_slice(guesses);
            batch.rows.push(Row {
                len: row.len + guesses.len(),
                start: row.start,
                table: seq.table.clone(),
                logits: if row.samples { 1 + guesses.len() } else { 0 },
                choice: match self.jobs.get(&row.id).filter(|_| row.samples) {
                    Some(active) => choice(seq, guesses, &active.job.input),
                    None => Choice::Logits,
                },
            });
        }
        Ok(batch)
    }

    /// What the rows that sample say.
    fn say(&self, plan: &Plan, logits: Logits, failed: &HashMap<JobId, String>) -> Said {
        let Logits { chosen, mut data, vocabulary } = logits;
        let (mut chosen, mut logits) = (chosen.into_iter(), data.chunks_exact_mut(vocabulary.max(1)));
        let mut said = Vec::with_capacity(plan.rows.len());
        for row in plan.rows.iter().filter(|r| r.samples) {
            let (Some(seq), Some(active)) = (self.scheduler.running(row.id), self.jobs.get(&row.id)) else {
                // Nothing of the plan can be gone, and its logits have to be passed over if it is.
                said.push(Err(Failure::Step("a planned sequence is gone".to_owned())));
                continue;
            };
            let guesses = seq.checked(row);
            // All are taken, so that the next row finds its own.
            let chosen: Vec<Option<u32>> = chosen.by_ref().take(1 + guesses.len()).collect();
            if let Some(chosen) = chosen.into_iter().collect() {
                said.push(Ok(keep_while_true(chosen, guesses)));
                continue;
            }
            let logits = logits.by_ref().take(1 + guesses.len());
            said.push(match failed.get(&row.id) {
                Some(why) => Err(Failure::Step(format!("grammar: {why}"))),
                None => Ok(choose_while_true(logits, seq, guesses, &active.job.input)),
            });
        }
        said
    }
}

/// What each row that samples said, the guesses that came true among it, or why it said nothing.
type Said = Vec<Result<Vec<Sampled>, Failure>>;

/// The guides of the rows that sample, each with room for what may go wrong.
fn guides<'j>(
    jobs: &'j mut HashMap<JobId, Active>,
    plan: &Plan,
) -> Vec<(JobId, &'j mut Guide, Option<String>)> {
    let samples = |id: JobId| plan.rows.iter().any(|row| row.samples && row.id == id);
    let held = jobs.iter_mut().filter_map(|(id, active)| Some((*id, active.job.input.guide.as_mut()?)));
    held.filter(|(id, _)| samples(*id)).map(|(id, guide)| (id, guide, None)).collect()
}

impl Lane for LlmLane {
    type Plan = Plan;
    type Output = Said;

    fn submit(&mut self, job: AnyJob) {
        let AnyJob::Llm(mut job) = job else { return job.reject() };
        let id = JobId(self.next);
        self.next += 1;
        let tokens = job.input.prompt.len();
        let start = Start {
            prompt: std::mem::take(&mut job.input.prompt),
            max_new: job.input.max_new,
            sampling: job.input.sampling.clone(),
            seed: job.input.seed,
            stop: self.stop(&job.input),
            // A form of the answer moves on with each token, and its mask is worked out beside the step.
            guessable: job.input.guide.is_none(),
            claim: Claim { priority: job.input.priority, owner: job.owner.clone() },
        };
        match self.scheduler.submit(id, start) {
            Ok(()) => {
                let timer = self.metrics.request(job.queued);
                self.jobs.insert(id, Active { job, prompt_tokens: tokens as u32, begun: false, timer });
            }
            Err(limit) => job.events.send(Event::Failed(Failure::TooLong { tokens, limit })),
        }
    }

    fn look(&mut self, now: Instant) -> Look {
        self.sweep(now);
        // There may be nothing to plan any more.
        self.count();
        let stalled = |id| self.jobs.get(&id).is_none_or(|a| a.job.events.is_behind());
        match self.scheduler.next(stalled) {
            Some(kind) => {
                let late = |active: &Active| !active.begun && now >= active.job.queued + PATIENCE;
                Look::Ready { kind, overdue: self.jobs.values().any(late) }
            }
            None if self.num_jobs() == 0 => Look::Idle,
            None => Look::Blocked,
        }
    }

    fn plan(&mut self, now: Instant, room: Option<Duration>) -> Option<Plan> {
        let jobs = &mut self.jobs;
        let plan = self
            .scheduler
            .plan(self.rate.fit(room), |id| jobs.get(&id).is_none_or(|a| a.job.events.is_behind()));
        for row in plan.iter().flat_map(|p| &p.rows) {
            if let Some(active) = jobs.get_mut(&row.id) {
                active.timer.start(now);
            }
        }
        self.count();
        plan
    }

    fn run(&mut self, plan: &Plan) -> Result<Said, Failure> {
        if let Some(drafter) = &mut self.drafter {
            drafter.guess(&mut self.scheduler, plan).map_err(|e| Failure::of(&e))?;
        }
        let batch = self.batch(plan)?;
        let mut guides = guides(&mut self.jobs, plan);
        let begun = Instant::now();
        // The model computes on this thread and its helpers; what they leave idle works out the masks.
        let logits = rayon::in_place_scope(|scope| {
            for (_, guide, failed) in &mut guides {
                scope.spawn(move |_| *failed = guide.prepare().err());
            }
            self.model.step(&batch)
        })
        .map_err(|e| Failure::of(&e))?;
        let failed: HashMap<JobId, String> =
            guides.into_iter().filter_map(|(id, _, failed)| failed.map(|why| (id, why))).collect();
        let said = self.say(plan, logits, &failed);
        let took = begun.elapsed();
        self.scheduler.took(plan, took.as_secs_f64());
        if plan.rows.iter().all(|row| row.len > 1) {
            self.rate.note(batch.tokens.len(), took);
        }
        Ok(said)
    }

    fn commit(&mut self, plan: Plan, said: Said) {
        let now = Instant::now();
        self.metrics.step(plan.rows.iter().map(|r| r.len).sum());
        let rows = plan.rows.iter().filter(|r| r.samples).zip(&said);
        for (row, failure) in rows.filter_map(|(row, said)| Some((row, said.as_ref().err()?))) {
            self.break_off(row.id, failure);
        }
        // The scheduler passes over the rows that are gone.
        let said: Vec<Vec<Sampled>> = said.into_iter().map(Result::unwrap_or_default).collect();
        let tokens: Vec<Vec<u32>> = said.iter().map(|s| s.iter().map(|s| s.token).collect()).collect();
        let rows = plan.rows.iter().filter(|r| r.samples).zip(said);
        let mut logprobs: HashMap<JobId, VecDeque<Box<Logprobs>>> = rows
            .map(|(row, said)| (row.id, said.into_iter().filter_map(|s| s.logprobs).collect()))
            .filter(|(_, logprobs): &(_, VecDeque<_>)| !logprobs.is_empty())
            .collect();
        for outcome in self.scheduler.commit(&plan, &tokens) {
            let logprobs = logprobs.get_mut(&outcome.id).and_then(VecDeque::pop_front);
            self.deliver(outcome, logprobs, now);
        }
        self.count();
        self.steps += 1;
        if self.steps.is_multiple_of(AUDIT) {
            self.audit();
        }
    }

    fn fail(&mut self, plan: Plan, failure: &Failure) {
        for row in plan.rows {
            self.break_off(row.id, failure);
        }
    }

    fn shrink(&mut self, plan: Plan) -> Option<Plan> {
        if plan.rows.iter().any(|row| row.len > 1) {
            self.scheduler.shrink(&plan);
            return None;
        }
        // The one that came last ends, and the others are tried without it.
        match plan.rows.last() {
            Some(last) if plan.rows.len() > 1 => {
                self.break_off(last.id, &Failure::OutOfMemory);
                None
            }
            _ => Some(plan),
        }
    }

    fn num_jobs(&self) -> usize {
        self.jobs.len() + self.draining.len()
    }

    fn rest(&mut self) {
        self.audit();
    }

    fn fail_all(&mut self, failure: &Failure) {
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.break_off(id, failure);
        }
    }
}

#[cfg(test)]
#[path = "llm_tests.rs"]
mod tests;
