//! Many clients at once, for a while.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};

use super::program::{Program, home_like, models};

const CLIENTS: usize = 64;
/// How long they all ask.
const LASTING: Duration = Duration::from_secs(120);
/// What a chat model's kept turns take at most here.
const KEPT: u64 = 256 << 20;

fn config() -> String {
    format!("[limits]\nqueue_depth = 56\n[models]\nkv_cache_bytes = {KEPT}\n")
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    complete: AtomicU64,
    refused: AtomicU64,
    left: AtomicU64,
}

/// A chat of client `client`, its `turn`-th: beginnings that are shared, lengths that are not.
fn chat(client: usize, turn: usize) -> Value {
    let about = ["the sea", "a lighthouse", "an old map", "two brothers", "the winter"][(client + turn) % 5];
    json!({
        "model": "smollm2", "stream": true, "stream_options": {"include_usage": true},
        "max_tokens": 8 + (client * 31 + turn * 17) % 90, "temperature": 0.8, "seed": client * 1000 + turn,
        "messages": [{"role": "user", "content": format!("Tell me a story about {about}.")}],
    })
}

fn post(http: &Client, url: &str, body: &Value) -> Response {
    http.post(url).header("content-type", "application/json").body(body.to_string()).send().unwrap()
}

/// Reads a stream to its end and checks that it is whole; `leave` goes after the first text.
fn read(answer: Response, asked: u64, leave: bool) -> bool {
    let (mut text, mut finished, mut usage) = (0, None, Value::Null);
    for line in BufReader::new(answer).lines() {
        let line = line.unwrap();
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            let made = usage["completion_tokens"].as_u64().unwrap();
            assert!(made > 0 && made <= asked && text > 0, "{made} of {asked} tokens in {text} pieces");
            assert!(matches!(finished.as_deref(), Some("stop" | "length")), "{finished:?}");
            return true;
        }
        let event: Value = serde_json::from_str(data).unwrap();
        assert!(event.get("error").is_none(), "{event}");
        if !event["usage"].is_null() {
            usage = event["usage"].clone();
            continue;
        }
        let choice = &event["choices"][0];
        text += usize::from(choice["delta"]["content"].as_str().is_some_and(|t| !t.is_empty()));
        finished = choice["finish_reason"].as_str().map(str::to_owned).or(finished);
        if leave && text > 0 {
            return false;
        }
    }
    panic!("a stream ended without [DONE] after {text} pieces");
}

fn client(at: usize, http: &Client, url: &str, end: Instant, seen: &Seen) {
    for turn in 0.. {
        if Instant::now() >= end {
            return;
        }
        let body = chat(at, turn);
        let answer = post(http, url, &body);
        match answer.status().as_u16() {
            200 => {
                let whole = read(answer, body["max_tokens"].as_u64().unwrap(), (at + turn).is_multiple_of(9));
                let count = if whole { &seen.complete } else { &seen.left };
                count.fetch_add(1, Ordering::Relaxed);
            }
            429 => {
                let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                assert!((1..=60).contains(&wait), "retry after {wait} s");
                seen.refused.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(300));
            }
            other => panic!("status {other}: {}", answer.text().unwrap()),
        }
    }
}

