//! Long recordings from a network that hears 30 s: which window is next, what its tokens mean, when it is
//! tried again. Sequential decoding as openai/whisper's `transcribe.py` and faster-whisper do it.
//!
//! A state machine without tensors: [`LongForm::next`] says what to run, the caller runs it and tells the
//! result with [`LongForm::encoded`] or [`LongForm::feed`], and takes finished segments as they come. Memory
//! does not grow with the recording, as long as the segments are taken.
//!
//! Temperature 0 is greedy; above it one sequence is sampled (the reference samples five and keeps the best).

mod rules;
#[cfg(test)]
mod tests;
mod window;

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::vocab::Vocab;
use super::{Error, whisper::WINDOW};
use crate::types::asr::{HOP, LogMel, Request, SAMPLE_RATE, Segment, Task};

/// Above this ratio a text repeats itself.
const MAX_COMPRESSION_RATIO: f32 = 2.4;
/// Below this mean log-probability a text is not believed.
const MIN_AVG_LOGPROB: f32 = -1.0;
/// Above this probability a window that is not believed is silence.
const MAX_NO_SPEECH: f32 = 0.6;
/// Above this temperature a text is no context for the next window.
const RESET_TEMPERATURE: f32 = 0.5;

/// How to decode.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub task: Task,
    /// ISO 639-1 code; `None` detects it in the first window.
    pub language: Option<String>,
    /// Text that the transcript follows.
    pub prompt: Option<String>,
    /// Tried in turn until a text is believed; not empty.
    pub temperatures: Vec<f32>,
    /// Whether each window's text is context for the next.
    pub condition_on_previous: bool,
    /// Of the sampling above temperature 0.
    pub seed: u64,
}

impl Options {
    /// What a caller asked for, with the reference's defaults for the rest.
    pub fn new(request: &Request) -> Options {
        Options {
            task: request.task,
            language: request.language.clone(),
            prompt: request.prompt.clone(),
            temperatures: request.decoding.temperatures.clone(),
            condition_on_previous: true,
            seed: 0,
        }
    }
}

/// What the caller is to run next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    /// Encode the window of 3000 frames at `seek`, then call [`LongForm::encoded`].
    Encode { seek: usize },
    /// Append `tokens` at `position`, then call [`LongForm::feed`] with the logits after the last of them and,
    /// if a probe is named, after the token of that index.
    Decode { tokens: &'a [u32], position: usize, probe: Option<usize> },
    /// The recording is finished.
    Done,
}

/// A recording being transcribed.
pub struct LongForm {
    vocab: Arc<Vocab>,
    options: Options,
    /// Frames that the samples fill.
    frames: usize,
    /// Tokens of prompt and answer together that the network has room for.
    context: usize,
    /// Frame where the current window begins.
    seek: usize,
    state: State,
    language: Option<(String, u32)>,
    /// Tokens since the last reset that are context for the next window; at most `context / 2 - 1`.
    history: Vec<u32>,
    finished: VecDeque<Segment>,
    next_id: u32,
    /// Tokens run through the network, counting each once.
    prompt_tokens: u64,
    sampled_tokens: u64,
}

enum State {
    Encode,
    /// Asks for the language after the token of the start.
    Detect([u32; 1]),
    Decode(Window),
    Done,
}

/// The attempts at one window.
struct Window {
    prompt: Vec<u32>,
    /// Index of the start token in the prompt: silence is judged after it.
    sot: usize,
    no_speech: Option<f32>,
    attempt: Attempt,
    failed: Vec<Outcome>,
}

/// A text being written.
#[derive(Default)]
struct Attempt {
    tokens: Vec<u32>,
    sum_logprob: f64,
}

/// A text written to its end.
#[derive(Clone)]
struct Outcome {
    tokens: Vec<u32>,
    avg_logprob: f32,
    compression_ratio: f32,
    temperature: f32,
}

