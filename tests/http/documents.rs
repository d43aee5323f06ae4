//! Documents as PMX's services index, ask and file them.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use stentor::http::{Dialect, Settings, State, router};
use stentor::obs::install_metrics;

use super::fake::{Answer, BAG, CHAT, Fake, app, delete, form, get, kept_in, patch, post, send};

fn settings() -> Settings {
    Settings { default_embed: Some(BAG.into()), default_chat: Some(CHAT.into()), ..Settings::default() }
}

const BEES: &str = "# Bees\n\nHoneybees build combs from wax. A colony has one queen.";
const TIDES: &str = "# Tides\n\nThe moon pulls the ocean. Spring tides follow the new moon.";

/// Two documents, and two files that are none, in a collection of their own.
async fn index(app: &Router, collection: &str) -> Answer {
    let fields = [
        ("files", "@bees.md:# Bees\n\nHoneybees build combs from wax. A colony has one queen."),
        ("files[]", "@tides.md:# Tides\n\nThe moon pulls the ocean. Spring tides follow the new moon."),
        ("files", "@picture.png:\u{0}\u{1}"),
        ("files", "@empty.txt:"),
        ("tags", "nature, short"),
        ("tags", "nature"),
        ("collection", collection),
    ];
    send(app, form("/rag/index", &fields)).await
}

fn question(collection: &str) -> Value {
    json!({"query": "Which tides follow the moon?", "collection": collection, "top_k": 1, "tags_any": ["nature"],
        "tags_all": ["short"]})
}

fn ask(body: &Value) -> Request<Body> {
    post("/query", body.to_string())
}

