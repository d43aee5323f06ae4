//! The thread that owns a device.
//!
//! It loads, steps and drops every model of the device; nothing of candle leaves it. Whose step is next is
//! [`turns`](super::sched::turns)' decision. With nothing to compute it sleeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::Device;
use tokio::sync::{oneshot, watch};

use super::job::{Event, Failure, Job};
use super::lane::{AnyLane, Look, Turn};
use super::sched::turns::{Offer, Turns};
use crate::device;
use crate::model;
use crate::model::asr::Asr;
use crate::model::embed::Embed;
use crate::model::llm::Llm;
use crate::model::rerank::Rerank;
use crate::model::segment::Segment;
use crate::model::speaker::Speaker;
use crate::model::vad::Vad;
use crate::types::model::{Footprint, Installed};

/// How often readers that are behind are looked at again.
const RETRY: Duration = Duration::from_millis(2);

/// Idle for so long, memory of past work is given back; work that comes at once takes it over as it is.
const REST: Duration = Duration::from_secs(2);

/// The longest that a lane with something to do has no step at all, whatever the others have.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names a loaded model on its worker; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelKey(pub u64);

/// A job of any kind on its way to its lane.
pub enum AnyJob {
    Llm(Job<Llm>),
    Embed(Job<Embed>),
    Rerank(Job<Rerank>),
    Asr(Job<Asr>),
    /// A stream's state makes it larger than the others.
    Vad(Box<Job<Vad>>),
    Speaker(Job<Speaker>),
    Segment(Job<Segment>),
}

impl AnyJob {
    /// Tells the caller that the job came to a model of another kind.
    pub fn reject(self) {
        let failure = Failure::Rejected("the model does other work".to_owned());
        self.fail(failure);
    }

    /// Ends the job.
    pub fn fail(self, failure: Failure) {
        match self {
            AnyJob::Llm(mut job) => job.events.send(Event::Failed(failure)),
            AnyJob::Embed(mut job) => job.events.send(Event::Failed(failure)),
            AnyJob::Rerank(mut job) => job.events.send(Event::Failed(failure)),
            AnyJob::Asr(mut job) => job.events.send(Event::Failed(failure)),
            AnyJob::Vad(mut job) => job.events.send(Event::Failed(failure)),
            AnyJob::Speaker(mut job) => job.events.send(Event::Failed(failure)),
            AnyJob::Segment(mut job) => job.events.send(Event::Failed(failure)),
        }
    }
}

impl From<Job<Llm>> for AnyJob {
    fn from(job: Job<Llm>) -> Self {
        AnyJob::Llm(job)
    }
}

impl From<Job<Embed>> for AnyJob {
    fn from(job: Job<Embed>) -> Self {
        AnyJob::Embed(job)
    }
}

impl From<Job<Rerank>> for AnyJob {
    fn from(job: Job<Rerank>) -> Self {
        AnyJob::Rerank(job)
    }
}

impl From<Job<Asr>> for AnyJob {
    fn from(job: Job<Asr>) -> Self {
        AnyJob::Asr(job)
    }
}

impl From<Job<Speaker>> for AnyJob {
    fn from(job: Job<Speaker>) -> Self {
        AnyJob::Speaker(job)
    }
}

impl From<Job<Segment>> for AnyJob {
    fn from(job: Job<Segment>) -> Self {
        AnyJob::Segment(job)
    }
}

impl From<Job<Vad>> for AnyJob {
    fn from(job: Job<Vad>) -> Self {
        AnyJob::Vad(Box::new(job))
    }
}

/// What callers need of a loaded model, by kind.
#[derive(Clone)]
pub enum AnyFront {
    Llm(Arc<model::llm::Front>),
    Embed(Arc<model::embed::Front>),
    Rerank(Arc<model::rerank::Front>),
    Asr(Arc<model::asr::Front>),
    /// Its callers need nothing.
    Vad,
    Speaker(Arc<model::speaker::Front>),
    Segment(Arc<model::segment::Front>),
}

