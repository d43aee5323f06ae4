//! Whose responses are kept, which and for how long.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::json;
use sha2::{Digest, Sha256};
use stentor::http::Settings;
use stentor::service::responses::{Limits, Responses};
use stentor::types::key::ApiKey;

use super::fake::{delete, get, keeping, send};
use super::responses::{LIMITS, ask, asking, id, kept, text};

fn keys() -> Settings {
    let key = |name: &str| ApiKey { id: name.into(), sha256: Sha256::digest(name.as_bytes()).into() };
    Settings { keys: vec![key("laptop"), key("phone")], ..Settings::default() }
}

fn by(key: &str, mut request: Request<Body>) -> Request<Body> {
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

#[tokio::test]
async fn a_response_is_there_for_the_key_that_asked_and_for_no_other() {
    let home = tempfile::tempdir().unwrap();
    let responses = Responses::open(home.path(), LIMITS).unwrap();
    let app = keeping(&responses, keys());
    let first = send(&app, by("laptop", asking("echo", &json!({})))).await.json();
    let (path, id) = (format!("/v1/responses/{}", id(&first)), id(&first));
    let more = json!({"previous_response_id": id});
    for (request, code) in [
        (get(&path), "response_not_found"),
        (get(&format!("{path}/input_items")), "response_not_found"),
        (delete(&path), "response_not_found"),
        (asking("echo", &more), "previous_response_not_found"),
    ] {
        let answer = send(&app, by("phone", request)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, code), "{}", answer.text);
    }
    assert_eq!(send(&app, by("laptop", get(&path))).await.json(), first);
    assert_eq!(send(&app, by("laptop", asking("echo", &more))).await.status, 200);
    // Without keys nobody is the one who asked.
    let open = keeping(&responses, Settings::default());
    assert_eq!(send(&open, get(&path)).await.status, 404);
    let deleted = send(&app, by("laptop", delete(&path))).await.json();
    assert_eq!(deleted, json!({"id": id, "object": "response", "deleted": true}));
    assert_eq!(send(&app, by("laptop", delete(&path))).await.status, 404);
}

#[tokio::test]
async fn no_text_but_an_id_is_ever_looked_for() {
    let (home, app) = kept();
    std::fs::write(home.path().join("secret.json"), "{}").unwrap();
    for name in ["secret", "..%2Fsecret", "resp_", "resp_..%2F..", "%00", &"x".repeat(5000), "resp_ÀÀ"] {
        let name = name.replace('À', "%C3%80");
        for request in [get(&format!("/v1/responses/{name}")), delete(&format!("/v1/responses/{name}"))] {
            let answer = send(&app, request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (404, "response_not_found"),
                "{name}"
            );
            assert!(answer.text.len() < 500);
        }
        let answer = send(&app, asking("echo", &json!({"previous_response_id": name}))).await;
        assert_eq!(answer.code(), "previous_response_not_found", "{name}");
    }
    assert_eq!(send(&app, get("/v1/responses/%ff")).await.status, 400);
    assert!(home.path().join("secret.json").exists());
}

#[tokio::test]
async fn what_is_not_to_be_stored_is_not() {
    let (home, app) = kept();
    let response = ask(&app, "echo", json!({"store": false})).await;
    assert_eq!(response["store"], false);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    let answer = send(&app, asking("echo", &json!({"previous_response_id": id(&response)}))).await;
    assert_eq!(answer.status, 404);
    // A conversation can go on from a stored response without being stored itself.
    let stored = ask(&app, "echo", json!({})).await;
    let more = json!({"store": false, "previous_response_id": id(&stored)});
    assert_eq!(ask(&app, "echo", more).await["store"], false);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    // Where nothing is kept, the answer says so.
    assert_eq!(
        ask(&super::fake::app(Settings::default()), "echo", json!({"store": true})).await["store"],
        false
    );
    // So it does where the disk does not take it.
    std::fs::remove_dir_all(home.path()).unwrap();
    let response = ask(&app, "echo", json!({})).await;
    assert_eq!((&response["store"], text(&response)), (&json!(false), "hello!"));
}

#[tokio::test]
async fn kept_responses_are_bounded_and_outlive_the_process() {
    let home = tempfile::tempdir().unwrap();
    let open = |count| {
        keeping(&Responses::open(home.path(), Limits { count, ..LIMITS }).unwrap(), Settings::default())
    };
    let app = open(2);
    let mut made = Vec::new();
    for word in ["one", "two", "three"] {
        made.push(ask(&app, "recalls", json!({"input": word})).await);
    }
    let find = |app: &Router, at: usize| {
        let (app, path) = (app.clone(), format!("/v1/responses/{}", id(&made[at])));
        async move { send(&app, get(&path)).await }
    };
    assert_eq!(find(&app, 0).await.status, 404);
    assert_eq!(find(&app, 1).await.json(), made[1]);
    let again = open(2);
    assert_eq!(find(&again, 2).await.json(), made[2]);
    let more = json!({"input": "four", "previous_response_id": id(&made[2])});
    assert_eq!(text(&ask(&again, "recalls", more).await), "user: three; assistant: user: three; user: four");
    let fewer = open(0);
    assert_eq!(find(&fewer, 2).await.status, 404);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}
