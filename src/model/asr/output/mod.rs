//! Recordings of any length from a network that hears 30 s: which window is next, what its tokens mean, when it is
//! tried again. Sequential decoding as openai/whisper's `transcribe.py` and faster-whisper do it; where a recording is
//! cut into chunks, each is decoded so by itself, and several of them side by side.
//!
//! State machines without tensors. A [`Recording`] hands out [`Window`]s; the caller has each one encoded, runs the
//! rows it asks for until it is done, and gives it back. Segments come in order of time. Memory does not grow with
//! the recording, as long as the segments are taken.

mod rules;
mod script;
mod search;
mod split;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod timeline;
mod track;
mod window;
mod words;

use std::ops::Range;
use std::sync::Arc;

use super::vocab::Vocab;
use super::{Error, whisper::WINDOW};
use crate::types::asr::{Decoding, HOP, Language, LogMel, Request, SAMPLE_RATE, Segment, Task};
use rules::Rules;
use script::Script;
pub use search::Parent;
use timeline::Timeline;
use track::Track;
pub use window::{Ask, Considered, Window};

/// Above this probability a language is believed at once.
const LANGUAGE_BELIEVED: f32 = 0.5;

/// How to decode.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub task: Task,
    /// ISO 639-1 code; `None` detects it.
    pub language: Option<String>,
    /// Text that the transcript follows.
    pub prompt: Option<String>,
    /// Context of every window.
    pub hotwords: Option<String>,
    /// Text that the first window begins with.
    pub prefix: Option<String>,
    /// What is said, where it is known.
    pub transcript: Option<String>,
    pub words: bool,
    pub logprobs: bool,
    pub decoding: Decoding,
}

impl Options {
    /// What a caller asked for.
    pub fn new(request: &Request) -> Options {
        Options {
            task: request.task,
            language: request.language.clone(),
            prompt: request.prompt.clone(),
            hotwords: request.hotwords.clone(),
            prefix: request.prefix.clone(),
            transcript: request.transcript.clone(),
            words: request.words,
            logprobs: request.logprobs,
            decoding: request.decoding.clone(),
        }
    }

    /// Sequences that a window may need side by side.
    fn rows(&self) -> usize {
        let warm = self.decoding.temperatures.iter().any(|t| *t > 0.0);
        self.decoding.beam_size.max(if warm { self.decoding.best_of } else { 1 })
    }
}

/// Which parts of a recording are heard, in mel frames.
#[derive(Debug, Clone, PartialEq)]
pub enum Cut {
    /// All of it.
    Whole,
    /// All of it but the windows that hold nothing of these, where a detector heard a voice; in order.
    Voiced(Vec<Range<usize>>),
    /// These, as if the rest were not there.
    Stretches(Vec<Range<usize>>),
    /// Each list by itself, side by side.
    Chunks(Vec<Vec<Range<usize>>>),
}

/// What all windows of a recording share.
pub struct Setting {
    vocab: Arc<Vocab>,
    rules: Rules,
    options: Options,
    /// Tokens of prompt and answer together that the network has room for.
    context: usize,
    hotwords: Vec<u32>,
    prefix: Vec<u32>,
    script: Option<Script>,
}

impl Setting {
    /// Sequences that a window may need side by side.
    pub fn rows(&self) -> usize {
        self.options.rows()
    }

    /// Tokens of earlier text that are context at most; hotwords take of the same room.
    fn history_room(&self) -> usize {
        (self.context / 2 - 1).saturating_sub(self.hotwords.len())
    }
}

/// A recording being transcribed.
pub struct Recording {
    setting: Arc<Setting>,
    tracks: Vec<Track>,
    /// Code, token, probability.
    language: Option<(String, u32, f32)>,
    /// The likeliest language of each window that was asked.
    heard: Vec<(String, f32)>,
    /// Whether a window is being asked for its language.
    asking: bool,
    /// The track whose segments are next.
    telling: usize,
    next_id: u32,
    /// Tokens run through the network, counting each once.
    prompt_tokens: u64,
    sampled_tokens: u64,
}