/// A model that was loaded.
pub struct Opened {
    pub lane: Box<dyn AnyLane>,
    pub front: AnyFront,
    pub takes: Footprint,
}

/// What a caller learns of a load.
pub struct Loaded {
    pub front: AnyFront,
    pub takes: Footprint,
    pub took: Duration,
}

/// How models are built on the worker's thread.
pub type Opener = dyn Fn(&Installed, &Device) -> Result<Opened, model::Error> + Send;

/// What a worker does its work with.
pub struct Setup {
    pub open: Box<Opener>,
    /// Whether the device still answers; asked where a step has failed.
    pub answers: fn(&Device) -> candle_core::Result<()>,
}

impl Setup {
    /// A worker of a real device.
    pub fn new(open: Box<Opener>) -> Setup {
        Setup { open, answers: device::answers }
    }
}

/// What the worker is told. Submissions are bounded by their models' gates, the rest by placement, which waits
/// for each reply: so the channel needs no bound of its own.
pub enum Command {
    Load { key: ModelKey, installed: Box<Installed>, reply: oneshot::Sender<Result<Loaded, model::Error>> },
    Unload { key: ModelKey, reply: oneshot::Sender<()> },
    Submit(ModelKey, Box<AnyJob>),
    Stop,
}

/// A running worker, from outside.
pub struct Worker {
    inbox: Sender<Command>,
    alive: watch::Receiver<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread, which opens the device. `threads` cores compute, the worker's own among them.
    ///
    /// # Errors
    /// No thread can be had, or the device cannot be opened.
    pub fn spawn(info: device::Info, threads: usize, setup: Setup) -> std::io::Result<Self> {
        let (inbox, commands) = channel();
        let (opened, outcome) = channel();
        let (living, alive) = watch::channel(true);
        let thread = std::thread::Builder::new().name(format!("stentor-{}", info.id)).spawn(move || {
            // Dropped last, also when the thread unwinds: whoever watches learns that the device is lost.
            let _living = living;
            // Before that: nobody who has learned so can submit.
            let commands = commands;
            let ready = device::open(&info).and_then(|device| crate::ops::prepare(&device).map(|()| device));
            let device = match ready {
                Ok(device) => device,
                Err(error) => return drop(opened.send(Err(error.to_string()))),
            };
            let _ = opened.send(Ok(()));
            let _pool = join_pool(threads);
            State { device, setup, lanes: BTreeMap::new(), turns: Turns::default() }.serve(&commands);
        })?;
        match outcome.recv() {
            Ok(Ok(())) => Ok(Worker { inbox, alive, thread: Some(thread) }),
            Ok(Err(reason)) => Err(std::io::Error::other(reason)),
            Err(_) => Err(std::io::Error::other("its thread ended while it was opened")),
        }
    }

    /// Where commands go.
    pub fn inbox(&self) -> Sender<Command> {
        self.inbox.clone()
    }

    /// Resolves when the thread has ended, for whatever reason.
    pub fn alive(&self) -> watch::Receiver<bool> {
        self.alive.clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.inbox.send(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the device's worker ended by a panic");
        }
    }
}

/// Makes this thread one of a pool of `threads`, which everything it computes in parallel then uses. The pool's
/// other threads end when it is dropped, and what they would have done falls to this one.
fn join_pool(threads: usize) -> Option<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|i| format!("stentor-compute-{i}"))
        .use_current_thread()
        .build();
    if let Err(error) = &pool {
        tracing::warn!(%error, "no thread pool of the device's own; the shared one is used");
    }
    pool.ok()
}

struct State {
    device: Device,
    setup: Setup,
    lanes: BTreeMap<ModelKey, Shared>,
    turns: Turns<ModelKey>,
}

/// A lane among those that share the device.
struct Shared {
    lane: Box<dyn AnyLane>,
    /// Since when it has had something to do and no step.
    since: Option<Instant>,
}

