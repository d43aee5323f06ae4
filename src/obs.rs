//! Metrics and logs.
//!
//! Callers never spell a metric's name or label: they hold a [`ModelMetrics`] for a model that exists, and
//! time a request with a [`RequestTimer`]. Labels come from closed sets (route templates, models that are
//! installed, the enums here), so no client can make the exposition grow.

pub mod names;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Label, SharedString};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use names::{Metric, Type};

/// Why metrics or logs could not be set up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("cannot set up metrics: {0}")]
    Metrics(String),
    #[error("cannot set up logs: {0}")]
    Logs(String),
}

/// The numbers collected so far.
#[derive(Clone)]
pub struct Exposition {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Exposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exposition")
    }
}

impl Exposition {
    /// The Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds recent histogram values into their buckets. Call it every few seconds: they are kept one by one
    /// until then.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Starts to collect metrics; later calls give the same collection. Values recorded before the first call
/// are lost.
///
/// # Errors
/// Something else in the process collects already.
pub fn install_metrics() -> Result<Exposition, Error> {
    static INSTALLED: OnceLock<Result<Exposition, Error>> = OnceLock::new();
    INSTALLED.get_or_init(|| start().map_err(|e| Error::Metrics(e.to_string()))).clone()
}

fn start() -> Result<Exposition, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in names::ALL {
        if let Type::Histogram(bounds) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)?;
        }
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    for metric in names::ALL {
        match metric.kind {
            Type::Counter => metrics::describe_counter!(metric.name, metric.help),
            Type::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Type::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    gauge(names::BUILD_INFO, vec![Label::new("version", env!("CARGO_PKG_VERSION"))], 1.0);
    Ok(Exposition { handle })
}

/// Sends log lines to stderr, coloured on a terminal where `NO_COLOR` is not set. `filter` is a level or a
/// filter (`stentor=debug,hyper=warn`).
///
/// # Errors
/// The filter is not one, or logs are set up already.
pub fn init_logs(json: bool, filter: &str) -> Result<(), Error> {
    let filter = EnvFilter::builder().parse(filter).map_err(|e| Error::Logs(e.to_string()))?;
    // Hyper warns of every idle connection that it closes; that is a client's doing and no fault here.
    let filter = match "hyper=error".parse() {
        Ok(quiet) if !filter.to_string().contains("hyper") => filter.add_directive(quiet),
        _ => filter,
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && !plain)
        // A line that cannot be written would be complained of where it could not be, with a panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let done = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    done.map_err(|e| Error::Logs(e.to_string()))
}

fn labels(model: &SharedString, engine: &SharedString) -> Vec<Label> {
    vec![Label::new("model_name", model.clone()), Label::new("engine", engine.clone())]
}

fn counter(metric: Metric, labels: Vec<Label>, value: u64) {
    metrics::counter!(metric.name, labels).increment(value);
}

fn gauge(metric: Metric, labels: Vec<Label>, value: f64) {
    metrics::gauge!(metric.name, labels).set(value);
}

fn observe(metric: Metric, labels: Vec<Label>, value: f64) {
    metrics::histogram!(metric.name, labels).record(value);
}

/// Counts an HTTP answer. `route` is the route's template, never a path that a client sent.
pub fn http_request(route: &'static str, method: &'static str, status: u16, took: Duration) {
    let class = match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    let route = Label::from_static_parts("route", route);
    let labels = vec![
        route.clone(),
        Label::from_static_parts("method", method),
        Label::from_static_parts("status", class),
    ];
    counter(names::HTTP_REQUESTS, labels, 1);
    observe(names::HTTP_DURATION, vec![route], took.as_secs_f64());
}

/// Whether requests can be answered.
pub fn set_ready(ready: bool) {
    gauge(names::READY, Vec::new(), if ready { 1.0 } else { 0.0 });
}

/// Why a request was refused before it was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    QueueFull,
    /// One API key has as much in the queue as one may.
    KeyShare,
    ShuttingDown,
    /// Bodies being read take all the memory set aside for them.
    BodyMemory,
    TooManyUploads,
    LiveSessions,
}

impl Rejection {
    fn as_str(self) -> &'static str {
        match self {
            Rejection::QueueFull => "queue_full",
            Rejection::KeyShare => "key_share",
            Rejection::ShuttingDown => "shutting_down",
            Rejection::BodyMemory => "body_memory",
            Rejection::TooManyUploads => "too_many_uploads",
            Rejection::LiveSessions => "live_sessions",
        }
    }
}

/// Counts a request that was refused before any model was chosen.
pub fn rejected(reason: Rejection) {
    counter(names::ADMISSION_REJECTIONS, vec![Label::from_static_parts("reason", reason.as_str())], 1);
}

/// How a request to a model ended, by vLLM's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Stop,
    Length,
    /// The caller went away or the deadline passed.
    Abort,
    Error,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Outcome::Stop => "stop",
            Outcome::Length => "length",
            Outcome::Abort => "abort",
            Outcome::Error => "error",
        }
    }
}

