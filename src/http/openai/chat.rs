//! `POST /v1/chat/completions`.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::described::{MessageContent, StringOrList};
use super::fields::{Asked, Bounded, Content, LogitBias, MAX_MESSAGES, ModelName, Stop, refuse};
use super::generate::{Answers, Chunks, StreamOptions, Wire, events, reason};
use super::{Usage, model, new_id, now};
use crate::http::body::Json;
use crate::http::observe::{Deadline, ModelId};
use crate::http::{ApiError, State, sse};
use crate::service::Context;
use crate::types::llm::{FinishReason, Message, Prompt, Request, Role};
use crate::types::{self};

/// A conversation to continue. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatRequest {
    /// Id or alias of a chat model; may be left out where the server has a default.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<ModelName>,
    /// The turns so far, the oldest first.
    #[schema(value_type = Vec<ChatMessage>, min_items = 1, max_items = 8192)]
    messages: Bounded<ChatMessage, MAX_MESSAGES>,
    /// Send the answer as server-sent events while it is written.
    #[serde(default)]
    stream: Option<bool>,
    /// For `stream`.
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    /// Up to 16 strings that end the answer; a string or a list of strings.
    #[serde(default)]
    #[schema(value_type = Option<StringOrList>)]
    stop: Option<Stop>,
    /// 0 (greedy) to 2; 1 if absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// 0 to 1; 1 if absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// The likeliest tokens to choose from; 0 or -1, or absent: all.
    #[serde(default)]
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    /// Least probability of a token, as a share of the likeliest one's; 0 if absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    /// Above 1: what was said already, in prompt or answer, becomes less likely. 0.01 to 10; 1 if absent.
    #[serde(default)]
    #[schema(minimum = 0.01, maximum = 10)]
    repetition_penalty: Option<f64>,
    /// From token ids to what is added to their logits, -100 to 100; up to 1024.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, f64>>)]
    logit_bias: Option<LogitBias>,
    /// The same seed and prompt give the same text.
    #[serde(default)]
    seed: Option<i64>,
    /// Upper limit of generated tokens, clamped to what the context leaves.
    #[serde(default)]
    #[schema(minimum = 1)]
    max_tokens: Option<u64>,
    /// As `max_tokens`, and preferred to it.
    #[serde(default)]
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u64>,
    /// How many answers, 1 to 8.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 8)]
    n: Option<u32>,
    /// -2 to 2.
    #[serde(default)]
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    /// -2 to 2.
    #[serde(default)]
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,

    #[serde(default)]
    #[schema(ignore)]
    tools: Asked,
    #[serde(default)]
    #[schema(ignore)]
    tool_choice: Asked,
    #[serde(default)]
    #[schema(ignore)]
    functions: Asked,
    #[serde(default)]
    #[schema(ignore)]
    function_call: Asked,
    #[serde(default)]
    #[schema(ignore)]
    logprobs: Asked,
    #[serde(default)]
    #[schema(ignore)]
    top_logprobs: Asked,
    #[serde(default)]
    #[schema(ignore)]
    audio: Asked,
}

/// One turn.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatMessage {
    role: WireRole,
    /// Text, or a list of `{"type": "text", "text": ...}`. Only an assistant's may be left out.
    #[serde(default)]
    #[schema(value_type = Option<MessageContent>)]
    content: Content,
    #[serde(default)]
    #[schema(ignore)]
    tool_calls: Asked,
    #[serde(default)]
    #[schema(ignore)]
    function_call: Asked,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WireRole {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

/// The form of the answer: only `{"type": "text"}`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponseFormat {
    r#type: String,
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
    /// Always null: token probabilities are not offered.
    logprobs: Option<bool>,
    /// `stop` or `length`.
    finish_reason: &'static str,
}

/// The assistant's turn.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answered {
    role: &'static str,
    content: String,
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
    logprobs: Option<bool>,
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
}

impl ChatRequest {
    fn check_unsupported(&self) -> Result<(), ApiError> {
        refuse(
            &[
                ("tools", &self.tools),
                ("tool_choice", &self.tool_choice),
                ("functions", &self.functions),
                ("function_call", &self.function_call),
                ("logprobs", &self.logprobs),
                ("top_logprobs", &self.top_logprobs),
                ("audio", &self.audio),
            ],
            &["none", "auto"],
        )?;
        match &self.response_format {
            Some(format) if format.r#type != "text" => Err(ApiError::unsupported(
                "response_format",
                "`response_format` can only be {\"type\": \"text\"} on this server",
            )),
            _ => Ok(()),
        }
    }

    /// The request in the service's terms.
    pub(super) fn into_request(self, default: &Option<String>) -> Result<Request, ApiError> {
        self.check_unsupported()?;
        if self.messages.0.is_empty() {
            return Err(ApiError::invalid("messages", "`messages` is empty; send at least one"));
        }
        let messages = self.messages.0.into_iter().enumerate().map(message).collect::<Result<Vec<_>, _>>()?;
        let max_tokens = match self.max_completion_tokens {
            Some(max) => ("max_completion_tokens", Some(max)),
            None => ("max_tokens", self.max_tokens),
        };
        let wire = Wire {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            logit_bias: self.logit_bias,
            seed: self.seed,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            max_tokens,
            stop: self.stop,
            n: self.n,
        };
        wire.request(model(self.model, default)?, Prompt::Chat(messages))
    }
}

fn message((at, message): (usize, ChatMessage)) -> Result<Message, ApiError> {
    for (name, asked) in [("tool_calls", &message.tool_calls), ("function_call", &message.function_call)] {
        if *asked != Asked::Nothing {
            let param = format!("messages[{at}].{name}");
            let text = format!("`{param}` is not supported by this server");
            return Err(ApiError::unsupported(param, text));
        }
    }
    let role = match message.role {
        WireRole::System | WireRole::Developer => Role::System,
        WireRole::User => Role::User,
        WireRole::Assistant => Role::Assistant,
        WireRole::Tool => Role::Tool,
    };
    match message.content.0 {
        Some(content) => Ok(Message { role, content }),
        None if role == Role::Assistant => Ok(Message { role, content: String::new() }),
        None => {
            let param = format!("messages[{at}].content");
            let text = format!("`{param}` is missing");
            Err(ApiError::invalid(param, text))
        }
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
        Some(self.chunk(index, ChunkDelta { role: Some("assistant"), content: Some("") }, None))
    }

    fn text<'a>(&'a self, index: u32, text: &'a str) -> ChatCompletionChunk<'a> {
        self.chunk(index, ChunkDelta { role: None, content: Some(text) }, None)
    }

    fn finished(&self, index: u32, why: FinishReason) -> ChatCompletionChunk<'_> {
        self.chunk(index, ChunkDelta::default(), Some(reason(why)))
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
                message: Answered { role: "assistant", content: answer.text, refusal: None },
                logprobs: None,
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
