//! The HTTP side: wire formats, routes, and everything that stands between a socket and the service.
//!
//! A request passes, in this order: [`observe`] (id, clock, log line, metrics), [`dialect`] (the form of errors), CORS where it is configured,
//! [`gate`] (Host, Origin, API key, shutdown, deadline), and its handler. The one table of routes in
//! [`routes`] says which of them need a key, so a new route cannot be forgotten.

mod auth;
mod backend;
mod body;
mod cast;
mod dialect;
mod error;
mod form;
mod gate;
mod io;
mod librechat;
mod observe;
mod openai;
mod openapi;
mod paneas;
mod pmx;
mod realtime;
mod routes;
mod server;
mod snapshots;
mod speakers;
mod speech;
mod sse;
mod system;
mod work;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use backend::Backend;
pub use dialect::Dialect;
pub use error::ApiError;
pub use routes::{Access, Route, table};
pub use server::{serve, stop_signal};

use crate::obs::Exposition;
use crate::service;
use crate::service::files::Files;
use crate::service::jobs::{Jobs, Work};
use crate::service::points::Points;
use crate::service::rag::{self, Models, Rag};
use crate::service::remote::{self, Remote};
use crate::service::responses::Responses;
use crate::service::runs::Runs;
use crate::service::speakers::Book;
use crate::service::vector_stores::VectorStores;
use crate::types::key::ApiKey;

/// What the HTTP side is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address listened on; its IP is an accepted `Host`.
    pub bind: SocketAddr,
    /// Accepted keys; none means that no key is asked for.
    pub keys: Vec<ApiKey>,
    /// Further accepted `Host` names, in lower case, without port.
    pub allowed_hosts: Vec<String>,
    /// Exact origins that browsers may call from.
    pub cors_origins: Vec<String>,
    /// Largest JSON body.
    pub json_body_bytes: u64,
    /// Largest multipart body.
    pub audio_body_bytes: u64,
    /// Memory for the JSON bodies of all requests that are being read or parsed.
    pub body_memory_bytes: u64,
    /// Uploads spooled to disk at the same time.
    pub max_uploads: usize,
    /// Folder for spooled uploads; it should not be a RAM disk.
    pub spool_dir: PathBuf,
    pub max_connections: usize,
    /// Live sessions open at the same time.
    pub live_sessions: usize,
    /// Longest silence of a live session's client.
    pub live_idle_timeout: Duration,
    /// Time for a request's head, and for an idle connection until its next one.
    pub header_timeout: Duration,
    /// Longest silence while a body arrives, or while a client does not read its answer.
    pub stall_timeout: Duration,
    /// From a request's head to the last byte of its answer.
    pub request_timeout: Duration,
    /// Silence in a stream after which a comment is sent, so that proxies keep it open.
    pub stream_keep_alive: Duration,
    /// Time for running requests to finish after a stop signal.
    pub shutdown_grace: Duration,
    /// Hosts whose files clients may name by URL, and that results may be sent to.
    pub remote_hosts: Vec<String>,
    /// What LibreChat signs its tokens with.
    pub librechat_secret: Option<String>,
    /// Models for requests that name none.
    pub default_chat: Option<String>,
    pub default_embed: Option<String>,
    pub default_asr: Option<String>,
    /// The model that puts passages in order which were found for a question; none does if absent.
    pub default_rerank: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            keys: Vec::new(),
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            json_body_bytes: 32 << 20,
            audio_body_bytes: 512 << 20,
            body_memory_bytes: 256 << 20,
            max_uploads: 32,
            spool_dir: std::env::temp_dir(),
            max_connections: 1024,
            live_sessions: 64,
            live_idle_timeout: Duration::from_secs(300),
            header_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(1800),
            stream_keep_alive: Duration::from_secs(15),
            shutdown_grace: Duration::from_secs(45),
            remote_hosts: Vec::new(),
            librechat_secret: None,
            default_chat: None,
            default_embed: None,
            default_asr: None,
            default_rerank: None,
        }
    }
}

/// What every handler shares. Cheap to clone.
#[derive(Clone)]
pub struct State(Arc<Shared>);

/// What outlives a request, and the process.
#[derive(Clone)]
pub struct Stored {
    /// The store.
    pub points: Points,
    /// Responses that are kept.
    pub responses: Responses,
    /// Files that callers left.
    pub files: Files,
    pub jobs: Jobs,
    /// Speakers who are known by voice.
    pub book: Book,
}

