//! Conversations to tokens, such that no message can speak with the template's voice.
//!
//! A message that spells a control token (`<|im_end|>`) must stay text, while the same letters in the template
//! are the token. The messages get a mark inside each such spelling, and where one could begin or end across
//! their borders; the template is rendered with them; control tokens are parsed in the result; then the marks
//! are taken out, and what is left is tokenised. So a template still sees the messages' own text, a message
//! without such spellings is not changed at all, and merges run over the same letters as without marks. The
//! mark is drawn anew for each prompt from 2^64 private-use sequences, so a message cannot contain it.

use std::borrow::Cow;
use std::collections::HashSet;

use aho_corasick::AhoCorasick;
use serde_json::Value;

use crate::types::llm::{Message, Tool, ToolCall};

use super::{ChatTemplate, Error, RenderOptions, Special, Tokenizer};

/// Tokens of a conversation, at most `limit` of them. BOS is added where the model wants it and the template
/// has not written it.
pub fn encode(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[Message],
    options: RenderOptions<'_>,
    limit: usize,
) -> Result<Vec<u32>, Error> {
    let bytes = messages.iter().fold(0usize, |n, m| n.saturating_add(m.content.len()));
    let at_least = tokenizer.least_tokens(bytes);
    if at_least > limit {
        return Err(Error::TooLong { at_least, limit });
    }
    let mark = mark();
    let mut guard = Guard { control: tokenizer.control(), mark: &mark, marked: false };
    let messages: Vec<Message> = messages.iter().map(|m| guard.message(m)).collect();
    let tools: Vec<Tool> = options.tools.iter().map(|tool| guard.tool(tool)).collect();
    let marked = guard.marked;
    let text = template.render(&messages, RenderOptions { tools: &tools, ..options })?;
    tokenizer.encode_marked(&text, if marked { &mark } else { "" }, Special::Parse, true, limit)
}

/// Puts marks into everything of a request that a template may write.
struct Guard<'g> {
    control: Option<&'g Control>,
    mark: &'g str,
    /// Whether there was anything to mark.
    marked: bool,
}

impl Guard<'_> {
    fn text(&mut self, text: &str) -> String {
        let guarded = match self.control {
            Some(control) => control.guard(text, self.mark),
            None => Cow::Borrowed(text),
        };
        self.marked |= matches!(guarded, Cow::Owned(_));
        guarded.into_owned()
    }

    /// Names in objects are text from outside as much as values are.
    fn json(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.json(item)).collect(),
            Value::Object(map) => {
                map.iter().map(|(name, value)| (self.text(name), self.json(value))).collect()
            }
            other => other.clone(),
        }
    }

    fn message(&mut self, message: &Message) -> Message {
        let calls = message.tool_calls.iter().map(|call| ToolCall {
            id: self.text(&call.id),
            name: self.text(&call.name),
            arguments: self.json(&call.arguments),
        });
        let tool_calls = calls.collect();
        Message {
            role: message.role,
            content: self.text(&message.content),
            tool_calls,
            tool_call_id: message.tool_call_id.as_ref().map(|id| self.text(id)),
        }
    }

    fn tool(&mut self, tool: &Tool) -> Tool {
        Tool {
            name: self.text(&tool.name),
            description: tool.description.as_ref().map(|text| self.text(text)),
            parameters: tool.parameters.as_ref().map(|schema| self.json(schema)),
            strict: tool.strict,
        }
    }
}

/// Four characters of plane 15, 16 random bits each.
fn mark() -> String {
    let random: u64 = rand::random();
    (0..4)
        .filter_map(|i| char::from_u32(0xf_0000 + ((random >> (16 * i)) as u32 & 0xffff).min(0xfffd)))
        .collect()
}

/// Knows where a text spells control tokens, or parts of them at its borders.
pub(super) struct Control {
    every: AhoCorasick,
    /// Proper beginnings and ends of control tokens.
    beginnings: HashSet<Box<[u8]>>,
    ends: HashSet<Box<[u8]>>,
    longest: usize,
}

impl Control {
    /// From the texts of all control tokens, each of two characters or more.
    pub(super) fn new(texts: &[&[u8]]) -> Result<Self, Error> {
        let every = AhoCorasick::new(texts)
            .map_err(|e| Error::Spec { field: "control tokens", problem: e.to_string() })?;
        let parts = |part: fn(&[u8], usize) -> &[u8]| {
            texts.iter().flat_map(|t| (1..t.len()).map(|cut| Box::from(part(t, cut)))).collect()
        };
        Ok(Control {
            every,
            beginnings: parts(|t, cut| &t[..cut]),
            ends: parts(|t, cut| &t[cut..]),
            longest: texts.iter().map(|t| t.len()).max().unwrap_or(0),
        })
    }

    /// Puts the mark after the first character of every spelling, and at a border where the template might
    /// complete one.
    fn guard<'t>(&self, text: &'t str, mark: &str) -> Cow<'t, str> {
        let bytes = text.as_bytes();
        let cuts = 1..self.longest.min(bytes.len() + 1);
        let before = cuts.clone().any(|n| self.ends.contains(&bytes[..n]));
        let after = cuts.clone().any(|n| self.beginnings.contains(&bytes[bytes.len() - n..]));
        let mut starts: Vec<usize> = self.every.find_overlapping_iter(text).map(|m| m.start()).collect();
        if starts.is_empty() && !before && !after {
            return Cow::Borrowed(text);
        }
        starts.sort_unstable();
        starts.dedup();
        let mut out = String::with_capacity(text.len() + (starts.len() + 2) * mark.len());
        out.push_str(if before { mark } else { "" });
        let mut at = 0;
        for start in starts {
            let inside = start + text[start..].chars().next().map_or(0, char::len_utf8);
            out.push_str(&text[at..inside]);
            out.push_str(mark);
            at = inside;
        }
        out.push_str(&text[at..]);
        out.push_str(if after { mark } else { "" });
        Cow::Owned(out)
    }
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
