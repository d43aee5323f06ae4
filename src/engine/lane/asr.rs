//! Speech recognition.
//!
//! Every recording says which windows it can be heard in next; they get the model's slots by turns of their owners,
//! and of one owner's the recording that holds the fewest, the oldest first. Windows of all recordings are decoded
//! together, a token a step; one that is done makes room for the next, which is encoded first, so that the step is
//! kept full.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::{Lane, Look};
use crate::engine::job::{Draining, Event, Failure, Job, Modality};
use crate::engine::sched::JobId;
use crate::engine::sched::asr::Scheduler;
use crate::engine::sched::queue::{Claim, FairQueue};
use crate::engine::sched::turns::Kind;
use crate::engine::worker::AnyJob;
use crate::model::Model;
use crate::model::asr::output::{Considered, Cut, Options, Parent, Recording, Setting, Window};
use crate::model::asr::whisper::WINDOW;
use crate::model::asr::{Asr, Batch, Decode, Front, Row, RowOutput};
use crate::obs::{ModelMetrics, Outcome, RequestTimer};
use crate::types::Usage;
use crate::types::asr::{Ending, LogMel, Segment};
use crate::types::model;

/// Windows that a step encodes: more do not go faster on a CPU, and what waits for the device waits longer.
pub const ENCODED: usize = 1;
/// How long a recording of one window waits beside text that another model writes, unless it is urgent.
const PATIENCE: Duration = Duration::from_millis(500);
/// Steps between two looks over the books of the blocks.
const AUDIT: u64 = 64;

/// What a transcription starts from.
pub struct Input {
    pub mel: LogMel,
    pub cut: Cut,
    pub options: Options,
    /// Lower goes first.
    pub priority: i32,
}

impl Modality for Asr {
    const KIND: model::Kind = model::Kind::Asr;
    type Input = Input;
    type Delta = Segment;
    type Done = Ending;
    type Front = Front;
}

/// A speech model on its device.
pub struct AsrLane {
    metrics: ModelMetrics,
    model: Box<dyn Model<Asr>>,
    front: Arc<Front>,
    scheduler: Scheduler,
    recordings: BTreeMap<JobId, Active>,
    next: u64,
    /// One item for every recording that waits for a slot.
    turns: FairQueue<Claim>,
    /// By slot.
    windows: Vec<Option<Heard>>,
    draining: Draining<Asr>,
    /// Turns that were given.
    given: u64,
    steps: u64,
}

struct Active {
    job: Job<Asr>,
    work: Recording,
    claim: Claim,
    began: Option<Instant>,
    timer: RequestTimer,
    /// Windows that hold a slot.
    windows: usize,
    waits: bool,
}

impl Active {
    /// Whether somebody waits for it for longer than they should: for a few words, not a long recording.
    fn is_late(&self, now: Instant) -> bool {
        let patience = if self.claim.priority < 0 { Duration::ZERO } else { PATIENCE };
        self.job.input.mel.frames() <= WINDOW && now >= self.job.queued + patience
    }
}

/// A window in its slot.
struct Heard {
    recording: JobId,
    claim: Claim,
    /// Of two that are as urgent the lower is encoded first.
    turn: u64,
    setting: Arc<Setting>,
    window: Window,
    encoded: bool,
}

/// A step, by slots.
pub enum Plan {
    Encode(Vec<usize>),
    Decode(Vec<usize>),
}

/// What the rows of each slot came to.
pub type Output = Vec<Result<Vec<Considered>, Failure>>;

impl AsrLane {
    /// A lane without jobs.
    pub fn new(
        metrics: ModelMetrics,
        model: Box<dyn Model<Asr>>,
        front: Arc<Front>,
        scheduler: Scheduler,
    ) -> Self {
        let windows = (0..front.windows).map(|_| None).collect();
        AsrLane {
            metrics,
            model,
            front,
            scheduler,
            recordings: BTreeMap::new(),
            next: 0,
            turns: FairQueue::default(),
            windows,
            draining: Draining::default(),
            given: 0,
            steps: 0,
        }
    }

    /// Lets go of the jobs nobody waits for, delivers what readers were behind on, and fills free slots.
    fn settle(&mut self, now: Instant) {
        self.draining.flush();
        let over = self.recordings.iter_mut().filter_map(|(id, active)| {
            active.job.events.flush();
            active.job.is_over(now).then_some(*id)
        });
        for id in over.collect::<Vec<_>>() {
            self.forget(id);
        }
        for active in self.recordings.values_mut() {
            if !active.waits && active.work.has_window() && !active.job.events.is_behind() {
                active.waits = true;
                self.turns.push(&active.claim, active.claim.clone());
            }
        }
        while self.give_turn(now) {}
        let running = self.recordings.values().filter(|a| a.windows > 0).count();
        self.metrics.set_load(running, self.recordings.len() - running);
        self.metrics.set_kv_usage(self.scheduler.usage());
    }

