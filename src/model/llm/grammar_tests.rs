use std::time::{Duration, Instant};

use super::*;
use crate::text::{Family, TokenizerSpec};
use crate::types::llm::{CallFormat, Tool};

const END: u32 = 256;

/// Bytes as tokens, `null` as one, and a token that ends.
fn tokenizer(end: bool) -> Tokenizer {
    let bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let mut spec = TokenizerSpec::empty(Family::Spm);
    spec.tokens = bytes.iter().map(String::as_str).chain(["<stop>", "null"]).collect();
    let kinds: Vec<i32> = (0..258).map(|i| [6, 3, 1][(i / 256) + usize::from(i == 257)]).collect();
    spec.kinds = &kinds;
    spec.eos = end.then_some(END);
    Tokenizer::new(&spec).unwrap()
}

fn compile(constraint: Constraint) -> Result<Matcher, Error> {
    Grammars::default().compile(&tokenizer(true), &constraint)
}

/// Tokens that may come next, bytes as they are and the end as `$`.
fn allowed(matcher: &mut Matcher) -> String {
    let mut logits = vec![0.0; 300];
    matcher.mask().unwrap().apply(&mut logits);
    assert!(logits[258..].iter().all(|l| *l == f32::NEG_INFINITY), "past the vocabulary");
    let open = (0..258u32).filter(|&id| logits[id as usize] == 0.0);
    open.map(|id| match id {
        END => '$',
        257 => 'N',
        byte => char::from(byte as u8),
    })
    .collect()
}

/// Takes a text byte by byte; how many were taken, and whether nothing can follow.
fn take(matcher: &mut Matcher, text: &str) -> (usize, bool) {
    for (at, byte) in text.bytes().enumerate() {
        if !allowed(matcher).contains(char::from(byte)) {
            return (at, false);
        }
        if matcher.advance(u32::from(byte)).unwrap() {
            return (at + 1, true);
        }
    }
    (text.len(), false)
}

fn accepts(constraint: Constraint, text: &str) -> bool {
    let mut matcher = compile(constraint).unwrap();
    let (taken, complete) = take(&mut matcher, text);
    taken == text.len() && (complete || allowed(&mut matcher).contains('$'))
}

#[test]
fn the_end_is_allowed_only_where_the_grammar_may_end() {
    let choices = || Constraint::Choice(vec!["ab".into(), "abc".into(), "x.y".into()]);
    let mut matcher = compile(choices()).unwrap();
    assert_eq!(allowed(&mut matcher), "ax");
    assert_eq!(take(&mut matcher, "ab"), (2, false));
    assert_eq!(allowed(&mut matcher), "c$");
    assert_eq!(take(&mut matcher, "c"), (1, true));
    assert!(!accepts(choices(), "xzy"), "a choice is no regular expression");
    let mut matcher = compile(Constraint::Regex("[0-9]{2}(/[a-c])?".into())).unwrap();
    assert_eq!(take(&mut matcher, "12"), (2, false));
    assert_eq!(allowed(&mut matcher), "/$");
}

#[test]
fn a_fork_goes_its_own_way() {
    let mut matcher = compile(Constraint::Regex("(ab|cd)+".into())).unwrap();
    take(&mut matcher, "a");
    let mut fork = matcher.fork();
    assert_eq!((take(&mut matcher, "bcd"), take(&mut fork, "ba")), ((3, false), (2, false)));
    assert_eq!((allowed(&mut matcher).as_str(), allowed(&mut fork).as_str()), ("ac$", "b"));
    assert!(fork.advance(u32::from(b'x')).is_err());
}

#[test]
fn what_was_compiled_is_kept_at_its_beginning() {
    let (grammars, tokenizer) = (Grammars::default(), tokenizer(true));
    let constraint = Constraint::Regex("abc".into());
    for round in 0..2 * KEPT {
        let mut matcher = grammars.compile(&tokenizer, &constraint).unwrap();
        assert_eq!(take(&mut matcher, "abc"), (3, true));
        grammars.compile(&tokenizer, &Constraint::Regex(format!("x{round}"))).unwrap();
    }
    assert_eq!(grammars.kept().len(), KEPT);
}

