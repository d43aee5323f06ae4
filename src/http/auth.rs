//! API keys: one extractor for every header dialect, compared in constant time.

use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::ApiError;
use crate::types::key::ApiKey;

/// No key is longer; a longer header is not worth a hash.
const MAX_KEY: usize = 512;

/// Before a key that is one of the protocols a WebSocket's client offers: pages can send no other header with it.
const PROTOCOL: &[u8] = b"openai-insecure-api-key.";

/// The key a client sent, by whichever header. `Authorization: Bearer` wins over `x-api-key`, and both over a
/// WebSocket's protocol.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let offered = || {
        let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let mut protocols = lists.flat_map(|list| list.as_bytes().split(|&byte| byte == b','));
        protocols.find_map(|protocol| protocol.trim_ascii().strip_prefix(PROTOCOL))
    };
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii())).or_else(offered)
}

/// Finds whose key this is. Without any configured key everyone is let in, and the id is `None`.
///
/// Every configured hash is compared in full whatever the outcome, so the time says nothing of how close a
/// guess was or which key it met.
pub(super) fn authenticate(keys: &[ApiKey], headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    if keys.is_empty() {
        return Ok(None);
    }
    let refuse = |message| ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message);
    let key = presented(headers)
        .ok_or_else(|| refuse("an API key is needed: send it as `Authorization: Bearer KEY`"))?;
    if key.len() > MAX_KEY {
        return Err(refuse("the API key is not known"));
    }
    let hash: [u8; 32] = Sha256::digest(key).into();
    let mut found = None;
    for known in keys {
        if bool::from(hash.ct_eq(&known.sha256)) {
            found = Some(&known.id);
        }
    }
    found.map(|id| Some(id.clone())).ok_or_else(|| refuse("the API key is not known"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<ApiKey> {
        ["one-key-of-length", "two"]
            .map(|key| ApiKey { id: format!("id-{key}"), sha256: Sha256::digest(key.as_bytes()).into() })
            .to_vec()
    }

    fn id(pairs: &[(&'static str, &'static str)]) -> Result<Option<String>, StatusCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        authenticate(&keys(), &headers).map_err(|e| e.status)
    }

    #[test]
    fn both_header_dialects_lead_to_the_same_key() {
        assert_eq!(id(&[("authorization", "Bearer two")]), Ok(Some("id-two".into())));
        assert_eq!(id(&[("authorization", "bEARER   two ")]), Ok(Some("id-two".into())));
        assert_eq!(id(&[("x-api-key", "one-key-of-length")]), Ok(Some("id-one-key-of-length".into())));
        assert_eq!(id(&[("authorization", "Basic x"), ("x-api-key", "two")]), Ok(Some("id-two".into())));
        let protocols = "realtime, openai-insecure-api-key.two, openai-beta.realtime-v1";
        assert_eq!(id(&[("sec-websocket-protocol", protocols)]), Ok(Some("id-two".into())));
    }

    #[test]
    fn anything_else_is_refused() {
        let refused = Err(StatusCode::UNAUTHORIZED);
        assert_eq!(id(&[]), refused);
        assert_eq!(id(&[("authorization", "Bearer")]), refused);
        assert_eq!(id(&[("authorization", "Bearer ")]), refused);
        assert_eq!(id(&[("authorization", "Bearer tw")]), refused);
        assert_eq!(id(&[("authorization", "Basic two")]), refused);
        assert_eq!(id(&[("authorization", "Bearer wrong"), ("x-api-key", "two")]), refused);
        assert_eq!(authenticate(&[], &HeaderMap::new()).unwrap(), None);
    }
}
