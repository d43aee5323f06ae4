//! Speakers by real models: who speaks when, who it is, and that those who are enrolled outlive the process.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use stentor::audio;

use super::program::{Program, home_like, models, parts};

/// Utterances of people who read aloud; `None`, with a word, where they are not here.
fn utterance(speaker: u32, chapter: u32, number: u32) -> Option<Vec<f32>> {
    let name = format!("{speaker}/{speaker}-{chapter}-{number:04}.flac");
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/librispeech-test-other").join(&name);
    if !path.is_file() {
        println!("skipped: {name} is not here");
        return None;
    }
    let mut samples = Vec::new();
    let mut keep = |more: &[f32]| {
        samples.extend_from_slice(more);
        Ok(())
    };
    audio::decode(File::open(path).unwrap(), Some(&name), &audio::Limits::default(), &mut keep).unwrap();
    Some(samples)
}

/// A file of samples at 16 kHz.
fn wav(samples: &[f32]) -> Vec<u8> {
    let bytes = samples.len() as u32 * 2;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + bytes).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16u32.to_le_bytes());
    for half in [1u16, 1] {
        wav.extend(half.to_le_bytes());
    }
    wav.extend(16_000u32.to_le_bytes());
    wav.extend(32_000u32.to_le_bytes());
    for half in [2u16, 16] {
        wav.extend(half.to_le_bytes());
    }
    wav.extend(b"data");
    wav.extend(bytes.to_le_bytes());
    wav.extend(samples.iter().flat_map(|s| ((s * 32_767.0).clamp(-32_768.0, 32_767.0) as i16).to_le_bytes()));
    wav
}

fn silence(seconds: f32) -> Vec<f32> {
    vec![0.0; (seconds * 16_000.0) as usize]
}

fn enrol(server: &Program, id: &str, name: &str, audio: &[u8]) -> Value {
    let fields = [("id", id), ("name", name)];
    let (status, answer) = parts(server.send("/v1/speakers", "voice.wav", audio, &fields));
    assert_eq!(status, 200, "{answer}");
    answer
}