impl Recording {
    /// Starts on a recording, for a network with so many positions (448).
    pub fn new(
        mel: &LogMel,
        cut: &Cut,
        vocab: Arc<Vocab>,
        context: usize,
        options: Options,
    ) -> Result<Recording, Error> {
        let language = language(&vocab, &options)?;
        let decoding = &options.decoding;
        let none = decoding.temperatures.is_empty() || decoding.beam_size == 0 || decoding.best_of == 0;
        if none || context < 16 {
            return Err(Error::Call {
                reason: "no temperature or text to try, or no room to decode in".into(),
            });
        }
        let encode = |text: &Option<String>| match text.as_deref().map(str::trim) {
            Some(text) if !text.is_empty() => vocab.encode(&format!(" {text}")),
            _ => Vec::new(),
        };
        let room = context / 2 - 1;
        let (history, mut hotwords, mut prefix) =
            (encode(&options.prompt), encode(&options.hotwords), encode(&options.prefix));
        hotwords.truncate(room / 2);
        prefix.truncate(room / 2);
        let rules = Rules::new(&vocab, decoding);
        let script = options.transcript.as_deref().map(Script::new);
        let apart = script.is_some() && matches!(cut, Cut::Chunks(_));
        if apart || (script.is_some() && !options.words) {
            let reason = "a known transcript is timed word by word, one window after the other";
            return Err(Error::Call { reason: reason.into() });
        }
        let setting = Setting { vocab, rules, options, context, hotwords, prefix, script };
        let history = history[history.len().saturating_sub(setting.history_room())..].to_vec();
        let samples = (mel.seconds() * f64::from(SAMPLE_RATE)).round() as usize;
        let frames = mel.frames().min(samples / HOP);
        let lines = match cut {
            Cut::Whole | Cut::Voiced(_) => vec![Timeline::whole(mel, frames)],
            Cut::Stretches(stretches) => vec![Timeline::of(mel, frames, stretches)],
            Cut::Chunks(chunks) => chunks.iter().map(|chunk| Timeline::of(mel, frames, chunk)).collect(),
        };
        let voiced = match cut {
            Cut::Voiced(voiced) => Some(voiced.clone()),
            _ => None,
        };
        Ok(Recording {
            setting: Arc::new(setting),
            tracks: lines.into_iter().map(|line| Track::new(line, history.clone(), voiced.clone())).collect(),
            language,
            heard: Vec::new(),
            asking: false,
            telling: 0,
            next_id: 0,
            prompt_tokens: 0,
            sampled_tokens: 0,
        })
    }

    /// What its windows share.
    pub fn setting(&self) -> &Arc<Setting> {
        &self.setting
    }

    /// The next window that can be heard now, to be encoded.
    pub fn next_window(&mut self) -> Option<Window> {
        if self.setting.vocab.is_multilingual() && self.language.is_none() {
            if self.asking {
                return None;
            }
            let (at, seek) = self.place(self.heard.len())?;
            self.asking = true;
            let track = &mut self.tracks[at];
            track.busy = seek == track.seek;
            return Some(Window::new(at, seek, track.frames_at(seek), track.told));
        }
        let at = self.tracks.iter().position(|t| !t.busy && !t.is_done())?;
        let track = &mut self.tracks[at];
        track.busy = true;
        let mut window = Window::new(at, track.seek, track.frames_at(track.seek), track.told);
        self.open(&mut window);
        Some(window)
    }

    /// Whether [`next_window`](Self::next_window) would give one.
    pub fn has_window(&self) -> bool {
        if self.setting.vocab.is_multilingual() && self.language.is_none() {
            return !self.asking && self.place(self.heard.len()).is_some();
        }
        self.tracks.iter().any(|t| !t.busy && !t.is_done())
    }

    /// Where the language is looked for the `n`-th time: track and frame.
    fn place(&self, n: usize) -> Option<(usize, usize)> {
        let mut places = self.tracks.iter().enumerate().flat_map(|(at, track)| {
            (track.seek..track.timeline.frames()).step_by(WINDOW).map(move |seek| (at, seek))
        });
        places.nth(n).filter(|_| n < self.setting.options.decoding.language_windows.max(1))
    }

    /// The window's values, bin-major.
    pub fn hear(&self, mel: &LogMel, window: &Window, out: &mut [f32]) {
        if let Some(track) = self.tracks.get(window.track) {
            track.timeline.window(mel, window.seek, WINDOW, out);
        }
    }

    fn open(&self, window: &mut Window) {
        let Some(track) = self.tracks.get(window.track) else { return };
        let first = window.track == 0 && window.seek == 0;
        let prefix: &[u32] = if first { &self.setting.prefix } else { &[] };
        // As the reference: what is given says enough about the first window.
        let hotwords: &[u32] = if prefix.is_empty() { &self.setting.hotwords } else { &[] };
        let context: Vec<u32> = hotwords.iter().chain(&track.history).copied().collect();
        let language = self.language.as_ref().map(|(code, token, _)| (code.clone(), *token));
        window.open(
            &self.setting,
            &context,
            language.filter(|_| self.setting.vocab.is_multilingual()),
            prefix,
        );
    }

