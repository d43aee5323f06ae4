//! A stretch of sound heard window by window: where the next one begins, and what the last one said.

use std::collections::VecDeque;
use std::ops::Range;

use super::split::{Piece, Split};
use super::timeline::Timeline;
use super::window::Outcome;
use super::{Setting, words};
use crate::model::asr::whisper::WINDOW;
use crate::types::asr::{FRAMES_PER_SECOND, Segment, TokenLogprob, Word};

/// Above this temperature a text is no context for the next window.
const RESET_TEMPERATURE: f32 = 0.5;

/// One stretch.
#[derive(Debug)]
pub(super) struct Track {
    pub timeline: Timeline,
    /// Frame where the next window begins.
    pub seek: usize,
    /// Whether a window of it is being heard.
    pub busy: bool,
    /// Tokens since the last reset that are context for the next window.
    pub history: Vec<u32>,
    pub finished: VecDeque<Segment>,
    /// Words of a known transcript that are told.
    pub told: usize,
    /// Where speech was last heard, in seconds.
    last_speech: f64,
    /// Where a voice was heard; a window that holds none of it is left out. `None`: nobody listened.
    voiced: Option<Vec<Range<usize>>>,
}

/// A piece and its words.
struct Said {
    piece: Piece,
    words: Vec<Word>,
}

impl Track {
    pub fn new(timeline: Timeline, history: Vec<u32>, voiced: Option<Vec<Range<usize>>>) -> Track {
        let silent = timeline.is_silent();
        let seek = if silent { timeline.frames() } else { 0 };
        let finished = VecDeque::new();
        let mut track =
            Track { timeline, seek, busy: false, history, finished, told: 0, last_speech: 0.0, voiced };
        track.skip_quiet();
        track
    }

    /// Goes on to the next window that holds a voice. From noise alone networks make words up.
    fn skip_quiet(&mut self) {
        let Some(voiced) = &self.voiced else { return };
        while self.seek < self.timeline.frames() {
            let window = self.seek..self.seek + self.frames_at(self.seek);
            let next = voiced.partition_point(|v| v.end <= window.start);
            if voiced.get(next).is_some_and(|v| v.start < window.end) {
                return;
            }
            self.seek = window.end;
        }
    }

    pub fn is_done(&self) -> bool {
        self.seek >= self.timeline.frames()
    }

    /// Frames of sound in a window at `seek`.
    pub fn frames_at(&self, seek: usize) -> usize {
        (self.timeline.frames() - seek.min(self.timeline.frames())).min(WINDOW)
    }

    /// Takes what was said in the window at `seek`, and goes on.
    pub fn finish(&mut self, setting: &Setting, outcome: Outcome, frames: usize) {
        self.busy = false;
        self.told = outcome.told;
        self.take(setting, outcome, frames);
        self.skip_quiet();
    }

    fn take(&mut self, setting: &Setting, mut outcome: Outcome, frames: usize) {
        let seek = self.seek;
        let Some(split) = outcome.split.take() else {
            self.seek += frames;
            return;
        };
        let Split { pieces, advance, single_ending } = split;
        self.seek += advance;
        let mut said = self.words(setting, pieces, &mut outcome, seek);
        if setting.options.words {
            self.follow_words(setting, &mut said, seek, frames, single_ending);
        }
        let window = u32::try_from(seek).unwrap_or(u32::MAX);
        for Said { piece, words } in said {
            let text = setting.vocab.decode(&outcome.text.tokens[piece.tokens.clone()]);
            if piece.start == piece.end || text.trim().is_empty() {
                continue;
            }
            self.history.extend(&outcome.text.tokens[piece.tokens.clone()]);
            let segment = self.segment(setting, &outcome, piece, words, text, window);
            self.finished.push_back(segment);
        }
        if !setting.options.decoding.condition_on_previous || outcome.temperature > RESET_TEMPERATURE {
            self.history.clear();
        }
        let room = setting.history_room();
        self.history.drain(..self.history.len().saturating_sub(room));
    }

