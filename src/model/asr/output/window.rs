//! One window of 30 s: its prompt, the attempts at it, and when its words were said.
//!
//! A state machine without tensors. [`Window::rows`] says what to run; each row's output goes through
//! [`Window::consider`], which changes nothing and may run beside others, and all of them together into
//! [`Window::advance`]. [`Window::parents`] then says which sequence each row continues.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::rules::{self, Candidate};
use super::script::Script;
use super::search::{How, Hypothesis, Parent, Search};
use super::split::{self, Piece, Split};
use super::words::{self, Timing};
use super::{Error, Setting};
use crate::model::asr::vocab::Vocab;
use crate::model::asr::{RowOutput, Want};
use crate::types::asr::Task;

/// A row to run.
#[derive(Debug, PartialEq)]
pub struct Ask {
    pub tokens: Vec<u32>,
    pub position: usize,
    /// Whether it belongs to the prompt's sequence or to that of a text, by index.
    pub text: Option<usize>,
    pub want: Want,
}

/// What a row's output comes to.
#[derive(Debug)]
pub enum Considered {
    /// How likely each language is, likeliest first.
    Languages(Vec<(String, f32)>),
    Prompt(Prompted),
    Candidates(Candidates),
    Timed(Words),
}

/// The logits after a prompt.
#[derive(Debug)]
pub struct Prompted {
    last: Vec<f32>,
    no_speech: f32,
}

/// Tokens that may come next.
#[derive(Debug)]
pub struct Candidates(Vec<Candidate>);

/// Words with their times.
#[derive(Debug)]
pub struct Words(Vec<Timing>);

/// What is known of a window.
#[derive(Debug)]
pub(super) struct Outcome {
    pub text: Hypothesis,
    pub temperature: f32,
    pub avg_logprob: f32,
    pub compression_ratio: f32,
    pub no_speech: f32,
    /// `None`: nothing was said.
    pub split: Option<Split>,
    /// Empty unless they were asked for.
    pub timings: Vec<Timing>,
    /// Words of a known transcript that are told after it.
    pub told: usize,
}

impl Outcome {
    /// Puts what the transcript has in the place of each piece's own text.
    fn follow(&mut self, script: &Script, vocab: &Vocab) {
        let Some(split) = &mut self.split else { return };
        // A piece without length is left out, and nothing of the transcript with it.
        let own = |p: &Piece| match p.start == p.end {
            true => String::new(),
            false => vocab.decode(&self.text.tokens[p.tokens.clone()]),
        };
        let heard: Vec<String> = split.pieces.iter().map(own).collect();
        let mut tokens = Vec::new();
        for (piece, end) in split.pieces.iter_mut().zip(script.ends(self.told, &heard)) {
            let begin = tokens.len();
            tokens.extend(vocab.encode(&script.text(std::mem::replace(&mut self.told, end)..end)));
            piece.tokens = begin..tokens.len();
        }
        self.text.logprobs = vec![0.0; tokens.len()];
        self.text.tokens = tokens;
    }
}

/// A window being heard.
#[derive(Debug)]
pub struct Window {
    pub(super) track: usize,
    /// Frame of its track where it begins.
    pub(super) seek: usize,
    /// Words of a known transcript that are told before it.
    told: usize,
    /// Frames that hold sound.
    pub(super) frames: usize,
    state: State,
    prompt: Vec<u32>,
    /// Index of the start token in the prompt: silence is judged after it.
    sot: usize,
    /// Tokens at the prompt's end that count as said.
    given: usize,
    language: Option<(String, u32)>,
    /// After the prompt.
    first: Option<Prompted>,
    failed: Vec<Outcome>,
    /// Set when the rows have changed.
    parents: Option<Vec<Parent>>,
    pub(super) prompt_tokens: u64,
    pub(super) sampled_tokens: u64,
}

#[derive(Debug)]
enum State {
    /// The language is asked for after the token of the start.
    Detect,
    /// It is known; the recording decides.
    Detected,
    Prompt,
    Search(Search),
    Align(Outcome),
    Done(Outcome),
}

impl Window {
    pub(super) fn new(track: usize, seek: usize, frames: usize, told: usize) -> Window {
        Window {
            track,
            seek,
            frames,
            told,
            state: State::Detect,
            prompt: Vec::new(),
            sot: 0,
            given: 0,
            language: None,
            first: None,
            failed: Vec::new(),
            parents: None,
            prompt_tokens: 0,
            sampled_tokens: 0,
        }
    }

