//! Filters by attributes, as searches and the tool `file_search` have them.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::http::ApiError;
use crate::types::store::{Field, Filter, Range, Scalar};

/// Comparisons within comparisons.
const DEPTH: usize = 8;
/// Comparisons of one filter.
const MOST: usize = 256;

/// A comparison of an attribute, or several that are joined.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = AttributeFilter, no_recursion)]
#[serde(untagged)]
pub(crate) enum WireFilter {
    Compare {
        /// `eq`, `ne`, `gt`, `gte`, `lt`, `lte`, `in` or `nin`.
        r#type: String,
        key: String,
        /// A text, a number or a truth; for `in` and `nin` a list of such.
        #[schema(value_type = Object)]
        value: Value,
    },
    Join {
        /// `and` or `or`.
        r#type: String,
        filters: Vec<WireFilter>,
    },
}

impl WireFilter {
    /// In the store's terms.
    pub fn read(&self) -> Result<Filter, ApiError> {
        self.within(DEPTH, &mut 0)
    }

    fn within(&self, depth: usize, count: &mut usize) -> Result<Filter, ApiError> {
        *count += 1;
        if depth == 0 || *count > MOST {
            return Err(wrong(format!(
                "has more than {MOST} comparisons, or more than {DEPTH} within each other"
            )));
        }
        match self {
            WireFilter::Join { r#type, filters } => {
                let filters = filters.iter().map(|filter| filter.within(depth - 1, count));
                let filters = filters.collect::<Result<Vec<_>, _>>()?;
                match r#type.as_str() {
                    "and" => Ok(Filter::All(filters)),
                    "or" => Ok(Filter::Any(filters)),
                    _ => Err(wrong("joins by `and` or `or`".to_owned())),
                }
            }
            WireFilter::Compare { r#type, key, value } => {
                let field = Field::Payload(format!("attributes.{key}"));
                let number =
                    || value.as_f64().ok_or_else(|| wrong(format!("compares `{key}` with no number")));
                let range = |range: Range| Filter::Within(field.clone(), range);
                Ok(match r#type.as_str() {
                    "eq" => Filter::In(field, vec![scalar(key, value)?]),
                    "ne" => Filter::Not(Box::new(Filter::In(field, vec![scalar(key, value)?]))),
                    "gt" => range(Range { gt: Some(number()?), ..Range::default() }),
                    "gte" => range(Range { gte: Some(number()?), ..Range::default() }),
                    "lt" => range(Range { lt: Some(number()?), ..Range::default() }),
                    "lte" => range(Range { lte: Some(number()?), ..Range::default() }),
                    "in" => Filter::In(field, scalars(key, value)?),
                    "nin" => Filter::Not(Box::new(Filter::In(field, scalars(key, value)?))),
                    _ => {
                        return Err(wrong(
                            "compares by `eq`, `ne`, `gt`, `gte`, `lt`, `lte`, `in` or `nin`".to_owned(),
                        ));
                    }
                })
            }
        }
    }
}

fn wrong(what: String) -> ApiError {
    ApiError::invalid("filters", format!("`filters` {what}"))
}

fn scalar(key: &str, value: &Value) -> Result<Scalar, ApiError> {
    match value {
        Value::String(text) => Ok(Scalar::Text(text.clone())),
        Value::Bool(truth) => Ok(Scalar::Bool(*truth)),
        Value::Number(number) => Ok(Scalar::Number(number.as_f64().unwrap_or(f64::NAN))),
        _ => Err(wrong(format!("compares `{key}` with neither a text, a number nor a truth"))),
    }
}

fn scalars(key: &str, value: &Value) -> Result<Vec<Scalar>, ApiError> {
    let list = value.as_array().ok_or_else(|| wrong(format!("needs a list for `{key}`")))?;
    list.iter().map(|value| scalar(key, value)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(filter: Value) -> Result<Filter, ApiError> {
        serde_json::from_value::<WireFilter>(filter).unwrap().read()
    }

    #[test]
    fn filters_are_read_and_bounded() {
        let year = Field::Payload("attributes.year".to_owned());
        let after = json!({"type": "gte", "key": "year", "value": 2020});
        let range = Range { gte: Some(2020.0), ..Range::default() };
        assert_eq!(read(after.clone()).unwrap(), Filter::Within(year.clone(), range));
        let both =
            json!({"type": "and", "filters": [after, {"type": "nin", "key": "year", "value": [2021]}]});
        let not = Filter::Not(Box::new(Filter::In(year.clone(), vec![Scalar::Number(2021.0)])));
        assert_eq!(read(both).unwrap(), Filter::All(vec![Filter::Within(year, range), not]));
        let mut deep = json!({"type": "eq", "key": "a", "value": true});
        for _ in 0..DEPTH {
            deep = json!({"type": "or", "filters": [deep]});
        }
        for refused in [
            deep,
            json!({"type": "like", "key": "a", "value": "b"}),
            json!({"type": "gt", "key": "a", "value": "b"}),
            json!({"type": "in", "key": "a", "value": "b"}),
            json!({"type": "eq", "key": "a", "value": {}}),
            json!({"type": "xor", "filters": []}),
        ] {
            assert!(read(refused.clone()).is_err(), "{refused}");
        }
    }
}