/// The metrics of one installed model. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    model: SharedString,
    engine: SharedString,
    hot: Arc<Hot>,
}

/// What every step or token touches, looked up once: a lookup allocates its labels.
struct Hot {
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge,
    step_tokens: Histogram,
    generated: Counter,
    token_latency: Histogram,
}

impl std::fmt::Debug for Hot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hot")
    }
}

impl ModelMetrics {
    /// For the model with this id on the device at this place among the server's. Call it after [`install_metrics`]: what is recorded through it goes to the
    /// collection there is now. Only ids of installed models may come here: each makes new time series.
    /// The gauges and counters that gateways read appear at once, at zero.
    pub fn new(model: &str, engine: usize) -> ModelMetrics {
        let model = SharedString::from_shared(Arc::from(model));
        let engine = SharedString::from_owned(engine.to_string());
        let labels = || labels(&model, &engine);
        for metric in [names::RUNNING, names::WAITING, names::KV_USAGE, names::MODEL_LOADED] {
            gauge(metric, labels(), 0.0);
        }
        for metric in [
            names::PROMPT_TOKENS,
            names::GENERATION_TOKENS,
            names::PREFIX_QUERIES,
            names::PREFIX_HITS,
            names::PREEMPTIONS,
            names::CANCELLED,
            names::SPEC_DRAFTS,
            names::SPEC_DRAFT_TOKENS,
            names::SPEC_ACCEPTED,
        ] {
            counter(metric, labels(), 0);
        }
        for outcome in [Outcome::Stop, Outcome::Length, Outcome::Abort, Outcome::Error] {
            let reason = Label::from_static_parts("finished_reason", outcome.as_str());
            counter(names::REQUEST_SUCCESS, labels().into_iter().chain([reason]).collect(), 0);
        }
        let hot = Hot {
            running: metrics::gauge!(names::RUNNING.name, labels()),
            waiting: metrics::gauge!(names::WAITING.name, labels()),
            kv_usage: metrics::gauge!(names::KV_USAGE.name, labels()),
            step_tokens: metrics::histogram!(names::ITERATION_TOKENS.name, labels()),
            generated: metrics::counter!(names::GENERATION_TOKENS.name, labels()),
            token_latency: metrics::histogram!(names::TOKEN_LATENCY.name, labels()),
        };
        ModelMetrics { model, engine, hot: Arc::new(hot) }
    }

    fn labels(&self) -> Vec<Label> {
        labels(&self.model, &self.engine)
    }

    fn labels_and(&self, name: &'static str, value: &'static str) -> Vec<Label> {
        let mut labels = self.labels();
        labels.push(Label::from_static_parts(name, value));
        labels
    }

    /// Requests that the model works on now, and that wait for it.
    pub fn set_load(&self, running: usize, waiting: usize) {
        self.hot.running.set(running as f64);
        self.hot.waiting.set(waiting as f64);
    }

    /// Share of the key-value cache in use, 0 to 1.
    pub fn set_kv_usage(&self, share: f64) {
        self.hot.kv_usage.set(share.clamp(0.0, 1.0));
    }

    /// The shape of the key-value cache, in vLLM's words. Once a load, as each pair is a time series.
    pub fn set_cache_config(&self, block_size: usize, blocks: usize) {
        let mut labels = self.labels();
        labels.push(Label::new("block_size", block_size.to_string()));
        labels.push(Label::new("num_gpu_blocks", blocks.to_string()));
        gauge(names::CACHE_CONFIG, labels, 1.0);
    }

    /// Counts one engine step over `tokens` tokens.
    pub fn step(&self, tokens: usize) {
        self.hot.step_tokens.record(tokens as f64);
    }

    /// Counts a lookup of `queried` prompt tokens of which `hit` were in the prefix cache.
    pub fn prefix_cache(&self, queried: u32, hit: u32) {
        counter(names::PREFIX_QUERIES, self.labels(), u64::from(queried));
        counter(names::PREFIX_HITS, self.labels(), u64::from(hit));
    }

    /// Counts a sequence that went back to the queue.
    pub fn preempted(&self) {
        counter(names::PREEMPTIONS, self.labels(), 1);
    }

    /// Counts rows that had guesses checked, the guesses, and those that came true.
    pub fn speculated(&self, drafts: u64, guesses: u64, accepted: u64) {
        counter(names::SPEC_DRAFTS, self.labels(), drafts);
        counter(names::SPEC_DRAFT_TOKENS, self.labels(), guesses);
        counter(names::SPEC_ACCEPTED, self.labels(), accepted);
    }

    /// Counts a request that the model's queue refused.
    pub fn rejected(&self, reason: Rejection) {
        counter(names::ADMISSION_REJECTIONS, self.labels_and("reason", reason.as_str()), 1);
    }