#[test]
fn sixty_four_clients_for_two_minutes_are_served_whole_or_told_to_wait() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    std::fs::write(home.path().join("stentor.toml"), config()).unwrap();
    let mut server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    let (http, url) = (server.http.clone(), format!("{}/v1/chat/completions", server.base));
    let (begun, seen) = (Instant::now(), Seen::default());
    let before = server.memory("VmRSS").unwrap_or(0);
    let halfway = std::thread::scope(|scope| {
        for at in 0..CLIENTS {
            let (http, url, seen) = (&http, &url, &seen);
            scope.spawn(move || client(at, http, url, begun + LASTING, seen));
        }
        // By then the cache is full of turns.
        std::thread::sleep(LASTING / 2);
        server.memory("VmRSS").unwrap_or(0)
    });
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let after = server.memory("VmRSS").unwrap_or(0);
    println!(
        "{} answers whole, {} left, {} refused; {} tokens; memory {}, halfway {}, then {} MB",
        count(&seen.complete),
        count(&seen.left),
        count(&seen.refused),
        server.metric("vllm:generation_tokens_total", "smollm2"),
        before / 1_000_000,
        halfway / 1_000_000,
        after / 1_000_000
    );
    assert!(count(&seen.complete) > 100 && count(&seen.refused) > 0 && count(&seen.left) > 0);
    assert_eq!(
        server.metric("vllm:admission_rejections_total", "queue_full"),
        count(&seen.refused) as f64,
        "every refusal is counted"
    );
    assert!(after < before + KEPT + 150_000_000, "memory grew from {before} to {after}");
    assert!(after < halfway + 40_000_000, "memory grows on, from {halfway} to {after}");
    idle(&server);
    // It looks over its books every few steps, and at rest.
    std::thread::sleep(Duration::from_secs(4));
    assert!(!server.has_said(stentor::engine::lane::llm::UNBALANCED));
}

/// Nothing runs, waits, or holds a block.
fn idle(server: &Program) {
    server.until("the end of all work", Duration::from_secs(5), |s| {
        let names = ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"];
        names.iter().all(|name| s.metric(name, "smollm2") == 0.0)
    });
}

#[test]
fn the_rest_speed_up_when_half_of_the_clients_are_gone() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "smollm2-135m-instruct"]);
    let (http, url) = (server.http.clone(), format!("{}/v1/chat/completions", server.base));
    // Half of 16, which all run together; the other half leaves.
    let (stop, leave) = (AtomicBool::new(false), AtomicBool::new(false));
    let pieces = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for at in 0..16 {
            let (http, url, stop, leave, pieces) = (&http, &url, &stop, &leave, &pieces);
            scope.spawn(move || {
                let body = json!({"model": "smollm2", "stream": true, "max_tokens": 4000, "temperature": 1,
                    "seed": at, "logit_bias": {"2": -100, "0": -100},
                    "messages": [{"role": "user", "content": "Tell me a very long story."}]});
                for line in BufReader::new(post(http, url, &body)).lines() {
                    let gone = at % 2 == 1 && leave.load(Ordering::Relaxed);
                    if gone || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if at % 2 == 0 && line.unwrap().starts_with("data: ") {
                        pieces.fetch_add(1, Ordering::Relaxed);
                    }
                }
                assert!(stop.load(Ordering::Relaxed), "the story of client {at} ended");
            });
        }
        let running = |n: f64| move |s: &Program| s.metric("vllm:num_requests_running", "smollm2") == n;
        server.until("all of them", Duration::from_secs(30), running(16.0));
        let rate = || {
            let (from, begun) = (pieces.load(Ordering::Relaxed), Instant::now());
            std::thread::sleep(Duration::from_secs(3));
            (pieces.load(Ordering::Relaxed) - from) as f64 / begun.elapsed().as_secs_f64()
        };
        std::thread::sleep(Duration::from_secs(1));
        let all = rate();
        // At one moment: those who stay hold more with every token.
        let held = server.metric("vllm:kv_cache_usage_perc", "smollm2");
        leave.store(true, Ordering::Relaxed);
        server.until("half of them", Duration::from_secs(5), running(8.0));
        let left = server.metric("vllm:kv_cache_usage_perc", "smollm2");
        let half = rate();
        println!("{all:.0} pieces a second, then {half:.0}; blocks held {held:.3}, then {left:.3}");
        stop.store(true, Ordering::Relaxed);
        assert!(half > 1.15 * all, "{half} pieces a second, {all} before");
        assert!(left < 0.75 * held, "{left} of the blocks are held, {held} before");
    });
    idle(&server);
}
