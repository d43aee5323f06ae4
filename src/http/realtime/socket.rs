//! What both dialects need of a socket: a place among the sessions, messages in, one bounded queue of messages out.

use std::time::{Duration, Instant};

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::http::body::busy;
use crate::http::{ApiError, State};
use crate::obs::{self, Rejection};
use crate::service::Context;

/// Largest message: a minute of audio, and more of it compressed by telephones.
const MAX_MESSAGE: usize = 4 << 20;
/// Messages that a client may be behind before its session waits.
const OUTBOX: usize = 32;
/// For the last messages and the closing to leave.
const CLOSING: Duration = Duration::from_secs(5);

/// Reasons to close, as the protocol numbers them.
pub(super) mod close {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const UNSUPPORTED: u16 = 1003;
    pub const TOO_BIG: u16 = 1009;
    pub const INTERNAL: u16 = 1011;
}

/// A session's place: counted while it lives, and waited for by a server that stops.
pub(super) struct Place {
    ctx: Context,
    begun: Instant,
    _permit: OwnedSemaphorePermit,
    _active: TaskTrackerToken,
}

impl Drop for Place {
    /// The request's own line says when the protocol changed.
    fn drop(&mut self) {
        let (request_id, key_id) = (&*self.ctx.request_id, self.ctx.key_id.as_deref());
        let ms = self.begun.elapsed().as_millis() as u64;
        tracing::info!(request_id, key_id, ms, "live session ended");
    }
}

/// Lets a client in, or says why not before the protocol changes.
pub(super) fn admit(
    state: &State,
    ctx: &Context,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<(WebSocketUpgrade, Place), ApiError> {
    let upgrade = upgrade.map_err(|rejection| {
        let message = format!("this route speaks WebSocket alone: {rejection}");
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
    })?;
    let permit = state.0.live.clone().try_acquire_owned().map_err(|_| {
        obs::rejected(Rejection::LiveSessions);
        busy("as many live sessions as are allowed are open; try again when one has ended")
    })?;
    let (ctx, begun) = (ctx.clone(), Instant::now());
    let place = Place { ctx, begun, _permit: permit, _active: state.0.active.token() };
    Ok((upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE), place))
}

/// What a client did.
pub(super) enum Said {
    Text(String),
    Bytes(Vec<u8>),
    /// More than a message may be.
    TooLong,
    /// Nothing, for too long.
    Idle,
    /// The server stops.
    Stopping,
    Gone,
}

/// The client's messages.
pub(super) struct Incoming {
    socket: SplitStream<WebSocket>,
    idle: Duration,
    stopping: CancellationToken,
}

impl Incoming {
    pub async fn next(&mut self) -> Said {
        let deadline = tokio::time::Instant::now() + self.idle;
        loop {
            let message = tokio::select! {
                message = self.socket.next() => message,
                () = tokio::time::sleep_until(deadline) => return Said::Idle,
                () = self.stopping.cancelled() => return Said::Stopping,
            };
            return match message {
                Some(Ok(Message::Text(text))) => Said::Text(text.as_str().to_owned()),
                Some(Ok(Message::Binary(bytes))) => Said::Bytes(bytes.to_vec()),
                // Answered by the socket itself; they do not keep a silent session open.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Err(error)) if is_too_long(&error) => Said::TooLong,
                Some(Ok(Message::Close(_)) | Err(_)) | None => Said::Gone,
            };
        }
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    error.to_string().contains("too long") || error.to_string().contains("too big")
}

/// Messages to the client. Cheap to clone; sending waits while the client is behind.
#[derive(Clone)]
pub(super) struct Outgoing(mpsc::Sender<Message>);

/// The client has gone.
pub(super) struct Gone;

impl Outgoing {
    pub async fn send(&self, message: &impl Serialize) -> Result<(), Gone> {
        let text = serde_json::to_string(message).map_err(|error| {
            tracing::error!(%error, "an event of a live session could not be written");
            Gone
        })?;
        self.0.send(Message::text(text)).await.map_err(|_| Gone)
    }

    pub async fn close(&self, code: u16, reason: &str) {
        let frame = CloseFrame { code, reason: reason.into() };
        let _ = self.0.send(Message::Close(Some(frame))).await;
    }
}

/// Takes a socket apart. The future sends what [`Outgoing`] is given, until a closing or the last of its clones is
/// dropped.
pub(super) fn split(
    state: &State,
    socket: WebSocket,
) -> (Incoming, Outgoing, impl Future<Output = ()> + use<>) {
    let (sink, stream) = socket.split();
    let settings = state.settings();
    let incoming =
        Incoming { socket: stream, idle: settings.live_idle_timeout, stopping: state.0.stopping.clone() };
    let (sender, queue) = mpsc::channel(OUTBOX);
    (incoming, Outgoing(sender), pump(sink, queue, settings.stream_keep_alive))
}

async fn pump(mut sink: SplitSink<WebSocket, Message>, mut queue: mpsc::Receiver<Message>, alive: Duration) {
    loop {
        let message = match tokio::time::timeout(alive, queue.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(_) => Message::Ping(Default::default()),
        };
        let closes = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() {
            return;
        }
        if closes {
            break;
        }
    }
    let _ = tokio::time::timeout(CLOSING, sink.close()).await;
}

/// The client's half and the session's, beside the pump: whichever of the halves ends, what it sent is sent.
pub(super) async fn run(work: impl Future<Output = ()>, pump: impl Future<Output = ()>) {
    let mut pump = std::pin::pin!(pump);
    tokio::select! {
        () = work => {}
        // The client does not read, or has gone: nobody waits for the work.
        () = &mut pump => return,
    }
    let _ = tokio::time::timeout(CLOSING, pump).await;
}
