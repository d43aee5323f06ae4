//! What chat and completions share: checked sampling, several generations as one, and their stream.

use std::collections::VecDeque;
use std::pin::Pin;

use futures::stream::{SelectAll, select_all};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::timeout_at;
use utoipa::ToSchema;

use super::fields::{self, LogitBias, Stop};
use super::tools::CallMade;
use crate::http::observe::Deadline;
use crate::http::{ApiError, State, sse};
use crate::service::{Context, Error};
use crate::types::Usage;
use crate::types::llm::{Delta, FinishReason, Prompt, Request, Sampling, Thinking, ToolStart, Tools};

const MAX_N: u32 = 8;

/// The fields of requests that say how to sample, as they were sent.
#[derive(Default)]
pub(super) struct Wire {
    pub temperature: Option<f64>,
    pub top_k: Option<i64>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub logit_bias: Option<LogitBias>,
    pub seed: Option<i64>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    /// With the name of the field it came from.
    pub max_tokens: (&'static str, Option<u64>),
    pub stop: Option<Stop>,
    pub n: Option<u32>,
}

/// Options of a stream.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Send one more chunk, without choices, that has the usage.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

impl Wire {
    /// Checks the values and makes the request for `prompt`.
    pub fn request(self, model: String, prompt: Prompt) -> Result<Request, ApiError> {
        let n = self.n.unwrap_or(1);
        if !(1..=MAX_N).contains(&n) {
            return Err(ApiError::invalid("n", format!("`n` is {n}; it must be from 1 to {MAX_N}")));
        }
        let (name, max_tokens) = self.max_tokens;
        if max_tokens == Some(0) {
            return Err(ApiError::invalid(name, format!("`{name}` is 0; it must be at least 1")));
        }
        let top_k = match self.top_k {
            None | Some(-1 | 0) => None,
            Some(k) => Some(u32::try_from(k).map_err(|_| {
                ApiError::invalid("top_k", format!("`top_k` is {k}; it must be from -1 to {}", u32::MAX))
            })?),
        };
        let top_p = fields::within("top_p", self.top_p, (0.0, 1.0), 1.0)?;
        let sampling = Sampling {
            temperature: fields::within("temperature", self.temperature, (0.0, 2.0), 1.0)?,
            // A nucleus of nothing is the one most likely token.
            top_p: top_p.max(f32::MIN_POSITIVE),
            top_k,
            min_p: fields::within("min_p", self.min_p, (0.0, 1.0), 0.0)?,
            repetition_penalty: fields::within(
                "repetition_penalty",
                self.repetition_penalty,
                (0.01, 10.0),
                1.0,
            )?,
            logit_bias: self.logit_bias.unwrap_or_default().0,
            // Negative seeds are seeds like any other: the same bits each time.
            seed: self.seed.map(i64::cast_unsigned),
            frequency_penalty: fields::within("frequency_penalty", self.frequency_penalty, (-2.0, 2.0), 0.0)?,
            presence_penalty: fields::within("presence_penalty", self.presence_penalty, (-2.0, 2.0), 0.0)?,
        };
        Ok(Request {
            model,
            prompt,
            sampling,
            max_tokens: max_tokens.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
            stop: self.stop.unwrap_or_default().0,
            n,
            constraint: None,
            tools: Tools::default(),
            thinking: Thinking::default(),
        })
    }
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
            reason: FinishReason::Length,
        };
        let mut answers = vec![empty; self.count as usize];
        loop {
            match self.next().await? {
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
    let writer = Writer { answers: Some(answers), chunks, include_usage, request_id, ready };
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
    /// Events that are written and not sent; at most one opening an answer.
    ready: VecDeque<String>,
}

impl<C: Chunks> Writer<C> {
    async fn next(&mut self) -> Option<String> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        let piece = self.answers.as_mut()?.next().await;
        match piece.and_then(|piece| self.write(piece)) {
            Ok(event) => Some(event),
            Err(error) => {
                self.answers = None;
                self.ready.clear();
                if let Some(detail) = &error.detail {
                    tracing::error!(request_id = self.request_id, detail, "stream failed");
                }
                Some(error.to_json())
            }
        }
    }

    fn write(&mut self, piece: Piece) -> Result<String, ApiError> {
        match piece {
            Piece::Text { index, text } => sse::json(&self.chunks.text(index, &text)),
            Piece::Reasoning { index, text } => sse::json(&self.chunks.reasoning(index, &text)),
            Piece::Call { index, call, start, arguments } => {
                sse::json(&self.chunks.call(index, call, start.as_ref(), &arguments))
            }
            Piece::Finished { index, reason } => sse::json(&self.chunks.finished(index, reason)),
            Piece::Done(usage) => {
                self.answers = None;
                if !self.include_usage {
                    return Ok(sse::DONE.to_owned());
                }
                self.ready.push_back(sse::DONE.to_owned());
                sse::json(&self.chunks.usage(usage))
            }
        }
    }
}
