//! `GET /api/v1/asr/stream`: Paneas' stream. Speech is heard in batches of some seconds, each with the text before it
//! as context, and a batch ends at a pause where one comes in time.

mod conversation;
mod insight;
mod start;

use axum::Extension;
use axum::extract::State as Extract;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::company::Listener;
use super::events::logged;
use super::rooms::Stay;
use super::socket::{self, Gone, Incoming, Outgoing, Place, Said, close};
use super::stream::{End, Microphone, both};
use crate::http::body::parse;
use crate::http::dialect::DetailBody;
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::service::live::{Encoding, Event, Options, Session};
use crate::service::voices::Company;
use conversation::Conversation;
use insight::Insights;
use start::Start;

/// The client's first message cannot be served.
const BAD_START: u16 = 4400;
/// The name of a client in a room cannot be one.
const BAD_ROLE: u16 = 4401;
/// Characters of a session's text that its summary repeats; the batches have had all of it.
const SUMMARY: usize = 1 << 20;

/// Transcribe speech in batches as it is spoken. A WebSocket: `ready`, then the client's `start`, `audio` and `stop`.
#[utoipa::path(
    get,
    path = "/api/v1/asr/stream",
    operation_id = "paneasAsrStream",
    tag = "paneas",
    responses(
        (status = 101, description = "The protocol changes to WebSocket: `ready` is the first event"),
        (status = "4XX", description = "The request is wrong, or as many sessions as are allowed are open (429)", body = DetailBody),
    )
)]
pub(crate) async fn connect(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let (upgrade, place) = socket::admit(&state, &ctx, upgrade)?;
    Ok(upgrade.on_upgrade(move |socket| serve(state, ctx, place, socket)))
}

async fn serve(state: State, ctx: Context, place: Place, socket: WebSocket) {
    let (mut incoming, outgoing, pump) = socket::split(&state, socket);
    let id = uuid::Uuid::new_v4().to_string();
    let work = async move {
        let ready = json!({"event": "ready", "session_id": id, "mode": "batch"});
        if outgoing.send(&ready).await.is_err() {
            return;
        }
        match begin(&state, &ctx, &id, &mut incoming, &outgoing).await {
            Ok(begun) => converse(begun, incoming, outgoing).await,
            Err(Refusal::Gone) => {}
            Err(Refusal::Close(code, message)) => {
                let _ = outgoing.send(&error(&id, &message)).await;
                // A reason has 123 bytes at most.
                outgoing.close(code, &message.chars().take(30).collect::<String>()).await;
            }
        }
    };
    socket::run(work, pump).await;
    drop(place);
}

fn error(id: &str, message: &str) -> Value {
    json!({"event": "error", "session_id": id, "message": message})
}

/// Why there is no session.
enum Refusal {
    Gone,
    Close(u16, String),
}

impl From<Gone> for Refusal {
    fn from(Gone: Gone) -> Refusal {
        Refusal::Gone
    }
}

/// A session that has begun.
struct Begun {
    session: Session,
    encoding: Encoding,
    told: Told,
    company: Option<Company>,
    _stay: Option<Stay>,
}

