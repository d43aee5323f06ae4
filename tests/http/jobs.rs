//! Work that outlives its request, and runs that are told and watched.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use stentor::http::{Dialect, Settings, State, Stored, router};
use stentor::obs::install_metrics;

use super::fake::{Answer, EARS, Fake, LECTURE, app, delete, form, get, kept_in, post, send};

fn settings() -> Settings {
    Settings { default_asr: Some(EARS.into()), ..Settings::default() }
}

fn state(stored: &Stored) -> State {
    State::new(Arc::new(Fake::default()), stored.clone(), settings(), install_metrics().unwrap())
}

/// Asks until the job is over.
pub async fn outcome(app: &Router, path: &str) -> Value {
    for _ in 0..500 {
        let job = send(app, get(path)).await.json();
        if job["status"] != "queued" {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} is never over");
}

pub fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["job_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_recording_and_a_document_are_done_later() {
    let app = app(settings());
    let fields = [("file", "@RIFF"), ("language", "de"), ("meta", r#"{"case": 7}"#)];
    let queued = send(&app, form("/rag/transcribe/async", &fields)).await;
    assert_eq!(queued.json()["status"], "queued");
    let job = outcome(&app, &format!("/transcribe/jobs/{}", id(&queued))).await;
    assert_eq!(job["status"], "done", "{job}");
    assert_eq!(job["result"]["text"], "4 bytes of a.wav");
    assert_eq!(job["result"]["info"]["language"], "de");
    assert_eq!(job["request"], json!({"language": "de", "meta": {"case": 7}}));
    assert!(job["updated_at"].as_f64().unwrap() >= job["created_at"].as_f64().unwrap());

    let queued = send(&app, form("/parse/document/async", &[("file", "@a.txt:Some words.")])).await;
    let path = format!("/parse/jobs/{}", id(&queued));
    let job = outcome(&app, &path).await;
    assert_eq!(job["result"]["text"], "Some words.");
    let other = send(&app, get(&path.replace("parse", "transcribe"))).await;
    assert_eq!((other.status.as_u16(), other.error(Dialect::Pmx).as_str()), (404, "job not found"));

    let queued = send(&app, form("/parse/document/async", &[("file", "@a.bin:\u{0}\u{1}")])).await;
    let job = outcome(&app, &format!("/parse/jobs/{}", id(&queued))).await;
    assert_eq!((&job["status"], &job["result"]), (&json!("error"), &Value::Null));
    assert!(job["error"].as_str().unwrap().contains("not read"), "{job}");
}

#[tokio::test]
async fn what_could_not_be_done_is_refused_at_once() {
    let app = app(settings());
    for (path, body) in [
        ("/transcribe/async", json!({"file_url": "http://127.0.0.1/secret"})),
        ("/transcribe/async", json!({})),
        ("/parse/document/async", json!({"file_url": "http://169.254.169.254/latest/meta-data"})),
        ("/parse/document/async", json!({"file_url": "file:///etc/passwd"})),
    ] {
        let answer = send(&app, post(path, body.to_string())).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
        answer.error(Dialect::Pmx);
    }
    let wrong = [("file", "@RIFF"), ("beam_size", "99")];
    assert_eq!(send(&app, form("/transcribe/async", &wrong)).await.status, 400);
    let spy = [("file", "@RIFF"), ("callback_url", "http://127.0.0.1:1/")];
    assert_eq!(send(&app, form("/transcribe/async", &spy)).await.status, 400);
}

/// Answers two requests with these bodies; what each sent.
pub fn host(listener: TcpListener, bodies: [&'static str; 2]) -> JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut asked = Vec::new();
        for body in bodies {
            let (mut socket, _) = listener.accept().unwrap();
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                let count = socket.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&request).to_lowercase();
                let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
                let length =
                    head.split("content-length: ").nth(1).and_then(|l| l.lines().next()?.parse().ok());
                if rest.len() >= length.unwrap_or(0) {
                    break;
                }
            }
            let length = body.len();
            write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                .unwrap();
            asked.push(String::from_utf8(request).unwrap());
        }
        asked
    })
}

#[tokio::test]
async fn a_file_is_fetched_and_what_came_of_it_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = host(listener, ["Words from afar.", ""]);
    let app = app(Settings { remote_hosts: vec![addr.to_string()], ..settings() });
    let body = json!({"file_url": format!("http://{addr}/notes/far.txt?key=1"),
        "callback_url": format!("http://{addr}/done"), "meta": {"case": 7}});
    let queued = send(&app, post("/parse/document/async", body.to_string())).await;
    let job = outcome(&app, &format!("/parse/jobs/{}", id(&queued))).await;
    assert_eq!(job["result"]["text"], "Words from afar.", "{job}");
    assert_eq!(job["result"]["meta"]["filename"], "far.txt");
    let asked = tokio::task::spawn_blocking(|| asked.join().unwrap()).await.unwrap();
    assert!(asked[0].starts_with("GET /notes/far.txt?key=1 "), "{}", asked[0]);
    let (head, sent) = asked[1].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /done "), "{head}");
    let sent: Value = serde_json::from_str(sent).unwrap();
    assert_eq!((&sent["job_id"], &sent["status"]), (&job["id"], &json!("done")));
    assert_eq!((&sent["result"], &sent["meta"]), (&job["result"], &json!({"case": 7})));
}