impl State {
    fn serve(&mut self, commands: &Receiver<Command>) {
        loop {
            let command = match self.turn() {
                Turn::Worked => match commands.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => break,
                },
                Turn::Blocked => match commands.recv_timeout(RETRY) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
                Turn::Idle => match self.wait(commands) {
                    Some(command) => Some(command),
                    None => break,
                },
                Turn::Starved => {
                    device::return_freed_memory(&self.device);
                    None
                }
                Turn::Failed => match (self.setup.answers)(&self.device) {
                    Ok(()) => None,
                    Err(error) => {
                        tracing::error!(%error, "the device is lost, and its worker ends");
                        break;
                    }
                },
            };
            let mut command = command;
            while let Some(next) = command {
                if !self.obey(next) {
                    return self.stop();
                }
                command = commands.try_recv().ok();
            }
        }
        self.stop();
    }

    /// The next command, `None` when no more can come. One that does not come soon finds the memory of past work
    /// given back.
    fn wait(&mut self, commands: &Receiver<Command>) -> Option<Command> {
        match commands.recv_timeout(REST) {
            Err(RecvTimeoutError::Timeout) => {
                self.lanes.values_mut().for_each(|shared| shared.lane.rest());
                device::return_freed_memory(&self.device);
                commands.recv().ok()
            }
            got => got.ok(),
        }
    }

    /// One step of the lane whose turn it is.
    fn turn(&mut self) -> Turn {
        let now = Instant::now();
        let (mut offers, mut blocked) = self.look(now);
        while let Some(turn) = self.turns.next(&offers) {
            let offered =
                offers.iter().position(|offer| offer.key == turn.key).map(|at| offers.swap_remove(at));
            let (Some(offer), Some(shared)) = (offered, self.lanes.get_mut(&turn.key)) else { break };
            match shared.lane.step(now, turn.room) {
                done @ (Turn::Worked | Turn::Failed | Turn::Starved) => {
                    shared.since = None;
                    self.turns.took(offer.key, offer.kind, now.elapsed());
                    return done;
                }
                // It could not tell without planning.
                Turn::Blocked => blocked = true,
                Turn::Idle => {}
            }
        }
        if blocked { Turn::Blocked } else { Turn::Idle }
    }

    /// The lanes that have a step, and whether one waits for its readers.
    fn look(&mut self, now: Instant) -> (Vec<Offer<ModelKey>>, bool) {
        let (mut offers, mut blocked) = (Vec::with_capacity(self.lanes.len()), false);
        for (key, shared) in &mut self.lanes {
            let look = shared.lane.look(now);
            blocked |= look == Look::Blocked;
            let Look::Ready { kind, overdue } = look else {
                shared.since = None;
                continue;
            };
            let since = *shared.since.get_or_insert(now);
            offers.push(Offer { key: *key, kind, overdue: overdue || now - since >= PATIENCE });
        }
        (offers, blocked)
    }

    /// False when the worker is to stop.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Load { key, installed, reply } => {
                let start = Instant::now();
                let result = (self.setup.open)(&installed, &self.device).map(|opened| {
                    self.lanes.insert(key, Shared { lane: opened.lane, since: None });
                    Loaded { front: opened.front, takes: opened.takes, took: start.elapsed() }
                });
                device::return_freed_memory(&self.device);
                if reply.send(result).is_err() {
                    self.lanes.remove(&key);
                }
            }
            Command::Unload { key, reply } => {
                if let Some(mut shared) = self.lanes.remove(&key) {
                    shared.lane.fail_all(&Failure::Stopped);
                    drop(shared);
                    self.turns.forget(key);
                    device::return_freed_memory(&self.device);
                }
                let _ = reply.send(());
            }
            Command::Submit(key, job) => match self.lanes.get_mut(&key) {
                Some(shared) => shared.lane.submit(*job),
                None => job.fail(Failure::Stopped),
            },
            Command::Stop => return false,
        }
        true
    }

    fn stop(&mut self) {
        for shared in self.lanes.values_mut() {
            shared.lane.fail_all(&Failure::Stopped);
        }
        self.lanes.clear();
    }
}
