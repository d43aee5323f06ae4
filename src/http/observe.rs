//! The outermost layer: a request id, a log line, metrics, and the count of requests that are not done.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State as Extract};
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use axum::middleware::Next;
use http_body::{Frame, SizeHint};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::Detail;
use super::{State, routes};
use crate::obs;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID: usize = 128;

/// The id of a request.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub String);

/// Which key was used, on its way to the log.
#[derive(Debug, Clone)]
pub(super) struct KeyId(pub Option<String>);

/// The model that answered, on its way to the log. Only ids of known models.
#[derive(Debug, Clone)]
pub(super) struct ModelId(pub String);

/// When the request must be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub tokio::time::Instant);

/// Takes a client's id if it is short and plain, so that it cannot forge a log line; else makes one.
fn request_id(sent: Option<&HeaderValue>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    match sent.and_then(|value| value.to_str().ok()) {
        Some(id) if (1..=MAX_ID).contains(&id.len()) && id.chars().all(plain) => id.to_owned(),
        _ => format!("req_{}", uuid::Uuid::new_v4().simple()),
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::PUT => "PUT",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// Watches one request from its head to the last byte of its answer.
pub(super) async fn observe(
    Extract(state): Extract<State>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let id = request_id(request.headers().get(REQUEST_ID));
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut watch = Watch {
        route: routes::label(request.extensions().get::<MatchedPath>().map(MatchedPath::as_str)),
        method: method_name(request.method()),
        begun: Instant::now(),
        id,
        key: None,
        model: None,
        status: None,
        complete: false,
        _active: state.0.active.token(),
    };
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&watch.id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(HeaderName::from_static("x-content-type-options"), nosniff);
    let extensions = response.extensions_mut();
    watch.key = extensions.remove::<KeyId>().and_then(|key| key.0);
    watch.model = extensions.remove::<ModelId>().map(|model| model.0);
    if let Some(Detail(detail)) = extensions.remove::<Detail>() {
        tracing::error!(request_id = watch.id, route = watch.route, detail, "request failed");
    }
    watch.status = Some(response.status());
    response.map(|inner| Body::new(Watched { inner, watch }))
}

/// Writes the log line when the request is over, one way or another.
struct Watch {
    id: String,
    route: &'static str,
    method: &'static str,
    begun: Instant,
    key: Option<String>,
    model: Option<String>,
    /// None until the head of the answer is there.
    status: Option<StatusCode>,
    /// The whole body was sent.
    complete: bool,
    /// Keeps a stopping server waiting.
    _active: TaskTrackerToken,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        // 499 is the customary number for a client that left before the answer.
        let status = self.status.map_or(499, |status| status.as_u16());
        obs::http_request(self.route, self.method, status, took);
        let (ms, key_id, model) = (took.as_millis() as u64, self.key.as_deref(), self.model.as_deref());
        let (request_id, route, method, complete) = (&*self.id, self.route, self.method, self.complete);
        if routes::is_probe(route) {
            tracing::debug!(request_id, key_id, method, route, model, status, ms, complete, "request");
        } else {
            tracing::info!(request_id, key_id, method, route, model, status, ms, complete, "request");
        }
    }
}

/// A body that knows when it was sent.
struct Watched {
    inner: Body,
    watch: Watch,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if frame.is_none() || self.inner.is_end_stream() {
            self.watch.complete = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_ids_are_taken_over() {
        let id = |text: &str| request_id(Some(&HeaderValue::from_bytes(text.as_bytes()).unwrap()));
        assert_eq!(id("a-1.b:c_D"), "a-1.b:c_D");
        for bad in ["", "two words", "a\"b", "ä", &"x".repeat(129)] {
            assert!(id(bad).starts_with("req_"), "{bad}");
        }
        assert_ne!(request_id(None), request_id(None));
    }
}
