//! Models on devices, and the jobs on their way to them.
//!
//! [`Engine`] is what the async side holds: it loads models when they are asked for, within the device's
//! memory budget, and hands out [`Handle`]s. The [`worker`] thread owns the device. A job goes from a handle
//! through the worker's inbox to a [`lane`], whose scheduler in [`sched`] decides when its model steps.

pub mod handle;
pub mod job;
pub mod lane;
pub mod open;
pub mod placement;
pub mod sched;
#[cfg(test)]
mod tests;
pub mod worker;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::device;
use crate::model::asr::Asr;
use crate::model::embed::Embed;
use crate::model::llm::Llm;
use crate::model::rerank::Rerank;
use crate::model::segment::Segment;
use crate::model::speaker::Speaker;
use crate::model::vad::Vad;
use crate::obs::ModelMetrics;
use crate::ops::KvType;
use crate::types::key::Owner;
use crate::types::model::{Installed, Kind, Precision, Quantise};
use handle::{Gate, Handle};
use job::Modality;
use placement::{DoesNotFit, Ledger};
use worker::{AnyFront, Command, Loaded, ModelKey, Worker};

/// What bounds the engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which device models run on.
    pub device: device::Choice,
    /// Bytes that loaded models may take together; `None`: nine tenths of what is available at start.
    pub memory_budget: Option<u64>,
    /// Jobs under way per model, waiting and running.
    pub queue: usize,
    /// How long an unused model stays loaded; `None`: for ever.
    pub keep_alive: Option<Duration>,
    /// Cores that compute; `None`: all.
    pub threads: Option<usize>,
    /// Cap on every chat model's context.
    pub context: usize,
    /// Bytes a chat model's key-value cache may take; `None`: an eighth of the budget.
    pub cache_bytes: Option<u64>,
    /// How it keeps keys and values; f16 on a GPU, whatever this says.
    pub cache: KvType,
    /// Whether chat models guess what they say next from what was said, where that pays.
    pub guesses: bool,
    /// From a chat model's id to that of the smaller one that guesses for it instead.
    pub drafts: BTreeMap<String, String>,
    /// What the matrices of chat models are rounded to that are floats in their files.
    pub quantise: Quantise,
    /// How decoders of speech models are kept.
    pub precision: Precision,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            device: device::Choice::Auto,
            memory_budget: None,
            queue: 256,
            keep_alive: None,
            threads: None,
            context: 32_768,
            cache_bytes: None,
            cache: KvType::F16,
            guesses: true,
            drafts: BTreeMap::new(),
            quantise: Quantise::Q8_0,
            precision: Precision::F16,
        }
    }
}

impl Options {
    /// Bytes of `device` that loaded models may take together.
    pub fn budget(&self, device: &device::Info) -> u64 {
        self.memory_budget.unwrap_or(device.available / 10 * 9)
    }

    /// Bytes of such a budget that each chat model's key-value cache may take. Of the budget and not of what other
    /// models leave of it, so that it does not depend on which was loaded first.
    pub fn cache(&self, budget: u64) -> u64 {
        self.cache_bytes.unwrap_or(budget / 8)
    }
}

/// Why a model cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("no model `{0}` is installed")]
    Unknown(String),
    #[error("`{model}` is a {} model", kind.as_str())]
    Kind { model: String, kind: Kind },
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
    #[error("{model} could not be loaded: {reason}")]
    Load { model: String, reason: String },
    #[error("the device's worker has stopped")]
    Stopped,
}

/// Whether the models that were asked for at start can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Loading(String),
    Ready,
    Failed(String),
    Stopping,
}

/// Loaded models and the way to load more. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    models: Vec<Installed>,
    loaded: Mutex<HashMap<String, Entry>>,
    /// Held across a load, so that loads and evictions happen one at a time.
    ledger: tokio::sync::Mutex<Ledger>,
    worker: Worker,
    inbox: Mutex<Sender<Command>>,
    state: watch::Sender<State>,
    keys: AtomicU64,
    start: Instant,
}

struct Entry {
    handle: AnyHandle,
    metrics: ModelMetrics,
    pinned: bool,
    used: Instant,
}

