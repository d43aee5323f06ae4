use proptest::prelude::*;
use serde_json::json;

use super::chat::ChatRequest;
use super::completions::CompletionRequest;
use super::embeddings::{EmbeddingRequest, Encoding, Vector};
use crate::http::ApiError;
use crate::http::body::parse;
use crate::types::embed;
use crate::types::llm::{Constraint, Message, Prompt, Request, Role, ToolChoice, Tools};

fn chat(text: &str) -> Result<Request, ApiError> {
    parse::<ChatRequest>(text.as_bytes())?.into_request(&None)
}

fn completion(text: &str) -> Result<Vec<Request>, ApiError> {
    parse::<CompletionRequest>(text.as_bytes())?.into_requests(&None)
}

fn embedding(text: &str) -> Result<(embed::Request, Encoding), ApiError> {
    parse::<EmbeddingRequest>(text.as_bytes())?.into_request(&None)
}

/// A chat request with one more field.
fn with(field: &str) -> Result<Request, ApiError> {
    chat(&format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],{field}}}"#))
}

#[test]
fn a_conversation_becomes_messages() {
    let request = chat(
        r#"{"model":"m","messages":[
            {"role":"developer","content":"be brief","name":"x"},
            {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
            {"role":"assistant","content":null},
            {"role":"tool","content":"42","tool_call_id":"t"}],
            "temperature":0,"top_p":0,"seed":-1,"max_tokens":128000000000,"stop":["x","",  "y"],"n":3,
            "user":"u","some_future_field":{"a":[1]},"tools":[],"tool_choice":"auto","logprobs":false,
            "response_format":{"type":"text"},"logit_bias":{},"stream_options":null}"#,
    )
    .unwrap();
    let message = |role, content: &str| Message::new(role, content);
    assert_eq!(
        request.prompt,
        Prompt::Chat(vec![
            message(Role::System, "be brief"),
            message(Role::User, "ab"),
            message(Role::Assistant, ""),
            Message { tool_call_id: Some("t".into()), ..message(Role::Tool, "42") },
        ])
    );
    assert_eq!(request.sampling.temperature, 0.0);
    assert!(request.sampling.top_p > 0.0);
    assert_eq!(request.sampling.seed, Some(u64::MAX));
    assert_eq!(request.max_tokens, Some(u32::MAX));
    assert_eq!(request.stop, ["x", "y"]);
    assert_eq!(request.n, 3);
}

