//! The state machine against a scripted network, with a vocabulary small enough to read. The file is over 500 lines because
//! one such network serves all of it.

use proptest::prelude::*;

use super::rules::{Rules, uniform};
use super::testing::*;
use super::*;
use crate::model::asr::{Alignment, RowOutput, Want};

fn options() -> Options {
    let mut request = Request::new("", Task::Transcribe);
    request.language = Some("en".into());
    request.decoding.beam_size = 1;
    request.decoding.best_of = 1;
    request.decoding.seed = 7;
    Options::new(&request)
}

fn with(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = options();
    change(&mut options);
    options
}

fn start(frames: usize, options: Options) -> Recording {
    Recording::new(&recording(frames), &Cut::Whole, vocab(), 448, options).unwrap()
}

/// What the network was asked in one window.
#[derive(Debug, Default)]
struct Asked {
    seek: usize,
    prompt: Vec<u32>,
    /// Texts that were begun after the prompt.
    texts: usize,
    aligned: bool,
}

/// Logits in which one token leads all others by so much; by less than 1 only the other letters.
fn lead((token, lead): (u32, f32)) -> Vec<f32> {
    let mut logits = vec![0.0f32; VOCAB];
    let doubtful = lead > 0.0 && lead < 1.0;
    if doubtful {
        logits[..=SPACE as usize].fill(20.0);
    }
    logits[token as usize] = if doubtful { 20.0 + lead } else { lead };
    logits
}

/// Token `n` looks at ten positions from `10 n` on.
fn alignment(tokens: usize, keys: usize, score: bool) -> Alignment {
    let weight = |i: usize| if i % keys / 10 == i / keys { 1.0 } else { 0.0 };
    Alignment {
        heads: 1,
        tokens,
        keys,
        weights: (0..tokens * keys).map(weight).collect(),
        probabilities: vec![0.5; if score { tokens - 1 } else { 0 }],
    }
}

/// Runs a window to its end: `say(seek, attempt, tokens so far)` gives the token that the network means to write and
/// how sure it is: its lead over all others, in logits.
fn hear(
    recording: &mut Recording,
    mut window: Window,
    no_speech: f32,
    say: &mut impl FnMut(usize, usize, &[u32]) -> (u32, f32),
) -> Asked {
    let setting = recording.setting().clone();
    let mut asked = Asked { seek: window.seek, ..Asked::default() };
    let mut texts: Vec<Vec<u32>> = Vec::new();
    while !window.is_done() {
        let mut considered = Vec::new();
        let asks = window.rows(&setting);
        assert!(!asks.is_empty());
        for (at, ask) in asks.into_iter().enumerate() {
            let output = match (ask.text, ask.want) {
                (None, Want::Probe(sot)) => {
                    assert_eq!((ask.position, ask.tokens[sot]), (0, SOT));
                    asked.prompt = ask.tokens;
                    let odds = (no_speech / (1.0 - no_speech) * (VOCAB - 1) as f32).ln();
                    let last = lead(say(window.seek, 0, &[]));
                    RowOutput::Logits { last, probe: Some(lead((NO_SPEECH, odds))) }
                }
                (None, Want::Alignment { keys, score }) => {
                    asked.aligned = true;
                    RowOutput::Alignment(alignment(ask.tokens.len(), keys, score))
                }
                (None, Want::Last) => RowOutput::Logits { last: lead(say(window.seek, 0, &[])), probe: None },
                (Some(text), _) => {
                    texts[text].extend(ask.tokens);
                    let last = lead(say(window.seek, asked.texts - 1, &texts[text]));
                    RowOutput::Logits { last, probe: None }
                }
            };
            considered.push(window.consider(&setting, at, output).unwrap());
        }
        if let Some(languages) = window.advance(&setting, considered).unwrap()
            && !recording.decide(&mut window, languages)
        {
            return asked;
        }
        if let Some(parents) = window.parents() {
            if parents.contains(&Parent::Root) {
                asked.texts += 1;
            }
            let old = std::mem::take(&mut texts);
            let text = |parent: &Parent| match parent {
                Parent::Root => Vec::new(),
                Parent::Row(row) => old[*row].clone(),
            };
            texts = parents.iter().map(text).collect();
        }
    }
    recording.finish(window);
    asked
}

