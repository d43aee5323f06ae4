//! Answers of a given form, from a model that would not keep to it by itself.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};

use super::program::{Program, home_like, models, parts, python};
use super::schemas::Schemas;

/// Asked for at once.
const AT_ONCE: usize = 24;

fn ask(schema: &Value, seed: usize) -> Value {
    json!({
        "model": "smollm2", "seed": seed, "temperature": 1, "max_tokens": 600,
        "messages": [{"role": "user", "content": "Invent an example record as JSON."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "record", "schema": schema, "strict": true}},
    })
}

#[test]
fn two_hundred_random_schemas_give_two_hundred_valid_answers() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    let mut random = Schemas::new(20);
    let schemas: Vec<Value> = (0..200).map(|_| random.object()).collect();
    let begun = Instant::now();
    let (next, answers) = (Mutex::new(0..schemas.len()), Mutex::new(vec![(String::new(), 0); schemas.len()]));
    let (http, url) = (server.http.clone(), format!("{}/v1/chat/completions", server.base));
    // The program itself cannot be shared between threads.
    let send = |body: &Value| {
        let request = http.post(&url).header("content-type", "application/json").body(body.to_string());
        parts(request.send().unwrap())
    };
    let work = || {
        while let Some(at) = { next.lock().unwrap().next() } {
            let (status, body) = send(&ask(&schemas[at], at));
            assert_eq!(status, 200, "{}: {body}", schemas[at]);
            let (choice, usage) = (&body["choices"][0], &body["usage"]["completion_tokens"]);
            assert_eq!(choice["finish_reason"], "stop", "{}: {body}", schemas[at]);
            let text = choice["message"]["content"].as_str().unwrap().to_owned();
            answers.lock().unwrap()[at] = (text, usage.as_u64().unwrap());
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let took = begun.elapsed();
    let answers = answers.into_inner().unwrap();
    for (schema, (text, _)) in schemas.iter().zip(&answers) {
        let answer: Value =
            serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?} for {schema}"));
        let validator = jsonschema::validator_for(schema).unwrap();
        assert!(validator.is_valid(&answer), "{answer} for {schema}");
    }
    let tokens: u64 = answers.iter().map(|(_, tokens)| tokens).sum();
    println!("{} answers, {tokens} tokens, {:.1} s", answers.len(), took.as_secs_f64());
    // The same seed gives the same answer, alone as among others.
    for at in [3, 77, 150] {
        let (_, body) = parts(server.post("/v1/chat/completions", &ask(&schemas[at], at)));
        assert_eq!(body["choices"][0]["message"]["content"], answers[at].0);
    }
}

#[test]
fn every_form_is_kept_and_a_wrong_one_is_named() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    let send = |route: &str, fields: Value| {
        let mut body = json!({"model": "smollm2", "temperature": 0, "max_tokens": 200});
        match route {
            "chat/completions" => body["messages"] = json!([{"role": "user", "content": "What is 17 + 25?"}]),
            _ => body["prompt"] = json!("17 + 25 ="),
        }
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        parts(server.post(&format!("/v1/{route}"), &body))
    };
    for route in ["chat/completions", "completions"] {
        let text = |fields: Value| {
            let (status, body) = send(route, fields.clone());
            assert_eq!(
                (status, &body["choices"][0]["finish_reason"]),
                (200, &json!("stop")),
                "{fields}: {body}"
            );
            let choice = &body["choices"][0];
            choice["message"]["content"].as_str().or(choice["text"].as_str()).unwrap().to_owned()
        };
        let number = |text: String| text.parse::<u32>().is_ok_and(|n| (10..100).contains(&n));
        assert!(number(text(json!({"structured_outputs": {"regex": "[1-9][0-9]"}}))));
        assert!(number(text(json!({"guided_regex": "[1-9][0-9]"}))));
        assert!(["41", "42"].contains(&text(json!({"guided_choice": ["41", "42"]})).as_str()));
        assert!(
            ["yes", "yes!"]
                .contains(&text(json!({"structured_outputs": {"choice": ["yes", "yes!"]}})).as_str())
        );
        let lark = "start: \"The sum is \" NUMBER \".\"\nNUMBER: /[0-9]{1,3}/";
        let said = text(json!({"structured_outputs": {"grammar": lark}}));
        assert!(said.starts_with("The sum is ") && said.ends_with('.'), "{said}");
        let schema = json!({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2});
        let said: Vec<bool> = serde_json::from_str(&text(json!({"guided_json": schema}))).unwrap();
        assert_eq!(said.len(), 2);
        for (fields, param) in [
            (json!({"structured_outputs": {"regex": "("}}), "structured_outputs.regex"),
            (json!({"guided_grammar": "begin: \"a\""}), "guided_grammar"),
            (json!({"guided_json": {"type": "array", "uniqueItems": true}}), "guided_json"),
        ] {
            let (status, body) = send(route, fields.clone());
            assert_eq!((status, &body["error"]["param"]), (400, &json!(param)), "{fields}: {body}");
        }
    }
    let object = json!({"response_format": {"type": "json_object"}, "max_tokens": 400});
    let (status, body) = send("chat/completions", object);
    let choice = &body["choices"][0];
    // A small model may go on for ever inside of an object; whatever ended is one.
    if (status, &choice["finish_reason"]) == (200, &json!("stop")) {
        let said: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(said.is_object(), "{body}");
    }
}

/// Fifty calls with arguments of random schemas, alone and at once, streamed and put together by the official
/// client, each valid by its schema.
#[test]
fn fifty_streamed_calls_are_whole_and_valid() {
    let Some(shared) = models() else { return };
    let Some(python) = python() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    let mut random = Schemas::new(50);
    let schemas: Vec<Value> = (0..50).map(|_| random.object()).collect();
    let function = |(at, schema): (usize, &Value)| json!({"name": format!("tool_{at}"), "description": "An example.", "parameters": schema, "strict": true});
    let tools: Vec<Value> = schemas.iter().enumerate().map(function).collect();
    let begun = Instant::now();
    let mut client = Command::new(python)
        .args([
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/tools_test.py"),
            &format!("{}/v1", server.base),
        ])
        .env_remove("OPENAI_API_KEY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(json!(tools).to_string().as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls: Vec<Value> = output
        .stdout
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert!(calls.len() >= 50, "{} calls", calls.len());
    for call in &calls {
        let at: usize = call["name"].as_str().unwrap().strip_prefix("tool_").unwrap().parse().unwrap();
        let validator = jsonschema::validator_for(&schemas[at]).unwrap();
        assert!(validator.is_valid(&call["arguments"]), "{call} for {}", schemas[at]);
    }
    println!("{} calls, {:.1} s", calls.len(), begun.elapsed().as_secs_f64());
}
