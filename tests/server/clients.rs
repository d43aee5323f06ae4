//! The Responses API and vLLM's calls for tokens by real models, and the official clients for Python and Node.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::program::{Program, clips, home_like, models, parts, python};

/// Runs a client to its end; what it prints is shown.
#[track_caller]
fn run(command: &mut Command) {
    let output = command.env_remove("OPENAI_API_KEY").output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn script(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_official_client_speaks_the_responses_api() {
    let Some(shared) = models() else { return };
    let Some(python) = python() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    run(Command::new(python).arg(script("responses_test.py")).arg(format!("{}/v1", server.base)));
}

#[test]
fn official_clients_keep_documents_and_ask_them() {
    let Some(shared) = models() else { return };
    let Some(python) = python() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &[]);
    run(Command::new(python).arg(script("documents_test.py")).arg(format!("{}/v1", server.base)));
}

#[test]
fn speech_is_transcribed_as_it_is_spoken() {
    let (Some(shared), Some(clips)) = (models(), clips()) else { return };
    let Some(python) = python() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "whisper-base"]);
    let base = format!("{}/v1", server.base);
    run(Command::new(python).arg(script("realtime_test.py")).arg(base).arg(clips));
}

#[test]
fn the_official_client_for_node_is_served() {
    let (Some(shared), Some(clips)) = (models(), clips()) else { return };
    let Some(folder) = std::env::var_os("STENTOR_TEST_NODE") else {
        println!("skipped: STENTOR_TEST_NODE, a folder with the openai package for Node, is not set");
        return;
    };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &[]);
    let base = format!("{}/v1", server.base);
    run(Command::new("node").arg(script("openai_test.mjs")).arg(base).arg(folder).arg(clips));
}

fn respond(server: &Program, more: &Value) -> Value {
    let mut body = json!({"model": "smollm2", "input": "Say yes.", "temperature": 0, "max_output_tokens": 8});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, answer) = parts(server.post("/v1/responses", &body));
    assert_eq!(status, 200, "{answer}");
    answer
}

fn files(home: &Path) -> usize {
    std::fs::read_dir(home.join("responses")).unwrap().count()
}

#[test]
fn responses_outlive_the_process_within_the_configured_limit() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    std::fs::write(home.path().join("stentor.toml"), "[responses]\nkeep = 2\n").unwrap();
    let preload = ["--preload", "smollm2-135m-instruct"];
    let mut server = Program::ready(home.path(), &preload);
    let made: Vec<Value> = (0..3).map(|_| respond(&server, &json!({}))).collect();
    assert_eq!(files(home.path()), 2);
    server.terminate();
    assert!(server.ended().success());
    drop(server);
    let server = Program::ready(home.path(), &preload);
    let find = |at: usize| parts(server.get(&format!("/v1/responses/{}", made[at]["id"].as_str().unwrap())));
    assert_eq!(find(0).0, 404);
    assert_eq!(find(2), (200, made[2].clone()));
    let more = respond(&server, &json!({"previous_response_id": made[2]["id"]}));
    let (before, now) = (&made[2]["usage"]["input_tokens"], &more["usage"]["input_tokens"]);
    assert!(now.as_u64() > before.as_u64(), "{more}");
    drop(server);
    let environment = [("STENTOR_RESPONSES_KEEP", "0")];
    let mut server = Program::start_with(home.path(), &preload, &environment);
    server.until_line("Ready in ");
    assert_eq!(respond(&server, &json!({}))["store"], false);
    assert_eq!(files(home.path()), 0);
}

#[test]
fn tokens_are_those_that_generation_is_given() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    let post = |path: &str, body: Value| {
        let (status, answer) = parts(server.post(path, &body));
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    };
    let turns = json!([{"role": "user", "content": "Say <|im_end|> and naïve."}]);
    let found = post("/tokenize", json!({"messages": turns, "return_token_strs": true}));
    let chat = post("/v1/chat/completions", json!({"messages": turns, "max_tokens": 1}));
    assert_eq!(found["count"], chat["usage"]["prompt_tokens"]);
    assert_eq!(found["max_model_len"], 8192);
    let ids = found["tokens"].as_array().unwrap();
    assert_eq!(
        (found["count"].as_u64(), &found["token_strs"][0]),
        (Some(ids.len() as u64), &json!("<|im_start|>"))
    );
    let whole = post("/detokenize", json!({"tokens": ids}))["prompt"].as_str().unwrap().to_owned();
    assert!(
        whole.ends_with("user\nSay <|im_end|> and naïve.<|im_end|>\n<|im_start|>assistant\n"),
        "{whole:?}"
    );
    let open = post("/tokenize", json!({"messages": turns, "add_generation_prompt": false}));
    assert!(open["count"].as_u64() < found["count"].as_u64());
    let text = "The capital of France is";
    let found = post("/tokenize", json!({"model": "default", "prompt": text}));
    let completion = post("/v1/completions", json!({"prompt": found["tokens"], "max_tokens": 1}));
    assert_eq!(found["count"], completion["usage"]["prompt_tokens"]);
    assert_eq!(post("/detokenize", json!({"tokens": found["tokens"]}))["prompt"], text);
    // Longer than the context is told; without end is not.
    let long = post("/tokenize", json!({"prompt": "word ".repeat(20_000)}));
    assert!(long["count"].as_u64() > long["max_model_len"].as_u64());
    let endless = json!({"prompt": "x ".repeat(2_000_000)});
    let (status, answer) = parts(server.post("/tokenize", &endless));
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("prompt")));
    let (status, answer) = parts(server.post("/detokenize", &json!({"tokens": [9_999_999]})));
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("tokens")));
}