fn run(
    recording: &mut Recording,
    no_speech: f32,
    mut say: impl FnMut(usize, usize, &[u32]) -> (u32, f32),
) -> (Vec<Segment>, Vec<Asked>) {
    let (mut segments, mut asked) = (Vec::new(), Vec::new());
    while let Some(window) = recording.next_window() {
        asked.push(hear(recording, window, no_speech, &mut say));
        segments.extend(std::iter::from_fn(|| recording.take_segment()));
    }
    assert!(recording.is_done());
    (segments, asked)
}

/// Says a script, then the end.
fn script(tokens: &'static [u32]) -> impl Fn(usize, usize, &[u32]) -> (u32, f32) {
    move |_, _, written| (tokens.get(written.len()).copied().unwrap_or(EOT), 30.0)
}

#[test]
fn windows_follow_the_last_timestamp_and_carry_the_text() {
    let mut long = start(4000, options());
    let (segments, asked) = run(&mut long, 0.1, |seek, _, written| {
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
    assert_eq!(asked.iter().map(|h| h.seek).collect::<Vec<_>>(), [0, 1800]);
    assert_eq!(asked[0].prompt, [SOT, EN, TRANSCRIBE]);
    let context = [PREV, T, 0, 1, T + 100, T + 100, 2, T + 900, SOT, EN, TRANSCRIBE];
    assert_eq!(asked[1].prompt, context);
    assert_eq!(long.language(), Language { code: "en".into(), probability: 1.0 });
}

#[test]
fn a_beam_says_the_same_where_there_is_no_doubt() {
    let mut long = start(1800, with(|o| o.decoding.beam_size = 5));
    let (segments, _) = run(&mut long, 0.1, script(&[T, 0, 1, T + 100, T + 100, 2, T + 900, T + 900]));
    let texts: Vec<_> = segments.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(texts, ["ab", "c"]);
}

#[test]
fn tries_again_warmer_and_forgets_what_was_said_hot() {
    let mut long = start(4000, options());
    let (segments, asked) = run(&mut long, 0.1, |seek, attempt, written| {
        let tokens: &[u32] = &[T, 0, T + 1000, T + 1000];
        let token = tokens.get(written.len()).copied().unwrap_or(EOT);
        // Unsure until the fifth attempt (temperature 0.8) at the first window.
        (token, if seek == 0 && attempt < 4 && !written.is_empty() { 2.0 } else { 30.0 })
    });
    let prompt = [SOT, EN, TRANSCRIBE];
    assert_eq!((&asked[0].prompt[..], asked[0].texts), (&prompt[..], 5));
    assert_eq!(segments[0].temperature, 0.8);
    assert_eq!(segments[0].text, "a");
    assert_eq!(asked[1].prompt, prompt, "no context after a hot window");
}

#[test]
fn repetition_fails_and_the_best_of_the_failed_is_taken() {
    let mut long = start(3000, with(|o| o.decoding.temperatures = vec![0.0, 0.2]));
    let (segments, asked) = run(&mut long, 0.1, |_, attempt, written| {
        let repeats = attempt == 0;
        let token = match written.len() {
            0 => T,
            n if repeats && n < 100 => 0,
            n if !repeats && n < 20 => n as u32,
            _ => EOT,
        };
        (token, if repeats { 30.0 } else { 8.0 })
    });
    assert_eq!(asked[0].texts, 2);
    // Unlikely as it is, the second does not repeat itself.
    assert!(segments[0].compression_ratio < 2.4, "{segments:?}");
    assert_eq!(segments[0].temperature, 0.2);
}

#[test]
fn silence_is_skipped() {
    let mut long = start(5000, options());
    let unsure = |_: usize, _: usize, written: &[u32]| {
        ([T, 0, T + 40].get(written.len()).copied().unwrap_or(EOT), 1.0)
    };
    let (segments, asked) = run(&mut long, 0.9, unsure);
    assert_eq!(segments, []);
    assert_eq!(asked.iter().map(|h| (h.seek, h.texts)).collect::<Vec<_>>(), [(0, 1), (3000, 1)]);
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
        let chunks = |chunks: &[Vec<Range<usize>>]| Cut::Chunks(chunks.to_vec());
        for cut in
            [Cut::Whole, Cut::Stretches(vec![0..50, 60..100]), chunks(&[vec![0..9, 20..100]]), chunks(&[])]
        {
            let mut long = Recording::new(&silent, &cut, vocab(), 448, with(|o| o.language = None)).unwrap();
            assert!(long.is_done() && !long.has_window());
            assert!(long.next_window().is_none());
            assert_eq!(long.take_segment(), None);
            assert_eq!(long.language().probability, 0.0);
        }
    }
}

#[test]
fn detects_the_language_once() {
    let mut long = start(4000, with(|o| (o.language, o.task) = (None, Task::Translate)));
    let (_, asked) = run(&mut long, 0.1, |_, _, written| match written {
        [] => (DE, 9.0),
        _ => (EOT, 30.0),
    });
    // The window that was asked for its language is the first that is written down.
    assert_eq!(asked[0].prompt, [SOT, DE, 32]);
    assert_eq!(long.language().code, "de");
    assert!(long.language().probability > 0.99);
}

#[test]
fn a_doubtful_language_is_looked_for_in_more_windows() {
    let mut long = start(10_000, with(|o| (o.language, o.decoding.language_windows) = (None, 3)));
    let mut heard = Vec::new();
    let (_, asked) = run(&mut long, 0.1, |seek, _, written| {
        if written.is_empty() && heard.len() < 3 {
            heard.push(seek);
            // Two languages: a lead of nothing is a probability of a half, which is not believed.
            return (if seek == 3000 { EN } else { DE }, 0.0);
        }
        (EOT, 30.0)
    });
    assert_eq!(heard, [0, 3000, 6000]);
    // What was only asked for its language is heard again in its turn.
    assert_eq!(asked.iter().map(|a| a.seek).collect::<Vec<_>>(), [0, 3000, 6000, 0, 3000, 6000, 9000]);
    assert_eq!(long.language().probability, 0.5);
}

#[test]
fn refuses_languages_and_broken_logits() {
    let asked = with(|o| o.language = Some("tlh".into()));
    let error = Recording::new(&recording(10), &Cut::Whole, vocab(), 448, asked).err().unwrap();
    assert!(matches!(&error, Error::Language { asked, known } if asked == "tlh" && known == "de, en"));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut long = start(100, options());
        let mut window = long.next_window().unwrap();
        let output = RowOutput::Logits { last: vec![bad; VOCAB], probe: Some(vec![bad; VOCAB]) };
        let setting = long.setting().clone();
        let broken = match window.consider(&setting, 0, output) {
            Ok(considered) => window.advance(&setting, vec![considered]).err(),
            Err(error) => Some(error),
        };
        assert!(matches!(broken, Some(Error::Logits { .. })));
    }
}

