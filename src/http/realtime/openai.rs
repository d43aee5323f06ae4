//! `GET /v1/realtime`: OpenAI's Realtime API, its sessions of the type `transcription`.

use axum::Extension;
use axum::extract::State as Extract;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::http::header::SEC_WEBSOCKET_PROTOCOL;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::company::Listener;
use super::events::{self, Names};
use super::session::{Config, Update, model_name};
use super::socket::{self, Gone, Incoming, Outgoing, Place, Said, close};
use super::stream::{End, Microphone, both};
use crate::http::body::parse;
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::service::live::{Event, Over};

/// Longest part of a client's own text that an error repeats.
const ECHO: usize = 64;

/// Transcribe speech as it is spoken. A WebSocket of OpenAI's Realtime events.
#[utoipa::path(
    get,
    path = "/v1/realtime",
    operation_id = "realtime",
    tag = "audio",
    params(
        ("intent" = Option<String>, Query, description = "Only `transcription`"),
        ("model" = Option<String>, Query, description = "Id or alias of a speech model; the server's default if absent"),
    ),
    responses(
        (status = 101, description = "The protocol changes to WebSocket: `session.created` is the first event"),
        (status = "4XX", description = "The request is wrong, or as many sessions as are allowed are open (429)", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn connect(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let mut model = None;
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match (&*name, &*value) {
            ("intent", "transcription") => {}
            ("intent", _) => {
                return Err(ApiError::unsupported("intent", "only `intent=transcription` is served"));
            }
            ("model", name) => model = Some(model_name(name.to_owned())?),
            _ => {}
        }
    }
    let config = Config::new(&state, model, is_beta(&headers));
    let (upgrade, place) = socket::admit(&state, &ctx, upgrade)?;
    let upgrade = upgrade.protocols(["realtime"]);
    Ok(upgrade.on_upgrade(move |socket| serve(state, ctx, config, place, socket)))
}

/// Whether the client wants the events as they were in the beta.
fn is_beta(headers: &HeaderMap) -> bool {
    let has = |name: &str, text: &str| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| value.to_str().is_ok_and(|value| value.contains(text)))
    };
    has("openai-beta", "realtime=v1") || has(SEC_WEBSOCKET_PROTOCOL.as_str(), "openai-beta.realtime-v1")
}

async fn serve(state: State, ctx: Context, config: Config, place: Place, socket: WebSocket) {
    let (incoming, outgoing, pump) = socket::split(&state, socket);
    let work = async move {
        if outgoing.send(&events::session(&config, "created")).await.is_err() {
            return;
        }
        let names = Names::of(&config);
        let (begun, session) = oneshot::channel();
        let talk =
            Talk { state, ctx, config, outgoing: outgoing.clone(), begun: Some(begun), microphone: None };
        both(talk.read(incoming), tell(session, names, outgoing.clone()), outgoing).await;
    };
    socket::run(work, pump).await;
    drop(place);
}

/// A session that has begun: what it hears, and who listens for its speakers.
struct Begun {
    heard: mpsc::Receiver<Event>,
    listener: Option<Listener>,
}

/// Tells what is heard, once there is a session.
async fn tell(session: oneshot::Receiver<Begun>, names: Names, outgoing: Outgoing) -> Result<(), Gone> {
    // The other half ended before a session began.
    let Ok(Begun { mut heard, listener }) = session.await else { return Ok(()) };
    while let Some(event) = heard.recv().await {
        let cast = match (&event, &listener) {
            (Event::Completed { .. }, Some(listener)) => listener.cast().await,
            _ => None,
        };
        for event in names.events(event, cast.as_ref()) {
            outgoing.send(&event).await?;
        }
    }
    Ok(())
}

/// What the client's half knows.
struct Talk {
    state: State,
    ctx: Context,
    config: Config,
    outgoing: Outgoing,
    begun: Option<oneshot::Sender<Begun>>,
    microphone: Option<Microphone>,
}

#[derive(Deserialize)]
struct Head {
    r#type: String,
    event_id: Option<String>,
}

#[derive(Deserialize)]
struct Append {
    audio: String,
}

#[derive(Deserialize)]
struct Changed {
    session: Update,
}

/// Why a message was not done.
enum Failed {
    /// The client's mistake: it is told, and the session goes on.
    Wrong(ApiError),
    End(End),
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Failed {
        Failed::Wrong(error)
    }
}

impl From<Over> for Failed {
    fn from(over: Over) -> Failed {
        Failed::End(over.into())
    }
}

impl From<Gone> for Failed {
    fn from(gone: Gone) -> Failed {
        Failed::End(gone.into())
    }
}