/// A kind of work whose handles can be had by type.
pub trait Served: Modality {
    /// The handle, if it is of this kind.
    fn pick(handle: &AnyHandle) -> Option<Handle<Self>>;
}

macro_rules! served {
    ($($kind:ident),*) => {
        /// A handle of any kind.
        #[derive(Clone)]
        pub enum AnyHandle {
            $($kind(Handle<$kind>),)*
        }

        impl AnyHandle {
            fn gate(&self) -> &Arc<Gate> {
                match self { $(AnyHandle::$kind(h) => &h.gate,)* }
            }

            fn key(&self) -> ModelKey {
                match self { $(AnyHandle::$kind(h) => h.key,)* }
            }

            /// Whether anyone besides the engine's own entry holds the model: a handle, or a job through its ticket.
            fn is_busy(&self) -> bool {
                Arc::strong_count(self.gate()) > 1
            }
        }

        $(impl Served for $kind {
            fn pick(handle: &AnyHandle) -> Option<Handle<Self>> {
                match handle {
                    AnyHandle::$kind(h) => Some(h.clone()),
                    _ => None,
                }
            }
        })*
    };
}
served!(Llm, Embed, Rerank, Asr, Vad, Speaker, Segment);

/// The models that guess, by the id of the one they guess for.
fn drafts(models: &[Installed], options: &Options) -> Result<HashMap<String, Installed>, Error> {
    let find = |id: &String| models.iter().find(|m| m.id == *id && m.kind == Kind::Chat);
    let found = options.drafts.iter().map(|(large, small)| match (find(large), find(small)) {
        (Some(_), Some(draft)) => Ok((large.clone(), draft.clone())),
        (None, _) => Err(Error::Unknown(large.clone())),
        (_, None) => Err(Error::Unknown(small.clone())),
    });
    found.collect()
}

fn no_device(reason: &dyn std::fmt::Display) -> Error {
    Error::Load { model: "the device".to_owned(), reason: reason.to_string() }
}

impl Engine {
    /// Starts the worker of the chosen device. No model is loaded yet.
    pub fn start(models: Vec<Installed>, options: Options) -> Result<Engine, Error> {
        let info = Self::choose(&options)?;
        let cache_bytes = options.cache(options.budget(&info));
        let limits = open::Limits {
            context: options.context,
            cache_bytes,
            cache: options.cache,
            guesses: options.guesses,
            quantise: options.quantise,
            precision: options.precision,
        };
        let drafts = drafts(&models, &options)?;
        let open: Box<worker::Opener> = Box::new(move |m, d| open::open(m, drafts.get(&m.id), d, limits));
        Self::start_on(info, models, options, open)
    }

    /// [`start`](Self::start) with models built in another way.
    #[cfg(test)]
    pub fn start_with(
        models: Vec<Installed>,
        options: Options,
        opener: Box<worker::Opener>,
    ) -> Result<Engine, Error> {
        Self::start_on(Self::choose(&options)?, models, options, opener)
    }

    fn choose(options: &Options) -> Result<device::Info, Error> {
        let info = device::choose(options.device)
            .map_err(|e| no_device(&format!("{e}; to go without one, set `device.kind` to auto or cpu")))?;
        if let device::Kind::Cuda { capability: (major, minor), .. } = info.kind {
            tracing::info!(id = info.id, name = info.name, capability = %format!("{major}.{minor}"), "models run on a GPU");
        }
        Ok(info)
    }

    fn start_on(
        info: device::Info,
        models: Vec<Installed>,
        options: Options,
        opener: Box<worker::Opener>,
    ) -> Result<Engine, Error> {
        let budget = options.budget(&info);
        // Beside a GPU they prepare weights and inputs.
        let threads = options.threads.unwrap_or_else(device::cores);
        let worker = Worker::spawn(info, threads, opener).map_err(|e| no_device(&e))?;
        let inner = Inner {
            options,
            models,
            loaded: Mutex::default(),
            ledger: tokio::sync::Mutex::new(Ledger::new(budget)),
            inbox: Mutex::new(worker.inbox()),
            worker,
            state: watch::Sender::new(State::Loading("starting".to_owned())),
            keys: AtomicU64::new(0),
            start: Instant::now(),
        };
        Ok(Engine { inner: Arc::new(inner) })
    }

