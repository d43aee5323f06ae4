//! Live transcription over real WebSockets.

use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt, StreamExt};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stentor::http::Settings;
use stentor::types::key::ApiKey;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::socket::{Server, start, until};

pub const REALTIME: &str = "/v1/realtime?intent=transcription";
pub const PANEAS: &str = "/api/v1/asr/stream?session_affinity=x";
const PATIENCE: Duration = Duration::from_secs(20);

pub fn settings() -> Settings {
    let (asr, chat) = (Some("whisper-1".into()), Some("echo".into()));
    Settings { default_asr: asr, default_chat: chat, ..Settings::default() }
}

pub struct Client(WebSocketStream<TcpStream>);

pub async fn connect(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, Error> {
    let mut request = format!("ws://{}{path}", server.addr).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let socket = TcpStream::connect(server.addr).await.unwrap();
    client_async(request, socket).await.map(|(socket, _)| Client(socket))
}

/// The same, once there is a place.
async fn soon(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, Error> {
    for _ in 0..200 {
        match connect(server, path, headers).await {
            Err(Error::Http(busy)) if busy.status().as_u16() == 429 => {}
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    connect(server, path, headers).await
}

/// The status that refused it.
fn status(refused: Result<Client, Error>) -> u16 {
    match refused {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => 101,
    }
}

impl Client {
    pub async fn send(&mut self, event: Value) {
        self.0.send(Message::text(event.to_string())).await.unwrap();
    }

    async fn raw(&mut self) -> Message {
        let read = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) => return message,
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(PATIENCE, read).await.unwrap()
    }

    pub async fn next(&mut self) -> Value {
        match self.raw().await {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The next event, which is of this type.
    pub async fn event(&mut self, kind: &str) -> Value {
        let event = self.next().await;
        assert_eq!(event["type"], kind, "{event}");
        event
    }

    pub async fn closed(&mut self) -> u16 {
        match self.raw().await {
            Message::Close(Some(frame)) => frame.code.into(),
            other => panic!("{other:?}"),
        }
    }

    /// Silence of so many seconds at 24 kHz.
    pub async fn append(&mut self, seconds: f64) {
        let audio = STANDARD.encode(vec![0u8; (seconds * 24e3) as usize * 2]);
        self.send(json!({"type": "input_audio_buffer.append", "audio": audio})).await;
    }
}

pub const PART: &str = "conversation.item.input_audio_transcription";

#[tokio::test]
async fn a_conversation_in_openais_events() {
    let server = start(settings()).await;
    let mut client = connect(&server, REALTIME, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    let created = client.event("session.created").await;
    assert_eq!(created["session"]["audio"]["input"]["transcription"]["model"], "whisper-1");
    assert_eq!(created["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"], 500);
    client.append(2.5).await;
    let started = client.event("input_audio_buffer.speech_started").await;
    let item = &started["item_id"];
    for text in ["word0.", " word1."] {
        let delta = client.event(&format!("{PART}.delta")).await;
        assert_eq!((&delta["delta"], &delta["item_id"]), (&json!(text), item));
    }
    client.send(json!({"type": "input_audio_buffer.commit"})).await;
    client.event("input_audio_buffer.speech_stopped").await;
    let committed = client.event("input_audio_buffer.committed").await;
    assert_eq!((&committed["item_id"], &committed["previous_item_id"]), (item, &Value::Null));
    assert_eq!(client.event("conversation.item.added").await["item"]["role"], "user");
    client.event("conversation.item.done").await;
    for (at, text) in ["word0.", "word1."].iter().enumerate() {
        let segment = client.event(&format!("{PART}.segment")).await;
        assert_eq!((&segment["text"], segment["start"].as_f64()), (&json!(text), Some(at as f64)));
    }
    let completed = client.event(&format!("{PART}.completed")).await;
    assert_eq!((&completed["transcript"], &completed["item_id"]), (&json!("word0. word1."), item));
    assert_eq!(completed["usage"], json!({"type": "duration", "seconds": 2.5}));
    client.send(json!({"type": "session.update", "session": {"turn_detection": null}})).await;
    let updated = client.event("session.updated").await;
    assert_eq!(updated["session"]["audio"]["input"]["turn_detection"], Value::Null);
    client.append(1.5).await;
    client.event(&format!("{PART}.delta")).await;
    client.send(json!({"type": "input_audio_buffer.clear"})).await;
    client.event("input_audio_buffer.cleared").await;
    client.send(json!({"type": "input_audio_buffer.commit", "event_id": "mine"})).await;
    let error = client.event("error").await;
    assert_eq!(error["error"]["code"], "input_audio_buffer_commit_empty");
    drop(client);
    until("the work stops", || server.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(server.dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn older_clients_get_the_older_events_and_telephones_are_heard() {
    let server = start(settings()).await;
    let mut client =
        connect(&server, REALTIME, &[("openai-beta", "realtime=v1")]).await.unwrap_or_else(|e| panic!("{e}"));
    client.event("transcription_session.created").await;
    client
        .send(json!({"type": "transcription_session.update", "session": {
            "input_audio_format": "g711_ulaw", "input_audio_transcription": {"model": "org/ears", "language": "en"},
            "turn_detection": null}}))
        .await;
    let updated = client.event("transcription_session.updated").await;
    assert_eq!(updated["session"]["input_audio_format"], "g711_ulaw");
    let audio = STANDARD.encode(vec![0xff; 8_000]);
    client.send(json!({"type": "input_audio_buffer.append", "audio": audio})).await;
    client.send(json!({"type": "input_audio_buffer.commit"})).await;
    assert_eq!(client.event(&format!("{PART}.delta")).await["delta"], "word0.");
    client.event("input_audio_buffer.committed").await;
    client.event("conversation.item.created").await;
    let change = json!({"type": "session.update", "session": {"input_audio_format": "pcm16"}});
    client.event(&format!("{PART}.segment")).await;
    client.event(&format!("{PART}.completed")).await;
    client.send(change).await;
    assert_eq!(client.event("error").await["error"]["param"], "session");
}

#[tokio::test]
async fn mistakes_are_told_and_the_session_goes_on() {
    let server = start(settings()).await;
    let mut client = connect(&server, REALTIME, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    client.event("session.created").await;
    for (text, code, param) in [
        ("{", "invalid_json", Value::Null),
        ("[]", "invalid_value", Value::Null),
        (r#"{"type":"response.create","event_id":"e1"}"#, "unsupported_parameter", json!("type")),
        (r#"{"type":"input_audio_buffer.append","audio":"*"}"#, "invalid_value", json!("audio")),
        (r#"{"type":"input_audio_buffer.append","audio":"AAAA"}"#, "invalid_value", json!("audio")),
        (r#"{"type":"input_audio_buffer.append"}"#, "invalid_value", Value::Null),
        (r#"{"type":"input_audio_buffer.commit"}"#, "input_audio_buffer_commit_empty", Value::Null),
        (
            r#"{"type":"session.update","session":{"type":"realtime"}}"#,
            "unsupported_parameter",
            json!("session.type"),
        ),
    ] {
        client.0.send(Message::text(text)).await.unwrap();
        let event = client.event("error").await;
        assert_eq!(
            (&event["error"]["code"], &event["error"]["param"]),
            (&json!(code), &param),
            "{text}: {event}"
        );
        assert_eq!(event["error"]["event_id"].is_string(), text.contains("e1"), "{event}");
    }
    client.0.send(Message::binary(vec![1, 2])).await.unwrap();
    client.event("error").await;
    let other = json!({"audio": {"input": {"transcription": {"model": "no"}}}});
    client.send(json!({"type": "session.update", "session": other})).await;
    assert_eq!(client.event("error").await["error"]["param"], "session", "the model stays");
    let mut client = connect(&server, REALTIME, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    client.send(json!({"type": "session.update", "session": other})).await;
    client.event("session.created").await;
    client.event("session.updated").await;
    client.append(0.5).await;
    assert_eq!(client.event("error").await["error"]["code"], "model_not_found");
    let cough = json!({"audio": {"input": {"transcription": {"model": "cough"}}}});
    client.send(json!({"type": "session.update", "session": cough})).await;
    client.event("session.updated").await;
    client.append(0.5).await;
    let event = client.event("error").await;
    assert!(!event.to_string().contains("secret"), "{event}");
    assert_eq!(client.closed().await, 1011);
}

#[tokio::test]
async fn who_may_open_a_session() {
    let keys = vec![ApiKey { id: "k".into(), sha256: Sha256::digest(b"key").into() }];
    let server = start(Settings { keys, live_sessions: 1, ..settings() }).await;
    for path in [REALTIME, PANEAS] {
        assert_eq!(status(connect(&server, path, &[]).await), 401);
        let bearer = ("authorization", "Bearer key");
        assert_eq!(status(connect(&server, path, &[bearer, ("origin", "https://evil.example")]).await), 403);
        let open = soon(&server, path, &[bearer]).await;
        assert_eq!(status(connect(&server, path, &[bearer]).await), 429);
        assert_eq!(status(open), 101);
        assert_eq!(status(soon(&server, path, &[bearer]).await), 101, "a place is given back");
    }
    let bearer = ("authorization", "Bearer key");
    assert_eq!(status(connect(&server, "/v1/realtime?intent=conversation", &[bearer]).await), 400);
    let plain = server.get("/v1/realtime").await;
    assert!(plain.starts_with("HTTP/1.1 401"), "{plain}");
    let server = start(settings()).await;
    let plain = server.get("/v1/realtime").await;
    assert!(plain.starts_with("HTTP/1.1 426") && plain.contains("upgrade_required"), "{plain}");
    let offered = [("sec-websocket-protocol", "realtime, openai-insecure-api-key.key")];
    let mut client = connect(&server, REALTIME, &offered).await.unwrap_or_else(|e| panic!("{e}"));
    client.event("session.created").await;
}

#[tokio::test]
async fn silent_clients_long_messages_and_a_server_that_stops() {
    let server = start(Settings { live_idle_timeout: Duration::from_millis(200), ..settings() }).await;
    let mut client = connect(&server, REALTIME, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    client.event("session.created").await;
    assert_eq!(client.closed().await, 1000);
    let server = start(settings()).await;
    let mut client = connect(&server, REALTIME, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    client.event("session.created").await;
    let _ = client.0.send(Message::text("x".repeat(5 << 20))).await;
    let ended = timeout(PATIENCE, client.0.next()).await.unwrap();
    assert!(matches!(ended, Some(Ok(Message::Close(_)) | Err(_)) | None), "{ended:?}");
    let mut client = connect(&server, REALTIME, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    client.event("session.created").await;
    client.append(1.0).await;
    client.event("input_audio_buffer.speech_started").await;
    server.stop.send(()).unwrap();
    let mut last = Value::Null;
    loop {
        match client.raw().await {
            Message::Text(text) => last = serde_json::from_str(&text).unwrap(),
            Message::Close(frame) => break assert_eq!(u16::from(frame.unwrap().code), 1001),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(last["transcript"], "word0.", "the last words are told: {last}");
    timeout(PATIENCE, server.done).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_conversation_in_paneas_events() {
    let server = start(settings()).await;
    let mut client = connect(&server, PANEAS, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    let ready = client.next().await;
    assert_eq!((&ready["event"], &ready["mode"]), (&json!("ready"), &json!("batch")));
    client
        .send(json!({"event": "start", "model": "whisper/large-v3", "language": "pt", "batch_window_sec": 1,
            "enable_diarization": false, "compute_type": "int8", "room_id": "r", "role": "agent", "insight_model": null}))
        .await;
    let joined = client.next().await;
    assert_eq!((&joined["event"], &joined["participants_count"]), (&json!("room_joined"), &json!(1)));
    let started = client.next().await;
    assert_eq!((&started["event"], &started["insights_enabled"]), (&json!("session_started"), &json!(true)));
    let chunk = STANDARD.encode(vec![0u8; 32_000]);
    for at in 0..4 {
        client.send(json!({"event": "audio", "chunk": chunk})).await;
        let batch = client.next().await;
        assert_eq!(
            (&batch["event"], &batch["batch_index"]),
            (&json!("batch_processed"), &json!(at)),
            "{batch}"
        );
        assert_eq!((&batch["text"], &batch["duration_sec"]), (&json!("word0."), &json!(1.0)));
        assert_eq!((&batch["total_tokens"], &batch["diarization"]), (&json!(at + 1), &Value::Null));
    }
    let insight = client.next().await;
    assert_eq!(
        (&insight["event"], &insight["type"]),
        (&json!("insight"), &json!("live_summary")),
        "{insight}"
    );
    assert_eq!(insight["text"], "word0. word0. word0. word0.!");
    for bad in
        [json!({"event": "audio"}), json!({"event": "audio", "chunk": "*"}), json!({"event": "x"}), json!(1)]
    {
        client.send(bad).await;
        assert_eq!(client.next().await["event"], "error");
    }
    client.0.send(Message::binary(vec![0u8; 16_000])).await.unwrap();
    client.send(json!({"event": "stop"})).await;
    let batch = client.next().await;
    assert_eq!((&batch["batch_index"], &batch["text"]), (&json!(4), &json!("")));
    let summary = client.next().await;
    assert_eq!(
        summary["stats"],
        json!({"total_batches": 5, "total_audio_seconds": 4.5, "total_tokens": 4, "transcript": "word0. word0. word0. word0."})
    );
    assert_eq!(client.next().await["event"], "session_ended");
    assert_eq!(client.closed().await, 1000);
    until("the work stops", || server.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(server.dropped.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn paneas_starts_that_are_refused() {
    let server = start(settings()).await;
    for (first, code) in [
        ("x", 1003),
        ("[]", 4400),
        (r#"{"event":"audio"}"#, 4400),
        (r#"{"event":"start","encoding":"mp3"}"#, 4400),
        (r#"{"event":"start","sample_rate":1}"#, 4400),
        (r#"{"event":"start","batch_window_sec":0.1}"#, 4400),
        (r#"{"event":"start","batch_window_sec":5,"max_batch_window_sec":4}"#, 4400),
        (r#"{"event":"start","beam_size":11}"#, 4400),
        (r#"{"event":"start","model":"nope"}"#, 4400),
        (r#"{"event":"start","language":"portuguese"}"#, 4400),
        (r#"{"event":"start","room_id":"r"}"#, 4401),
    ] {
        let mut client = connect(&server, PANEAS, &[]).await.unwrap_or_else(|e| panic!("{e}"));
        client.next().await;
        client.0.send(Message::text(first)).await.unwrap();
        assert_eq!(client.next().await["event"], "error", "{first}");
        assert_eq!(client.closed().await, code, "{first}");
    }
}

fn message() -> impl Strategy<Value = Message> {
    let kind = prop::sample::select(vec![
        "session.update",
        "transcription_session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "start",
        "audio",
        "stop",
        "other",
    ]);
    let odd = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("AAAAAAAA")),
        Just(json!({"audio": {"input": {"turn_detection": null}}})),
        Just(json!({"turn_detection": {"threshold": -1}, "input_audio_format": 3})),
        Just(json!([{"type": []}])),
    ];
    let event = (kind, odd.clone(), odd).prop_map(|(kind, a, b)| {
        let body = json!({"type": kind, "event": kind, "session": a, "audio": b, "chunk": b, "model": a, "event_id": a});
        Message::text(body.to_string())
    });
    prop_oneof![
        4 => event,
        1 => ".{0,40}".prop_map(Message::text),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Message::binary),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Message::Ping(bytes.into())),
    ]
}

#[test]
fn two_hundred_malformed_conversations_leave_the_server_serving() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(start(settings()));
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let conversation = (any::<bool>(), prop::collection::vec(message(), 0..12));
    let run = runner.run(&conversation, |(openai, messages)| {
        runtime.block_on(async {
            let path = if openai { REALTIME } else { PANEAS };
            let client = connect(&server, path, &[]).await.map_err(|e| TestCaseError::fail(e.to_string()))?;
            let (mut sink, mut stream) = client.0.split();
            for message in messages {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
            let _ = sink.send(Message::Close(None)).await;
            // Whatever comes is JSON, and then the end.
            let read = async {
                while let Some(Ok(message)) = stream.next().await {
                    if let Message::Text(text) = message {
                        serde_json::from_str::<Value>(&text)
                            .map_err(|e| TestCaseError::fail(e.to_string()))?;
                    }
                }
                Ok(())
            };
            timeout(PATIENCE, read).await.map_err(|_| TestCaseError::fail("the socket stays open"))?
        })
    });
    run.unwrap();
    runtime.block_on(async {
        until("every session ends", || server.running.load(Ordering::SeqCst) == 0).await;
        let mut client = connect(&server, REALTIME, &[]).await.unwrap_or_else(|e| panic!("{e}"));
        client.event("session.created").await;
        client.append(1.0).await;
        client.event("input_audio_buffer.speech_started").await;
    });
}
