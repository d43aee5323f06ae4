//! Transcripts: what is asked for comes, whole and as events.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use stentor::http::{Settings, router};
use tower::ServiceExt;

use super::fake::{ANTHEM, Answer, COUGH, Fake, LECTURE, TALK, app, form, send, state};

const PATH: &str = "/v1/audio/transcriptions";

async fn ask(fields: &[(&str, &str)]) -> Answer {
    let all: Vec<_> = [("file", "@12345")].iter().chain(fields).copied().collect();
    send(&app(Settings::default()), form(PATH, &all)).await
}

pub fn events(answer: &Answer) -> Vec<Value> {
    answer.events().iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn of_type<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == name).collect()
}

fn logprob(token: &str, logprob: f32) -> Value {
    json!({"token": token, "bytes": token.as_bytes(), "logprob": logprob})
}

#[tokio::test]
async fn words_and_segments_come_where_they_are_asked_for() {
    let verbose = ("response_format", "verbose_json");
    let words = json!([
        {"word": "One", "start": 0.0, "end": 0.5, "probability": 0.75},
        {"word": "thing.", "start": 0.5, "end": 1.5, "probability": 0.75},
    ]);
    let (word, segment) = (("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment"));
    let reply = ask(&[("model", COUGH), verbose]).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (500, "internal_error"));
    let reply = ask(&[("model", TALK), verbose, word]).await.json();
    assert_eq!(reply.get("segments"), None);
    assert_eq!((&reply["words"][0], &reply["words"][1]), (&words[0], &words[1]));
    assert_eq!(reply["text"], "One thing.  Another thing.");
    let reply = ask(&[("model", TALK), verbose, word, segment]).await.json();
    assert_eq!(reply["segments"].as_array().unwrap().len(), 3);
    assert!(reply["words"].is_array());
    let reply = ask(&[("model", TALK), verbose]).await.json();
    assert!(reply["segments"].is_array() && reply.get("words").is_none());
    let answer = ask(&[("model", TALK), word]).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_value"));
}

#[tokio::test]
async fn subtitles_are_broken_by_words() {
    let answer = ask(&[("model", TALK), ("response_format", "srt"), ("word_timestamps", "true")]).await;
    let second = "2\n00:00:04,000 --> 00:00:05,500\nAnother thing.\n\n";
    assert_eq!(answer.text, format!("1\n00:00:00,000 --> 00:00:01,500\nOne thing.\n\n{second}"));
    let answer = ask(&[("model", ANTHEM), ("response_format", "srt"), ("word_timestamps", "true")]).await;
    assert_eq!(
        answer.text, "1\n00:00:00,000 --> 00:00:03,500\nLa la. La la.\n\n",
        "a short pause ends no cue"
    );
    let answer = ask(&[("model", TALK), ("response_format", "vtt")]).await;
    assert_eq!(
        answer.text,
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne thing.\n\n00:00:04.000 --> 00:00:05.500\nAnother thing.\n\n"
    );
    assert_eq!(answer.headers["content-type"], "text/vtt; charset=utf-8");
}

#[tokio::test]
async fn log_probabilities_come_with_json_alone() {
    let include = ("include[]", "logprobs");
    let reply = ask(&[("model", "whisper-1"), include]).await.json();
    let all = json!([logprob(" 5", -0.5), logprob("", -0.25), logprob(" bytes of a.wav", -1.0)]);
    assert_eq!(reply["logprobs"], all);
    for format in ["text", "srt", "vtt", "verbose_json"] {
        let answer = ask(&[("model", "whisper-1"), include, ("response_format", format)]).await;
        assert_eq!(answer.status, 400, "{format}");
        assert_eq!(answer.json()["error"]["param"], "include[]");
    }
}