async fn begin(
    state: &State,
    ctx: &Context,
    id: &str,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<Begun, Refusal> {
    let refuse = |code: u16, message: &str| Err(Refusal::Close(code, message.to_owned()));
    let text = match incoming.next().await {
        Said::Text(text) => text,
        Said::Bytes(_) => return refuse(close::UNSUPPORTED, "the first message must be JSON: `start`"),
        Said::TooLong => return refuse(close::TOO_BIG, "the message is too long"),
        Said::Idle => return refuse(BAD_START, "no `start` came"),
        Said::Stopping => return refuse(close::GOING_AWAY, "the server is stopping"),
        Said::Gone => return Err(Refusal::Gone),
    };
    if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
        return refuse(close::UNSUPPORTED, "the first message must be JSON: `start`");
    }
    let start: Start = parse(text.as_bytes()).map_err(|e| Refusal::Close(BAD_START, e.message))?;
    let place = start.place().map_err(|e| Refusal::Close(BAD_ROLE, e.message))?;
    let (options, encoding) = start.read(state).map_err(|e| Refusal::Close(BAD_START, e.message))?;
    let insights = Insights::new(state, ctx, &start);
    let listener = match start.enable_diarization {
        true => Some(Listener::open(state, ctx).await.map_err(refused)?),
        false => None,
    };
    let session = open(state, ctx, options).await?;
    let mut stay = None;
    if let Some((room, role)) = &place {
        let (joined, count) = state.0.rooms.join(room);
        stay = Some(joined);
        let event = json!({"event": "room_joined", "session_id": id, "room_id": room, "role": role,
            "room_status": "active", "participants_count": count});
        outgoing.send(&event).await?;
    }
    let (room, role) = place.unzip();
    let event = json!({"event": "session_started", "session_id": id, "mode": "batch",
        "batch_window_sec": start.batch_window_sec, "insights_enabled": insights.is_some(), "room_id": room,
        "role": role});
    outgoing.send(&event).await?;
    let company = listener.as_ref().map(Listener::company);
    let conversation = listener.map(Conversation::new);
    let told =
        Told { id: id.to_owned(), model: session.model.clone(), insights, conversation, ..Told::default() };
    Ok(Begun { session, encoding, told, company, _stay: stay })
}

async fn open(state: &State, ctx: &Context, options: Options) -> Result<Session, Refusal> {
    state.backend().live(ctx.clone(), options).await.map_err(|failure| refused(logged(failure)))
}

/// Why what a client asks for is not to be had.
fn refused(failure: ApiError) -> Refusal {
    let ours = failure.status.is_server_error() || failure.status == StatusCode::TOO_MANY_REQUESTS;
    Refusal::Close(if ours { close::INTERNAL } else { BAD_START }, failure.message)
}

async fn converse(begun: Begun, incoming: Incoming, outgoing: Outgoing) {
    let Begun { session, encoding, told, company, _stay } = begun;
    let id = told.id.clone();
    match Microphone::new(encoding, session.input, company) {
        Ok(microphone) => {
            let reading = read(id, microphone, incoming, outgoing.clone());
            both(reading, told.tell(session.events, outgoing.clone()), outgoing).await;
        }
        Err(wrong) => outgoing.close(BAD_START, &wrong.message).await,
    }
}

#[derive(Deserialize)]
struct Message {
    event: String,
    chunk: Option<String>,
}

async fn read(id: String, mut microphone: Microphone, mut incoming: Incoming, outgoing: Outgoing) -> End {
    loop {
        let heard = match incoming.next().await {
            Said::Text(text) => match chunk(&text) {
                Ok(None) => {
                    microphone.finish().await;
                    return End::Close(close::NORMAL, "");
                }
                Ok(Some(bytes)) => microphone.hear(&bytes).await,
                Err(wrong) => Err(wrong),
            },
            Said::Bytes(bytes) => microphone.hear(&bytes).await,
            Said::Gone => return End::Gone,
            other => {
                microphone.finish().await;
                return match other {
                    Said::TooLong => End::Close(close::TOO_BIG, "the message is too long"),
                    Said::Stopping => End::Close(close::GOING_AWAY, "the server is stopping"),
                    _ => End::Close(close::NORMAL, "nothing came for too long"),
                };
            }
        };
        match heard {
            Ok(Ok(())) => {}
            Ok(Err(over)) => return over.into(),
            Err(wrong) => {
                if let Err(gone) = outgoing.send(&error(&id, &wrong.message)).await {
                    return gone.into();
                }
            }
        }
    }
}

