//! The composition root: the one place where the parts are put together.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;

use crate::config::{Config, DeviceKind, KvCache, LogFormat};
use crate::device;
pub use crate::device::Info as Device;
use crate::engine::placement::{Fleet, Ledger};
use crate::engine::{self, Engine, Stay};
use crate::fetch::manifest::{Context, Manifest};
use crate::fetch::{self, Library};
use crate::http;
pub use crate::http::stop_signal;
use crate::model::{embed, llm, rerank, segment, speaker, vad, weights};
use crate::obs;
use crate::ops::KvType;
use crate::service::files::{self, Files};
use crate::service::jobs::Jobs;
use crate::service::points::Points;
use crate::service::responses::{self, Responses};
use crate::service::speakers::{self, Book};
use crate::service::{self, Service};
use crate::types::model::{Footprint, Format, Installed, Kind};

/// How often idle models are looked for, and metrics folded.
const UPKEEP: Duration = Duration::from_secs(5);
/// Every so many times files and jobs are looked through for those whose time is over: ten minutes.
const SWEEP: u64 = 120;

/// Why the server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    #[error(transparent)]
    Obs(#[from] obs::Error),
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    #[error(transparent)]
    Engine(#[from] engine::Error),
    #[error("cannot listen on {addr}: {source}; choose another address with --addr")]
    Listen { addr: SocketAddr, source: std::io::Error },
    #[error("no models are installed; fetch some with `stentor pull starter`")]
    NoModels,
    #[error(
        "models.preload: `{0}` is missing or damaged; fetch it with `stentor pull {0}`, or import it again"
    )]
    NotInstalled(String),
    #[error("the device's worker has stopped; the log says why")]
    DeviceLost,
    #[error("{action}: {source}")]
    Io { action: &'static str, source: std::io::Error },
}

/// The models to load before the server is ready: those configured, of a profile all that are here, those too that
/// requests cannot name and that their work needs; else one of each kind that requests name, the configured default or
/// what was installed first.
pub fn preload(config: &Config, library: &Library, models: &[Installed]) -> Result<Vec<String>, Error> {
    if config.models.preload.is_empty() {
        let default = |kind: Kind, chosen: &Option<String>| match chosen {
            Some(name) => models.iter().find(|m| m.kind == kind && answers_to(m, name)),
            None => models.iter().filter(|m| m.kind == kind).min_by_key(|m| m.created),
        };
        let m = &config.models;
        let each = [(Kind::Chat, &m.chat), (Kind::Embed, &m.embed), (Kind::Asr, &m.asr)];
        return Ok(each.into_iter().filter_map(|(k, c)| default(k, c)).map(|m| m.id.clone()).collect());
    }
    let mut ids = Vec::new();
    for name in &config.models.preload {
        match models.iter().find(|m| answers_to(m, name)) {
            Some(model) => ids.push(model.id.clone()),
            None => {
                let Some(profile) = library.catalog().profile(name) else {
                    return Err(Error::NotInstalled(library.resolve(name)?));
                };
                let wanted: BTreeSet<&str> = profile.models.iter().map(String::as_str).collect();
                ids.extend(models.iter().filter(|m| wanted.contains(m.id.as_str())).map(|m| m.id.clone()));
            }
        }
    }
    Ok(ids)
}

fn answers_to(model: &Installed, name: &str) -> bool {
    model.id == name || model.aliases.iter().any(|a| a == name)
}

