//! Calls while they are written: the text so far is read again with every piece, and the difference is given.
//!
//! Reading again takes time that grows with the square of what is written since content last came. That is bounded
//! by the context, and a call of 4,000 tokens costs less than one of the model's steps in all.

use super::parse::{Parsed, parse};
use crate::types::llm::CallFormat;

/// Something new of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Content(String),
    /// More of call `call`; with its name when it is the first of it.
    Call {
        call: u32,
        name: Option<String>,
        arguments: String,
    },
}

/// Reads one answer.
#[derive(Debug)]
pub struct CallStream {
    format: CallFormat,
    tools: Vec<String>,
    /// What was not given as content, from the first call on all of it.
    text: String,
    given: Parsed,
    /// The answer is content to its end: a form without marks begins with its calls.
    plain: bool,
}

impl CallStream {
    /// For answers in this form, by a model that was given these tools.
    pub fn new(format: CallFormat, tools: Vec<String>) -> CallStream {
        CallStream { format, tools, text: String::new(), given: Parsed::default(), plain: false }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<Said> {
        if self.plain {
            return vec![Said::Content(text.to_owned())];
        }
        self.text.push_str(text);
        let now = parse(self.format, &self.tools, &self.text, false);
        let said = self.difference(now);
        if self.given.calls.is_empty() {
            // Content that is given plays no part in what follows.
            let given = self.given.content.len();
            self.plain = given > 0 && matches!(self.format, CallFormat::Llama3 | CallFormat::Json);
            self.text.drain(..given);
            self.given.content.clear();
        }
        said
    }

    /// The text has ended: what was held back is content or a call now.
    pub fn finish(&mut self) -> Vec<Said> {
        let now = parse(self.format, &self.tools, &self.text, true);
        self.difference(now)
    }

    /// Calls that were begun.
    pub fn calls(&self) -> usize {
        self.given.calls.len()
    }

    /// Whether the first call is complete.
    pub fn first_is_complete(&self) -> bool {
        self.given.calls.first().is_some_and(|call| call.complete)
    }

    fn difference(&mut self, now: Parsed) -> Vec<Said> {
        let mut said = Vec::new();
        let content = now.content.get(self.given.content.len()..).unwrap_or_default();
        if !content.is_empty() {
            said.push(Said::Content(content.to_owned()));
        }
        for (at, (number, call)) in (0u32..).zip(&now.calls).enumerate() {
            let before = self.given.calls.get(at);
            let from = before.map_or(0, |call| call.arguments.len());
            let arguments = call.arguments.get(from..).unwrap_or_default();
            if before.is_none() || !arguments.is_empty() {
                let name = before.is_none().then(|| call.name.clone());
                said.push(Said::Call { call: number, name, arguments: arguments.to_owned() });
            }
        }
        // A call that was given stays given, whatever is read now.
        let kept = self.given.calls.split_off(now.calls.len().min(self.given.calls.len()));
        self.given = now;
        self.given.calls.extend(kept);
        said
    }
}