/// The audio of a message; `None` is the end.
fn chunk(text: &str) -> Result<Option<Vec<u8>>, ApiError> {
    let message: Message = parse(text.as_bytes())?;
    match (message.event.as_str(), message.chunk) {
        ("stop", _) => Ok(None),
        ("audio", Some(chunk)) => {
            let wrong = |_| ApiError::invalid("chunk", "`chunk` must be base64");
            STANDARD.decode(chunk).map(Some).map_err(wrong)
        }
        ("audio", None) => Err(ApiError::invalid("chunk", "`chunk` is missing: send audio in base64")),
        _ => Err(ApiError::invalid("event", "`event` must be `audio` or `stop`")),
    }
}

/// What a session has told.
#[derive(Default)]
struct Told {
    id: String,
    model: String,
    insights: Option<Insights>,
    conversation: Option<Conversation>,
    batches: u64,
    seconds: f64,
    tokens: usize,
    transcript: String,
}

impl Told {
    async fn tell(mut self, mut heard: mpsc::Receiver<Event>, outgoing: Outgoing) -> Result<(), Gone> {
        loop {
            let insight = async {
                match &mut self.insights {
                    Some(insights) => insights.next().await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                event = heard.recv() => event,
                insight = insight => {
                    send(&self.id, insight, &outgoing).await?;
                    continue;
                }
            };
            match event {
                Some(Event::Failed { item: None, error: failure }) => {
                    return outgoing.send(&error(&self.id, &logged(failure).message)).await;
                }
                Some(event) => self.event(event, &outgoing).await?,
                None => break,
            }
        }
        let insight = match self.insights.take() {
            Some(insights) => insights.last().await,
            None => None,
        };
        if let Some(insight) = insight {
            send(&self.id, insight, &outgoing).await?;
        }
        let speakers = match self.conversation.take() {
            Some(conversation) => conversation.last().await,
            None => None,
        };
        if let Some(speakers) = speakers {
            send(&self.id, speakers, &outgoing).await?;
        }
        let stats = json!({"total_batches": self.batches, "total_audio_seconds": self.seconds,
            "total_tokens": self.tokens, "transcript": self.transcript});
        send(&self.id, json!({"event": "final_summary", "stats": stats}), &outgoing).await?;
        send(&self.id, json!({"event": "session_ended"}), &outgoing).await
    }

    async fn event(&mut self, event: Event, outgoing: &Outgoing) -> Result<(), Gone> {
        let told = match event {
            Event::Completed { text, words, start, end, .. } => {
                let batch = self.batch(text.trim(), end - start);
                send(&self.id, batch, outgoing).await?;
                match &mut self.conversation {
                    Some(conversation) => conversation.batch(&text, words, (start, end)).await,
                    None => None,
                }
            }
            Event::Failed { error, .. } => {
                Some(json!({"event": "batch_error", "message": logged(error).message}))
            }
            Event::Dropped { seconds } => {
                let message =
                    format!("{seconds:.1} s of audio were dropped: it came faster than it is heard");
                Some(json!({"event": "error", "message": message}))
            }
            _ => None,
        };
        match told {
            Some(told) => send(&self.id, told, outgoing).await,
            None => Ok(()),
        }
    }

    fn batch(&mut self, text: &str, seconds: f64) -> Value {
        let tokens = text.split_whitespace().count();
        self.batches += 1;
        self.seconds += seconds;
        self.tokens += tokens;
        if !text.is_empty() && self.transcript.len() + text.len() < SUMMARY {
            let space = if self.transcript.is_empty() { "" } else { " " };
            self.transcript.push_str(space);
            self.transcript.push_str(text);
        }
        if let Some(insights) = &mut self.insights {
            insights.batch(text);
        }
        json!({"event": "batch_processed", "batch_index": self.batches - 1, "duration_sec": seconds,
            "transcript_chars": text.chars().count(), "text": text, "transcript": text, "tokens": tokens,
            "total_tokens": self.tokens, "model": self.model, "diarization": null})
    }
}

async fn send(id: &str, mut event: Value, outgoing: &Outgoing) -> Result<(), Gone> {
    event["session_id"] = id.into();
    outgoing.send(&event).await
}