/// Serves until a stop signal. `listening` is called once the socket is open, `ready` once the models are
/// loaded.
pub async fn serve(
    config: &Config,
    listening: impl FnOnce(SocketAddr),
    ready: impl FnOnce(&[String]) + Send + 'static,
) -> Result<(), Error> {
    let keys = config.api_keys()?;
    config.check_listen(&keys)?;
    obs::init_logs(config.log.format == LogFormat::Json, &config.log.level)?;
    let metrics = obs::install_metrics()?;
    let library = Library::open(&config.home)?;
    let models = library.installed()?;
    if models.is_empty() {
        return Err(Error::NoModels);
    }
    let preload = preload(config, &library, &models)?;
    let listen = |source| Error::Listen { addr: config.addr, source };
    let listener = TcpListener::bind(config.addr).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    let mut settings = http_settings(config, keys, bound)?;
    default_models(&mut settings, &preload, &models);
    let engine = Engine::start(models, engine_options(config))?;
    let options = service_options(config, settings.default_chat.clone());
    let service = Service::new(engine.clone(), options);
    let state = http::State::new(Arc::new(service), stored(config)?, settings, metrics.clone());
    listening(bound);

    // What nobody asked to have there makes room for what is asked for.
    let stay = if config.models.preload.is_empty() { Stay::WhileRoom } else { Stay::Always };
    let loading = tokio::spawn(load(engine.clone(), state.clone(), (preload, stay), ready));
    let upkeep = tokio::spawn(upkeep(engine.clone(), state.clone(), metrics));
    let lost = Arc::new(AtomicBool::new(false));
    let stop = stop(engine, state.clone(), lost.clone());
    let served = http::serve(listener, state, stop).await;
    loading.abort();
    upkeep.abort();
    match lost.load(Ordering::Acquire) {
        true => Err(Error::DeviceLost),
        false => served.map_err(|source| Error::Io { action: "serve", source }),
    }
}

/// Resolves when no new work is to begin: at a stop signal, or when a device is `lost`. What runs then, on the devices that
/// are left, may end.
async fn stop(engine: Engine, state: http::State, lost: Arc<AtomicBool>) {
    let signal = async {
        if let Err(error) = stop_signal().await {
            tracing::error!(%error, "stop signals cannot be caught; only a kill stops this process");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = signal => {}
        () = engine.lost() => {
            tracing::error!("a device is lost: what runs elsewhere may end, then the server stops");
            lost.store(true, Ordering::Release);
        }
    }
    state.begin_stop();
    engine.begin_stop();
}

/// Loads models, and goes on with the jobs that were not over.
async fn load(
    engine: Engine,
    state: http::State,
    (preload, stay): (Vec<String>, Stay),
    ready: impl FnOnce(&[String]) + Send + 'static,
) {
    // A failure is the engine's state, which `/readyz` shows, and is in the log.
    if engine.preload(&preload, stay).await.is_ok() {
        ready(&preload);
    }
    match state.resume().await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "jobs that were not over go on"),
        Err(error) => tracing::error!(%error, "jobs that were not over cannot be read"),
    }
}

/// Until it is aborted: folds metrics, unloads idle models, and forgets what was to be kept until now.
async fn upkeep(engine: Engine, state: http::State, metrics: obs::Exposition) {
    let mut tick = tokio::time::interval(UPKEEP);
    for turn in 0u64.. {
        tick.tick().await;
        metrics.upkeep();
        engine.sweep().await;
        if turn % SWEEP == 0
            && let Err(error) = state.sweep().await
        {
            tracing::warn!(%error, "what was to be kept until now is kept");
        }
    }
}

/// What the configuration says of the engine.
pub fn engine_options(config: &Config) -> engine::Options {
    let device = match config.device.kind {
        DeviceKind::Auto => device::Choice::Auto,
        DeviceKind::Cpu => device::Choice::Cpu,
        DeviceKind::Cuda => device::Choice::Cuda,
    };
    engine::Options {
        device,
        memory_budget: config.device.memory_budget_bytes,
        queue: config.limits.queue_depth,
        keep_alive: config.models.keep_alive,
        load_wait: config.models.load_wait,
        threads: config.device.threads,
        cache_bytes: config.models.kv_cache_bytes,
        guesses: config.models.speculate,
        drafts: config.models.drafts.clone(),
        devices: config.models.devices.clone(),
        cache: match config.models.kv_cache {
            KvCache::F32 => KvType::F32,
            KvCache::F16 => KvType::F16,
            KvCache::Q8 => KvType::Q8,
        },
        quantise: config.models.quantise,
        precision: config.models.precision,
        ..engine::Options::default()
    }
}

