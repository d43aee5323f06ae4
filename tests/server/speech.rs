//! Speech as callers send it: several at once, hours of it, and sound that is no speech.

use std::f32::consts::TAU;
use std::path::Path;
use std::sync::Mutex;

use super::program::{Program, clips, home_like, models, parts, upload};

/// A PCM file of 16 bits, 16 kHz, mono.
fn wav(samples: impl Iterator<Item = f32>) -> Vec<u8> {
    let data: Vec<u8> =
        samples.flat_map(|s| ((s.clamp(-1.0, 1.0) * 32_767.0) as i16).to_le_bytes()).collect();
    header(&data, 16_000, 16)
}

fn header(data: &[u8], rate: u32, bits: u16) -> Vec<u8> {
    let len = data.len() as u32;
    let frame = u32::from(bits / 8);
    let mut file = b"RIFF".to_vec();
    file.extend((len + 36).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(rate.to_le_bytes());
    file.extend((rate * frame).to_le_bytes());
    file.extend((frame as u16).to_le_bytes());
    file.extend(bits.to_le_bytes());
    file.extend(b"data");
    file.extend(len.to_le_bytes());
    file.extend(data);
    file
}

fn text(server: &Program, name: &str, audio: &[u8], fields: &[(&str, &str)]) -> String {
    let fields = [&[("model", "whisper-1")], fields].concat();
    let (status, body) = parts(server.transcribe(name, audio, &fields));
    assert_eq!(status, 200, "{name}: {body}");
    body["text"].as_str().unwrap().to_owned()
}

/// Noise of a fixed sequence, within ±1.
fn noise() -> impl Iterator<Item = f32> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    })
}

fn sound_that_is_no_speech_gives_no_text(server: &Program) {
    let seconds = |s: usize| s * 16_000;
    let tone = |f: f32, i: usize| (TAU * f * i as f32 / 16_000.0).sin();
    // An arpeggio of plucked notes, each with five partials.
    let notes = [261.6, 329.6, 392.0, 523.3, 392.0, 329.6, 293.7, 349.2, 440.0, 587.3, 440.0, 349.2];
    let pluck = |i: usize| {
        let (note, at) = (notes[i / 4_000 % notes.len()], i % 4_000);
        let sum: f32 = (1..=5).map(|k| tone(note * k as f32, at) / k as f32).sum();
        0.3 * (-4.0 * at as f32 / 16_000.0).exp() * sum
    };
    let mut level = 0.0;
    let rumble = noise().map(|n| {
        level = (level + 0.02 * n) * 0.998;
        3.0 * level
    });
    let sounds: [(&str, Vec<u8>); 6] = [
        ("silence", wav((0..seconds(35)).map(|_| 0.0))),
        (
            "hum",
            wav((0..seconds(20)).map(|i| 0.2 * (tone(50.0, i) + 0.5 * tone(100.0, i) + 0.3 * tone(150.0, i)))),
        ),
        ("hiss", wav(noise().take(seconds(20)).map(|n| 0.05 * n))),
        ("a quiet room", wav(noise().take(seconds(20)).map(|n| 0.001 * n))),
        ("rumble", wav(rumble.take(seconds(35)))),
        ("music", wav((0..seconds(25)).map(pluck))),
    ];
    for (name, audio) in &sounds {
        for fields in [&[][..], &[("beam_size", "1")], &[("chunking_strategy", "auto")]] {
            assert_eq!(text(server, name, audio, fields), "", "{name} {fields:?}");
        }
    }
}

/// What is heard beside others is what is heard alone, to the letter.
fn recordings_at_once_are_heard_as_alone(server: &Program, clips: &Path) {
    let files = [
        "en/counting.wav",
        "en/quick_brown_fox.wav",
        "es/pangrama.wav",
        "fr/comptage.wav",
        "it/ciao_mondo.wav",
    ];
    let found: Vec<Vec<u8>> = files.iter().filter_map(|f| std::fs::read(clips.join(f)).ok()).collect();
    assert!(found.len() >= 3, "the clips are not where they were");
    let alone: Vec<String> = found.iter().map(|f| text(server, "alone.wav", f, &[])).collect();
    assert!(alone.iter().all(|t| !t.is_empty()));
    let together = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (i, file) in found.iter().enumerate().flat_map(|f| [f; 3]) {
            let (together, http) = (&together, server.http.clone());
            let url = format!("{}/v1/audio/transcriptions", server.base);
            scope.spawn(move || {
                let answer = upload(&http, &url, "together.wav", file, &[("model", "whisper-1")]);
                together.lock().unwrap().push((i, parts(answer)));
            });
        }
    });
    for (i, (status, body)) in together.into_inner().unwrap() {
        assert_eq!((status, body["text"].as_str()), (200, Some(alone[i].as_str())));
    }
}

