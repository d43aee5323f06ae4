//! OpenAI's dialect: the wire forms of chat, completions, responses, embeddings, speech recognition and models, and
//! vLLM's calls and Cohere's rerankings beside them.

#[macro_use]
mod shared;

pub(super) mod audio;
pub(super) mod chat;
pub(super) mod completions;
mod described;
pub(super) mod embeddings;
mod fields;
pub(super) mod files;
mod format;
mod generate;
mod logprobs;
mod messages;
pub(super) mod models;
pub(super) mod page;
pub(super) mod rerank;
pub(super) mod responses;
#[cfg(test)]
mod tests;
mod thinking;
pub(super) mod tokenize;
mod tools;
pub(super) mod vector_stores;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use utoipa::ToSchema;

use super::ApiError;
use crate::types;

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokens,
    /// Only of models that think.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionTokens>,
}

/// What the generated tokens were for.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct CompletionTokens {
    /// Tokens that were thought, not answered.
    reasoning_tokens: u32,
}

/// Where the prompt's tokens came from.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct PromptTokens {
    /// Tokens that were taken from an earlier request's work.
    cached_tokens: u32,
}

impl From<types::Usage> for Usage {
    fn from(usage: types::Usage) -> Usage {
        Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total(),
            prompt_tokens_details: PromptTokens { cached_tokens: usage.cached_tokens },
            completion_tokens_details: (usage.reasoning_tokens > 0)
                .then_some(CompletionTokens { reasoning_tokens: usage.reasoning_tokens }),
        }
    }
}

/// Unix seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// An id that no other answer has.
fn new_id(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

/// The model a request names, else the configured one.
fn model(named: Option<fields::ModelName>, default: &Option<String>) -> Result<String, ApiError> {
    named
        .map(|name| name.0)
        .or_else(|| default.clone())
        .ok_or_else(|| ApiError::invalid("model", "`model` is missing: name one of those in /v1/models"))
}