    /// Begins to write after `context`, in a language if there are several. `given` is text that it begins with.
    pub(super) fn open(
        &mut self,
        setting: &Setting,
        context: &[u32],
        language: Option<(String, u32)>,
        given: &[u32],
    ) {
        let special = setting.vocab.special();
        let mut prompt = Vec::with_capacity(context.len() + given.len() + 6);
        if !context.is_empty() {
            prompt.push(special.sot_prev);
            prompt.extend(context);
        }
        self.sot = prompt.len();
        prompt.extend(start(setting, language.as_ref()));
        if setting.options.decoding.without_timestamps {
            prompt.push(special.no_timestamps);
        }
        if !given.is_empty() {
            let begin = prompt.len();
            if !setting.options.decoding.without_timestamps {
                prompt.push(special.timestamp_begin);
            }
            prompt.extend(given);
            self.given = prompt.len() - begin;
        }
        self.prompt_tokens += prompt.len() as u64;
        self.prompt = prompt;
        self.language = language;
        self.state = State::Prompt;
    }

    /// What to run next; nothing when the window is done or the recording is to decide.
    pub fn rows(&self, setting: &Setting) -> Vec<Ask> {
        let root = |tokens: Vec<u32>, want| vec![Ask { tokens, position: 0, text: None, want }];
        match &self.state {
            State::Detect => root(vec![setting.vocab.special().sot], Want::Last),
            State::Prompt => root(self.prompt.clone(), Want::Probe(self.sot)),
            State::Search(search) => {
                let base = self.prompt.len() - self.given;
                let ask = |(i, text): (usize, &Hypothesis)| Ask {
                    tokens: text.tokens.last().copied().into_iter().collect(),
                    position: base + text.tokens.len() - 1,
                    text: Some(i),
                    want: Want::Last,
                };
                search.rows().iter().enumerate().map(ask).collect()
            }
            State::Align(outcome) => {
                let mut tokens = self.before(setting);
                tokens.extend(self.text(setting, outcome));
                tokens.push(setting.vocab.special().eot);
                let score = setting.script.is_some();
                root(tokens, Want::Alignment { keys: (self.frames / 2).max(1), score })
            }
            State::Detected | State::Done(_) => Vec::new(),
        }
    }

    /// The tokens before a text whose words are timed.
    fn before(&self, setting: &Setting) -> Vec<u32> {
        let mut tokens = start(setting, self.language.as_ref());
        tokens.push(setting.vocab.special().no_timestamps);
        tokens
    }

    /// Tokens of text that are said, without timestamps, as many as fit behind the start.
    fn text(&self, setting: &Setting, outcome: &Outcome) -> Vec<u32> {
        let eot = setting.vocab.special().eot;
        let room = setting.context.saturating_sub(self.before(setting).len() + 1);
        let pieces = outcome.split.iter().flat_map(|s| &s.pieces);
        let tokens = pieces.flat_map(|p| &outcome.text.tokens[p.tokens.clone()]);
        tokens.copied().filter(|&t| t < eot).take(room).collect()
    }

    /// Reads a row's output; `at` is its index in [`rows`](Self::rows).
    pub fn consider(&self, setting: &Setting, at: usize, output: RowOutput) -> Result<Considered, Error> {
        match (&self.state, output) {
            (State::Detect, RowOutput::Logits { last, .. }) => {
                let languages = rules::languages(&last, &setting.vocab);
                if languages.is_empty() {
                    Err(self.unusable(0))
                } else {
                    Ok(Considered::Languages(languages))
                }
            }
            (State::Prompt, RowOutput::Logits { last, probe: Some(probe) }) => {
                let no_speech = rules::probability(&probe, setting.vocab.special().no_speech);
                let no_speech = no_speech.ok_or_else(|| self.unusable(self.sot))?;
                Ok(Considered::Prompt(Prompted { last, no_speech }))
            }
            (State::Search(search), RowOutput::Logits { mut last, .. }) => {
                let Some(text) = search.rows().get(at) else {
                    return Err(Error::Call { reason: format!("no text {at} is being written") });
                };
                let found = self.candidates(setting, &mut last, &text.tokens, search.wanted(), at..at + 1);
                if found.is_empty() {
                    return Err(self.unusable(self.prompt.len() + text.tokens.len()));
                }
                Ok(Considered::Candidates(Candidates(found)))
            }
            (State::Align(outcome), RowOutput::Alignment(alignment)) => {
                let text = self.text(setting, outcome);
                let (said, probs) = (&outcome.text, &outcome.text.logprobs);
                let eot = setting.vocab.special().eot;
                let spoken = said.tokens.iter().zip(probs).filter(|(t, _)| **t < eot);
                let own: Vec<f32> = spoken.map(|(_, p)| p.exp()).collect();
                let language = self.language.as_ref().map_or("en", |(code, _)| code);
                let before = self.before(setting).len();
                let probs = match setting.script {
                    Some(_) => alignment.probabilities.get(before - 1..).unwrap_or_default(),
                    None => &own,
                };
                Ok(Considered::Timed(Words(words::time(
                    &alignment,
                    before,
                    &text,
                    probs,
                    &setting.vocab,
                    language,
                ))))
            }
            _ => Err(Error::Call { reason: "an output that was not asked for".into() }),
        }
    }

