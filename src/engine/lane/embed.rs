//! Embeddings, rerankings, voices and who speaks in windows: work in rows that one step finishes each, in whatever company.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Lane, Look, Rate};
use crate::engine::job::{Event, Failure, Job, Modality};
use crate::engine::sched::JobId;
use crate::engine::sched::embed::{Plan, Scheduler};
use crate::engine::sched::turns;
use crate::engine::worker::AnyJob;
use crate::model::embed::{self, Embed};
use crate::model::rerank::{self, Pair, Rerank};
use crate::model::segment::{self, Segment};
use crate::model::speaker::{self, Speaker};
use crate::model::{Model, Network};
use crate::obs::{ModelMetrics, Outcome, RequestTimer};
use crate::types::asr::HOP;
use crate::types::model::Kind;

/// Rows of a job that somebody waits for: a question, not a library.
const FEW: usize = 4;
/// How long they wait beside text that is being written.
const PATIENCE: Duration = Duration::from_millis(300);

/// Rows framed as the model wants them; each has at least one token.
#[derive(Debug, Clone)]
pub struct Input<R> {
    pub rows: Vec<R>,
}

/// Work of rows that do not depend on each other, as the lane needs it.
pub trait ByRow:
    Network<Batch = Vec<Self::Row>, Output = Vec<Self::Value>>
    + Modality<Input = Input<Self::Row>, Done = Vec<Self::Value>>
{
    /// One text, or two; the frames of a voice, a window of sound.
    type Row: Clone + Send;
    /// What a row comes to.
    type Value: Clone + Default + Send;

    /// How long a job of a few rows waits beside text that is being written; for ever where nobody waits for one.
    const PATIENCE: Option<Duration>;

    /// Tokens of a row, or frames of 10 ms.
    fn tokens(row: &Self::Row) -> usize;

    /// Counts a batch, beside what is counted of all work.
    fn count(_metrics: &ModelMetrics, _rows: usize, _tokens: u32) {}

    /// The job, or another kind's.
    #[expect(clippy::result_large_err, reason = "either is the job that came, handed on")]
    fn pick(job: AnyJob) -> Result<Job<Self>, AnyJob>;
}

impl Modality for Embed {
    const KIND: Kind = Kind::Embed;
    /// Token ids of every text.
    type Input = Input<Vec<u32>>;
    /// Nothing is known before the end.
    type Delta = std::convert::Infallible;
    /// A unit vector a text, in order.
    type Done = Vec<Vec<f32>>;
    type Front = embed::Front;
}

impl ByRow for Embed {
    type Row = Vec<u32>;
    type Value = Vec<f32>;
    const PATIENCE: Option<Duration> = Some(PATIENCE);

    fn tokens(row: &Vec<u32>) -> usize {
        row.len()
    }

    fn count(metrics: &ModelMetrics, rows: usize, tokens: u32) {
        metrics.embedded(rows, tokens);
    }

    fn pick(job: AnyJob) -> Result<Job<Embed>, AnyJob> {
        if let AnyJob::Embed(job) = job { Ok(job) } else { Err(job) }
    }
}

impl Modality for Rerank {
    const KIND: Kind = Kind::Rerank;
    /// Each text with the question.
    type Input = Input<Pair>;
    /// Nothing is known before the end.
    type Delta = std::convert::Infallible;
    /// A logit a pair, in order.
    type Done = Vec<f32>;
    type Front = rerank::Front;
}

impl ByRow for Rerank {
    type Row = Pair;
    type Value = f32;
    const PATIENCE: Option<Duration> = Some(PATIENCE);

    fn tokens(row: &Pair) -> usize {
        row.ids().len()
    }

    fn pick(job: AnyJob) -> Result<Job<Rerank>, AnyJob> {
        if let AnyJob::Rerank(job) = job { Ok(job) } else { Err(job) }
    }
}

impl Modality for Speaker {
    const KIND: Kind = Kind::Speaker;
    /// The frames of each voice.
    type Input = Input<Arc<[f32]>>;
    /// Nothing is known before the end.
    type Delta = std::convert::Infallible;
    /// A unit vector a voice, in order.
    type Done = Vec<Vec<f32>>;
    type Front = speaker::Front;
}

impl ByRow for Speaker {
    type Row = Arc<[f32]>;
    type Value = Vec<f32>;
    /// Whoever asks who speaks waits for all of a recording.
    const PATIENCE: Option<Duration> = None;

    fn tokens(row: &Arc<[f32]>) -> usize {
        row.len() / speaker::BINS
    }

    fn pick(job: AnyJob) -> Result<Job<Speaker>, AnyJob> {
        if let AnyJob::Speaker(job) = job { Ok(job) } else { Err(job) }
    }
}

impl Modality for Segment {
    const KIND: Kind = Kind::Segment;
    /// Windows of the model's length.
    type Input = Input<Arc<[f32]>>;
    /// Nothing is known before the end.
    type Delta = std::convert::Infallible;
    /// Log-probabilities of a window's frames each, in order.
    type Done = Vec<Vec<f32>>;
    type Front = segment::Front;
}

impl ByRow for Segment {
    type Row = Arc<[f32]>;
    type Value = Vec<f32>;
    /// Whoever asks who speaks waits for all of a recording.
    const PATIENCE: Option<Duration> = None;

