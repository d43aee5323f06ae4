//! Tools as they are sent: functions, the choice among them, calls in a conversation.

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::fields::Bounded;
use crate::http::ApiError;
use crate::types::llm::{Tool, ToolCall, ToolChoice, ToolStart, Tools};

pub(super) const MAX_TOOLS: usize = 128;
/// Calls of one turn.
const MAX_CALLS: usize = 128;
const MAX_NAME: usize = 64;
const MAX_ID: usize = 256;

/// The tools of a request, bounded while they are parsed.
pub(super) type WireTools = Bounded<WireTool, MAX_TOOLS>;
/// The calls of a turn, bounded while they are parsed.
pub(super) type WireCalls = Bounded<WireCall, MAX_CALLS>;

/// A function that the model may call.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WireTool {
    /// `function`.
    r#type: String,
    function: WireFunction,
}

/// What the model is told of a function.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WireFunction {
    /// 1 to 64 letters, digits, `_`, `-` or `.`.
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: Option<String>,
    /// The JSON schema of its arguments.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(super) parameters: Option<Value>,
    /// Where a call is enforced: refuse a schema with keywords that cannot be, instead of passing them over.
    #[serde(default)]
    pub(super) strict: Option<bool>,
}

/// A call in a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WireCall {
    id: String,
    /// `function`.
    #[serde(default)]
    r#type: Option<String>,
    function: WireCalled,
}

/// What was called.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WireCalled {
    name: String,
    /// A JSON object as text.
    arguments: String,
}

/// `none`, `auto`, `required`, or a function: `{"type": "function", "function": {"name": ...}}`, or flat, as the
/// Responses API has it, `{"type": "function", "name": ...}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WireChoice(Option<ToolChoice>);

impl WireChoice {
    /// Where there are no functions, but what the server does by itself: `required` has nothing to require.
    pub(super) fn or_auto(self) -> WireChoice {
        WireChoice(self.0.filter(|choice| *choice != ToolChoice::Required))
    }
}

impl<'de> Deserialize<'de> for WireChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        struct Choice;
        impl<'de> Visitor<'de> for Choice {
            type Value = WireChoice;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`none`, `auto`, `required` or a function")
            }
            fn visit_unit<E: Error>(self) -> Result<WireChoice, E> {
                Ok(WireChoice(None))
            }
            fn visit_str<E: Error>(self, word: &str) -> Result<WireChoice, E> {
                Ok(WireChoice(Some(match word {
                    "none" => ToolChoice::None,
                    "auto" => ToolChoice::Auto,
                    "required" => ToolChoice::Required,
                    _ => return Err(E::custom("expected `none`, `auto`, `required` or a function")),
                })))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireChoice, A::Error> {
                let (mut named, mut own) = (None, false);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "type" => match map.next_value::<String>()?.as_str() {
                            "function" => {}
                            // It is done whether or not it is named.
                            "file_search" => own = true,
                            _ => {
                                return Err(A::Error::custom(
                                    "only a function or `file_search` can be named",
                                ));
                            }
                        },
                        "function" => named = Some(map.next_value::<Named>()?.name),
                        "name" => named = Some(map.next_value()?),
                        _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
                    }
                }
                match (named, own) {
                    (None, true) => Ok(WireChoice(None)),
                    (Some(name), _) => Ok(WireChoice(Some(ToolChoice::Named(name)))),
                    (None, false) => Err(A::Error::missing_field("function")),
                }
            }
        }
        deserializer.deserialize_any(Choice)
    }
}