    /// Takes how likely each language is in a window that was asked. Whether the window goes on; if not it is over.
    pub fn decide(&mut self, window: &mut Window, languages: Vec<(String, f32)>) -> bool {
        self.asking = false;
        self.heard.extend(languages.into_iter().next());
        let sure = self.heard.last().filter(|(_, p)| *p > LANGUAGE_BELIEVED).cloned();
        let found = match sure {
            Some(found) => Some(found),
            None if self.place(self.heard.len()).is_none() => most_heard(&self.heard),
            None => None,
        };
        if let Some((code, probability)) = found
            && let Some(&token) = self.setting.vocab.languages().get(&code)
        {
            self.language = Some((code, token, probability));
        }
        let Some(track) = self.tracks.get_mut(window.track) else { return false };
        let goes_on = self.language.is_some() && window.seek == track.seek;
        if window.seek == track.seek {
            track.busy = goes_on;
        }
        if goes_on {
            self.open(window);
        }
        goes_on
    }

    /// Takes a window that is done.
    pub fn finish(&mut self, window: Window) {
        self.prompt_tokens += window.prompt_tokens;
        self.sampled_tokens += window.sampled_tokens;
        let (at, frames) = (window.track, window.frames);
        if let (Some(track), Some(outcome)) = (self.tracks.get_mut(at), window.outcome()) {
            track.finish(&self.setting, outcome, frames);
        }
    }

    /// The next finished segment, in order of time.
    pub fn take_segment(&mut self) -> Option<Segment> {
        loop {
            let Some(track) = self.tracks.get_mut(self.telling) else { return self.take_unsaid() };
            if let Some(segment) = track.finished.pop_front() {
                let id = self.next_id;
                self.next_id = self.next_id.saturating_add(1);
                return Some(Segment { id, ..segment });
            }
            if track.busy || !track.is_done() {
                return None;
            }
            self.telling += 1;
        }
    }

    /// What is left of a known transcript, once: it was not heard.
    fn take_unsaid(&mut self) -> Option<Segment> {
        let track = self.tracks.last_mut()?;
        let segment = track.take_unsaid(&self.setting)?;
        let id = self.next_id;
        self.next_id = self.next_id.saturating_add(1);
        Some(Segment { id, ..segment })
    }

    /// Whether all of it has been heard.
    pub fn is_done(&self) -> bool {
        self.tracks.iter().all(|t| t.is_done() && !t.busy)
    }

    /// The language, asked for or found; English where nothing was heard, as the reference falls back to.
    pub fn language(&self) -> Language {
        match &self.language {
            Some((code, _, probability)) => Language { code: code.clone(), probability: *probability },
            None => {
                let probability = if self.setting.vocab.is_multilingual() { 0.0 } else { 1.0 };
                Language { code: "en".into(), probability }
            }
        }
    }

    /// Tokens given to the network as prompts, and tokens it wrote, so far.
    pub fn tokens(&self) -> (u64, u64) {
        (self.prompt_tokens, self.sampled_tokens)
    }
}

/// The language that most windows hold likeliest, and how likely at best; of equals the one heard first.
fn most_heard(heard: &[(String, f32)]) -> Option<(String, f32)> {
    let count = |code: &String| heard.iter().filter(|(other, _)| other == code).count();
    let (code, _) =
        heard.iter().reduce(|best, next| if count(&next.0) > count(&best.0) { next } else { best })?;
    let best = heard.iter().filter(|(other, _)| other == code).map(|(_, p)| *p).fold(0.0, f32::max);
    Some((code.clone(), best))
}

/// The language asked for; `None` where it is to be detected or there is only one.
fn language(vocab: &Vocab, options: &Options) -> Result<Option<(String, u32, f32)>, Error> {
    if !vocab.is_multilingual() && options.task == Task::Translate {
        return Err(Error::Language { asked: "translation".into(), known: "English transcription".into() });
    }
    let Some(code) = &options.language else { return Ok(None) };
    match vocab.languages().get(code) {
        Some(&token) => Ok(Some((code.clone(), token, 1.0))),
        None if !vocab.is_multilingual() && code == "en" => Ok(None),
        None => {
            let codes: Vec<&str> = vocab.languages().keys().map(String::as_str).collect();
            let known = if codes.is_empty() { "en".to_owned() } else { codes.join(", ") };
            Err(Error::Language { asked: code.clone(), known })
        }
    }
}
