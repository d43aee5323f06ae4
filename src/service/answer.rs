//! One answer: tokens as they come, to text, to content and calls.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::RngExt;
use rand::distr::Alphanumeric;
use tokio::sync::mpsc;

use super::Error;
use crate::engine::job::Event;
use crate::engine::lane::llm::Delta as Said;
use crate::model::llm::{Front, Llm};
use crate::text::tools::{self, CallStream};
use crate::text::{Detokenizer, Lead, StopMatcher};
use crate::types::Usage;
use crate::types::llm::{Delta, FinishReason, ToolStart};

/// A part of an answer.
pub(super) enum Piece {
    Delta(Delta),
    Usage(Usage),
}

/// What reads an answer's calls.
pub(super) struct Calls {
    pub stream: CallStream,
    /// Control tokens that open calls. They are text here, and nothing elsewhere.
    pub marks: Vec<(u32, &'static str)>,
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
    calls: Option<Calls>,
    /// Closed by dropping it, which cancels the job.
    events: Option<mpsc::Receiver<Event<Llm>>>,
    ready: VecDeque<Piece>,
    generated: u32,
    /// Tokens of the prompt that did not have to be computed.
    cached: u32,
}

impl Answer {
    pub fn new(
        choice: u32,
        front: Arc<Front>,
        stop: &[String],
        calls: Option<Calls>,
        events: mpsc::Receiver<Event<Llm>>,
    ) -> Self {
        Answer {
            choice,
            detokenizer: Detokenizer::new(&front.tokenizer, Lead::Strip),
            front,
            stop: StopMatcher::new(stop),
            calls,
            events: Some(events),
            ready: VecDeque::new(),
            generated: 0,
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
                Some(Event::Delta(Said::Token(token))) => {
                    self.token(token);
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

    fn token(&mut self, token: u32) {
        self.generated = self.generated.saturating_add(1);
        let mark = self.calls.as_ref().and_then(|c| c.marks.iter().find(|(id, _)| *id == token));
        let (text, stopped) = match (mark, self.detokenizer.push(&self.front.tokenizer, token)) {
            (Some((_, mark)), _) => self.stop.push(mark),
            (None, Some(text)) => self.stop.push(text),
            (None, None) => return,
        };
        self.show(text);
        let one = self.calls.as_ref().is_some_and(|c| !c.parallel && c.stream.first_is_complete());
        if stopped || one {
            self.end(FinishReason::Stop, self.generated);
        }
    }

    fn finish(&mut self, reason: FinishReason, generated: u32) {
        let tail = self.detokenizer.finish().unwrap_or_default();
        let (text, stopped) = self.stop.push(tail);
        self.show(text);
        if !stopped {
            let held = self.stop.finish();
            self.show(held);
        }
        self.end(reason, generated);
    }

    fn show(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        match &mut self.calls {
            None => self.ready.push_back(Piece::Delta(Delta::Text { choice: self.choice, text })),
            Some(calls) => {
                let said = calls.stream.push(&text);
                self.say(said);
            }
        }
    }

    fn say(&mut self, said: Vec<tools::Said>) {
        let Some(calls) = &self.calls else { return };
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
        if let Some(calls) = &mut self.calls {
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
        let usage = Usage { completion_tokens: generated, cached_tokens, ..Usage::default() };
        self.ready.push_back(Piece::Usage(usage));
        self.events = None;
    }
}
