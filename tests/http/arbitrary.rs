//! Whatever is posted to whichever route: an answer that is no server error.

use proptest::prelude::*;
use serde_json::{Value, json};
use stentor::http::{Settings, table};

use super::fake::{app, form, post, send};

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "echo",
            "vectors",
            "user",
            "text",
            "base64",
            "input_text",
            "function_call",
            "reasoning"
        ])
        .prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        "[a-z_]{1,10}",
        prop::sample::select(vec![
            "model",
            "messages",
            "role",
            "content",
            "prompt",
            "input",
            "stream",
            "stop",
            "n",
            "type",
            "text",
            "temperature",
            "dimensions",
            "encoding_format",
            "tools",
            "stream_options",
            "call_id",
            "arguments",
            "output",
            "metadata",
            "tokens",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn check(body: Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let app = app(Settings::default());
        for route in table().iter().filter(|route| route.method == "POST") {
            let answer = send(&app, post(route.path, body.clone())).await;
            assert!(answer.status.as_u16() < 500, "{}: {} {}", route.path, answer.status, answer.text);
            if !answer.status.is_success() {
                answer.error(route.dialect);
            }
            let mut multipart = form(route.path, &[]);
            *multipart.body_mut() = body.clone().into();
            let answer = send(&app, multipart).await;
            assert!(answer.status.as_u16() < 500, "{}: {}", route.path, answer.status);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn json_of_any_shape(body in value()) {
        check(body.to_string().into_bytes());
    }

    #[test]
    fn near_misses(field in "model|messages|prompt|input|stop|n|stream|dimensions|tokens|text|tools|reasoning|instructions", odd in value()) {
        let mut body = json!({
            "model": "echo", "input": "a", "prompt": "a", "tokens": [1], "messages": [{"role": "user", "content": "a"}],
        });
        body[field] = odd;
        check(body.to_string().into_bytes());
    }

    #[test]
    fn bytes_of_any_kind(body in prop::collection::vec(any::<u8>(), 0..200)) {
        check(body);
    }
}
