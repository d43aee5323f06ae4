//! A unit of work on its way from a caller to a device's worker, and what comes back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::handle::Ticket;
use crate::types::key::Owner;
use crate::types::model::Kind;
use crate::{device, model};

/// What sets one kind of work apart. Every kind has the same life: queued, planned into steps, run, committed.
pub trait Modality: Sized + Send + 'static {
    /// The kind of model that does it.
    const KIND: Kind;
    /// What a job starts from.
    type Input: Send;
    /// A part of the result, sent as soon as it is known.
    type Delta: Send;
    /// What is known only at the end.
    type Done: Send;
    /// What a caller needs of a loaded model to make inputs and read outputs: tokenizer, template, limits.
    type Front: Send + Sync;
}

/// Why a job, or a whole model, failed on the device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The input can never run on this model.
    #[error("{0}")]
    Rejected(String),
    /// The prompt leaves no room in the model's context.
    #[error("the prompt has {tokens} tokens and the model takes at most {limit}")]
    TooLong { tokens: usize, limit: usize },
    /// It did not finish in time.
    #[error("not finished after {} s", .0.as_secs())]
    Deadline(Duration),
    /// The model's step failed; other jobs go on.
    #[error("{0}")]
    Step(String),
    /// The smallest step that it could be part of does not fit into the device's memory; other jobs go on.
    #[error("the device has too little memory left for it")]
    OutOfMemory,
    /// The worker is gone or going.
    #[error("the device's worker has stopped")]
    Stopped,
}

impl Failure {
    /// What a model's step failed by.
    pub fn of(error: &model::Error) -> Failure {
        match device::is_out_of_memory(error) {
            true => Failure::OutOfMemory,
            false => Failure::Step(error.to_string()),
        }
    }
}

/// What a caller hears of its job, over a bounded channel. `Done` or `Failed` is always the last.
#[derive(Debug)]
pub enum Event<M: Modality> {
    Delta(M::Delta),
    Done(M::Done),
    Failed(Failure),
}

/// One unit of work. A caller cancels it by dropping the receiving end of `events`.
pub struct Job<M: Modality> {
    pub input: M::Input,
    pub owner: Owner,
    pub deadline: Option<Instant>,
    pub queued: Instant,
    pub span: tracing::Span,
    pub events: Outbox<M>,
    /// The job's place in the model's queue, given back when it is dropped.
    pub ticket: Option<Ticket>,
}

impl<M: Modality> Job<M> {
    /// Whether the work is pointless: nobody listens, or the deadline has passed. In the second case the
    /// caller is told.
    pub fn is_over(&mut self, now: Instant) -> bool {
        if self.events.is_closed() {
            return true;
        }
        match self.deadline {
            Some(deadline) if now >= deadline => {
                self.events.send(Event::Failed(Failure::Deadline(now - self.queued)));
                true
            }
            _ => false,
        }
    }
}

/// The worker's end of a job's channel. Sending never blocks and never loses: what the reader has no room for
/// yet is kept, and the job is not planned until it is delivered. So at most one step's output is kept.
pub struct Outbox<M: Modality> {
    sender: mpsc::Sender<Event<M>>,
    kept: VecDeque<Event<M>>,
}

impl<M: Modality> Outbox<M> {
    /// Wraps a bounded channel.
    pub fn new(sender: mpsc::Sender<Event<M>>) -> Self {
        Outbox { sender, kept: VecDeque::new() }
    }

    /// Sends, or keeps until there is room.
    pub fn send(&mut self, event: Event<M>) {
        self.kept.push_back(event);
        self.flush();
    }

    /// Delivers what is kept. True when nothing is left.
    pub fn flush(&mut self) -> bool {
        while let Some(event) = self.kept.pop_front() {
            match self.sender.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.kept.push_front(event);
                    return false;
                }
                Err(TrySendError::Closed(_)) => self.kept.clear(),
            }
        }
        true
    }

    /// Whether something is kept that the reader has not taken.
    pub fn is_behind(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether the reader has gone.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Ended jobs whose last events wait for a slow reader.
pub struct Draining<M: Modality>(Vec<Outbox<M>>);

impl<M: Modality> Default for Draining<M> {
    fn default() -> Self {
        Draining(Vec::new())
    }
}

impl<M: Modality> Draining<M> {
    /// Keeps the channel until everything is delivered or the reader has gone.
    pub fn add(&mut self, outbox: Outbox<M>) {
        if outbox.is_behind() {
            self.0.push(outbox);
        }
    }

    /// Delivers what readers have room for now.
    pub fn flush(&mut self) {
        self.0.retain_mut(|outbox| !outbox.flush());
    }

    /// Channels that are not done.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all is delivered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
