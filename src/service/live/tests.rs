//! Sessions without models: any order of what may happen.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::agreement::Agreement;
use super::ear::{Ear, HOLD};
use super::voice::{Change, Voice};
use super::*;
use crate::model::vad::FRAME;

const SECOND: usize = 16_000;

fn word(text: &str, start: f64) -> Word {
    Word { text: format!(" {text}"), start, end: start + 0.4, probability: 0.9 }
}

/// Words half a second apart.
fn said(text: &str, from: f64) -> Vec<Word> {
    text.split(' ').enumerate().map(|(at, text)| word(text, from + at as f64 * 0.5)).collect()
}

fn text(words: &[Word]) -> String {
    words.iter().map(|word| word.text.as_str()).collect()
}

#[test]
fn what_two_hypotheses_agree_on_is_sure() {
    let mut agreement = Agreement::default();
    assert!(agreement.hear(said("and so my", 0.0)).is_empty());
    assert_eq!(agreement.tentative(), " and so my");
    assert_eq!(text(agreement.hear(said("And so, fellow Americans", 0.0))), " And so,");
    assert_eq!(agreement.tentative(), " fellow Americans");
    // The times move a little, and the last sure word is there again.
    let moved = said("so my fellow Americans ask", 0.65);
    assert_eq!(text(agreement.hear(moved)), "");
    assert_eq!(agreement.tentative(), " my fellow Americans ask");
    assert_eq!(
        text(agreement.settle(said("my fellow Americans ask not", 1.0), false)),
        " my fellow Americans ask not"
    );
    assert_eq!(text(agreement.committed()), " And so, my fellow Americans ask not");
}

#[test]
fn in_haste_the_last_word_waits() {
    let mut agreement = Agreement::default();
    assert_eq!(text(agreement.settle(said("one two thr", 0.0), true)), " one two");
    assert_eq!(text(agreement.settle(said("three", 1.0), true)), " three");
}

#[test]
fn a_turn_begins_with_speech_and_ends_after_silence() {
    let mut voice = Voice::new(Turns::default());
    let mut hear = |from: u64, probabilities: &[f32]| -> Vec<Change> {
        let frames = (from..).zip(probabilities);
        frames.filter_map(|(frame, &p)| voice.hear(frame * FRAME as u64, p)).collect()
    };
    assert!(hear(0, &[0.9, 0.1, 0.9, 0.9, 0.1]).is_empty(), "clicks");
    assert_eq!(hear(5, &[0.6, 0.6, 0.6]), [Change::Started(5 * FRAME as u64)]);
    assert!(hear(8, &[0.4; 30]).is_empty(), "it goes on above the lower threshold");
    assert!(hear(38, &[0.1; 10]).is_empty());
    assert!(hear(48, &[0.5]).is_empty());
    assert_eq!(hear(49, &[0.1; 40]), [Change::Stopped((49 + 16) * FRAME as u64)]);
}

/// An ear, what it said, and what its turns came to.
struct Watched {
    ear: Ear,
    detects: bool,
    now: Duration,
    texts: BTreeMap<u64, String>,
    ended: BTreeMap<u64, bool>,
    pass: bool,
    fed: Vec<f32>,
    events: Vec<Event>,
}

impl Watched {
    fn new(options: Options, detects: bool) -> Watched {
        Watched {
            ear: Ear::new(options, detects),
            detects,
            now: Duration::ZERO,
            texts: BTreeMap::new(),
            ended: BTreeMap::new(),
            pass: false,
            fed: Vec::new(),
            events: Vec::new(),
        }
    }

    fn take(&mut self) {
        while let Some(event) = self.ear.take_event() {
            match &event {
                Event::Committed { item } => assert_eq!(self.ended.insert(*item, false), None),
                Event::Partial { item, delta } => {
                    assert!(!delta.is_empty() && self.ended.get(item) != Some(&true));
                    self.texts.entry(*item).or_default().push_str(delta);
                }
                Event::Completed { item, text, words, start, end } => {
                    assert_eq!(self.ended.insert(*item, true), Some(false));
                    assert_eq!(self.texts.get(item).map_or("", String::as_str), text);
                    assert!(start <= end, "{start} to {end}");
                    assert!(words.windows(2).all(|w| w[0].start <= w[1].start && w[0].end <= w[1].end));
                }
                Event::Failed { item: Some(item), .. } => {
                    assert_eq!(self.ended.insert(*item, true), Some(false));
                }
                _ => {}
            }
            self.events.push(event);
        }
        assert!(self.ear.held() <= HOLD as usize);
    }

    fn push(&mut self, samples: usize, level: f32) {
        if self.ear.wants(self.now) {
            self.ear.push(&vec![level; samples], self.now);
        }
        self.take();
    }

    /// The loudness of a frame is the probability that it is speech.
    fn listen(&mut self) {
        if let Some(samples) = self.ear.take_frames() {
            self.fed.extend(&samples);
            self.ear.speech(&samples.chunks(FRAME).map(|frame| frame[0]).collect::<Vec<_>>());
        }
        self.take();
    }