    /// The models that can be asked for.
    pub fn models(&self) -> &[Installed] {
        &self.inner.models
    }

    /// Ids of the models in memory.
    pub fn loaded(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.entries().keys().cloned().collect();
        ids.sort();
        ids
    }

    /// Whether the models asked for at start can answer.
    pub fn state(&self) -> State {
        self.inner.state.borrow().clone()
    }

    /// Says that no more work is wanted; [`state`](Self::state) tells.
    pub fn begin_stop(&self) {
        self.inner.state.send_replace(State::Stopping);
    }

    /// Resolves when the device's worker has ended, which only a fault or the engine's end makes it do.
    pub async fn lost(&self) {
        let mut alive = self.inner.worker.alive();
        while alive.changed().await.is_ok() {}
    }

    /// Loads `ids` for good, then reports ready. The first failure is the state's and the result.
    pub async fn preload(&self, ids: &[String]) -> Result<(), Error> {
        for id in ids {
            self.inner.state.send_replace(State::Loading(format!("loading {id}")));
            if let Err(error) = self.load(id, true).await {
                self.inner.state.send_replace(State::Failed(error.to_string()));
                return Err(error);
            }
        }
        self.inner.state.send_if_modified(|state| {
            let modified = *state != State::Stopping;
            if modified {
                *state = State::Ready;
            }
            modified
        });
        Ok(())
    }

    /// A model ready to take jobs, loaded first if need be. It stays loaded while the handle lives.
    pub async fn get<M: Served>(&self, id: &str) -> Result<Handle<M>, Error> {
        let handle = match self.find(id) {
            Some(handle) => handle,
            None => self.load(id, false).await?,
        };
        M::pick(&handle).ok_or_else(|| Error::Kind { model: id.to_owned(), kind: self.kind(id) })
    }

    /// Unloads models that nobody has used for the keep-alive time. Call it every few seconds.
    pub async fn sweep(&self) {
        let Some(keep_alive) = self.inner.options.keep_alive else { return };
        let mut ledger = self.inner.ledger.lock().await;
        let idle: Vec<String> = {
            let mut entries = self.entries();
            let now = Instant::now();
            for entry in entries.values_mut().filter(|e| e.handle.is_busy()) {
                entry.used = now;
            }
            let idle = entries.iter().filter(|(_, e)| !e.pinned && now - e.used >= keep_alive);
            idle.map(|(id, _)| id.clone()).collect()
        };
        for id in idle {
            self.unload(&mut ledger, &id).await;
        }
    }

