//! What an answer repeats of its request.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::request::TextFormat;
use super::search::{FileSearch, FileSearchEcho};
use crate::http::openai::described::ResponseToolChoice;
use crate::http::openai::thinking::Effort;
use crate::service::responses::ResponseId;
use crate::types::llm::{Tool, ToolChoice};

const MAX_PAIRS: usize = 16;
const MAX_KEY: usize = 64;
const MAX_VALUE: usize = 512;

/// Pairs of short texts, bounded while they are parsed.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// As JSON has it.
    pub fn into_map(self) -> Map<String, Value> {
        self.0.into_iter().map(|(key, value)| (key, Value::String(value))).collect()
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Metadata;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map of at most {MAX_PAIRS} texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if pairs.len() == MAX_PAIRS {
                        return Err(A::Error::custom(format!("more than {MAX_PAIRS} pairs")));
                    }
                    if key.chars().count() > MAX_KEY || value.chars().count() > MAX_VALUE {
                        let limits = format!("a key has at most {MAX_KEY} characters, a value {MAX_VALUE}");
                        return Err(A::Error::custom(limits));
                    }
                    pairs.insert(key, value);
                }
                Ok(Metadata(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// What an answer repeats of its request.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseEcho)]
pub(crate) struct Echo {
    /// Always false: an answer is made while its request is open.
    pub background: bool,
    pub instructions: Option<String>,
    pub max_output_tokens: Option<u64>,
    #[schema(value_type = BTreeMap<String, String>)]
    pub metadata: Metadata,
    pub parallel_tool_calls: bool,
    #[schema(value_type = Option<String>)]
    pub previous_response_id: Option<ResponseId>,
    pub reasoning: ReasoningEcho,
    pub service_tier: &'static str,
    /// Whether the response is kept. False too where it was to be and could not.
    pub store: bool,
    pub temperature: f64,
    pub text: TextEcho,
    #[schema(value_type = ResponseToolChoice)]
    pub tool_choice: ChoiceEcho,
    pub tools: Vec<ToolEcho>,
    pub top_logprobs: u32,
    pub top_p: f64,
    pub truncation: &'static str,
    pub user: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseReasoningEcho)]
pub(crate) struct ReasoningEcho {
    pub effort: Option<Effort>,
    /// Always null.
    pub summary: Option<bool>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseTextEcho)]
pub(crate) struct TextEcho {
    pub format: TextFormat,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum ChoiceEcho {
    Word(&'static str),
    Named { r#type: &'static str, name: String },
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseToolEcho)]
#[serde(untagged)]
pub(crate) enum ToolEcho {
    Function {
        r#type: &'static str,
        name: String,
        description: Option<String>,
        #[schema(value_type = Option<Object>)]
        parameters: Option<Value>,
        strict: bool,
    },
    FileSearch(FileSearchEcho),
}

impl ChoiceEcho {
    pub fn new(choice: &ToolChoice) -> ChoiceEcho {
        match choice {
            ToolChoice::None => ChoiceEcho::Word("none"),
            ToolChoice::Auto => ChoiceEcho::Word("auto"),
            ToolChoice::Required => ChoiceEcho::Word("required"),
            ToolChoice::Named(name) => ChoiceEcho::Named { r#type: "function", name: name.clone() },
        }
    }
}

impl ToolEcho {
    /// The functions, then the search.
    pub(super) fn all(functions: &[Tool], search: Option<&FileSearch>) -> Vec<ToolEcho> {
        let search = search.map(|search| ToolEcho::FileSearch(search.echo.clone()));
        functions.iter().map(ToolEcho::new).chain(search).collect()
    }

    fn new(tool: &Tool) -> ToolEcho {
        ToolEcho::Function {
            r#type: "function",
            name: tool.name.clone(),
            description: tool.description.clone(),
            parameters: tool.parameters.clone(),
            strict: tool.strict,
        }
    }
}
