//! What a session does with its audio: which of it is heard next and what is made of the words.
//!
//! A state machine without a clock; the caller passes in the time. It holds the audio of the turns that are not
//! complete, thirty seconds at most, and hands out one [`Pass`] at a time: all that came since the last one, so that
//! under load the passes become fewer and longer by themselves.

use std::collections::VecDeque;
use std::time::Duration;

use super::agreement::Agreement;
use super::voice::{Change, Voice, samples, seconds};
use super::{Event, Options, PIECE};
use crate::model::vad::FRAME;
use crate::service::Error;
use crate::types::asr::{SAMPLE_RATE, Word};

const SECOND: u64 = SAMPLE_RATE as u64;
/// Audio that is held at most: what the network hears at a time.
pub(super) const HOLD: u64 = 30 * SECOND;
/// A longer window is cut after its last sure word.
const TRIM: u64 = 15 * SECOND;
/// Of a longer window words are told without a second look.
const HASTE: u64 = 20 * SECOND;
/// Silence that a turn which lasts long may end at: from here to the start of the last frame of speech, 128 ms.
const PAUSE: u64 = 4 * FRAME as u64;
/// No word is shorter.
const SHORTEST: u64 = SECOND / 10;
/// What a last word ends before its voice does, at most. Where a window was to hear such a rest by itself, it wrote
/// "Thank you." and the like.
const TAIL: u64 = SECOND / 2;
/// Frames that the detector is given at a time: two seconds.
const FRAMES: usize = 64;
/// Characters of earlier text that a window is given as context.
const CONTEXT: usize = 400;

/// Audio to be heard.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pass {
    pub samples: Vec<f32>,
    /// Text that was said before it.
    pub context: String,
    /// A second window is heard only if it begins before this sample: what comes later holds no word, or is heard
    /// again by the next pass.
    pub until: usize,
    /// Whether the turn ends with it.
    pub last: bool,
}

/// A stretch of the stream that is one item.
#[derive(Debug)]
struct Turn {
    item: u64,
    start: u64,
    end: Option<u64>,
    /// Where the next window begins.
    cut: u64,
    /// Where the last window ended.
    heard: u64,
    agreement: Agreement,
    /// Committed words that lie before the window.
    passed: usize,
    told: bool,
}

#[derive(Debug)]
struct InFlight {
    item: u64,
    start: u64,
    end: u64,
    last: bool,
    hasty: bool,
}

/// What a session knows.
pub(super) struct Ear {
    options: Options,
    /// Whether a detector says what is speech; else all is.
    detects: bool,
    voice: Option<Voice>,
    audio: Vec<f32>,
    /// Position of its first sample.
    from: u64,
    /// Up to where the detector was given it, and up to where it has answered.
    fed: u64,
    known: u64,
    asked: Option<u64>,
    /// Frames of speech in what is held.
    voiced: VecDeque<u64>,
    /// No turn begins earlier.
    floor: u64,
    turns: VecDeque<Turn>,
    items: u64,
    context: String,
    in_flight: Option<InFlight>,
    begun: Option<Duration>,
    dropped: u64,
    events: VecDeque<Event>,
}

impl Ear {
    /// Before the first sample.
    pub fn new(options: Options, detects: bool) -> Ear {
        Ear {
            voice: options.turns.filter(|_| detects).map(Voice::new),
            context: options.prompt.clone().unwrap_or_default(),
            options,
            detects,
            audio: Vec::new(),
            from: 0,
            fed: 0,
            known: 0,
            asked: None,
            voiced: VecDeque::new(),
            floor: 0,
            turns: VecDeque::new(),
            items: 0,
            in_flight: None,
            begun: None,
            dropped: 0,
            events: VecDeque::new(),
        }
    }

    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether nothing is left to be told.
    pub fn is_done(&self) -> bool {
        self.turns.is_empty() && self.in_flight.is_none() && self.events.is_empty()
    }

    /// Whether it takes more audio `now`. What comes faster than it is spoken waits while there is no room; what comes
    /// as it is spoken cannot, and the oldest makes room for it.
    pub fn wants(&self, now: Duration) -> bool {
        let room = self.audio.len() + PIECE <= HOLD as usize;
        room || self.begun.is_none_or(|begun| seconds(self.end()) <= (now - begun.min(now)).as_secs_f64())
    }

