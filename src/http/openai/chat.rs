//! `POST /v1/chat/completions`.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Reply};
use serde::Serialize;
use utoipa::ToSchema;

use super::described::ToolChoiceForm;
use super::fields::{Asked, Bounded, MAX_MESSAGES, refuse};
use super::format::ResponseFormat;
use super::generate::{Answers, Chunks, StreamOptions, events, reason};
use super::logprobs::ChatLogprobs;
use super::messages::{ChatMessage, message};
use super::shared::Wire;
use super::thinking::{Effort, TemplateOptions, thinking};
use super::tools::{self, CallDelta, CallMade, WireChoice, WireTool, WireTools};
use super::{Usage, new_id, now};
use crate::http::body::Json;
use crate::http::observe::{Deadline, ModelId};
use crate::http::{ApiError, State, sse};
use crate::service::Context;
use crate::types::llm::{FinishReason, Prompt, Request, TokenLogprobs, ToolStart};
use crate::types::{self};

request! {
    /// A conversation to continue. Fields that are not listed are ignored.
    struct ChatRequest {
        /// The turns so far, the oldest first.
        #[schema(value_type = Vec<ChatMessage>, min_items = 1, max_items = 8192)]
        messages: Bounded<ChatMessage, MAX_MESSAGES>,
        /// Send the answer as server-sent events while it is written.
        #[serde(default)]
        stream: Option<bool>,
        /// For `stream`.
        #[serde(default)]
        stream_options: Option<StreamOptions>,
        /// Upper limit of generated tokens, clamped to what the context leaves.
        #[serde(default)]
        #[schema(minimum = 1)]
        max_tokens: Option<u64>,
        /// As `max_tokens`, and preferred to it.
        #[serde(default)]
        #[schema(minimum = 1)]
        max_completion_tokens: Option<u64>,
        /// The form of the answer.
        #[serde(default)]
        response_format: Option<ResponseFormat>,
        /// Say how likely the model found each token of the answer.
        #[serde(default)]
        logprobs: Option<bool>,
        /// With `logprobs`: how many of the likeliest tokens to report in each place, 0 to 20; 0 if absent.
        #[serde(default)]
        #[schema(minimum = 0, maximum = 20)]
        top_logprobs: Option<u32>,

        /// Functions that the model may call.
        #[serde(default)]
        #[schema(value_type = Option<Vec<WireTool>>, max_items = 128)]
        tools: Option<WireTools>,
        /// `none`, `auto` (if absent), `required`, or a function by name. The last two are enforced.
        #[serde(default)]
        #[schema(value_type = Option<ToolChoiceForm>)]
        tool_choice: WireChoice,
        /// Whether one answer may make several calls; true if absent.
        #[serde(default)]
        parallel_tool_calls: Option<bool>,
        /// For models that think: tokens after which thinking is closed.
        #[serde(default)]
        thinking_budget: Option<u32>,
        /// `none`, `minimal` (256 tokens), `low` (1024), `medium` (4096), or `high`, `xhigh`, `max` (no bound). `thinking_budget` goes over it.
        #[serde(default)]
        reasoning_effort: Option<Effort>,
        /// What the model's chat template is told: `enable_thinking` alone.
        #[serde(default)]
        chat_template_kwargs: Option<TemplateOptions>,

        #[serde(default)]
        #[schema(ignore)]
        functions: Asked,
        #[serde(default)]
        #[schema(ignore)]
        function_call: Asked,
        #[serde(default)]
        #[schema(ignore)]
        audio: Asked,
    }
}

/// The answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    usage: Usage,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    index: u32,
    message: Answered,
    /// Null where `logprobs` did not ask for them.
    logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    finish_reason: &'static str,
}

/// The assistant's turn.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answered {
    role: &'static str,
    /// Null where the answer is calls alone.
    content: Option<String>,
    /// What the model thought before it answered; only of models that think.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallMade>,
    /// Always null: this server does not refuse on its own.
    refusal: Option<bool>,
}

/// A piece of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletionChunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice<'a>>,
    /// Only with `stream_options.include_usage`: null, but in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

/// A piece of one answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChunkChoice<'a> {
    index: u32,
    delta: ChunkDelta<'a>,
    /// Of the tokens that end in this piece.
    logprobs: Option<ChatLogprobs>,
    /// Null, but in the answer's last piece.
    finish_reason: Option<&'static str>,
}

/// What the piece adds.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
}

impl ChatRequest {
    fn check_unsupported(&self) -> Result<(), ApiError> {
        refuse(
            &[("functions", &self.functions), ("function_call", &self.function_call), ("audio", &self.audio)],
            &["none", "auto"],
        )
    }

