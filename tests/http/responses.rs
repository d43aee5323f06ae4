//! The Responses API: shapes, events, conversations and refusals.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use stentor::http::Settings;
use stentor::service::responses::{Limits, Responses};
use tempfile::TempDir;

use super::fake::{Answer, app, delete, get, keeping, post, send};

pub const LIMITS: Limits = Limits { count: 100, bytes: 1 << 20 };

pub fn kept() -> (TempDir, Router) {
    let home = tempfile::tempdir().unwrap();
    let responses = Responses::open(home.path(), LIMITS).unwrap();
    (home, keeping(&responses, Settings::default()))
}

pub fn asking(model: &str, more: &Value) -> Request<Body> {
    let mut body = json!({"model": model, "input": "hello"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    post("/v1/responses", body.to_string())
}

pub async fn ask(app: &Router, model: &str, more: Value) -> Value {
    let answer = send(app, asking(model, &more)).await;
    assert_eq!(answer.status, 200, "{more}: {}", answer.text);
    answer.json()
}

pub fn text(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap()
}

pub fn id(response: &Value) -> &str {
    response["id"].as_str().unwrap()
}

#[tokio::test]
async fn a_response_has_openais_shape() {
    let (_home, app) = kept();
    let schema = json!({"type": "object"});
    let more = json!({
        "instructions": "Be brief.", "temperature": 0.5, "max_output_tokens": 99, "user": "u", "truncation": "disabled",
        "metadata": {"k": "v"}, "tool_choice": "none", "parallel_tool_calls": false, "reasoning": {"effort": "low"},
        "tools": [{"type": "function", "name": "f", "parameters": schema, "strict": null}],
        "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}, "verbosity": "medium"},
        "include": ["reasoning.encrypted_content"], "some_future_field": [1],
    });
    let response = ask(&app, "echo", more).await;
    assert!(id(&response).starts_with("resp_"));
    assert!(response["created_at"].as_u64().unwrap() > 1_700_000_000);
    assert!(response["completed_at"].as_u64() >= response["created_at"].as_u64());
    assert!(response["output"][0]["id"].as_str().unwrap().starts_with("msg_"));
    let mut shown = response.clone();
    for field in ["id", "created_at", "completed_at"] {
        shown.as_object_mut().unwrap().remove(field);
    }
    shown["output"][0].as_object_mut().unwrap().remove("id");
    assert_eq!(
        shown,
        json!({
            "object": "response", "status": "completed", "error": null, "incomplete_details": null, "model": "echo",
            "output": [{"type": "message", "role": "assistant", "status": "completed",
                        "content": [{"type": "output_text", "text": "hello!", "annotations": []}]}],
            "usage": {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
                      "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5},
            "background": false, "instructions": "Be brief.", "max_output_tokens": 99, "metadata": {"k": "v"},
            "parallel_tool_calls": false, "previous_response_id": null, "reasoning": {"effort": "low", "summary": null},
            "service_tier": "default", "store": true, "temperature": 0.5,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}, "tool_choice": "none",
            "tools": [{"type": "function", "name": "f", "description": null, "parameters": schema, "strict": false}],
            "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled", "user": "u",
        })
    );
    let named = json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "f"}});
    assert_eq!(ask(&app, "echo", named).await["tool_choice"], json!({"type": "function", "name": "f"}));
}

#[tokio::test]
async fn calls_and_thoughts_are_items() {
    let (_home, app) = kept();
    let response = ask(&app, "calls", json!({})).await;
    let call = |at: usize, id: &str, arguments: &str| {
        let item = &response["output"][at];
        assert!(item["id"].as_str().unwrap().starts_with("fc_"));
        let mut item = item.clone();
        item.as_object_mut().unwrap().remove("id");
        let wanted = json!({"type": "function_call", "call_id": id, "name": "weather", "arguments": arguments, "status": "completed"});
        assert_eq!(item, wanted);
    };
    call(0, "call_a", "{\"city\":\"Oslo\"}");
    call(1, "call_b", "{}");
    let response = ask(&app, "thinks", json!({})).await;
    assert_eq!(
        (&response["status"], &response["incomplete_details"], &response["completed_at"]),
        (&json!("incomplete"), &json!({"reason": "max_output_tokens"}), &Value::Null)
    );
    let thought = &response["output"][0];
    assert!(thought["id"].as_str().unwrap().starts_with("rs_"));
    assert_eq!((&thought["type"], &thought["summary"]), (&json!("reasoning"), &json!([])));
    assert_eq!(thought["content"], json!([{"type": "reasoning_text", "text": "Let me think."}]));
    assert_eq!(
        (&thought["status"], &response["output"][1]["status"]),
        (&json!("completed"), &json!("incomplete"))
    );
    assert_eq!(response["usage"]["output_tokens_details"]["reasoning_tokens"], 1);
}

