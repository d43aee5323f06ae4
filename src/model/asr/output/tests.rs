//! The state machine against a scripted network, with a vocabulary small enough to read.

use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::types::asr::Decoding;

/// Token ids of the small vocabulary: letters 0..26, a space, the empty string, then the special ones.
const SPACE: u32 = 26;
const EOT: u32 = 28;
const SOT: u32 = 29;
const DE: u32 = 31;
const EN: u32 = 30;
const TRANSCRIBE: u32 = 33;
const PREV: u32 = 35;
const NO_SPEECH: u32 = 36;
const T: u32 = 38;
const VOCAB: usize = 38 + 1501;

fn vocab() -> Arc<Vocab> {
    static VOCAB: OnceLock<Arc<Vocab>> = OnceLock::new();
    VOCAB
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let mut words = serde_json::Map::new();
            for (i, letter) in ('a'..='z').enumerate() {
                words.insert(letter.into(), json!(i));
            }
            words.insert("Ġ".into(), json!(SPACE));
            words.insert("".into(), json!(27));
            let special = [
                "endoftext",
                "startoftranscript",
                "en",
                "de",
                "translate",
                "transcribe",
                "startoflm",
                "startofprev",
                "nospeech",
                "notimestamps",
            ];
            let added: Vec<_> = (EOT..)
                .zip(special)
                .map(|(id, name)| {
                    json!({"id": id, "content": format!("<|{name}|>"), "special": true, "single_word": false,
                       "lstrip": false, "rstrip": false, "normalized": false})
                })
                .collect();
            let tokenizer = json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                                  "use_regex": true},
                "post_processor": null,
                "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                          "end_of_word_suffix": null, "fuse_unk": false, "vocab": words, "merges": []},
            });
            std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
            // The letter z is never spoken.
            let config = json!({"suppress_ids": [25], "suppress_ids_begin": [SPACE, EOT]});
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            Arc::new(Vocab::load(dir.path()).unwrap())
        })
        .clone()
}

fn options() -> Options {
    Options {
        task: Task::Transcribe,
        language: Some("en".into()),
        prompt: None,
        temperatures: Decoding::default().temperatures,
        condition_on_previous: true,
        seed: 7,
    }
}

/// A recording of so many frames that is not silent.
fn recording(frames: usize) -> LogMel {
    let mut mel = LogMel::new(1);
    (0..frames).for_each(|_| mel.push(&[0.0]));
    mel.set_samples((frames * HOP) as u64);
    mel
}

fn start(frames: usize, options: Options) -> LongForm {
    LongForm::new(&recording(frames), vocab(), 448, options).unwrap()
}

/// What the network was asked in one window.
#[derive(Debug, Default)]
struct Heard {
    seek: usize,
    prompts: Vec<Vec<u32>>,
}

/// Runs a recording to its end. `say(seek, attempt, tokens so far)` gives the token that the network means to
/// write and how sure it is: its lead over all others, in logits.
fn run(
    recording: &mut LongForm,
    no_speech: f32,
    mut say: impl FnMut(usize, usize, &[u32]) -> (u32, f32),
) -> (Vec<Segment>, Vec<Heard>) {
    let (mut segments, mut heard) = (Vec::new(), Vec::<Heard>::new());
    let (mut seek, mut attempt, mut written, mut prompt_len) = (0, 0, Vec::new(), 0);
    for _ in 0..5_000_000 {
        let (tokens, position, probe) = match recording.next() {
            Need::Done => return (segments, heard),
            Need::Encode { seek: at } => {
                (seek, attempt) = (at, 0);
                heard.push(Heard { seek, prompts: Vec::new() });
                recording.encoded();
                continue;
            }
            Need::Decode { tokens, position, probe } => (tokens.to_vec(), position, probe),
        };
        if position < prompt_len.max(1) {
            if position > 0 {
                attempt += 1;
            }
            prompt_len = position + tokens.len();
            written.clear();
            heard.last_mut().unwrap().prompts.push(tokens.clone());
        } else {
            written.push(tokens[0]);
        }
        let mut logits = vec![0.0f32; VOCAB];
        let probes = probe.map(|_| {
            let mut logits = vec![0.0f32; VOCAB];
            logits[NO_SPEECH as usize] = (no_speech / (1.0 - no_speech) * (VOCAB - 1) as f32).ln();
            logits
        });
        let (token, lead) = say(seek, attempt, &written);
        logits[token as usize] = lead;
        recording.feed(&mut logits, probes.as_deref()).unwrap();
        segments.extend(std::iter::from_fn(|| recording.take_segment()));
    }
    panic!("did not end");
}

/// Says a script, then the end.
fn script(tokens: &'static [u32]) -> impl Fn(usize, usize, &[u32]) -> (u32, f32) {
    move |_, _, written| (tokens.get(written.len()).copied().unwrap_or(EOT), 30.0)
}

