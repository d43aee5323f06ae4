//! Tools for a template that does not know them: in the system message, in plain words.

use serde_json::json;

use super::HERMES;
use crate::types::llm::{Message, Role, Tool, ToolCall};

/// The conversation in turns of text alone: the tools stand in the system message, calls in the assistant's turns
/// as it is told to write them, and what tools answered in the user's.
pub fn describe(messages: &[Message], tools: &[Tool]) -> Vec<Message> {
    let mut turns: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    let mut answers = false;
    for message in messages {
        match message.role {
            Role::Tool => {
                let text = format!("<tool_response>\n{}\n</tool_response>", message.content);
                // Templates that want the roles to take turns see one turn for all answers.
                match turns.last_mut().filter(|_| answers) {
                    Some(last) => last.content = format!("{}\n{text}", last.content),
                    None => turns.push(Message::new(Role::User, text)),
                }
            }
            role => turns.push(Message::new(role, with_calls(&message.content, &message.tool_calls))),
        }
        answers = message.role == Role::Tool;
    }
    if tools.is_empty() {
        return turns;
    }
    let told = instructions(tools);
    match turns.first_mut().filter(|first| first.role == Role::System) {
        Some(system) => system.content = format!("{}\n\n{told}", system.content),
        None => turns.insert(0, Message::new(Role::System, told)),
    }
    turns
}

fn with_calls(content: &str, calls: &[ToolCall]) -> String {
    let mut text = content.to_owned();
    for call in calls {
        if !text.is_empty() {
            text.push('\n');
        }
        let body = json!({"name": call.name, "arguments": call.arguments});
        text.push_str(&format!("{}\n{body}\n{}", HERMES.0, HERMES.1));
    }
    text
}

fn instructions(tools: &[Tool]) -> String {
    let mut text = String::from(
        "You can call these functions. Each line describes one: its name, what it does, and the JSON schema of its \
         arguments.\n",
    );
    for tool in tools {
        text.push_str(&format!("{}\n", tool.to_json()));
    }
    text.push_str(&format!(
        "To call a function, write one JSON object between tags, and nothing after it:\n\
         {}\n{{\"name\": <name of the function>, \"arguments\": <object of its arguments>}}\n{}",
        HERMES.0, HERMES.1
    ));
    text
}
