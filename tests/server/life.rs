//! Starting, stopping, hanging up, being too busy.

use std::io::{BufRead, BufReader, Read};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::program::{PATIENCE, Program, home_like, models, parts};

/// A chat that goes on for as long as the context allows.
fn endless() -> Value {
    json!({
        "model": "smollm2", "stream": true, "max_tokens": 4000, "temperature": 0,
        "messages": [{"role": "user", "content": "Tell me a very long story about the sea."}],
    })
}

/// The first event that has text.
fn first_text(reader: &mut impl BufRead) {
    let mut line = String::new();
    while !line.contains("\"content\":\"") || line.contains("\"content\":\"\"") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended");
    }
}

#[test]
fn a_client_that_hangs_up_frees_its_place_within_a_step() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    let mut stream = BufReader::new(server.post("/v1/chat/completions", &endless()));
    first_text(&mut stream);
    let running = |s: &Program| s.metric("vllm:num_requests_running", "smollm2");
    assert_eq!((running(&server), server.metric("stentor_requests_cancelled_total", "smollm2")), (1.0, 0.0));
    assert!(server.metric("vllm:kv_cache_usage_perc", "smollm2") > 0.0);
    drop(stream);
    server.until("the end of its work", Duration::from_secs(2), |s| {
        running(s) == 0.0
            && s.metric("stentor_requests_cancelled_total", "smollm2") == 1.0
            && s.metric("vllm:kv_cache_usage_perc", "smollm2") == 0.0
    });
    let made = server.metric("vllm:generation_tokens_total", "smollm2");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.metric("vllm:generation_tokens_total", "smollm2"), made, "tokens for nobody");
}

#[test]
fn a_full_queue_is_told_at_once_and_drains() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    std::fs::write(home.path().join("stentor.toml"), "[limits]\nqueue_depth = 2\n").unwrap();
    let server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    let mut streams: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = BufReader::new(server.post("/v1/chat/completions", &endless()));
            first_text(&mut stream);
            stream
        })
        .collect();
    let refused = server.post("/v1/chat/completions", &endless());
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    let (status, body) = parts(refused);
    assert_eq!((status, &body["error"]["type"]), (429, &json!("rate_limit_error")), "{body}");
    assert_eq!(server.metric("vllm:admission_rejections_total", "queue_full"), 1.0);
    streams.pop();
    let short = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4});
    server.until("a free place", Duration::from_secs(5), |s| {
        s.post("/v1/chat/completions", &short).status() == 200
    });
}

#[test]
fn on_sigterm_a_running_answer_ends_whole_and_the_process_with_it() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let mut server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    let mut ask = endless();
    ask["max_tokens"] = json!(150);
    let mut stream = BufReader::new(server.post("/v1/chat/completions", &ask));
    first_text(&mut stream);
    assert_eq!(server.get("/readyz").status(), 200);
    server.terminate();
    server.until("the word that it stops", Duration::from_secs(2), |s| {
        // The listener may already be closed to new connections.
        let asked = s.http.get(format!("{}/readyz", s.base)).send();
        asked.map_or(true, |answer| answer.status() == 503)
    });
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"length\""), "{rest}");
    assert!(rest.trim_end().ends_with("data: [DONE]"), "{rest}");
    assert!(server.ended().success());
}

#[test]
fn until_the_models_can_answer_readyz_says_why_not() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let mut server = Program::start(home.path(), &[]);
    assert_eq!(server.get("/healthz").status(), 200);
    let answer = server.get("/readyz");
    // On a fast machine they may be loaded by now.
    if answer.status() != 200 {
        assert_eq!(answer.status(), 503);
        assert!(answer.text().unwrap().contains("loading"));
    }
    server.until_line("Ready in ");
    assert_eq!(server.get("/readyz").status(), 200);
}

#[test]
fn damaged_weights_are_named_and_readyz_says_so() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let folder = shared.join("models/smollm2-135m-instruct");
    let name = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let whole = name.into_iter().find(|p| p.extension().is_some_and(|e| e == "gguf")).unwrap();
    let bytes = std::fs::read(whole).unwrap();
    let cut = home.path().join("cut.gguf");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let program = |arguments: &[&str]| {
        let home = home.path().to_str().unwrap();
        Command::new(env!("CARGO_BIN_EXE_stentor")).args(["--home", home]).args(arguments).output().unwrap()
    };
    // Half a file is refused where it is met first.
    let import = program(&["import", cut.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&import.stderr).into_owned();
    assert!(!import.status.success() && said.contains("cut.gguf") && said.contains("tensor"), "{said}");
    // One whose numbers are broken fails its load; the server says so and goes on.
    let mut broken = bytes;
    let half = broken.len() / 2;
    broken[half..].fill(0xff);
    std::fs::write(&cut, &broken).unwrap();
    let import = program(&["import", cut.to_str().unwrap()]);
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
    let server = Program::start(home.path(), &["--preload", "cut"]);
    server
        .until("the reason", PATIENCE, |s| s.get("/readyz").text().unwrap().contains("could not be loaded"));
    let answer = server.get("/readyz");
    assert_eq!(answer.status(), 503);
    let reason = answer.text().unwrap();
    assert!(reason.contains("cut.gguf") && reason.contains("tensor"), "{reason}");
    assert_eq!(server.get("/healthz").status(), 200);
    let other = json!({"model": "all-minilm-l6-v2", "input": "hello"});
    assert_eq!(server.post("/v1/embeddings", &other).status(), 200, "the other models serve");
}

#[test]
fn a_public_address_asks_for_a_key() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let program = |arguments: &[&str]| {
        let home = home.path().to_str().unwrap();
        Command::new(env!("CARGO_BIN_EXE_stentor")).args(["--home", home]).args(arguments).output().unwrap()
    };
    let refused = program(&["serve", "--addr", "0.0.0.0:0"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("stentor key"), "{said}");
    let made = program(&["key", "laptop"]);
    let key = String::from_utf8(made.stdout).unwrap();
    let key = key.split_whitespace().find(|w| w.len() >= 40).unwrap().to_owned();
    let stored = std::fs::read_to_string(home.path().join("api-keys")).unwrap();
    assert!(!stored.contains(&key), "only its hash is stored");
    let server = Program::ready(home.path(), &["--preload", "all-minilm-l6-v2"]);
    let ask = json!({"input": "hello"});
    assert_eq!(server.post("/v1/embeddings", &ask).status(), 401);
    let with = |header: &str, value: String| {
        server.posting("/v1/embeddings", ask.to_string()).header(header, value).send().unwrap().status()
    };
    assert_eq!(with("authorization", format!("Bearer {key}")), 200);
    assert_eq!(with("x-api-key", key.clone()), 200);
    assert_eq!(with("authorization", format!("Bearer {key}x")), 401);
}