#[test]
fn windows_follow_the_last_timestamp_and_carry_the_text() {
    let mut long = start(4000, options());
    let (segments, heard) = run(&mut long, 0.1, |seek, _, written| {
        let first: &[u32] = &[T, 0, 1, T + 100, T + 100, 2, T + 900, T + 900];
        let second: &[u32] = &[T + 10, 3, T + 300];
        let tokens = if seek == 0 { first } else { second };
        (tokens.get(written.len()).copied().unwrap_or(EOT), 30.0)
    });
    let times: Vec<_> = segments.iter().map(|s| (s.start, s.end, s.text.as_str(), s.seek)).collect();
    assert_eq!(times, [(0.0, 2.0, "ab", 0), (2.0, 18.0, "c", 0), (18.0, 24.0, "d", 1800)]);
    assert_eq!(segments.iter().map(|s| s.id).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(segments.iter().all(|s| s.avg_logprob > -0.01 && s.temperature == 0.0));
    assert!(segments.iter().all(|s| (s.no_speech_prob - 0.1).abs() < 1e-4));
    assert_eq!(heard.iter().map(|h| h.seek).collect::<Vec<_>>(), [0, 1800]);
    assert_eq!(heard[0].prompts, [vec![SOT, EN, TRANSCRIBE]]);
    let context = [PREV, T, 0, 1, T + 100, T + 100, 2, T + 900, SOT, EN, TRANSCRIBE];
    assert_eq!(heard[1].prompts, [context.to_vec()]);
    assert_eq!(long.language(), Some("en"));
    assert_eq!(long.progress(), 1.0);
}

#[test]
fn tries_again_warmer_and_forgets_what_was_said_hot() {
    let mut long = start(4000, options());
    let (segments, heard) = run(&mut long, 0.1, |seek, attempt, written| {
        let tokens: &[u32] = &[T, 0, T + 1000, T + 1000];
        let token = tokens.get(written.len()).copied().unwrap_or(EOT);
        // Unsure until the fifth attempt (temperature 0.8) at the first window.
        (token, if seek == 0 && attempt < 4 { 2.0 } else { 30.0 })
    });
    let prompt = vec![SOT, EN, TRANSCRIBE];
    // Later attempts need only the prompt's last token again.
    assert_eq!(heard[0].prompts[0], prompt);
    assert!(heard[0].prompts[1..].iter().all(|p| p == &[TRANSCRIBE]));
    assert_eq!(heard[0].prompts.len(), 5);
    assert_eq!(segments[0].temperature, 0.8);
    assert_eq!(segments[0].text, "a");
    assert_eq!(heard[1].prompts, [prompt], "no context after a hot window");
}

#[test]
fn repetition_fails_and_the_best_of_the_failed_is_taken() {
    let mut long = start(3000, Options { temperatures: vec![0.0, 0.2], ..options() });
    let (segments, heard) = run(&mut long, 0.1, |_, attempt, written| {
        let repeats = attempt == 0;
        let token = match written.len() {
            0 => T,
            n if repeats && n < 100 => 0,
            n if !repeats && n < 20 => n as u32,
            _ => EOT,
        };
        (token, if repeats { 30.0 } else { 8.0 })
    });
    assert_eq!(heard[0].prompts.len(), 2);
    // Unlikely as it is, the second does not repeat itself.
    assert!(segments[0].compression_ratio < MAX_COMPRESSION_RATIO, "{segments:?}");
    assert_eq!(segments[0].temperature, 0.2);
}

#[test]
fn silence_is_skipped() {
    let mut long = start(5000, options());
    let unsure = |_: usize, _: usize, written: &[u32]| {
        ([T, 0, T + 40].get(written.len()).copied().unwrap_or(EOT), 1.0)
    };
    let (segments, heard) = run(&mut long, 0.9, unsure);
    assert_eq!(segments, []);
    assert_eq!(heard.iter().map(|h| (h.seek, h.prompts.len())).collect::<Vec<_>>(), [(0, 1), (3000, 1)]);
    // The same probability of silence, but a text that is believed.
    let (segments, _) = run(&mut start(2000, options()), 0.9, script(&[T, 0, T + 40]));
    assert_eq!(segments.len(), 1);
}

#[test]
fn nothing_to_hear_is_an_empty_transcript() {
    for frames in [0, 500] {
        let mut silent = LogMel::new(1);
        (0..frames).for_each(|_| silent.push(&[LogMel::FLOOR]));
        silent.set_samples((frames * HOP) as u64);
        let mut long = LongForm::new(&silent, vocab(), 448, options()).unwrap();
        assert_eq!(long.next(), Need::Done);
        assert_eq!(long.take_segment(), None);
        assert!(long.feed(&mut [], None).is_err());
    }
}

#[test]
fn detects_the_language_once() {
    let mut long = start(4000, Options { language: None, task: Task::Translate, ..options() });
    assert_eq!(long.language(), None);
    long.encoded();
    assert_eq!(long.next(), Need::Decode { tokens: &[SOT], position: 0, probe: None });
    let mut logits = vec![0.0f32; VOCAB];
    logits[DE as usize] = 3.0;
    logits[0] = 9.0;
    long.feed(&mut logits, None).unwrap();
    assert_eq!(long.language(), Some("de"));
    assert_eq!(long.next(), Need::Decode { tokens: &[SOT, DE, 32], position: 0, probe: Some(0) });
}

#[test]
fn refuses_languages_and_broken_logits() {
    let asked = Options { language: Some("tlh".into()), ..options() };
    let error = LongForm::new(&recording(10), vocab(), 448, asked).err().unwrap();
    assert!(matches!(&error, Error::Language { asked, known } if asked == "tlh" && known == "de, en"));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut long = start(100, options());
        long.encoded();
        let probe = vec![bad; VOCAB];
        assert!(matches!(long.feed(&mut vec![bad; VOCAB], Some(&probe)), Err(Error::Logits { .. })));
    }
}