/// What the server would compute with.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Every device, those that the server takes before the others.
    pub devices: Vec<Device>,
    /// Bytes that loaded models may take together on each device that the server takes.
    pub budgets: Vec<u64>,
    /// Whether these are GPUs.
    pub gpus: bool,
    /// Why there are no more GPUs: a line each.
    pub left_out: Vec<String>,
}

impl Machine {
    /// Bytes that loaded models may take together.
    pub fn budget(&self) -> u64 {
        self.budgets.iter().fold(0, |sum, budget| sum.saturating_add(*budget))
    }

    /// Bytes that models take of the devices that they are laid out over, the largest of them first; `None` where they
    /// cannot be loaded at once.
    pub fn lay_out(&self, models: &[Footprint]) -> Option<u64> {
        let mut models = models.to_vec();
        models.sort_unstable_by_key(|takes| std::cmp::Reverse(takes.kept()));
        let mut fleet = Fleet::new(self.budgets.iter().copied());
        for (at, takes) in models.into_iter().enumerate() {
            let placed = fleet.place("", &vec![Some(takes); self.budgets.len()], |_, _| true).ok()?;
            fleet.ledger(placed.device)?.insert(&at.to_string(), takes, 0, true);
        }
        Some(fleet.ledgers().iter().map(Ledger::used).fold(0, u64::saturating_add))
    }
}

/// This machine as the server would use it if it started now.
pub fn machine(config: &Config) -> Machine {
    let options = engine_options(config);
    let found = device::gpus();
    let mut devices = found.gpus;
    devices.push(device::cpu());
    let wanted = device::wanted(options.device).unwrap_or_default();
    devices.sort_by_key(|device| !wanted.iter().any(|one| one.id == device.id));
    // Without what is wanted the server does not start; then it is the first that is told of.
    let taken = devices.iter().take(wanted.len().max(1));
    let gpus = taken.clone().all(Device::is_gpu);
    let budgets = taken.map(|device| options.budget(device)).collect();
    // Where GPUs are neither served nor asked for nothing is said of them.
    let asked = cfg!(feature = "cuda") || options.device == device::Choice::Cuda;
    let left_out = if asked { found.left_out } else { Vec::new() };
    Machine { devices, budgets, gpus, left_out }
}

/// What an installed model takes of a device of such a budget, as the server reckons before it loads it.
pub fn takes(config: &Config, budget: u64, gpu: bool, model: &Installed, models: &[Installed]) -> Footprint {
    let options = engine_options(config);
    let draft = options.drafts.get(&model.id).and_then(|id| models.iter().find(|m| m.id == *id));
    engine::open::estimate(model, draft, gpu, options.limits(budget))
}

/// What a model is going to take of such a device whose files are not here: `weights`, and what its manifest says.
pub fn takes_to_come(
    config: &Config,
    budget: u64,
    gpu: bool,
    manifest: &Manifest,
    weights: u64,
) -> Footprint {
    let step = manifest.step_mib.saturating_mul(1 << 20);
    let cache = match (manifest.kind, manifest.context) {
        (Kind::Chat, Context::Tokens(tokens)) => {
            let grant = engine::open::llm_grant(engine_options(config).limits(budget));
            let others = weights.saturating_add(step);
            grant.cache_bytes(manifest.token_bytes, tokens, gpu, others)
        }
        _ => 0,
    };
    Footprint { weights, cache, step }
}

/// Whether there is code for the model's architecture.
pub fn runs(model: &Installed) -> bool {
    let architecture = model.architecture.as_str();
    match model.kind {
        Kind::Chat => llm::architectures(model.format).contains(&architecture),
        Kind::Embed => embed::runs(architecture, model.format),
        Kind::Rerank => rerank::REGISTRY.iter().any(|row| row.name == architecture),
        Kind::Asr => architecture == "whisper",
        Kind::Vad => vad::REGISTRY.iter().any(|(name, _)| *name == architecture),
        Kind::Speaker => speaker::runs(architecture),
        Kind::Segment => segment::runs(architecture),
    }
}

