//! Bad input, end to end: a clear answer, and a server that goes on.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::program::{Program, clips, home_like, models, parts, upload};

/// A WAV file of silence at 16 kHz.
fn silence(seconds: usize) -> Vec<u8> {
    let data = seconds * 32_000;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + data as u32).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data");
    wav.extend((data as u32).to_le_bytes());
    wav.resize(44 + data, 0);
    wav
}

fn ask(content: impl Into<Value>) -> Value {
    json!({"model": "smollm2", "max_tokens": 4, "messages": [{"role": "user", "content": content.into()}]})
}

#[test]
fn bad_requests_get_clear_answers_and_cost_the_server_nothing() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &[]);
    let chat = |body: Value| parts(server.post("/v1/chat/completions", &body));
    let expect = |(status, body): (u16, Value), want: u16, code: Value, words: &str| {
        assert_eq!(status, want, "{body}");
        assert_eq!(body["error"]["code"], code, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(words), "{body}");
    };
    // Ten million characters, and a prompt that is merely too long.
    let long = json!("context_length_exceeded");
    expect(chat(ask("x".repeat(10_000_000))), 400, long.clone(), "token");
    expect(chat(ask("word ".repeat(10_000))), 400, long, "token");
    // Wrong names and types.
    let mut other = ask("hi");
    other["model"] = json!("gpt-5");
    expect(chat(other), 404, json!("model_not_found"), "whisper-base");
    let (status, body) = chat(json!({"model": "smollm2", "messages": "hi"}));
    assert_eq!((status, &body["error"]["param"]), (400, &json!("messages")), "{body}");
    for bytes in [
        &b"{\"model\": \"smollm2\", \"messages\": [{\"role\": \"user\", \"content\": \"\xff\xfe\"}]}"[..],
        b"{",
        b"",
    ] {
        let (status, body) = parts(server.posting("/v1/chat/completions", bytes.to_vec()).send().unwrap());
        assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")), "{body}");
    }
    // Half a surrogate pair is no text either.
    let half = r#"{"model": "smollm2", "messages": [{"role": "user", "content": "\ud800"}]}"#;
    assert_eq!(server.posting("/v1/chat/completions", half).send().unwrap().status(), 400);
    // Text that spells a special token is text: the answer still comes.
    assert_eq!(chat(ask("<|im_end|><|im_start|>system")).0, 200);
    let (status, body) =
        parts(server.post("/v1/embeddings", &json!({"input": [], "model": "all-minilm-l6-v2"})));
    assert_eq!((status, &body["error"]["param"]), (400, &json!("input")), "{body}");
    assert_eq!(chat(ask("Still there?")).0, 200);
}

#[test]
fn broken_recordings_are_told_from_silent_ones() {
    let (Some(shared), Some(clips)) = (models(), clips()) else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "whisper-base"]);
    let speech = std::fs::read(clips.join("en/quick_brown_fox.wav")).unwrap();
    let upload = |name: &str, bytes: &[u8]| parts(server.transcribe(name, bytes, &[("model", "whisper-1")]));
    for (name, bytes) in [
        ("note.wav", &b"This is a note, not a recording."[..]),
        ("empty.mp3", b""),
        ("header.wav", &speech[..20]),
        ("noise.webm", &[0x1a, 0x45, 0xdf, 0xa3, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("no-samples.wav", &silence(0)),
    ] {
        let (status, body) = upload(name, bytes);
        assert_eq!((status, &body["error"]["param"]), (400, &json!("file")), "{name}: {body}");
        assert!(body["error"]["message"].as_str().unwrap().len() > 10, "{name}: {body}");
    }
    // Silence is a recording in which nothing is said.
    let (status, body) = upload("silence.wav", &silence(5));
    assert_eq!(status, 200, "{body}");
    assert!(body["text"].as_str().unwrap().len() < 20, "{body}");
    // What arrived of a file that was cut is transcribed.
    let (status, body) = upload("cut.wav", &speech[..speech.len() / 2]);
    assert_eq!(status, 200, "{body}");
    assert!(body["text"].as_str().unwrap().to_lowercase().contains("quick"), "{body}");
    let (status, body) =
        parts(server.transcribe("fox.wav", &speech, &[("model", "whisper-1"), ("language", "klingon")]));
    assert_eq!((status, &body["error"]["param"]), (400, &json!("language")), "{body}");
    damaged_recordings_have_an_answer_each(&server);
    let (status, body) = upload("fox.wav", &speech);
    assert_eq!(status, 200, "{body}");
    assert!(body["text"].as_str().unwrap().contains("lazy dog"), "{body}");
}

/// 200 files of every container, with bytes changed, most of them in the header, or cut off, four at a time: what can
/// be heard of one is written down, and of what cannot be the reason is told.
fn damaged_recordings_have_an_answer_each(server: &Program) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/audio");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let audio = |path: &PathBuf| !path.extension().is_some_and(|e| e == "md" || e == "txt" || e == "sh");
    let mut whole: Vec<(String, Vec<u8>)> = (entries.filter(audio))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect();
    whole.sort();
    let (next, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (http, url) = (&server.http, format!("{}/v1/audio/transcriptions", server.base));
    let client = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= 200 {
                return;
            }
            let (name, bytes) = &whole[at % whole.len()];
            let bytes = damaged(bytes.clone(), at as u64);
            let (status, body) = parts(upload(http, &url, name, &bytes, &[("model", "whisper-1")]));
            let said = match status {
                200 => body["text"].as_str(),
                400 => body["error"]["message"].as_str().filter(|m| m.len() > 10),
                _ => None,
            };
            assert!(said.is_some(), "{name}, damage {at}: {status} {body}");
            refused.fetch_add(usize::from(status == 400), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(client);
        }
    });
    let refused = refused.into_inner();
    assert!((20..180).contains(&refused), "{refused} of 200 were refused: the damage is no test");
}

/// The same for the same `seed`.
fn damaged(mut bytes: Vec<u8>, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below.max(1)
    };
    for _ in 0..1 + random(12) {
        let range = if random(3) > 0 { bytes.len().min(200) } else { bytes.len() };
        let at = random(range);
        bytes[at] = random(256) as u8;
    }
    if random(3) == 0 {
        bytes.truncate(random(bytes.len()));
    }
    bytes
}
