//! Calls of tools as a grammar: what an answer is that must call one.

use serde_json::{Value, json};

use super::grammar::{Error, prepared};
use crate::text::tools::{HERMES, MISTRAL};
use crate::types::llm::{CallFormat, Tool};

/// Calls of one answer, where several are allowed.
const MAX_CALLS: usize = 8;
/// Bytes of all tools' schemas together, as the grammar has them.
const MAX_BYTES: usize = 256 << 10;

/// A Lark grammar of one call, or up to [`MAX_CALLS`], of these tools in a model's own form. `opener` is the control
/// token that opens a list of calls.
///
/// An object schema that does not speak of further properties is taken to have none: a small model finds no end of
/// inventing them otherwise, and what it writes is valid all the same.
///
/// # Errors
/// A tool's schema cannot be used.
pub(super) fn grammar(
    format: CallFormat,
    tools: &[Tool],
    parallel: bool,
    opener: Option<u32>,
) -> Result<String, Error> {
    let more = |separator: &str| match parallel {
        true => format!(" ({} call)~0..{}", literal(separator), MAX_CALLS - 1),
        false => String::new(),
    };
    let (before, after) = match format {
        CallFormat::Hermes => (format!("{}\n", HERMES.0), format!("\n{}", HERMES.1)),
        _ => (String::new(), String::new()),
    };
    let key = if format == CallFormat::Llama3 { "parameters" } else { "arguments" };
    let mut text = match format {
        CallFormat::Hermes => format!("start: call{}\n", more("\n")),
        CallFormat::Mistral => {
            let opener = opener.map_or_else(|| literal(MISTRAL), |id| format!("<[{id}]>"));
            format!("start: {opener} {} call{} {}\n", literal("["), more(", "), literal("]"))
        }
        // Readers of these forms find one object.
        CallFormat::Llama3 | CallFormat::Json => "start: call\n".to_owned(),
    };
    let names: Vec<String> = (0..tools.len()).map(|at| format!("call{at}")).collect();
    text.push_str(&format!("call: {}\n", names.join(" | ")));
    for (rule, tool) in names.iter().zip(tools) {
        let open = literal(&format!("{before}{{\"name\": \"{}\", \"{key}\": ", tool.name));
        let schema = prepared(&parameters(tool), tool.strict)
            .map_err(|e| Error::Constraint(format!("the parameters of {}: {e}", tool.name)))?;
        text.push_str(&format!("{rule}: {open} {rule}_arguments {}\n", literal(&format!("}}{after}"))));
        text.push_str(&format!("{rule}_arguments: %json {schema}\n"));
        if text.len() > MAX_BYTES {
            return Err(Error::Constraint(format!("the tools together have more than {MAX_BYTES} bytes")));
        }
    }
    Ok(text)
}

/// A string of Lark, which is one of JSON.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

fn parameters(tool: &Tool) -> Value {
    let mut schema = match &tool.parameters {
        Some(Value::Object(map)) if !map.is_empty() => Value::Object(map.clone()),
        _ => json!({"type": "object", "properties": {}}),
    };
    if schema.get("type").is_none() && schema.get("properties").is_some() {
        schema["type"] = "object".into();
    }
    // Schemas that are put together may each speak of their own part.
    if !schema.to_string().contains("\"allOf\"") {
        close(&mut schema);
    }
    schema
}

/// Closes object schemas that are not put together with others.
fn close(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Object(map) => {
            let joined = ["allOf", "anyOf", "oneOf", "$ref", "patternProperties", "additionalProperties"];
            if map.get("properties").is_some_and(Value::is_object)
                && !joined.iter().any(|k| map.contains_key(*k))
            {
                map.insert("additionalProperties".to_owned(), false.into());
            }
            for (key, value) in map.iter_mut() {
                match key.as_str() {
                    "items" | "anyOf" | "prefixItems" => close(value),
                    "properties" | "$defs" | "definitions" => {
                        value.as_object_mut().into_iter().flat_map(|m| m.values_mut()).for_each(close);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}
