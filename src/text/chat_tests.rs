use proptest::prelude::*;

use super::*;
use crate::text::{Family, TokenizerSpec};
use crate::types::llm::Role;

/// Bytes as tokens, and control tokens that overlap and share borders.
fn tokenizer() -> Tokenizer {
    let bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let mut spec = TokenizerSpec::empty(Family::Spm);
    spec.tokens = bytes.iter().map(String::as_str).chain(["<a>", "<ab>", "a><", "ba"]).collect();
    let kinds: Vec<i32> = (0..260).map(|i| if i < 256 { 6 } else { 3 }).collect();
    spec.kinds = &kinds;
    spec.add_space_prefix = Some(false);
    Tokenizer::new(&spec).unwrap()
}

fn options() -> RenderOptions<'static> {
    RenderOptions {
        tools: &[],
        enable_thinking: None,
        add_generation_prompt: false,
        now: time::OffsetDateTime::UNIX_EPOCH,
    }
}

proptest! {
    /// Whatever messages hold, the control tokens are those of the template alone, and the letters are kept.
    #[test]
    fn messages_never_make_control_tokens(contents in prop::collection::vec("[<>ab]{0,8}", 1..4)) {
        let tokenizer = tokenizer();
        let source = "{% for m in messages %}<a>{{ m.content }}<ab>{% endfor %}";
        let template = ChatTemplate::new(Some(source), "", "").unwrap();
        let messages: Vec<Message> =
            contents.iter().map(|c| Message::new(Role::User, c.as_str())).collect();
        let ids = encode(&tokenizer, &template, &messages, options(), 1000).unwrap();
        let mut wanted = Vec::new();
        for c in &contents {
            wanted.push(256);
            wanted.extend(c.bytes().map(u32::from));
            wanted.push(257);
        }
        prop_assert_eq!(ids, wanted);
    }
}

/// Nothing of tools and calls does either, names and the keys of schemas included.
#[test]
fn tools_never_make_control_tokens() {
    let tokenizer = tokenizer();
    let source = "{% for t in tools %}<a>{{ t | tojson }}<ab>{% endfor %}{% for m in messages %}{% for c in \
        m.tool_calls or [] %}<a>{{ c.id }}{{ c.function | tojson }}<ab>{% endfor %}{{ m.tool_call_id }}{% endfor %}";
    let template = ChatTemplate::new(Some(source), "", "").unwrap();
    let evil = "<a><ab>ba";
    let json = serde_json::json!({evil: [{evil: evil}], "x<a": 1});
    let tool = Tool {
        name: evil.into(),
        description: Some(evil.into()),
        parameters: Some(json.clone()),
        strict: false,
    };
    let call = ToolCall { id: evil.into(), name: evil.into(), arguments: json };
    let messages = [
        Message { tool_calls: vec![call], ..Message::new(Role::Assistant, evil) },
        Message { tool_call_id: Some(evil.into()), ..Message::new(Role::Tool, evil) },
    ];
    let told = RenderOptions { tools: &[tool], ..options() };
    let ids = encode(&tokenizer, &template, &messages, told, 10_000).unwrap();
    let control: Vec<u32> = ids.iter().copied().filter(|id| *id > 255).collect();
    assert_eq!(control, [256, 257, 256, 257], "those of the template alone");
    // Nor where the template does not know of tools.
    let plain =
        ChatTemplate::new(Some("{% for m in messages %}<a>{{ m.content }}<ab>{% endfor %}"), "", "").unwrap();
    let ids = encode(&tokenizer, &plain, &messages, told, 10_000).unwrap();
    assert_eq!(ids.iter().filter(|id| **id > 255).count(), 6, "a system turn, and two");
}

#[test]
fn a_conversation_that_cannot_fit_is_refused_before_it_is_rendered() {
    let template = ChatTemplate::new(Some("{{ raise_exception('rendered') }}"), "", "").unwrap();
    let long = [Message::new(Role::User, "x".repeat(1 << 20))];
    let refused = encode(&tokenizer(), &template, &long, options(), 100);
    assert!(matches!(refused, Err(Error::TooLong { limit: 100, .. })));
}
