//! Chat templates: Jinja as model files carry it, rendered as the reference implementation renders it
//! (transformers' `apply_chat_template`: trimmed blocks, loop controls, Python's string methods and JSON).
//!
//! A template is code from a file that somebody downloaded: it runs with bounded fuel, recursion and output.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use time::OffsetDateTime;

use crate::types::llm::{CallFormat, Message, Tool};

use super::Error;
use super::python;
use super::{think, tools};

/// For models whose file has no template.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
    message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Instructions a template may run: some thousand messages of any known template.
const FUEL: u64 = 20_000_000;
const MAX_RECURSION: usize = 64;
/// Bytes of text beyond the messages themselves that a template may write, for each message and in all.
const OUTPUT_PER_MESSAGE: usize = 1 << 16;
const OUTPUT_BASE: usize = 1 << 20;
const NAME: &str = "chat_template";

/// What a template is told besides the messages.
#[derive(Debug, Clone, Copy)]
pub struct RenderOptions<'t> {
    /// What the model may call. A template that does not know of tools gets them in the system message.
    pub tools: &'t [Tool],
    /// The template's `enable_thinking`; `None` leaves it undefined.
    pub enable_thinking: Option<bool>,
    /// End with what opens the assistant's turn.
    pub add_generation_prompt: bool,
    /// What `strftime_now` shows.
    pub now: OffsetDateTime,
}

/// A compiled template.
pub struct ChatTemplate {
    env: Environment<'static>,
    bos: String,
    eos: String,
    calls: Option<CallFormat>,
    thinks: bool,
}

impl ChatTemplate {
    /// Compiles a template; `None` is ChatML. `bos` and `eos` are the texts of these tokens.
    pub fn new(source: Option<&str>, bos: &str, eos: &str) -> Result<Self, Error> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| template_error(&e))?);
        env.set_recursion_limit(MAX_RECURSION);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(unknown_method_callback);
        env.add_filter("tojson", python::to_json);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let source = source.unwrap_or(CHATML).to_owned();
        let calls = tools::format_of(&source);
        let thinks = source.contains(think::TAGS.1);
        env.add_template_owned(NAME, source).map_err(|e| template_error(&e))?;
        Ok(ChatTemplate { env, bos: bos.to_owned(), eos: eos.to_owned(), calls, thinks })
    }

    /// Whether the template knows of thinking.
    pub fn thinks(&self) -> bool {
        self.thinks
    }

    /// How calls of tools are written by a model with this template; `None` where it does not know of tools.
    pub fn calls(&self) -> Option<CallFormat> {
        self.calls
    }

    /// The prompt's text.
    pub fn render(&self, messages: &[Message], options: RenderOptions<'_>) -> Result<String, Error> {
        let described;
        let calls = || messages.iter().any(|m| !m.tool_calls.is_empty());
        let messages = match self.calls {
            None if !options.tools.is_empty() || calls() => {
                described = tools::describe(messages, options.tools);
                &described
            }
            _ => messages,
        };
        let contents: usize = messages.iter().map(|m| m.content.len()).sum();
        let turns: Vec<Value> = messages.iter().enumerate().map(|(at, m)| turn(m, &messages[..at])).collect();
        // None where there are none, as the reference has it.
        let tools = match (self.calls, options.tools) {
            (None, _) | (_, []) => Value::from(()),
            (_, tools) => tools.iter().map(|tool| python::from_json(&tool.to_json())).collect(),
        };
        let now = options.now;
        let strftime = move |format: String| python::strftime(&format, now);
        let template = self.env.get_template(NAME).map_err(|e| template_error(&e))?;
        // A template may repeat a message (tool calls, reasoning), but not without end.
        let room = contents
            .saturating_mul(4)
            .saturating_add(messages.len().saturating_mul(OUTPUT_PER_MESSAGE))
            .saturating_add(options.tools.len().saturating_mul(OUTPUT_PER_MESSAGE))
            .saturating_add(OUTPUT_BASE);
        let mut out = Bounded { text: Vec::new(), room };
        let state = context! {
            messages => turns,
            tools => tools,
            enable_thinking => options.enable_thinking.map_or(Value::UNDEFINED, Value::from),
            add_generation_prompt => options.add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            strftime_now => Value::from_function(strftime),
        };
        template.render_captured_to(state, &mut out).map_err(|e| template_error(&e))?;
        String::from_utf8(out.text)
            .map_err(|_| Error::Template { line: 0, message: "wrote text that is not UTF-8".into() })
    }
}

/// A message as templates read it: what it does not have is not there, since templates ask whether it is.
fn turn(message: &Message, before: &[Message]) -> Value {
    let mut turn = vec![
        ("role", Value::from(message.role.as_str())),
        ("content", Value::from(message.content.as_str())),
    ];
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let arguments = python::from_json(&call.arguments);
            let function = context! { name => call.name.as_str(), arguments => arguments };
            context! { id => call.id.as_str(), type => "function", function => function }
        });
        turn.push(("tool_calls", calls.collect()));
    }
    if let Some(id) = &message.tool_call_id {
        turn.push(("tool_call_id", Value::from(id.as_str())));
        let mut calls = before.iter().rev().flat_map(|m| &m.tool_calls);
        if let Some(call) = calls.find(|call| call.id == *id) {
            turn.push(("name", Value::from(call.name.as_str())));
        }
    }
    Value::from_pairs(turn)
}

struct Bounded {
    text: Vec<u8>,
    room: usize,
}

impl Write for Bounded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.len() > self.room {
            return Err(io::Error::other("the template writes without end"));
        }
        self.room -= buf.len();
        self.text.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn template_error(e: &minijinja::Error) -> Error {
    let message = match (e.kind(), e.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    Error::Template { line: e.line().unwrap_or(0), message }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
