//! An answer's text as content and calls.
//!
//! The same function reads an answer that is complete and one that is still being written. While it is written only
//! what no later text can change is given: content that may be the beginning of a call is held back, and so is white
//! space that may stand before one. So each result begins with the one before it.

use super::json::{Object, State, object, spaces};
use super::{HERMES, MISTRAL, PYTHON_TAG};
use crate::types::llm::CallFormat;

/// An answer as far as it has come.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Parsed {
    pub content: String,
    /// In the order of the answer.
    pub calls: Vec<Call>,
}

/// A call whose name is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// JSON as the model wrote it, as far as it has come.
    pub arguments: String,
    /// Nothing can follow.
    pub complete: bool,
}

/// Reads `text`, of which more may come unless it is `whole`. Calls of forms that have no mark of their own are
/// calls only if they name one of `tools`.
pub fn parse(format: CallFormat, tools: &[String], text: &str, whole: bool) -> Parsed {
    let mut reader = Reader { tools, text, whole, at: 0, parsed: Parsed::default() };
    match format {
        CallFormat::Hermes => reader.marked(HERMES.0, Reader::hermes),
        CallFormat::Mistral => reader.marked(MISTRAL, |reader| reader.list(true)),
        CallFormat::Llama3 | CallFormat::Json => reader.bare(),
    }
    reader.parsed
}

struct Reader<'t> {
    tools: &'t [String],
    text: &'t str,
    whole: bool,
    /// Everything before is read.
    at: usize,
    parsed: Parsed,
}

/// What stands at a mark.
#[derive(PartialEq)]
enum Found {
    /// Calls, read to their end.
    Calls,
    /// Something else: it is content.
    Nothing,
    /// More must come.
    Open,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_spaces(&mut self) {
        self.at = spaces(self.text, self.at);
    }

    /// Takes a text that stands here.
    fn take(&mut self, word: &str) -> bool {
        let taken = self.rest().starts_with(word);
        self.at += if taken { word.len() } else { 0 };
        taken
    }

    /// Content, with calls behind marks in between.
    fn marked(&mut self, mark: &str, read: fn(&mut Self) -> Found) {
        // Where content that is not given yet begins.
        let mut from = 0;
        while let Some(found) = self.rest().find(mark) {
            let (start, calls) = (self.at + found, self.parsed.calls.len());
            self.at = start + mark.len();
            match read(self) {
                Found::Nothing if self.parsed.calls.len() == calls => self.at = start + mark.len(),
                // A list that broke off: what follows its calls is not read.
                Found::Nothing => {
                    self.content(from, start, true);
                    (self.at, from) = (self.text.len(), self.text.len());
                }
                Found::Calls => {
                    self.content(from, start, true);
                    from = self.at;
                }
                Found::Open if self.whole && self.parsed.calls.len() == calls => {}
                Found::Open => return self.content(from, start, true),
            }
        }
        let mut end = self.text.len();
        if !self.whole {
            end -= overlap(&self.text[from.max(self.at)..], mark);
        }
        let called = !self.parsed.calls.is_empty();
        self.content(from, end, !self.whole || called);
    }

    /// Gives content, without the white space around calls.
    fn content(&mut self, from: usize, to: usize, trim: bool) {
        let text = self.text.get(from..to).unwrap_or_default();
        self.parsed.content.push_str(if trim { text.trim_end() } else { text });
    }

    fn hermes(&mut self) -> Found {
        self.skip_spaces();
        let found = self.call(true);
        if found == Found::Calls {
            self.skip_spaces();
            if !self.take(HERMES.1) && !self.whole && HERMES.1.starts_with(self.rest()) {
                return Found::Open;
            }
        }
        found
    }

    /// `[call, call]`, or one call.
    fn list(&mut self, marked: bool) -> Found {
        self.skip_spaces();
        if !self.take("[") {
            return self.call(marked);
        }
        loop {
            self.skip_spaces();
            match self.call(marked) {
                Found::Calls => {}
                other => return other,
            }
            self.skip_spaces();
            if self.take("]") {
                return Found::Calls;
            }
            if !self.take(",") {
                return if self.rest().is_empty() { Found::Open } else { Found::Nothing };
            }
        }
    }

    /// A text that is calls from its start, or content.
    fn bare(&mut self) {
        self.skip_spaces();
        if !self.whole && PYTHON_TAG.starts_with(self.rest()) {
            return;
        }
        self.take(PYTHON_TAG);
        loop {
            self.skip_spaces();
            let before = self.parsed.calls.len();
            let begun = self.rest().starts_with(['{', '[']);
            match if begun { self.list(false) } else { Found::Nothing } {
                Found::Calls => {
                    self.skip_spaces();
                    self.take(";");
                }
                Found::Open if !self.whole || self.parsed.calls.len() > before => return,
                _ => {
                    self.parsed.calls.truncate(before);
                    let from = if before == 0 { 0 } else { self.at };
                    return self.content(from, self.text.len(), before > 0);
                }
            }
        }
    }

    /// One call's object.
    fn call(&mut self, marked: bool) -> Found {
        let Object { name, arguments, state } = object(self.rest());
        let ended = matches!(state, State::Ended(_));
        let name = match name {
            Some(name) if marked || self.tools.contains(&name) => name,
            None if state == State::Open => return Found::Open,
            _ => return Found::Nothing,
        };
        let arguments = match arguments {
            Some((text, complete)) => written(text, complete),
            None if state == State::Broken => return Found::Nothing,
            None => ended.then(|| "{}".to_owned()),
        };
        // Without arguments it may still turn out to be something else.
        let Some(arguments) = arguments else { return Found::Open };
        self.parsed.calls.push(Call { name, arguments, complete: state != State::Open });
        self.at = match state {
            State::Open => return Found::Open,
            State::Ended(end) => self.at + end,
            // What follows a call that broke off is not read.
            State::Broken => self.text.len(),
        };
        Found::Calls
    }
}

/// Arguments as clients take them. Some models write the object as a string, or none at all: what is no object is
/// given once it is all there.
fn written(text: &str, complete: bool) -> Option<String> {
    match (text.as_bytes().first(), complete) {
        (Some(b'{'), _) => Some(text.to_owned()),
        (_, false) => None,
        (Some(b'"'), _) => Some(serde_json::from_str(text).unwrap_or_else(|_| text.to_owned())),
        _ if text == "null" => Some("{}".to_owned()),
        _ => Some(text.to_owned()),
    }
}

/// Bytes at the end of `text` that begin `mark`.
fn overlap(text: &str, mark: &str) -> usize {
    let most = mark.len().saturating_sub(1).min(text.len());
    (1..=most).rev().find(|&n| text.as_bytes().ends_with(&mark.as_bytes()[..n])).unwrap_or(0)
}