    /// Counts a recording of `audio` seconds that took `work`.
    pub fn transcribed(&self, audio: Duration, work: Duration) {
        // Prometheus counters here are whole numbers; rounding a recording to a second is far below what
        // a day's quota or a dashboard shows.
        counter(names::ASR_AUDIO, self.labels(), audio.as_secs_f64().round() as u64);
        if !audio.is_zero() {
            observe(names::ASR_FACTOR, self.labels(), work.as_secs_f64() / audio.as_secs_f64());
        }
    }

    /// Counts a batch of embedded texts.
    pub fn embedded(&self, inputs: usize, tokens: u32) {
        counter(names::EMBEDDING_INPUTS, self.labels(), inputs as u64);
        counter(names::EMBEDDING_TOKENS, self.labels(), u64::from(tokens));
    }

    /// Counts frames that a voice activity detector heard.
    pub fn listened(&self, frames: usize) {
        counter(names::VAD_FRAMES, self.labels(), frames as u64);
    }

    /// Notes a load that succeeded, and the device memory it took.
    pub fn loaded(&self, took: Duration, bytes: u64) {
        counter(names::MODEL_LOADS, self.labels_and("result", "ok"), 1);
        observe(names::MODEL_LOAD_TIME, self.labels(), took.as_secs_f64());
        gauge(names::MODEL_LOADED, self.labels(), 1.0);
        gauge(names::MODEL_BYTES, self.labels(), bytes as f64);
    }

    /// Notes a load that failed.
    pub fn load_failed(&self) {
        counter(names::MODEL_LOADS, self.labels_and("result", "error"), 1);
    }

    /// Notes that the model left memory.
    pub fn unloaded(&self) {
        gauge(names::MODEL_LOADED, self.labels(), 0.0);
        gauge(names::MODEL_BYTES, self.labels(), 0.0);
    }

    /// Starts the clock of a request that arrived now.
    pub fn request(&self, now: Instant) -> RequestTimer {
        RequestTimer {
            model: self.clone(),
            arrived: now,
            started: None,
            first: None,
            last: None,
            tokens: 0,
            ended: false,
        }
    }
}

/// Times one request to a model. Dropped before [`finish`](Self::finish), it counts as cancelled: that is
/// what happens when a caller hangs up and the future or stream that holds it is dropped.
#[derive(Debug)]
pub struct RequestTimer {
    model: ModelMetrics,
    arrived: Instant,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    tokens: u64,
    ended: bool,
}

impl RequestTimer {
    /// The request left the queue: a step holds it.
    pub fn start(&mut self, now: Instant) {
        if self.started.is_none() {
            self.started = Some(now);
            self.observe(names::QUEUE_TIME, now.saturating_duration_since(self.arrived));
        }
    }

    /// The prompt, of so many tokens, is computed.
    pub fn prompt(&self, tokens: u32) {
        counter(names::PROMPT_TOKENS, self.model.labels(), u64::from(tokens));
    }

    /// A token was generated.
    pub fn token(&mut self, now: Instant) {
        match self.last {
            None => {
                self.first = Some(now);
                self.observe(names::FIRST_TOKEN_TIME, now.saturating_duration_since(self.arrived));
            }
            Some(last) => self.model.hot.token_latency.record(now.saturating_duration_since(last)),
        }
        self.last = Some(now);
        self.tokens += 1;
        self.model.hot.generated.increment(1);
    }

    /// The request ended after a prompt of `prompt_tokens`.
    pub fn finish(mut self, now: Instant, outcome: Outcome, prompt_tokens: u32) {
        self.ended = true;
        let labels = self.model.labels();
        counter(names::REQUEST_SUCCESS, self.model.labels_and("finished_reason", outcome.as_str()), 1);
        observe(names::REQUEST_PROMPT_TOKENS, labels.clone(), f64::from(prompt_tokens));
        observe(names::REQUEST_GENERATION_TOKENS, labels, self.tokens as f64);
        self.observe(names::REQUEST_LATENCY, now.saturating_duration_since(self.arrived));
        if let Some(started) = self.started {
            self.observe(names::INFERENCE_TIME, now.saturating_duration_since(started));
            if let Some(first) = self.first {
                self.observe(names::PREFILL_TIME, first.saturating_duration_since(started));
                self.observe(names::DECODE_TIME, now.saturating_duration_since(first));
            }
        }
    }

    fn observe(&self, metric: Metric, value: Duration) {
        observe(metric, self.model.labels(), value.as_secs_f64());
    }
}

impl Drop for RequestTimer {
    fn drop(&mut self) {
        if !self.ended {
            counter(names::CANCELLED, self.model.labels(), 1);
            counter(
                names::REQUEST_SUCCESS,
                self.model.labels_and("finished_reason", Outcome::Abort.as_str()),
                1,
            );
        }
    }
}
