//! Documents ordered, in both forms.

use serde_json::{Value, json};

use stentor::http::Settings;
use stentor::service::Error;
use stentor::types::Usage;
use stentor::types::rerank::{Request, Response, Score};

use super::fake::{app, post, send, unknown};

/// The fake's answer: a document's logit is by how much it is longer than the question.
pub fn ranks(request: &Request) -> Result<Response, Error> {
    if request.model != "ranks" {
        return Err(unknown(request.model.clone()));
    }
    let score = |text: &String| Score(text.len() as f32 - request.query.len() as f32);
    let scores = request.documents.iter().map(score).collect();
    Ok(Response { scores, usage: Usage { prompt_tokens: 7, ..Usage::default() } })
}

async fn ask(path: &str, body: Value) -> Value {
    let answer = send(&app(Settings::default()), post(path, body.to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn documents_come_the_best_first() {
    let documents = json!(["ab", {"text": "abcd"}, "abc", "bcd"]);
    for path in ["/v1/rerank", "/rerank"] {
        let reply = ask(path, json!({"model": "ranks", "query": "xy", "documents": documents})).await;
        let results = reply["results"].as_array().unwrap();
        let order: Vec<_> = results.iter().map(|result| result["index"].as_u64().unwrap()).collect();
        assert_eq!(order, [1, 2, 3, 0], "equal ones in their order");
        assert_eq!(results[3], json!({"index": 0, "relevance_score": 0.5}), "the sigmoid of 0");
        assert!((results[0]["relevance_score"].as_f64().unwrap() - 0.880_797).abs() < 1e-5);
        assert_eq!((&reply["model"], &reply["usage"]), (&json!("ranks"), &json!({"total_tokens": 7})));
        assert!(reply["id"].as_str().unwrap().starts_with("rerank-"));

        let some = json!({"query": "xy", "documents": documents, "top_n": 1, "return_documents": true});
        let reply = ask(path, some).await;
        assert_eq!(reply["model"], "ranks", "the first installed one");
        assert_eq!(reply["results"].as_array().unwrap().len(), 1);
        assert_eq!(reply["results"][0]["document"], json!({"text": "abcd"}));
    }
}

#[tokio::test]
async fn texts_come_as_text_embeddings_inference_gives_them() {
    let reply = ask("/rerank", json!({"query": "xy", "texts": ["ab", "abc"], "raw_scores": true})).await;
    assert_eq!(reply, json!([{"index": 1, "score": 1.0}, {"index": 0, "score": 0.0}]));
    let reply = ask("/rerank", json!({"query": "xy", "texts": ["ab"], "return_text": true})).await;
    assert_eq!(reply, json!([{"index": 0, "score": 0.5, "text": "ab"}]));
}

#[tokio::test]
async fn what_cannot_be_ranked_is_refused_with_the_field() {
    let many = vec!["a"; 2049];
    let (long, longer) = ("a".repeat((1 << 20) + 1), "a".repeat((64 << 10) + 1));
    for (path, body, param) in [
        ("/v1/rerank", json!({"query": "", "documents": ["a"]}), "query"),
        ("/v1/rerank", json!({"query": longer, "documents": ["a"]}), "query"),
        ("/v1/rerank", json!({"query": "a", "documents": []}), "documents"),
        ("/v1/rerank", json!({"query": "a", "documents": many}), "documents"),
        ("/v1/rerank", json!({"query": "a", "documents": [long]}), "documents"),
        ("/v1/rerank", json!({"query": "a", "documents": ["b", {"txt": "a"}]}), "documents[1]"),
        ("/v1/rerank", json!({"query": "a", "documents": ["a"], "top_n": 0}), "top_n"),
        ("/v1/rerank", json!({"query": "a", "documents": ["a"], "model": "echo"}), "model"),
        ("/rerank", json!({"query": "a"}), "documents"),
        (
            "/rerank",
            json!({"query": "a", "texts": ["a"], "truncation_direction": "left"}),
            "truncation_direction",
        ),
        ("/rerank", json!({"query": "a", "texts": ["a"], "documents": ["a"]}), "documents"),
        ("/rerank", json!({"query": "a", "texts": []}), "texts"),
        ("/rerank", json!({"query": "a", "texts": many}), "texts"),
    ] {
        let answer = send(&app(Settings::default()), post(path, body.to_string())).await;
        assert!(answer.status == 400 || answer.status == 404, "{} {}", answer.status, answer.text);
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.text);
    }
}