    /// Gives a free slot to whose turn it is; false where there is none, or nobody waits.
    fn give_turn(&mut self, now: Instant) -> bool {
        if self.turns.is_empty() || self.windows.iter().all(Option::is_some) {
            return false;
        }
        let Some(claim) = self.turns.pop() else { return false };
        let waiting = self.recordings.iter_mut().filter(|(_, a)| a.waits && a.claim == claim);
        let Some((&id, active)) = waiting.min_by_key(|(id, a)| (a.windows, **id)) else {
            self.turns.leave(&claim);
            return true;
        };
        let Some(slot) = self.scheduler.open(active.work.setting().rows()) else {
            self.turns.put_back(&claim, claim.clone());
            return false;
        };
        active.waits = false;
        let Some(window) = active.work.next_window() else {
            self.scheduler.close(slot);
            self.turns.leave(&claim);
            return true;
        };
        active.windows += 1;
        active.began.get_or_insert(now);
        active.timer.start(now);
        self.turns.charge(&claim, WINDOW);
        let setting = active.work.setting().clone();
        self.given += 1;
        let turn = self.given;
        self.windows[slot] = Some(Heard { recording: id, claim, turn, setting, window, encoded: false });
        true
    }

    /// Takes a window out of its slot.
    fn close(&mut self, slot: usize) -> Option<Heard> {
        let heard = self.windows.get_mut(slot)?.take()?;
        self.scheduler.close(slot);
        self.turns.leave(&heard.claim);
        if let Some(active) = self.recordings.get_mut(&heard.recording) {
            active.windows -= 1;
        }
        Some(heard)
    }

    /// Drops a recording and all it holds.
    fn forget(&mut self, id: JobId) -> Option<Active> {
        for slot in 0..self.windows.len() {
            if self.windows[slot].as_ref().is_some_and(|h| h.recording == id) {
                self.close(slot);
            }
        }
        let active = self.recordings.remove(&id)?;
        if active.waits {
            self.turns.remove(|claim| *claim == active.claim);
        }
        Some(active)
    }

    fn break_off(&mut self, id: JobId, failure: &Failure) {
        if let Some(mut active) = self.forget(id) {
            active.timer.finish(Instant::now(), Outcome::Error, 0);
            active.job.events.send(Event::Failed(failure.clone()));
            self.draining.add(active.job.events);
        }
    }

    /// Sends what a recording has finished; ends it when that is all.
    fn advance(&mut self, id: JobId, now: Instant) {
        let Some(active) = self.recordings.get_mut(&id) else { return };
        while let Some(segment) = active.work.take_segment() {
            active.job.events.send(Event::Delta(segment));
        }
        if !active.work.is_done() {
            return;
        }
        let Some(mut active) = self.forget(id) else { return };
        let (prompt, sampled) = active.work.tokens();
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let usage =
            Usage { prompt_tokens: count(prompt), completion_tokens: count(sampled), ..Usage::default() };
        let audio = Duration::try_from_secs_f64(active.job.input.mel.seconds()).unwrap_or_default();
        self.metrics.transcribed(audio, now - active.began.unwrap_or(now));
        active.timer.prompt(usage.prompt_tokens);
        active.timer.finish(now, Outcome::Stop, usage.prompt_tokens);
        active.job.events.send(Event::Done(Ending { language: active.work.language(), usage }));
        self.draining.add(active.job.events);
    }

    /// What the next step computes.
    fn choose(&self) -> Option<Plan> {
        let (mut fresh, mut ready) = (Vec::new(), Vec::new());
        let mut urgent = i32::MAX;
        for (slot, heard) in self.windows.iter().enumerate() {
            let Some(heard) = heard.as_ref().filter(|h| !self.is_behind(h)) else { continue };
            if heard.encoded {
                ready.push(slot);
                urgent = urgent.min(heard.claim.priority);
            } else {
                fresh.push((heard.claim.priority, heard.turn, slot));
            }
        }
        fresh.sort_unstable();
        // Text that is urgent does not wait for windows that are less so.
        fresh.retain(|(priority, ..)| *priority <= urgent);
        if !fresh.is_empty() {
            return Some(Plan::Encode(fresh.into_iter().take(ENCODED).map(|(.., slot)| slot).collect()));
        }
        (!ready.is_empty()).then_some(Plan::Decode(ready))
    }

