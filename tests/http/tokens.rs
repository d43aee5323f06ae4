//! vLLM's calls for tokens.

use serde_json::{Value, json};
use stentor::http::Settings;

use super::fake::{Answer, app, post, send};

async fn tokenize(more: Value) -> Answer {
    let mut body = json!({"model": "echo"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    send(&app(Settings::default()), post("/tokenize", body.to_string())).await
}

#[tokio::test]
async fn texts_and_conversations_have_tokens() {
    let answer = tokenize(json!({"prompt": "ab"})).await.json();
    assert_eq!(
        answer,
        json!({"count": 4, "max_model_len": 2048, "tokens": [97, 98, 62, 36], "token_strs": null})
    );
    let bare = json!({"prompt": "a", "add_special_tokens": false, "add_generation_prompt": false, "return_token_strs": true});
    let answer = tokenize(bare).await.json();
    assert_eq!((&answer["tokens"], &answer["token_strs"]), (&json!([97]), &json!(["a"])));
    let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    assert_eq!(tokenize(json!({"messages": turns})).await.json()["count"], 4);
    let back = json!({"model": "echo", "tokens": [97, 98]}).to_string();
    let answer = send(&app(Settings::default()), post("/detokenize", back)).await;
    assert_eq!(answer.json(), json!({"prompt": "ab"}));
}

#[tokio::test]
async fn what_cannot_be_tokenised_is_named() {
    for (body, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": "a", "messages": []}), "prompt"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"prompt": 5}), "prompt"),
        (json!({"prompt": "a", "model": "nope"}), "model"),
        (
            json!({"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "function": {"name": ""}}]}),
            "tools[0].function.name",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a"}], "continue_final_message": true}),
            "continue_final_message",
        ),
        (json!({"prompt": "a", "chat_template": "{{ x }}"}), "chat_template"),
    ] {
        let answer = tokenize(body.clone()).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{body}: {}", answer.text);
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    for tokens in [json!([-1]), json!(["a"]), json!(7), json!([4_294_967_296u64]), Value::Null] {
        let body = json!({"model": "echo", "tokens": tokens}).to_string();
        let answer = send(&app(Settings::default()), post("/detokenize", body)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "invalid_value"),
            "{}",
            answer.text
        );
    }
}