impl Talk {
    async fn read(mut self, mut incoming: Incoming) -> End {
        loop {
            let (code, reason) = match incoming.next().await {
                Said::Text(text) => match self.obey(&text).await {
                    Ok(()) => continue,
                    Err(end) => return end,
                },
                Said::Bytes(_) => {
                    let wrong = bad("invalid_message", "audio is sent as base64 inside of JSON text");
                    match self.outgoing.send(&events::error(&wrong, None)).await {
                        Ok(()) => continue,
                        Err(gone) => return gone.into(),
                    }
                }
                Said::TooLong => (close::TOO_BIG, "the message is too long"),
                Said::Idle => (close::NORMAL, "nothing came for too long"),
                Said::Stopping => (close::GOING_AWAY, "the server is stopping"),
                Said::Gone => return End::Gone,
            };
            if let Some(microphone) = &mut self.microphone {
                microphone.finish().await;
            }
            return End::Close(code, reason);
        }
    }

    async fn obey(&mut self, text: &str) -> Result<(), End> {
        let head: Head = match parse(text.as_bytes()) {
            Ok(head) => head,
            Err(wrong) => return Ok(self.outgoing.send(&events::error(&wrong, None)).await?),
        };
        let cause: Option<String> = head.event_id.map(|id| id.chars().take(ECHO).collect());
        match self.act(&head.r#type, text).await {
            Ok(()) => Ok(()),
            Err(Failed::End(end)) => Err(end),
            Err(Failed::Wrong(wrong)) => {
                if let Some(detail) = &wrong.detail {
                    tracing::error!(request_id = self.ctx.request_id, detail, "a live session failed");
                }
                Ok(self.outgoing.send(&events::error(&wrong, cause.as_deref())).await?)
            }
        }
    }

    async fn act(&mut self, kind: &str, text: &str) -> Result<(), Failed> {
        match kind {
            "input_audio_buffer.append" => self.append(&parse::<Append>(text.as_bytes())?.audio).await,
            "input_audio_buffer.commit" => self.commit().await,
            "input_audio_buffer.clear" => {
                if let Some(microphone) = &mut self.microphone {
                    microphone.flush().await??;
                    microphone.input.clear().await?;
                }
                Ok(self.outgoing.send(&events::event("input_audio_buffer.cleared", json!({}))).await?)
            }
            "session.update" | "transcription_session.update" => {
                let changed: Changed = parse(text.as_bytes())?;
                self.update(changed.session, kind != "session.update").await
            }
            other => {
                let echo: String = other.chars().take(ECHO).collect();
                let message = format!("events of the type `{echo}` are not served in transcription sessions");
                Err(ApiError::unsupported("type", message).into())
            }
        }
    }

    async fn update(&mut self, update: Update, flat: bool) -> Result<(), Failed> {
        let mut config = self.config.updated(update)?;
        config.flat = flat;
        if let Some(microphone) = &self.microphone {
            if !config.hears_like(&self.config) {
                let message = "the model, the format and `diarize` stay as they are once audio was sent";
                return Err(ApiError::invalid("session", message).into());
            }
            microphone.input.configure(config.options.clone()).await?;
        }
        self.config = config;
        Ok(self.outgoing.send(&events::session(&self.config, "updated")).await?)
    }

    async fn append(&mut self, audio: &str) -> Result<(), Failed> {
        let bytes =
            STANDARD.decode(audio).map_err(|_| ApiError::invalid("audio", "`audio` must be base64"))?;
        if self.microphone.is_none() {
            self.begin().await?;
        }
        let Some(microphone) = &mut self.microphone else { return Ok(()) };
        Ok(microphone.hear(&bytes).await??)
    }

    async fn begin(&mut self) -> Result<(), Failed> {
        let options = self.config.options.clone();
        if options.model.is_empty() {
            return Err(
                ApiError::invalid("model", "no model is named: send `session.update` with one").into()
            );
        }
        let listener = match self.config.diarize {
            true => Some(Listener::open(&self.state, &self.ctx).await?),
            false => None,
        };
        let session = self.state.backend().live(self.ctx.clone(), options).await.map_err(ApiError::from)?;
        let company = listener.as_ref().map(Listener::company);
        let microphone = Microphone::new(self.config.encoding, session.input, company)?;
        if let Some(begun) = self.begun.take()
            && begun.send(Begun { heard: session.events, listener }).is_ok()
        {
            self.microphone = Some(microphone);
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), Failed> {
        let Some(microphone) = &mut self.microphone else {
            return Err(bad("input_audio_buffer_commit_empty", "there is no audio to commit").into());
        };
        microphone.flush().await??;
        Ok(microphone.input.commit().await?)
    }
}

fn bad(code: &'static str, message: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, code, message)
}
