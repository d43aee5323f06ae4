//! Transcripts by who says what, in every dialect.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::fake::{TALK, form, send};
use super::speakers::desk;
use super::speech::events;

/// In the recognised text `One` is Anna's and the rest Ben's.
const FILE: (&str, &str) = ("file", "@anna@0-0.5 ben@0.5-6");

fn said(answer: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let segments = answer["segments"].as_array().unwrap().iter();
    segments.map(|segment| (text(&segment["speaker"]), text(&segment["text"]))).collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(speaker, text)| ((*speaker).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn segments_are_split_by_speakers_who_are_numbered_enrolled_or_brought_along() {
    let desk = desk();
    let diarized = [FILE, ("model", TALK), ("response_format", "diarized_json")];
    let ask = |more: &[(&str, &str)]| form("/v1/audio/transcriptions", &[&diarized[..], more].concat());
    let answer = send(&desk.app, ask(&[])).await.json();
    let nameless = [("SPEAKER_00", "One"), ("SPEAKER_01", "thing."), ("SPEAKER_01", "Another thing.")];
    assert_eq!(said(&answer), pairs(&nameless), "{answer}");
    let first = json!({"type": "transcript.text.segment", "id": "seg_0", "start": 0.0, "end": 0.5,
        "speaker": "SPEAKER_00", "text": "One"});
    assert_eq!((&answer["segments"][0], &answer["task"]), (&first, &json!("transcribe")));

    let enrol = [("file", "@voice=anna seconds=5"), ("name", "Anna")];
    assert_eq!(send(&desk.app, form("/v1/speakers", &enrol)).await.status, 200);
    let answer = send(&desk.app, ask(&[])).await.json();
    assert_eq!(said(&answer)[0].0, "Anna");

    let clip = |voice: &str| {
        format!("data:audio/wav;base64,{}", STANDARD.encode(format!("voice={voice} seconds=4")))
    };
    let (ben, anna) = (clip("ben"), clip("anna"));
    let known = [
        ("known_speaker_names[]", "Benedict"),
        ("known_speaker_names[]", "Ms A"),
        ("known_speaker_references[]", ben.as_str()),
        ("known_speaker_references[]", anna.as_str()),
    ];
    let answer = send(&desk.app, ask(&known)).await.json();
    let named = [("Ms A", "One"), ("Benedict", "thing."), ("Benedict", "Another thing.")];
    assert_eq!(said(&answer), pairs(&named));
    let one = send(&desk.app, ask(&[("num_speakers", "1")])).await.json();
    assert!(said(&one).iter().all(|(speaker, _)| speaker == "Anna"), "{one}");
}

#[tokio::test]
async fn what_cannot_be_said_of_speakers_is_refused() {
    let desk = desk();
    let clip = "data:audio/wav;base64,AAAA";
    for (format, fields, says) in [
        ("json", vec![("known_speaker_names[]", "Ann")], "needs `response_format`: `diarized_json`"),
        ("json", vec![("num_speakers", "2")], "needs `response_format`: `diarized_json`"),
        ("diarized_json", vec![("known_speaker_names[]", "Ann")], "1 names and 0 references"),
        ("diarized_json", vec![("min_speakers", "3"), ("max_speakers", "2")], "min_speakers"),
        (
            "diarized_json",
            vec![("known_speaker_names[]", "Ann"), ("known_speaker_references[]", "http://a/b.wav")],
            "must be a data URL",
        ),
        (
            "diarized_json",
            vec![("known_speaker_names[]", "Ann"), ("known_speaker_references[]", clip)],
            "this is no recording",
        ),
    ] {
        let fields = [vec![FILE, ("model", TALK), ("response_format", format)], fields].concat();
        let answer = send(&desk.app, form("/v1/audio/transcriptions", &fields)).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.contains(says), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_stream_tells_who_says_each_segment() {
    let desk = desk();
    let fields = [FILE, ("model", TALK), ("response_format", "diarized_json"), ("stream", "true")];
    let events = events(&send(&desk.app, form("/v1/audio/transcriptions", &fields)).await);
    let segments: Vec<&Value> =
        events.iter().filter(|event| event["type"] == "transcript.text.segment").collect();
    let speakers: Vec<&str> = segments.iter().map(|segment| segment["speaker"].as_str().unwrap()).collect();
    assert_eq!(speakers, ["SPEAKER_00", "SPEAKER_01", "SPEAKER_01"]);
    let ids: Vec<&str> = segments.iter().map(|segment| segment["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["seg_0", "seg_1", "seg_2"]);
    assert_eq!(events.last().unwrap()["type"], "transcript.text.done");
}

#[tokio::test]
async fn other_dialects_say_it_in_their_own_way() {
    let desk = desk();
    let fields = [FILE, ("model", TALK), ("enable_diarization", "true")];
    let answer = send(&desk.app, form("/api/v1/asr", &fields)).await.json();
    let parts = said(&answer);
    assert_eq!((parts[0].0.as_str(), parts[1].0.as_str()), ("SPEAKER_00", "SPEAKER_01"), "{answer}");
    assert_eq!(answer["segments"][0].get("words"), None, "they were not asked for");

    let fields = [FILE, ("model", TALK), ("diarize_flag", "true"), ("identify", "true")];
    let answer = send(&desk.app, form("/rag/transcribe", &fields)).await.json();
    assert_eq!(said(&answer)[0], ("SPEAKER_00".to_owned(), "One".to_owned()), "{answer}");
    assert_eq!(answer["identify"], json!({"name": "unknown", "distance": 1.0}));
    let enrol = [("file", "@voice=ben seconds=5"), ("name", "Ben")];
    assert_eq!(send(&desk.app, form("/rag/speakers/enroll", &enrol)).await.status, 200);
    let answer = send(&desk.app, form("/rag/transcribe", &fields)).await.json();
    assert_eq!(
        (&answer["identify"]["name"], &answer["segments"][1]["speaker"]),
        (&json!("Ben"), &json!("Ben"))
    );
    assert!(answer["identify"]["distance"].as_f64().unwrap() < 0.3);
}
