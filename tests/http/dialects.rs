//! The forms of other servers' clients.

use serde_json::{Value, json};
use stentor::http::{Dialect, Settings, router};
use stentor::types::asr::{Chunking, Request, Vad};

use super::fake::{Answer, Fake, TALK, app, form, send, state};

const ASR: &str = "/api/v1/asr";

fn settings() -> Settings {
    Settings { default_asr: Some(TALK.into()), ..Settings::default() }
}

/// The answer, and what the service was asked for.
async fn ask(path: &str, fields: &[(&str, &str)]) -> (Answer, Option<Request>) {
    let fake = Fake::default();
    let asked = fake.asked.clone();
    let answer = send(&router(state(fake, settings())), form(path, fields)).await;
    let request = asked.lock().unwrap().take();
    (answer, request)
}

fn filtered(threshold: f32) -> Chunking {
    Chunking::Speech(Vad { threshold, min_silence: 2.0, pad: 0.4, ..Vad::default() })
}

#[tokio::test]
async fn paneas_clients_get_their_shape() {
    let (answer, request) = ask(ASR, &[("file", "@x")]).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let request = request.unwrap();
    assert_eq!((request.chunking, request.decoding.beam_size, request.words), (filtered(0.5), 5, false));
    let mut reply = answer.json();
    assert_eq!(reply["request_id"], answer.headers["x-request-id"].to_str().unwrap());
    assert!(reply["processing_time_ms"].is_u64());
    reply.as_object_mut().unwrap().retain(|key, _| key != "request_id" && key != "processing_time_ms");
    assert_eq!(
        reply,
        json!({"duration_seconds": 1.5, "language": "en", "text": "One thing.  Another thing.",
            "segments": [{"start": 0.0, "end": 1.5, "text": "One thing."}, {"start": 2.0, "end": 3.5, "text": ""},
                         {"start": 4.0, "end": 5.5, "text": "Another thing."}],
            "metadata": {"model": TALK, "compute_type": "auto", "gpu_id": null}})
    );
    let fields = [
        ("file", "@x"),
        ("language", "pt"),
        ("model", "whisper/large-v3"),
        ("enable_alignment", "true"),
        ("enable_diarization", "false"),
        ("vad_filter", "false"),
        ("beam_size", "1"),
        ("compute_type", "int8_float16"),
        ("provider", "paneas"),
    ];
    let (answer, request) = ask(ASR, &fields).await;
    let request = request.unwrap();
    assert_eq!((request.chunking, request.decoding.beam_size), (Chunking::Sequential, 1));
    assert_eq!((request.model.as_str(), request.language.as_deref()), ("whisper-large-v3", Some("pt")));
    let word = json!({"start": 0.0, "end": 0.5, "word": "1", "confidence": 0.75});
    assert_eq!(answer.json()["segments"][0]["words"][0], word);
    let (_, request) = ask(ASR, &[("file", "@x"), ("vad_threshold", "0.25")]).await;
    assert_eq!(request.unwrap().chunking, filtered(0.25));
}