#[test]
fn max_completion_tokens_wins_and_defaults_hold() {
    assert_eq!(with(r#""max_tokens":5,"max_completion_tokens":7"#).unwrap().max_tokens, Some(7));
    let plain = with(r#""stop":"end","temperature":null"#).unwrap();
    assert_eq!((plain.max_tokens, plain.n, plain.sampling.temperature), (None, 1, 1.0));
    assert_eq!(plain.stop, ["end"]);
}

#[test]
fn what_shapes_the_choice_is_taken_over() {
    let all = r#""top_k":40,"min_p":0.05,"typical_p":0.9,"repetition_penalty":1.1,"logit_bias":{"50":-100,"7":2.5}"#;
    let sampling = with(all).unwrap().sampling;
    assert_eq!(sampling.typical_p, 0.9);
    assert_eq!((sampling.top_k, sampling.min_p, sampling.repetition_penalty), (Some(40), 0.05, 1.1));
    assert_eq!(sampling.logit_bias, [(50, -100.0), (7, 2.5)]);
    for none in [r#""top_k":0"#, r#""top_k":-1"#, r#""top_k":null,"min_p":null,"logit_bias":null"#] {
        let sampling = with(none).unwrap().sampling;
        assert_eq!(sampling, crate::types::llm::Sampling::default(), "{none}");
    }
}

#[test]
fn both_routes_take_the_same_fields() {
    let fields = r#""seed":5,"temperature":0.5,"top_p":0.25,"n":2,"stop":["x"],"stop_token_ids":[7,9],
        "ignore_eos":true,"min_tokens":3,"max_tokens":4,"priority":-7,"presence_penalty":-1,"frequency_penalty":2"#;
    let chat = with(fields).unwrap();
    let text = completion(&format!(r#"{{"model":"m","prompt":["x"],{fields}}}"#)).unwrap().remove(0);
    assert_eq!((&chat.stop_tokens[..], chat.ignore_eos, chat.min_tokens), (&[7, 9][..], true, 3));
    assert_eq!(Request { prompt: Prompt::Text("x".into()), tools: Tools::default(), ..chat }, text);
    let long = format!(r#""stop_token_ids":{:?}"#, vec![1; 129]);
    assert_eq!(with(&long).unwrap_err().param.as_deref(), Some("stop_token_ids"));
    // The path of an error inside of a list is whole here too.
    let error = completion(r#"{"model":"m","prompt":"x","stop_token_ids":["a"]}"#).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("stop_token_ids[0]"));
}

#[test]
fn log_probabilities_are_asked_for_in_two_ways() {
    for (field, wanted) in [
        (r#""logprobs":null,"top_logprobs":null"#, None),
        (r#""logprobs":false,"top_logprobs":0"#, None),
        (r#""logprobs":true"#, Some(0)),
        (r#""logprobs":true,"top_logprobs":20"#, Some(20)),
    ] {
        assert_eq!(with(field).unwrap().logprobs, wanted, "{field}");
    }
    let text = |value: &str| completion(&format!(r#"{{"model":"m","prompt":["x","y"],"logprobs":{value}}}"#));
    for (value, wanted) in [("null", None), ("0", Some(0)), ("5", Some(5))] {
        assert!(text(value).unwrap().iter().all(|request| request.logprobs == wanted));
    }
    for wrong in ["6", "-1", "true"] {
        assert_eq!(text(wrong).unwrap_err().param.as_deref(), Some("logprobs"), "{wrong}");
    }
}

#[test]
fn wrong_types_and_values_name_their_field() {
    for (field, param) in [
        (r#""temperature":"hot""#, "temperature"),
        (r#""temperature":2.1"#, "temperature"),
        (r#""temperature":-0.1"#, "temperature"),
        (r#""top_p":1.5"#, "top_p"),
        (r#""top_k":-2"#, "top_k"),
        (r#""top_k":4294967296"#, "top_k"),
        (r#""top_k":0.5"#, "top_k"),
        (r#""min_p":1.1"#, "min_p"),
        (r#""repetition_penalty":0"#, "repetition_penalty"),
        (r#""typical_p":1.1"#, "typical_p"),
        (r#""ignore_eos":1"#, "ignore_eos"),
        (r#""min_tokens":-1"#, "min_tokens"),
        (r#""priority":-101"#, "priority"),
        (r#""priority":0.5"#, "priority"),
        (r#""min_tokens":3,"max_tokens":2"#, "min_tokens"),
        (r#""stop_token_ids":[1,-1]"#, "stop_token_ids[1]"),
        (r#""stop_token_ids":7"#, "stop_token_ids"),
        (r#""guided_choice":["a",1]"#, "guided_choice[1]"),
        (r#""structured_outputs":{"regex":1}"#, "structured_outputs.regex"),
        (r#""logit_bias":[1]"#, "logit_bias"),
        (r#""logit_bias":{"x":1}"#, "logit_bias"),
        (r#""logit_bias":{"5":101}"#, "logit_bias"),
        (r#""n":0"#, "n"),
        (r#""n":9"#, "n"),
        (r#""n":-1"#, "n"),
        (r#""max_tokens":0"#, "max_tokens"),
        (r#""max_completion_tokens":0"#, "max_completion_tokens"),
        (r#""max_tokens":1.5"#, "max_tokens"),
        (r#""stop":5"#, "stop"),
        (r#""stop":["a",5]"#, "stop[1]"),
        (r#""stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]"#, "stop"),
        (r#""stream":"yes""#, "stream"),
        (r#""stream_options":{"include_usage":1}"#, "stream_options.include_usage"),
        (r#""presence_penalty":3"#, "presence_penalty"),
        (r#""seed":"x""#, "seed"),
        (r#""logprobs":3"#, "logprobs"),
        (r#""logprobs":true,"top_logprobs":21"#, "top_logprobs"),
        (r#""logprobs":true,"top_logprobs":-1"#, "top_logprobs"),
        (r#""top_logprobs":3"#, "top_logprobs"),
        (r#""logprobs":false,"top_logprobs":3"#, "top_logprobs"),
    ] {
        let error = with(field).unwrap_err();
        assert_eq!(error.status, 400, "{field}");
        assert_eq!(error.param.as_deref(), Some(param), "{field}: {}", error.message);
    }
}

#[test]
fn wrong_tools_name_their_field() {
    for (field, param) in [
        (r#""tools":[{"type":"function"}]"#, "tools[0]"),
        (r#""tools":[{"type":"function","function":{"name":"a b"}}]"#, "tools[0].function.name"),
        (
            r#""tools":[{"type":"function","function":{"name":"f","parameters":5}}]"#,
            "tools[0].function.parameters",
        ),
        (
            r#""tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}]"#,
            "tools[1].function.name",
        ),
        (r#""tool_choice":"required""#, "tool_choice"),
        (r#""tool_choice":"often""#, "tool_choice"),
        (r#""tool_choice":{"type":"function"}"#, "tool_choice"),
        (r#""tool_choice":{"type":"function","function":{"name":"f"}}"#, "tool_choice"),
    ] {
        let error = with(field).unwrap_err();
        assert_eq!(error.status, 400, "{field}");
        assert_eq!(error.param.as_deref(), Some(param), "{field}: {}", error.message);
    }
}

#[test]
fn a_wrong_message_is_named_by_its_place() {
    for (messages, param) in [
        (r#"{"role":"user"}"#, "messages"),
        (r#"[]"#, "messages"),
        (r#"[{"role":"robot","content":"x"}]"#, "messages[0].role"),
        (r#"[{"content":"x"}]"#, "messages[0]"),
        (r#"[{"role":"user","content":5}]"#, "messages[0].content"),
        (r#"[{"role":"user"}]"#, "messages[0].content"),
        (r#"[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]"#, "messages[0].content"),
        (r#"[{"role":"user","content":[{"type":"text"}]}]"#, "messages[0].content"),
        (r#"[{"role":"assistant","tool_calls":[{"id":"1"}]}]"#, "messages[0].tool_calls"),
        (
            r#"[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"[]"}}]}]"#,
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            r#"[{"role":"user","content":"x","tool_calls":[{"id":"1","function":{"name":"f","arguments":""}}]}]"#,
            "messages[0].tool_calls",
        ),
        (r#"[{"role":"tool","content":"x","tool_call_id":""}]"#, "messages[0].tool_call_id"),
    ] {
        let error = chat(&format!(r#"{{"model":"m","messages":{messages}}}"#)).unwrap_err();
        let named = error.param.clone().unwrap_or_default();
        assert!(named.starts_with(param), "{messages}: `{named}`, {}", error.message);
    }
    let none = chat(r#"{"messages":[{"role":"user","content":"hi"}]}"#).unwrap_err();
    assert_eq!(none.param.as_deref(), Some("model"));
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    for (field, param) in [
        (r#""tools":[{"type":"web_search","function":{"name":"x"}}]"#, "tools[0].type"),
        (r#""functions":[{}]"#, "functions"),
        (r#""response_format":{"type":"grammar"}"#, "response_format"),
        (r#""structured_outputs":{"regex":"a","structural_tag":"x"}"#, "structured_outputs.structural_tag"),
    ] {
        let error = with(field).unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), ("unsupported_parameter", Some(param)), "{field}");
    }
    for field in [
        r#""use_beam_search":true"#,
        r#""allowed_token_ids":[1]"#,
        r#""bad_words":["x"]"#,
        r#""include_stop_str_in_output":true"#,
        r#""truncate_prompt_tokens":5"#,
        r#""prompt_logprobs":1"#,
    ] {
        let text = completion(&format!(r#"{{"model":"m","prompt":"x",{field}}}"#)).unwrap_err();
        for error in [with(field).unwrap_err(), text] {
            let param = error.param.as_deref().unwrap();
            assert!(
                error.code == "unsupported_parameter" && field[1..].starts_with(param),
                "{field}: {param}"
            );
        }
    }
    for (field, param) in
        [(r#""echo":true"#, "echo"), (r#""suffix":"end""#, "suffix"), (r#""best_of":3"#, "best_of")]
    {
        let error = completion(&format!(r#"{{"model":"m","prompt":"x",{field}}}"#)).unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), ("unsupported_parameter", Some(param)), "{field}");
    }
}

#[test]
fn tools_and_calls_are_taken_over() {
    let request = chat(
        r#"{"model":"m","parallel_tool_calls":false,
            "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"},"strict":true}},
                     {"type":"function","function":{"name":"g-1","parameters":null}}],
            "tool_choice":{"type":"function","function":{"name":"g-1"}},
            "messages":[{"role":"assistant","content":null,
                         "tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}},
                                       {"id":"d","function":{"name":"g-1","arguments":""}}]},
                        {"role":"tool","content":"42","tool_call_id":"c"}]}"#,
    )
    .unwrap();
    assert_eq!((request.tools.choice, request.tools.parallel), (ToolChoice::Named("g-1".into()), false));
    let tools = request.tools.list;
    assert_eq!((tools[0].strict, &tools[0].parameters), (true, &Some(json!({"type": "object"}))));
    assert_eq!((tools[1].strict, &tools[1].description, &tools[1].parameters), (false, &None, &None));
    let Prompt::Chat(turns) = request.prompt else { panic!("a conversation") };
    let calls: Vec<_> = turns[0].tool_calls.iter().map(|c| (c.id.as_str(), c.arguments.clone())).collect();
    assert_eq!(calls, [("c", json!({"a": 1})), ("d", json!({}))]);
    assert_eq!(turns[1].tool_call_id.as_deref(), Some("c"));
    let choice = |choice: &str| {
        with(&format!(r#""tools":[{{"type":"function","function":{{"name":"f"}}}}],"tool_choice":{choice}"#))
    };
    for (word, wanted) in
        [("null", ToolChoice::Auto), (r#""none""#, ToolChoice::None), (r#""required""#, ToolChoice::Required)]
    {
        let tools = choice(word).unwrap().tools;
        assert_eq!((tools.choice, tools.parallel), (wanted, true));
    }
}

#[test]
fn thinking_is_bounded_by_either_name() {
    let thinking =
        |field: &str| with(field).map(|request| (request.thinking.enabled, request.thinking.budget));
    for (field, wanted) in [
        (r#""n":1"#, (None, None)),
        (r#""thinking_budget":7,"reasoning_effort":"low""#, (None, Some(7))),
        (r#""reasoning_effort":"low""#, (None, Some(1024))),
        (r#""reasoning_effort":"high""#, (None, None)),
        (r#""reasoning_effort":"none""#, (Some(false), Some(0))),
        (r#""chat_template_kwargs":{"enable_thinking":false}"#, (Some(false), None)),
    ] {
        assert_eq!(thinking(field).unwrap(), wanted, "{field}");
    }
    for field in [
        r#""chat_template_kwargs":{"documents":[]}"#,
        r#""reasoning_effort":"much""#,
        r#""thinking_budget":-1"#,
    ] {
        let error = thinking(field).unwrap_err();
        let param = error.param.unwrap_or_default();
        assert!(field[1..].starts_with(param.split('.').next().unwrap()), "{field}: {param}");
    }
}

#[test]
fn every_dialect_of_a_form_is_the_same_form() {
    let form = |field: &str| with(field).unwrap().constraint;
    assert_eq!(form(r#""response_format":{"type":"text"},"guided_json":null"#), None);
    let object = Some(("response_format", Constraint::JsonObject));
    assert_eq!(form(r#""response_format":{"type":"json_object"}"#), object);
    let schema = || Constraint::JsonSchema(json!({"type": "integer"}));
    let named = r#""response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type":"integer"}}}"#;
    assert_eq!(form(named), Some(("response_format.json_schema", schema())));
    for text in [r#"{"type":"integer"}"#, r#""{\"type\":\"integer\"}""#] {
        assert_eq!(form(&format!(r#""guided_json":{text}"#)), Some(("guided_json", schema())));
        let new = format!(r#""structured_outputs":{{"json":{text}}}"#);
        assert_eq!(form(&new), Some(("structured_outputs.json", schema())));
    }
    for (name, value, constraint) in [
        ("regex", r#""a+""#, Constraint::Regex("a+".into())),
        ("choice", r#"["a","b"]"#, Constraint::Choice(vec!["a".into(), "b".into()])),
        ("grammar", r#""start: \"a\"""#, Constraint::Grammar("start: \"a\"".into())),
    ] {
        let old = format!(r#""guided_{name}":{value}"#);
        let new = format!(r#""structured_outputs":{{"{name}":{value}}}"#);
        for field in [old, new] {
            assert_eq!(form(&field).unwrap().1, constraint);
            let text = format!(r#"{{"model":"m","prompt":["x","y"],{field}}}"#);
            let requests = completion(&text).unwrap();
            assert!(requests.iter().all(|r| r.constraint.as_ref().unwrap().1 == constraint));
        }
    }
    for (field, param) in [
        (r#""response_format":{"type":"json_schema"}"#, "response_format.json_schema"),
        (
            r#""response_format":{"type":"json_schema","json_schema":{"name":"x"}}"#,
            "response_format.json_schema",
        ),
        (r#""structured_outputs":{}"#, "structured_outputs"),
        (r#""structured_outputs":{"regex":"a","choice":["a"]}"#, "structured_outputs.choice"),
        (r#""response_format":{"type":"json_object"},"guided_regex":"a""#, "guided_regex"),
        (r#""guided_json":"{""#, "guided_json"),
        (r#""guided_choice":[1]"#, "guided_choice[0]"),
    ] {
        assert_eq!(with(field).unwrap_err().param.as_deref(), Some(param), "{field}");
    }
}

#[test]
fn prompts_come_in_four_shapes() {
    let prompts = |text: &str| {
        completion(&format!(r#"{{"model":"m","prompt":{text}}}"#))
            .map(|requests| requests.into_iter().map(|request| request.prompt).collect::<Vec<_>>())
    };
    assert_eq!(prompts(r#""a""#).unwrap(), [Prompt::Text("a".into())]);
    assert_eq!(prompts(r#"["a","b"]"#).unwrap(), [Prompt::Text("a".into()), Prompt::Text("b".into())]);
    assert_eq!(prompts("[1,2]").unwrap(), [Prompt::Tokens(vec![1, 2])]);
    assert_eq!(prompts("[[1],[2,3]]").unwrap(), [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
    for bad in
        ["[]", "null", "5", "[1,\"a\"]", "[\"a\",1]", "[-1]", "[4294967296]", "[[1.5]]", "[[[1]]]", "{}"]
    {
        let error = prompts(bad).unwrap_err();
        let param = error.param.clone().unwrap_or_default();
        assert!(param.starts_with("prompt"), "{bad}: {param} {}", error.message);
    }
    let many = json!({"model": "m", "prompt": vec!["x"; 33]}).to_string();
    assert_eq!(completion(&many).unwrap_err().param.as_deref(), Some("prompt"));
    assert_eq!(completion(r#"{"model":"m","prompt":"x"}"#).unwrap()[0].max_tokens, Some(16));
}

#[test]
fn embedding_inputs_are_counted_and_not_empty() {
    let (request, encoding) =
        embedding(r#"{"model":"m","input":["a","b"],"encoding_format":"base64","dimensions":3}"#).unwrap();
    assert_eq!(request.inputs.len(), 2);
    assert_eq!((request.dimensions, encoding), (Some(3), Encoding::Base64));
    assert_eq!((request.prompt, request.truncate), (embed::Prompt::None, true));
    let (request, _) =
        embedding(r#"{"model":"m","input":"a","prompt_name":"query","truncate":false}"#).unwrap();
    assert_eq!((request.prompt, request.truncate), (embed::Prompt::Named("query".into()), false));
    let full = json!({"model": "m", "input": vec!["x"; 2048]}).to_string();
    assert_eq!(embedding(&full).unwrap().0.inputs.len(), 2048);
    let over = json!({"model": "m", "input": vec!["x"; 2049]}).to_string();
    for bad in [
        over.as_str(),
        r#"{"model":"m","input":[]}"#,
        r#"{"model":"m","input":""}"#,
        r#"{"model":"m","input":["a",""]}"#,
        r#"{"model":"m","input":[[1],[]]}"#,
    ] {
        let error = embedding(bad).unwrap_err();
        assert!(error.param.clone().unwrap_or_default().starts_with("input"), "{:?}", error);
    }
    let error = embedding(r#"{"model":"m","input":"a","encoding_format":"int8"}"#).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("encoding_format"));
    let error = embedding(r#"{"model":"m","input":"a","dimensions":0}"#).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("dimensions"));
}

#[test]
fn base64_is_little_endian_floats() {
    let Vector::Base64(text) = Vector::new(vec![1.0, -2.5], Encoding::Base64) else { panic!("not base64") };
    assert_eq!(text, "AACAPwAAIMA=");
}

#[test]
fn broken_json_says_where() {
    for (bytes, expect) in [
        (&b"{\"model\": \"\xff\xfe\"}"[..], "line 1 column"),
        (b"{\"model\": \"\\ud800\"}", "line 1"),
        (b"{\n\"model\": nope}", "line 2 column"),
        (b"", "line 1 column 0"),
        (b"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]} trailing", "trailing"),
    ] {
        let error = parse::<ChatRequest>(bytes).map(drop).unwrap_err();
        assert_eq!((error.status.as_u16(), error.code), (400, "invalid_json"), "{}", error.message);
        assert!(error.message.contains(expect), "{}", error.message);
    }
    let deep = format!("{{\"metadata\":{}", "[".repeat(100_000));
    assert_eq!(parse::<ChatRequest>(deep.as_bytes()).map(drop).unwrap_err().code, "invalid_json");
}

#[test]
fn an_error_does_not_repeat_a_long_input() {
    let text = json!({"model": "m", "messages": "x".repeat(1_000_000)}).to_string();
    let error = chat(&text).unwrap_err();
    assert!(error.message.len() < 1000, "{}", error.message.len());
}

#[test]
fn the_name_of_a_model_is_bounded() {
    let long = json!({"model": "m".repeat(257), "input": "a"}).to_string();
    assert_eq!(embedding(&long).unwrap_err().param.as_deref(), Some("model"));
    assert!(embedding(r#"{"model":"","input":"a"}"#).is_err());
    assert!(embedding(r#"{"model":"a\nb","input":"a"}"#).is_err());
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|x| json!(x)),
        ".{0,8}".prop_map(|s| json!(s)),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            prop::collection::hash_map("[a-z_]{1,8}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_in_any_field_is_a_request_or_a_client_error(
        field in prop::sample::select(vec![
            "model", "messages", "prompt", "input", "stop", "n", "seed", "temperature", "top_p", "max_tokens",
            "top_k", "min_p", "typical_p", "min_tokens", "stop_token_ids", "ignore_eos", "logprobs", "top_logprobs", "repetition_penalty", "logit_bias", "stream", "stream_options", "tools",
            "response_format", "structured_outputs", "guided_json", "guided_choice", "tool_choice", "dimensions", "encoding_format", "echo",
        ]),
        value in any_json(),
    ) {
        let mut body = json!({
            "model": "m", "input": "a", "prompt": "a", "messages": [{"role": "user", "content": "a"}],
        });
        body[field] = value;
        let text = body.to_string();
        for status in [
            chat(&text).map(drop).map_err(|e| e.status.as_u16()),
            completion(&text).map(drop).map_err(|e| e.status.as_u16()),
            embedding(&text).map(drop).map_err(|e| e.status.as_u16()),
        ] {
            prop_assert!(matches!(status, Ok(()) | Err(400)), "{status:?}");
        }
    }
}