impl LongForm {
    /// Starts on a recording, for a network with so many positions (448).
    pub fn new(mel: &LogMel, vocab: Arc<Vocab>, context: usize, options: Options) -> Result<LongForm, Error> {
        let language = language(&vocab, &options)?;
        if options.temperatures.is_empty() || context < 16 {
            return Err(Error::Call { reason: "no temperature to try, or no room to decode in".into() });
        }
        let samples = (mel.seconds() * f64::from(SAMPLE_RATE)).round() as usize;
        let frames = mel.frames().min(samples / HOP);
        let history = match options.prompt.as_deref().map(str::trim) {
            Some(text) if !text.is_empty() => vocab.encode(&format!(" {text}")),
            _ => Vec::new(),
        };
        let state = if frames == 0 || mel.is_silent() { State::Done } else { State::Encode };
        let mut recording = LongForm {
            vocab,
            options,
            frames,
            context,
            seek: 0,
            state,
            language,
            history,
            finished: VecDeque::new(),
            next_id: 0,
            prompt_tokens: 0,
            sampled_tokens: 0,
        };
        recording.trim_history();
        Ok(recording)
    }

    /// What to run next; the same until it is done.
    pub fn next(&self) -> Need<'_> {
        match &self.state {
            State::Encode => Need::Encode { seek: self.seek },
            State::Detect(tokens) => Need::Decode { tokens, position: 0, probe: None },
            State::Decode(window) => window.need(),
            State::Done => Need::Done,
        }
    }

    /// Tells that the window was encoded.
    pub fn encoded(&mut self) {
        if let State::Encode = self.state {
            self.state = match &self.language {
                None if self.vocab.is_multilingual() => State::Detect([self.vocab.special().sot]),
                _ => self.open_window(),
            };
        }
    }

    /// Tells the logits asked for, over the vocabulary; `last` is written over.
    pub fn feed(&mut self, last: &mut [f32], probe: Option<&[f32]>) -> Result<(), Error> {
        match &mut self.state {
            State::Detect(_) => {
                self.language = Some(detect(&self.vocab, last).ok_or_else(|| self.unusable(0))?);
                self.state = self.open_window();
                Ok(())
            }
            State::Decode(window) => {
                if let Some(logits) = probe {
                    window.no_speech = rules::probability(logits, self.vocab.special().no_speech);
                }
                self.advance(last)
            }
            State::Encode | State::Done => {
                Err(Error::Call { reason: "logits given where none were asked for".into() })
            }
        }
    }

    /// The next finished segment, in order of time.
    pub fn take_segment(&mut self) -> Option<Segment> {
        self.finished.pop_front()
    }

    /// ISO 639-1 code of the language, asked for or detected; `None` until it is known.
    pub fn language(&self) -> Option<&str> {
        match &self.language {
            Some((code, _)) => Some(code),
            None if !self.vocab.is_multilingual() => Some("en"),
            None => None,
        }
    }

    /// How much of the recording is done, 0 to 1.
    pub fn progress(&self) -> f64 {
        match (&self.state, self.frames) {
            (State::Done, _) | (_, 0) => 1.0,
            (_, frames) => (self.seek as f64 / frames as f64).min(1.0),
        }
    }

    /// Tokens given to the network as prompts, and tokens it wrote, so far.
    pub fn tokens(&self) -> (u64, u64) {
        (self.prompt_tokens, self.sampled_tokens)
    }

    /// The prompt of a window: context, then start, language and task.
    fn open_window(&mut self) -> State {
        let special = self.vocab.special();
        let mut prompt = Vec::with_capacity(self.history.len() + 4);
        if !self.history.is_empty() {
            prompt.push(special.sot_prev);
            prompt.extend(&self.history);
        }
        let sot = prompt.len();
        prompt.push(special.sot);
        if let Some((_, token)) = self.language.as_ref().filter(|_| self.vocab.is_multilingual()) {
            prompt.push(*token);
            prompt.push(match self.options.task {
                Task::Transcribe => special.transcribe,
                Task::Translate => special.translate,
            });
        }
        self.prompt_tokens += prompt.len() as u64;
        State::Decode(Window {
            prompt,
            sot,
            no_speech: None,
            attempt: Attempt::default(),
            failed: Vec::new(),
        })
    }

    /// Chooses the next token; at the end of the text judges it.
    fn advance(&mut self, logits: &mut [f32]) -> Result<(), Error> {
        let State::Decode(window) = &mut self.state else { return Ok(()) };
        let at = window.prompt.len() + window.attempt.tokens.len();
        let tried = window.failed.len();
        let temperature = self.options.temperatures.get(tried).copied().unwrap_or_default();
        let uniform = uniform([self.options.seed, self.seek as u64, tried as u64, at as u64]);
        rules::mask(logits, &self.vocab, &window.attempt.tokens);
        let chosen = rules::choose(logits, temperature, uniform);
        let Some((token, logprob)) = chosen.filter(|_| window.no_speech.is_some()) else {
            return Err(self.unusable(at));
        };
        self.sampled_tokens += 1;
        window.attempt.sum_logprob += f64::from(logprob);
        if token != self.vocab.special().eot {
            window.attempt.tokens.push(token);
            if window.attempt.tokens.len() < limit(self.context, window.prompt.len()) {
                return Ok(());
            }
        }
        let attempt = std::mem::take(&mut window.attempt);
        let text = self.vocab.decode(&attempt.tokens);
        let outcome = Outcome {
            avg_logprob: (attempt.sum_logprob / (attempt.tokens.len() + 1) as f64) as f32,
            compression_ratio: compression_ratio(text.trim()),
            temperature,
            tokens: attempt.tokens,
        };
        self.judge(outcome);
        Ok(())
    }

    /// Believes a text, or has the window tried again at the next temperature.
    fn judge(&mut self, outcome: Outcome) {
        let State::Decode(window) = &mut self.state else { return };
        let no_speech = window.no_speech.unwrap_or_default();
        let unlikely = outcome.avg_logprob < MIN_AVG_LOGPROB;
        let silence = unlikely && no_speech > MAX_NO_SPEECH;
        let repeats = outcome.compression_ratio > MAX_COMPRESSION_RATIO;
        if !(unlikely || repeats) || silence {
            return self.close_window(outcome, no_speech);
        }
        let temperature = outcome.temperature;
        window.failed.push(outcome);
        if window.failed.len() < self.options.temperatures.len() {
            return;
        }
        let best = best_of(std::mem::take(&mut window.failed));
        if let Some(best) = best {
            self.close_window(Outcome { temperature, ..best }, no_speech);
        }
    }

    /// Turns the window's text into segments and goes on to the next window.
    fn close_window(&mut self, outcome: Outcome, no_speech: f32) {
        let seek = self.seek;
        let frames = (self.frames - seek).min(WINDOW);
        let silent = no_speech > MAX_NO_SPEECH && outcome.avg_logprob <= MIN_AVG_LOGPROB;
        if silent {
            self.seek += frames;
        } else {
            let begin = self.vocab.special().timestamp_begin;
            let (pieces, advance) = window::split(&outcome.tokens, begin, seek, frames);
            self.seek += advance;
            for piece in pieces {
                self.finish(piece, &outcome, seek, no_speech);
            }
            if !self.options.condition_on_previous || outcome.temperature > RESET_TEMPERATURE {
                self.history.clear();
            }
            self.trim_history();
        }
        self.state = if self.seek < self.frames { State::Encode } else { State::Done };
    }

    fn finish(&mut self, piece: window::Piece, outcome: &Outcome, seek: usize, no_speech_prob: f32) {
        let text = self.vocab.decode(&piece.tokens);
        if piece.start == piece.end || text.trim().is_empty() {
            return;
        }
        self.history.extend(&piece.tokens);
        self.finished.push_back(Segment {
            id: self.next_id,
            seek: u32::try_from(seek).unwrap_or(u32::MAX),
            start: piece.start,
            end: piece.end,
            text,
            tokens: piece.tokens,
            temperature: outcome.temperature,
            avg_logprob: outcome.avg_logprob,
            compression_ratio: outcome.compression_ratio,
            no_speech_prob,
            words: Vec::new(),
            logprobs: Vec::new(),
        });
        self.next_id = self.next_id.saturating_add(1);
    }

    fn trim_history(&mut self) {
        let room = self.context / 2 - 1;
        self.history.drain(..self.history.len().saturating_sub(room));
    }

    fn unusable(&self, position: usize) -> Error {
        Error::Logits { seek: self.seek, position }
    }
}

