//! Requests, and answers as clients of each dialect read them.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use stentor::http::Dialect;
use tower::ServiceExt;

/// A whole answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The data of each event.
    pub fn events(&self) -> Vec<String> {
        let event = |part: &str| part.strip_prefix("data: ").map(str::to_owned);
        self.text.split("\n\n").filter_map(event).collect()
    }

    /// The name and the data of each event that has a name.
    pub fn named_events(&self) -> Vec<(String, Value)> {
        let event = |part: &str| {
            let (name, data) = part.strip_prefix("event: ")?.split_once("\ndata: ")?;
            Some((name.to_owned(), serde_json::from_str(data).unwrap()))
        };
        self.text.split("\n\n").filter_map(event).collect()
    }

    /// What went wrong, after checking that the body is an error of the dialect: its code, or its text.
    pub fn error(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::OpenAi => self.code(),
            Dialect::Paneas | Dialect::Pmx | Dialect::PmxSpeech => {
                let body = self.json();
                assert_eq!(body.as_object().unwrap().len(), 1, "{}", self.text);
                body["detail"].as_str().unwrap().to_owned()
            }
        }
    }

    /// The error's code, after checking that the body is an OpenAI error and nothing is missing.
    pub fn code(&self) -> String {
        let error = self.json()["error"].clone();
        for field in ["message", "type", "param", "code"] {
            assert!(error.get(field).is_some(), "no {field} in {}", self.text);
        }
        error["code"].as_str().unwrap().to_owned()
    }
}

pub async fn send(app: &Router, request: Request<Body>) -> Answer {
    let response = app.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Answer { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "localhost").body(Body::empty()).unwrap()
}

pub fn delete(path: &str) -> Request<Body> {
    Request::delete(path).header("host", "localhost").body(Body::empty()).unwrap()
}

pub fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

pub fn patch(path: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = post(path, body);
    *request.method_mut() = axum::http::Method::PATCH;
    request
}

/// A multipart form; a value that begins with `@` is a file of that content, which may begin with `NAME:`.
pub fn form(path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let mut body = String::new();
    for (name, value) in fields {
        let (head, value) = match value.strip_prefix('@').map(|file| file.split_once(':')) {
            Some(Some((file, content))) => (format!("; filename=\"{file}\""), content),
            Some(None) => ("; filename=\"a.wav\"\r\nContent-Type: audio/wav".to_owned(), &value[1..]),
            None => (String::new(), *value),
        };
        body.push_str(&format!(
            "--XX\r\nContent-Disposition: form-data; name=\"{name}\"{head}\r\n\r\n{value}\r\n"
        ));
    }
    body.push_str("--XX--\r\n");
    Request::post(path)
        .header("host", "localhost")
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(Body::from(body))
        .unwrap()
}
