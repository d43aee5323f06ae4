//! Speech recognition.
//!
//! Recordings take slots of the model in order of arrival. Decoding comes first: a step appends one token (or
//! a prompt) to every recording that is in the middle of a window. When none is, the next window is encoded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Lane;
use crate::engine::job::{Draining, Event, Failure, Job, Modality};
use crate::engine::worker::AnyJob;
use crate::model::Model;
use crate::model::asr::output::{LongForm, Need, Options};
use crate::model::asr::whisper::WINDOW;
use crate::model::asr::{Asr, Batch, Front, Row, RowLogits};
use crate::obs::{ModelMetrics, Outcome, RequestTimer};
use crate::types::Usage;
use crate::types::asr::{Ending, Language, LogMel, Segment};
use crate::types::model::Kind;

/// What a transcription starts from.
pub struct Input {
    pub mel: LogMel,
    pub options: Options,
}

impl Modality for Asr {
    const KIND: Kind = Kind::Asr;
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
    waiting: VecDeque<(Job<Asr>, RequestTimer)>,
    /// By slot.
    active: BTreeMap<usize, Active>,
    slots: usize,
    draining: Draining<Asr>,
}

struct Active {
    job: Job<Asr>,
    work: LongForm,
    began: Instant,
    timer: RequestTimer,
}

/// A step, by slots.
pub enum Plan {
    Encode(usize),
    Decode(Vec<usize>),
}

impl AsrLane {
    /// A lane without jobs, for a model with so many slots.
    pub fn new(metrics: ModelMetrics, model: Box<dyn Model<Asr>>, front: Arc<Front>, slots: usize) -> Self {
        AsrLane {
            metrics,
            model,
            front,
            waiting: VecDeque::new(),
            active: BTreeMap::new(),
            slots,
            draining: Draining::default(),
        }
    }

    /// Lets go of the jobs nobody waits for, and gives free slots to those that wait.
    fn settle(&mut self, now: Instant) {
        self.draining.flush();
        self.waiting.retain_mut(|(job, _)| !job.is_over(now));
        self.active.retain(|_, active| {
            active.job.events.flush();
            !active.job.is_over(now)
        });
        while self.active.len() < self.slots {
            let Some((mut job, mut timer)) = self.waiting.pop_front() else { break };
            let Some(slot) = (0..self.slots).find(|s| !self.active.contains_key(s)) else { break };
            timer.start(now);
            let options = job.input.options.clone();
            match LongForm::new(&job.input.mel, self.front.vocab.clone(), self.front.context, options) {
                Ok(work) => {
                    self.active.insert(slot, Active { job, work, began: now, timer });
                    self.advance(slot);
                }
                Err(error) => {
                    timer.finish(now, Outcome::Error, 0);
                    job.events.send(Event::Failed(Failure::Rejected(error.to_string())));
                }
            }
        }
        self.metrics.set_load(self.active.len(), self.waiting.len());
    }

    /// Sends what a recording has finished; ends it when that is all.
    fn advance(&mut self, slot: usize) {
        let Some(active) = self.active.get_mut(&slot) else { return };
        while let Some(segment) = active.work.take_segment() {
            active.job.events.send(Event::Delta(segment));
        }
        if active.work.next() != Need::Done {
            return;
        }
        let Some(mut active) = self.active.remove(&slot) else { return };
        let now = Instant::now();
        let (prompt, sampled) = active.work.tokens();
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let usage =
            Usage { prompt_tokens: count(prompt), completion_tokens: count(sampled), ..Usage::default() };
        let audio = Duration::try_from_secs_f64(active.job.input.mel.seconds()).unwrap_or_default();
        self.metrics.transcribed(audio, now - active.began);
        active.timer.prompt(usage.prompt_tokens);
        active.timer.finish(now, Outcome::Stop, usage.prompt_tokens);
        // Silence has no language; English is what the reference falls back to.
        let code = active.work.language().unwrap_or("en").to_owned();
        let language = Language { code, probability: 1.0 };
        active.job.events.send(Event::Done(Ending { language, usage }));
        self.draining.add(active.job.events);
    }

