//! Vectors as PMX's services put them and ask for them.

use serde_json::json;
use stentor::http::{Dialect, Settings};

use super::fake::{app, get, post, send};

#[tokio::test]
async fn points_are_put_and_collections_listed() {
    let app = app(Settings::default());
    let points = json!({"collection": "put", "points": [
        {"id": 7, "vector": [1.0, 0.0, 0.5], "payload": {"text": "Some words", "tags": ["a", "b"], "page": 3}},
        {"id": "x", "vector": [0.0, 1.0, 0.0]},
    ]});
    for path in ["/qdrant/upsert", "/rag/qdrant/upsert"] {
        let answer = send(&app, post(path, points.to_string())).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json(), json!({"upserted": 2, "collection": "put", "dim": 3}));
    }
    let listed = send(&app, get("/rag/qdrant/collections")).await.json();
    let put = listed["items"].as_array().unwrap().iter().find(|item| item["name"] == "put").unwrap();
    assert_eq!(put["vectors_count"], 2, "the second time they took the places of the first");
    assert_eq!(put["config"], json!({"size": 3, "distance": "Cosine"}));
    assert_eq!(send(&app, get("/qdrant/health")).await.json(), json!({"ok": true, "url": "embedded"}));
    let point = json!({"points": [{"id": "only", "vector": [1.0]}], "wait": true});
    let answer = send(&app, post("/qdrant/upsert", point.to_string())).await.json();
    assert_eq!(answer, json!({"upserted": 1, "collection": "pmx_docs", "dim": 1}));
}

#[tokio::test]
async fn what_is_no_point_is_refused() {
    let app = app(Settings::default());
    let point =
        |vector: &str| format!(r#"{{"collection": "strict", "points": [{{"id": 1, "vector": {vector}}}]}}"#);
    assert_eq!(send(&app, post("/qdrant/upsert", point("[1, 2]"))).await.status, 200);
    for (body, status, said) in [
        (point("[1, 2, 3]"), 400, "a vector of 3 dimensions, 2 are needed"),
        (point("[0, 0]"), 400, "a vector of zeros has no direction"),
        (point("[1e39, 0]"), 400, ""),
        (point("[]"), 400, "a vector of 0 dimensions"),
        (point(r#""a""#), 400, ""),
        (r#"{"points": []}"#.to_owned(), 400, "`points` has 0 entries"),
        (
            r#"{"points": [{"id": "", "vector": [1]}], "collection": "new"}"#.to_owned(),
            400,
            "an id has 0 bytes",
        ),
        (
            r#"{"points": [{"id": "a", "vector": [1]}], "collection": "../up"}"#.to_owned(),
            400,
            "no name for a collection",
        ),
    ] {
        let answer = send(&app, post("/qdrant/upsert", body.clone())).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert!(answer.error(Dialect::Pmx).contains(said), "{body}: {}", answer.text);
    }
}

#[tokio::test]
async fn texts_are_embedded() {
    let app = app(Settings::default());
    let ask = json!({"texts": ["a", "b"], "model": "vectors", "normalize": true, "batch_size": 8});
    let answer = send(&app, post("/rag/embed", ask.to_string())).await;
    assert_eq!(answer.json(), json!({"vectors": [[0.0, 0.0], [1.0, 1.0]], "dim": 2, "model": "vectors"}));
    for (body, status) in [
        (json!({"texts": [], "model": "vectors"}), 400),
        (json!({"texts": ["a", ""], "model": "vectors"}), 400),
        (json!({"texts": ["a"]}), 400),
        (json!({"texts": ["a"], "model": "nope"}), 404),
    ] {
        let answer = send(&app, post("/embed", body.to_string())).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        answer.error(Dialect::Pmx);
    }
}