    /// Whether all that came was listened to, but for the frame that has not ended.
    pub fn is_caught_up(&self) -> bool {
        !self.detects || self.known + FRAME as u64 > self.end()
    }

    fn end(&self) -> u64 {
        self.from + self.audio.len() as u64
    }

    /// The next samples.
    pub fn push(&mut self, samples: &[f32], now: Duration) {
        self.begun.get_or_insert(now);
        let start = self.end();
        self.audio.extend_from_slice(samples);
        if self.voice.is_none() && self.turns.back().is_none_or(|turn| turn.end.is_some()) {
            self.open(start);
        }
        if !self.detects {
            self.voiced.extend((start..self.end()).step_by(FRAME));
            (self.fed, self.known) = (self.end(), self.end());
            self.end_long(true);
        }
        let over = (self.audio.len() as u64).saturating_sub(HOLD);
        if over > 0 {
            self.dropped += over;
            self.drop_front(over);
        }
        self.trim();
    }

    /// What the detector is to hear next: whole frames, while it hears nothing else.
    pub fn take_frames(&mut self) -> Option<Vec<f32>> {
        if !self.detects || self.asked.is_some() {
            return None;
        }
        let rest = self.audio.get((self.fed - self.from) as usize..)?;
        let frames = (rest.len() / FRAME).min(FRAMES);
        let taken = (frames > 0).then(|| rest[..frames * FRAME].to_vec())?;
        self.asked = Some(self.fed);
        self.fed += taken.len() as u64;
        Some(taken)
    }

    /// Probabilities of speech in the frames that were taken.
    pub fn speech(&mut self, probabilities: &[f32]) {
        let Some(base) = self.asked.take() else { return };
        for (at, &probability) in (base..).step_by(FRAME).zip(probabilities) {
            if at < self.known {
                continue;
            }
            self.known = at + FRAME as u64;
            let speaks = probability >= self.options.turns.unwrap_or_default().threshold;
            if speaks && at >= self.from {
                self.voiced.push_back(at);
            }
            if at >= self.floor {
                match self.voice.as_mut().and_then(|voice| voice.hear(at, probability)) {
                    Some(Change::Started(at)) => self.started(at),
                    Some(Change::Stopped(at)) => self.stopped(at),
                    None => {}
                }
            }
            let quiet = |&spoke: &u64| spoke + PAUSE <= self.known;
            self.end_long(self.voiced.back().is_none_or(quiet));
        }
        // Audio may have been dropped up to the middle of its last frame.
        self.known = self.known.max(base + (probabilities.len() * FRAME) as u64);
        self.trim();
    }

    fn started(&mut self, at: u64) {
        let padding = self.options.turns.map_or(0, |turns| samples(turns.padding));
        let start = at.saturating_sub(padding).max(self.floor).max(self.from);
        let item = self.open(start);
        self.events.push_back(Event::SpeechStarted { item, ms: millis(start) });
    }

    fn stopped(&mut self, at: u64) {
        if let Some(item) = self.turns.back().filter(|turn| turn.end.is_none()).map(|turn| turn.item) {
            self.events.push_back(Event::SpeechStopped { item, ms: millis(at) });
            self.close(at);
        }
    }

    fn open(&mut self, start: u64) -> u64 {
        let item = self.items;
        self.items += 1;
        let agreement = Agreement::default();
        let (cut, heard) = (start, start);
        self.turns.push_back(Turn { item, start, end: None, cut, heard, agreement, passed: 0, told: false });
        item
    }

    /// Ends the open turn.
    fn close(&mut self, end: u64) -> bool {
        let Some(turn) = self.turns.back_mut().filter(|turn| turn.end.is_none()) else { return false };
        turn.end = Some(end.max(turn.cut));
        self.floor = self.floor.max(end);
        self.events.push_back(Event::Committed { item: turn.item });
        true
    }

    /// Ends a turn that lasts too long: at a pause if it can wait for one.
    fn end_long(&mut self, pause: bool) {
        let Some(turn) = self.turns.back().filter(|turn| turn.end.is_none()) else { return };
        let (lasts, longest) = (self.known.saturating_sub(turn.start), self.options.longest);
        if lasts >= samples(longest.any) || (pause && lasts >= samples(longest.pause)) {
            let at = self.known;
            self.close(at);
            if let Some(voice) = &mut self.voice {
                voice.reset();
            } else if at < self.end() {
                self.open(at);
            }
        }
    }

