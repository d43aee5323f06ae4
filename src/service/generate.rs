//! Text generation: prompt to tokens, tokens to text.

use std::sync::Arc;

use futures::{StreamExt, stream};
use time::OffsetDateTime;

use super::answer::{Answer, Calls, Piece, Reading};
use super::resolve::joined;
use super::{Context, Error, Generation, Service};
use crate::engine::lane::llm::{Input, Satisfied};
use crate::model::llm::grammar::Matcher;
use crate::model::llm::guide::{self, Guide};
use crate::model::llm::{Front, Llm};
use crate::text::think::{TAGS, ThinkStream};
use crate::text::tools::{CallStream, MISTRAL, PYTHON_TAG};
use crate::text::{self, RenderOptions, Special};
use crate::types::Usage;
use crate::types::llm::{CallFormat, Constraint, Delta, Prompt, Request, Thinking, Tool, ToolChoice, Tools};

impl Service {
    /// Starts to generate text.
    pub async fn generate(&self, ctx: Context, request: Request) -> Result<Generation, Error> {
        let handle = self.model::<Llm>(&ctx, &request.model).await?;
        let front = handle.front().clone();
        let tools = match request.tools.choice {
            ToolChoice::None => Tools::default(),
            _ => request.tools,
        };
        let asked = asked(&front, request.constraint, &tools)?;
        // A prompt can be millions of characters: not on a thread that serves sockets.
        let (prompt, tools, is_chat) = {
            let front = front.clone();
            let (is_chat, prompt) = (matches!(request.prompt, Prompt::Chat(_)), request.prompt);
            let thinking = request.thinking;
            let encode = move || (tokenize(&front, &prompt, &tools.list, thinking), tools);
            let (prompt, tools) = joined(tokio::task::spawn_blocking(encode).await)?;
            (prompt?, tools, is_chat)
        };
        let biased = request.sampling.logit_bias.iter().map(|b| b.0);
        check_vocabulary(&front, "logit_bias", biased)?;
        check_vocabulary(&front, "stop_token_ids", request.stop_tokens.iter().copied())?;
        if let Some((param, _)) = asked.as_ref().filter(|_| request.ignore_eos) {
            let message = format!("`ignore_eos` cannot be kept where `{param}` says what the answer may be");
            return Err(Error::Invalid { param: "ignore_eos", message });
        }
        let matcher = match asked {
            Some((param, constraint)) => Some(self.matcher(&front, param, constraint).await?),
            None => None,
        };
        let thinking = if is_chat { thinking(&front, &prompt, request.thinking) } else { None };
        let guide = Guide::new(thinking.clone(), matcher);
        let room = front.context.saturating_sub(prompt.len());
        let max_new = request.max_tokens.map_or(room, |max| (max as usize).min(room)).max(1);
        let first_seed = request.sampling.seed.unwrap_or_else(rand::random);
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let mut answers = Vec::with_capacity(request.n as usize);
        for choice in 0..request.n.max(1) {
            let satisfied = Satisfied::default();
            let input = Input {
                prompt: prompt.clone(),
                max_new,
                sampling: request.sampling.clone(),
                seed: first_seed.wrapping_add(u64::from(choice)),
                ignore_stop: request.ignore_eos,
                stop: request.stop_tokens.clone(),
                min_new: request.min_tokens as usize,
                guide: guide.clone(),
                logprobs: request.logprobs,
                priority: request.priority,
                satisfied: satisfied.clone(),
            };
            let events = handle.submit(input, Some(self.options.timeout))?;
            let reading = reading(&front, &tools, thinking.as_ref());
            answers.push(Answer::new(choice, front.clone(), &request.stop, reading, events, satisfied));
        }
        let model = handle.id().to_owned();
        Ok(Generation::new(model, deltas(answers, prompt_tokens)))
    }

    /// Compiles the form of the answer that the field `param` asks for. A few at a time: each takes a core and
    /// memory.
    async fn matcher(
        &self,
        front: &Arc<Front>,
        param: &'static str,
        constraint: Constraint,
    ) -> Result<Matcher, Error> {
        let turn = self.grammars.clone().acquire_owned().await;
        let front = front.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            front.grammars.compile(&front.tokenizer, &constraint)
        });
        joined(compiled.await)?
            .map_err(|error| Error::Invalid { param, message: format!("`{param}`: {error}") })
    }
}