/// The request's tools in the service's terms.
pub(super) fn tools(
    list: Option<WireTools>,
    choice: WireChoice,
    parallel: Option<bool>,
) -> Result<Tools, ApiError> {
    let list = list.map_or_else(Vec::new, |list| list.0);
    let tool = |(at, tool): (usize, WireTool)| {
        check_type(at, &tool.r#type)?;
        function(&format!("tools[{at}].function"), tool.function)
    };
    let list = list.into_iter().enumerate().map(tool).collect::<Result<Vec<_>, _>>()?;
    chosen(list, "function.name", choice, parallel)
}

/// Tools with the choice among them; `name` is where a tool has its name.
pub(super) fn chosen(
    list: Vec<Tool>,
    name: &str,
    choice: WireChoice,
    parallel: Option<bool>,
) -> Result<Tools, ApiError> {
    for (at, tool) in list.iter().enumerate() {
        if list[..at].iter().any(|other| other.name == tool.name) {
            let message = format!("`tools` has two functions with the name `{}`", tool.name);
            return Err(ApiError::invalid(format!("tools[{at}].{name}"), message));
        }
    }
    let choice = choice.0.unwrap_or_default();
    let wrong = |message: String| Err(ApiError::invalid("tool_choice", message));
    match &choice {
        ToolChoice::Required if list.is_empty() => {
            wrong("`tool_choice` is `required` and there are no tools".into())
        }
        ToolChoice::Named(name) if !list.iter().any(|tool| tool.name == *name) => {
            let shown: String = name.chars().take(MAX_NAME).collect();
            wrong(format!("`tool_choice` names `{shown}`, which is none of the tools"))
        }
        _ => Ok(Tools { list, choice, parallel: parallel.unwrap_or(true) }),
    }
}

/// Checks the type of tool `at`.
pub(super) fn check_type(at: usize, kind: &str) -> Result<(), ApiError> {
    if kind == "function" {
        return Ok(());
    }
    let message = "this server takes tools of the type `function`, and `file_search` in /v1/responses";
    Err(ApiError::unsupported(format!("tools[{at}].type"), message))
}

/// The function that stands at `path`.
pub(super) fn function(path: &str, function: WireFunction) -> Result<Tool, ApiError> {
    check_name(format!("{path}.name"), &function.name)?;
    if function.parameters.as_ref().is_some_and(|schema| !schema.is_object() && !schema.is_null()) {
        let param = format!("{path}.parameters");
        return Err(ApiError::invalid(param.clone(), format!("`{param}` must be a JSON schema, an object")));
    }
    Ok(Tool {
        name: function.name,
        description: function.description,
        parameters: function.parameters.filter(Value::is_object),
        strict: function.strict.unwrap_or(false),
    })
}

/// Checks the name of a function.
pub(super) fn check_name(param: String, name: &str) -> Result<(), ApiError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(fine) {
        return Ok(());
    }
    let message = format!("`{param}` must have 1 to {MAX_NAME} letters, digits, `_`, `-` or `.`");
    Err(ApiError::invalid(param, message))
}

/// The calls of turn `turn`.
pub(super) fn calls(turn: usize, calls: Option<WireCalls>) -> Result<Vec<ToolCall>, ApiError> {
    let calls = calls.map_or_else(Vec::new, |calls| calls.0);
    let read = |(at, call): (usize, WireCall)| {
        let path = format!("messages[{turn}].tool_calls[{at}]");
        if call.r#type.is_some_and(|kind| kind != "function") {
            return Err(ApiError::unsupported(format!("{path}.type"), "only functions can have been called"));
        }
        check_id(format!("{path}.id"), &call.id)?;
        check_name(format!("{path}.function.name"), &call.function.name)?;
        let arguments = arguments(format!("{path}.function.arguments"), &call.function.arguments)?;
        Ok(ToolCall { id: call.id, name: call.function.name, arguments })
    };
    calls.into_iter().enumerate().map(read).collect()
}

/// The arguments of a call, an object.
pub(super) fn arguments(param: String, text: &str) -> Result<Value, ApiError> {
    // Clients send an empty text for a function without arguments.
    let text = if text.trim().is_empty() { "{}" } else { text };
    match serde_json::from_str::<Value>(text) {
        Ok(arguments) if arguments.is_object() => Ok(arguments),
        _ => {
            let message = format!("`{param}` must be a JSON object, as text");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// Checks the id of a call.
pub(super) fn check_id(param: String, id: &str) -> Result<(), ApiError> {
    if (1..=MAX_ID).contains(&id.len()) {
        return Ok(());
    }
    let message = format!("`{param}` must have 1 to {MAX_ID} bytes");
    Err(ApiError::invalid(param, message))
}

/// A call that the model made.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CallMade {
    id: String,
    r#type: &'static str,
    function: Called,
}

/// What it called.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Called {
    name: String,
    /// JSON as the model wrote it.
    arguments: String,
}

impl CallMade {
    /// A call that begins; more of its arguments may follow.
    pub fn new(start: ToolStart, arguments: String) -> CallMade {
        CallMade { id: start.id, r#type: "function", function: Called { name: start.name, arguments } }
    }

    /// More of the arguments.
    pub fn push(&mut self, arguments: &str) {
        self.function.arguments.push_str(arguments);
    }
}

/// A piece of a call. The first one has the id, the type and the name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CallDelta<'a> {
    /// Which of the answer's calls.
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: CalledDelta<'a>,
}

/// What the piece adds to the function.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CalledDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl<'a> CallDelta<'a> {
    /// A piece of call `index`.
    pub fn new(index: u32, start: Option<&'a ToolStart>, arguments: &'a str) -> CallDelta<'a> {
        CallDelta {
            index,
            id: start.map(|start| start.id.as_str()),
            r#type: start.map(|_| "function"),
            function: CalledDelta { name: start.map(|start| start.name.as_str()), arguments },
        }
    }
}
