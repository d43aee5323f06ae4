//! Text generation: prompt to tokens, tokens to text.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{StreamExt, stream};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::resolve::joined;
use super::{Context, Error, Generation, Service};
use crate::engine::job::Event;
use crate::engine::lane::llm::{Delta as Said, Input};
use crate::model::llm::{Front, Llm};
use crate::text::{self, Detokenizer, Lead, RenderOptions, Special, StopMatcher};
use crate::types::Usage;
use crate::types::llm::{Delta, FinishReason, Prompt, Request};

impl Service {
    /// Starts to generate text.
    pub async fn generate(&self, _ctx: Context, request: Request) -> Result<Generation, Error> {
        let handle = self.model::<Llm>(&request.model).await?;
        let front = handle.front().clone();
        // A prompt can be millions of characters: not on a thread that serves sockets.
        let prompt = {
            let front = front.clone();
            let prompt = request.prompt;
            joined(tokio::task::spawn_blocking(move || tokenize(&front, &prompt)).await)??
        };
        let biased = request.sampling.logit_bias.iter().map(|b| b.0);
        check_vocabulary(&front, "logit_bias", biased)?;
        let room = front.context.saturating_sub(prompt.len());
        let max_new = request.max_tokens.map_or(room, |max| (max as usize).min(room)).max(1);
        let first_seed = request.sampling.seed.unwrap_or_else(rand::random);
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let mut answers = Vec::with_capacity(request.n as usize);
        for choice in 0..request.n.max(1) {
            let input = Input {
                prompt: prompt.clone(),
                max_new,
                sampling: request.sampling.clone(),
                seed: first_seed.wrapping_add(u64::from(choice)),
                ignore_stop: false,
            };
            let events = handle.submit(input, Some(self.options.timeout))?;
            answers.push(Answer::new(choice, front.clone(), &request.stop, events));
        }
        let model = handle.id().to_owned();
        Ok(Generation::new(model, deltas(answers, prompt_tokens)))
    }
}

/// The prompt's tokens; at least one, and fewer than the context.
fn tokenize(front: &Front, prompt: &Prompt) -> Result<Vec<u32>, Error> {
    let limit = front.context.saturating_sub(1);
    let tokens = match prompt {
        Prompt::Chat(messages) => {
            let now = OffsetDateTime::now_utc();
            let options = RenderOptions { add_generation_prompt: true, now };
            text::chat::encode(&front.tokenizer, &front.template, messages, options, limit)?
        }
        Prompt::Text(text) => front.tokenizer.encode_bounded(text, Special::AsText, true, limit)?,
        Prompt::Tokens(tokens) => {
            check_vocabulary(front, "prompt", tokens.iter().copied())?;
            tokens.clone()
        }
    };
    match tokens.len() {
        0 => Err(Error::Invalid { param: "prompt", message: "the prompt has no tokens".to_owned() }),
        n if n > limit => Err(Error::ContextLength { tokens: n, limit: front.context }),
        _ => Ok(tokens),
    }
}

fn check_vocabulary(
    front: &Front,
    param: &'static str,
    mut tokens: impl Iterator<Item = u32>,
) -> Result<(), Error> {
    let size = front.tokenizer.vocab_size();
    match tokens.find(|&token| token as usize >= size) {
        None => Ok(()),
        Some(bad) => {
            let message = format!("token {bad} is not in the model's vocabulary of {size}");
            Err(Error::Invalid { param, message })
        }
    }
}

impl From<text::Error> for Error {
    fn from(error: text::Error) -> Self {
        match error {
            text::Error::TooLong { at_least, limit } => {
                Error::ContextLength { tokens: at_least, limit: limit + 1 }
            }
            text::Error::Template { .. } => Error::Invalid { param: "messages", message: error.to_string() },
            text::Error::Encode(_) => Error::Invalid { param: "prompt", message: error.to_string() },
            text::Error::Spec { .. } | text::Error::PreTokenizer(_) | text::Error::Json { .. } => {
                Error::Internal { detail: error.to_string() }
            }
        }
    }
}

/// All answers' deltas as they come, then the usage of all.
fn deltas(
    answers: Vec<Answer>,
    prompt_tokens: u32,
) -> impl futures::Stream<Item = Result<Delta, Error>> + Send + 'static {
    let each = answers.into_iter().map(|answer| Box::pin(stream::unfold(answer, Answer::step)));
    let total = Usage { prompt_tokens, ..Usage::default() };
    stream::select_all(each)
        .map(Some)
        .chain(stream::once(async { None }))
        .scan((total, false), |(total, failed), item| {
            let delta = match item {
                Some(Ok(Piece::Delta(delta))) => Some(Ok(delta)),
                Some(Ok(Piece::Usage(usage))) => {
                    total.completion_tokens = total.completion_tokens.saturating_add(usage.completion_tokens);
                    total.cached_tokens = total.cached_tokens.saturating_add(usage.cached_tokens);
                    None
                }
                Some(Err(error)) => {
                    *failed = true;
                    Some(Err(error))
                }
                None => (!*failed).then_some(Ok(Delta::Usage(*total))),
            };
            futures::future::ready(Some(delta))
        })
        .filter_map(futures::future::ready)
}

enum Piece {
    Delta(Delta),
    Usage(Usage),
}

/// One answer being written.
struct Answer {
    choice: u32,
    front: Arc<Front>,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    /// Closed by dropping it, which cancels the job.
    events: Option<mpsc::Receiver<Event<Llm>>>,
    ready: VecDeque<Piece>,
    generated: u32,
    /// Tokens of the prompt that did not have to be computed.
    cached: u32,
}

impl Answer {
    fn new(choice: u32, front: Arc<Front>, stop: &[String], events: mpsc::Receiver<Event<Llm>>) -> Self {
        Answer {
            choice,
            detokenizer: Detokenizer::new(&front.tokenizer, Lead::Strip),
            front,
            stop: StopMatcher::new(stop),
            events: Some(events),
            ready: VecDeque::new(),
            generated: 0,
            cached: 0,
        }
    }

    async fn step(mut self) -> Option<(Result<Piece, Error>, Answer)> {
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
        let Some(text) = self.detokenizer.push(&self.front.tokenizer, token) else { return };
        let (text, stopped) = self.stop.push(text);
        self.show(text);
        if stopped {
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
        if !text.is_empty() {
            self.ready.push_back(Piece::Delta(Delta::Text { choice: self.choice, text }));
        }
    }

    fn end(&mut self, reason: FinishReason, generated: u32) {
        self.ready.push_back(Piece::Delta(Delta::Finished { choice: self.choice, reason }));
        // Later answers find the prompt of the first one: what the request found is what that one did.
        let cached_tokens = if self.choice == 0 { self.cached } else { 0 };
        let usage = Usage { completion_tokens: generated, cached_tokens, ..Usage::default() };
        self.ready.push_back(Piece::Usage(usage));
        self.events = None;
    }
}
