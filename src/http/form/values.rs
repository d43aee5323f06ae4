//! The text fields of a form: found by name, read as what they are to be, refused by name.

use std::fmt::Display;
use std::str::FromStr;

use crate::http::ApiError;

/// Entries of one list.
const MAX_ITEMS: usize = 1024;
/// Longest part of a wrong value that an error repeats.
const MAX_SHOWN: usize = 40;

/// The fields in the order they came. Those that are blank ask for nothing and are left out.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Values(Vec<(String, String)>);

/// A field as it was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    /// With the `[]` that clients put behind the names of lists.
    pub name: &'a str,
    pub text: &'a str,
}

/// All that was sent under one name.
#[derive(Debug, PartialEq)]
pub(crate) struct List {
    /// As it was sent.
    pub name: String,
    pub items: Vec<String>,
    /// It was written as a list, whatever its length.
    pub listed: bool,
}

impl<'a> Field<'a> {
    /// An error that names the field and repeats its value: "`beam_size` is x; it must be ...".
    pub fn wrong(self, must: impl Display) -> ApiError {
        let shown: String = self.text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
        ApiError::invalid(self.name.to_owned(), format!("`{}` is {shown}; it must be {must}", self.name))
    }

    fn bare(self) -> &'a str {
        self.name.strip_suffix("[]").unwrap_or(self.name)
    }

    fn within<T: FromStr + PartialOrd + Display>(self, min: T, max: T, what: &str) -> Result<T, ApiError> {
        match self.text.parse::<T>() {
            Ok(value) if value >= min && value <= max => Ok(value),
            _ => Err(self.wrong(format_args!("{what} from {min} to {max}"))),
        }
    }
}

impl Values {
    /// Of names and texts.
    pub fn new(fields: Vec<(String, String)>) -> Values {
        let trimmed = fields.into_iter().map(|(name, text)| (name, text.trim().to_owned()));
        Values(trimmed.filter(|(_, text)| !text.is_empty()).collect())
    }

    /// Of the fields of a JSON object; lists and objects as JSON.
    pub fn of_json(fields: serde_json::Map<String, serde_json::Value>) -> Values {
        use serde_json::Value;
        let text = |(name, value)| match value {
            Value::Null => None,
            Value::String(text) => Some((name, text)),
            other => Some((name, other.to_string())),
        };
        Values::new(fields.into_iter().filter_map(text).collect())
    }

    /// The names and texts.
    pub fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }

    fn named(&self, names: &[&str]) -> impl DoubleEndedIterator<Item = Field<'_>> {
        let fields = self.0.iter().map(|(name, text)| Field { name, text });
        fields.filter(move |field| names.contains(&field.bare()))
    }

    /// All fields of these names, in order.
    pub fn all(&self, names: &[&str]) -> Vec<Field<'_>> {
        self.named(names).collect()
    }

    /// The field that has one of these names; of several the last.
    pub fn last(&self, names: &[&str]) -> Option<Field<'_>> {
        self.named(names).next_back()
    }

    /// Those whose names are `name[KEY]`, with their keys.
    pub fn keyed(&self, name: &str) -> Vec<(&str, Field<'_>)> {
        let fields = self.0.iter().map(|(name, text)| Field { name, text });
        let keyed = fields.filter_map(|field| {
            let key = field.name.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?;
            (!key.is_empty()).then_some((key, field))
        });
        keyed.collect()
    }

    /// A text of at most `max` bytes.
    pub fn text(&self, names: &[&str], max: usize) -> Result<Option<String>, ApiError> {
        match self.last(names) {
            Some(field) if field.text.len() > max => {
                let message = format!("`{}` is longer than {max} bytes", field.name);
                Err(ApiError::invalid(field.name.to_owned(), message))
            }
            field => Ok(field.map(|field| field.text.to_owned())),
        }
    }

    /// Yes or no, as forms, Python and shells write it.
    pub fn flag(&self, names: &[&str]) -> Result<Option<bool>, ApiError> {
        let flag = self.last(names).map(|field| match field.text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(field.wrong("true or false")),
        });
        flag.transpose()
    }

    /// A number within bounds.
    pub fn number(&self, names: &[&str], (min, max): (f32, f32)) -> Result<Option<f32>, ApiError> {
        self.last(names).map(|field| field.within(min, max, "a number")).transpose()
    }

    /// A number within bounds, or `none`, which turns off what it is the bound of.
    pub fn threshold(&self, names: &[&str], bounds: (f32, f32)) -> Result<Option<Option<f32>>, ApiError> {
        match self.last(names) {
            Some(field) if ["none", "null"].contains(&field.text.to_ascii_lowercase().as_str()) => {
                Ok(Some(None))
            }
            _ => Ok(self.number(names, bounds)?.map(Some)),
        }
    }

    /// A whole number within bounds.
    pub fn whole(&self, names: &[&str], (min, max): (u64, u64)) -> Result<Option<u64>, ApiError> {
        self.last(names).map(|field| field.within(min, max, "a whole number")).transpose()
    }

    /// What was sent once or several times, separated by commas, or as JSON.
    pub fn list(&self, names: &[&str]) -> Result<Option<List>, ApiError> {
        let mut list: Option<List> = None;
        for field in self.named(names) {
            let list = list.get_or_insert_with(|| List {
                name: field.name.to_owned(),
                items: Vec::new(),
                listed: field.name.ends_with(']'),
            });
            let json = field.text.starts_with('[');
            list.items.extend(if json { json_items(field)? } else { items(field.text) });
            list.listed |= json || list.items.len() > 1;
            if list.items.len() > MAX_ITEMS {
                let message = format!("`{}` has more than {MAX_ITEMS} entries", list.name);
                return Err(ApiError::invalid(list.name.clone(), message));
            }
        }
        Ok(list)
    }
}