impl Window {
    fn need(&self) -> Need<'_> {
        let end = self.prompt.len();
        match (&self.attempt.tokens[..], &self.failed[..]) {
            ([.., last], _) => Need::Decode {
                tokens: std::slice::from_ref(last),
                position: end + self.attempt.tokens.len() - 1,
                probe: None,
            },
            ([], []) => Need::Decode { tokens: &self.prompt, position: 0, probe: Some(self.sot) },
            // The prompt is still there from the attempt before: its last token is enough.
            ([], _) => Need::Decode { tokens: &self.prompt[end - 1..], position: end - 1, probe: None },
        }
    }
}

/// Most tokens to sample after a prompt: half the context, and what is left of it (openai/whisper
/// `sample_len`; the last token sampled needs no position).
fn limit(context: usize, prompt: usize) -> usize {
    (context / 2).min((context + 1).saturating_sub(prompt)).max(1)
}

/// The likeliest text among those that do not repeat themselves, or among all if all do.
fn best_of(mut outcomes: Vec<Outcome>) -> Option<Outcome> {
    if outcomes.iter().any(|o| o.compression_ratio <= MAX_COMPRESSION_RATIO) {
        outcomes.retain(|o| o.compression_ratio <= MAX_COMPRESSION_RATIO);
    }
    outcomes.into_iter().reduce(|best, o| if o.avg_logprob > best.avg_logprob { o } else { best })
}