    fn kind(&self, id: &str) -> Kind {
        self.inner.models.iter().find(|m| m.id == id).map_or(Kind::Chat, |m| m.kind)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // The map is valid after a panic elsewhere: every change to it is a single insert or remove.
        self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Option<AnyHandle> {
        let mut entries = self.entries();
        let entry = entries.get_mut(id)?;
        entry.used = Instant::now();
        Some(entry.handle.clone())
    }

    async fn load(&self, id: &str, pinned: bool) -> Result<AnyHandle, Error> {
        let Some(installed) = self.inner.models.iter().find(|m| m.id == id) else {
            return Err(Error::Unknown(id.to_owned()));
        };
        let mut ledger = self.inner.ledger.lock().await;
        // Another caller may have loaded it while this one waited for the lock.
        if let Some(handle) = self.find(id) {
            if pinned && let Some(entry) = self.entries().get_mut(id) {
                entry.pinned = true;
            }
            return Ok(handle);
        }
        let (cache, quantise) = (self.inner.options.cache(ledger.budget()), self.inner.options.quantise);
        let draft = self.inner.options.drafts.get(id);
        let draft = self.inner.models.iter().find(|m| Some(&m.id) == draft);
        // The small model's cache has as many blocks, of fewer and smaller layers.
        let draft = draft.map_or(0, |draft| open::estimate(draft, quantise, cache / 4));
        let needs = open::estimate(installed, quantise, cache).saturating_add(draft);
        self.make_room(&mut ledger, id, needs).await?;
        let metrics = ModelMetrics::new(id);
        let key = ModelKey(self.inner.keys.fetch_add(1, Ordering::Relaxed));
        let loaded = self.ask_worker(key, installed).await.inspect_err(|error| {
            tracing::error!(model = id, %error, "a model could not be loaded");
            metrics.load_failed();
        })?;
        tracing::info!(
            model = id,
            ms = loaded.took.as_millis() as u64,
            mb = loaded.bytes >> 20,
            "model loaded"
        );
        // The estimate knew the file's size only.
        if let Err(error) = self.make_room(&mut ledger, id, loaded.bytes).await {
            tracing::error!(model = id, %error, "a model is larger than was estimated, and leaves again");
            self.drop_model(key).await;
            metrics.load_failed();
            return Err(error.into());
        }
        metrics.loaded(loaded.took, loaded.bytes);
        ledger.insert(id, loaded.bytes, self.tick(Instant::now()), pinned);
        let handle = self.handle(key, id, loaded.front, metrics.clone());
        let entry = Entry { handle: handle.clone(), metrics, pinned, used: Instant::now() };
        self.entries().insert(id.to_owned(), entry);
        Ok(handle)
    }

    /// Unloads models until `needs` bytes are free for `id`. One that someone came to use meanwhile stays, and
    /// others are looked for.
    async fn make_room(&self, ledger: &mut Ledger, id: &str, needs: u64) -> Result<(), DoesNotFit> {
        loop {
            self.note_uses(ledger);
            let busy = |other: &str| self.entries().get(other).is_some_and(|e| e.handle.is_busy());
            let leave = ledger.make_room(id, needs, busy)?;
            if leave.is_empty() {
                return Ok(());
            }
            for other in leave {
                self.unload(ledger, &other).await;
            }
        }
    }

    /// Has the worker drop a model, and waits until it is gone.
    async fn drop_model(&self, key: ModelKey) {
        let (reply, gone) = oneshot::channel();
        if self.inbox().send(Command::Unload { key, reply }).is_ok() {
            let _ = gone.await;
        }
    }

    async fn ask_worker(&self, key: ModelKey, installed: &Installed) -> Result<Loaded, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Load { key, installed: Box::new(installed.clone()), reply };
        self.inbox().send(command).map_err(|_| Error::Stopped)?;
        let loaded = answer.await.map_err(|_| Error::Stopped)?;
        loaded.map_err(|e| Error::Load { model: installed.id.clone(), reason: e.to_string() })
    }

    /// Takes a model out of memory unless someone has come to use it since.
    async fn unload(&self, ledger: &mut Ledger, id: &str) {
        let entry = {
            let mut entries = self.entries();
            if entries.get(id).is_none_or(|e| e.handle.is_busy()) {
                return;
            }
            entries.remove(id)
        };
        let Some(entry) = entry else { return };
        self.drop_model(entry.handle.key()).await;
        ledger.remove(id);
        entry.metrics.unloaded();
        tracing::info!(model = id, "model unloaded");
    }

    fn handle(&self, key: ModelKey, id: &str, front: AnyFront, metrics: ModelMetrics) -> AnyHandle {
        let gate = Gate::new(self.inner.options.queue);
        let (id, inbox, owner) = (Arc::from(id), self.inbox(), Owner::default());
        macro_rules! handle {
            ($kind:ident, $front:expr) => {
                AnyHandle::$kind(Handle { key, id, front: $front, gate, inbox, metrics, owner })
            };
        }
        match front {
            AnyFront::Llm(front) => handle!(Llm, front),
            AnyFront::Embed(front) => handle!(Embed, front),
            AnyFront::Rerank(front) => handle!(Rerank, front),
            AnyFront::Asr(front) => handle!(Asr, front),
            AnyFront::Vad => handle!(Vad, Arc::new(())),
            AnyFront::Speaker(front) => handle!(Speaker, front),
            AnyFront::Segment(front) => handle!(Segment, front),
        }
    }

    fn note_uses(&self, ledger: &mut Ledger) {
        for (id, entry) in self.entries().iter() {
            ledger.touch(id, self.tick(entry.used));
        }
    }

    fn tick(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.inner.start).as_millis() as u64
    }

    fn inbox(&self) -> Sender<Command> {
        self.inner.inbox.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