fn items(text: &str) -> Vec<String> {
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn json_items(field: Field<'_>) -> Result<Vec<String>, ApiError> {
    let must = "a list of strings or numbers";
    let values: Vec<serde_json::Value> = serde_json::from_str(field.text).map_err(|_| field.wrong(must))?;
    let item = |value| match value {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        _ => Err(field.wrong(must)),
    };
    values.into_iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        Values::new(pairs.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect())
    }

    #[test]
    fn the_last_of_a_name_counts_and_blank_is_nothing() {
        let form = values(&[("a", "1"), ("b", " 2 "), ("a", " "), ("c", "3")]);
        assert_eq!(form.last(&["a", "b"]).unwrap().text, "2");
        assert_eq!(form.whole(&["a"], (1, 1)).unwrap(), Some(1));
        assert_eq!(form.whole(&["d"], (1, 1)).unwrap(), None);
        for (text, flag) in [("True", true), ("on", true), ("0", false), ("no", false)] {
            assert_eq!(values(&[("x", text)]).flag(&["x"]).unwrap(), Some(flag));
        }
    }

    #[test]
    fn lists_come_in_three_ways() {
        let list = |pairs: &[(&str, &str)]| values(pairs).list(&["x"]).unwrap().unwrap();
        for pairs in [&[("x[]", "a"), ("x[]", "b")][..], &[("x", "a, b,")], &[("x", r#"["a", "b"]"#)]] {
            let list = list(pairs);
            assert_eq!((list.items, list.listed), (vec!["a".to_owned(), "b".to_owned()], true), "{pairs:?}");
        }
        assert!(!list(&[("x", "0")]).listed && list(&[("x", "[0]")]).listed && list(&[("x[]", "0")]).listed);
        assert_eq!(list(&[("x", "[1, 0.5]")]).items, ["1", "0.5"]);
        let long = "a,".repeat(MAX_ITEMS + 1);
        for bad in ["[", "[[]]", "[null]", &long] {
            assert!(values(&[("x", bad)]).list(&["x"]).is_err(), "{bad:.20}");
        }
    }

    #[test]
    fn keys_are_found_in_brackets() {
        let form = values(&[("x[a]", "1"), ("x[b]", "2"), ("x[]", "3"), ("x", "4"), ("yx[c]", "5")]);
        let keys: Vec<_> = form.keyed("x").into_iter().map(|(key, field)| (key, field.text)).collect();
        assert_eq!(keys, [("a", "1"), ("b", "2")]);
    }

    #[test]
    fn what_is_wrong_is_named_and_cut() {
        let form = values(&[("x", &"9".repeat(500)), ("y", "NaN"), ("z", "none")]);
        let error = form.whole(&["x"], (1, 5)).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("x"));
        assert!(error.message.len() < 120 && error.message.ends_with("a whole number from 1 to 5"));
        assert!(form.number(&["y"], (0.0, 1.0)).is_err() && form.number(&["z"], (0.0, 1.0)).is_err());
        assert_eq!(form.threshold(&["z"], (0.0, 1.0)).unwrap(), Some(None));
        assert!(form.text(&["x"], 10).is_err());
    }
}