    /// The tokens that may follow `said`: likeliest first at temperature 0, else one drawn for each of `texts`.
    fn candidates(
        &self,
        setting: &Setting,
        logits: &mut [f32],
        said: &[u32],
        count: usize,
        texts: std::ops::Range<usize>,
    ) -> Vec<Candidate> {
        setting.rules.mask(logits, &setting.vocab, said);
        let temperature = self.temperature(setting);
        if temperature <= 0.0 {
            return rules::likeliest(logits, count);
        }
        let key = |text| {
            let place = [self.track, self.seek, self.failed.len(), said.len(), text].map(|n| n as u64);
            rules::uniform(setting.options.decoding.seed, &place)
        };
        rules::draw(logits, temperature, &texts.map(key).collect::<Vec<_>>())
    }

    /// Of the attempt under way.
    fn temperature(&self, setting: &Setting) -> f32 {
        setting.options.decoding.temperatures.get(self.failed.len()).copied().unwrap_or_default()
    }

    /// Takes what every row's output came to, in the order of the rows. Gives the languages where the recording is to
    /// decide on one.
    pub fn advance(
        &mut self,
        setting: &Setting,
        outputs: Vec<Considered>,
    ) -> Result<Option<Vec<(String, f32)>>, Error> {
        let mut candidates = Vec::new();
        for output in outputs {
            match output {
                Considered::Languages(languages) => {
                    self.state = State::Detected;
                    return Ok(Some(languages));
                }
                Considered::Prompt(prompted) => {
                    self.first = Some(prompted);
                    self.attempt(setting)?;
                    return Ok(None);
                }
                Considered::Timed(Words(timings)) => {
                    if let State::Align(outcome) = std::mem::replace(&mut self.state, State::Detected) {
                        self.state = State::Done(Outcome { timings, ..outcome });
                    }
                    return Ok(None);
                }
                Considered::Candidates(Candidates(found)) => candidates.push(found),
            }
        }
        let State::Search(search) = &mut self.state else {
            return Err(Error::Call { reason: "candidates where no text is written".into() });
        };
        self.sampled_tokens += candidates.len() as u64;
        let moves = search.advance(candidates);
        self.parents = Some(moves.into_iter().map(Parent::Row).collect());
        if search.is_over() {
            self.judge(setting)?;
        }
        Ok(None)
    }

    /// Begins the next attempt; all begin after the same prompt.
    fn attempt(&mut self, setting: &Setting) -> Result<(), Error> {
        let decoding = &setting.options.decoding;
        let how = match self.temperature(setting) > 0.0 {
            true => How::Sample { count: decoding.best_of },
            false => How::Beam {
                size: decoding.beam_size,
                finished: ((decoding.beam_size as f32 * decoding.patience).round() as usize).max(1),
            },
        };
        let given = self.prompt[self.prompt.len() - self.given..].to_vec();
        let mut logits = self.first.as_ref().map(|f| f.last.clone()).unwrap_or_default();
        let first = self.candidates(setting, &mut logits, &given, how.rows() + 1, 0..how.rows());
        if first.is_empty() {
            return Err(self.unusable(self.prompt.len()));
        }
        let most = decoding.max_new_tokens.unwrap_or(usize::MAX).max(1);
        let limit = limit(setting.context, self.prompt.len()).min(most);
        let eot = setting.vocab.special().eot;
        self.sampled_tokens += 1;
        let (search, parents) = Search::begin(how, &given, limit, decoding.length_penalty, eot, first);
        let over = search.is_over();
        self.parents = Some(parents);
        self.state = State::Search(search);
        if over { self.judge(setting) } else { Ok(()) }
    }