    fn break_off(&mut self, slot: usize, failure: &Failure) {
        if let Some(mut active) = self.active.remove(&slot) {
            active.timer.finish(Instant::now(), Outcome::Error, 0);
            active.job.events.send(Event::Failed(failure.clone()));
            self.draining.add(active.job.events);
        }
    }

    fn rows(&self, slots: &[usize]) -> Vec<Row> {
        let row = |slot: &usize| match self.active.get(slot)?.work.next() {
            Need::Decode { tokens, position, probe } => {
                Some(Row { slot: *slot, tokens: tokens.to_vec(), position, probe })
            }
            _ => None,
        };
        slots.iter().filter_map(row).collect()
    }
}

impl Lane for AsrLane {
    type Plan = Plan;
    type Output = Vec<RowLogits>;

    fn submit(&mut self, job: AnyJob) {
        let AnyJob::Asr(job) = job else { return job.reject() };
        let timer = self.metrics.request(job.queued);
        self.waiting.push_back((job, timer));
    }

    fn plan(&mut self, now: Instant) -> Option<Plan> {
        self.settle(now);
        let ready = |slot: &usize, need: fn(&Need<'_>) -> bool| {
            self.active.get(slot).is_some_and(|a| !a.job.events.is_behind() && need(&a.work.next()))
        };
        let slots = || self.active.keys().copied();
        let decode: Vec<usize> = slots().filter(|s| ready(s, |n| matches!(n, Need::Decode { .. }))).collect();
        if !decode.is_empty() {
            return Some(Plan::Decode(decode));
        }
        slots().find(|s| ready(s, |n| matches!(n, Need::Encode { .. }))).map(Plan::Encode)
    }

    fn run(&mut self, plan: &Plan) -> Result<Vec<RowLogits>, Failure> {
        let batch = match plan {
            Plan::Decode(slots) => Batch::Decode(self.rows(slots)),
            Plan::Encode(slot) => {
                let Some((active, Need::Encode { seek })) = self.active.get(slot).map(|a| (a, a.work.next()))
                else {
                    return Err(Failure::Step("a planned recording is gone".to_owned()));
                };
                let mut window = vec![0f32; self.front.mels * WINDOW];
                active.job.input.mel.window(seek, WINDOW, &mut window);
                Batch::Encode(vec![(*slot, window)])
            }
        };
        self.model.step(&batch).map_err(|e| Failure::Step(e.to_string()))
    }

    fn commit(&mut self, plan: Plan, output: Vec<RowLogits>) {
        match plan {
            Plan::Encode(slot) => {
                if let Some(active) = self.active.get_mut(&slot) {
                    active.work.encoded();
                }
            }
            Plan::Decode(slots) => {
                let now = Instant::now();
                for (slot, mut logits) in slots.into_iter().zip(output) {
                    let Some(active) = self.active.get_mut(&slot) else { continue };
                    active.timer.token(now);
                    match active.work.feed(&mut logits.last, logits.probe.as_deref()) {
                        Ok(()) => self.advance(slot),
                        Err(error) => self.break_off(slot, &Failure::Step(error.to_string())),
                    }
                }
            }
        }
    }

    fn fail(&mut self, plan: Plan, failure: &Failure) {
        match plan {
            Plan::Encode(slot) => self.break_off(slot, failure),
            Plan::Decode(slots) => slots.into_iter().for_each(|slot| self.break_off(slot, failure)),
        }
    }

    fn num_jobs(&self) -> usize {
        self.active.len() + self.waiting.len() + self.draining.len()
    }

    fn fail_all(&mut self, failure: &Failure) {
        for slot in 0..self.slots {
            self.break_off(slot, failure);
        }
        for (mut job, timer) in self.waiting.drain(..) {
            timer.finish(Instant::now(), Outcome::Error, 0);
            job.events.send(Event::Failed(failure.clone()));
        }
    }

    fn rest(&mut self) {
        if self.active.is_empty() {
            self.model.rest();
        }
    }
}
