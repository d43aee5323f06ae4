//! Models on devices, and the jobs on their way to them.
//!
//! [`Engine`] is what the async side holds: it loads models when they are asked for, within the device's
//! memory budget, and hands out [`Handle`]s. The [`worker`] thread owns the device. A job goes from a handle
//! through the worker's inbox to a [`lane`], whose scheduler in [`sched`] decides when its model steps.

#[cfg(test)]
mod devices_tests;
pub mod handle;
pub mod job;
pub mod lane;
mod load;
pub mod open;
pub mod placement;
pub mod sched;
mod site;
#[cfg(test)]
mod tests;
pub mod worker;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

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
use crate::types::model::{Installed, Kind, Precision, Quantise};
use handle::{Gate, Handle};
use job::Modality;
use placement::{DoesNotFit, Fleet};
use site::Site;
use worker::{ModelKey, Setup};

/// What bounds the engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which devices models run on.
    pub device: device::Choice,
    /// From a model's id to the devices that it may be on, on each of which a copy of it is loaded; where it is not said,
    /// one copy goes where there is room.
    pub devices: BTreeMap<String, Vec<String>>,
    /// Bytes that loaded models may take together on each device; `None`: nine tenths of what is available at start.
    pub memory_budget: Option<u64>,
    /// Jobs under way per model, waiting and running.
    pub queue: usize,
    /// How long an unused model stays loaded; `None`: for ever.
    pub keep_alive: Option<Duration>,
    /// How long a model waits to be loaded while those that would have to leave for it are in use.
    pub load_wait: Duration,
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
            devices: BTreeMap::new(),
            memory_budget: None,
            queue: 256,
            keep_alive: None,
            load_wait: Duration::from_secs(30),
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

    /// What a model on a device of such a budget is granted. The part of the budget that a chat model's key-value cache
    /// may take is of all of it and not of what other models leave, so that it does not depend on which was loaded first.
    pub fn limits(&self, budget: u64) -> open::Limits {
        open::Limits {
            context: self.context,
            cache_bytes: self.cache_bytes.unwrap_or(budget / 8),
            room: budget,
            cache: self.cache,
            guesses: self.guesses,
            quantise: self.quantise,
            precision: self.precision,
        }
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
    #[error("`{model}` is to be on {wanted}, and there is only {there}")]
    NoDevice { model: String, wanted: String, there: String },
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
    loaded: Mutex<BTreeMap<Place, Entry>>,
    /// Held across a load, so that loads and evictions happen one at a time.
    fleet: tokio::sync::Mutex<Fleet>,
    /// At least one.
    sites: Vec<Site>,
    state: watch::Sender<State>,
    keys: AtomicU64,
    start: Instant,
}

/// A copy of a model: its id, and the place of its device among the engine's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    model: String,
    site: usize,
}

/// How long a model stays in memory that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stay {
    /// For the keep-alive time, and until another needs its room.
    KeepAlive,
    /// Until another needs its room.
    WhileRoom,
    /// For good.
    Always,
}

struct Entry {
    handle: AnyHandle,
    metrics: ModelMetrics,
    stay: Stay,
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
    /// Starts a worker a device. No model is loaded yet.
    pub fn start(models: Vec<Installed>, options: Options) -> Result<Engine, Error> {
        let drafts = drafts(&models, &options)?;
        let all = options.clone();
        let setup = |site: usize, budget: u64| {
            let (drafts, limits) = (drafts.clone(), all.limits(budget));
            Setup::new(Box::new(move |m, d| open::open(m, drafts.get(&m.id), d, site, limits)))
        };
        let devices = Self::choose(&options)?;
        Self::start_on(devices, models, options, setup)
    }

    /// [`start`](Self::start) with models built in another way.
    #[cfg(test)]
    pub fn start_with(
        models: Vec<Installed>,
        options: Options,
        opener: Box<worker::Opener>,
    ) -> Result<Engine, Error> {
        let mut opener = Some(opener);
        let none = || -> Box<worker::Opener> {
            Box::new(|_, _| Err(crate::model::Error::config("device", "is one")))
        };
        let devices = Self::choose(&options)?.into_iter().take(1).collect();
        Self::start_on(devices, models, options, |_, _| Setup::new(opener.take().unwrap_or_else(none)))
    }