/// The events but for their numbers, each as its type, its place and what it adds.
fn told(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let events = answer.named_events();
    for (at, (name, event)) in events.iter().enumerate() {
        assert_eq!(
            (event["sequence_number"].as_u64(), event["type"].as_str()),
            (Some(at as u64), Some(&**name))
        );
    }
    let tell = |(name, event): (String, Value)| {
        let name = name.strip_prefix("response.").unwrap_or(&name).to_owned();
        let said = ["delta", "text", "arguments"].iter().find_map(|field| event[field].as_str());
        format!("{name} {} {}", event["output_index"], said.unwrap_or_default())
    };
    let list: Vec<String> = events.into_iter().map(tell).collect();
    assert!(!answer.text.contains("[DONE]"));
    list
}

#[tokio::test]
async fn a_stream_tells_of_every_step_and_ends_with_the_whole() {
    let (_home, app) = kept();
    let answer = send(&app, asking("echo", &json!({"stream": true}))).await;
    assert_eq!(
        told(&answer),
        [
            "created null ",
            "in_progress null ",
            "output_item.added 0 ",
            "content_part.added 0 ",
            "output_text.delta 0 hello",
            "output_text.delta 0 !",
            "output_text.done 0 hello!",
            "content_part.done 0 ",
            "output_item.done 0 ",
            "completed null ",
        ]
    );
    let events = answer.named_events();
    assert_eq!(
        (&events[0].1["response"]["status"], &events[0].1["response"]["usage"]),
        (&json!("in_progress"), &Value::Null)
    );
    assert_eq!(
        (&events[2].1["item"]["content"], &events[2].1["item"]["status"]),
        (&json!([]), &json!("in_progress"))
    );
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
    assert_eq!((&events[3].1["part"], &events[7].1["part"]), (&part(""), &part("hello!")));
    assert_eq!((&events[4].1["content_index"], &events[4].1["logprobs"]), (&json!(0), &json!([])));
    let (item, last) = (&events[8].1["item"], &events[9].1["response"]);
    assert!(events[2..9].iter().all(|(_, e)| e["item_id"].is_null() || e["item_id"] == item["id"]));
    assert_eq!((&last["output"][0], &last["id"]), (item, &events[0].1["response"]["id"]));
    assert_eq!(last["usage"]["total_tokens"], 5);
    // What the last event says is what is kept.
    let found = send(&app, get(&format!("/v1/responses/{}", id(last)))).await;
    assert_eq!(found.json(), *last);
}

#[tokio::test]
async fn calls_thoughts_and_limits_are_streamed() {
    let (_home, app) = kept();
    let answer = send(&app, asking("calls", &json!({"stream": true}))).await;
    assert_eq!(
        told(&answer)[2..],
        [
            "output_item.added 0 ",
            "function_call_arguments.delta 0 {\"city\":",
            "function_call_arguments.delta 0 \"Oslo\"}",
            "function_call_arguments.done 0 {\"city\":\"Oslo\"}",
            "output_item.done 0 ",
            "output_item.added 1 ",
            "function_call_arguments.delta 1 {}",
            "function_call_arguments.done 1 {}",
            "output_item.done 1 ",
            "completed null ",
        ]
    );
    let events = answer.named_events();
    assert_eq!(
        (&events[2].1["item"]["call_id"], &events[2].1["item"]["arguments"]),
        (&json!("call_a"), &json!(""))
    );
    let answer = send(&app, asking("thinks", &json!({"stream": true}))).await;
    assert_eq!(
        told(&answer)[2..],
        [
            "output_item.added 0 ",
            "content_part.added 0 ",
            "reasoning_text.delta 0 Let me ",
            "reasoning_text.delta 0 think.",
            "reasoning_text.done 0 Let me think.",
            "content_part.done 0 ",
            "output_item.done 0 ",
            "output_item.added 1 ",
            "content_part.added 1 ",
            "output_text.delta 1 It is",
            "output_text.done 1 It is",
            "content_part.done 1 ",
            "output_item.done 1 ",
            "incomplete null ",
        ]
    );
}

