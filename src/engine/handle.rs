//! The async side of a loaded model: admission and cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::job::{Event, Job, Modality, Outbox};
use super::worker::{AnyJob, Command, ModelKey};
use crate::obs::{ModelMetrics, Rejection};

/// Events a caller may be behind before its job pauses.
const EVENTS: usize = 64;

/// Why a job was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many jobs as allowed are under way for this model.
    #[error("{limit} jobs wait or run already")]
    Full { limit: usize },
    /// The worker has stopped.
    #[error("the device's worker has stopped")]
    Stopped,
}

/// Counts the jobs of one model from submission to end, and bounds them.
#[derive(Debug)]
pub struct Gate {
    under_way: AtomicUsize,
    limit: usize,
}

impl Gate {
    /// At most `limit` jobs at once.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Gate { under_way: AtomicUsize::new(0), limit: limit.max(1) })
    }

    /// Jobs submitted and not ended.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    fn enter(self: &Arc<Self>) -> Result<Ticket, Refused> {
        let entered = self
            .under_way
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < self.limit).then_some(n + 1));
        match entered {
            Ok(_) => Ok(Ticket { gate: self.clone() }),
            Err(_) => Err(Refused::Full { limit: self.limit }),
        }
    }
}

/// A job's place behind a [`Gate`], given back on drop.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A loaded model, as callers hold it. It stays loaded while any handle or job of it lives.
pub struct Handle<M: Modality> {
    pub(super) key: ModelKey,
    pub(super) id: Arc<str>,
    pub(super) front: Arc<M::Front>,
    pub(super) gate: Arc<Gate>,
    pub(super) inbox: Sender<Command>,
    pub(super) metrics: ModelMetrics,
}

impl<M: Modality> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Handle {
            key: self.key,
            id: self.id.clone(),
            front: self.front.clone(),
            gate: self.gate.clone(),
            inbox: self.inbox.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

impl<M: Modality> Handle<M>
where
    AnyJob: From<Job<M>>,
{
    /// The model's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Tokenizer, template and limits.
    pub fn front(&self) -> &Arc<M::Front> {
        &self.front
    }

    /// Hands a job to the worker. Dropping the receiver cancels it within one step.
    pub fn submit(
        &self,
        input: M::Input,
        timeout: Option<Duration>,
    ) -> Result<mpsc::Receiver<Event<M>>, Refused> {
        let refused = |_: &Refused| self.metrics.rejected(Rejection::QueueFull);
        let ticket = self.gate.enter().inspect_err(refused)?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let queued = Instant::now();
        let job = Job {
            input,
            deadline: timeout.map(|t| queued + t),
            queued,
            span: tracing::Span::current(),
            events: Outbox::new(sender),
            ticket: Some(ticket),
        };
        self.inbox.send(Command::Submit(self.key, Box::new(job.into()))).map_err(|_| Refused::Stopped)?;
        Ok(receiver)
    }
}