struct Shared {
    backend: Arc<dyn Backend>,
    stored: Stored,
    rag: Rag,
    vector_stores: VectorStores,
    runs: Runs,
    remote: Remote,
    settings: Settings,
    metrics: Exposition,
    /// Cancelled when the server is told to stop.
    stopping: CancellationToken,
    /// Requests whose answer is not fully sent.
    active: TaskTracker,
    /// A permit is 1 KiB of JSON body.
    body_memory: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    live: Arc<Semaphore>,
    rooms: realtime::Rooms,
}

impl State {
    /// `backend` answers, `stored` is what is kept, `metrics` is what `/metrics` shows.
    pub fn new(backend: Arc<dyn Backend>, stored: Stored, settings: Settings, metrics: Exposition) -> State {
        let kib = usize::try_from(settings.body_memory_bytes >> 10).unwrap_or(usize::MAX);
        let models: Arc<dyn Models> = backend.clone();
        let Stored { points, files, jobs, .. } = &stored;
        let rag = Rag::new(models, points.clone(), rag::Options::default());
        State(Arc::new(Shared {
            backend,
            vector_stores: VectorStores::new(points.clone(), rag.clone(), files.clone(), jobs.clone()),
            rag,
            runs: Runs::new(points.clone()),
            remote: Remote::new(remote::Options {
                hosts: settings.remote_hosts.clone(),
                bytes: settings.audio_body_bytes,
                folder: settings.spool_dir.clone(),
            }),
            stored,
            metrics,
            stopping: CancellationToken::new(),
            active: TaskTracker::new(),
            body_memory: Arc::new(Semaphore::new(kib.min(Semaphore::MAX_PERMITS))),
            uploads: Arc::new(Semaphore::new(settings.max_uploads)),
            live: Arc::new(Semaphore::new(settings.live_sessions)),
            rooms: realtime::Rooms::default(),
            settings,
        }))
    }

    /// Goes on with the jobs that were not over when the server stopped.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn resume(&self) -> Result<usize, service::Error> {
        self.jobs().resume(&self.worker()).await
    }

    /// Says that the server is being stopped, before what jobs work with is.
    pub fn begin_stop(&self) {
        self.jobs().stop();
    }

    /// Forgets what was to be kept until now.
    ///
    /// # Errors
    /// The store cannot be read and written.
    pub async fn sweep(&self) -> Result<(), service::Error> {
        self.jobs().sweep().await?;
        self.runs().sweep(self.jobs().kept().as_secs_f64()).await?;
        self.book().sweep().await?;
        self.files().sweep().await
    }

    fn backend(&self) -> &dyn Backend {
        self.0.backend.as_ref()
    }

    fn responses(&self) -> &Responses {
        &self.0.stored.responses
    }

    fn points(&self) -> &Points {
        &self.0.stored.points
    }

    fn files(&self) -> &Files {
        &self.0.stored.files
    }

    fn jobs(&self) -> &Jobs {
        &self.0.stored.jobs
    }

    fn book(&self) -> &Book {
        &self.0.stored.book
    }

    /// Who does jobs.
    fn worker(&self) -> Arc<dyn Work> {
        work::worker(self)
    }

    fn runs(&self) -> &Runs {
        &self.0.runs
    }

    fn remote(&self) -> &Remote {
        &self.0.remote
    }

    fn vector_stores(&self) -> &VectorStores {
        &self.0.vector_stores
    }

    fn rag(&self) -> &Rag {
        &self.0.rag
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }
}

/// The whole API as a tower service.
pub fn router(state: State) -> Router {
    let mut router = Router::new();
    for route in table() {
        router = router.route(route.path, (route.handler)());
    }
    router = router
        .fallback(system::not_found)
        .method_not_allowed_fallback(system::method_not_allowed)
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(error::panicked))
        .layer(axum::middleware::from_fn_with_state(state.clone(), gate::gate));
    if !state.settings().cors_origins.is_empty() {
        router = router.layer(gate::cors(&state.settings().cors_origins));
    }
    let router = router
        .layer(axum::middleware::from_fn(dialect::speak))
        .layer(axum::middleware::from_fn_with_state(state.clone(), observe::observe))
        .with_state(state);
    // Paths are changed before they are matched, which a layer of the router itself would not do.
    Router::new().fallback_service(tower::util::MapRequest::new(router, above_rag))
}

/// PMX's proxy has the server below `/rag`: whatever is asked for there is asked for at the root.
fn above_rag(mut request: Request) -> Request {
    let uri = request.uri();
    let stripped = uri.path_and_query().and_then(|path| {
        let rest = path.as_str().strip_prefix("/rag/")?;
        PathAndQuery::try_from(format!("/{rest}")).ok()
    });
    if let Some(path) = stripped {
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}