#[tokio::test]
async fn a_failure_in_a_stream_is_told_and_not_kept() {
    let (home, app) = kept();
    let answer = send(&app, asking("breaks", &json!({"stream": true}))).await;
    let told = told(&answer);
    assert_eq!(told[told.len() - 2..], ["failed null ", "error null "]);
    let events = answer.named_events();
    let (failed, error) = (&events[events.len() - 2].1["response"], &events[events.len() - 1].1);
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert_eq!((&failed["store"], &failed["output"][0]["status"]), (&json!(false), &json!("incomplete")));
    assert_eq!((&error["code"], &error["param"]), (&json!("internal_error"), &Value::Null));
    assert!(!answer.text.contains("secret"), "{}", answer.text);
    assert_eq!(send(&app, asking("breaks", &json!({}))).await.status, 500);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    for (model, status, param) in
        [("nope", 404, json!("model")), ("long", 400, json!("input")), ("full", 429, json!(null))]
    {
        let answer = send(&app, asking(model, &json!({"stream": true}))).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (status, &param), "{model}");
    }
}

#[tokio::test]
async fn a_conversation_goes_on_from_a_response() {
    let (_home, app) = kept();
    let first = ask(&app, "recalls", json!({"input": "one", "instructions": "Be brief."})).await;
    assert_eq!(text(&first), "system: Be brief.; user: one");
    let second = ask(&app, "calls", json!({"input": "two", "previous_response_id": id(&first)})).await;
    let output = json!([
        {"type": "function_call_output", "call_id": "call_a", "output": "rain"},
        {"type": "function_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "sun"}]},
    ]);
    let more = json!({"input": output, "previous_response_id": id(&second), "instructions": "Be kind."});
    let third = ask(&app, "recalls", more).await;
    assert_eq!(
        text(&third),
        "system: Be kind.; user: one; assistant: system: Be brief.; user: one; user: two; \
         assistant:  call_a=weather{\"city\":\"Oslo\"} call_b=weather{}; tool: rain to call_a; tool: sun to call_b"
    );
    assert_eq!(third["previous_response_id"], second["id"]);
    // Without a new input it goes on from what is there; thoughts are not shown again.
    let thought = ask(&app, "thinks", json!({"input": "three"})).await;
    let body = json!({"model": "recalls", "previous_response_id": id(&thought)}).to_string();
    let last = send(&app, post("/v1/responses", body)).await.json();
    assert_eq!(text(&last), "user: three; assistant: It is");
    // A response in the middle that is gone is named.
    assert_eq!(send(&app, delete(&format!("/v1/responses/{}", id(&first)))).await.status, 200);
    let answer = send(&app, asking("echo", &json!({"previous_response_id": id(&third)}))).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "previous_response_not_found"));
    assert!(answer.text.contains(id(&first)) && answer.json()["error"]["param"] == "previous_response_id");
}

