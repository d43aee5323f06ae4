//! Embeddings.

use std::collections::HashMap;
use std::time::Instant;

use super::Lane;
use crate::engine::job::{Event, Failure, Job, Modality};
use crate::engine::sched::JobId;
use crate::engine::sched::embed::{Plan, Scheduler};
use crate::engine::worker::AnyJob;
use crate::model::Model;
use crate::model::embed::{Embed, Front};
use crate::obs::{ModelMetrics, Outcome, RequestTimer};
use crate::types::model::Kind;

/// Token ids of every text, framed as the model wants them; each has at least one.
#[derive(Debug, Clone)]
pub struct Input {
    pub rows: Vec<Vec<u32>>,
}

impl Modality for Embed {
    const KIND: Kind = Kind::Embed;
    type Input = Input;
    /// Nothing is known before the end.
    type Delta = std::convert::Infallible;
    /// A unit vector a text, in order.
    type Done = Vec<Vec<f32>>;
    type Front = Front;
}

/// An embedding model on its device.
pub struct EmbedLane {
    metrics: ModelMetrics,
    model: Box<dyn Model<Embed>>,
    scheduler: Scheduler,
    jobs: HashMap<JobId, Active>,
    next: u64,
}

struct Active {
    job: Job<Embed>,
    vectors: Vec<Vec<f32>>,
    timer: RequestTimer,
}

impl EmbedLane {
    /// A lane without jobs.
    pub fn new(metrics: ModelMetrics, model: Box<dyn Model<Embed>>, scheduler: Scheduler) -> Self {
        EmbedLane { metrics, model, scheduler, jobs: HashMap::new(), next: 0 }
    }

    fn end(&mut self, id: JobId) -> Option<Active> {
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

impl Lane for EmbedLane {
    type Plan = Plan;
    type Output = Vec<Vec<f32>>;

    fn submit(&mut self, job: AnyJob) {
        let AnyJob::Embed(job) = job else { return job.reject() };
        let id = JobId(self.next);
        self.next += 1;
        let lens = job.input.rows.iter().map(Vec::len).collect();
        let vectors = vec![Vec::new(); job.input.rows.len()];
        self.scheduler.submit(id, lens);
        let timer = self.metrics.request(job.queued);
        self.jobs.insert(id, Active { job, vectors, timer });
    }

    fn plan(&mut self, now: Instant) -> Option<Plan> {
        let over: Vec<JobId> =
            self.jobs.iter_mut().filter_map(|(id, a)| a.job.is_over(now).then_some(*id)).collect();
        for id in over {
            self.end(id);
        }
        let plan = self.scheduler.plan();
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

    fn run(&mut self, plan: &Plan) -> Result<Vec<Vec<f32>>, Failure> {
        let rows: Vec<Vec<u32>> = plan
            .rows
            .iter()
            .filter_map(|r| self.jobs.get(&r.id)?.job.input.rows.get(r.index).cloned())
            .collect();
        if rows.len() != plan.rows.len() {
            return Err(Failure::Step("a planned text is gone".to_owned()));
        }
        let tokens = rows.iter().map(Vec::len).sum::<usize>();
        self.metrics.step(tokens);
        self.metrics.embedded(rows.len(), tokens as u32);
        self.model.step(&rows).map_err(|e| Failure::Step(e.to_string()))
    }

    fn commit(&mut self, plan: Plan, vectors: Vec<Vec<f32>>) {
        for (row, vector) in plan.rows.iter().zip(vectors) {
            if let Some(slot) = self.jobs.get_mut(&row.id).and_then(|a| a.vectors.get_mut(row.index)) {
                *slot = vector;
            }
        }
        for id in self.scheduler.commit(&plan) {
            if let Some(mut active) = self.end(id) {
                let tokens = active.job.input.rows.iter().map(Vec::len).sum::<usize>();
                active.timer.prompt(tokens as u32);
                active.timer.finish(Instant::now(), Outcome::Stop, tokens as u32);
                active.job.events.send(Event::Done(active.vectors));
            }
        }
    }

    fn fail(&mut self, plan: Plan, failure: &Failure) {
        for row in plan.rows {
            self.break_off(row.id, failure);
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
