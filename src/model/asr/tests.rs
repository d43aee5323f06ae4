//! Whole transcripts of real recordings against faster-whisper (`tests/golden/asr/transcripts.json`).

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use serde::Deserialize;

use super::output::{LongForm, Need, Options};
use super::vocab::Vocab;
use super::whisper::{WINDOW, WhisperModel};
use super::*;
use crate::audio;
use crate::types::asr::{LogMel, Segment, Task};

#[derive(Deserialize)]
struct Want {
    language: String,
    duration: f64,
    segments: Vec<WantSegment>,
}

#[derive(Deserialize)]
struct WantSegment {
    start: f64,
    end: f64,
    text: String,
    temperature: f32,
    avg_logprob: f32,
    compression_ratio: f32,
    no_speech_prob: f32,
}

fn options() -> Options {
    Options {
        task: Task::Transcribe,
        language: None,
        prompt: None,
        temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        condition_on_previous: true,
        seed: 0,
    }
}

/// Runs a recording to its end, as a scheduler with one sequence does.
fn transcribe(model: &mut WhisperModel, vocab: &Arc<Vocab>, mel: &LogMel) -> (String, Vec<Segment>) {
    let context = model.config().text_context;
    let mut long = LongForm::new(mel, vocab.clone(), context, options()).unwrap();
    let mut window = vec![0.0f32; mel.bins() * WINDOW];
    loop {
        match long.next() {
            Need::Encode { seek } => {
                mel.window(seek, WINDOW, &mut window);
                model.encode(0, &window).unwrap();
                long.encoded();
            }
            Need::Decode { tokens, position, probe } => {
                let row = Row { slot: 0, tokens: tokens.to_vec(), position, probe };
                let mut logits = model.decode(&[row]).unwrap().remove(0);
                long.feed(&mut logits.last, logits.probe.as_deref()).unwrap();
            }
            Need::Done => break,
        }
    }
    let segments = std::iter::from_fn(|| long.take_segment()).collect();
    (long.language().unwrap_or_default().to_owned(), segments)
}

/// Where a clip of the golden lies; `None`, with a word, where it does not.
fn clip(key: &str) -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let mut places = vec![shared.join(key), shared.join("data/librispeech-test-other").join(key)];
    places.extend(std::env::var_os("STENTOR_TEST_AUDIO").map(|folder| Path::new(&folder).join(key)));
    let found = places.into_iter().find(|p| p.is_file());
    if found.is_none() {
        eprintln!("skipped: {key} is not here");
    }
    found
}

fn test_model(id: &str) -> Option<PathBuf> {
    let home = std::env::var_os("STENTOR_TEST_MODELS");
    let folder = home.map(|home| Path::new(&home).join("models").join(id)).filter(|f| f.is_dir());
    if folder.is_none() {
        eprintln!("skipped: STENTOR_TEST_MODELS has no models/{id}");
    }
    folder
}

fn matches_faster_whisper(id: &str) {
    let Some(folder) = test_model(id) else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/asr/transcripts.json");
    let mut all: BTreeMap<String, BTreeMap<String, Want>> =
        serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let mut model = WhisperModel::load(&folder, Format::CTranslate2, &Device::Cpu, 1).unwrap();
    let vocab = Arc::new(Vocab::load(&folder).unwrap());
    let mut wrong = Vec::new();
    for (key, want) in all.remove(id).unwrap() {
        // Sampled text depends on the generator: nothing to compare.
        let sampled = want.segments.iter().any(|s| s.temperature > 0.0);
        let Some(path) = clip(&key).filter(|_| !sampled) else { continue };
        let limits = audio::Limits::default();
        let (mel, _) = audio::log_mel(File::open(path).unwrap(), Some(&key), &limits, 80).unwrap();
        assert!((mel.seconds() - want.duration).abs() < 0.01, "{key}");
        let (language, segments) = transcribe(&mut model, &vocab, &mel);
        let same = language == want.language
            && segments.len() == want.segments.len()
            && segments.iter().zip(&want.segments).all(|(got, want)| {
                got.text == want.text
                    && (got.start - want.start).abs() < 0.0201
                    && (got.end - want.end).abs() < 0.0201
                    && got.temperature == want.temperature
                    && (got.avg_logprob - want.avg_logprob).abs() < 0.05
                    && (got.compression_ratio - want.compression_ratio).abs() < 0.1
                    && (got.no_speech_prob - want.no_speech_prob).abs() < 0.02
            });
        if !same {
            wrong.push(key.clone());
            eprintln!("{key}: {language} for {}", want.language);
            for s in &segments {
                eprintln!(
                    "  got  {:.2}-{:.2} {:?} T{} {:.4} {:.3} {:.4}",
                    s.start,
                    s.end,
                    s.text,
                    s.temperature,
                    s.avg_logprob,
                    s.compression_ratio,
                    s.no_speech_prob
                );
            }
            for s in &want.segments {
                eprintln!(
                    "  want {:.2}-{:.2} {:?} T{} {:.4} {:.3} {:.4}",
                    s.start,
                    s.end,
                    s.text,
                    s.temperature,
                    s.avg_logprob,
                    s.compression_ratio,
                    s.no_speech_prob
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{id} differs on {wrong:?}");
}

#[test]
fn base_transcribes_like_faster_whisper() {
    matches_faster_whisper("whisper-base");
}

#[test]
fn tiny_en_transcribes_like_faster_whisper() {
    matches_faster_whisper("whisper-tiny.en");
}

#[test]
fn digital_silence_and_no_sound_give_no_words() {
    let Some(folder) = test_model("whisper-tiny.en") else { return };
    let mut model = WhisperModel::load(&folder, Format::CTranslate2, &Device::Cpu, 1).unwrap();
    let vocab = Arc::new(Vocab::load(&folder).unwrap());
    for samples in [0, 100, 16_000 * 40] {
        let mut mel = audio::MelExtractor::new(80);
        mel.push(&vec![0.0; samples]);
        let (language, segments) = transcribe(&mut model, &vocab, &mel.finish());
        assert_eq!((language.as_str(), segments.len()), ("en", 0), "{samples} samples");
    }
}

/// The lists in a model's `config.json` are those that the vocabulary alone gives.
#[test]
fn suppressed_tokens_can_be_derived() {
    for (id, languages) in [("whisper-base", 99), ("whisper-tiny.en", 0)] {
        let Some(folder) = test_model(id) else { return };
        let listed = Vocab::load(&folder).unwrap();
        assert_eq!(listed.languages().len(), languages);
        let bare = tempfile::tempdir().unwrap();
        std::fs::copy(folder.join("tokenizer.json"), bare.path().join("tokenizer.json")).unwrap();
        let derived = Vocab::load(bare.path()).unwrap();
        assert_eq!(derived.special(), listed.special());
        assert_eq!(derived.suppress(), listed.suppress(), "{id}");
        assert_eq!(derived.suppress_begin(), listed.suppress_begin(), "{id}");
    }
}
