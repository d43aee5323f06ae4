//! The turns of a conversation, as they are sent.

use serde::Deserialize;
use utoipa::ToSchema;

use super::described::MessageContent;
use super::fields::{Asked, Content, refuse};
use super::tools::{self, WireCall, WireCalls};
use crate::http::ApiError;
use crate::types::llm::{Message, Role};

/// One turn.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatMessage {
    role: WireRole,
    /// Text, or a list of `{"type": "text", "text": ...}`. Only an assistant's may be left out.
    #[serde(default)]
    #[schema(value_type = Option<MessageContent>)]
    content: Content,
    /// What an assistant's turn called.
    #[serde(default)]
    #[schema(value_type = Option<Vec<WireCall>>, max_items = 128)]
    tool_calls: Option<WireCalls>,
    /// Which call a tool's turn answers.
    #[serde(default)]
    tool_call_id: Option<String>,
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

/// A turn in the service's terms; `at` is its place.
pub(super) fn message((at, message): (usize, ChatMessage)) -> Result<Message, ApiError> {
    refuse(&[("messages.function_call", &message.function_call)], &[])?;
    let role = match message.role {
        WireRole::System | WireRole::Developer => Role::System,
        WireRole::User => Role::User,
        WireRole::Assistant => Role::Assistant,
        WireRole::Tool => Role::Tool,
    };
    let wrong = |field: &str, what: &str| {
        let param = format!("messages[{at}].{field}");
        let text = format!("`{param}` {what}");
        Err(ApiError::invalid(param, text))
    };
    let tool_calls = tools::calls(at, message.tool_calls)?;
    if role != Role::Assistant && !tool_calls.is_empty() {
        return wrong("tool_calls", "can stand in an assistant's turn only");
    }
    let tool_call_id = message.tool_call_id.filter(|_| role == Role::Tool);
    if let Some(id) = &tool_call_id {
        tools::check_id(format!("messages[{at}].tool_call_id"), id)?;
    }
    let content = match message.content.0 {
        Some(content) => content,
        None if role == Role::Assistant => String::new(),
        None => return wrong("content", "is missing"),
    };
    Ok(Message { role, content, tool_calls, tool_call_id })
}