/// The form that the answer is to have, and the field that asks for it.
fn asked(
    front: &Front,
    form: Option<(&'static str, Constraint)>,
    tools: &Tools,
) -> Result<Option<(&'static str, Constraint)>, Error> {
    if tools.list.is_empty() {
        return Ok(form);
    }
    if let Some((param, _)) = form {
        let message = format!(
            "`{param}` cannot be kept where the model may call tools; leave one out, or send `tool_choice`: `none`"
        );
        return Err(Error::Invalid { param, message });
    }
    let list: Vec<Tool> = match &tools.choice {
        ToolChoice::None | ToolChoice::Auto => return Ok(None),
        ToolChoice::Required => tools.list.clone(),
        ToolChoice::Named(name) => tools.list.iter().filter(|tool| tool.name == *name).cloned().collect(),
    };
    let format = format(front);
    // A named tool is called once.
    let parallel = tools.parallel && tools.choice == ToolChoice::Required;
    let opener = control(front, MISTRAL).filter(|_| format == CallFormat::Mistral);
    Ok(Some(("tools", Constraint::Calls { format, tools: list, parallel, opener })))
}

/// How this model writes calls. One that is not told of tools by its template is told to write them in Hermes' form.
fn format(front: &Front) -> CallFormat {
    front.template.calls().unwrap_or(CallFormat::Hermes)
}

/// The one token that this text is, where it is one of a kind of its own.
fn mark(front: &Front, text: &str) -> Option<u32> {
    match front.tokenizer.encode(text, Special::Parse, false)[..] {
        [id] => Some(id),
        _ => None,
    }
}

/// The control token of this name.
fn control(front: &Front, name: &str) -> Option<u32> {
    mark(front, name).filter(|&id| front.tokenizer.piece(id).is_empty())
}

/// How this model thinks; `None` where it does not: its template must know of the tags, and each must be one token.
fn thinking(front: &Front, prompt: &[u32], asked: Thinking) -> Option<guide::Thinking> {
    if !front.template.thinks() {
        return None;
    }
    let marks = (mark(front, TAGS.0)?, mark(front, TAGS.1)?);
    let blank = |id: u32| {
        let piece = front.tokenizer.piece(id);
        !piece.is_empty() && piece.iter().all(u8::is_ascii_whitespace)
    };
    // A message cannot write here: the template has the last word before an answer.
    let last = prompt.iter().rev().copied().find(|&id| !blank(id))?;
    if last == marks.1 {
        // It has been told not to.
        return None;
    }
    Some(guide::Thinking { marks, open: last == marks.0, budget: asked.budget })
}

/// What reads the text of one answer.
fn reading(front: &Front, tools: &Tools, thinking: Option<&guide::Thinking>) -> Reading {
    let names = match (thinking.is_some(), tools.list.is_empty()) {
        (false, true) => return Reading::default(),
        (true, true) => vec![TAGS.0, TAGS.1],
        (false, false) => vec![MISTRAL, PYTHON_TAG],
        (true, false) => vec![TAGS.0, TAGS.1, MISTRAL, PYTHON_TAG],
    };
    let format = format(front);
    let calls = || Calls {
        stream: CallStream::new(format, tools.list.iter().map(|tool| tool.name.clone()).collect()),
        short_ids: format == CallFormat::Mistral,
        parallel: tools.parallel,
    };
    Reading {
        thinking: thinking.map(|thinking| ThinkStream::new(thinking.open)),
        calls: (!tools.list.is_empty()).then(calls),
        marks: names.into_iter().filter_map(|name| Some((control(front, name)?, name))).collect(),
    }
}

/// The prompt's tokens; at least one, and fewer than the context.
fn tokenize(front: &Front, prompt: &Prompt, tools: &[Tool], thinking: Thinking) -> Result<Vec<u32>, Error> {
    let limit = front.context.saturating_sub(1);
    let tokens = match prompt {
        Prompt::Chat(messages) => {
            let now = OffsetDateTime::now_utc();
            let options =
                RenderOptions { tools, enable_thinking: thinking.enabled, add_generation_prompt: true, now };
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

pub(super) fn check_vocabulary(
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
                    total.reasoning_tokens = total.reasoning_tokens.saturating_add(usage.reasoning_tokens);
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

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
