use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::types::llm::{Message, Role, Tool, ToolCall};

const ALL: [CallFormat; 4] = [CallFormat::Hermes, CallFormat::Mistral, CallFormat::Llama3, CallFormat::Json];

fn names() -> Vec<String> {
    vec!["weather".into(), "add".into()]
}

/// Content and calls as `name(arguments)`.
fn read(format: CallFormat, text: &str) -> (String, Vec<String>) {
    let parsed = parse(format, &names(), text, true);
    (parsed.content, parsed.calls.iter().map(|call| format!("{}({})", call.name, call.arguments)).collect())
}

const BOTH: [&str; 2] = [r#"weather({"city": "Oslo"})"#, r#"add({"a":1})"#];

type Case = (CallFormat, &'static str, &'static str, &'static [&'static str]);

fn check(cases: &[Case]) {
    for &(format, text, content, calls) in cases {
        let wanted = (content.to_owned(), calls.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(format, text), wanted, "{format:?}: {text}");
    }
}

#[test]
fn hermes_form_is_read() {
    use CallFormat::Hermes;
    check(&[
        (Hermes, "Hello <b>!\n", "Hello <b>!\n", &[]),
        (
            Hermes,
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>",
            "",
            &[BOTH[0]],
        ),
        (
            Hermes,
            "Let me see.\n<tool_call>{\"arguments\": {\"city\": \"Oslo\"}, \"name\": \"weather\"}</tool_call>\n\
             <tool_call>\n{\"name\":\"add\",\"arguments\":{\"a\":1}}\n</tool_call>",
            "Let me see.",
            &BOTH,
        ),
        // The end of the mark was cut off, or a string looks like one.
        (Hermes, "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}", "", &[BOTH[0]]),
        (
            Hermes,
            "<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":\"</tool_call>\"}}</tool_call>",
            "",
            &[r#"add({"a":"</tool_call>"})"#],
        ),
        (Hermes, "<tool_call>{\"name\":\"add\"}</tool_call>", "", &["add({})"]),
        (Hermes, "<tool_call>{\"name\":\"add\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>", "", &[BOTH[1]]),
        (Hermes, "a <tool_call>nothing</tool_call> b", "a <tool_call>nothing</tool_call> b", &[]),
        // Cut in the middle: what there is.
        (Hermes, "<tool_call>{\"name\":\"add\",\"arguments\":{\"a", "", &["add({\"a)"]),
        (Hermes, "<tool_call>{\"na", "<tool_call>{\"na", &[]),
    ]);
}

#[test]
fn the_other_forms_are_read() {
    use CallFormat::{Json, Llama3, Mistral};
    check(&[
        (
            Mistral,
            "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}, {\"name\":\"add\",\"arguments\":{\"a\":1}}]",
            "",
            &BOTH,
        ),
        (Mistral, "Sure.[TOOL_CALLS]{\"name\":\"add\",\"arguments\":{\"a\":1}}", "Sure.", &[BOTH[1]]),
        (Mistral, "[TOOL_CALLS] are useful", "[TOOL_CALLS] are useful", &[]),
        (Llama3, "{\"name\": \"weather\", \"parameters\": {\"city\": \"Oslo\"}}", "", &[BOTH[0]]),
        (
            Llama3,
            "<|python_tag|>{\"name\":\"weather\",\"parameters\":{\"city\": \"Oslo\"}}; {\"name\":\"add\",\"parameters\":{\"a\":1}}",
            "",
            &BOTH,
        ),
        (Llama3, "{\"name\": \"Ada\", \"born\": 1815}", "{\"name\": \"Ada\", \"born\": 1815}", &[]),
        (Llama3, "{x}", "{x}", &[]),
        (Llama3, "The sum is 3.", "The sum is 3.", &[]),
        (
            Json,
            "[{\"name\":\"weather\",\"arguments\":{\"city\": \"Oslo\"}},{\"name\":\"add\",\"arguments\":{\"a\":1}}]",
            "",
            &BOTH,
        ),
        (Json, "[1, 2]", "[1, 2]", &[]),
        (
            Json,
            "Answer: {\"name\":\"add\",\"arguments\":{}}",
            "Answer: {\"name\":\"add\",\"arguments\":{}}",
            &[],
        ),
    ]);
}

/// What a stream of pieces adds up to.
fn streamed(format: CallFormat, pieces: &[String]) -> (String, Vec<String>) {
    let mut stream = CallStream::new(format, names());
    let mut said: Vec<Said> = pieces.iter().flat_map(|piece| stream.push(piece)).collect();
    said.extend(stream.finish());
    let (mut content, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for said in said {
        match said {
            Said::Content(text) => content.push_str(&text),
            Said::Call { call, name, arguments } => {
                if let Some(name) = name {
                    assert_eq!(call as usize, calls.len(), "the next call");
                    calls.push((name, String::new()));
                }
                calls[call as usize].1.push_str(&arguments);
            }
        }
    }
    assert_eq!(stream.calls(), calls.len());
    (content, calls.into_iter().map(|(name, arguments)| format!("{name}({arguments})")).collect())
}

/// Pieces of what models write, well-formed and not.
fn text() -> impl Strategy<Value = Vec<String>> {
    let part = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "\n",
        " ",
        "[TOOL_CALLS]",
        "[",
        "]",
        ", ",
        "; ",
        "<|python_tag|>",
        "Hello é",
        "<",
        "{\"name\": \"add\", \"arguments\": {\"a\": \"}\\\"\"}}",
        "{\"name\": \"weather\", \"parameters\": {\"city\": \"Österö\"}}",
        "{\"arguments\": {}, \"name\": \"add\"}",
        "{\"name\": \"other\", \"arguments\": {}}",
        "{\"name\": \"add\",",
        "{",
        "}",
    ]);
    prop::collection::vec(part.prop_map(str::to_owned), 0..8)
}