#[tokio::test]
async fn files_are_indexed() {
    let app = app(settings());
    let answer = index(&app, "files").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = answer.json();
    assert_eq!((&answer["indexed"], &answer["collection"]), (&json!(2), &json!("files")));
    assert_eq!(answer["tags"], json!(["nature", "short", "nature"]), "as they were sent");
    assert_eq!(answer["metrics"]["files_count"], 2);
    assert_eq!(answer["files"][0]["filename"], "bees.md");
    assert_eq!(answer["files"][0]["mime"], "text/markdown");
    assert_eq!(answer["files"][0]["size_bytes"], BEES.len());
    assert_eq!(answer["files"][0]["tags"], json!(["nature", "short"]));
    for at in [2, 3] {
        assert!(answer["files"][at]["error"].as_str().is_some_and(|why| !why.is_empty()), "{answer}");
        assert_eq!(answer["files"][at]["id"], Value::Null);
    }
    assert_eq!(answer["errors"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn files_are_asked() {
    let app = app(settings());
    index(&app, "asked").await;
    let question = question("asked");
    let answer = send(&app, ask(&question)).await.json();
    let said = answer["answer"].as_str().unwrap();
    assert!(said.contains("[1] tides.md") && said.contains("Question: Which tides"), "{said}");
    let source = &answer["sources"][0];
    assert_eq!((&source["source"], &source["title"]), (&json!("tides.md"), &json!("tides.md")));
    assert!(source["snippet"].as_str().unwrap().contains("Spring tides"));
    assert!(source["score"].as_f64().unwrap() > 0.3);
    assert_eq!(answer["used_tags"], json!(["nature", "short"]));

    let mut silent = question.clone();
    silent["with_sources"] = json!(false);
    assert_eq!(send(&app, ask(&silent)).await.json()["sources"], json!([]));
    let mut streamed = question;
    streamed["stream"] = json!(true);
    let events: Vec<Value> = send(&app, ask(&streamed))
        .await
        .events()
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    assert_eq!(events[0]["type"], "sources");
    assert_eq!(events.last().unwrap()["type"], "done");
    let whole: String = events.iter().filter_map(|event| event["text"].as_str()).collect();
    assert_eq!(events.last().unwrap()["answer"], whole.trim());
}

#[tokio::test]
async fn documents_are_filed_and_taken_out() {
    // Not the store that tests share: the id of a document is made of its file's name, and what is done by an id is done
    // in all collections, those of other tests among them.
    let dir = tempfile::tempdir().unwrap();
    let stored = kept_in(dir.path());
    let fake = Arc::new(Fake::default());
    let app = router(State::new(fake, stored, settings(), install_metrics().unwrap()));
    index(&app, "filed").await;
    index(&app, "other").await;
    let question = question("filed");
    let answer = send(&app, ask(&question)).await.json();
    let id = answer["sources"][0]["id"].as_str().unwrap();
    let change = json!({"add": ["sea", " sea "], "remove": ["short"]});
    let changed = send(&app, patch(&format!("/docs/{id}/tags"), change.to_string())).await;
    assert_eq!(changed.json(), json!({"doc_id": id, "tags": ["nature", "sea"]}));
    for collection in ["filed", "other"] {
        let tags = send(&app, get(&format!("/rag/tags?limit=2&collection={collection}"))).await.json();
        assert_eq!(tags, json!([{"tag": "nature", "count": 2}, {"tag": "sea", "count": 1}]), "{collection}");
    }
    let other = send(&app, ask(&question)).await.json();
    assert_ne!(other["sources"][0]["id"], id, "it is not filed under `short` any more");
    let listed = send(&app, get("/docs/list?collection=filed")).await.json();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|doc| doc["name"].as_str().unwrap()).collect();
    assert!(names.len() == 2 && names.contains(&"bees.md"), "{listed}");
    let gone = send(&app, delete(&format!("/docs/{id}"))).await.json();
    assert_eq!(gone, json!({"deleted": id, "status": "ok"}));
    assert_eq!(send(&app, delete(&format!("/docs/{id}"))).await.status, 404);
    let listed = send(&app, get("/docs/list?collection=other")).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let tides = json!({"query": "tides moon ocean", "collection": "filed"});
    let left = send(&app, ask(&tides)).await.json();
    assert_eq!(left["sources"].as_array().unwrap().len(), 1, "{left}");
    let missing = send(&app, patch("/docs/nope/tags", "{}")).await;
    assert_eq!((missing.status.as_u16(), missing.error(Dialect::Pmx).as_str()), (404, "Document not found"));
}

#[tokio::test]
async fn the_same_document_is_kept_once_and_a_changed_one_keeps_what_is_the_same() {
    let app = app(settings());
    let index = async |document: Value| {
        let body = json!({"collection": "twice", "documents": [document]});
        let answer = send(&app, post("/index", body.to_string())).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let found = async |query: &str| -> Vec<String> {
        let body = json!({"query": query, "max_num_results": 50});
        let answer = send(&app, post("/v1/vector_stores/twice/search", body.to_string())).await.json();
        let found = answer["data"].as_array().unwrap().iter();
        found.map(|found| found["content"][0]["text"].as_str().unwrap().to_owned()).collect()
    };
    let first = index(json!({"content": BEES, "base_name": "a.md", "meta": {"tags": "one, two"}})).await;
    assert_eq!(first["indexed"], 1);
    index(json!({"text": BEES, "base_name": "a.md"})).await;
    index(json!({"text": BEES})).await;
    assert_eq!(found("bees").await.len(), 1);
    // A long one of which the middle changes.
    let long = |middle: &str| {
        let words = |word: &str| vec![word; 200].join(" ");
        format!("{}.\n\n{middle}\n\n{}.", words("alpha"), words("omega"))
    };
    let first = index(json!({"id": 7, "text": long("old middle")})).await;
    let before = found("alpha").await;
    index(json!({"id": "7", "text": long("new middle")})).await;
    let after = found("alpha").await;
    assert_eq!(before.len(), after.len(), "{first}");
    assert!(!after.iter().any(|text| text.contains("old middle")), "{after:?}");
    assert!(after.iter().any(|text| text.contains("new middle")), "{after:?}");
    // What replaces a document takes all of it out.
    index(json!({"id": "7", "text": TIDES})).await;
    assert_eq!(found("alpha").await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_indexed_or_asked_is_refused() {
    let app = app(settings());
    let none = send(&app, post("/index", r#"{"documents": []}"#)).await.json();
    assert_eq!(none, json!({"indexed": 0, "collection": "pmx_docs"}));
    for (path, body, status) in [
        ("/index", "{", 400),
        ("/index", r#"{"documents": [{"text": ""}]}"#, 400),
        ("/index", r#"{"documents": [{"id": "a#b", "text": "x"}]}"#, 400),
        ("/index", r#"{"collection": "stentor:jobs", "documents": [{"text": "x"}]}"#, 400),
        ("/index", r#"{"collection": "../x", "documents": [{"text": "x"}]}"#, 400),
        ("/query", r#"{"query": " "}"#, 400),
        ("/query", r#"{"query": "x", "top_k": 0}"#, 400),
        ("/query", r#"{"query": "x", "collection": "nowhere"}"#, 404),
        ("/query", r#"{"query": "x", "collection": "stentor:jobs"}"#, 400),
        ("/qdrant/upsert", r#"{"collection": "stentor:jobs", "points": [{"id": 1, "vector": [1]}]}"#, 400),
    ] {
        let answer = send(&app, post(path, body.to_owned())).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        answer.error(Dialect::Pmx);
    }
    let words = [("file", "@a.txt:Words."), ("language", "klingon"), ("collection", "unmade")];
    assert_eq!(send(&app, form("/index", &words)).await.status, 400);
    let some =
        r#"{"collection": "some", "language": "english", "documents": [{"text": ""}, {"text": "words"}]}"#;
    let answer = send(&app, post("/index", some)).await.json();
    assert_eq!((&answer["indexed"], &answer["errors"][0]["index"]), (&json!(1), &json!(0)));
    let collections = send(&app, get("/qdrant/collections")).await.text;
    assert!(collections.contains("some") && !collections.contains("stentor:"), "{collections}");
    let nothing =
        send(&app, post("/query", r#"{"query": "x", "tags_any": ["nobody"], "collection": "some"}"#));
    let nothing = nothing.await.json();
    assert_eq!(nothing["answer"], "The documents do not answer this question.");
    assert_eq!(nothing["sources"], json!([]));
}

#[tokio::test]
async fn files_are_parsed() {
    let app = app(settings());
    let file = ("file", "@t.md:Before.\n\n# One\n\nA.\n\n## Two\n\nB.\n\nC.");
    let parsed = send(&app, form("/rag/parse/document", &[file])).await.json();
    assert_eq!(parsed["text"], "Before.\n\nOne\n\nA.\n\nTwo\n\nB.\n\nC.");
    let titles: Vec<_> = parsed["sections"].as_array().unwrap().iter().map(|s| s["title"].clone()).collect();
    assert_eq!(titles, [Value::Null, json!("One"), json!("Two")]);
    assert_eq!(parsed["sections"][2]["text"], "B.\n\nC.");
    let meta = json!({"title": null, "pages": null, "filename": "t.md", "mime": "text/markdown", "ext": "md", "chars": 29});
    assert_eq!(parsed["meta"], meta);
    let refused = send(&app, form("/parse/document", &[("file", "@x.bin:\u{0}\u{1}\u{2}")])).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    refused.error(Dialect::Pmx);
}
