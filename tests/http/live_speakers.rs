//! Who speaks in live sessions.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::live::{PANEAS, PART, REALTIME, connect, settings};
use super::socket::start;

#[tokio::test]
async fn sentences_say_who_speaks() {
    let server = start(settings()).await;
    let mut client = connect(&server, REALTIME, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    client.event("session.created").await;
    let diarize = |on: bool| {
        json!({"type": "session.update", "session": {"audio": {"input": {"turn_detection": null,
        "transcription": {"model": "whisper-1", "diarize": on}}}}})
    };
    client.send(diarize(true)).await;
    let updated = client.event("session.updated").await;
    assert_eq!(updated["session"]["audio"]["input"]["transcription"]["diarize"], true);
    client.append(2.5).await;
    client.send(json!({"type": "input_audio_buffer.commit"})).await;
    let mut speakers = Vec::new();
    loop {
        let event = client.next().await;
        match event["type"].as_str().unwrap().strip_prefix(PART) {
            Some(".segment") => speakers.push((event["text"].clone(), event["speaker"].clone())),
            Some(".completed") => break,
            _ => {}
        }
    }
    let who = |text: &str, speaker: &str| (json!(text), json!(speaker));
    assert_eq!(speakers, [who("word0.", "SPEAKER_00"), who("word1.", "SPEAKER_01")]);
    client.send(diarize(false)).await;
    assert_eq!(client.event("error").await["error"]["param"], "session", "who listens stays");
    server.voices.become_version(None);
    let mut client = connect(&server, REALTIME, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    client.event("session.created").await;
    client.send(diarize(true)).await;
    client.event("session.updated").await;
    client.append(0.5).await;
    assert_eq!(
        client.event("error").await["error"]["code"],
        "service_unavailable",
        "there is no speaker model"
    );
}

#[tokio::test]
async fn a_conversation_is_told_by_its_speakers() {
    let server = start(settings()).await;
    let mut client = connect(&server, PANEAS, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    client.next().await;
    client
        .send(json!({"event": "start", "model": "whisper/large-v3", "batch_window_sec": 1,
            "enable_diarization": true, "enable_insights": false}))
        .await;
    assert_eq!(client.next().await["event"], "session_started");
    let chunk = STANDARD.encode(vec![0u8; 32_000]);
    for _ in 0..6 {
        client.send(json!({"event": "audio", "chunk": chunk})).await;
        assert_eq!(client.next().await["event"], "batch_processed");
    }
    let update = client.next().await;
    let said = json!([
        {"speaker": "SPEAKER_00", "text": "word0."},
        {"speaker": "SPEAKER_01", "text": "word0. word0. word0. word0. word0."},
    ]);
    assert_eq!(
        (&update["event"], &update["batch_index"]),
        (&json!("diarization_update"), &json!(5)),
        "{update}"
    );
    assert_eq!((&update["conversation"], &update["total_messages"]), (&said, &json!(2)));
    client.send(json!({"event": "stop"})).await;
    let last = client.next().await;
    assert_eq!((&last["event"], last.get("batch_index")), (&json!("final_diarization"), None), "{last}");
    assert_eq!(last["conversation"], said);
    assert_eq!(client.next().await["stats"]["total_tokens"], 6);
    assert_eq!(client.next().await["event"], "session_ended");
}