#[test]
fn json_is_held_to_its_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 3, "maximum": 12},
            "s": {"type": "string", "maxLength": 2},
            "t": {"$ref": "#/$defs/t"},
        },
        "required": ["n"],
        "additionalProperties": false,
        "$defs": {"t": {"anyOf": [{"type": "null"}, {"enum": ["a", 1]}]}},
        // Not the client's to choose.
        "x-guidance": {"whitespace_pattern": "x+"},
    });
    let accepts = |text| accepts(Constraint::JsonSchema(schema.clone()), text);
    for text in
        [r#"{"n":3}"#, "{\"n\": 12, \"s\": \"ab\"}", "{\n  \"n\": 4,\n  \"t\": null\n}", r#"{"n":5,"t":1}"#]
    {
        assert!(accepts(text), "{text}");
    }
    for text in
        ["{}", r#"{"n":2}"#, r#"{"n":4,"s":"abc"}"#, r#"{"n":4,"u":1}"#, r#"{"n":4,"t":2}"#, "{\"n\":  4}"]
    {
        assert!(!accepts(text), "{text}");
    }
    assert!(super::tests::accepts(Constraint::JsonObject, r#"{"a": [1, {"b": "c"}], "d": null}"#));
    assert!(!super::tests::accepts(Constraint::JsonObject, "[]"));
}

#[test]
fn a_lark_grammar_is_followed() {
    let grammar = "start: greeting \" \" NAME\ngreeting: \"hello\" | \"bye\"\nNAME: /[A-Z][a-z]+/\n";
    let accepts = |text| accepts(Constraint::Grammar(grammar.into()), text);
    assert!(accepts("hello Ada") && accepts("bye Bob") && !accepts("hello ada"));
}

#[test]
fn what_cannot_be_compiled_is_refused_with_its_problem() {
    let problem = |constraint| match compile(constraint) {
        Err(Error::Constraint(message)) => message,
        other => panic!("{other:?}"),
    };
    for (constraint, word) in [
        (Constraint::Regex("(".into()), "regex"),
        (Constraint::Regex("a".repeat(MAX_REGEX_BYTES + 1)), "bytes"),
        (Constraint::Choice(vec![]), "choices"),
        (Constraint::Choice(vec!["a".into(), String::new()]), "choices"),
        (Constraint::Choice(vec!["a".repeat(MAX_BYTES + 1)]), "bytes"),
        (Constraint::Grammar("begin: \"a\"".into()), "start"),
        (Constraint::Grammar(format!("start: {}", "(".repeat(100_000))), "bytes"),
        (Constraint::Grammar(format!("start: {}", "(".repeat(1000))), "deep"),
        (Constraint::JsonSchema(json!({"type": "object", "uniqueKeys": true, "not": {}})), "not"),
        (Constraint::JsonSchema(json!({"type": "bogus"})), "bogus"),
        (Constraint::JsonSchema(json!({"$ref": "#"})), "no text"),
        (Constraint::JsonSchema(json!({"$ref": "#/$defs/missing"})), "missing"),
        (Constraint::JsonSchema(json!({"$ref": "http://example.com/x"})), "ref"),
        (Constraint::JsonSchema(json!({"type": "integer", "minimum": 5, "maximum": 4})), "minimum"),
        (Constraint::JsonSchema(json!(7)), "object"),
        (Constraint::JsonSchema(json!({"enum": ["x".repeat(MAX_BYTES)]})), "bytes"),
    ] {
        let message = problem(constraint.clone());
        assert!(message.contains(word) && message.len() <= 400, "{constraint:?}: {message}");
    }
    let endless = Grammars::default().compile(&tokenizer(false), &Constraint::JsonObject);
    assert!(matches!(endless, Err(Error::Model(_))), "{endless:?}");
}

/// Whatever is sent, the process goes on, soon.
#[test]
fn hostile_constraints_end_in_time() {
    let nested =
        |n: usize| (0..n).fold(json!({"type": "integer"}), |s, _| json!({"type": "array", "items": s}));
    let chain: String = (0..MAX_RULES - 2).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let all: Vec<Value> = (0..200)
        .map(|i| json!({"properties": {format!("p{i}"): {"type": "string", "pattern": "a.*b"}}}))
        .collect();
    let any: Vec<Value> =
        (0..12).map(|i| json!({"anyOf": [{"minLength": i}, {"pattern": format!("x{i}")}]})).collect();
    let wide: Map<String, Value> = (0..1500).map(|i| (format!("k{i}"), json!({"type": "number"}))).collect();
    for constraint in [
        Constraint::Regex(format!("{}a{}", "(".repeat(240), ")".repeat(240))),
        Constraint::Regex("(a|aa)?".repeat(1000)),
        Constraint::Regex("((a{1,1000}){1,1000}){1,1000}".into()),
        Constraint::Regex("(.*a.{30})+".into()),
        Constraint::Regex("\u{10ffff}é[^\\p{L}]{0,500}".into()),
        Constraint::Choice((0..MAX_CHOICES).map(|i| format!("choice number {i}")).collect()),
        Constraint::Grammar(format!("start: r0\n{chain}r{}: \"a\"\n", MAX_RULES - 2)),
        Constraint::Grammar("start: start | \"a\" start | start start".into()),
        Constraint::Grammar("start: /.*/ start?".into()),
        Constraint::Grammar(format!("start: \"{}\"", "a".repeat(60_000))),
        Constraint::JsonSchema(nested(30)),
        Constraint::JsonSchema(nested(60)),
        Constraint::JsonSchema(json!({"$ref": "#"})),
        Constraint::JsonSchema(
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        ),
        Constraint::JsonSchema(json!({"allOf": all})),
        Constraint::JsonSchema(json!({"type": "string", "allOf": any})),
        Constraint::JsonSchema(json!({"type": "object", "properties": wide, "additionalProperties": false})),
        Constraint::JsonSchema(json!({"type": "array", "minItems": 100_000_000})),
        Constraint::JsonSchema(json!({"type": "string", "minLength": 4_000_000_000_u64})),
        Constraint::JsonSchema(json!({"type": "number", "multipleOf": 1e-300})),
        Constraint::JsonSchema(
            json!({"enum": ["é".repeat(60), {"bogus": "é".repeat(99)}], "type": "é".repeat(99)}),
        ),
    ] {
        let begun = Instant::now();
        let compiled = compile(constraint.clone());
        let took = begun.elapsed();
        let shown: String = format!("{constraint:?}").chars().take(60).collect();
        let result =
            compiled.as_ref().map(drop).map_err(|e| e.to_string().chars().take(80).collect::<String>());
        println!("{shown}: {took:.0?} {result:?}");
        assert!(took < Duration::from_secs(5), "{shown}: {took:?}");
        // What was taken can be followed for a while, or fails by itself.
        if let Ok(mut matcher) = compiled {
            follow(&mut matcher, &shown);
        }
    }
}

/// Takes the first allowed token fifty times.
fn follow(matcher: &mut Matcher, shown: &str) {
    for _ in 0..50 {
        let step = Instant::now();
        let Ok(mask) = matcher.mask() else { return };
        let mut logits = vec![0.0; 258];
        mask.apply(&mut logits);
        logits[END as usize] = f32::NEG_INFINITY;
        let Some(token) = logits.iter().position(|l| *l == 0.0) else { return };
        assert!(step.elapsed() < Duration::from_millis(500), "{shown}: {:?}", step.elapsed());
        if matcher.advance(token as u32).unwrap_or(true) {
            return;
        }
    }
}

/// Two calls of `add`, or one, in every form in which models write them.
#[test]
fn calls_are_held_to_each_models_form() {
    let tool = |name: &str| Tool {
        name: name.to_owned(),
        description: None,
        parameters: Some(
            json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
        ),
        strict: false,
    };
    let calls = |format, parallel, opener| Constraint::Calls {
        format,
        tools: vec![tool("add"), tool("sub")],
        parallel,
        opener,
    };
    let add = |key: &str, a: i32| format!(r#"{{"name": "add", "{key}": {{"a": {a}}}}}"#);
    let (one, two) = (add("arguments", 1), add("arguments", -2));
    let hermes = |call: &str| format!("<tool_call>\n{call}\n</tool_call>");
    let both = format!("{}\n{}", hermes(&one), hermes(&two));
    assert!(accepts(calls(CallFormat::Hermes, true, None), &both));
    assert!(!accepts(calls(CallFormat::Hermes, false, None), &both));
    assert!(accepts(calls(CallFormat::Hermes, false, None), &hermes(&one)));
    assert!(accepts(calls(CallFormat::Mistral, true, None), &format!("[TOOL_CALLS][{one}, {two}]")));
    assert!(!accepts(calls(CallFormat::Mistral, false, None), &format!("[TOOL_CALLS][{one}, {two}]")));
    assert!(accepts(calls(CallFormat::Llama3, true, None), &add("parameters", 1)));
    assert!(!accepts(calls(CallFormat::Llama3, true, None), &one), "the key is another");
    assert!(accepts(calls(CallFormat::Json, true, None), &one));
    assert!(!accepts(calls(CallFormat::Json, true, None), &one.replace("add", "mul")), "no such tool");
    // A control token of its own opens a list; here the one that reads `null`.
    let mut matcher = compile(calls(CallFormat::Mistral, true, Some(257))).unwrap();
    assert_eq!(allowed(&mut matcher), "N");
    assert_eq!(matcher.advance(257), Ok(false));
    let list = format!("[{one}]");
    assert_eq!(take(&mut matcher, &list), (list.len(), true));
}