    /// The turn ends here.
    pub fn commit(&mut self) {
        if !self.close(self.end()) {
            self.events.push_back(Event::Nothing);
        }
        if let Some(voice) = &mut self.voice {
            voice.reset();
        }
    }

    /// The last turn ends here, if there is one.
    pub fn finish(&mut self) {
        self.close(self.end());
        self.voice = None;
    }

    /// Forgets the turn that has not ended.
    pub fn clear(&mut self) {
        if self.turns.back().is_some_and(|turn| turn.end.is_none()) {
            self.turns.pop_back();
        }
        self.floor = self.end();
        if let Some(voice) = &mut self.voice {
            voice.reset();
        }
        self.trim();
    }

    /// Goes on with other options. The turn that has not ended does so where what ends turns is another.
    pub fn configure(&mut self, options: Options) {
        if options.turns != self.options.turns {
            self.close(self.end());
            self.voice = options.turns.filter(|_| self.detects).map(Voice::new);
        }
        if options.prompt != self.options.prompt
            && let Some(prompt) = &options.prompt
        {
            self.remember(prompt.clone());
        }
        self.options = options;
    }

    /// Whether what is being heard is a part of a turn that has ended meanwhile: its last pass hears all of it again.
    pub fn is_superseded(&self) -> bool {
        let partial = self.in_flight.as_ref().is_some_and(|pass| !pass.last);
        partial && self.turns.front().is_some_and(|turn| turn.end.is_some_and(|end| self.is_known(end)))
    }

    /// Whether the detector has heard all up to here.
    fn is_known(&self, end: u64) -> bool {
        !self.detects || self.known + (FRAME as u64) > end
    }

    /// What is to be heard next, where nothing is being heard; of turns that have not ended only `within` them.
    pub fn next_pass(&mut self, within: bool) -> Option<Pass> {
        loop {
            if self.in_flight.is_some() {
                return None;
            }
            let turn = self.turns.front()?;
            let (end, last, cut) = (turn.end.unwrap_or(self.known), turn.end.is_some(), turn.cut);
            let ready = if last { self.is_known(end) } else { within };
            if !ready {
                return None;
            }
            let unheard = end.saturating_sub(turn.heard);
            let interval = self.options.interval.map(samples);
            if !last && interval.is_none_or(|interval| unheard < interval.max(SECOND)) {
                return None;
            }
            let said = self.voiced.iter().any(|&at| at + FRAME as u64 > cut && at < end);
            if !said || end.saturating_sub(cut) < SHORTEST {
                self.pass_over(end, last);
                continue;
            }
            self.tell_lag(unheard);
            return self.hand_out(cut, end, last);
        }
    }

    fn hand_out(&mut self, start: u64, end: u64, last: bool) -> Option<Pass> {
        let item = self.turns.front()?.item;
        let range = (start.max(self.from) - self.from) as usize..(end - self.from) as usize;
        let samples = self.audio.get(range)?.to_vec();
        let spoke = self.voiced.iter().rev().find(|&&at| at < end).map_or(start, |&at| at + FRAME as u64);
        let until = if last { spoke.min(end).saturating_sub(start + TAIL) } else { 0 };
        self.in_flight = Some(InFlight { item, start, end, last, hasty: end - start > HASTE });
        Some(Pass { samples, context: self.context.clone(), until: until as usize, last })
    }

    fn tell_lag(&mut self, unheard: u64) {
        if self.dropped > 0 {
            self.events.push_back(Event::Dropped { seconds: seconds(self.dropped) });
            self.dropped = 0;
        }
        if unheard > HASTE {
            self.events.push_back(Event::Behind { seconds: seconds(unheard) });
        }
    }

    /// Nobody spoke up to `end`.
    fn pass_over(&mut self, end: u64, last: bool) {
        if last {
            return self.complete();
        }
        let padding = samples(self.options.turns.unwrap_or_default().padding);
        if let Some(turn) = self.turns.front_mut() {
            turn.heard = end;
            turn.cut = turn.cut.max(end.saturating_sub(padding));
        }
        self.trim();
    }