    fn listen_to_all(&mut self) {
        while !self.ear.is_caught_up() {
            self.listen();
        }
    }

    fn begin(&mut self) -> Option<usize> {
        let pass = self.ear.next_pass(true);
        self.take();
        let pass = pass?;
        assert!(!self.pass, "one at a time");
        assert!(!pass.samples.is_empty() && pass.samples.len() <= HOLD as usize);
        self.pass = true;
        Some(pass.samples.len())
    }

    fn end(&mut self, words: Vec<Word>) {
        if std::mem::take(&mut self.pass) {
            self.ear.heard(words);
        }
        self.take();
    }

    fn finish(&mut self) {
        if self.detects {
            self.listen_to_all();
        }
        self.ear.finish();
        self.take();
        for _ in 0..1000 {
            self.end(said("the end", 0.0));
            if self.begin().is_none() && !self.pass {
                break;
            }
        }
        assert!(self.ear.is_done(), "turns are left");
        assert!(self.ended.values().all(|done| *done), "{:?}", self.ended);
    }
}

#[test]
fn a_spoken_turn_is_told_as_it_goes_on() {
    let mut watched = Watched::new(Options::new("m"), true);
    let pushed = |watched: &mut Watched, seconds: f64, level: f32| {
        for _ in 0..(seconds * 10.0) as usize {
            watched.push(SECOND / 10, level);
            watched.listen_to_all();
        }
    };
    pushed(&mut watched, 3.0, 0.0);
    assert!(watched.begin().is_none() && watched.ear.held() < SECOND, "silence is not heard");
    pushed(&mut watched, 1.2, 0.9);
    assert!(matches!(watched.events[..], [Event::SpeechStarted { item: 0, ms: 2700..=2800 }]));
    assert!(watched.begin().is_some());
    watched.end(said("ask not", 0.3));
    pushed(&mut watched, 1.2, 0.9);
    assert!(watched.begin().is_some());
    watched.end(said("ask not what", 0.3));
    assert_eq!(watched.texts[&0], "ask not");
    pushed(&mut watched, 0.7, 0.0);
    assert!(watched.events.iter().any(|e| matches!(e, Event::SpeechStopped { item: 0, ms: 5900..=5950 })));
    assert!(watched.begin().is_some());
    watched.end(said("ask not what your", 0.3));
    assert_eq!(watched.texts[&0], "ask not what your");
    assert!(matches!(watched.events.last(), Some(Event::Completed { item: 0, .. })));
    watched.finish();
}

#[test]
fn audio_that_comes_too_fast_waits_and_what_is_late_is_dropped() {
    let mut watched = Watched::new(Options { turns: None, ..Options::new("m") }, false);
    while watched.ear.wants(watched.now) {
        watched.push(PIECE, 0.5);
    }
    assert_eq!(watched.ear.held(), HOLD as usize);
    assert!(watched.begin().is_some(), "it is heard in one pass");
    watched.now = Duration::from_secs(60);
    for _ in 0..10 {
        watched.push(PIECE, 0.5);
    }
    watched.end(said("one two three", 1.0));
    assert_eq!(watched.texts[&0], "one two", "without a second look");
    assert!(matches!(watched.events[0], Event::Behind { seconds } if seconds == 30.0));
    watched.begin();
    assert!(watched.events.iter().any(|e| matches!(e, Event::Dropped { seconds } if *seconds == 5.0)));
    watched.finish();
}

#[test]
fn what_the_caller_ends_and_forgets() {
    let mut watched = Watched::new(Options { turns: None, ..Options::new("m") }, true);
    watched.ear.commit();
    watched.take();
    assert!(matches!(watched.events[..], [Event::Nothing]));
    watched.push(15 * FRAME, 0.9);
    watched.ear.clear();
    watched.push(15 * FRAME, 0.0);
    watched.listen_to_all();
    watched.ear.commit();
    assert!(watched.begin().is_none(), "what was forgotten was not speech of this turn");
    assert!(
        watched.events.iter().any(|e| matches!(e, Event::Completed { item: 1, text, .. } if text.is_empty()))
    );
    watched.push(15 * FRAME, 0.9);
    watched.listen_to_all();
    watched.ear.commit();
    assert!(watched.begin().is_some());
    watched.ear.put_back();
    watched.pass = false;
    assert!(watched.begin().is_some(), "again");
    watched.pass = false;
    watched.ear.failed(Error::Cancelled);
    watched.take();
    assert!(matches!(watched.events.last(), Some(Event::Failed { item: Some(2), .. })));
    watched.finish();
}