    fn choose(options: &Options) -> Result<Vec<device::Info>, Error> {
        let devices = device::wanted(options.device)
            .map_err(|e| no_device(&format!("{e}; to go without one, set `device.kind` to auto or cpu")))?;
        for info in &devices {
            if let device::Kind::Cuda { capability: (major, minor), .. } = info.kind {
                let (id, name) = (&info.id, &info.name);
                tracing::info!(id, name, capability = %format!("{major}.{minor}"), "models run on a GPU");
            }
        }
        Ok(devices)
    }

    /// The engine on these devices; those that cannot be opened are left out while there are others.
    fn start_on(
        devices: Vec<device::Info>,
        models: Vec<Installed>,
        options: Options,
        mut setup: impl FnMut(usize, u64) -> Setup,
    ) -> Result<Engine, Error> {
        // Beside GPUs they prepare weights and inputs.
        let threads = options.threads.unwrap_or_else(device::cores).div_ceil(devices.len().max(1));
        let (mut sites, mut failed) = (Vec::new(), None);
        for info in devices {
            let budget = options.budget(&info);
            match Site::start(info, budget, threads, setup(sites.len(), budget)) {
                Ok(site) => sites.push(site),
                Err(error) => {
                    tracing::error!(%error, "a device is left out");
                    failed = Some(error);
                }
            }
        }
        if sites.is_empty() {
            let error = failed.unwrap_or_else(|| std::io::Error::other("there is none"));
            return Err(no_device(&error));
        }
        site::check(&options.devices, &models, &sites)?;
        let inner = Inner {
            options,
            models,
            loaded: Mutex::default(),
            fleet: tokio::sync::Mutex::new(Fleet::new(sites.iter().map(|site| site.budget))),
            sites,
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
        let mut ids: Vec<String> = self.entries().keys().map(|place| place.model.clone()).collect();
        ids.dedup();
        ids
    }

    /// Bytes of each device that the models there are reckoned to take, with the largest of their steps.
    pub async fn reckoned(&self) -> Vec<u64> {
        self.inner.fleet.lock().await.ledgers().iter().map(placement::Ledger::used).collect()
    }

    /// Whether the models asked for at start can answer.
    pub fn state(&self) -> State {
        self.inner.state.borrow().clone()
    }

    /// Says that no more work is wanted; [`state`](Self::state) tells.
    pub fn begin_stop(&self) {
        self.inner.state.send_replace(State::Stopping);
    }

    /// Resolves when a device's worker has ended, which only a fault of the device or the engine's end makes it do. From then
    /// on the engine says that it stops: what runs on other devices may end, and nothing new begins.
    pub async fn lost(&self) {
        let ended = self.inner.sites.iter().map(|site| Box::pin(site.ended()));
        futures::future::select_all(ended).await;
        self.begin_stop();
    }

    /// Loads `ids`, then reports ready. The first failure is the state's and the result.
    pub async fn preload(&self, ids: &[String], stay: Stay) -> Result<(), Error> {
        for id in ids {
            self.inner.state.send_replace(State::Loading(format!("loading {id}")));
            if let Err(error) = self.load(id, stay).await {
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
            None => self.load(id, Stay::KeepAlive).await?,
        };
        M::pick(&handle).ok_or_else(|| Error::Kind { model: id.to_owned(), kind: self.kind(id) })
    }

    /// Unloads models that nobody has used for the keep-alive time. Call it every few seconds.
    pub async fn sweep(&self) {
        let Some(keep_alive) = self.inner.options.keep_alive else { return };
        let mut fleet = self.inner.fleet.lock().await;
        let idle: Vec<Place> = {
            let mut entries = self.entries();
            let now = Instant::now();
            for entry in entries.values_mut().filter(|e| e.handle.is_busy()) {
                entry.used = now;
            }
            let idle =
                entries.iter().filter(|(_, e)| e.stay == Stay::KeepAlive && now - e.used >= keep_alive);
            idle.map(|(place, _)| place.clone()).collect()
        };
        for place in idle {
            self.unload(&mut fleet, &place).await;
        }
    }

    fn kind(&self, id: &str) -> Kind {
        self.inner.models.iter().find(|m| m.id == id).map_or(Kind::Chat, |m| m.kind)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Place, Entry>> {
        // The map is valid after a panic elsewhere: every change to it is a single insert or remove.
        self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.inner.start).as_millis() as u64
    }
}