    fn is_behind(&self, heard: &Heard) -> bool {
        self.recordings.get(&heard.recording).is_none_or(|a| a.job.events.is_behind())
    }

    fn encode(&mut self, slots: &[usize]) -> Result<(), Failure> {
        let mut batch = Vec::with_capacity(slots.len());
        for &slot in slots {
            let heard = self.windows[slot].as_ref();
            let found = heard.and_then(|h| Some((h, self.recordings.get(&h.recording)?)));
            let (heard, active) =
                found.ok_or_else(|| Failure::Step("a planned window is gone".to_owned()))?;
            let mut values = vec![0f32; self.front.mels * WINDOW];
            active.work.hear(&active.job.input.mel, &heard.window, &mut values);
            batch.push((slot, values));
        }
        let done = self.model.step(&Batch::Encode(batch));
        done.map(drop).map_err(|e| Failure::of(&e))
    }

    fn decode(&mut self, slots: &[usize]) -> Result<Output, Failure> {
        let copies = self.scheduler.take_copies();
        let mut step = Decode { copies: copies.clone(), rows: Vec::new() };
        let mut counts = Vec::with_capacity(slots.len());
        for &slot in slots {
            let Some(heard) = self.windows[slot].as_ref() else {
                return Err(Failure::Step("a planned window is gone".to_owned()));
            };
            let asks = heard.window.rows(&heard.setting);
            counts.push(asks.len());
            for ask in asks {
                let covered = self.scheduler.cover(slot, ask.text, ask.position, ask.tokens.len());
                let table = covered.map_err(|e| Failure::Step(e.to_string()))?;
                let (tokens, position, want) = (ask.tokens, ask.position, ask.want);
                step.rows.push(Row { slot, tokens, position, table, want });
            }
        }
        let outputs = self.model.step(&Batch::Decode(step)).map_err(|e| Failure::of(&e));
        // A step that is tried again makes them again.
        let outputs = outputs.inspect_err(|_| self.scheduler.put_back_copies(copies))?;
        let mut outputs = outputs.into_iter();
        let rows: Vec<Vec<RowOutput>> =
            counts.iter().map(|&count| outputs.by_ref().take(count).collect()).collect();
        Ok(self.consider(slots, rows))
    }

    /// What each row comes to; a vocabulary is long enough to share the rows out among the cores.
    fn consider(&self, slots: &[usize], rows: Vec<Vec<RowOutput>>) -> Output {
        let windows = &self.windows;
        let one = |(slot, at, output): (usize, usize, RowOutput)| {
            let heard = windows[slot].as_ref();
            let heard = heard.ok_or_else(|| Failure::Step("a planned window is gone".to_owned()))?;
            let considered = heard.window.consider(&heard.setting, at, output);
            considered.map_err(|e| Failure::Step(e.to_string()))
        };
        let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let flat: Vec<(usize, usize, RowOutput)> = (slots.iter().zip(rows))
            .flat_map(|(&slot, rows)| rows.into_iter().enumerate().map(move |(at, row)| (slot, at, row)))
            .collect();
        let all: Vec<_> = flat.into_par_iter().with_max_len(1).map(one).collect();
        let mut all = all.into_iter();
        counts.iter().map(|&count| all.by_ref().take(count).collect()).collect()
    }

    /// Applies what the rows of one slot came to.
    fn apply(&mut self, slot: usize, outputs: Vec<Considered>, now: Instant) -> Result<(), Failure> {
        let Some(heard) = self.windows[slot].as_mut() else { return Ok(()) };
        let Some(active) = self.recordings.get_mut(&heard.recording) else { return Ok(()) };
        active.timer.token(now);
        let id = heard.recording;
        let step = |e: &dyn std::fmt::Display| Failure::Step(e.to_string());
        let languages = heard.window.advance(&heard.setting, outputs).map_err(|e| step(&e))?;
        if let Some(languages) = languages
            && !active.work.decide(&mut heard.window, languages)
        {
            self.close(slot);
            return Ok(());
        }
        if let Some(parents) = heard.window.parents() {
            let parents: Vec<Option<usize>> = parents
                .into_iter()
                .map(|parent| match parent {
                    Parent::Root => None,
                    Parent::Row(row) => Some(row),
                })
                .collect();
            self.scheduler.follow(slot, &parents).map_err(|e| step(&e))?;
        }
        if heard.window.is_done()
            && let Some(heard) = self.close(slot)
        {
            if let Some(active) = self.recordings.get_mut(&id) {
                active.work.finish(heard.window);
            }
            self.advance(id, now);
        }
        Ok(())
    }