/// Why a model's files are none.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error(transparent)]
    CTranslate2(#[from] weights::ctranslate2::Error),
}

/// Reads what stands before a model's weights, so that a damaged or shortened file is found without loading it.
///
/// # Errors
/// The file, and what in it contradicts itself or its size.
pub fn inspect(model: &Installed) -> Result<(), Damaged> {
    match model.format {
        Format::Gguf => drop(weights::gguf::Gguf::open(&model.path)?),
        Format::Safetensors => drop(weights::safetensors::SafetensorsFolder::open(&model.path)?),
        Format::CTranslate2 => drop(weights::ctranslate2::Ct2::open(&model.path, "WhisperSpec")?),
        Format::Torch => drop(weights::torch::TorchFile::open(&model.path)?),
        Format::Ggml => drop(weights::ggml::GgmlFile::open(&model.path)?),
    }
    Ok(())
}

/// The responses that are kept in the home folder.
fn responses(config: &Config) -> Result<Responses, Error> {
    let limits = responses::Limits { count: config.responses.keep, bytes: config.responses.keep_bytes };
    Responses::open(&config.home.join("responses"), limits)
        .map_err(|source| Error::Io { action: "open the folder of responses in the home folder", source })
}

/// What the home folder keeps.
fn stored(config: &Config) -> Result<http::Stored, Error> {
    let points = Points::open(&config.store())?;
    let limits = files::Limits { bytes: config.files.keep_bytes };
    let files = Files::open(&config.home.join("files"), points.clone(), limits)
        .map_err(|source| Error::Io { action: "open the folder of files in the home folder", source })?;
    let jobs = Jobs::new(points.clone(), files.clone(), config.jobs.keep);
    let book = Book::open(points.clone(), files.clone(), book_options(config))?;
    Ok(http::Stored { responses: responses(config)?, points, files, jobs, book })
}

/// How the book of speakers is kept.
pub fn book_options(config: &Config) -> speakers::Options {
    speakers::Options { keep_audio: config.speakers.keep_audio }
}

fn service_options(config: &Config, default_chat: Option<String>) -> service::Options {
    service::Options {
        aliases: config.models.aliases.clone(),
        default_chat,
        timeout: config.limits.request_timeout,
        audio_seconds: config.limits.audio_seconds,
    }
}

fn http_settings(
    config: &Config,
    keys: Vec<crate::types::key::ApiKey>,
    bind: SocketAddr,
) -> Result<http::Settings, Error> {
    let spool_dir = config.home.join("spool");
    std::fs::create_dir_all(&spool_dir)
        .map_err(|source| Error::Io { action: "create the folder for uploads in the home folder", source })?;
    Ok(http::Settings {
        bind,
        keys,
        allowed_hosts: config.allowed_hosts.clone(),
        cors_origins: config.cors_origins.clone(),
        remote_hosts: config.remote_hosts.clone(),
        librechat_secret: config.librechat_secret.clone(),
        json_body_bytes: config.limits.json_body_bytes,
        audio_body_bytes: config.limits.audio_body_bytes,
        max_connections: config.limits.max_connections,
        live_sessions: config.limits.live_sessions,
        request_timeout: config.limits.request_timeout,
        shutdown_grace: config.limits.shutdown_grace,
        spool_dir,
        default_chat: config.models.chat.clone(),
        default_embed: config.models.embed.clone(),
        default_asr: config.models.asr.clone(),
        default_rerank: config.models.rerank.clone(),
        ..http::Settings::default()
    })
}

/// Requests that name no model get what was loaded first of its kind.
fn default_models(settings: &mut http::Settings, preload: &[String], models: &[Installed]) {
    let first =
        |kind: Kind| preload.iter().find(|id| models.iter().any(|m| m.id == **id && m.kind == kind)).cloned();
    settings.default_chat = settings.default_chat.take().or_else(|| first(Kind::Chat));
    settings.default_embed = settings.default_embed.take().or_else(|| first(Kind::Embed));
    settings.default_asr = settings.default_asr.take().or_else(|| first(Kind::Asr));
}