#[tokio::test]
async fn a_stream_is_the_text_in_pieces_and_then_all_of_it() {
    for format in ["json", "text", "srt", "vtt"] {
        let answer = ask(&[("model", TALK), ("stream", "true"), ("response_format", format)]).await;
        assert_eq!(answer.headers["content-type"], "text/event-stream");
        let done = json!({"type": "transcript.text.done", "text": "One thing.  Another thing.",
                          "usage": {"type": "duration", "seconds": 2}});
        assert_eq!(
            events(&answer),
            [
                json!({"type": "transcript.text.delta", "delta": "One thing."}),
                json!({"type": "transcript.text.delta", "delta": "  Another thing."}),
                done
            ],
            "{format}"
        );
        assert!(!answer.text.contains("event:"), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_verbose_stream_has_segments() {
    let more = [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")];
    let answer = ask(&[("model", TALK), ("stream", "1"), ("language", "de"), more[0], more[1]]).await;
    let events = events(&answer);
    let segments = of_type(&events, "transcript.text.segment");
    assert_eq!(segments.len(), 3);
    assert_eq!((&segments[2]["id"], &segments[2]["start"]), (&json!(2), &json!(4.0)));
    assert_eq!((&segments[2]["end"], &segments[2]["text"]), (&json!(5.5), &json!(" Another thing. ")));
    assert_eq!(segments[2]["words"][0]["word"], "Another");
    assert_eq!(events[0]["type"], "transcript.text.delta");
    let done = events.last().unwrap();
    assert_eq!((&done["language"], &done["duration"]), (&json!("de"), &json!(1.5)));
}

#[tokio::test]
async fn streamed_log_probabilities_leave_with_their_text() {
    let answer = ask(&[("model", TALK), ("stream", "true"), ("include[]", "logprobs")]).await;
    let events = events(&answer);
    let deltas = of_type(&events, "transcript.text.delta");
    let apart: Vec<Value> =
        deltas.iter().flat_map(|delta| delta["logprobs"].as_array().unwrap().clone()).collect();
    assert_eq!(apart[..2], [logprob(" O", -0.5), logprob("ne", -0.25)]);
    assert_eq!(json!(apart), events.last().unwrap()["logprobs"]);
}

#[tokio::test]
async fn what_fails_in_a_stream_is_told_and_ends_it() {
    let answer = ask(&[("model", COUGH), ("stream", "true")]).await;
    assert_eq!(answer.status, 200);
    let events = events(&answer);
    assert_eq!(events[0]["delta"], "One thing.");
    assert_eq!(events[1]["error"]["code"], "internal_error");
    assert_eq!(events.len(), 2);
    assert!(!answer.text.contains("secret"));
    let answer = ask(&[("model", "nope"), ("stream", "true")]).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "model_not_found"));
    let settings = Settings { request_timeout: Duration::from_millis(100), ..Settings::default() };
    let fields = [("file", "@x"), ("model", LECTURE), ("stream", "true")];
    let answer = send(&app(settings), form(PATH, &fields)).await;
    assert!(answer.events().last().unwrap().contains("\"code\":\"timeout\""), "{}", answer.text);
}

#[tokio::test]
async fn a_stream_that_is_dropped_stops_its_work() {
    let fake = Fake::default();
    let (dropped, running) = (fake.dropped.clone(), fake.running.clone());
    let app = router(state(fake, Settings::default()));
    let fields = [("file", "@x"), ("model", LECTURE), ("stream", "true")];
    let mut body = app.oneshot(form(PATH, &fields)).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().unwrap().into_data().unwrap().starts_with(b"data: {\"type\""));
    assert_eq!(running.load(Ordering::SeqCst), 1);
    drop(body);
    assert_eq!((running.load(Ordering::SeqCst), dropped.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test]
async fn what_is_asked_for_reaches_the_service() {
    let fake = Fake::default();
    let asked = fake.asked.clone();
    let app = router(state(fake, Settings::default()));
    let fields = [("model", "whisper-1"), ("file", "@x"), ("beam_size", "2"), ("chunking_strategy", "auto")];
    assert_eq!(send(&app, form("/v1/audio/translations", &fields)).await.status, 200);
    let request = asked.lock().unwrap().take().unwrap();
    assert_eq!(request.task, stentor::types::asr::Task::Translate);
    assert_eq!(request.decoding.beam_size, 2);
    assert!(matches!(request.chunking, stentor::types::asr::Chunking::Chunks(_)));
}