    /// The words of a known transcript that are not told, where the last ones end: without length, as nothing of them
    /// was heard.
    pub fn take_unsaid(&mut self, setting: &Setting) -> Option<Segment> {
        let script = setting.script.as_ref()?;
        let words = std::mem::replace(&mut self.told, script.len())..script.len();
        let text = script.text(words.clone());
        let (at, _) = self.timeline.real_word(self.last_speech, self.last_speech);
        let word = |i: usize| Word { text: script.text(i..i + 1), start: at, end: at, probability: 0.0 };
        (!text.is_empty()).then(|| Segment {
            id: 0,
            seek: u32::try_from(self.seek).unwrap_or(u32::MAX),
            start: at,
            end: at,
            tokens: setting.vocab.encode(&text),
            text,
            temperature: 0.0,
            avg_logprob: 0.0,
            compression_ratio: 0.0,
            no_speech_prob: 0.0,
            words: words.map(word).collect(),
            logprobs: Vec::new(),
        })
    }

    fn words(
        &mut self,
        setting: &Setting,
        mut pieces: Vec<Piece>,
        outcome: &mut Outcome,
        seek: usize,
    ) -> Vec<Said> {
        let eot = setting.vocab.special().eot;
        let timings = std::mem::take(&mut outcome.timings);
        if timings.is_empty() {
            return pieces.into_iter().map(|piece| Said { piece, words: Vec::new() }).collect();
        }
        let tokens = &outcome.text.tokens;
        let count = |piece: &Piece| tokens[piece.tokens.clone()].iter().filter(|&&t| t < eot).count();
        let mut last = self.last_speech;
        let words = words::attach(&mut pieces, count, timings, seconds(seek), &mut last);
        let said = pieces.into_iter().zip(words).map(|(piece, words)| Said { piece, words });
        said.collect()
    }

    /// Moves on to the end of the last word, and leaves out what is likely not said at all.
    fn follow_words(
        &mut self,
        setting: &Setting,
        said: &mut Vec<Said>,
        seek: usize,
        frames: usize,
        single_ending: bool,
    ) {
        if let Some(end) = last_end(said).filter(|&end| !single_ending && end > seconds(seek)) {
            self.seek = self.frame(end).max(seek + 1);
        }
        if let Some(threshold) = setting.options.decoding.hallucination_silence {
            self.guard(said, seek, frames, f64::from(threshold));
        }
        self.last_speech = last_end(said).unwrap_or(self.last_speech);
    }

    fn frame(&self, seconds: f64) -> usize {
        ((seconds * FRAMES_PER_SECOND as f64).round() as usize).min(self.timeline.frames())
    }

    /// Silence of more than `threshold` seconds around words that are likely made up is heard again, or left out.
    fn guard(&mut self, said: &mut Vec<Said>, seek: usize, frames: usize, threshold: f64) {
        let (begin, end) = (seconds(seek), seconds(seek + frames));
        if let Some(first) = said.iter().find(|s| !s.words.is_empty()).filter(|s| s.is_anomalous()) {
            let gap = first.piece.start - begin;
            if gap > threshold {
                self.seek = self.frame(begin + gap).max(seek + 1);
                said.clear();
                return;
            }
        }
        let mut heard = self.last_speech;
        for at in 0..said.len() {
            let this = &said[at];
            if this.words.is_empty() {
                continue;
            }
            let (start, stop) = (this.piece.start, this.piece.end);
            if this.is_anomalous() {
                let next = said[at + 1..].iter().find(|s| !s.words.is_empty());
                let next_start = next.and_then(|s| s.words.first()).map_or(end, |w| w.start);
                let before = start - heard > threshold || start < threshold || start - begin < 2.0;
                let after = next_start - stop > threshold
                    || next.is_some_and(Said::is_anomalous)
                    || seconds(seek + WINDOW) - stop < 2.0;
                if before && after {
                    let total = self.timeline.frames();
                    self.seek = self.frame(start.max(begin + 1.0)).max(seek + 1);
                    if seconds(total) - stop < threshold {
                        self.seek = total;
                    }
                    said.truncate(at);
                    return;
                }
            }
            heard = stop;
        }
    }