#[tokio::test]
async fn a_job_is_cancelled_and_its_file_goes() {
    let dir = tempfile::tempdir().unwrap();
    let stored = kept_in(dir.path());
    let app = router(state(&stored));
    let queued = send(&app, form("/transcribe/async", &[("file", "@RIFF"), ("model", LECTURE)])).await;
    let path = format!("/transcribe/jobs/{}", id(&queued));
    while send(&app, get(&path)).await.json()["running"] != true {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let files = || std::fs::read_dir(dir.path().join("files")).unwrap().count();
    assert_eq!(files(), 1);
    let cancelled = send(&app, delete(&path)).await.json();
    assert_eq!((&cancelled["status"], &cancelled["error"]), (&json!("error"), &json!("cancelled")));
    assert_eq!(files(), 0);
    assert_eq!(send(&app, delete(&path)).await.json()["error"], "cancelled");
    assert_eq!(outcome(&app, &path).await["error"], "cancelled");
}

#[test]
fn jobs_go_on_where_the_server_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (endless, waiting) = {
        let runtime = runtime();
        let stored = kept_in(dir.path());
        let ids = runtime.block_on(async {
            let app = router(state(&stored));
            let mut ids = Vec::new();
            // Two run, and the third waits for its turn.
            for model in [LECTURE, LECTURE, EARS] {
                let fields = [("file", "@RIFF"), ("model", model)];
                ids.push(id(&send(&app, form("/transcribe/async", &fields)).await));
            }
            let first = format!("/transcribe/jobs/{}", ids[1]);
            while send(&app, get(&first)).await.json()["running"] != true {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ids
        });
        // As a server does that is told to stop while a job runs.
        runtime.shutdown_timeout(Duration::from_secs(5));
        (ids[..2].to_vec(), ids[2].clone())
    };
    let stored = kept_in(dir.path());
    runtime().block_on(async {
        let state = state(&stored);
        let app = router(state.clone());
        assert_eq!(state.resume().await.unwrap(), 3);
        for id in &endless {
            let path = format!("/transcribe/jobs/{id}");
            while send(&app, get(&path)).await.json()["running"] != true {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            send(&app, delete(&path)).await;
        }
        let job = outcome(&app, &format!("/transcribe/jobs/{waiting}")).await;
        assert_eq!((&job["status"], &job["result"]["text"]), (&json!("done"), &json!("4 bytes of a.wav")));
        assert_eq!(state.resume().await.unwrap(), 0);
    });
}

#[tokio::test]
async fn runs_are_told_and_watched() {
    let app = app(settings());
    let run = id(&send(&app, post("/rag/jobs", "{}")).await);
    let path = |what: &str| format!("/rag/jobs/{run}/{what}");
    let ok = json!({"ok": true});
    let tell = post(&path("events"), r#"{"step": 1, "type": "spoofed"}"#);
    assert_eq!(send(&app, tell).await.json(), ok);
    assert_eq!(send(&app, get(&path("result"))).await.json(), json!({"status": "running"}));
    let watcher = {
        let (app, path) = (app.clone(), path("events"));
        tokio::spawn(async move { send(&app, get(&path)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(send(&app, post(&path("events"), r#""two""#)).await.json(), ok);
    assert_eq!(send(&app, post(&path("complete"), r#"{"sum": 3}"#)).await.json(), ok);
    let watched = watcher.await.unwrap();
    assert_eq!(watched.headers["x-accel-buffering"], "no");
    let again = send(&app, get(&path("events"))).await;
    for answer in [watched, again] {
        let events: Vec<Value> = answer.events().iter().map(|e| serde_json::from_str(e).unwrap()).collect();
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["started", "progress", "progress", "complete"]);
        assert_eq!(events[0]["title"], "Agentenlauf");
        assert_eq!((&events[1]["step"], &events[2]["payload"]), (&json!(1), &json!("two")));
        assert!(events.iter().all(|event| event["ts"].as_f64().unwrap() > 1.7e9));
    }
    let done = json!({"status": "done", "result": {"sum": 3}});
    assert_eq!(send(&app, get(&path("result"))).await.json(), done);
    assert_eq!(send(&app, post(&path("events"), "{}")).await.status, 409);
    for what in ["result", "events"] {
        let missing = send(&app, get(&format!("/rag/jobs/nope/{what}"))).await;
        assert_eq!((missing.status.as_u16(), missing.error(Dialect::Pmx).as_str()), (404, "job not found"));
    }
}
