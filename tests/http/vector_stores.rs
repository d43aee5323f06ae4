//! Files, vector stores and the answers that cite them.

use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use stentor::http::Settings;

use super::fake::{BAG, CHAT, app, delete, form, get, post, send};

fn settings() -> Settings {
    Settings { default_embed: Some(BAG.into()), default_chat: Some(CHAT.into()), ..Settings::default() }
}

async fn upload(app: &Router, name: &str, text: &str) -> String {
    let file = format!("@{name}:{text}");
    let answer = send(app, form("/v1/files", &[("file", &file), ("purpose", "assistants")])).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn create(app: &Router, body: Value) -> Value {
    let answer = send(app, post("/v1/vector_stores", body.to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// Asks until no file of the store is being indexed.
async fn settled(app: &Router, id: &str) -> Value {
    for _ in 0..500 {
        let store = send(app, get(&format!("/v1/vector_stores/{id}"))).await.json();
        if store["status"] == "completed" {
            return store;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{id} is never indexed");
}

#[tokio::test]
async fn files_are_kept_listed_and_deleted() {
    let app = app(settings());
    let id = upload(&app, "notes.txt", "Some words.").await;
    let path = format!("/v1/files/{id}");
    let file = send(&app, get(&path)).await.json();
    assert_eq!(
        (&file["object"], &file["filename"], &file["bytes"]),
        (&json!("file"), &json!("notes.txt"), &json!(11))
    );
    assert_eq!((&file["purpose"], &file["status"]), (&json!("assistants"), &json!("processed")));
    assert_eq!(send(&app, get(&format!("{path}/content"))).await.text, "Some words.");
    let listed = send(&app, get("/v1/files?purpose=assistants&limit=10000")).await.json();
    assert!(listed["data"].as_array().unwrap().iter().any(|file| file["id"] == id.as_str()));
    assert_eq!(send(&app, delete(&path)).await.json(), json!({"id": id, "object": "file", "deleted": true}));
    for answer in [send(&app, get(&path)).await, send(&app, delete(&path)).await] {
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"));
    }
    let expiring = [
        ("file", "@x"),
        ("purpose", "user_data"),
        ("expires_after[anchor]", "created_at"),
        ("expires_after[seconds]", "3600"),
    ];
    let file = send(&app, form("/v1/files", &expiring)).await.json();
    assert_eq!(file["expires_at"].as_u64().unwrap() - file["created_at"].as_u64().unwrap(), 3600);
    for wrong in
        [[("file", "@x"), ("purpose", "nonsense")], [("file", "@x"), ("expires_after[seconds]", "5")]]
    {
        assert_eq!(send(&app, form("/v1/files", &wrong)).await.status, 400);
    }
    let huge = format!("@big.txt:{}", "x".repeat(2 << 20));
    let full = send(&app, form("/v1/files", &[("file", &huge), ("purpose", "user_data")])).await;
    assert_eq!((full.status.as_u16(), full.code().as_str()), (507, "disk_full"));
}

#[tokio::test]
async fn a_store_is_filled_searched_and_emptied() {
    let app = app(settings());
    let bees = upload(&app, "bees.txt", "Honeybees build combs from wax.").await;
    let tides = upload(&app, "tides.txt", "The moon pulls the ocean twice a day.").await;
    let broken = upload(&app, "broken.pdf", "%PDF-1.7 and nothing else").await;
    let body = json!({"name": "Nature", "file_ids": [bees, broken], "metadata": {"owner": "me"},
        "expires_after": {"anchor": "last_active_at", "days": 7}});
    let store = create(&app, body).await;
    assert_eq!((&store["object"], &store["name"]), (&json!("vector_store"), &json!("Nature")));
    let id = store["id"].as_str().unwrap();
    let path = format!("/v1/vector_stores/{id}");
    let added = json!({"file_id": tides, "attributes": {"year": 2021, "kind": "sea"}});
    let added = send(&app, post(&format!("{path}/files"), added.to_string())).await.json();
    assert_eq!((&added["id"], &added["vector_store_id"]), (&json!(tides), &json!(id)));
    let store = settled(&app, id).await;
    let counts = json!({"in_progress": 0, "completed": 2, "failed": 1, "cancelled": 0, "total": 3});
    assert_eq!(store["file_counts"], counts);
    let failed = send(&app, get(&format!("{path}/files/{broken}"))).await.json();
    assert_eq!(
        (&failed["status"], &failed["last_error"]["code"]),
        (&json!("failed"), &json!("invalid_file"))
    );
    let listed = send(&app, get(&format!("{path}/files?filter=completed&order=asc"))).await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let content = send(&app, get(&format!("{path}/files/{tides}/content"))).await.json();
    assert_eq!(content["data"], json!([{"type": "text", "text": "The moon pulls the ocean twice a day."}]));

    let search = async |body: Value| -> Vec<String> {
        let answer = send(&app, post(&format!("{path}/search"), body.to_string())).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let results = answer.json()["data"].as_array().unwrap().clone();
        results.iter().map(|result| result["filename"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(search(json!({"query": "What pulls the ocean?", "max_num_results": 1})).await, ["tides.txt"]);
    assert_eq!(search(json!({"query": ["combs", "ocean"]})).await.len(), 2);
    let later = json!({"type": "and", "filters": [{"type": "gt", "key": "year", "value": 2020}, {"type": "eq", "key": "kind", "value": "sea"}]});
    assert_eq!(search(json!({"query": "combs of wax", "filters": later})).await, ["tides.txt"]);
    let sure = json!({"query": "honeybees build combs", "ranking_options": {"score_threshold": 0.5}});
    assert_eq!(search(sure).await, ["bees.txt"]);

    let update = json!({"attributes": {"kind": "river"}});
    let updated = send(&app, post(&format!("{path}/files/{tides}"), update.to_string())).await.json();
    assert_eq!(updated["attributes"], json!({"kind": "river"}));
    let river = json!({"type": "eq", "key": "kind", "value": "river"});
    assert_eq!(search(json!({"query": "wax", "filters": river})).await, ["tides.txt"]);
    let gone = send(&app, delete(&format!("{path}/files/{tides}"))).await.json();
    assert_eq!(gone["deleted"], true);
    assert_eq!(search(json!({"query": "ocean"})).await, ["bees.txt"]);
    send(&app, delete(&format!("/v1/files/{bees}"))).await;
    assert_eq!(search(json!({"query": "combs"})).await, [""; 0], "a deleted file is in no store");

    let renamed = send(&app, post(&path, r#"{"name": "Renamed"}"#)).await.json();
    assert_eq!((&renamed["name"], &renamed["metadata"]), (&json!("Renamed"), &json!({"owner": "me"})));
    assert_eq!(send(&app, delete(&path)).await.json()["object"], "vector_store.deleted");
    assert_eq!(send(&app, get(&path)).await.status, 404);
    assert_eq!(send(&app, post(&format!("{path}/search"), r#"{"query": "x"}"#)).await.status, 404);
}

#[tokio::test]
async fn batches_are_followed() {
    let app = app(settings());
    let mut files = Vec::new();
    for at in 0..5 {
        files.push(upload(&app, &format!("{at}.txt"), &format!("This is text number {at}.")).await);
    }
    let store = create(&app, json!({})).await["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/vector_stores/{store}/file_batches");
    let body = json!({"file_ids": files, "chunking_strategy": {"type": "static",
        "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}}});
    let batch = send(&app, post(&path, body.to_string())).await.json();
    let batch = format!("{path}/{}", batch["id"].as_str().unwrap());
    settled(&app, &store).await;
    let done = send(&app, get(&batch)).await.json();
    assert_eq!((&done["status"], &done["file_counts"]["completed"]), (&json!("completed"), &json!(5)));
    let first = send(&app, get(&format!("{batch}/files?limit=2&order=asc"))).await.json();
    assert_eq!((first["data"].as_array().unwrap().len(), &first["has_more"]), (2, &json!(true)));
    assert_eq!(first["data"][0]["chunking_strategy"]["static"]["max_chunk_size_tokens"], 100);
    assert_eq!(send(&app, post(&format!("{batch}/cancel"), "{}")).await.json()["status"], "completed");
    for (body, status) in [
        (json!({"file_ids": []}), 400),
        (json!({"file_ids": ["file-nope"]}), 404),
        (json!({"file_ids": [files[0]], "chunking_strategy": {"type": "static"}}), 400),
        (json!({"files": [{"file_id": files[0], "attributes": {"a": {}}}]}), 400),
    ] {
        assert_eq!(send(&app, post(&path, body.to_string())).await.status, status, "{body}");
    }
    assert_eq!(send(&app, get(&format!("{path}/vsfb_nope"))).await.status, 404);
}

#[tokio::test]
async fn responses_cite_what_was_found() {
    let app = app(settings());
    let file = upload(&app, "bees.txt", "Honeybees build combs from wax.").await;
    let store = create(&app, json!({"file_ids": [file]})).await["id"].as_str().unwrap().to_owned();
    settled(&app, &store).await;
    let ask = |more: Value| {
        let mut body = json!({"model": CHAT, "input": "Who builds combs?",
            "tools": [{"type": "file_search", "vector_store_ids": [store]}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post("/v1/responses", body.to_string())
    };
    // The fake repeats the last turn: its sources with their numbers.
    let answer = send(&app, ask(json!({"include": ["file_search_call.results"]}))).await.json();
    let search = &answer["output"][0];
    assert_eq!((&search["type"], &search["status"]), (&json!("file_search_call"), &json!("completed")));
    assert_eq!(search["queries"], json!(["Who builds combs?"]));
    assert_eq!(search["results"][0]["file_id"], json!(file));
    let part = &answer["output"][1]["content"][0];
    let text = part["text"].as_str().unwrap();
    assert!(text.starts_with("Sources:\n\n[1] bees.txt\nHoneybees"), "{text}");
    let annotation = json!({"type": "file_citation", "file_id": file, "filename": "bees.txt", "index": 13});
    assert_eq!(part["annotations"], json!([annotation]));
    assert_eq!(answer["tools"][0]["vector_store_ids"], json!([store]));

    let events =
        send(&app, ask(json!({"stream": true, "tool_choice": {"type": "file_search"}}))).await.named_events();
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let beginning = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.output_item.done",
        "response.output_item.added",
    ];
    assert_eq!(names[..beginning.len()], beginning);
    let annotated = events.iter().find(|(name, _)| name == "response.output_text.annotation.added").unwrap();
    assert_eq!(annotated.1["annotation"], annotation);
    let whole = &events.last().unwrap().1["response"];
    assert_eq!(whole["output"][0]["results"], Value::Null, "they were not asked for");

    let none = send(&app, ask(json!({"tool_choice": "none"}))).await.json();
    assert_eq!(none["output"].as_array().unwrap().len(), 1, "nothing is searched");
    for tools in [
        json!([{"type": "file_search"}]),
        json!([{"type": "file_search", "vector_store_ids": [store]}, {"type": "file_search", "vector_store_ids": [store]}]),
        json!([{"type": "file_search", "vector_store_ids": [store], "max_num_results": 51}]),
        json!([{"type": "web_search"}]),
    ] {
        assert_eq!(send(&app, ask(json!({"tools": tools}))).await.status, 400, "{tools}");
    }
    let nowhere = json!([{"type": "file_search", "vector_store_ids": ["vs_nope"]}]);
    assert_eq!(send(&app, ask(json!({"tools": nowhere}))).await.status, 404);
}
