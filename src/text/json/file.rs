//! What a `tokenizer.json` holds, as it is written.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

#[derive(Deserialize)]
pub struct File {
    #[serde(default)]
    pub added_tokens: Vec<Added>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    pub model: Model,
}

/// A token that is matched in text before all others.
#[derive(Deserialize)]
pub struct Added {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    /// Takes the white space before it, and after it.
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub special: bool,
}

#[derive(Deserialize)]
pub struct Model {
    pub vocab: HashMap<String, u32>,
    pub merges: Vec<Merge>,
    pub unk_token: Option<String>,
    #[serde(default)]
    pub fuse_unk: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
}

/// `["left", "right"]`, or as it was before, `"left right"`.
pub struct Merge(pub String, pub String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens, as a list or with a space between them")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                match text.split_once(' ') {
                    Some((l, r)) if !r.contains(' ') => Ok(Merge(l.to_owned(), r.to_owned())),
                    _ => Err(E::custom(format!("{text:?} is not two tokens with a space between them"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let mut next =
                    || list.next_element::<String>()?.ok_or_else(|| A::Error::invalid_length(0, &self));
                let merge = Merge(next()?, next()?);
                match list.next_element::<String>()? {
                    None => Ok(merge),
                    Some(_) => Err(A::Error::invalid_length(3, &self)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The kind of model, before the rest is read: other kinds have other fields.
#[derive(Deserialize)]
struct Kinds {
    model: Kind,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl File {
    pub fn parse(bytes: &[u8]) -> Result<File, String> {
        match read::<Kinds>(bytes)?.model.kind.as_deref() {
            Some("BPE") | None => read(bytes),
            Some(other) => Err(format!("model.type: `{other}` is not supported for chat models; BPE is")),
        }
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let json = &mut serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(json).map_err(|e| e.to_string())
}
