//! Whole transcripts of real recordings against faster-whisper (`tests/golden/asr/transcripts.json`).

mod errors;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use serde::Deserialize;

use super::output::{Cut, Options, Parent, Recording, Window};
use super::vocab::Vocab;
use super::whisper::{WINDOW, WhisperModel};
use super::*;
use crate::audio;
use crate::engine::sched::asr::Scheduler;
use crate::ops::KvCache;
use crate::types::asr::{Decoding, Language, LogMel, Request, Segment, Task, Word};

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
    let mut request = Request::new("", Task::Transcribe);
    request.decoding.beam_size = 1;
    Options::new(&request)
}

/// A model with what a lane has around it, a window at a time.
struct Ears {
    model: WhisperModel,
    vocab: Arc<Vocab>,
    scheduler: Scheduler,
    /// What the one window's keys and values are of: heard again, it need not be encoded again.
    heard: Vec<f32>,
}

impl Ears {
    fn load(folder: &Path) -> Ears {
        let limits = Limits { windows: 1, window_bytes: u64::MAX, precision: Precision::F16 };
        let Loaded { front, .. } = whisper::load(folder, Format::CTranslate2, &Device::Cpu, limits).unwrap();
        let model = WhisperModel::load(folder, Format::CTranslate2, &Device::Cpu, limits).unwrap();
        let scheduler = Scheduler::new(1, front.rows, front.blocks, KvCache::BLOCK);
        Ears { model, vocab: front.vocab, scheduler, heard: Vec::new() }
    }

    /// Runs a recording to its end.
    fn transcribe(&mut self, mel: &LogMel, cut: &Cut, options: Options) -> (Language, Vec<Segment>) {
        let context = self.model.config().text_context;
        let mut recording = Recording::new(mel, cut, self.vocab.clone(), context, options).unwrap();
        let mut segments = Vec::new();
        while let Some(window) = recording.next_window() {
            self.hear(&mut recording, mel, window);
            segments.extend(std::iter::from_fn(|| recording.take_segment()));
            assert_eq!(self.scheduler.usage(), 0.0);
        }
        assert!(recording.is_done());
        (recording.language(), segments)
    }

    fn hear(&mut self, recording: &mut Recording, mel: &LogMel, mut window: Window) {
        let setting = recording.setting().clone();
        let slot = self.scheduler.open(setting.rows()).unwrap();
        let mut values = vec![0.0f32; mel.bins() * WINDOW];
        recording.hear(mel, &window, &mut values);
        assert_eq!(slot, 0);
        if self.heard != values {
            self.model.encode(&[(slot, &values)]).unwrap();
            self.heard = values;
        }
        while !window.is_done() {
            let mut step = Decode { copies: self.scheduler.take_copies(), rows: Vec::new() };
            for ask in window.rows(&setting) {
                let table = self.scheduler.cover(slot, ask.text, ask.position, ask.tokens.len()).unwrap();
                step.rows.push(Row {
                    slot,
                    tokens: ask.tokens,
                    position: ask.position,
                    table,
                    want: ask.want,
                });
            }
            let outputs = self.model.decode(&step).unwrap().into_iter().enumerate();
            let considered =
                outputs.map(|(at, output)| window.consider(&setting, at, output).unwrap()).collect();
            if let Some(languages) = window.advance(&setting, considered).unwrap()
                && !recording.decide(&mut window, languages)
            {
                return self.scheduler.close(slot);
            }
            if let Some(parents) = window.parents() {
                let parents: Vec<Option<usize>> = parents
                    .iter()
                    .map(|p| if let Parent::Row(row) = p { Some(*row) } else { None })
                    .collect();
                self.scheduler.follow(slot, &parents).unwrap();
            }
        }
        self.scheduler.close(slot);
        recording.finish(window);
    }
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
    let mut ears = Ears::load(&folder);
    let mut wrong = Vec::new();
    for (key, want) in all.remove(id).unwrap() {
        // Sampled text depends on the generator: nothing to compare.
        let sampled = want.segments.iter().any(|s| s.temperature > 0.0);
        let Some(path) = clip(&key).filter(|_| !sampled) else { continue };
        let limits = audio::Limits::default();
        let (mel, _) = audio::log_mel(File::open(path).unwrap(), Some(&key), &limits, 80).unwrap();
        assert!((mel.seconds() - want.duration).abs() < 0.01, "{key}");
        let (language, segments) = ears.transcribe(&mel, &Cut::Whole, options());
        let same = language.code == want.language
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
            eprintln!("{key}: {language:?} for {}", want.language);
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
    let mut ears = Ears::load(&folder);
    for samples in [0, 100, 16_000 * 40] {
        let mut mel = audio::MelExtractor::new(80);
        mel.push(&vec![0.0; samples]);
        let (language, segments) = ears.transcribe(&mel.finish(), &Cut::Whole, options());
        assert_eq!((language.code.as_str(), segments.len()), ("en", 0), "{samples} samples");
    }
}

#[derive(Deserialize)]
struct WantWords {
    beam: String,
    words: Vec<(String, f64, f64, f32)>,
}

/// With a beam of 5 the same text, and the words of greedy text at the same times (`tests/golden/asr/words.json`).
/// The two do not round alike: a clip in twenty may end on another beam, a word in twenty on another frame.
#[test]
fn beams_and_word_times_are_those_of_faster_whisper() {
    let Some(folder) = test_model("whisper-base") else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/asr/words.json");
    let all: BTreeMap<String, WantWords> = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let mut ears = Ears::load(&folder);
    let (mut clips, mut same, mut words, mut close, mut apart) = (0, 0, 0, 0, 0.0);
    for (key, want) in &all {
        let Some(path) = clip(key) else { continue };
        let limits = audio::Limits::default();
        let (mel, _) = audio::log_mel(File::open(path).unwrap(), Some(key), &limits, 80).unwrap();
        let wide = Options { decoding: Decoding::default(), ..options() };
        let text = |segments: &[Segment]| segments.iter().map(|s| s.text.as_str()).collect::<String>();
        let beam = text(&ears.transcribe(&mel, &Cut::Whole, wide).1);
        clips += 1;
        same += usize::from(beam == want.beam);
        let (_, segments) = ears.transcribe(&mel, &Cut::Whole, Options { words: true, ..options() });
        let got: Vec<&Word> = segments.iter().flat_map(|s| &s.words).collect();
        assert_eq!(got.len(), want.words.len(), "{key}: {}", text(&segments));
        for (got, (word, start, end, probability)) in got.into_iter().zip(&want.words) {
            assert_eq!(&got.text, word, "{key}");
            words += 1;
            let near = (got.start - start).abs() < 0.041 && (got.end - end).abs() < 0.041;
            close += usize::from(near);
            apart += (got.probability - probability).abs();
        }
    }
    println!("{same} of {clips} clips with a beam of 5, {close} of {words} words within 40 ms");
    // Theirs are those of the text without timestamps and rules.
    let apart = apart / words as f32;
    assert!(apart < 0.1, "probabilities are {apart} apart in the mean");
    assert!(same * 20 >= clips * 19 && close * 20 >= words * 19, "{same} of {clips}, {close} of {words}");
}

/// The lists in a model's `config.json` are those that the vocabulary alone gives.
#[test]
fn words_are_encoded_as_the_network_writes_them() {
    let Some(folder) = test_model("whisper-base") else { return };
    let vocab = Vocab::load(&folder).unwrap();
    assert_eq!(vocab.encode(" over the lazy"), [670, 264, 14847]);
}

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
