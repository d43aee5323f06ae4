//! What chat and completions share of their answers: several generations as one, and their stream.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;

use futures::stream::{SelectAll, select_all};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::timeout_at;
use utoipa::ToSchema;

use super::tools::CallMade;
use crate::http::observe::Deadline;
use crate::http::{ApiError, State, sse};
use crate::service::{Context, Error};
use crate::types::Usage;
use crate::types::llm::{Delta, FinishReason, Request, TokenLogprobs, ToolStart};

/// Options of a stream.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Send one more chunk, without choices, that has the usage.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// OpenAI's word for why an answer ended.
pub(super) fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

/// A piece of one of the answers.
pub(super) enum Piece {
    /// The tokens that end in the text, thought or call which comes next, or in what came before.
    Logprobs {
        index: u32,
        tokens: Vec<TokenLogprobs>,
    },
    Text {
        index: u32,
        text: String,
    },
    /// More of what was thought before the answer.
    Reasoning {
        index: u32,
        text: String,
    },
    /// More of call `call`; its first piece has `start`.
    Call {
        index: u32,
        call: u32,
        start: Option<ToolStart>,
        arguments: String,
    },
    Finished {
        index: u32,
        reason: FinishReason,
    },
    /// Everything is complete; the last piece.
    Done(Usage),
}

/// One finished answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub text: String,
    pub reasoning: String,
    pub calls: Vec<CallMade>,
    /// Empty where they were not asked for.
    pub logprobs: Vec<TokenLogprobs>,
    pub reason: FinishReason,
}

type Numbered = Pin<Box<dyn Stream<Item = (u32, Result<Delta, Error>)> + Send>>;

/// The answers to one or more prompts, as they are written. Dropping it stops the work.
pub(super) struct Answers {
    pub model: String,
    deltas: SelectAll<Numbered>,
    /// Answers in all: prompts times `n`.
    count: u32,
    n: u32,
    /// Prompts whose usage has not arrived.
    open: usize,
    usage: Usage,
    deadline: Deadline,
    limit: std::time::Duration,
}

impl Answers {
    /// Hands every request to the service; they differ in their prompt alone.
    pub async fn start(
        state: &State,
        ctx: &Context,
        deadline: Deadline,
        requests: Vec<Request>,
    ) -> Result<Answers, ApiError> {
        // One key's users would put themselves before another's: they can only step back.
        if let Some(request) = requests.iter().find(|r| r.priority < 0 && ctx.key_id.is_some()) {
            let message = format!("`priority` is {}; with an API key it is at least 0", request.priority);
            return Err(ApiError::invalid("priority", message));
        }
        let n = requests.first().map_or(1, |request| request.n);
        let open = requests.len();
        let mut model = String::new();
        let mut streams: Vec<Numbered> = Vec::with_capacity(open);
        for (prompt, request) in (0u32..).zip(requests) {
            let generation = state.backend().generate(ctx.clone(), request).await?;
            model.clone_from(&generation.model);
            streams.push(Box::pin(generation.map(move |delta| (prompt, delta))));
        }
        Ok(Answers {
            model,
            deltas: select_all(streams),
            count: n.saturating_mul(u32::try_from(open).unwrap_or(u32::MAX)),
            n,
            open,
            usage: Usage::default(),
            deadline,
            limit: state.settings().request_timeout,
        })
    }

    /// The next piece.
    pub async fn next(&mut self) -> Result<Piece, ApiError> {
        loop {
            let delta = timeout_at(self.deadline.0, self.deltas.next())
                .await
                .map_err(|_| Error::Timeout { after: self.limit })?;
            let Some((prompt, delta)) = delta else {
                return Err(ApiError::internal("the answer ended without its usage"));
            };
            let index = |choice: u32| prompt.saturating_mul(self.n).saturating_add(choice);
            match delta? {
                Delta::Logprobs { choice, tokens } => {
                    return Ok(Piece::Logprobs { index: index(choice), tokens });
                }
                Delta::Text { choice, text } => return Ok(Piece::Text { index: index(choice), text }),
                Delta::Reasoning { choice, text } => {
                    return Ok(Piece::Reasoning { index: index(choice), text });
                }
                Delta::ToolCall { choice, call, start, arguments } => {
                    return Ok(Piece::Call { index: index(choice), call, start, arguments });
                }
                Delta::Finished { choice, reason } => {
                    return Ok(Piece::Finished { index: index(choice), reason });
                }
                Delta::Usage(usage) => {
                    self.usage.merge(usage);
                    self.open = self.open.saturating_sub(1);
                    if self.open == 0 {
                        return Ok(Piece::Done(self.usage));
                    }
                }
            }
        }
    }

