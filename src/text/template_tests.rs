//! Prompts against transformers', from `tests/golden/text_chat.py`.

use serde_json::Value as Json;

use super::*;
use crate::types::llm::{Role, ToolCall};

fn options(add_generation_prompt: bool) -> RenderOptions<'static> {
    RenderOptions {
        tools: &[],
        enable_thinking: None,
        add_generation_prompt,
        now: OffsetDateTime::UNIX_EPOCH,
    }
}

#[test]
fn prompts_equal_the_reference() {
    let golden: Json = serde_json::from_str(include_str!("../../tests/golden/text/chat.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let template = ChatTemplate::new(case["template"].as_str(), "<s>", "</s>").unwrap();
        let turn = |m: &Json| {
            let role = [Role::System, Role::User, Role::Assistant, Role::Tool]
                .into_iter()
                .find(|r| Some(r.as_str()) == m[0].as_str())
                .unwrap();
            Message::new(role, m[1].as_str().unwrap())
        };
        let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(turn).collect();
        let got = template.render(&messages, options(case["prompt"].as_bool().unwrap()));
        match (got, case["text"].as_str(), case["error"].as_str()) {
            (Ok(got), Some(wanted), _) => assert_eq!(got, wanted, "{}", case["template"]),
            (Err(Error::Template { message, line }), _, Some(wanted)) => {
                assert_eq!(message, wanted);
                assert!(line > 0);
            }
            (got, ..) => panic!("{got:?} for {case}"),
        }
    }
}

#[test]
fn a_template_cannot_run_or_write_without_end() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let wide = "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}";
    let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    for source in [endless, wide, deep] {
        let template = ChatTemplate::new(Some(source), "", "").unwrap();
        assert!(matches!(template.render(&[], options(true)), Err(Error::Template { .. })), "{source}");
    }
    assert!(matches!(ChatTemplate::new(Some("a\n{% for %}"), "", ""), Err(Error::Template { line: 2, .. })));
}

#[test]
fn tools_and_calls_are_what_the_reference_gives_a_template() {
    let source = "{% if tools is not none %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}\
        {% for m in messages %}[{{ m.role }}|{{ m.name }}|{{ m.content }}|{{ 'tool_calls' in m }}]\
        {% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments | tojson }} {{ c.function.arguments.b }}\
        {% endfor %}{% endfor %}";
    let template = ChatTemplate::new(Some(source), "", "").unwrap();
    let parameters = serde_json::json!({"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}});
    let tool = Tool { name: "f".into(), description: None, parameters: Some(parameters), strict: true };
    let call = ToolCall {
        id: "1".into(),
        name: "f".into(),
        arguments: serde_json::json!({"b": 2, "a": [null, 1.5]}),
    };
    let messages = [
        Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") },
        Message { tool_call_id: Some("1".into()), ..Message::new(Role::Tool, "done") },
    ];
    let text = template.render(&messages, RenderOptions { tools: &[tool], ..options(false) }).unwrap();
    let wanted = concat!(
        r#"{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "#,
        r#""properties": {"b": {"type": "integer"}, "a": {}}}}}"#,
        r#"[assistant|||True]f {"b": 2, "a": [null, 1.5]} 2[tool|f|done|False]"#,
    );
    assert_eq!(text.replace("true", "True").replace("false", "False"), wanted);
    let none = template.render(&messages[1..], options(false)).unwrap();
    assert!(none.starts_with("[tool||done|"), "{none}");
}