    fn segment(
        &self,
        setting: &Setting,
        outcome: &Outcome,
        piece: Piece,
        words: Vec<Word>,
        text: String,
        seek: u32,
    ) -> Segment {
        let tokens = outcome.text.tokens[piece.tokens.clone()].to_vec();
        let words: Vec<Word> = words
            .into_iter()
            .map(|word| {
                let (start, end) = self.timeline.real_word(word.start, word.end);
                Word { start, end, ..word }
            })
            .collect();
        let (start, end) = match &words[..] {
            [first, .., last] | [first @ last] => (first.start, last.end),
            [] => (self.timeline.real(piece.start, false), self.timeline.real(piece.end, true)),
        };
        let logprobs = match setting.options.logprobs {
            true => (tokens.iter().zip(&outcome.text.logprobs[piece.tokens]))
                .filter(|(token, _)| **token < setting.vocab.special().eot)
                .map(|(&token, &logprob)| TokenLogprob { token, bytes: setting.vocab.bytes(token), logprob })
                .collect(),
            false => Vec::new(),
        };
        Segment {
            id: 0,
            seek,
            start,
            end,
            text,
            tokens,
            temperature: outcome.temperature,
            avg_logprob: outcome.avg_logprob,
            compression_ratio: outcome.compression_ratio,
            no_speech_prob: outcome.no_speech,
            words,
            logprobs,
        }
    }
}

impl Said {
    /// Whether its words are too long, too short or too unlikely to have been said.
    fn is_anomalous(&self) -> bool {
        let spoken = self.words.iter().filter(|w| w.text.trim().chars().any(|c| !is_mark(c)));
        let spoken: Vec<f64> = spoken.take(8).map(anomaly).collect();
        let score: f64 = spoken.iter().sum();
        !self.words.is_empty() && (score >= 3.0 || score + 0.01 >= spoken.len() as f64)
    }
}

fn is_mark(c: char) -> bool {
    "\"'“¿([{-.。,，!！?？:：”)]}、".contains(c)
}

fn anomaly(word: &Word) -> f64 {
    let length = word.end - word.start;
    let mut score = if word.probability < 0.15 { 1.0 } else { 0.0 };
    if length < 0.133 {
        score += (0.133 - length) * 15.0;
    }
    if length > 2.0 {
        score += length - 2.0;
    }
    score
}

/// Where the last word ends, or the last segment if there are none.
fn last_end(said: &[Said]) -> Option<f64> {
    let word = said.iter().rev().find_map(|s| s.words.last()).map(|w| w.end);
    word.or_else(|| said.last().map(|s| s.piece.end))
}

fn seconds(frame: usize) -> f64 {
    frame as f64 / FRAMES_PER_SECOND as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::asr::LogMel;

    #[test]
    fn windows_without_a_voice_are_left_out() {
        let mut mel = LogMel::new(1);
        (0..20_000).for_each(|_| mel.push(&[0.0]));
        let track = |voiced| Track::new(Timeline::whole(&mel, 20_000), Vec::new(), voiced);
        assert_eq!(track(None).seek, 0);
        assert!(track(Some(Vec::new())).is_done());
        let mut track = track(Some(vec![3100..3110, 18_500..18_600]));
        assert_eq!(track.seek, 3000);
        track.seek = 3109;
        track.skip_quiet();
        assert_eq!(track.seek, 3109);
        track.seek = 3110;
        track.skip_quiet();
        assert_eq!(track.seek, 18_110);
        track.seek = 18_600;
        track.skip_quiet();
        assert!(track.is_done());
    }
}
