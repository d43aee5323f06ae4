//! Prompts against transformers', from `tests/golden/text_chat.py`.

use serde_json::Value as Json;

use super::*;
use crate::types::llm::Role;

fn options(add_generation_prompt: bool) -> RenderOptions {
    RenderOptions { add_generation_prompt, now: OffsetDateTime::UNIX_EPOCH }
}

#[test]
fn prompts_equal_the_reference() {
    let golden: Json = serde_json::from_str(include_str!("../../tests/golden/text/chat.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let template = ChatTemplate::new(case["template"].as_str(), "<s>", "</s>").unwrap();
        let turn = |m: &Json| Message {
            role: [Role::System, Role::User, Role::Assistant, Role::Tool]
                .into_iter()
                .find(|r| Some(r.as_str()) == m[0].as_str())
                .unwrap(),
            content: m[1].as_str().unwrap().to_owned(),
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
