//! One answer: tokens as they come, to text, to thoughts, content and calls.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::RngExt;
use rand::distr::Alphanumeric;
use tokio::sync::mpsc;

use super::Error;
use super::logprobs::Waiting;
use crate::engine::job::Event;
use crate::engine::lane::llm::{Delta as Said, Satisfied};
use crate::model::llm::logprobs::Logprobs;
use crate::model::llm::{Front, Llm};
use crate::text::think::{ThinkStream, Thought};
use crate::text::tools::{self, CallStream};
use crate::text::{Detokenizer, Lead, StopMatcher};
use crate::types::Usage;
use crate::types::llm::{Delta, FinishReason, TokenLogprobs, ToolStart};

/// A part of an answer.
pub(super) enum Piece {
    Delta(Delta),
    Usage(Usage),
}

/// What reads an answer's text.
#[derive(Default)]
pub(super) struct Reading {
    pub thinking: Option<ThinkStream>,
    pub calls: Option<Calls>,
    /// Control tokens that open and close calls and thinking. They are text here, and nothing elsewhere.
    pub marks: Vec<(u32, &'static str)>,
}

/// What reads an answer's calls.
pub(super) struct Calls {
    pub stream: CallStream,
    /// Ids of nine letters and digits, as Mistral's templates want them back.
    pub short_ids: bool,
    /// Otherwise the answer ends with its first call.
    pub parallel: bool,
}

impl Calls {
    fn new_id(&self) -> String {
        let (prefix, length) = if self.short_ids { ("", 9) } else { ("call_", 24) };
        let random = rand::rng().sample_iter(Alphanumeric).take(length);
        prefix.chars().chain(random.map(char::from)).collect()
    }
}

/// One answer being written.
pub(super) struct Answer {
    choice: u32,
    front: Arc<Front>,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    logprobs: Waiting,
    reading: Reading,
    /// Closed by dropping it, which cancels the job.
    events: Option<mpsc::Receiver<Event<Llm>>>,
    /// Said before that where the answer is complete.
    satisfied: Satisfied,
    ready: VecDeque<Piece>,
    generated: u32,
    /// Of these.
    thought: u32,
    /// Tokens of the prompt that did not have to be computed.
    cached: u32,
}

impl Answer {
    pub fn new(
        choice: u32,
        front: Arc<Front>,
        stop: &[String],
        reading: Reading,
        events: mpsc::Receiver<Event<Llm>>,
        satisfied: Satisfied,
    ) -> Self {
        Answer {
            choice,
            detokenizer: Detokenizer::new(&front.tokenizer, Lead::Strip),
            front,
            stop: StopMatcher::new(stop),
            logprobs: Waiting::default(),
            reading,
            events: Some(events),
            satisfied,
            ready: VecDeque::new(),
            generated: 0,
            thought: 0,
            cached: 0,
        }
    }

