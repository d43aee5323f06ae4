//! The accept loop: bounded connections, timeouts, and a shutdown that lets running answers finish.
//!
//! On the stop signal `/readyz` turns 503 and new work is refused at once, while connections are still
//! accepted so that probes get their answer. When no request is left, or the grace is over, listening ends
//! and what is still open is closed.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::io::StallGuard;
use super::{Settings, State, router};

/// A request's head is refused beyond this.
const MAX_HEAD: usize = 64 << 10;
/// For the last bytes of closing connections to leave.
const CLOSING_TIME: Duration = Duration::from_secs(2);
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves until `shutdown` resolves and the running requests are done.
///
/// # Errors
/// None today but for a listener that the system has broken for good; connections fail alone.
pub async fn serve(
    listener: TcpListener,
    state: State,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let app = router(state.clone());
    let closing = CancellationToken::new();
    let slots = Arc::new(Semaphore::new(state.settings().max_connections));
    let mut connections = JoinSet::new();
    let mut upkeep = tokio::time::interval(UPKEEP);
    let mut shutdown = std::pin::pin!(shutdown);
    let mut drained = std::pin::pin!(drain(&state));
    loop {
        let stopping = state.0.stopping.is_cancelled();
        tokio::select! {
            () = &mut shutdown, if !stopping => {
                tracing::info!("stopping: no new requests; running ones may finish");
                state.0.stopping.cancel();
            }
            () = &mut drained => break,
            accepted = accept(&listener, &slots) => {
                let (socket, slot) = accepted?;
                let connection = Connection { app: app.clone(), closing: closing.clone(), _slot: slot };
                connections.spawn(connection.run(socket, state.settings().clone()));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = upkeep.tick() => state.0.metrics.upkeep(),
        }
    }
    drop(listener);
    closing.cancel();
    let close = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSING_TIME, close).await.is_err() {
        tracing::warn!("some answers were cut off: they took longer than the time for shutting down");
    }
    Ok(())
}

/// Resolves once the server stops and no request runs any more, or the grace is over.
async fn drain(state: &State) {
    state.0.stopping.cancelled().await;
    state.0.active.close();
    let _ = tokio::time::timeout(state.settings().shutdown_grace, state.0.active.wait()).await;
}

/// The next connection, once there is room for it. Errors of a single connection are skipped; when the
/// process is out of descriptors it waits for some to be closed.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return Ok((socket, slot)),
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

struct Connection {
    app: Router,
    closing: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, socket: TcpStream, settings: Settings) {
        // Events are small and must leave at once.
        let _ = socket.set_nodelay(true);
        let io = TokioIo::new(StallGuard::new(socket, settings.stall_timeout));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(MAX_HEAD)
            .serve_connection(io, TowerToHyperService::new(self.app))
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Resolves on SIGTERM or SIGINT.
///
/// # Errors
/// The signals cannot be listened to.
pub async fn stop_signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
