//! Field types that are bounded while they are parsed: nothing is kept beyond its limit, and an error names
//! the field it is in.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use crate::http::ApiError;

/// Prompts or texts in one request.
pub(super) const MAX_INPUTS: usize = 2048;
/// Messages in one conversation.
pub(super) const MAX_MESSAGES: usize = 8192;
/// Parts of one message.
pub(super) const MAX_PARTS: usize = 1024;
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
const MAX_MODEL_BYTES: usize = 256;
const MAX_BIASES: usize = 1024;
const MAX_BIAS: f32 = 100.0;

/// A list of at most `N`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bounded<T, const N: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Bounded<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
            type Value = Bounded<T, N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N}")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                collect(Vec::new(), seq, N).map(Bounded)
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

fn collect<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    mut items: Vec<T>,
    mut seq: A,
    max: usize,
) -> Result<Vec<T>, A::Error> {
    while let Some(item) = seq.next_element()? {
        if items.len() == max {
            return Err(A::Error::custom(format!("more than {max} entries")));
        }
        items.push(item);
    }
    Ok(items)
}

/// The name of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelName(pub String);

impl ModelName {
    /// Takes a name of a sane length.
    pub fn new(name: String) -> Result<ModelName, String> {
        if name.is_empty() || name.len() > MAX_MODEL_BYTES || name.chars().any(char::is_control) {
            return Err(format!("a model's name has 1 to {MAX_MODEL_BYTES} bytes and no control characters"));
        }
        Ok(ModelName(name))
    }
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ModelName::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A field that this server does not honour: only whether it asks for something is kept. Null, false, 0 and
/// whatever is empty ask for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Asked {
    #[default]
    Nothing,
    /// A short word, such as `auto`.
    Word(String),
    Something,
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Asked;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }
            fn visit_unit<E: Error>(self) -> Result<Asked, E> {
                Ok(Asked::Nothing)
            }
            fn visit_bool<E: Error>(self, on: bool) -> Result<Asked, E> {
                Ok(if on { Asked::Something } else { Asked::Nothing })
            }
            fn visit_u64<E: Error>(self, n: u64) -> Result<Asked, E> {
                self.visit_bool(n != 0)
            }
            fn visit_i64<E: Error>(self, n: i64) -> Result<Asked, E> {
                self.visit_bool(n != 0)
            }
            fn visit_f64<E: Error>(self, x: f64) -> Result<Asked, E> {
                self.visit_bool(x != 0.0)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Asked, E> {
                Ok(match text.len() {
                    0 => Asked::Nothing,
                    1..=32 => Asked::Word(text.to_owned()),
                    _ => Asked::Something,
                })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Asked, A::Error> {
                let mut any = false;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    any = true;
                }
                self.visit_bool(any)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asked, A::Error> {
                let mut any = false;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    any = true;
                }
                self.visit_bool(any)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Refuses the first field that asks for something, unless by a word of `harmless`.
pub(super) fn refuse(fields: &[(&'static str, &Asked)], harmless: &[&str]) -> Result<(), ApiError> {
    for (name, asked) in fields {
        let asks = match asked {
            Asked::Nothing => false,
            Asked::Word(word) => !harmless.contains(&word.as_str()),
            Asked::Something => true,
        };
        if asks {
            let message = format!("`{name}` is not supported by this server; leave it out");
            return Err(ApiError::unsupported(*name, message));
        }
    }
    Ok(())
}

/// What is added to the logits of some tokens: a map from their ids, as strings, to numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LogitBias(pub Vec<(u32, f32)>);

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Biases;
        impl<'de> Visitor<'de> for Biases {
            type Value = LogitBias;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from token ids to numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
                let mut biases = Vec::new();
                while let Some((token, bias)) = map.next_entry::<String, f32>()? {
                    if biases.len() == MAX_BIASES {
                        return Err(A::Error::custom(format!("more than {MAX_BIASES} entries")));
                    }
                    let Ok(token) = token.parse() else {
                        return Err(A::Error::custom("a key is not a token id"));
                    };
                    if !(-MAX_BIAS..=MAX_BIAS).contains(&bias) {
                        return Err(A::Error::custom(format!(
                            "{bias} is not from -{MAX_BIAS} to {MAX_BIAS}"
                        )));
                    }
                    biases.push((token, bias));
                }
                Ok(LogitBias(biases))
            }
        }
        deserializer.deserialize_map(Biases)
    }
}

/// Strings that end an answer: one, or a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stop(pub Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Stop;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_unit<E: Error>(self) -> Result<Stop, E> {
                Ok(Stop::default())
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Stop, E> {
                checked(vec![text.to_owned()])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Stop, A::Error> {
                checked(collect(Vec::new(), seq, MAX_STOPS)?)
            }
        }
        /// An empty string would end every answer before it began; clients send it to say "none".
        fn checked<E: Error>(mut stops: Vec<String>) -> Result<Stop, E> {
            stops.retain(|stop| !stop.is_empty());
            match stops.iter().all(|stop| stop.len() <= MAX_STOP_BYTES) {
                true => Ok(Stop(stops)),
                false => Err(E::custom(format!("a stop string has at most {MAX_STOP_BYTES} bytes"))),
            }
        }
        deserializer.deserialize_any(Strings)
    }
}

