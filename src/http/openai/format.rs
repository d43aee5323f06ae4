//! The form of an answer: OpenAI's `response_format`, vLLM's `structured_outputs` and the older `guided_*` fields.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::fields::{Asked, Bounded, refuse};
use crate::http::ApiError;
use crate::types::llm::Constraint;

/// More are refused while they are parsed; what one model takes is decided where they are compiled.
const MAX_CHOICES: usize = 1024;

/// The form of the answer: free text, any JSON object, or JSON of a schema.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    r#type: String,
    /// For `json_schema`.
    #[serde(default)]
    json_schema: Option<SchemaFormat>,
}

/// A schema with its name. It is always enforced, whatever `strict` says.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct SchemaFormat {
    /// For people.
    #[serde(default)]
    #[expect(dead_code, reason = "checked to be text, and not used")]
    name: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
    #[serde(default)]
    #[expect(dead_code, reason = "checked to be a flag, and not used")]
    strict: Option<bool>,
}

/// The form of the answer, by exactly one of these.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema, or its text.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    json: Option<Value>,
    /// Any JSON object.
    #[serde(default)]
    json_object: Option<bool>,
    /// A regular expression that matches the whole answer.
    #[serde(default)]
    regex: Option<String>,
    /// The answers to choose from.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    choice: Option<Bounded<String, MAX_CHOICES>>,
    /// A grammar in llguidance's dialect of Lark.
    #[serde(default)]
    grammar: Option<String>,
    #[serde(default)]
    #[schema(ignore)]
    structural_tag: Asked,
    #[serde(default)]
    #[schema(ignore)]
    whitespace_pattern: Asked,
}

/// Every field that asks for a form, as it was sent.
#[derive(Default)]
pub(super) struct Forms {
    pub response_format: Option<ResponseFormat>,
    pub structured_outputs: Option<StructuredOutputs>,
    pub guided_json: Option<Value>,
    pub guided_regex: Option<String>,
    pub guided_choice: Option<Bounded<String, MAX_CHOICES>>,
    pub guided_grammar: Option<String>,
}

/// A list of choices, bounded while it is parsed.
pub(super) type Choices = Bounded<String, MAX_CHOICES>;

impl Forms {
    /// The form that was asked for, with the field that did.
    pub fn constraint(self) -> Result<Option<(&'static str, Constraint)>, ApiError> {
        let mut asked = Vec::new();
        asked.extend(self.response_format.map(ResponseFormat::constraint).transpose()?.flatten());
        if let Some(outputs) = self.structured_outputs {
            outputs.constraints(&mut asked)?;
        }
        if let Some(schema) = self.guided_json {
            asked.push(("guided_json", schema_of("guided_json", schema)?));
        }
        asked.extend(self.guided_regex.map(|r| ("guided_regex", Constraint::Regex(r))));
        asked.extend(self.guided_choice.map(|c| ("guided_choice", Constraint::Choice(c.0))));
        asked.extend(self.guided_grammar.map(|g| ("guided_grammar", Constraint::Grammar(g))));
        if let [(first, _), (second, _), ..] = asked[..] {
            let message =
                format!("`{first}` and `{second}` both ask for a form of the answer; send one of them");
            return Err(ApiError::invalid(second, message));
        }
        Ok(asked.pop())
    }
}

impl ResponseFormat {
    fn constraint(self) -> Result<Option<(&'static str, Constraint)>, ApiError> {
        let schema = self.json_schema.and_then(|format| format.schema);
        of_type(&self.r#type, schema, "response_format", "response_format.json_schema")
    }
}

/// The form that stands at `param`, by its type; its schema stands at `at`.
pub(super) fn of_type(
    kind: &str,
    schema: Option<Value>,
    param: &'static str,
    at: &'static str,
) -> Result<Option<(&'static str, Constraint)>, ApiError> {
    match (kind, schema) {
        ("text", _) => Ok(None),
        ("json_object", _) => Ok(Some((param, Constraint::JsonObject))),
        ("json_schema", Some(schema)) => Ok(Some((at, Constraint::JsonSchema(schema)))),
        ("json_schema", None) => Err(ApiError::invalid(at, format!("`{at}.schema` is missing"))),
        _ => {
            let message = format!("`{param}.type` must be `text`, `json_object` or `json_schema`");
            Err(ApiError::unsupported(param, message))
        }
    }
}

impl StructuredOutputs {
    fn constraints(self, asked: &mut Vec<(&'static str, Constraint)>) -> Result<(), ApiError> {
        refuse(
            &[
                ("structured_outputs.structural_tag", &self.structural_tag),
                ("structured_outputs.whitespace_pattern", &self.whitespace_pattern),
            ],
            &[],
        )?;
        if let Some(schema) = self.json {
            asked.push(("structured_outputs.json", schema_of("structured_outputs.json", schema)?));
        }
        if self.json_object == Some(true) {
            asked.push(("structured_outputs.json_object", Constraint::JsonObject));
        }
        asked.extend(self.regex.map(|r| ("structured_outputs.regex", Constraint::Regex(r))));
        asked.extend(self.choice.map(|c| ("structured_outputs.choice", Constraint::Choice(c.0))));
        asked.extend(self.grammar.map(|g| ("structured_outputs.grammar", Constraint::Grammar(g))));
        match asked.is_empty() {
            false => Ok(()),
            true => {
                let message = "`structured_outputs` must have one of `json`, `json_object`, `regex`, `choice`, `grammar`";
                Err(ApiError::invalid("structured_outputs", message))
            }
        }
    }
}

/// A schema, or the text of one.
fn schema_of(param: &'static str, schema: Value) -> Result<Constraint, ApiError> {
    let schema = match schema {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|e| ApiError::invalid(param, format!("`{param}` is no JSON: {e}")))?,
        other => other,
    };
    Ok(Constraint::JsonSchema(schema))
}