#[test]
fn a_prompt_is_text_and_is_cut_to_its_end() {
    let prompt =
        |options| start(100, options).next_window().unwrap().rows(start(100, self::options()).setting());
    let context = |text: &str, hot: Option<&str>| {
        let options = with(|o| (o.prompt, o.hotwords) = (Some(text.into()), hot.map(Into::into)));
        let tokens = prompt(options).remove(0).tokens;
        tokens[1..tokens.len() - 3].to_vec()
    };
    assert_eq!(context(" ab cd ", None), [SPACE, 0, 1, SPACE, 2, 3]);
    let long = context(&("a".repeat(1000) + "b"), None);
    assert_eq!((long.len(), long.last()), (223, Some(&1)));
    let hot = context(&("a".repeat(1000) + "b"), Some("cd"));
    assert_eq!((hot.len(), &hot[..4], hot.last()), (223, &[SPACE, 2, 3, 0][..], Some(&1)));
    assert!(context("<|endoftext|>", None).iter().all(|&t| t < EOT));
}

#[test]
fn a_prefix_begins_the_first_window_and_is_part_of_it() {
    let mut long = start(4000, with(|o| o.prefix = Some("ab".into())));
    let (segments, asked) = run(&mut long, 0.1, |seek, _, written| {
        let first: &[u32] = &[2, T + 1400, T + 1400];
        let second: &[u32] = &[T, 3, T + 300];
        let tokens = if seek == 0 { first } else { second };
        (tokens.get(written.len()).copied().unwrap_or(EOT), 30.0)
    });
    assert_eq!(asked[0].prompt, [SOT, EN, TRANSCRIBE, T, SPACE, 0, 1]);
    assert_eq!(segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), [" abc", "d"]);
    assert!(!asked[1].prompt.contains(&SPACE) || asked[1].prompt[0] == PREV);
}