    fn tokens(row: &Arc<[f32]>) -> usize {
        row.len() / HOP
    }

    fn pick(job: AnyJob) -> Result<Job<Segment>, AnyJob> {
        if let AnyJob::Segment(job) = job { Ok(job) } else { Err(job) }
    }
}

/// A model of such work on its device.
pub struct RowLane<M: ByRow> {
    metrics: ModelMetrics,
    model: Box<dyn Model<M>>,
    scheduler: Scheduler,
    jobs: HashMap<JobId, Active<M>>,
    next: u64,
    rate: Rate,
}

struct Active<M: ByRow> {
    job: Job<M>,
    values: Vec<M::Value>,
    timer: RequestTimer,
}

impl<M: ByRow> RowLane<M> {
    /// A lane without jobs.
    pub fn new(metrics: ModelMetrics, model: Box<dyn Model<M>>, scheduler: Scheduler) -> Self {
        RowLane { metrics, model, scheduler, jobs: HashMap::new(), next: 0, rate: Rate::default() }
    }

    fn end(&mut self, id: JobId) -> Option<Active<M>> {
        self.scheduler.cancel(id);
        self.jobs.remove(&id)
    }

    fn break_off(&mut self, id: JobId, failure: &Failure) {
        if let Some(mut active) = self.end(id) {
            active.job.events.send(Event::Failed(failure.clone()));
            active.timer.finish(Instant::now(), Outcome::Error, 0);
        }
    }
}

impl<M: ByRow> Lane for RowLane<M> {
    type Plan = Plan;
    type Output = Vec<M::Value>;

    fn submit(&mut self, job: AnyJob) {
        let job = match M::pick(job) {
            Ok(job) => job,
            Err(other) => return other.reject(),
        };
        let id = JobId(self.next);
        self.next += 1;
        let lens = job.input.rows.iter().map(M::tokens).collect();
        let values = vec![M::Value::default(); job.input.rows.len()];
        self.scheduler.submit(id, lens);
        let timer = self.metrics.request(job.queued);
        self.jobs.insert(id, Active { job, values, timer });
    }

    fn look(&mut self, now: Instant) -> Look {
        let over: Vec<JobId> =
            self.jobs.iter_mut().filter_map(|(id, a)| a.job.is_over(now).then_some(*id)).collect();
        if !over.is_empty() {
            over.into_iter().for_each(|id| drop(self.end(id)));
            self.metrics.set_load(0, self.jobs.len());
        }
        let late = |job: &Job<M>| {
            job.input.rows.len() <= FEW && M::PATIENCE.is_some_and(|patience| now >= job.queued + patience)
        };
        match self.jobs.is_empty() {
            true => Look::Idle,
            false => {
                let overdue = self.jobs.values().any(|active| late(&active.job));
                Look::Ready { kind: turns::Kind::Rows, overdue }
            }
        }
    }

    fn plan(&mut self, now: Instant, room: Option<Duration>) -> Option<Plan> {
        let plan = self.scheduler.plan(self.rate.fit(room));
        let mut running = 0;
        for row in plan.iter().flat_map(|p| &p.rows).filter(|r| r.index == 0) {
            if let Some(active) = self.jobs.get_mut(&row.id) {
                active.timer.start(now);
                running += 1;
            }
        }
        self.metrics.set_load(running, self.jobs.len() - running);
        plan
    }

    fn run(&mut self, plan: &Plan) -> Result<Vec<M::Value>, Failure> {
        let rows: Vec<M::Row> = plan
            .rows
            .iter()
            .filter_map(|r| self.jobs.get(&r.id)?.job.input.rows.get(r.index).cloned())
            .collect();
        if rows.len() != plan.rows.len() {
            return Err(Failure::Step("a planned row is gone".to_owned()));
        }
        let tokens = rows.iter().map(M::tokens).sum::<usize>();
        self.metrics.step(tokens);
        M::count(&self.metrics, rows.len(), tokens as u32);
        let begun = Instant::now();
        let values = self.model.step(&rows).map_err(|e| Failure::of(&e))?;
        self.rate.note(tokens, begun.elapsed());
        Ok(values)
    }

    fn commit(&mut self, plan: Plan, values: Vec<M::Value>) {
        for (row, value) in plan.rows.iter().zip(values) {
            if let Some(slot) = self.jobs.get_mut(&row.id).and_then(|a| a.values.get_mut(row.index)) {
                *slot = value;
            }
        }
        for id in self.scheduler.commit(&plan) {
            if let Some(mut active) = self.end(id) {
                let tokens = active.job.input.rows.iter().map(M::tokens).sum::<usize>();
                active.timer.prompt(tokens as u32);
                active.timer.finish(Instant::now(), Outcome::Stop, tokens as u32);
                active.job.events.send(Event::Done(active.values));
            }
        }
    }

    fn fail(&mut self, plan: Plan, failure: &Failure) {
        for row in plan.rows {
            self.break_off(row.id, failure);
        }
    }

    fn shrink(&mut self, plan: Plan) -> Option<Plan> {
        match plan.rows.len() {
            0 | 1 => Some(plan),
            _ => {
                self.scheduler.shrink(&plan);
                None
            }
        }
    }

    fn num_jobs(&self) -> usize {
        self.jobs.len()
    }

    fn fail_all(&mut self, failure: &Failure) {
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.break_off(id, failure);
        }
    }
}