/// A transcript is timed as the network's own text is, where it has other words too; what is not said has no length.
fn a_known_transcript_is_timed(server: &Program, clips: &Path) {
    let audio = std::fs::read(clips.join("en/quick_brown_fox.wav")).unwrap();
    let model = ("model", "whisper-1");
    let words = [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")];
    let (status, own) = parts(server.transcribe("fox.wav", &audio, &[&[model][..], &words].concat()));
    assert_eq!(status, 200, "{own}");
    let said = own["words"].as_array().unwrap();
    let word = |w: &serde_json::Value| w["word"].as_str().unwrap().trim().to_owned();
    let mut known: Vec<String> = said.iter().map(word).collect();
    assert!(known.len() > 5, "{own}");
    known[1] = "quirky".to_owned();
    let unsaid = ["and", "zebras"].map(str::to_owned);
    let text = [&known[..], &unsaid].concat().join(" ");
    let (status, timed) = parts(server.send(
        "/v1/audio/align",
        "fox.wav",
        &audio,
        &[model, ("language", "en"), ("text", &text)],
    ));
    assert_eq!(status, 200, "{timed}");
    assert_eq!(timed["text"].as_str().unwrap().trim(), text);
    let found = timed["words"].as_array().unwrap();
    assert_eq!(found.iter().map(word).collect::<Vec<_>>(), text.split(' ').collect::<Vec<_>>());
    let number = |w: &serde_json::Value, name: &str| w[name].as_f64().unwrap();
    for (i, (found, said)) in found.iter().zip(said).enumerate() {
        let apart = (number(found, "start") - number(said, "start")).abs();
        assert!(apart < 0.1, "{found} begins {apart} s from {said}");
        assert!(i == 1 || number(found, "probability") > 0.3, "{found}");
    }
    for unsaid in &found[known.len()..] {
        assert_eq!((number(unsaid, "probability"), number(unsaid, "start")), (0.0, number(unsaid, "end")));
    }
    let (status, refused) = parts(server.send("/v1/audio/align", "fox.wav", &audio, &[model]));
    assert_eq!((status, refused["error"]["param"].as_str()), (400, Some("text")), "{refused}");
}

/// Three hours, with a sentence every ten minutes: what is kept of a recording while it is heard.
fn three_hours_take_little_memory(server: &Program, clips: &Path) {
    let clip = std::fs::read(clips.join("en/quick_brown_fox.wav")).unwrap();
    // Every second of its samples, which are floats, in 8 bits.
    let sound = clip.windows(4).position(|w| w == b"data").unwrap() + 8;
    let sample = |s: &[u8]| (f32::from_le_bytes([s[0], s[1], s[2], s[3]]) * 127.0) as i8;
    let samples: Vec<u8> =
        clip[sound..].chunks_exact(8).map(|s| sample(s).cast_unsigned().wrapping_add(128)).collect();
    let rate: usize = 8_000;
    let mut data = vec![128u8; 3 * 3600 * rate];
    for minute in (0..180).step_by(10) {
        data[minute * 60 * rate..][..samples.len()].copy_from_slice(&samples);
    }
    let before = server.memory("VmHWM").unwrap_or(0);
    let heard = text(server, "hours.wav", &header(&data, rate as u32, 8), &[("language", "en")]);
    let peak = server.memory("VmHWM").unwrap_or(0);
    println!("three hours: {} MB at most, {} before", peak / 1_000_000, before / 1_000_000);
    assert!(heard.to_lowercase().matches("fox").count() >= 15, "{heard}");
    assert!(peak < super::weights(server) + super::LIBRARIES + 600_000_000, "{peak} bytes at most");
}

#[test]
fn speech_is_written_down_and_nothing_else() {
    let (Some(shared), Some(clips)) = (models(), clips()) else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &[]);
    // First, as it looks at the most that the process ever took.
    three_hours_take_little_memory(&server, &clips);
    sound_that_is_no_speech_gives_no_text(&server);
    recordings_at_once_are_heard_as_alone(&server, &clips);
    a_known_transcript_is_timed(&server, &clips);
}