/// What a message says: text, a list of text parts, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content(pub Option<String>);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Part {
            r#type: String,
            #[serde(default)]
            text: Option<String>,
        }
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of text parts")
            }
            fn visit_unit<E: Error>(self) -> Result<Content, E> {
                Ok(Content(None))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content(Some(text.to_owned())))
            }
            fn visit_string<E: Error>(self, text: String) -> Result<Content, E> {
                Ok(Content(Some(text)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut whole = String::new();
                let mut count = 0;
                while let Some(part) = seq.next_element::<Part>()? {
                    count += 1;
                    if count > MAX_PARTS {
                        return Err(A::Error::custom(format!("more than {MAX_PARTS} parts")));
                    }
                    match (part.r#type.as_str(), part.text) {
                        ("text", Some(text)) => whole.push_str(&text),
                        ("text", None) => return Err(A::Error::missing_field("text")),
                        _ => return Err(A::Error::custom("this server reads only parts of type `text`")),
                    }
                }
                Ok(Content(Some(whole)))
            }
        }
        deserializer.deserialize_any(Parts)
    }
}

/// One text or list of token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

/// What to embed or continue: a string, a list of strings, a list of token ids, or a list of such lists. A
/// bare list of ids is one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inputs(pub Vec<Input>);

/// One entry of the outermost list.
enum Entry {
    Input(Input),
    Id(u32),
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry::Input(Input::Text(text.to_owned())))
            }
            fn visit_u64<E: Error>(self, id: u64) -> Result<Entry, E> {
                let wrong = || E::invalid_value(de::Unexpected::Unsigned(id), &"a token id");
                u32::try_from(id).map(Entry::Id).map_err(|_| wrong())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Entry, A::Error> {
                collect(Vec::new(), seq, usize::MAX).map(|ids| Entry::Input(Input::Tokens(ids)))
            }
        }
        deserializer.deserialize_any(One)
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Inputs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list of strings, a list of token ids or a list of such lists")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Inputs, E> {
                Ok(Inputs(vec![Input::Text(text.to_owned())]))
            }
            fn visit_string<E: Error>(self, text: String) -> Result<Inputs, E> {
                Ok(Inputs(vec![Input::Text(text)]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Inputs, A::Error> {
                let mut inputs = Vec::new();
                match seq.next_element()? {
                    None => return Ok(Inputs(inputs)),
                    Some(Entry::Id(first)) => {
                        let mut ids = vec![first];
                        while let Some(id) = seq.next_element()? {
                            ids.push(id);
                        }
                        return Ok(Inputs(vec![Input::Tokens(ids)]));
                    }
                    Some(Entry::Input(input)) => inputs.push(input),
                }
                while let Some(entry) = seq.next_element()? {
                    match entry {
                        Entry::Id(_) => return Err(A::Error::custom("a token id among texts or lists")),
                        Entry::Input(_) if inputs.len() == MAX_INPUTS => {
                            return Err(A::Error::custom(format!("more than {MAX_INPUTS} inputs")));
                        }
                        Entry::Input(input) => inputs.push(input),
                    }
                }
                Ok(Inputs(inputs))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A number within bounds.
pub(super) fn within(
    param: &'static str,
    value: Option<f64>,
    (min, max): (f64, f64),
    default: f32,
) -> Result<f32, ApiError> {
    match value {
        None => Ok(default),
        Some(x) if x >= min && x <= max => Ok(x as f32),
        Some(x) => Err(ApiError::invalid(param, format!("`{param}` is {x}; it must be from {min} to {max}"))),
    }
}
