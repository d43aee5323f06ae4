//! What templates expect of Python: its JSON and its dates.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use time::OffsetDateTime;
use time::format_description::{self, OwnedFormatItem};

/// Levels of nesting that [`to_json`] follows.
const MAX_DEPTH: usize = 64;

/// `json.dumps(value, ensure_ascii=False)`: a space after commas and colons, or one item a line with `indent`.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Named by templates now and then; the defaults are what they ask for.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<Value> = options.get("separators")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut out = String::new();
    put(&mut out, value, indent.map(|n| n.min(16)), 0)?;
    Ok(Value::from_safe_string(out))
}

/// What `json.loads` gives.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), ..) => Value::from(n),
            (None, Some(n), _) => Value::from(n),
            (None, None, x) => Value::from(x.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(map) => {
            Value::from_pairs(map.iter().map(|(name, value)| (name.as_str(), from_json(value))))
        }
    }
}

fn put(out: &mut String, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deep"));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            put_items(out, ('[', ']'), &items, indent, depth, |out, item| put(out, item, indent, depth + 1))
        }
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter()?.collect();
            put_items(out, ('{', '}'), &keys, indent, depth, |out, key| {
                put(out, &Value::from(key.to_string()), indent, depth + 1)?;
                out.push_str(": ");
                put(out, &value.get_item(key)?, indent, depth + 1)
            })
        }
        ValueKind::None | ValueKind::Undefined => {
            out.push_str("null");
            Ok(())
        }
        ValueKind::Bool => {
            out.push_str(if value.is_true() { "true" } else { "false" });
            Ok(())
        }
        ValueKind::Number => {
            let _ = write!(out, "{value}");
            Ok(())
        }
        _ => {
            let text = serde_json::to_string(&value.to_string())
                .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?;
            out.push_str(&text);
            Ok(())
        }
    }
}

fn put_items(
    out: &mut String,
    (open, close): (char, char),
    items: &[Value],
    indent: Option<usize>,
    depth: usize,
    mut put: impl FnMut(&mut String, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |out: &mut String, depth: usize| {
        if let Some(n) = indent.filter(|_| !items.is_empty()) {
            let _ = write!(out, "\n{:1$}", "", n * depth);
        }
    };
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        new_line(out, depth + 1);
        put(out, item)?;
    }
    new_line(out, depth);
    out.push(close);
    Ok(())
}

/// `datetime.now().strftime(format)`.
pub(super) fn strftime(format: &str, now: OffsetDateTime) -> Result<String, Error> {
    let bad = |e: String| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}"));
    let items: OwnedFormatItem =
        format_description::parse_strftime_owned(format).map_err(|e| bad(e.to_string()))?;
    now.format(&items).map_err(|e| bad(e.to_string()))
}