/// The language asked for; `None` where it is to be detected or there is only one.
fn language(vocab: &Vocab, options: &Options) -> Result<Option<(String, u32)>, Error> {
    if !vocab.is_multilingual() && options.task == Task::Translate {
        return Err(Error::Language { asked: "translation".into(), known: "English transcription".into() });
    }
    let Some(code) = &options.language else { return Ok(None) };
    match vocab.languages().get(code) {
        Some(&token) => Ok(Some((code.clone(), token))),
        None if !vocab.is_multilingual() && code == "en" => Ok(None),
        None => {
            let codes: Vec<&str> = vocab.languages().keys().map(String::as_str).collect();
            let known = if codes.is_empty() { "en".to_owned() } else { codes.join(", ") };
            Err(Error::Language { asked: code.clone(), known })
        }
    }
}

/// The likeliest language after the start token.
fn detect(vocab: &Vocab, logits: &[f32]) -> Option<(String, u32)> {
    let scored = vocab.languages().iter().filter_map(|(code, &token)| {
        let score = logits.get(token as usize).copied().filter(|s| s.is_finite())?;
        Some((code, token, score))
    });
    let best = scored.reduce(|best, l| if l.2 > best.2 { l } else { best })?;
    Some((best.0.clone(), best.1))
}

/// Bytes of a text over its bytes compressed by zlib at its default level.
fn compression_ratio(text: &str) -> f32 {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory cannot fail; a failure would count as a text that does not compress.
    match encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()) {
        Ok(packed) if !packed.is_empty() => text.len() as f32 / packed.len() as f32,
        _ => 1.0,
    }
}

/// A number in [0, 1) that depends on the counters alone (SplitMix64's finaliser over each): the same seed
/// gives the same text whatever else runs.
fn uniform(counters: [u64; 4]) -> f64 {
    let mixed = counters.iter().fold(0x9E37_79B9_7F4A_7C15_u64, |state, &counter| {
        let mut z = (state ^ counter).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    });
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}