#[test]
fn words_have_the_times_of_their_tokens() {
    let mut long = start(3000, with(|o| (o.words, o.logprobs) = (true, true)));
    let text: &[u32] = &[T, SPACE, 0, 1, SPACE, 2, T + 100, T + 100, SPACE, 3, T + 200];
    let (segments, asked) = run(&mut long, 0.1, script(text));
    assert!(asked[0].aligned);
    let words: Vec<_> = segments.iter().flat_map(|s| &s.words).map(|w| (w.text.as_str(), w.start)).collect();
    // Behind start, language, task and the mark of no timestamps, a token each 0.2 s from the one that chose it; the
    // first has all that is before it too.
    assert_eq!(words, [(" ab", 0.0), (" c", 1.2), (" d", 1.6)]);
    assert!(segments.iter().flat_map(|s| &s.words).all(|w| w.probability > 0.99 && w.end > w.start));
    assert_eq!((segments[0].start, segments[0].end), (0.0, 1.6));
    let bytes: Vec<u8> = segments[0].logprobs.iter().flat_map(|t| t.bytes.clone()).collect();
    assert_eq!(bytes, b" ab c");
}

#[test]
fn chunks_go_side_by_side_and_are_told_in_order() {
    let cut = Cut::Chunks(vec![vec![100..400, 600..900], vec![2000..2500], vec![3000..3000]]);
    let mut long = Recording::new(&recording(4000), &cut, vocab(), 448, options()).unwrap();
    let windows: Vec<Window> = std::iter::from_fn(|| long.next_window()).collect();
    assert_eq!(windows.iter().map(|w| (w.track, w.frames)).collect::<Vec<_>>(), [(0, 600), (1, 500)]);
    let mut say = script(&[T, 0, T + 100, T + 100, 1, T + 200]);
    // The second is ready first, and has to wait.
    for window in windows.into_iter().rev() {
        assert_eq!(long.take_segment(), None);
        hear(&mut long, window, 0.1, &mut say);
    }
    let segments: Vec<Segment> = std::iter::from_fn(|| long.take_segment()).collect();
    let times: Vec<_> = segments.iter().map(|s| (s.id, s.start, s.end)).collect();
    assert_eq!(times, [(0, 1.0, 3.0), (1, 3.0, 6.0 + 1.0 - 1.0 + 1.0), (2, 20.0, 22.0), (3, 22.0, 24.0)]);
    assert!(long.is_done());
}

#[test]
fn two_hours_keep_no_more_than_a_window() {
    let frames = 2 * 3600 * 100;
    let mut long = start(frames, options());
    let mut last = 0.0;
    let (segments, asked) =
        run(&mut long, 0.1, script(&[T, 0, 1, T + 1000, T + 1000, 2, T + 1400, T + 1400]));
    for segment in &segments {
        assert!(segment.start >= last && segment.end > segment.start);
        last = segment.start;
    }
    assert!(long.tracks[0].history.len() <= 223 && long.tracks[0].finished.is_empty());
    assert_eq!(asked.len(), frames.div_ceil(2800));
    assert!(asked.iter().all(|h| h.prompt.len() <= 227));
}

