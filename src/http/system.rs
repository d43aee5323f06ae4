//! Probes, the version, metrics, the API's description, and answers to what is no route.

use std::sync::OnceLock;

use axum::Json as Reply;
use axum::extract::State as Extract;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{ApiError, State, openapi};
use crate::obs;
use crate::service::Readiness;

const DOCS: &str = include_str!("docs.html");

/// Whether the process lives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `UP`; of `/health`, `ok`.
    status: &'static str,
}

/// Whether requests can be answered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ready {
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What runs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    version: &'static str,
}

/// Say what this is.
#[utoipa::path(get, path = "/", tag = "system", responses((status = 200, description = "A line of text", body = String, content_type = "text/plain")))]
pub(crate) async fn root() -> &'static str {
    "stentor is running. The API is described at /docs.\n"
}

/// Alive: 200 as long as the process listens.
#[utoipa::path(get, path = "/healthz", tag = "system", responses((status = 200, description = "Alive", body = Health)))]
pub(crate) async fn healthz() -> Reply<Health> {
    Reply(Health { status: "UP" })
}

/// Alive, by the name that gateways use.
#[utoipa::path(get, path = "/health", tag = "system", responses((status = 200, description = "Alive", body = Health)))]
pub(crate) async fn health() -> Reply<Health> {
    Reply(Health { status: "ok" })
}

/// Ready to answer requests, or why not.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "system",
    responses(
        (status = 200, description = "Requests can be answered", body = Ready),
        (status = 503, description = "Not yet, or no longer", body = Ready),
    )
)]
pub(crate) async fn readyz(Extract(state): Extract<State>) -> Response {
    match readiness(&state) {
        Readiness::Ready => Reply(Ready { ready: true, reason: None }).into_response(),
        Readiness::NotReady(reason) => {
            let body = Reply(Ready { ready: false, reason: Some(reason) });
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

fn readiness(state: &State) -> Readiness {
    if state.0.stopping.is_cancelled() {
        return Readiness::NotReady("the server is stopping".into());
    }
    state.backend().readiness()
}

/// The version.
#[utoipa::path(get, path = "/version", tag = "system", responses((status = 200, description = "The version", body = Version)))]
pub(crate) async fn version() -> Reply<Version> {
    Reply(Version { version: env!("CARGO_PKG_VERSION") })
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "system", responses((status = 200, description = "Prometheus text format 0.0.4", body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(Extract(state): Extract<State>) -> Response {
    obs::set_ready(readiness(&state) == Readiness::Ready);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], state.0.metrics.render()).into_response()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "system", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(crate) async fn openapi() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| openapi::document().to_json().unwrap_or_default());
    ([(CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}

/// A page that shows the description.
#[utoipa::path(get, path = "/docs", tag = "system", responses((status = 200, description = "A page", body = String, content_type = "text/html")))]
pub(crate) async fn docs() -> Response {
    static POLICY: OnceLock<String> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        format!(
            "default-src 'none'; connect-src 'self'; script-src {}; style-src {}; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            hash_of("script"),
            hash_of("style")
        )
    });
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, policy.as_str()),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, DOCS).into_response()
}

/// The policy source that allows the page's one inline element of this name and nothing else.
fn hash_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inner = DOCS.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map(|(inner, _)| inner);
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(inner.unwrap_or_default())))
}

/// What is no route.
pub(super) async fn not_found(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is no `{method} {path}`; see /docs"))
}

/// A route by the wrong method.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("`{path}` does not take {method}; see /docs");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
