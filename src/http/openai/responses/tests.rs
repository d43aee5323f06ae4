use proptest::prelude::*;
use serde_json::{Value, json};

use super::request::{ResponseRequest, Wanted};
use crate::http::ApiError;
use crate::http::body::parse;
use crate::types::llm::{Constraint, ToolChoice};

fn check(more: &Value) -> Result<Wanted, ApiError> {
    let mut body = json!({"model": "m", "input": "hi"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    parse::<ResponseRequest>(body.to_string().as_bytes())?.check(&None)
}

#[test]
fn every_field_reaches_the_request() {
    let wanted = check(&json!({
        "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.5, "seed": -1,
        "frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {"7": 2}, "stop": ["x", ""],
        "max_output_tokens": 128_000_000_000u64, "reasoning": {"effort": "minimal"}, "n": 1, "stream": true,
        "chat_template_kwargs": {"enable_thinking": true}, "store": false, "instructions": "",
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true},
                  {"type": "function", "name": "g", "parameters": null}],
        "tool_choice": {"type": "function", "name": "g"}, "parallel_tool_calls": false,
        "text": {"format": {"type": "json_object"}},
        "background": false, "top_logprobs": 0, "truncation": "disabled", "conversation": null, "include": [],
        "service_tier": "auto", "prompt_cache_key": "k", "safety_identifier": "s", "max_tool_calls": 3,
        "stream_options": {"include_obfuscation": false},
    }))
    .unwrap();
    let (request, sampling) = (&wanted.request, &wanted.request.sampling);
    assert_eq!(
        (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p),
        (0.0, 0.5, Some(3), 0.1)
    );
    assert_eq!((sampling.repetition_penalty, sampling.seed), (1.5, Some(u64::MAX)));
    assert_eq!((sampling.frequency_penalty, sampling.presence_penalty), (0.5, -0.5));
    assert_eq!((&sampling.logit_bias, &request.stop), (&vec![(7, 2.0)], &vec!["x".to_owned()]));
    assert_eq!((request.max_tokens, request.n), (Some(u32::MAX), 1));
    assert_eq!((request.thinking.enabled, request.thinking.budget), (Some(true), Some(256)));
    assert_eq!((&request.tools.choice, request.tools.parallel), (&ToolChoice::Named("g".into()), false));
    let tools = &request.tools.list;
    assert_eq!((tools[0].strict, &tools[0].parameters), (true, &Some(json!({"type": "object"}))));
    assert_eq!((tools[1].strict, &tools[1].description, &tools[1].parameters), (false, &None, &None));
    assert_eq!(request.constraint, Some(("text.format", Constraint::JsonObject)));
    assert!(wanted.stream && !wanted.echo.store && wanted.instructions.is_none());
    let budget = check(&json!({"thinking_budget": 7, "reasoning": {"effort": "xhigh"}})).unwrap();
    assert_eq!(budget.request.thinking.budget, Some(7));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![
            "user",
            "assistant",
            "message",
            "function_call",
            "input_text",
            "function",
            "f",
            "{}"
        ])
        .prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "type",
        "role",
        "content",
        "text",
        "id",
        "call_id",
        "name",
        "arguments",
        "output",
        "format",
        "schema",
        "effort",
    ]);
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_value_in_any_field_is_a_request_or_a_client_error(
        field in prop::sample::select(vec![
            "model", "input", "instructions", "previous_response_id", "store", "stream", "max_output_tokens", "temperature",
            "text", "tools", "tool_choice", "reasoning", "metadata", "user", "truncation", "include", "stop", "n",
        ]),
        value in any_json(),
    ) {
        let status = check(&json!({field: value})).map(drop).map_err(|e| e.status.as_u16());
        prop_assert!(matches!(status, Ok(()) | Err(400 | 404)), "{status:?}");
    }

    #[test]
    fn any_item_is_a_turn_or_a_client_error(items in prop::collection::vec(any_json(), 0..4)) {
        if let Ok(wanted) = check(&json!({"input": items})) {
            let turns = super::items::turns(Some("Be brief."), Vec::new(), &wanted.input);
            prop_assert!(turns.map_or_else(|e| e.status == 400, |turns| !turns.is_empty()));
        }
    }
}
