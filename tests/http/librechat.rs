//! LibreChat's RAG API: documents of users that it names by tokens of its own.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use sha2::Sha256;
use stentor::http::{Dialect, Settings};
use stentor::types::key::ApiKey;

use super::fake::{BAG, app, delete, form, get, post, send};

fn settings() -> Settings {
    Settings {
        default_embed: Some(BAG.into()),
        librechat_secret: Some("a-secret".into()),
        // LibreChat's token is none of these.
        keys: vec![ApiKey { id: "key".into(), sha256: [7; 32] }],
        ..Settings::default()
    }
}

fn token(user: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    use hmac::{Hmac, KeyInit, Mac};
    let claims = format!(r#"{{"id":"{user}"}}"#);
    let signed = format!("{}.{}", B64.encode(r#"{"alg":"HS256"}"#), B64.encode(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(b"a-secret").unwrap();
    mac.update(signed.as_bytes());
    format!("Bearer {signed}.{}", B64.encode(mac.finalize().into_bytes()))
}

fn of(user: &str, mut request: Request<Body>) -> Request<Body> {
    request.headers_mut().insert("authorization", token(user).parse().unwrap());
    request
}

#[tokio::test]
async fn users_find_what_is_theirs() {
    let app = app(settings());
    let bees = [("file", "@bees.txt:Honeybees build combs from wax."), ("file_id", "lc-bees")];
    let taken = send(&app, of("ann", form("/librechat/embed", &bees))).await;
    let known = json!({"status": true, "message": "File processed successfully.", "file_id": "lc-bees",
        "filename": "bees.txt", "known_type": true});
    assert_eq!(taken.json(), known, "{}", taken.text);
    let agent =
        [("file", "@tides.txt:The moon pulls the ocean."), ("file_id", "lc-tides"), ("entity_id", "agent")];
    assert_eq!(send(&app, of("ann", form("/librechat/embed", &agent))).await.status, 200);

    let ask = |file: &str, more: Value| {
        let mut body = json!({"query": "Who builds combs?", "file_id": file, "k": 2});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post("/librechat/query", body.to_string())
    };
    let found = send(&app, of("ann", ask("lc-bees", json!({})))).await.json();
    assert_eq!(found[0][0]["page_content"], "Honeybees build combs from wax.");
    let metadata = json!({"file_id": "lc-bees", "user_id": "ann", "source": "bees.txt"});
    assert_eq!(found[0][0]["metadata"], metadata);
    let distance = found[0][1].as_f64().unwrap();
    assert!(distance > 0.0 && distance < 0.7, "{distance}");
    assert_eq!(send(&app, of("bob", ask("lc-bees", json!({})))).await.json(), json!([]), "it is not his");
    assert_eq!(send(&app, of("bob", ask("lc-tides", json!({})))).await.json(), json!([]));
    let agents = send(&app, of("bob", ask("lc-tides", json!({"entity_id": "agent"})))).await.json();
    assert_eq!(agents.as_array().unwrap().len(), 1);

    let several = json!({"query": "combs", "file_ids": ["lc-bees", "lc-nope"]}).to_string();
    let found = send(&app, of("ann", post("/librechat/query_multiple", several.clone()))).await.json();
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(send(&app, of("bob", post("/librechat/query_multiple", several))).await.status, 404);
    assert_eq!(send(&app, of("ann", get("/librechat/ids"))).await.json(), json!(["lc-bees"]));
    let pages = send(&app, of("ann", get("/librechat/documents?ids=lc-bees"))).await.json();
    assert_eq!(pages[0]["page_content"], "Honeybees build combs from wax.");
    let context = send(&app, of("ann", get("/librechat/documents/lc-bees/context"))).await.json();
    assert!(context.as_str().unwrap().contains("bees.txt") && context.as_str().unwrap().contains("wax"));

    let theirs = [("file", "@x.txt:Other words."), ("file_id", "lc-bees")];
    assert_eq!(send(&app, of("bob", form("/librechat/embed", &theirs))).await.status, 409);
    let remove = |user: &str, ids: Value| {
        let mut request = delete("/librechat/documents");
        *request.body_mut() = Body::from(ids.to_string());
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        of(user, request)
    };
    assert_eq!(send(&app, remove("bob", json!(["lc-bees"]))).await.status, 404);
    assert_eq!(send(&app, remove("ann", json!(["lc-bees", "lc-nope"]))).await.status, 404);
    let gone = send(&app, remove("ann", json!(["lc-bees"]))).await.json();
    assert_eq!(gone["message"], "Documents for 1 file deleted successfully");
    assert_eq!(send(&app, of("ann", get("/librechat/ids"))).await.json(), json!([]));
}

#[tokio::test]
async fn whoever_has_no_token_is_refused() {
    let app = app(settings());
    assert_eq!(send(&app, get("/librechat/health")).await.json(), json!({"status": "UP"}));
    let mut forged = get("/librechat/ids");
    let (signed, _) = token("ann").rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    forged.headers_mut().insert("authorization", format!("{signed}.AAAA").parse().unwrap());
    for request in [get("/librechat/ids"), forged] {
        let refused = send(&app, request).await;
        assert_eq!(refused.status, 401);
        refused.error(Dialect::Pmx);
    }
    // A user's token opens nothing else.
    assert_eq!(send(&app, of("ann", get("/v1/models"))).await.status, 401);
    let text = [("file", "@a.md:# Title\n\nWords."), ("file_id", "t")];
    let read = send(&app, of("ann", form("/librechat/text", &text))).await.json();
    assert_eq!((&read["text"], &read["filename"]), (&json!("Title\n\nWords."), &json!("a.md")));
}
