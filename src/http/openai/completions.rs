//! `POST /v1/completions`: text continued as it is, without a chat template.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Reply};
use serde::Serialize;
use utoipa::ToSchema;

use super::described::TextOrTokens;
use super::fields::{Asked, Input, Inputs, refuse};
use super::generate::{Answers, Chunks, StreamOptions, events, reason};
use super::logprobs::TextLogprobs;
use super::shared::Wire;
use super::{Usage, new_id, now};
use crate::http::body::Json;
use crate::http::observe::{Deadline, ModelId};
use crate::http::{ApiError, State, sse};
use crate::service::Context;
use crate::types::llm::{FinishReason, Prompt, Request, TokenLogprobs, ToolStart};
use crate::types::{self};

/// Prompts of one request: each is a request to the model.
const MAX_PROMPTS: usize = 32;
/// OpenAI's default for this route, unlike chat's.
const DEFAULT_MAX_TOKENS: u64 = 16;

request! {
    /// Text to continue. Fields that are not listed are ignored.
    struct CompletionRequest {
        /// A string, a list of up to 32 strings, a list of token ids, or a list of such lists.
        #[schema(value_type = TextOrTokens)]
        prompt: Inputs,
        /// Send the answer as server-sent events while it is written.
        #[serde(default)]
        stream: Option<bool>,
        /// For `stream`.
        #[serde(default)]
        stream_options: Option<StreamOptions>,
        /// Upper limit of generated tokens, clamped to what the context leaves; 16 if absent.
        #[serde(default)]
        #[schema(minimum = 1)]
        max_tokens: Option<u64>,
        /// Say how likely the model found each token of the answer, and so many of the likeliest in its place; 0 to 5.
        #[serde(default)]
        #[schema(minimum = 0, maximum = 5)]
        logprobs: Option<u32>,

        /// Only what `n` is.
        #[serde(default)]
        best_of: Option<u32>,
        #[serde(default)]
        #[schema(ignore)]
        echo: Asked,
        #[serde(default)]
        #[schema(ignore)]
        suffix: Asked,
    }
}

/// The answers, or a piece of them in a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<CompletionChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

/// One answer, or a piece of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompletionChoice<'a> {
    index: u32,
    text: &'a str,
    /// Null where `logprobs` did not ask for them; in a stream, of the tokens that end in this piece.
    logprobs: Option<TextLogprobs>,
    /// `stop`, `length`, or null while the answer goes on.
    finish_reason: Option<&'static str>,
}

impl CompletionRequest {
    /// A request for every prompt, in the service's terms.
    pub(super) fn into_requests(mut self, default: &Option<String>) -> Result<Vec<Request>, ApiError> {
        refuse(&[("echo", &self.echo), ("suffix", &self.suffix)], &[])?;
        if self.best_of.is_some_and(|best| best != self.n.unwrap_or(1)) {
            let message = "`best_of` is not supported by this server; use `n`";
            return Err(ApiError::unsupported("best_of", message));
        }
        let count = self.prompt.0.len();
        if !(1..=MAX_PROMPTS).contains(&count) {
            let message = format!("`prompt` has {count} prompts; it must have from 1 to {MAX_PROMPTS}");
            return Err(ApiError::invalid("prompt", message));
        }
        let max_tokens = ("max_tokens", Some(self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)));
        let wire = Wire { max_tokens, ..self.wire() };
        let logprobs = TextLogprobs::asked(self.logprobs)?;
        let blank = Request { logprobs, ..wire.request(default, Prompt::Tokens(Vec::new()))? };
        let requests = self.prompt.0.into_iter().map(|input| Request {
            prompt: match input {
                Input::Text(text) => Prompt::Text(text),
                Input::Tokens(ids) => Prompt::Tokens(ids),
            },
            ..blank.clone()
        });
        Ok(requests.collect())
    }
}

/// What every chunk of a stream repeats.
struct Head {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
}

impl Head {
    fn chunk<'a>(&'a self, choice: Option<CompletionChoice<'a>>) -> Completion<'a> {
        Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices: choice.into_iter().collect(),
            usage: self.include_usage.then_some(None),
        }
    }
}

impl Chunks for Head {
    type Chunk<'a> = Completion<'a>;

    fn opening(&self, _index: u32) -> Option<Completion<'_>> {
        None
    }

    fn text<'a>(&'a self, index: u32, text: &'a str) -> Completion<'a> {
        self.chunk(Some(CompletionChoice { index, text, logprobs: None, finish_reason: None }))
    }

    /// Nothing is told apart here.
    fn reasoning<'a>(&'a self, index: u32, text: &'a str) -> Completion<'a> {
        self.text(index, text)
    }

    /// There are no tools here.
    fn call<'a>(
        &'a self,
        index: u32,
        _: u32,
        _: Option<&'a ToolStart>,
        arguments: &'a str,
    ) -> Completion<'a> {
        self.text(index, arguments)
    }

    fn finished(&self, index: u32, why: FinishReason) -> Completion<'_> {
        let finish_reason = Some(reason(why));
        self.chunk(Some(CompletionChoice { index, text: "", logprobs: None, finish_reason }))
    }

    fn add_logprobs(chunk: &mut Completion<'_>, tokens: Vec<TokenLogprobs>) {
        if let [choice] = &mut chunk.choices[..] {
            choice.logprobs = Some(TextLogprobs::new(tokens));
        }
    }

    fn usage(&self, usage: types::Usage) -> Completion<'_> {
        Completion { usage: Some(Some(usage.into())), ..self.chunk(None) }
    }
}

/// Continue text.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "createCompletion",
    tag = "chat",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answers; with `stream` an event stream of pieces that ends with `[DONE]`",
            content((Completion = "application/json"), (Completion = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Extension(deadline): Extension<Deadline>,
    Json(body): Json<CompletionRequest>,
) -> Result<Response, ApiError> {
    let stream = body.stream.unwrap_or(false);
    let include_usage = body.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    let requests = body.into_requests(&state.settings().default_chat)?;
    let scored = requests.iter().any(|request| request.logprobs.is_some());
    let answers =
        Answers::start(&state, &ctx, deadline, requests).await.map_err(|error| error.or_param("prompt"))?;
    let model = answers.model.clone();
    let head = Head { id: new_id("cmpl"), created: now(), model: model.clone(), include_usage };
    let mut response = if stream {
        sse::respond(&state, events(answers, head, include_usage, ctx.request_id))
    } else {
        let (mut answers, usage) = answers.collect().await?;
        let choices = (0u32..)
            .zip(&mut answers)
            .map(|(index, answer)| CompletionChoice {
                index,
                text: &answer.text,
                logprobs: scored.then(|| TextLogprobs::new(std::mem::take(&mut answer.logprobs))),
                finish_reason: Some(reason(answer.reason)),
            })
            .collect();
        Reply(Completion { choices, usage: Some(Some(usage.into())), ..head.chunk(None) }).into_response()
    };
    response.extensions_mut().insert(ModelId(model));
    Ok(response)
}