#[test]
fn never_more_tokens_than_there_is_room_for() {
    let options = with(|o| {
        o.prompt = Some("a".repeat(500));
        o.decoding.temperatures = vec![0.0];
    });
    let mut furthest = 0;
    run(&mut start(3000, options), 0.1, |_, _, written| {
        furthest = furthest.max(227 + written.len());
        (if written.is_empty() { T } else { written.len() as u32 % 25 }, 30.0)
    });
    assert_eq!(furthest, 448);
}

#[test]
fn a_text_has_no_more_tokens_than_it_may() {
    let mut long = start(1800, with(|o| o.decoding.max_new_tokens = Some(3)));
    let (segments, _) = run(&mut long, 0.1, script(&[T, 0, 1, 2, 3, T + 100]));
    assert_eq!(segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), ["ab"]);
}

#[test]
fn a_known_transcript_takes_the_place_of_what_is_heard() {
    let options = with(|o| (o.words, o.transcript) = (true, Some("ax c d\nend".into())));
    let mut long = start(3000, options.clone());
    let heard = script(&[T, SPACE, 0, 1, T + 100, T + 100, SPACE, 2, SPACE, 3, T + 900]);
    let (segments, _) = run(&mut long, 0.1, heard);
    let texts: Vec<_> = segments.iter().map(|s| (s.id, s.text.as_str())).collect();
    assert_eq!(texts, [(0, " ax"), (1, " c d"), (2, " end")]);
    let words: Vec<_> =
        segments.iter().flat_map(|s| &s.words).map(|w| (w.text.as_str(), w.probability)).collect();
    assert_eq!(words, [(" ax", 0.5), (" c", 0.5), (" d", 0.5), (" end", 0.0)]);
    let (said, unsaid) = (&segments[1], &segments[2]);
    assert_eq!((unsaid.start, unsaid.end), (said.end, said.end));
    assert!(long.take_segment().is_none());
    // Nothing heard at all.
    let mut silence = start(3000, options.clone());
    let (segments, _) = run(&mut silence, 0.9, script(&[]));
    assert_eq!(segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), [" ax c d\nend"]);
    let apart = Cut::Chunks(vec![vec![0..3000]]);
    assert!(Recording::new(&recording(3000), &apart, vocab(), 448, options).is_err());
}

#[test]
fn made_up_words_around_silence_are_left_out() {
    // All that is said is unlikely, and silence is before and after it.
    let options = |guard| {
        with(|o| {
            o.words = true;
            o.decoding.hallucination_silence = guard;
            o.decoding.logprob = None;
        })
    };
    let text = [T, SPACE, 0, SPACE, 1, T + 1400, T + 1400];
    let say = |_: usize, _: usize, written: &[u32]| {
        let token = text.get(written.len()).copied().unwrap_or(EOT);
        (token, if token <= SPACE { 0.5 } else { 30.0 })
    };
    let first = |guard| run(&mut start(3000, options(guard)), 0.1, say).0.remove(0).start;
    // At the end there is no silence after it.
    assert_eq!((first(None), first(Some(2.0)) > 25.0), (0.0, true));
}

proptest! {
    /// Whatever the network says, what is written keeps the rules.
    #[test]
    fn written_tokens_keep_the_rules(seed in any::<u64>(), temperature in 0.0f32..1.5) {
        let vocab = vocab();
        let rules = Rules::new(&vocab, &Decoding::default());
        let mut written: Vec<u32> = Vec::new();
        for step in 0..60u64 {
            let mut logits: Vec<f32> = (0..VOCAB as u64)
                .map(|i| (uniform(seed, &[step, i, 0]) * 12.0) as f32 + if i < 29 { 4.0 } else { 0.0 })
                .collect();
            // The reference does not suppress languages; a network never means one here.
            logits[EN as usize..=DE as usize].fill(f32::NEG_INFINITY);
            rules.mask(&mut logits, &vocab, &written);
            let next = match temperature > 0.0 {
                true => rules::draw(&logits, temperature, &[uniform(seed, &[step, 0, 1])]),
                false => rules::likeliest(&logits, 1),
            };
            let token = next[0].token;
            prop_assert!(next[0].logprob <= 1e-4);
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
