//! vLLM's `POST /tokenize` and `POST /detokenize`.

use axum::extract::State as Extract;
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fields::{Asked, Bounded, MAX_MESSAGES, ModelName, refuse};
use super::messages::{self, ChatMessage};
use super::model;
use super::thinking::{TemplateOptions, thinking};
use super::tools::{self, WireChoice, WireTool, WireTools};
use crate::http::body::Json;
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::types::llm::{Prompt, Tokenize};

/// More than any model's context.
const MAX_TOKENS: usize = 1 << 20;

/// What to tokenise: a text as completions take it, or a conversation as chat takes it. Fields that are not listed are
/// ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// Id or alias of a chat model; may be left out where the server has a default.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<ModelName>,
    /// A text. Control tokens inside it stay text.
    #[serde(default)]
    prompt: Option<String>,
    /// Instead of `prompt`: a conversation, the oldest turn first.
    #[serde(default)]
    #[schema(value_type = Option<Vec<ChatMessage>>, max_items = 8192)]
    messages: Option<Bounded<ChatMessage, MAX_MESSAGES>>,
    /// For `prompt`: add the tokens that begin and end a text; true if absent. A conversation has them by its template.
    #[serde(default)]
    add_special_tokens: Option<bool>,
    /// For `messages`: end with what opens the assistant's turn; true if absent.
    #[serde(default)]
    add_generation_prompt: Option<bool>,
    /// Give each token's text too; false if absent.
    #[serde(default)]
    return_token_strs: Option<bool>,
    /// For `messages`: functions that the model may call.
    #[serde(default)]
    #[schema(value_type = Option<Vec<WireTool>>, max_items = 128)]
    tools: Option<WireTools>,
    /// For `messages`: what the model's chat template is told: `enable_thinking` alone.
    #[serde(default)]
    chat_template_kwargs: Option<TemplateOptions>,

    #[serde(default)]
    #[schema(ignore)]
    continue_final_message: Asked,
    #[serde(default)]
    #[schema(ignore)]
    chat_template: Asked,
}

/// The tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizeAnswer {
    count: usize,
    /// Positions a sequence of this model may have.
    max_model_len: usize,
    tokens: Vec<u32>,
    /// Each token's text, where asked for; bytes that are no UTF-8 are U+FFFD.
    token_strs: Option<Vec<String>>,
}

/// What to turn into text. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DetokenizeRequest {
    /// Id or alias of a chat model; may be left out where the server has a default.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<ModelName>,
    #[schema(value_type = Vec<u32>, max_items = 1048576)]
    tokens: Bounded<u32, MAX_TOKENS>,
}

/// The text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DetokenizeAnswer {
    /// With control tokens as their spelling.
    prompt: String,
}

impl TokenizeRequest {
    /// The request in the service's terms.
    pub(super) fn into_request(self, default: &Option<String>) -> Result<Tokenize, ApiError> {
        refuse(
            &[
                ("continue_final_message", &self.continue_final_message),
                ("chat_template", &self.chat_template),
            ],
            &[],
        )?;
        let prompt = match (self.prompt, self.messages) {
            (Some(text), None) => Prompt::Text(text),
            (None, Some(messages)) if messages.0.is_empty() => {
                return Err(ApiError::invalid("messages", "`messages` is empty; send at least one"));
            }
            (None, Some(messages)) => {
                let messages = messages.0.into_iter().enumerate().map(messages::message);
                Prompt::Chat(messages.collect::<Result<_, _>>()?)
            }
            _ => return Err(ApiError::invalid("prompt", "send one of `prompt` and `messages`")),
        };
        Ok(Tokenize {
            model: model(self.model, default)?,
            prompt,
            tools: tools::tools(self.tools, WireChoice::default(), None)?.list,
            thinking: thinking(None, None, self.chat_template_kwargs),
            add_generation_prompt: self.add_generation_prompt.unwrap_or(true),
            add_special_tokens: self.add_special_tokens.unwrap_or(true),
            texts: self.return_token_strs.unwrap_or(false),
        })
    }
}

/// Show the tokens of a text or a conversation, as the model would be given them.
#[utoipa::path(
    post,
    path = "/tokenize",
    operation_id = "tokenize",
    tag = "tokens",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens, at most 1048576; they may be more than the model's context", body = TokenizeAnswer),
        (status = "4XX", description = "The request is wrong", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn tokenize(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(body): Json<TokenizeRequest>,
) -> Result<Reply<TokenizeAnswer>, ApiError> {
    let request = body.into_request(&state.settings().default_chat)?;
    let found = state.backend().tokenize(ctx, request).await?;
    Ok(Reply(TokenizeAnswer {
        count: found.ids.len(),
        max_model_len: found.context,
        tokens: found.ids,
        token_strs: found.texts,
    }))
}

/// Show the text of tokens.
#[utoipa::path(
    post,
    path = "/detokenize",
    operation_id = "detokenize",
    tag = "tokens",
    request_body = DetokenizeRequest,
    responses(
        (status = 200, description = "The text", body = DetokenizeAnswer),
        (status = "4XX", description = "The request is wrong", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn detokenize(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(body): Json<DetokenizeRequest>,
) -> Result<Reply<DetokenizeAnswer>, ApiError> {
    let model = model(body.model, &state.settings().default_chat)?;
    let prompt = state.backend().detokenize(ctx, model, body.tokens.0).await?;
    Ok(Reply(DetokenizeAnswer { prompt }))
}
