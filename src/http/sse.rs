//! Server-sent events: one JSON document an event, comments while nothing happens.

use std::convert::Infallible;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;

use super::{ApiError, State};

/// The event that OpenAI clients end on.
pub(super) const DONE: &str = "[DONE]";

/// One event.
#[derive(Debug)]
pub(super) struct Message {
    /// What kind it is, in dialects that name their events.
    pub event: Option<&'static str>,
    pub data: String,
}

impl From<String> for Message {
    fn from(data: String) -> Message {
        Message { event: None, data }
    }
}

/// An event's data.
pub(super) fn json(value: &impl Serialize) -> Result<String, ApiError> {
    serde_json::to_string(value).map_err(|e| ApiError::internal(format!("event: {e}")))
}

/// Streams the events. When the client hangs up, `events` is dropped and with it the work behind it.
pub(super) fn respond(
    state: &State,
    events: impl Stream<Item = impl Into<Message>> + Send + 'static,
) -> Response {
    let events = events.map(|message| {
        let Message { event, data } = message.into();
        let named = event.map_or_else(Event::default, |name| Event::default().event(name));
        Ok::<_, Infallible>(named.data(data))
    });
    let keep_alive = KeepAlive::new().interval(state.settings().stream_keep_alive);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Nginx would otherwise hold events back until its buffer is full.
    let no = HeaderValue::from_static("no");
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), no);
    response
}
