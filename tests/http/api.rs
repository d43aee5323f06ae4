//! Routes, shapes and refusals, in process.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stentor::http::{Access, Dialect, Settings, table};
use stentor::types::key::ApiKey;

use super::fake::{Fake, app, delete, form, get, post, send, state};

fn plain() -> axum::Router {
    app(Settings::default())
}

fn chat(model: &str, more: &Value) -> String {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

#[tokio::test]
async fn a_chat_answer_has_openais_shape() {
    let body = chat("echo", &json!({"n": 2}));
    let answer = send(&plain(), post("/v1/chat/completions", body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let reply = answer.json();
    assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(reply["object"], "chat.completion");
    assert!(reply["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(reply["model"], "echo");
    assert_eq!(reply["choices"].as_array().unwrap().len(), 2);
    assert_eq!(
        reply["choices"][1],
        json!({"index": 1, "message": {"role": "assistant", "content": "hello!", "refusal": null},
               "logprobs": null, "finish_reason": "stop"})
    );
    assert_eq!(
        reply["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
               "prompt_tokens_details": {"cached_tokens": 1}})
    );
    assert!(answer.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
}

#[tokio::test]
async fn calls_have_openais_shape_whole_and_streamed() {
    let answer = send(&plain(), post("/v1/chat/completions", chat("calls", &json!({})))).await;
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}});
    assert_eq!(
        answer.json()["choices"][0],
        json!({"index": 0, "message": {"role": "assistant", "content": null, "refusal": null,
               "tool_calls": [call("call_a", "{\"city\":\"Oslo\"}"), call("call_b", "{}")]},
               "logprobs": null, "finish_reason": "tool_calls"})
    );
    let answer = send(&plain(), post("/v1/chat/completions", chat("calls", &json!({"stream": true})))).await;
    let events = answer.events();
    let deltas: Vec<Value> = events[1..4]
        .iter()
        .map(|e| serde_json::from_str::<Value>(e).unwrap()["choices"][0]["delta"].clone())
        .collect();
    let first = |index: u32, id: &str, arguments: &str| {
        json!({"tool_calls": [{"index": index, "id": id, "type": "function",
               "function": {"name": "weather", "arguments": arguments}}]})
    };
    let more = json!({"tool_calls": [{"index": 0, "function": {"arguments": "\"Oslo\"}"}}]});
    assert_eq!(deltas, [first(0, "call_a", "{\"city\":"), more, first(1, "call_b", "{}")]);
    assert!(events[4].contains("\"finish_reason\":\"tool_calls\""), "{}", events[4]);
}

#[tokio::test]
async fn a_streamed_chat_opens_with_the_role_and_ends_with_done() {
    let body = chat("echo", &json!({"stream": true, "stream_options": {"include_usage": true}}));
    let answer = send(&plain(), post("/v1/chat/completions", body)).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let mut events = answer.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk" && c["id"] == chunks[0]["id"]));
    let deltas: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]["delta"]).collect();
    assert_eq!(deltas[0], &json!({"role": "assistant", "content": ""}));
    assert_eq!(deltas[1], &json!({"content": "hello"}));
    assert_eq!(deltas[2], &json!({"content": "!"}));
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
    assert_eq!(deltas[3], &json!({}));
    assert_eq!(chunks[4]["choices"], json!([]));
    assert_eq!(chunks[4]["usage"]["total_tokens"], 5);
    assert!(chunks[..4].iter().all(|c| c.get("usage") == Some(&Value::Null)));
    let body = chat("echo", &json!({"stream": true}));
    let answer = send(&plain(), post("/v1/chat/completions", body)).await;
    assert!(!answer.text.contains("usage") && answer.text.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn log_probabilities_have_openais_shapes_whole_and_streamed() {
    let scored =
        |token: &str, logprob: f32| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
    let token = |text: &str| {
        let mut token = scored(text, -0.5);
        token["top_logprobs"] = json!([scored("t0", -2.0), scored("t1", -3.0)]);
        token
    };
    let asked = json!({"logprobs": true, "top_logprobs": 2});
    let reply = send(&plain(), post("/v1/chat/completions", chat("echo", &asked))).await.json();
    let both = json!({"content": [token("hello"), token("!")], "refusal": null});
    assert_eq!(reply["choices"][0]["logprobs"], both);
    // In a stream each token is in the chunk that has its text.
    let asked = json!({"logprobs": true, "top_logprobs": 2, "stream": true, "n": 2});
    let answer = send(&plain(), post("/v1/chat/completions", chat("echo", &asked))).await;
    let events: Vec<Value> =
        answer.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let texts = events.iter().filter(|e| !e["choices"][0]["logprobs"].is_null());
    let texts: Vec<_> =
        texts.map(|e| (&e["choices"][0]["delta"]["content"], &e["choices"][0]["logprobs"])).collect();
    assert_eq!(texts.len(), 4, "{}", answer.text);
    for (text, logprobs) in texts {
        assert_eq!(logprobs, &json!({"content": [token(text.as_str().unwrap())], "refusal": null}));
    }

    let completion = |more: &str| format!(r#"{{"model":"echo","prompt":["a"],"logprobs":1{more}}}"#);
    let reply = send(&plain(), post("/v1/completions", completion(""))).await.json();
    let lists = json!({
        "tokens": ["a", "!"], "token_logprobs": [-0.5, -0.5], "text_offset": [0, 1],
        "top_logprobs": [{"t0": -2.0, "a": -0.5}, {"t0": -2.0, "!": -0.5}],
    });
    assert_eq!(reply["choices"][0]["logprobs"], lists);
    let answer = send(&plain(), post("/v1/completions", completion(r#","stream":true"#))).await;
    let second: Value = serde_json::from_str(&answer.events()[1]).unwrap();
    assert_eq!(
        (&second["choices"][0]["text"], &second["choices"][0]["logprobs"]["text_offset"]),
        (&json!("!"), &json!([1]))
    );
    let plain_answer =
        send(&plain(), post("/v1/completions", json!({"model": "echo", "prompt": "a"}).to_string())).await;
    assert_eq!(plain_answer.json()["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test]
async fn an_error_in_a_stream_is_one_event_and_the_end() {
    let body = chat("breaks", &json!({"stream": true}));
    let answer = send(&plain(), post("/v1/chat/completions", body)).await;
    let events = answer.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "internal_error");
    assert!(!answer.text.contains("[DONE]") && !answer.text.contains("secret"));
}

#[tokio::test]
async fn completions_number_their_answers_by_prompt() {
    let body = json!({"model": "echo", "prompt": ["a", "b"], "n": 2}).to_string();
    let reply = send(&plain(), post("/v1/completions", body)).await.json();
    assert_eq!(reply["object"], "text_completion");
    let texts: Vec<_> = reply["choices"].as_array().unwrap().iter().map(|c| c["text"].clone()).collect();
    assert_eq!(texts, ["a!", "a!", "b!", "b!"]);
    assert_eq!(reply["choices"][3]["index"], 3);
    assert_eq!(reply["usage"]["prompt_tokens"], 6);
    let body = json!({"model": "echo", "prompt": [[1, 2]], "stream": true}).to_string();
    let answer = send(&plain(), post("/v1/completions", body)).await;
    assert!(answer.events()[0].contains("[1, 2]"), "{}", answer.text);
    assert_eq!(answer.events().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_base64() {
    let body = json!({"model": "vectors", "input": ["a", "b"], "user": "u"}).to_string();
    let reply = send(&plain(), post("/v1/embeddings", body)).await.json();
    assert_eq!(
        reply,
        json!({"object": "list", "model": "vectors", "usage": {"prompt_tokens": 5, "total_tokens": 5},
            "data": [{"object": "embedding", "index": 0, "embedding": [0.0, 0.0]},
                     {"object": "embedding", "index": 1, "embedding": [1.0, 1.0]}]})
    );
    let body = json!({"model": "vectors", "input": [[1], [2]], "encoding_format": "base64", "dimensions": 1});
    let reply = send(&plain(), post("/v1/embeddings", body.to_string())).await.json();
    assert_eq!(reply["data"][1]["embedding"], "AACAPw==");
}

#[tokio::test]
async fn transcripts_come_in_every_format() {
    let path = "/v1/audio/transcriptions";
    let ask = |format: &'static str| async move {
        let fields = [
            ("extra", "@a file nobody asked for"),
            ("model", "whisper-1"),
            ("file", "@12345"),
            ("response_format", format),
            ("something", "else"),
        ];
        send(&plain(), form(path, &fields)).await
    };
    let reply = ask("json").await;
    assert_eq!(
        reply.json(),
        json!({"text": "5 bytes of a.wav", "usage": {"type": "duration", "seconds": 2}})
    );
    let verbose = ask("verbose_json").await.json();
    assert_eq!((&verbose["task"], &verbose["language"]), (&json!("transcribe"), &json!("en")));
    assert_eq!(verbose["duration"], 1.5);
    let segment = &verbose["segments"][0];
    for field in [
        "id",
        "seek",
        "start",
        "end",
        "text",
        "tokens",
        "temperature",
        "avg_logprob",
        "compression_ratio",
        "no_speech_prob",
    ] {
        assert!(!segment[field].is_null(), "no {field}");
    }
    assert_eq!(ask("text").await.text, "5 bytes of a.wav\n");
    assert_eq!(ask("srt").await.text, "1\n00:00:00,000 --> 00:00:01,500\n5 bytes of a.wav\n\n");
    assert_eq!(ask("vtt").await.text, "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n5 bytes of a.wav\n\n");
    let fields = [("model", "org/ears"), ("file", "@x"), ("response_format", "verbose_json")];
    let reply = send(&plain(), form("/v1/audio/translations", &fields)).await.json();
    assert_eq!(reply["task"], "translate");
}

#[tokio::test]
async fn broken_uploads_are_client_errors() {
    let path = "/v1/audio/transcriptions";
    for fields in [
        &[("model", "whisper-1")][..],
        &[("model", "whisper-1"), ("file", "@")],
        &[("file", "@x"), ("model", "whisper-1"), ("file", "@y")],
        &[("file", "@x"), ("model", "whisper-1"), ("timestamp_granularities[]", "word")],
        &[("file", "@x")],
    ] {
        let answer = send(&plain(), form(path, fields)).await;
        assert_eq!(answer.status, 400, "{fields:?} {}", answer.text);
        answer.code();
    }
    let mut cut = form(path, &[("model", "whisper-1"), ("file", "@x")]);
    *cut.body_mut() = "--XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc".into();
    assert_eq!(send(&plain(), cut).await.code(), "invalid_form");
    let answer = send(&plain(), post(path, "{}")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (415, "unsupported_media_type"));
    let many: Vec<(&str, &str)> = (0..70).map(|_| ("a", "b")).collect();
    assert_eq!(send(&plain(), form(path, &many)).await.status, 400);
    let long = "x".repeat(70_000);
    assert_eq!(send(&plain(), form(path, &[("prompt", &long)])).await.status, 400);
}

#[tokio::test]
async fn a_part_header_without_end_is_cut_off() {
    let mut request = form("/v1/audio/transcriptions", &[]);
    let chunks = std::iter::once("--XX\r\nContent-Disposition: ".to_owned())
        .chain(std::iter::repeat_n("a".repeat(60_000), 100))
        .map(Ok::<_, std::io::Error>);
    *request.body_mut() = axum::body::Body::from_stream(futures::stream::iter(chunks));
    let answer = send(&plain(), request).await;
    assert_eq!(answer.code(), "invalid_body");
}

#[tokio::test]
async fn models_are_listed_and_found_by_id_and_alias() {
    let reply = send(&plain(), get("/v1/models")).await.json();
    assert_eq!(reply["object"], "list");
    assert_eq!(
        reply["data"][2],
        json!({"id": "org/ears", "created": 1_700_000_000, "object": "model", "owned_by": "someone",
               "loaded": false})
    );
    assert_eq!(reply["data"][0]["loaded"], true);
    for name in ["org/ears", "org%2Fears", "whisper-1"] {
        let reply = send(&plain(), get(&format!("/v1/models/{name}"))).await.json();
        assert_eq!(reply["id"], "org/ears", "{name}");
    }
    let answer = send(&plain(), get("/v1/models/nope")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "model_not_found"));
    assert!(answer.text.contains("org/ears"));
    assert_eq!(send(&plain(), get("/v1/models/%ff")).await.status, 400);
}

#[tokio::test]
async fn failures_have_their_status_and_body() {
    for (model, status, code, param) in [
        ("nope", 404, "model_not_found", json!("model")),
        ("vectors", 400, "model_not_supported", json!("model")),
        ("long", 400, "context_length_exceeded", json!("messages")),
        ("full", 429, "rate_limit_exceeded", json!(null)),
        ("breaks", 500, "internal_error", json!(null)),
        ("panics", 500, "internal_error", json!(null)),
    ] {
        let answer = send(&plain(), post("/v1/chat/completions", chat(model, &json!({})))).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{model}");
        assert_eq!(answer.json()["error"]["param"], param, "{model}");
        assert!(!answer.text.contains("secret"), "{}", answer.text);
        if status == 429 {
            assert_eq!(answer.headers["retry-after"], "2");
            assert_eq!(answer.headers["retry-after-ms"], "1500");
        }
    }
}

#[tokio::test]
async fn what_is_no_route_or_method_or_type_is_answered_alike() {
    let app = plain();
    let answer = send(&app, get("/v1/nothing")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"));
    let answer = send(&app, get("/v1/embeddings")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(answer.headers["allow"], "POST");
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let mut request = post("/v1/embeddings", "{}");
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        assert_eq!(send(&app, request).await.status, 415, "{kind}");
    }
    let mut request = post("/v1/embeddings", json!({"model": "vectors", "input": "a"}).to_string());
    request.headers_mut().insert("content-type", "application/json; charset=utf-8".parse().unwrap());
    assert_eq!(send(&app, request).await.status, 200);
}

#[tokio::test]
async fn a_request_that_never_ends_is_stopped_at_its_deadline() {
    let settings = Settings { request_timeout: std::time::Duration::from_millis(50), ..Settings::default() };
    let app = app(settings);
    let answer = send(&app, post("/v1/chat/completions", chat("never", &json!({})))).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (504, "timeout"));
    let body = chat("endless", &json!({"stream": true}));
    let answer = send(&app, post("/v1/chat/completions", body)).await;
    assert!(answer.events().last().unwrap().contains("\"code\":\"timeout\""));
}

fn with_key() -> axum::Router {
    let key = ApiKey { id: "laptop".into(), sha256: Sha256::digest(b"right-key-of-length").into() };
    app(Settings { keys: vec![key], ..Settings::default() })
}

#[tokio::test]
async fn who_has_a_key_cannot_go_before_others() {
    let ask = |app: axum::Router, priority: i32| async move {
        let mut request = post("/v1/chat/completions", chat("echo", &json!({"priority": priority})));
        request.headers_mut().insert("x-api-key", "right-key-of-length".parse().unwrap());
        let answer = send(&app, request).await;
        (answer.status.as_u16(), answer.json()["error"]["param"].clone())
    };
    assert_eq!(ask(with_key(), -1).await, (400, json!("priority")));
    assert_eq!(ask(with_key(), 1).await, (200, Value::Null));
    assert_eq!(ask(plain(), -1).await, (200, Value::Null));
}

#[tokio::test]
async fn every_route_asks_for_a_key_unless_the_table_says_otherwise() {
    let app = with_key();
    for route in table() {
        let path = route.path.replace("{*id}", "echo").replace("{id}", "resp_none");
        let request = |key: Option<&str>| {
            let mut request = match route.method {
                "GET" => get(&path),
                "DELETE" => delete(&path),
                _ => post(&path, "{}"),
            };
            if let Some(key) = key {
                let value = format!("Bearer {key}").parse().unwrap();
                request.headers_mut().insert("authorization", value);
            }
            request
        };
        let open = route.access == Access::Public;
        for key in [None, Some("wrong")] {
            let answer = send(&app, request(key)).await;
            assert_eq!(answer.status != 401, open, "{path} {key:?}");
            if !open {
                let said = match route.dialect {
                    Dialect::OpenAi => "invalid_api_key",
                    Dialect::Paneas => "Unauthorized",
                    Dialect::Pmx | Dialect::PmxSpeech => "Invalid API key",
                };
                assert_eq!(answer.error(route.dialect), said);
                assert_eq!(answer.headers["www-authenticate"], "Bearer");
            }
        }
        assert_ne!(send(&app, request(Some("right-key-of-length"))).await.status, 401, "{path}");
    }
    assert_eq!(send(&app, get("/v1/nothing")).await.status, 401);
    let mut request = get("/v1/models");
    request.headers_mut().insert("x-api-key", "right-key-of-length".parse().unwrap());
    assert_eq!(send(&app, request).await.status, 200);
}

#[tokio::test]
async fn foreign_hosts_and_pages_are_refused() {
    let mut request = get("/healthz");
    request.headers_mut().insert("host", "evil.example".parse().unwrap());
    let answer = send(&plain(), request).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "host_not_allowed"));
    let mut request = post("/v1/chat/completions", chat("echo", &json!({})));
    request.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    let answer = send(&plain(), request).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "origin_not_allowed"));
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn configured_origins_and_no_others_get_cors_headers() {
    let app = app(Settings { cors_origins: vec!["https://chat.example".into()], ..Settings::default() });
    let preflight = |origin: &str| {
        let mut request = get("/v1/chat/completions");
        *request.method_mut() = axum::http::Method::OPTIONS;
        request.headers_mut().insert("origin", origin.parse().unwrap());
        request.headers_mut().insert("access-control-request-method", "POST".parse().unwrap());
        request
    };
    let answer = send(&app, preflight("https://chat.example")).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "https://chat.example");
    let answer = send(&app, preflight("https://evil.example")).await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    let mut request = post("/v1/chat/completions", chat("echo", &json!({})));
    request.headers_mut().insert("origin", "https://chat.example".parse().unwrap());
    let answer = send(&app, request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], "https://chat.example");
}

#[tokio::test]
async fn probes_and_pages_answer() {
    let app = plain();
    assert_eq!(send(&app, get("/healthz")).await.status, 200);
    assert_eq!(send(&app, get("/health")).await.json(), json!({"status": "ok"}));
    assert_eq!(send(&app, get("/readyz")).await.json(), json!({"ready": true}));
    assert_eq!(send(&app, get("/version")).await.json()["version"], env!("CARGO_PKG_VERSION"));
    let loading = Fake { not_ready: true, ..Fake::default() };
    let loading = stentor::http::router(state(loading, Settings::default()));
    let answer = send(&loading, get("/readyz")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reason"], "loading echo");
    let description = send(&app, get("/openapi.json")).await.json();
    assert!(description["paths"]["/v1/chat/completions"]["post"].is_object());
    let page = send(&app, get("/docs")).await;
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("script-src 'sha256-"));
    for foreign in ["http://", "https://", "innerHTML", "src=", "@import"] {
        assert!(!page.text.contains(foreign), "{foreign}");
    }
    let answer = send(&app, get("/")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn metrics_count_by_template_and_never_by_what_a_client_sends() {
    let app = plain();
    send(&app, get("/v1/models/some-client-text")).await;
    send(&app, get("/some-client-path")).await;
    let mut odd = get("/healthz");
    *odd.method_mut() = axum::http::Method::from_bytes(b"SOMEVERB").unwrap();
    send(&app, odd).await;
    let text = send(&app, get("/metrics")).await.text;
    assert!(text.contains("http_requests_total{route=\"/v1/models/{*id}\",method=\"GET\",status=\"4xx\"}"));
    assert!(text.contains("route=\"other\""));
    assert!(!text.contains("some-client") && !text.contains("SOMEVERB"));
}

#[tokio::test]
async fn a_sane_request_id_is_echoed() {
    let mut request = get("/v1/models");
    request.headers_mut().insert("x-request-id", "abc-123".parse().unwrap());
    assert_eq!(send(&plain(), request).await.headers["x-request-id"], "abc-123");
    let mut request = get("/v1/models");
    request.headers_mut().insert("x-request-id", "a b\"".parse().unwrap());
    assert_ne!(send(&plain(), request).await.headers["x-request-id"], "a b\"");
}