#[test]
fn the_last_pass_of_a_turn_takes_the_place_of_one_within_it() {
    let mut watched = Watched::new(Options { turns: None, ..Options::new("m") }, true);
    watched.push(4 * SECOND, 0.9);
    watched.listen_to_all();
    assert!(watched.ear.next_pass(false).is_none());
    let within = watched.ear.next_pass(true).unwrap();
    assert!(!within.last && !watched.ear.is_superseded());
    watched.push(FRAME * 4, 0.9);
    watched.ear.commit();
    assert!(!watched.ear.is_superseded(), "the detector has not heard its end");
    watched.listen_to_all();
    assert!(watched.ear.is_superseded());
    watched.ear.put_back();
    let last = watched.ear.next_pass(false).unwrap();
    assert!(last.last && last.samples.len() > within.samples.len());
    assert_eq!(within.until, 0, "its rest is heard again");
    // All but half a second of the voice; silence after it is no more of it.
    assert_eq!(last.until, 4 * SECOND + 4 * FRAME - SECOND / 2);
    assert!(!watched.ear.is_superseded());
    watched.ear.heard(said("so", 0.1));
    watched.take();
    watched.finish();
}

#[test]
fn a_turn_without_end_is_ended() {
    let longest = Longest { pause: Duration::from_secs(3), any: Duration::from_secs(5) };
    let options = Options { turns: None, interval: None, longest, ..Options::new("m") };
    let mut watched = Watched::new(options, true);
    for (seconds, level) in [(4, 0.9), (1, 0.0), (9, 0.9)] {
        for _ in 0..seconds * 2 {
            watched.push(PIECE, level);
            watched.listen_to_all();
            watched.begin();
            watched.end(said("so", 0.1));
        }
    }
    watched.finish();
    let times = watched.events.iter().filter_map(|event| match event {
        Event::Completed { start, end, .. } => Some((*start, *end)),
        _ => None,
    });
    let times: Vec<_> = times.collect();
    assert!(times.len() == 3 && times[0].1 < 4.1 && times[1].1 - times[1].0 < 5.1, "{times:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize, bool),
    Wait(u64),
    Listen,
    Begin,
    End(Vec<(u8, f64)>),
    Fail,
    PutBack,
    Commit,
    Clear,
    Configure(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let words = prop::collection::vec((0u8..4, -1f64..31.0), 0..6);
    let step = prop_oneof![
        6 => (1usize..PIECE, any::<bool>()).prop_map(|(n, loud)| Step::Push(n, loud)),
        3 => (1usize..60).prop_map(|n| Step::Push(n * PIECE, true)),
        1 => (0u64..60).prop_map(Step::Wait),
        6 => Just(Step::Listen),
        6 => Just(Step::Begin),
        6 => words.prop_map(Step::End),
        1 => Just(Step::Fail),
        1 => Just(Step::PutBack),
        2 => Just(Step::Commit),
        1 => Just(Step::Clear),
        1 => any::<bool>().prop_map(Step::Configure),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn sure_words_never_change(
        hypotheses in prop::collection::vec((prop::collection::vec((0u8..4, 0f64..20.0), 0..8), 0u8..4), 0..20),
    ) {
        let mut agreement = Agreement::default();
        let mut all = String::new();
        for (words, how) in hypotheses {
            let words: Vec<Word> = words.iter().map(|(w, at)| word(["a", "b", "c", "."][*w as usize], *at)).collect();
            let delta = match how {
                0 => text(agreement.settle(words, true)),
                1 => text(agreement.settle(words, false)),
                _ => text(agreement.hear(words)),
            };
            all.push_str(&delta);
            prop_assert_eq!(&all, &text(agreement.committed()));
        }
        let times: Vec<_> = agreement.committed().iter().map(|w| (w.start, w.end)).collect();
        prop_assert!(times.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1));
    }

    #[test]
    fn whatever_happens_turns_end_once_and_their_texts_add_up(
        steps in steps(), by_voice in any::<bool>(), detects in any::<bool>(), looks in any::<bool>(),
    ) {
        let interval = looks.then_some(Duration::from_secs(1));
        let turns = (by_voice && detects).then(Turns::default);
        let mut watched = Watched::new(Options { turns, interval, ..Options::new("m") }, detects);
        for step in steps {
            match step {
                Step::Push(count, loud) => {
                    for from in (0..count).step_by(PIECE) {
                        watched.push(PIECE.min(count - from), if loud { 0.9 } else { 0.0 });
                    }
                }
                Step::Wait(seconds) => watched.now += Duration::from_secs(seconds),
                Step::Listen => watched.listen(),
                Step::Begin => drop(watched.begin()),
                Step::End(words) => {
                    let words = words.iter().map(|(w, at)| word(["a", "b", "c", "."][*w as usize], *at));
                    watched.end(words.collect());
                }
                Step::Fail if watched.pass => {
                    watched.pass = false;
                    watched.ear.failed(Error::Cancelled);
                }
                Step::PutBack if watched.pass => {
                    watched.pass = false;
                    watched.ear.put_back();
                }
                Step::Commit => watched.ear.commit(),
                Step::Clear => watched.ear.clear(),
                Step::Configure(by_voice) => {
                    let turns = (by_voice && detects).then(Turns::default);
                    watched.ear.configure(Options { turns, interval, ..Options::new("m") });
                }
                Step::Fail | Step::PutBack => {}
            }
            watched.take();
        }
        watched.finish();
    }
}