    /// Waits for all of it.
    pub async fn collect(mut self) -> Result<(Vec<Answer>, Usage), ApiError> {
        let empty = Answer {
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            logprobs: Vec::new(),
            reason: FinishReason::Length,
        };
        let mut answers = vec![empty; self.count as usize];
        loop {
            match self.next().await? {
                Piece::Logprobs { index, tokens } => {
                    if let Some(answer) = answers.get_mut(index as usize) {
                        answer.logprobs.extend(tokens);
                    }
                }
                Piece::Text { index, text } => {
                    if let Some(answer) = answers.get_mut(index as usize) {
                        answer.text.push_str(&text);
                    }
                }
                Piece::Reasoning { index, text } => {
                    if let Some(answer) = answers.get_mut(index as usize) {
                        answer.reasoning.push_str(&text);
                    }
                }
                Piece::Call { index, call, start, arguments } => {
                    let Some(answer) = answers.get_mut(index as usize) else { continue };
                    match (start, answer.calls.get_mut(call as usize)) {
                        (Some(start), _) => answer.calls.push(CallMade::new(start, arguments)),
                        (None, Some(made)) => made.push(&arguments),
                        (None, None) => return Err(ApiError::internal("more of a call that has not begun")),
                    }
                }
                Piece::Finished { index, reason } => {
                    if let Some(answer) = answers.get_mut(index as usize) {
                        answer.reason = reason;
                    }
                }
                Piece::Done(usage) => return Ok((answers, usage)),
            }
        }
    }
}

/// How a dialect writes the events of a stream.
pub(super) trait Chunks: Send + 'static {
    type Chunk<'a>: Serialize
    where
        Self: 'a;

    /// What opens answer `index`, if anything.
    fn opening(&self, index: u32) -> Option<Self::Chunk<'_>>;
    fn text<'a>(&'a self, index: u32, text: &'a str) -> Self::Chunk<'a>;
    /// A piece of a thought. Dialects without a place for it are never asked.
    fn reasoning<'a>(&'a self, index: u32, text: &'a str) -> Self::Chunk<'a>;
    /// A piece of a call. Dialects without tools are never asked.
    fn call<'a>(
        &'a self,
        index: u32,
        call: u32,
        start: Option<&'a ToolStart>,
        arguments: &'a str,
    ) -> Self::Chunk<'a>;
    fn finished(&self, index: u32, reason: FinishReason) -> Self::Chunk<'_>;
    /// Puts log-probabilities into a chunk of the same answer.
    fn add_logprobs(chunk: &mut Self::Chunk<'_>, tokens: Vec<TokenLogprobs>);
    /// The chunk without choices.
    fn usage(&self, usage: Usage) -> Self::Chunk<'_>;
}

/// The events of a streamed answer: openings, text, ends, the usage if asked for, `[DONE]`. A failure is one
/// event with the error, and the end.
pub(super) fn events<C: Chunks>(
    answers: Answers,
    chunks: C,
    include_usage: bool,
    request_id: String,
) -> impl Stream<Item = String> + Send + 'static {
    let ready = (0..answers.count)
        .filter_map(|index| chunks.opening(index))
        .filter_map(|chunk| sse::json(&chunk).ok())
        .collect();
    let logprobs = HashMap::new();
    let writer = Writer { answers: Some(answers), chunks, include_usage, request_id, logprobs, ready };
    futures::stream::unfold(writer, |mut writer| async move {
        let event = writer.next().await?;
        Some((event, writer))
    })
}

struct Writer<C> {
    /// None when the stream is over.
    answers: Option<Answers>,
    chunks: C,
    include_usage: bool,
    request_id: String,
    /// By answer: those that go out with its next chunk.
    logprobs: HashMap<u32, Vec<TokenLogprobs>>,
    /// Events that are written and not sent; at most one opening an answer.
    ready: VecDeque<String>,
}

impl<C: Chunks> Writer<C> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let piece = self.answers.as_mut()?.next().await;
            if let Err(error) = piece.and_then(|piece| self.write(piece)) {
                self.answers = None;
                self.ready.clear();
                if let Some(detail) = &error.detail {
                    tracing::error!(request_id = self.request_id, detail, "stream failed");
                }
                return Some(error.to_json());
            }
        }
    }

    fn write(&mut self, piece: Piece) -> Result<(), ApiError> {
        let chunks = &self.chunks;
        let (index, mut chunk) = match &piece {
            Piece::Logprobs { index, tokens } => {
                self.logprobs.entry(*index).or_default().extend_from_slice(tokens);
                return Ok(());
            }
            Piece::Text { index, text } => (*index, chunks.text(*index, text)),
            Piece::Reasoning { index, text } => (*index, chunks.reasoning(*index, text)),
            Piece::Call { index, call, start, arguments } => {
                (*index, chunks.call(*index, *call, start.as_ref(), arguments))
            }
            Piece::Finished { index, reason } => (*index, chunks.finished(*index, *reason)),
            Piece::Done(usage) => {
                self.answers = None;
                if self.include_usage {
                    self.ready.push_back(sse::json(&chunks.usage(*usage))?);
                }
                self.ready.push_back(sse::DONE.to_owned());
                return Ok(());
            }
        };
        if let Some(tokens) = self.logprobs.remove(&index) {
            C::add_logprobs(&mut chunk, tokens);
        }
        self.ready.push_back(sse::json(&chunk)?);
        Ok(())
    }
}