    /// Believes the best text of an attempt, or tries again at the next temperature.
    fn judge(&mut self, setting: &Setting) -> Result<(), Error> {
        let State::Search(search) = &self.state else { return Ok(()) };
        let Some(text) = search.best().cloned() else { return Err(self.unusable(self.prompt.len())) };
        let decoding = &setting.options.decoding;
        let words = setting.vocab.decode(&text.tokens);
        let own = text.tokens.len() - self.given.min(text.tokens.len());
        let outcome = Outcome {
            avg_logprob: (text.sum / (own + 1) as f64) as f32,
            compression_ratio: compression_ratio(words.trim()),
            temperature: self.temperature(setting),
            no_speech: self.first.as_ref().map_or(0.0, |f| f.no_speech),
            split: None,
            timings: Vec::new(),
            told: self.told,
            text,
        };
        let unlikely = decoding.logprob.is_some_and(|least| outcome.avg_logprob < least);
        let silence = unlikely && decoding.no_speech.is_some_and(|most| outcome.no_speech > most);
        let repeats = decoding.compression_ratio.is_some_and(|most| outcome.compression_ratio > most);
        if !(unlikely || repeats) || silence {
            self.close(setting, outcome);
            return Ok(());
        }
        let temperature = outcome.temperature;
        self.failed.push(outcome);
        if self.failed.len() < decoding.temperatures.len() {
            return self.attempt(setting);
        }
        if let Some(best) = best_of(std::mem::take(&mut self.failed), decoding.compression_ratio) {
            self.close(setting, Outcome { temperature, ..best });
        }
        Ok(())
    }

    /// Cuts the believed text; what is silence has no pieces.
    fn close(&mut self, setting: &Setting, mut outcome: Outcome) {
        let decoding = &setting.options.decoding;
        let silent = decoding.no_speech.is_some_and(|most| outcome.no_speech > most)
            && decoding.logprob.is_none_or(|least| outcome.avg_logprob <= least);
        if !silent {
            let begin = setting.vocab.special().timestamp_begin;
            outcome.split = Some(split::split(&outcome.text.tokens, begin, self.seek, self.frames));
            if let Some(script) = &setting.script {
                outcome.follow(script, &setting.vocab);
            }
        }
        let timed = setting.options.words && !self.text(setting, &outcome).is_empty();
        self.state = if timed { State::Align(outcome) } else { State::Done(outcome) };
    }

    /// Which sequences the rows continue, once after each change.
    pub fn parents(&mut self) -> Option<Vec<Parent>> {
        self.parents.take()
    }

    /// Whether all is known.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done(_))
    }

    pub(super) fn outcome(self) -> Option<Outcome> {
        match self.state {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    fn unusable(&self, position: usize) -> Error {
        Error::Logits { seek: self.seek, position }
    }
}

/// Start, language and task.
fn start(setting: &Setting, language: Option<&(String, u32)>) -> Vec<u32> {
    let special = setting.vocab.special();
    let mut tokens = vec![special.sot];
    if let Some((_, token)) = language {
        tokens.push(*token);
        tokens.push(match setting.options.task {
            Task::Transcribe => special.transcribe,
            Task::Translate => special.translate,
        });
    }
    tokens
}

/// Most tokens to sample after a prompt: half the context, and what is left of it (openai/whisper
/// `sample_len`; the last token sampled needs no position).
fn limit(context: usize, prompt: usize) -> usize {
    (context / 2).min((context + 1).saturating_sub(prompt)).max(1)
}

/// The likeliest text among those that do not repeat themselves, or among all if all do.
fn best_of(mut outcomes: Vec<Outcome>, most: Option<f32>) -> Option<Outcome> {
    let sound = |o: &Outcome| most.is_none_or(|most| o.compression_ratio <= most);
    if outcomes.iter().any(sound) {
        outcomes.retain(sound);
    }
    outcomes.into_iter().reduce(|best, o| if o.avg_logprob > best.avg_logprob { o } else { best })
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