    /// The next part; `None` after the last.
    pub async fn step(mut self) -> Option<(Result<Piece, Error>, Answer)> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some((Ok(piece), self));
            }
            let event = self.events.as_mut()?.recv().await;
            let error = match event {
                Some(Event::Delta(Said::Prompt { cached })) => {
                    self.cached = cached;
                    continue;
                }
                Some(Event::Delta(Said::Token(token, logprobs))) => {
                    self.token(token, logprobs.as_deref());
                    continue;
                }
                Some(Event::Done(done)) => {
                    self.finish(done.reason, done.usage.completion_tokens);
                    continue;
                }
                Some(Event::Failed(failure)) => failure.into(),
                None => Error::Internal { detail: "the worker dropped the job".to_owned() },
            };
            self.events = None;
            return Some((Err(error), self));
        }
    }

    fn token(&mut self, token: u32, logprobs: Option<&Logprobs>) {
        self.generated = self.generated.saturating_add(1);
        let inside = self.is_thinking();
        let tokenizer = &self.front.tokenizer;
        let mark = self.reading.marks.iter().find(|(id, _)| *id == token).map(|(_, mark)| *mark);
        let text = self.detokenizer.push(tokenizer, token);
        let text = mark.or(text).unwrap_or_default();
        self.logprobs.token(tokenizer, token, logprobs, text);
        let (text, stopped) = self.stop.push(text);
        self.show(text);
        self.thought += u32::from(inside || self.is_thinking());
        let one = self.reading.calls.as_ref().is_some_and(|c| !c.parallel && c.stream.first_is_complete());
        if stopped || one {
            self.end(FinishReason::Stop, self.generated);
        }
    }

    fn finish(&mut self, reason: FinishReason, generated: u32) {
        let tail = self.detokenizer.finish().unwrap_or_default();
        self.logprobs.text(tail);
        let (text, stopped) = self.stop.push(tail);
        self.show(text);
        if !stopped {
            let held = self.stop.finish();
            self.show(held);
        }
        self.end(reason, generated);
    }

    fn is_thinking(&self) -> bool {
        self.reading.thinking.as_ref().is_some_and(ThinkStream::is_inside)
    }

    fn show(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        let tokens = self.logprobs.show(&text);
        self.report(tokens);
        match &mut self.reading.thinking {
            None => self.answer(text),
            Some(thinking) => {
                let thoughts = thinking.push(&text);
                self.think(thoughts);
            }
        }
    }

    fn report(&mut self, tokens: Vec<TokenLogprobs>) {
        if !tokens.is_empty() {
            self.ready.push_back(Piece::Delta(Delta::Logprobs { choice: self.choice, tokens }));
        }
    }

    fn think(&mut self, thoughts: Vec<Thought>) {
        for thought in thoughts {
            match thought {
                Thought::Answer(text) => self.answer(text),
                Thought::Reasoning(text) => {
                    self.ready.push_back(Piece::Delta(Delta::Reasoning { choice: self.choice, text }));
                }
            }
        }
    }

    fn answer(&mut self, text: String) {
        match &mut self.reading.calls {
            None => self.ready.push_back(Piece::Delta(Delta::Text { choice: self.choice, text })),
            Some(calls) => {
                let said = calls.stream.push(&text);
                self.say(said);
            }
        }
    }

    fn say(&mut self, said: Vec<tools::Said>) {
        let Some(calls) = &self.reading.calls else { return };
        let choice = self.choice;
        for said in said {
            let delta = match said {
                tools::Said::Content(text) => Delta::Text { choice, text },
                tools::Said::Call { call, .. } if call > 0 && !calls.parallel => continue,
                tools::Said::Call { call, name, arguments } => {
                    let start = name.map(|name| ToolStart { id: calls.new_id(), name });
                    Delta::ToolCall { choice, call, start, arguments }
                }
            };
            self.ready.push_back(Piece::Delta(delta));
        }
    }

    fn end(&mut self, reason: FinishReason, generated: u32) {
        let mut reason = reason;
        // What is left where a stop string was found is that string.
        if !self.stop.stopped() {
            let tokens = self.logprobs.finish();
            self.report(tokens);
        }
        if let Some(thinking) = &mut self.reading.thinking {
            let thoughts = thinking.finish();
            self.think(thoughts);
        }
        if let Some(calls) = &mut self.reading.calls {
            let said = calls.stream.finish();
            let called = calls.stream.calls() > 0;
            self.say(said);
            if called && reason == FinishReason::Stop {
                reason = FinishReason::ToolCalls;
            }
        }
        self.ready.push_back(Piece::Delta(Delta::Finished { choice: self.choice, reason }));
        // Later answers find the prompt of the first one: what the request found is what that one did.
        let cached_tokens = if self.choice == 0 { self.cached } else { 0 };
        let usage = Usage {
            completion_tokens: generated,
            cached_tokens,
            reasoning_tokens: self.thought.min(generated),
            ..Usage::default()
        };
        self.ready.push_back(Piece::Usage(usage));
        self.satisfied.say();
        self.events = None;
    }
}
