//! `input` as it is sent: a text, or items of many forms.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, de};
use utoipa::ToSchema;

use super::items::{Item, Part, Role, Status, new_id};
use crate::http::ApiError;
use crate::http::openai::fields::{Bounded, MAX_MESSAGES, MAX_PARTS};
use crate::http::openai::tools;

/// What is to be answered.
#[derive(Debug)]
pub(crate) enum WireInput {
    Text(String),
    Items(Vec<WireItem>),
}

/// One item. Which fields it has depends on its type.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = InputItem)]
pub(crate) struct WireItem {
    /// `message` (if absent), `function_call`, `function_call_output`, or `reasoning` and `file_search_call`, which are
    /// passed over.
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    id: Option<String>,
    /// Of a message.
    #[serde(default)]
    role: Option<Role>,
    /// Of a message: text, or parts of the types `input_text` and `output_text`.
    #[serde(default)]
    #[schema(value_type = Option<TextOrParts>)]
    content: Option<WireContent>,
    /// Of a call and of what it gave.
    #[serde(default)]
    call_id: Option<String>,
    /// Of a call: the function.
    #[serde(default)]
    name: Option<String>,
    /// Of a call: a JSON object as text.
    #[serde(default)]
    arguments: Option<String>,
    /// What a call gave: text, or parts of the type `input_text`.
    #[serde(default)]
    #[schema(value_type = Option<TextOrParts>)]
    output: Option<WireContent>,
}

/// A text, or one in parts.
#[derive(Debug)]
pub(crate) enum WireContent {
    Text(String),
    Parts(Vec<WirePart>),
}

/// A part of a text.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = InputPart)]
pub(crate) struct WirePart {
    /// `input_text`, `output_text` or `text`.
    r#type: String,
    #[serde(default)]
    text: Option<String>,
}

/// A text, or one in parts.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum TextOrParts {
    Text(String),
    Parts(Vec<WirePart>),
}

/// A text, or items.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum TextOrItems {
    Text(String),
    Items(Vec<WireItem>),
}

/// A text, or a list of at most `N`.
enum TextOr<T> {
    Text(String),
    List(Vec<T>),
}

/// What the list is of, for errors.
fn text_or<'de, D: Deserializer<'de>, T: Deserialize<'de>, const N: usize>(
    deserializer: D,
    list: &'static str,
) -> Result<TextOr<T>, D::Error> {
    struct Either<T, const N: usize>(&'static str, std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Either<T, N> {
        type Value = TextOr<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a string or a list of {}", self.0)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<TextOr<T>, E> {
            Ok(TextOr::Text(text.to_owned()))
        }
        fn visit_string<E: Error>(self, text: String) -> Result<TextOr<T>, E> {
            Ok(TextOr::Text(text))
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<TextOr<T>, A::Error> {
            let list = Bounded::<T, N>::deserialize(SeqAccessDeserializer::new(seq))?;
            Ok(TextOr::List(list.0))
        }
    }
    deserializer.deserialize_any(Either::<T, N>(list, std::marker::PhantomData))
}

impl<'de> Deserialize<'de> for WireInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or::<_, _, MAX_MESSAGES>(deserializer, "items")? {
            TextOr::Text(text) => WireInput::Text(text),
            TextOr::List(items) => WireInput::Items(items),
        })
    }
}

impl<'de> Deserialize<'de> for WireContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or::<_, _, MAX_PARTS>(deserializer, "text parts")? {
            TextOr::Text(text) => WireContent::Text(text),
            TextOr::List(parts) => WireContent::Parts(parts),
        })
    }
}