#[tokio::test]
async fn pmx_clients_of_both_generations_get_their_keys() {
    for (path, name) in [("/transcribe", "file"), ("/rag/transcribe", "audio"), ("/transcribe", "input")] {
        let (answer, request) = ask(path, &[(name, "@x")]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(
            answer.json(),
            json!({"text": "One thing.  Another thing.",
                "segments": [{"start_ms": 0, "end_ms": 1500, "text": "One thing."},
                             {"start_ms": 2000, "end_ms": 3500, "text": ""},
                             {"start_ms": 4000, "end_ms": 5500, "text": "Another thing."}],
                "info": {"language": "en", "duration_ms": 1500, "model": TALK, "device": "auto",
                    "compute_type": "auto", "vad_filter": true, "chunk_length_s": 120, "beam_size": 5, "best_of": 1,
                    "temperature": 0.0, "used_initial_prompt": false, "no_speech_threshold": 0.8,
                    "log_prob_threshold": -1.0},
                "summary": null, "identify": null, "debug": {"input_filename": "a.wav", "workdir": null}})
        );
        let decoding = request.unwrap().decoding;
        assert_eq!((decoding.best_of, decoding.no_speech, decoding.logprob), (1, Some(0.8), Some(-1.0)));
    }
    let fields = [
        ("file", "@x"),
        ("language", "de"),
        ("vad_filter", "0"),
        ("chunk_length", "60"),
        ("beam_size", "2"),
        ("best_of", "3"),
        ("temperature", "0.5"),
        ("initial_prompt", "Namen"),
        ("no_speech_threshold", "0.5"),
        ("log_prob_threshold", "-2"),
        ("summarize", "true"),
        ("diarize_flag", "false"),
        ("tags", "a,b"),
        ("request_id", "7"),
    ];
    let (answer, request) = ask("/transcribe", &fields).await;
    let request = request.unwrap();
    assert_eq!((request.prompt.as_deref(), request.chunking), (Some("Namen"), Chunking::Sequential));
    let reply = answer.json();
    assert_eq!(
        reply["info"],
        json!({"language": "de", "duration_ms": 1500, "model": TALK, "device": "auto", "compute_type": "auto",
            "vad_filter": false, "chunk_length_s": 60, "beam_size": 2, "best_of": 3, "temperature": 0.5,
            "used_initial_prompt": true, "no_speech_threshold": 0.5, "log_prob_threshold": -2.0})
    );
    let summary = reply["summary"].as_object().unwrap();
    assert!(summary.len() == 7 && summary.values().all(Value::is_null), "{summary:?}");
}

#[tokio::test]
async fn what_is_wrong_is_told_as_clients_read_it() {
    for (path, dialect, name, value) in [
        (ASR, Dialect::Paneas, "enable_diarization", "x"),
        (ASR, Dialect::Paneas, "enable_llm_postprocess", "1"),
        (ASR, Dialect::Paneas, "num_speakers", "1001"),
        (ASR, Dialect::Paneas, "beam_size", "11"),
        (ASR, Dialect::Paneas, "vad_threshold", "2"),
        (ASR, Dialect::Paneas, "provider", "openai"),
        (ASR, Dialect::Paneas, "language", "portuguese"),
        ("/transcribe", Dialect::PmxSpeech, "diarize", "x"),
        ("/rag/transcribe", Dialect::PmxSpeech, "speaker_identify", "x"),
        ("/transcribe", Dialect::PmxSpeech, "chunk_length", "0"),
        ("/transcribe", Dialect::PmxSpeech, "best_of", "x"),
        ("/transcribe", Dialect::PmxSpeech, "summary", "x"),
    ] {
        let (answer, request) = ask(path, &[("file", "@x"), (name, value)]).await;
        let said = answer.error(dialect);
        assert_eq!((answer.status.as_u16(), request), (400, None), "{name}");
        assert!(said.contains(&format!("`{name}`")), "{said}");
        assert_eq!(said.starts_with("Transcribe failed: "), dialect == Dialect::PmxSpeech, "{said}");
    }
    for (path, dialect) in [(ASR, Dialect::Paneas), ("/transcribe", Dialect::PmxSpeech)] {
        let (answer, _) = ask(path, &[]).await;
        assert!(answer.error(dialect).contains("`file` is missing"), "{}", answer.text);
        let (answer, _) = ask(path, &[("file", "@x"), ("model", "nope")]).await;
        assert_eq!(answer.status, 404);
        assert!(answer.error(dialect).contains("`nope` does not exist"), "{}", answer.text);
        let (answer, _) = ask(path, &[("file", "@x"), ("model", "cough")]).await;
        assert_eq!(answer.status, 500);
        assert!(!answer.error(dialect).contains("secret"), "{}", answer.text);
        let mut foreign = form(path, &[("file", "@x")]);
        foreign.headers_mut().insert("host", "evil.example".parse().unwrap());
        let answer = send(&app(settings()), foreign).await;
        assert_eq!(answer.status, 403);
        answer.error(dialect);
    }
    let (answer, _) = ask("/transcribe", &[("file", "@x"), ("audio", "@y")]).await;
    assert!(answer.error(Dialect::PmxSpeech).contains("second file"), "{}", answer.text);
}