    fn audit(&self) {
        if let Err(broken) = self.scheduler.check_integrity() {
            tracing::error!(broken, "{}", super::llm::UNBALANCED);
        }
    }
}

impl Lane for AsrLane {
    type Plan = Plan;
    type Output = Output;

    fn submit(&mut self, job: AnyJob) {
        let AnyJob::Asr(mut job) = job else { return job.reject() };
        let Input { mel, cut, options, priority } = &job.input;
        let work = Recording::new(mel, cut, self.front.vocab.clone(), self.front.context, options.clone());
        let rejected = match work {
            Ok(work) if work.setting().rows() <= self.scheduler.most_rows() => {
                let claim = Claim { priority: *priority, owner: job.owner.clone() };
                let timer = self.metrics.request(job.queued);
                let id = JobId(self.next);
                self.next += 1;
                let active = Active { job, work, claim, began: None, timer, windows: 0, waits: false };
                self.recordings.insert(id, active);
                return self.advance(id, Instant::now());
            }
            Ok(_) => format!("the model follows at most {} texts side by side", self.scheduler.most_rows()),
            Err(error) => error.to_string(),
        };
        self.metrics.request(job.queued).finish(Instant::now(), Outcome::Error, 0);
        job.events.send(Event::Failed(Failure::Rejected(rejected)));
    }

    fn look(&mut self, now: Instant) -> Look {
        self.settle(now);
        let kind = match self.choose() {
            Some(Plan::Encode(_)) => Kind::Encode,
            Some(Plan::Decode(_)) => Kind::Decode,
            None if self.num_jobs() == 0 => return Look::Idle,
            None => return Look::Blocked,
        };
        let mut heard = self.recordings.values().filter(|active| active.windows > 0 || active.waits);
        Look::Ready { kind, overdue: heard.any(|active| active.is_late(now)) }
    }

    fn plan(&mut self, _now: Instant, _room: Option<Duration>) -> Option<Plan> {
        self.choose()
    }

    fn run(&mut self, plan: &Plan) -> Result<Output, Failure> {
        match plan {
            Plan::Encode(slots) => self.encode(slots).map(|()| Vec::new()),
            Plan::Decode(slots) => self.decode(slots),
        }
    }

    fn commit(&mut self, plan: Plan, output: Output) {
        match plan {
            Plan::Encode(slots) => {
                for slot in slots {
                    if let Some(heard) = &mut self.windows[slot] {
                        heard.encoded = true;
                    }
                }
            }
            Plan::Decode(slots) => {
                let now = Instant::now();
                for (slot, outputs) in slots.into_iter().zip(output) {
                    let id = self.windows[slot].as_ref().map(|h| h.recording);
                    let applied = outputs.and_then(|outputs| self.apply(slot, outputs, now));
                    if let (Err(failure), Some(id)) = (applied, id) {
                        self.break_off(id, &failure);
                    }
                }
            }
        }
        self.steps += 1;
        if self.steps.is_multiple_of(AUDIT) {
            self.audit();
        }
    }

    fn fail(&mut self, plan: Plan, failure: &Failure) {
        let (Plan::Encode(slots) | Plan::Decode(slots)) = plan;
        for slot in slots {
            if let Some(id) = self.windows[slot].as_ref().map(|h| h.recording) {
                self.break_off(id, failure);
            }
        }
    }

    fn shrink(&mut self, plan: Plan) -> Option<Plan> {
        let (Plan::Encode(slots) | Plan::Decode(slots)) = &plan;
        let heard = |slot: &usize| self.windows.get(*slot)?.as_ref().map(|heard| heard.recording);
        let recordings: Vec<JobId> = slots.iter().filter_map(heard).collect();
        let (first, last) = (recordings.iter().min()?, recordings.iter().max()?);
        // The one that came last ends, and the others are tried without it.
        if first == last {
            return Some(plan);
        }
        let last = *last;
        self.break_off(last, &Failure::OutOfMemory);
        None
    }

    fn num_jobs(&self) -> usize {
        self.recordings.len() + self.draining.len()
    }

    fn fail_all(&mut self, failure: &Failure) {
        for id in self.recordings.keys().copied().collect::<Vec<_>>() {
            self.break_off(id, failure);
        }
    }

    fn rest(&mut self) {
        self.audit();
        if self.recordings.is_empty() {
            self.model.rest();
        }
    }
}

#[cfg(test)]
#[path = "asr_tests.rs"]
mod tests;
