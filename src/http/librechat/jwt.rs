//! Who a LibreChat server speaks for: the claim `id` of a token that it signs with a secret of its own (HS256: RFC 7519,
//! RFC 7518).

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use crate::http::ApiError;

/// No token of LibreChat is longer.
const MAX_TOKEN: usize = 8192;

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    id: String,
    /// Unix seconds.
    exp: Option<f64>,
}

/// The user that a request is for.
pub(in crate::http) fn user(secret: &str, headers: &HeaderMap) -> Result<String, ApiError> {
    let refuse = |why: &str| {
        ApiError::new(StatusCode::UNAUTHORIZED, "invalid_token", format!("LibreChat's token {why}"))
    };
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case("bearer ").then(|| token.trim())
    });
    let token = token.ok_or_else(|| refuse("is missing"))?;
    read(secret, token)
        .ok_or_else(|| refuse("is not signed with `librechat.jwt_secret`, or its time is over"))
}

fn read(secret: &str, token: &str) -> Option<String> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    // What another algorithm would make of the signature is not asked: `none` is one.
    let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
    if header.alg != "HS256" {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(signed.as_bytes());
    mac.verify_slice(&decode(signature)?).ok()?;
    let claims: Claims = serde_json::from_slice(&decode(claims)?).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    (claims.exp.is_none_or(|exp| exp > now) && !claims.id.is_empty()).then_some(claims.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(secret: &str, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn only_what_the_secret_signed_is_believed() {
        let hs256 = r#"{"alg":"HS256","typ":"JWT"}"#;
        let good = sign("secret", hs256, r#"{"id":"u1","exp":99999999999}"#);
        assert_eq!(read("secret", &good), Some("u1".to_owned()));
        assert_eq!(read("secret", &sign("secret", hs256, r#"{"id":"u1"}"#)), Some("u1".to_owned()));
        let (signed, _) = good.rsplit_once('.').unwrap();
        for bad in [
            sign("other", hs256, r#"{"id":"u1"}"#),
            sign("secret", hs256, r#"{"id":"u1","exp":1}"#),
            sign("secret", hs256, r#"{"id":""}"#),
            sign("secret", hs256, r#"{"sub":"u1"}"#),
            sign("secret", r#"{"alg":"none"}"#, r#"{"id":"u1"}"#),
            sign("secret", r#"{"alg":"RS256"}"#, r#"{"id":"u1"}"#),
            format!("{signed}."),
            format!("{signed}.AAAA"),
            signed.to_owned(),
            "a.b".to_owned(),
            String::new(),
            "x".repeat(9000),
        ] {
            assert_eq!(read("secret", &bad), None, "{bad}");
        }
    }

    /// By PyJWT: `jwt.encode({"id": "65f0", "username": "ä"}, "a-secret", "HS256")`.
    #[test]
    fn others_tokens_are_read() {
        let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpZCI6IjY1ZjAiLCJ1c2VybmFtZSI6Ilx1MDBlNCJ9.al1-OiluVILY2FPlz3eWcTCwmY6Ja_CAetGcv5UHWgM";
        assert_eq!(read("a-secret", token), Some("65f0".to_owned()));
    }
}
