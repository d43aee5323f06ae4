//! What every request must pass before its handler runs: an allowed `Host` (against DNS rebinding), an
//! allowed `Origin` for what changes state, an API key, a server that is not stopping, and a deadline.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State as Extract};
use axum::http::header::{CONNECTION, HOST, ORIGIN, UPGRADE, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::librechat;
use super::observe::{Deadline, KeyId, RequestId};
use super::{Access, ApiError, Settings, State, auth, routes};
use crate::obs::{self, Rejection};
use crate::service::{Context, Error};

/// Lets a request through, or answers it.
pub(super) async fn gate(Extract(state): Extract<State>, mut request: Request, next: Next) -> Response {
    let key_id = match admit(&state, &request) {
        Ok(key_id) => key_id,
        Err(error) => return refuse(error),
    };
    let request_id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    request.extensions_mut().insert(Context { request_id, key_id: key_id.clone() });
    let limit = state.settings().request_timeout;
    let deadline = Deadline(tokio::time::Instant::now() + limit);
    request.extensions_mut().insert(deadline);
    let mut response = match tokio::time::timeout_at(deadline.0, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::from(Error::Timeout { after: limit }).into_response(),
    };
    response.extensions_mut().insert(KeyId(key_id));
    response
}

fn admit(state: &State, request: &Request) -> Result<Option<String>, ApiError> {
    let settings = state.settings();
    let host = check_host(settings, request.uri(), request.headers())?;
    check_origin(settings, &host, request.method(), request.headers())?;
    let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let key_id = match (routes::access(template), &settings.librechat_secret) {
        (Access::Public, _) => return Ok(None),
        (Access::LibreChat, Some(secret)) => {
            Some(format!("{}{}", librechat::USER, librechat::jwt::user(secret, request.headers())?))
        }
        (Access::LibreChat, None) | (Access::Key, _) => {
            auth::authenticate(&settings.keys, request.headers())?
        }
    };
    if state.0.stopping.is_cancelled() {
        obs::rejected(Rejection::ShuttingDown);
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "the server is stopping and takes no new requests",
        )
        .retry_after(Duration::from_secs(5)));
    }
    Ok(key_id)
}

fn refuse(error: ApiError) -> Response {
    let (status, code) = (error.status, error.code);
    let mut response = error.into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if code == "shutting_down" {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The authority the client spoke to, if it is one of ours.
///
/// A page of another site can make a browser reach this server by a name that resolves here, and the
/// browser then sends that name; it cannot make it send one of ours. IP addresses are no names and resolve
/// to nothing else, so on a bind to all addresses each of them is accepted.
fn check_host(settings: &Settings, uri: &Uri, headers: &HeaderMap) -> Result<Authority, ApiError> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, more) = (hosts.next(), hosts.next());
    let parsed = first.and_then(|value| Authority::try_from(value.as_bytes()).ok());
    let authority = match (parsed, more) {
        (Some(authority), None) if !authority.as_str().contains('@') => authority,
        _ => return Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_host", "one Host header is needed")),
    };
    let named_in_uri = uri.authority().is_none_or(|named| host_allowed(settings, named.host()));
    if named_in_uri && host_allowed(settings, authority.host()) {
        return Ok(authority);
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "host_not_allowed",
        "this server does not answer to that host name; the operator can add it to `allowed_hosts`",
    ))
}

fn host_allowed(settings: &Settings, host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        let bind = settings.bind.ip();
        return ip.to_canonical().is_loopback()
            || bind.is_unspecified()
            || ip.to_canonical() == bind.to_canonical()
            || settings.allowed_hosts.iter().any(|allowed| allowed.parse() == Ok(ip));
    }
    let name = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
    name == "localhost" || settings.allowed_hosts.contains(&name)
}

/// Browsers send `Origin` with every cross-origin request that can change something. A WebSocket is opened by a GET
/// that pages of any origin may send, and read from.
fn check_origin(
    settings: &Settings,
    host: &Authority,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if reads && !headers.contains_key(UPGRADE) {
        return Ok(());
    }
    let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let same = authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()));
    if same || settings.cors_origins.contains(&origin) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "origin_not_allowed",
        "pages of that origin may not call this server; the operator can add it to `cors_origins`",
    ))
}

/// Answers for the configured origins alone. Credentials (cookies) are not allowed: there are none.
pub(super) fn cors(origins: &[String]) -> CorsLayer {
    let list: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(list))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("x-api-key"),
            HeaderName::from_static("x-request-id"),
        ])
        .expose_headers([HeaderName::from_static("x-request-id"), header::RETRY_AFTER])
        .max_age(Duration::from_secs(600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(settings: &Settings, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, value.parse().unwrap());
        check_host(settings, &Uri::from_static("/"), &headers).is_ok()
    }

    #[test]
    fn only_our_own_names_are_answered() {
        let local = Settings { allowed_hosts: vec!["gpu.example".into()], ..Settings::default() };
        for good in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:9",
            "127.9.9.9",
            "[::1]:80",
            "gpu.example:1",
            "GPU.example.",
            "localhost.",
        ] {
            assert!(host(&local, good), "{good}");
        }
        for bad in [
            "evil.example",
            "192.168.0.4",
            "localhost.evil.example",
            "0.0.0.0",
            "a@localhost",
            "gpu.example.evil",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "x y",
            "[::ffff:8.8.8.8]",
        ] {
            assert!(!host(&local, bad), "{bad}");
        }
        let open = Settings { bind: "0.0.0.0:80".parse().unwrap(), ..Settings::default() };
        assert!(host(&open, "192.168.0.4:80") && host(&open, "[fe80::1]") && !host(&open, "evil.example"));
        let bound = Settings { bind: "10.0.0.5:80".parse().unwrap(), ..Settings::default() };
        assert!(host(&bound, "10.0.0.5") && !host(&bound, "10.0.0.6"));
    }

    #[test]
    fn a_missing_second_or_absolute_host_cannot_slip_through() {
        let settings = Settings::default();
        let mut headers = HeaderMap::new();
        let root = Uri::from_static("/");
        assert!(check_host(&settings, &root, &headers).is_err());
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert!(check_host(&settings, &root, &headers).is_ok());
        assert!(check_host(&settings, &Uri::from_static("http://evil.example/v1"), &headers).is_err());
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert!(check_host(&settings, &root, &headers).is_err());
    }

    #[test]
    fn foreign_pages_change_nothing() {
        let settings = Settings { cors_origins: vec!["https://chat.example".into()], ..Settings::default() };
        let host = Authority::from_static("localhost:8080");
        let check = |method: Method, origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            check_origin(&settings, &host, &method, &headers).is_ok()
        };
        assert!(check(Method::POST, "http://localhost:8080"));
        assert!(check(Method::POST, "https://chat.example"));
        assert!(check(Method::GET, "https://evil.example"));
        for bad in
            ["https://evil.example", "null", "http://localhost:3000", "file://", "https://chat.example.evil"]
        {
            assert!(!check(Method::POST, bad), "{bad}");
            assert!(!check(Method::DELETE, bad), "{bad}");
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(bad));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            assert!(check_origin(&settings, &host, &Method::GET, &headers).is_err(), "{bad}");
        }
    }
}