    /// What a pass came to; times are from its first sample on.
    pub fn heard(&mut self, words: Vec<Word>) {
        let Some(pass) = self.in_flight.take() else { return };
        let Some(turn) = self.turns.front_mut().filter(|turn| turn.item == pass.item) else { return };
        let offset = seconds(pass.start);
        let move_on = |word: Word| Word { start: word.start + offset, end: word.end + offset, ..word };
        let words: Vec<Word> = words.into_iter().map(move_on).collect();
        let none = words.is_empty();
        turn.heard = turn.heard.max(pass.end);
        let sure = match (pass.last, pass.hasty) {
            (true, _) => turn.agreement.settle(words, false),
            (false, true) => turn.agreement.settle(words, true),
            (false, false) => turn.agreement.hear(words),
        };
        let mut delta: String = sure.iter().map(|word| word.text.as_str()).collect();
        if !turn.told {
            delta = delta.trim_start().to_owned();
        }
        let item = turn.item;
        if !delta.is_empty() {
            turn.told = true;
            self.events.push_back(Event::Partial { item, delta });
        }
        if pass.last {
            return self.complete();
        }
        let text = turn.agreement.tentative();
        if !text.is_empty() {
            self.events.push_back(Event::Tentative { item, text });
        }
        if pass.end - pass.start > TRIM {
            self.cut(if none && pass.hasty { pass.end } else { 0 });
        }
    }

    /// The window of the first turn begins after its last sure word, or at `least`.
    fn cut(&mut self, least: u64) {
        let Some(turn) = self.turns.front_mut() else { return };
        let end = turn.agreement.end().map_or(0, |end| (end * SECOND as f64) as u64);
        turn.cut = turn.cut.max(end.min(turn.heard)).max(least);
        let passed = turn.agreement.committed().get(turn.passed..).unwrap_or_default();
        let text: String = passed.iter().map(|word| word.text.as_str()).collect();
        turn.passed = turn.agreement.committed().len();
        self.remember(text);
        self.trim();
    }

    /// A pass failed. Another one is made of an open turn; one that has ended is over.
    pub fn failed(&mut self, error: Error) {
        let Some(pass) = self.in_flight.take() else { return };
        let Some(turn) = self.turns.front_mut().filter(|turn| turn.item == pass.item) else { return };
        turn.heard = turn.heard.max(pass.end);
        if pass.last {
            let item = Some(turn.item);
            self.turns.pop_front();
            self.events.push_back(Event::Failed { item, error });
            self.trim();
        }
    }

    /// The pass was not begun: the same audio, and what came since, is to be heard later.
    pub fn put_back(&mut self) {
        self.in_flight = None;
    }

    fn complete(&mut self) {
        let Some(turn) = self.turns.pop_front() else { return };
        let end = turn.end.unwrap_or(turn.cut);
        let words = turn.agreement.into_committed();
        let text: String = words.iter().map(|word| word.text.as_str()).collect();
        let rest = words.get(turn.passed..).unwrap_or_default();
        self.remember(rest.iter().map(|word| word.text.as_str()).collect());
        let (start, end) = (seconds(turn.start), seconds(end));
        let text = text.trim_start().to_owned();
        self.events.push_back(Event::Completed { item: turn.item, text, words, start, end });
        self.trim();
    }

    /// Text that the next window follows.
    fn remember(&mut self, text: String) {
        self.context.push_str(&text);
        let count = self.context.chars().count();
        if count > CONTEXT {
            self.context = self.context.chars().skip(count - CONTEXT).collect();
        }
    }

    /// Lets go of audio that nothing needs any more.
    fn trim(&mut self) {
        let padding = samples(self.options.turns.unwrap_or_default().padding) + 4 * FRAME as u64;
        let idle = self.known.saturating_sub(padding).max(self.floor.min(self.known));
        let needed = self.turns.front().map_or(idle, |turn| turn.cut).min(self.fed);
        if needed > self.from {
            self.drop_front(needed - self.from);
        }
    }

    fn drop_front(&mut self, count: u64) {
        let count = count.min(self.audio.len() as u64);
        self.audio.drain(..count as usize);
        self.from += count;
        let from = self.from;
        self.fed = self.fed.max(from);
        self.known = self.known.max(from);
        self.floor = self.floor.max(from);
        while self.voiced.front().is_some_and(|&at| at + (FRAME as u64) <= from) {
            self.voiced.pop_front();
        }
        for turn in &mut self.turns {
            turn.cut = turn.cut.max(from);
            turn.heard = turn.heard.max(from);
            turn.end = turn.end.map(|end| end.max(from));
        }
    }

    /// Samples that are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.audio.len()
    }
}

fn millis(samples: u64) -> u64 {
    samples * 1000 / SECOND
}