impl WireContent {
    /// The texts of the parts; `path` is where they stand.
    fn texts(self, path: &str) -> Result<Vec<String>, ApiError> {
        let parts = match self {
            WireContent::Text(text) => return Ok(vec![text]),
            WireContent::Parts(parts) => parts,
        };
        let text = |(at, part): (usize, WirePart)| match (part.r#type.as_str(), part.text) {
            ("input_text" | "output_text" | "text" | "reasoning_text", Some(text)) => Ok(text),
            ("input_text" | "output_text" | "text" | "reasoning_text", None) => {
                let param = format!("{path}[{at}].text");
                Err(ApiError::invalid(param.clone(), format!("`{param}` is missing")))
            }
            _ => {
                let message =
                    "this server reads only text: parts of the types `input_text` and `output_text`";
                Err(ApiError::unsupported(format!("{path}[{at}].type"), message))
            }
        };
        parts.into_iter().enumerate().map(text).collect()
    }
}

impl WireInput {
    /// The items, each with an id.
    pub(super) fn items(self) -> Result<Vec<Item>, ApiError> {
        match self {
            WireInput::Text(text) => {
                let content = vec![Part::Input { text }];
                let (id, status) = (new_id("msg"), Status::Completed);
                Ok(vec![Item::Message { id, role: Role::User, status, content }])
            }
            WireInput::Items(items) => items.into_iter().enumerate().map(item).collect(),
        }
    }
}

/// One item, checked.
fn item((at, mut wire): (usize, WireItem)) -> Result<Item, ApiError> {
    let path = format!("input[{at}]");
    let id = wire.id.take().filter(|id| !id.is_empty());
    if let Some(id) = &id {
        tools::check_id(format!("{path}.id"), id)?;
    }
    let id = |prefix: &str| id.clone().unwrap_or_else(|| new_id(prefix));
    let status = Status::Completed;
    match wire.r#type.as_deref() {
        None | Some("message") => {
            let role = wire.role.ok_or_else(|| missing(&path, "role"))?;
            let content = wire.content.ok_or_else(|| missing(&path, "content"))?;
            let part = |text| match role {
                Role::Assistant => Part::Output { text, annotations: Vec::new() },
                _ => Part::Input { text },
            };
            let content = content.texts(&format!("{path}.content"))?.into_iter().map(part).collect();
            Ok(Item::Message { id: id("msg"), role, status, content })
        }
        Some("function_call") => {
            let call_id = call_id(&path, wire.call_id)?;
            let name = wire.name.ok_or_else(|| missing(&path, "name"))?;
            tools::check_name(format!("{path}.name"), &name)?;
            let arguments = wire.arguments.unwrap_or_default();
            tools::arguments(format!("{path}.arguments"), &arguments)?;
            Ok(Item::FunctionCall { id: id("fc"), call_id, name, arguments, status })
        }
        Some("function_call_output") => {
            let call_id = call_id(&path, wire.call_id)?;
            let output = wire.output.ok_or_else(|| missing(&path, "output"))?;
            let output = output.texts(&format!("{path}.output"))?.concat();
            Ok(Item::FunctionCallOutput { id: id("fco"), call_id, output, status })
        }
        Some("reasoning") => {
            let texts = wire.content.map_or(Ok(Vec::new()), |c| c.texts(&format!("{path}.content")))?;
            let content = texts.into_iter().map(|text| Part::Reasoning { text }).collect();
            Ok(Item::Reasoning { id: id("rs"), summary: Vec::new(), content, status })
        }
        Some("file_search_call") => {
            Ok(Item::FileSearchCall { id: id("fs"), status, queries: Vec::new(), results: None })
        }
        Some("item_reference") => {
            let message = "items are not kept by themselves here; send the item, or `previous_response_id`";
            Err(ApiError::unsupported(format!("{path}.type"), message))
        }
        Some(_) => {
            let message = "this server takes items of the types `message`, `function_call`, \
                           `function_call_output`, `file_search_call` and `reasoning`";
            Err(ApiError::unsupported(format!("{path}.type"), message))
        }
    }
}

fn call_id(path: &str, id: Option<String>) -> Result<String, ApiError> {
    let id = id.ok_or_else(|| missing(path, "call_id"))?;
    tools::check_id(format!("{path}.call_id"), &id)?;
    Ok(id)
}

fn missing(path: &str, field: &str) -> ApiError {
    let param = format!("{path}.{field}");
    ApiError::invalid(param.clone(), format!("`{param}` is missing"))
}