/// Cuts a text after characters.
fn cut(text: &str, sizes: &[usize]) -> Vec<String> {
    let (mut rest, mut pieces, mut sizes) = (text.chars().peekable(), Vec::new(), sizes.iter().cycle());
    while rest.peek().is_some() {
        pieces.push(rest.by_ref().take(*sizes.next().unwrap()).collect());
    }
    pieces
}

proptest! {
    /// However a well-formed answer is cut, its stream adds up to what the whole is read as.
    #[test]
    fn a_stream_adds_up_to_the_whole(
        before in prop::sample::select(vec!["", "Sure: ", "a < b\n\n"]),
        calls in prop::collection::vec(prop::sample::select(vec![
            "{\"name\": \"add\", \"arguments\": {\"a\": \"}\\\"\", \"b\": [1, {\"c\": null}]}}",
            "{\"arguments\": {}, \"name\": \"add\"}",
            "{\"name\":\"weather\",\"parameters\":{\"city\":\"Österö </tool_call\"}}",
        ]), 1..4),
        sizes in prop::collection::vec(1usize..9, 1..6),
    ) {
        let hermes = calls.iter().map(|c| format!("<tool_call>\n{c}\n</tool_call>")).collect::<Vec<_>>().join("\n");
        for (format, text) in [
            (CallFormat::Hermes, format!("{before}{hermes}")),
            (CallFormat::Mistral, format!("{before}[TOOL_CALLS] [{}]", calls.join(", "))),
            (CallFormat::Llama3, calls.join("; ")),
            (CallFormat::Json, format!("[{}]", calls.join(", "))),
        ] {
            let whole = read(format, &text);
            prop_assert_eq!(whole.1.len(), calls.len(), "{}", text);
            prop_assert_eq!(streamed(format, &cut(&text, &sizes)), whole);
        }
    }

    /// Whatever is written, reading it does not fail, and content is never lost where there are no calls.
    #[test]
    fn anything_can_be_read(parts in text(), sizes in prop::collection::vec(1usize..9, 1..6)) {
        let text = parts.concat();
        for format in ALL {
            let (content, calls) = streamed(format, &cut(&text, &sizes));
            if calls.is_empty() {
                prop_assert_eq!(&content, &text);
            }
        }
    }
}

fn tool() -> Tool {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    Tool {
        name: "weather".into(),
        description: Some("The weather.".into()),
        parameters: Some(parameters),
        strict: false,
    }
}

#[test]
fn a_template_without_tools_gets_them_in_words() {
    let call = ToolCall { id: "c1".into(), name: "weather".into(), arguments: json!({"city": "Oslo"}) };
    let answer = |text: &str| Message { tool_call_id: Some("c1".into()), ..Message::new(Role::Tool, text) };
    let turns = [
        Message::new(Role::User, "Hi"),
        Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") },
        answer("rain"),
        answer("wind"),
        Message::new(Role::User, "And?"),
    ];
    let told = describe(&turns, &[tool()]);
    let roles: Vec<Role> = told.iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User, Role::User]);
    assert!(
        told[0].content.contains(r#""name":"weather","description":"The weather.""#),
        "{}",
        told[0].content
    );
    // What it wrote is shown to it as it is told to write, so that it is read again alike.
    assert_eq!(read(CallFormat::Hermes, &told[2].content).1, [r#"weather({"city":"Oslo"})"#]);
    assert_eq!(
        told[3].content,
        "<tool_response>\nrain\n</tool_response>\n<tool_response>\nwind\n</tool_response>"
    );
    let system = [Message::new(Role::System, "Be brief."), Message::new(Role::User, "Hi")];
    let told = describe(&system, &[tool()]);
    assert!(
        told.len() == 2
            && told[0].content.starts_with("Be brief.\n\n")
            && told[0].content.contains("weather")
    );
    assert_eq!(describe(&system, &[]), system);
}

#[test]
fn the_form_is_read_off_the_template() {
    for (template, format) in [
        ("{{ messages }}", None),
        ("{% if tools %}<tool_call>", Some(CallFormat::Hermes)),
        ("{% if tools %}[TOOL_CALLS]", Some(CallFormat::Mistral)),
        ("{% if tools %}<|python_tag|>", Some(CallFormat::Llama3)),
        ("{% if tools %}{{ tools }}", Some(CallFormat::Json)),
    ] {
        assert_eq!(format_of(template), format, "{template}");
    }
}