#[tokio::test]
async fn items_of_every_kind_become_turns() {
    let input = json!([
        {"role": "developer", "content": "Rules."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}], "encrypted_content": null},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "c", "annotations": [{"type": "file_path"}], "logprobs": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{\"x\": 1}", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "d"},
    ]);
    let (_home, app) = kept();
    let response = ask(&app, "recalls", json!({"input": input, "instructions": "First."})).await;
    assert_eq!(
        text(&response),
        "system: First.\n\nRules.; user: ab; assistant: c c1=f{\"x\":1}; tool: d to c1"
    );
    let list = |query: &str| {
        let (app, path) = (app.clone(), format!("/v1/responses/{}/input_items{query}", id(&response)));
        async move { send(&app, get(&path)).await }
    };
    let page = list("?order=asc&limit=3").await.json();
    assert_eq!((&page["object"], &page["has_more"]), (&json!("list"), &json!(true)));
    assert_eq!(page["data"][1]["content"][1], json!({"type": "input_text", "text": "b"}));
    assert_eq!((&page["last_id"], &page["data"][0]["role"]), (&json!("rs_1"), &json!("developer")));
    let rest = list("?order=asc&after=rs_1").await.json();
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (3, &json!(false)));
    assert_eq!((&rest["first_id"], &rest["data"][2]["output"]), (&json!("msg_1"), &json!("d")));
    assert_eq!(list("").await.json()["data"][0]["type"], "function_call_output");
    for (query, param) in
        [("?limit=0", "limit"), ("?limit=101", "limit"), ("?order=up", "order"), ("?after=x", "after")]
    {
        let answer = list(query).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["param"]),
            (400, &json!(param)),
            "{query}"
        );
    }
}

async fn refused(more: &Value, param: &str) {
    let answer = send(&app(Settings::default()), asking("echo", more)).await;
    assert_eq!(answer.status, 400, "{more}: {}", answer.text);
    assert_eq!(answer.json()["error"]["param"], param, "{more}: {}", answer.text);
}

#[tokio::test]
async fn a_wrong_item_is_named_by_its_place() {
    let many = vec![json!({"role": "user", "content": "x"}); 8193];
    for (more, param) in [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": many}), "input"),
        (json!({"input": [{"role": "robot", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"content": "x"}]}), "input[0].role"),
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
            "input[0].content[0].type",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}),
            "input[0].content[0].text",
        ),
        (json!({"input": [{"type": "item_reference", "id": "msg_1"}]}), "input[0].type"),
        (json!({"input": [{"type": "web_search_call", "id": "ws_1"}]}), "input[0].type"),
        (json!({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}), "input[0].call_id"),
        (
            json!({"input": [{"type": "function_call", "call_id": "c", "name": "f g", "arguments": "{}"}]}),
            "input[0].name",
        ),
        (
            json!({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[]"}]}),
            "input[0].arguments",
        ),
        (
            json!({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}),
            "input[0].call_id",
        ),
        (json!({"input": [{"role": "user", "content": "x", "id": "y".repeat(257)}]}), "input[0].id"),
    ] {
        refused(&more, param).await;
    }
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_by_name() {
    let pairs: serde_json::Map<String, Value> = (0..17).map(|n| (n.to_string(), json!(""))).collect();
    for (more, param) in [
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].name"),
        (
            json!({"tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "f"}]}),
            "tools[1].name",
        ),
        (json!({"tools": [{"type": "function", "name": "f", "parameters": 5}]}), "tools[0].parameters"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": {"type": "web_search"}}), "tool_choice"),
        (json!({"tool_choice": {"type": "function", "name": "g"}}), "tool_choice"),
        (json!({"text": {"format": {"type": "grammar"}}}), "text.format"),
        (json!({"text": {"format": {"type": "json_schema", "name": "x"}}}), "text.format"),
        (json!({"text": {"verbosity": "low"}}), "text.verbosity"),
        (json!({"reasoning": {"effort": "much"}}), "reasoning.effort"),
        (json!({"reasoning": {"context": "all_turns"}}), "reasoning.context"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"background": true}), "background"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"prompt": {"id": "pmpt_1"}}), "prompt"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"include": ["message.output_text.logprobs"]}), "include"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"messages": [{"role": "user", "content": "x"}]}), "messages"),
        (json!({"max_tokens": 5}), "max_tokens"),
        (json!({"n": 2}), "n"),
        (json!({"reasoning_effort": "low"}), "reasoning_effort"),
        (json!({"structured_outputs": {"regex": "a"}}), "structured_outputs"),
        (json!({"guided_choice": ["a"]}), "guided_choice"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"metadata": pairs}), "metadata"),
        (json!({"metadata": {"k": "v".repeat(513)}}), "metadata"),
        (json!({"metadata": {"k": 5}}), "metadata.k"),
        (json!({"user": "u".repeat(513)}), "user"),
    ] {
        refused(&more, param).await;
    }
}
