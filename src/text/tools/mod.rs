//! Calls of tools: how a model is told of them, and how it writes them.
//!
//! A template that names `tools` renders them itself, and which form its calls have is read off its text. For one
//! that does not, the tools are described in the system message, in [`CallFormat::Hermes`]'s form.

mod describe;
mod json;
mod parse;
mod stream;

pub use describe::describe;
pub use parse::{Call, Parsed, parse};
pub use stream::{CallStream, Said};

use crate::types::llm::CallFormat;

/// Opens and closes a call of [`CallFormat::Hermes`].
pub const HERMES: (&str, &str) = ("<tool_call>", "</tool_call>");
/// Opens the calls of [`CallFormat::Mistral`]; a control token of its models.
pub const MISTRAL: &str = "[TOOL_CALLS]";
/// May open a call of [`CallFormat::Llama3`]; a control token of its models.
pub const PYTHON_TAG: &str = "<|python_tag|>";

/// The form that the calls of a model with this chat template have; `None` where the template does not take tools.
/// Templates that take tools and show no known mark are read as [`CallFormat::Json`].
pub fn format_of(template: &str) -> Option<CallFormat> {
    if !template.contains("tools") {
        return None;
    }
    Some(if template.contains(MISTRAL) {
        CallFormat::Mistral
    } else if template.contains(HERMES.0) {
        CallFormat::Hermes
    } else if template.contains(PYTHON_TAG) || template.contains("\"parameters\": ") {
        CallFormat::Llama3
    } else {
        CallFormat::Json
    })
}

#[cfg(test)]
mod tests;
