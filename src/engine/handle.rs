//! The async side of a loaded model: admission and cancellation.

use std::collections::HashMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::job::{Event, Job, Modality, Outbox};
use super::worker::{AnyJob, Command, ModelKey};
use crate::obs::{ModelMetrics, Rejection};
use crate::types::key::Owner;

/// Events a caller may be behind before its job pauses.
const EVENTS: usize = 64;

/// Why a job was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many jobs as allowed are under way for this model.
    #[error("{limit} jobs wait or run already")]
    Full { limit: usize },
    /// As many of them as one API key may have are this one's.
    #[error("{limit} jobs of this API key wait or run already")]
    FullForKey { limit: usize },
    /// The worker has stopped.
    #[error("the device's worker has stopped")]
    Stopped,
}

/// Counts the jobs of one model from submission to end, and bounds them: all together, and those of one API key, so
/// that no key can keep the others out.
#[derive(Debug)]
pub struct Gate {
    taken: Mutex<Taken>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Of owners with a key; never 0.
    by_key: HashMap<Owner, usize>,
}

impl Gate {
    /// At most `limit` jobs at once, and three quarters of them of one key.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Gate { taken: Mutex::default(), limit: limit.max(1) })
    }

    /// Jobs submitted and not ended.
    pub fn under_way(&self) -> usize {
        self.taken().all
    }

    fn enter(self: &Arc<Self>, owner: &Owner) -> Result<Ticket, Refused> {
        let mut taken = self.taken();
        if taken.all >= self.limit {
            return Err(Refused::Full { limit: self.limit });
        }
        if owner.has_key() {
            let limit = (self.limit * 3 / 4).max(1);
            let own = taken.by_key.get(owner).copied().unwrap_or(0);
            if own >= limit {
                return Err(Refused::FullForKey { limit });
            }
            taken.by_key.insert(owner.clone(), own + 1);
        }
        taken.all += 1;
        Ok(Ticket { gate: self.clone(), owner: owner.clone() })
    }

    fn leave(&self, owner: &Owner) {
        let mut taken = self.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by_key.get_mut(owner) {
            *own -= 1;
            if *own == 0 {
                taken.by_key.remove(owner);
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Counts are changed as a whole, or not at all.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's place behind a [`Gate`], given back on drop.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    owner: Owner,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.leave(&self.owner);
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
    /// Whose the jobs are that are submitted through it.
    pub(super) owner: Owner,
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
            owner: self.owner.clone(),
        }
    }
}

impl<M: Modality> Handle<M> {
    /// The same for the jobs of this owner; without it they are nobody's in particular.
    pub fn owned_by(self, owner: Owner) -> Self {
        Handle { owner, ..self }
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
        let ticket = self.gate.enter(&self.owner).inspect_err(|refused| {
            self.metrics.rejected(match refused {
                Refused::FullForKey { .. } => Rejection::KeyShare,
                _ => Rejection::QueueFull,
            });
        })?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let queued = Instant::now();
        let job = Job {
            input,
            owner: self.owner.clone(),
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