fn names(server: &Program) -> Vec<String> {
    let (status, list) = parts(server.get("/speakers/list"));
    assert_eq!(status, 200, "{list}");
    let items = list.as_array().unwrap().iter();
    let mut names: Vec<String> = items.map(|item| item["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_conversation_is_written_down_by_who_says_what() {
    let Some(shared) = models() else { return };
    let (Some(a), Some(b), Some(c)) =
        (utterance(1688, 142_285, 1), utterance(1998, 15_444, 0), utterance(1688, 142_285, 3))
    else {
        return;
    };
    let Some(other) = utterance(1688, 142_285, 5) else { return };
    let talk = wav(&[a.clone(), silence(0.6), b, silence(0.5), c].concat());
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &["--preload", "whisper-base"]);
    enrol(&server, "anna", "Anna", &wav(&other));
    let fields = [("response_format", "diarized_json"), ("model", "whisper-base")];
    let (status, answer) = parts(server.send("/v1/audio/transcriptions", "talk.wav", &talk, &fields));
    assert_eq!(status, 200, "{answer}");
    let segments = answer["segments"].as_array().unwrap();
    let mut order: Vec<&str> = segments.iter().map(|segment| segment["speaker"].as_str().unwrap()).collect();
    order.dedup();
    assert_eq!(order, ["Anna", "SPEAKER_01", "Anna"], "{answer}");
    let seconds = a.len() as f64 / 16_000.0;
    let second = segments.iter().find(|segment| segment["speaker"] == "SPEAKER_01").unwrap();
    assert!((second["start"].as_f64().unwrap() - seconds - 0.6).abs() < 1.0, "{second}");

    let (status, diarized) = parts(server.send("/diarize", "talk.wav", &talk, &[]));
    assert_eq!(status, 200, "{diarized}");
    let spoken: Vec<&str> =
        diarized["segments"].as_array().unwrap().iter().map(|turn| turn["spk"].as_str().unwrap()).collect();
    assert!(spoken.contains(&"S1") && spoken.contains(&"S2") && !spoken.contains(&"S3"), "{diarized}");
    let (status, found) = parts(server.send("/identify", "a.wav", &wav(&a), &[("threshold", "0.4")]));
    assert_eq!((status, &found["matches"][0]["name"]), (200, &json!("Anna")), "{found}");
}

#[test]
fn those_enrolled_outlive_a_server_that_is_killed_and_those_deleted_do_not() {
    let Some(shared) = models() else { return };
    let (Some(a), Some(b)) = (utterance(1688, 142_285, 1), utterance(1998, 15_444, 0)) else { return };
    let (a, b) = (wav(&a), wav(&b));
    let home = home_like(&shared);
    for round in 0..4 {
        let server = Program::ready(home.path(), &[]);
        enrol(&server, &format!("a{round}"), &format!("Ann {round}"), &a);
        // Killed right after the answer.
        drop(server);
        let server = Program::ready(home.path(), &[]);
        assert_eq!(names(&server), [format!("Ann {round}")]);
        enrol(&server, "ben", "Ben", &b);
        let gone = server.http.delete(format!("{}/v1/speakers/a{round}", server.base)).send().unwrap();
        assert_eq!(gone.status(), 200);
        drop(server);
        let server = Program::ready(home.path(), &[]);
        assert_eq!(names(&server), ["Ben"]);
        let (_, found) = parts(server.send("/v1/speakers/identify", "a.wav", &a, &[]));
        assert!(!found.to_string().contains("Ann"), "{found}");
        let gone = server.http.delete(format!("{}/v1/speakers/ben", server.base)).send().unwrap();
        assert_eq!(gone.status(), 200);
    }
}

/// The quick tests that PMX' own documentation has, but for the host.
#[test]
fn pmx_quick_tests_pass_with_curl() {
    let Some(shared) = models() else { return };
    let Some(a) = utterance(1688, 142_285, 1) else { return };
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: there is no curl");
        return;
    }
    let home = home_like(&shared);
    let file = home.path().join("jan.wav");
    std::fs::write(&file, wav(&a)).unwrap();
    let server = Program::ready(home.path(), &["--preload", "whisper-base"]);
    let curl = |arguments: &[&str], path: &str| -> Value {
        let output = Command::new("curl")
            .args(["-fsS", "--noproxy", "*"])
            .args(arguments)
            .arg(format!("{}/rag/{path}", server.base))
            .output()
            .unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let upload = format!("file=@{}", file.display());
    assert_eq!(curl(&[], "health")["status"], "ok");
    assert!(curl(&[], "tags").is_array());
    let heard = curl(&["-X", "POST", "-F", &upload], "transcribe");
    assert!(heard["text"].as_str().unwrap().split_whitespace().count() > 10, "{heard}");
    assert_eq!(curl(&[], "speakers/list"), json!([]));
    let enrolled = curl(&["-X", "POST", "-F", "name=Jan", "-F", &upload], "speakers/enroll");
    assert_eq!((&enrolled["name"], &enrolled["dim"]), (&json!("Jan"), &json!(192)), "{enrolled}");
    assert_eq!(curl(&[], "speakers/list")[0]["name"], "Jan");
}

#[test]
fn hostile_recordings_are_refused_and_the_server_goes_on() {
    let Some(shared) = models() else { return };
    let Some(a) = utterance(1688, 142_285, 1) else { return };
    let good = wav(&a);
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &[]);
    let mut long = good.clone();
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    long[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut rate = good.clone();
    rate[24..28].copy_from_slice(&0u32.to_le_bytes());
    let noise: Vec<u8> = (0..40_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let files: [(&str, &[u8]); 6] = [
        ("text", b"this is no recording"),
        ("noise", &noise),
        ("cut", &good[..1000]),
        ("long", &long),
        ("rate", &rate),
        ("silent", &wav(&silence(3.0))),
    ];
    for (name, bytes) in files {
        for path in ["/diarize", "/api/v1/diar", "/speakers/enroll", "/v1/speakers", "/v1/speakers/identify"]
        {
            let response = server.send(path, &format!("{name}.wav"), bytes, &[("name", name), ("id", name)]);
            let status = response.status().as_u16();
            assert!(status < 500, "{path} of {name}: {status} {}", response.text().unwrap());
        }
    }
    // Its sizes are wrong, and what it says is there all the same.
    assert_eq!(names(&server), ["long"]);
    assert_eq!(server.http.delete(format!("{}/v1/speakers/long", server.base)).send().unwrap().status(), 200);
    enrol(&server, "anna", "Anna", &good);
    assert_eq!(names(&server), ["Anna"]);
}
