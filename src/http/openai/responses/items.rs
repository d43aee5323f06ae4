//! The items of a conversation: as they are answered and kept, and as turns for a model.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::search::{Annotation, SearchResult};
use crate::http::ApiError;
use crate::types::llm::{self, Message, ToolCall};

/// An item of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseItem)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Item {
    /// Something said.
    Message { id: String, role: Role, status: Status, content: Vec<Part> },
    /// A call that the model made; `arguments` is JSON as it wrote it.
    FunctionCall { id: String, call_id: String, name: String, arguments: String, status: Status },
    /// What a call gave.
    FunctionCallOutput { id: String, call_id: String, output: String, status: Status },
    /// A search of files for the tool `file_search`; `results` only where `include` asks for them.
    FileSearchCall {
        id: String,
        status: Status,
        queries: Vec<String>,
        #[serde(default)]
        results: Option<Vec<SearchResult>>,
    },
    /// What the model thought. There are no summaries: the thoughts themselves are `content`.
    Reasoning { id: String, summary: Vec<Part>, content: Vec<Part>, status: Status },
}

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseRole)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    User,
    Assistant,
    System,
    Developer,
}

/// How far something has come. `incomplete` was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseStatus)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    InProgress,
    Completed,
    Incomplete,
    /// Of whole responses alone.
    Failed,
}

/// A part of an item's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponsePart)]
#[serde(tag = "type")]
pub(crate) enum Part {
    #[serde(rename = "input_text")]
    Input { text: String },
    #[serde(rename = "output_text")]
    Output {
        text: String,
        /// What it cites of files.
        annotations: Vec<Annotation>,
    },
    #[serde(rename = "reasoning_text")]
    Reasoning { text: String },
}

/// A list that is always empty.
pub(super) type Nothing = [(); 0];

impl Part {
    pub fn text(&self) -> &str {
        match self {
            Part::Input { text } | Part::Output { text, .. } | Part::Reasoning { text } => text,
        }
    }

    pub fn text_mut(&mut self) -> &mut String {
        match self {
            Part::Input { text } | Part::Output { text, .. } | Part::Reasoning { text } => text,
        }
    }
}

impl Item {
    pub fn id(&self) -> &str {
        match self {
            Item::Message { id, .. }
            | Item::FunctionCall { id, .. }
            | Item::FunctionCallOutput { id, .. }
            | Item::FileSearchCall { id, .. }
            | Item::Reasoning { id, .. } => id,
        }
    }

    pub fn set_status(&mut self, to: Status) {
        match self {
            Item::Message { status, .. }
            | Item::FunctionCall { status, .. }
            | Item::FunctionCallOutput { status, .. }
            | Item::FileSearchCall { status, .. }
            | Item::Reasoning { status, .. } => *status = to,
        }
    }
}

/// The id of an item that no other item has.
pub(super) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

impl From<Role> for llm::Role {
    fn from(role: Role) -> llm::Role {
        match role {
            Role::User => llm::Role::User,
            Role::Assistant => llm::Role::Assistant,
            Role::System | Role::Developer => llm::Role::System,
        }
    }
}

/// The turns that a model is given: `before` comes from earlier responses, `now` is the request's input. Thoughts are
/// left out, as chat templates do with those of earlier turns.
pub(super) fn turns(
    instructions: Option<&str>,
    before: Vec<Item>,
    now: &[Item],
) -> Result<Vec<Message>, ApiError> {
    let mut turns = Turns::default();
    for item in before {
        // What was kept is answered for already.
        let _ = turns.push(item);
    }
    for (at, item) in now.iter().enumerate() {
        turns.push(item.clone()).map_err(|call_id| {
            let shown: String = call_id.chars().take(64).collect();
            let param = format!("input[{at}].call_id");
            let message = format!(
                "`{param}` is `{shown}`, and there is no such call before; send the `function_call` item too, or \
                 `previous_response_id`"
            );
            ApiError::invalid(param, message)
        })?;
    }
    let mut messages = turns.messages;
    match (instructions, messages.first_mut()) {
        (None, _) => {}
        // Many templates know of one system message, at the start.
        (Some(text), Some(first)) if first.role == llm::Role::System => {
            first.content = format!("{text}\n\n{}", first.content);
        }
        (Some(text), _) => messages.insert(0, Message::new(llm::Role::System, text)),
    }
    if messages.is_empty() {
        return Err(ApiError::invalid("input", "`input` is empty; send a text or at least one message"));
    }
    Ok(messages)
}

#[derive(Default)]
struct Turns {
    messages: Vec<Message>,
    called: HashSet<String>,
}

impl Turns {
    /// Adds an item; fails with the id of a call that was never made.
    fn push(&mut self, item: Item) -> Result<(), String> {
        match item {
            Item::Reasoning { .. } | Item::FileSearchCall { .. } => {}
            Item::Message { role, content, .. } => {
                let text: String = content.iter().map(Part::text).collect();
                self.messages.push(Message::new(role.into(), text));
            }
            Item::FunctionCall { call_id, name, arguments, .. } => {
                self.called.insert(call_id.clone());
                // A call that was cut off, or that a model wrote badly, has no arguments that a template could show.
                let arguments = serde_json::from_str(&arguments).ok().filter(Value::is_object);
                let arguments = arguments.unwrap_or_else(|| json!({}));
                let call = ToolCall { id: call_id, name, arguments };
                // What one turn said and called is one message.
                match self.messages.last_mut() {
                    Some(last) if last.role == llm::Role::Assistant => last.tool_calls.push(call),
                    _ => {
                        let turn = Message::new(llm::Role::Assistant, "");
                        self.messages.push(Message { tool_calls: vec![call], ..turn });
                    }
                }
            }
            Item::FunctionCallOutput { call_id, output, .. } => {
                if !self.called.contains(&call_id) {
                    return Err(call_id);
                }
                let turn = Message::new(llm::Role::Tool, output);
                self.messages.push(Message { tool_call_id: Some(call_id), ..turn });
            }
        }
        Ok(())
    }
}