    /// The request in the service's terms.
    pub(super) fn into_request(mut self, default: &Option<String>) -> Result<Request, ApiError> {
        self.check_unsupported()?;
        if self.messages.0.is_empty() {
            return Err(ApiError::invalid("messages", "`messages` is empty; send at least one"));
        }
        let messages = std::mem::take(&mut self.messages.0)
            .into_iter()
            .enumerate()
            .map(message)
            .collect::<Result<Vec<_>, _>>()?;
        let max_tokens = match self.max_completion_tokens {
            Some(max) => ("max_completion_tokens", Some(max)),
            None => ("max_tokens", self.max_tokens),
        };
        let wire = Wire { max_tokens, response_format: self.response_format.take(), ..self.wire() };
        let logprobs = ChatLogprobs::asked(self.logprobs, self.top_logprobs)?;
        let tools = tools::tools(self.tools, self.tool_choice, self.parallel_tool_calls)?;
        let thinking = thinking(self.thinking_budget, self.reasoning_effort, self.chat_template_kwargs);
        Ok(Request { tools, thinking, logprobs, ..wire.request(default, Prompt::Chat(messages))? })
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
    fn chunk<'a>(
        &'a self,
        index: u32,
        delta: ChunkDelta<'a>,
        finish_reason: Option<&'static str>,
    ) -> ChatCompletionChunk<'a> {
        ChatCompletionChunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices: vec![ChunkChoice { index, delta, logprobs: None, finish_reason }],
            usage: self.include_usage.then_some(None),
        }
    }
}

impl Chunks for Head {
    type Chunk<'a> = ChatCompletionChunk<'a>;

    fn opening(&self, index: u32) -> Option<ChatCompletionChunk<'_>> {
        Some(self.chunk(
            index,
            ChunkDelta { role: Some("assistant"), content: Some(""), ..ChunkDelta::default() },
            None,
        ))
    }

    fn text<'a>(&'a self, index: u32, text: &'a str) -> ChatCompletionChunk<'a> {
        self.chunk(index, ChunkDelta { content: Some(text), ..ChunkDelta::default() }, None)
    }

    fn reasoning<'a>(&'a self, index: u32, text: &'a str) -> ChatCompletionChunk<'a> {
        self.chunk(index, ChunkDelta { reasoning_content: Some(text), ..ChunkDelta::default() }, None)
    }

    fn call<'a>(
        &'a self,
        index: u32,
        call: u32,
        start: Option<&'a ToolStart>,
        arguments: &'a str,
    ) -> ChatCompletionChunk<'a> {
        let tool_calls = Some([CallDelta::new(call, start, arguments)]);
        self.chunk(index, ChunkDelta { tool_calls, ..ChunkDelta::default() }, None)
    }

    fn finished(&self, index: u32, why: FinishReason) -> ChatCompletionChunk<'_> {
        self.chunk(index, ChunkDelta::default(), Some(reason(why)))
    }

    fn add_logprobs(chunk: &mut ChatCompletionChunk<'_>, tokens: Vec<TokenLogprobs>) {
        if let [choice] = &mut chunk.choices[..] {
            choice.logprobs = Some(ChatLogprobs::new(tokens));
        }
    }

    fn usage(&self, usage: types::Usage) -> ChatCompletionChunk<'_> {
        ChatCompletionChunk {
            choices: Vec::new(),
            usage: Some(Some(usage.into())),
            ..self.chunk(0, ChunkDelta::default(), None)
        }
    }
}

/// Continue a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "createChatCompletion",
    tag = "chat",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answers; with `stream` an event stream of chunks that ends with `[DONE]`",
            content((ChatCompletion = "application/json"), (ChatCompletionChunk = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Extension(deadline): Extension<Deadline>,
    Json(body): Json<ChatRequest>,
) -> Result<Response, ApiError> {
    let stream = body.stream.unwrap_or(false);
    let include_usage = body.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    let request = body.into_request(&state.settings().default_chat)?;
    let scored = request.logprobs.is_some();
    let answers = Answers::start(&state, &ctx, deadline, vec![request])
        .await
        .map_err(|error| error.or_param("messages"))?;
    let model = answers.model.clone();
    let (id, created) = (new_id("chatcmpl"), now());
    let mut response = if stream {
        let head = Head { id, created, model: model.clone(), include_usage };
        sse::respond(&state, events(answers, head, include_usage, ctx.request_id))
    } else {
        let (answers, usage) = answers.collect().await?;
        let choices = (0u32..)
            .zip(answers)
            .map(|(index, answer)| ChatChoice {
                index,
                message: Answered {
                    role: "assistant",
                    content: Some(answer.text).filter(|text| !text.is_empty() || answer.calls.is_empty()),
                    reasoning_content: Some(answer.reasoning).filter(|text| !text.is_empty()),
                    tool_calls: answer.calls,
                    refusal: None,
                },
                logprobs: scored.then(|| ChatLogprobs::new(answer.logprobs)),
                finish_reason: reason(answer.reason),
            })
            .collect();
        let object = "chat.completion";
        let usage = usage.into();
        Reply(ChatCompletion { id, object, created, model: model.clone(), choices, usage }).into_response()
    };
    response.extensions_mut().insert(ModelId(model));
    Ok(response)
}