#[test]
fn a_prompt_is_text_and_is_cut_to_its_end() {
    let long = start(100, Options { prompt: Some(" ab cd ".into()), ..options() });
    assert_eq!(long.history, [SPACE, 0, 1, SPACE, 2, 3]);
    let long = start(100, Options { prompt: Some("a".repeat(1000) + "b"), ..options() });
    assert_eq!((long.history.len(), long.history.last()), (223, Some(&1)));
    let long = start(100, Options { prompt: Some("<|endoftext|>".into()), ..options() });
    assert!(long.history.iter().all(|&t| t < EOT), "{:?}", long.history);
}

#[test]
fn two_hours_keep_no_more_than_a_window() {
    let frames = 2 * 3600 * 100;
    let mut long = start(frames, options());
    let mut last = 0.0;
    let (segments, heard) =
        run(&mut long, 0.1, script(&[T, 0, 1, T + 1000, T + 1000, 2, T + 1400, T + 1400]));
    for segment in &segments {
        assert!(segment.start >= last && segment.end > segment.start);
        last = segment.start;
    }
    assert!(long.history.len() <= 223 && long.finished.is_empty());
    assert_eq!(heard.len(), frames.div_ceil(2800));
    assert!(heard.iter().all(|h| h.prompts[0].len() <= 227));
}

#[test]
fn never_more_tokens_than_there_is_room_for() {
    let mut long =
        start(3000, Options { prompt: Some("a".repeat(500)), temperatures: vec![0.0], ..options() });
    let mut furthest = 0;
    run(&mut long, 0.1, |_, _, written| {
        furthest = furthest.max(227 + written.len());
        (if written.is_empty() { T } else { written.len() as u32 % 25 }, 30.0)
    });
    assert_eq!(furthest, 448);
    assert_eq!(limit(448, 3), 224);
    assert_eq!(limit(448, 448), 1);
}

proptest! {
    /// Whatever the network says, what is written keeps the rules.
    #[test]
    fn written_tokens_keep_the_rules(seed in any::<u64>(), temperature in 0.0f32..1.5) {
        let vocab = vocab();
        let mut written: Vec<u32> = Vec::new();
        for step in 0..60u64 {
            let mut logits: Vec<f32> = (0..VOCAB as u64)
                .map(|i| (uniform([seed, step, i, 0]) * 12.0) as f32 + if i < 29 { 4.0 } else { 0.0 })
                .collect();
            // The reference does not suppress languages; a network never means one here.
            logits[EN as usize..=DE as usize].fill(f32::NEG_INFINITY);
            rules::mask(&mut logits, &vocab, &written);
            let (token, logprob) = rules::choose(&logits, temperature, uniform([seed, step, 0, 1])).unwrap();
            prop_assert!(logprob <= 1e-4);
            if token == EOT {
                break;
            }
            written.push(token);
        }
        prop_assert!((T..=T + 50).contains(&written[0]));
        prop_assert!(written.iter().all(|&t| (t < EOT && t != 25) || t >= T));
        let stamps: Vec<u32> = written.iter().copied().filter(|&t| t >= T).collect();
        prop_assert!(stamps.is_sorted());
        for (i, w) in written.windows(3).enumerate() {
            let [a, b, c] = [w[0] >= T, w[1] >= T, w[2] >= T];
            // An end timestamp is followed by a start timestamp, and that by text.
            prop_assert!(!(a && b && c));
            prop_assert!(i == 0 || a || !b || c, "{written:?}");
        }
        prop_assert!(written.len() < 2 || written[1] < T);
    }
}
