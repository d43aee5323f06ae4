//! The words that some models want before a text, which tell what it is embedded for.
//!
//! `config_sentence_transformers.json` has them in a model's folder: `prompts`, from names to words, and
//! `default_prompt_name`. sentence-transformers writes empty ones where a model has none, so empty ones count as none.
//! The models of [`KNOWN`] say theirs in their descriptions only.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::Error;
use crate::model::weights::json::{self, MAX_CONFIG};
use crate::types::embed::Prompt;

const FILE: &str = "config_sentence_transformers.json";

/// Names for what is looked for, the first of them that there is: those that sentence-transformers' `encode_document`
/// knows.
const DOCUMENT: [&str; 3] = ["document", "passage", "corpus"];

/// What models want that say so in their descriptions, and by which part of its name such a model is known.
///
/// | name | described in |
/// |---|---|
/// | `multilingual-e5` | the model cards of `intfloat/multilingual-e5-small`, `-base` and `-large`: each input begins with one of both, also in other languages than English; those of `-instruct` want other words |
/// | `nomic-embed-text` | the model card of `nomic-ai/nomic-embed-text-v1.5`, which calls it a task instruction prefix |
const KNOWN: [(&str, &[(&str, &str)]); 2] = [
    ("multilingual-e5", &[("query", "query: "), ("document", "passage: ")]),
    (
        "nomic-embed-text",
        &[
            ("query", "search_query: "),
            ("document", "search_document: "),
            ("clustering", "clustering: "),
            ("classification", "classification: "),
        ],
    ),
];

/// A model's prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompts {
    by_name: BTreeMap<String, String>,
    /// The words for texts to which no name fits.
    default: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    prompts: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    default_prompt_name: Option<String>,
}

impl Prompts {
    /// Reads the folder's file, where there is one. A model without prompts of its own that goes by one of the
    /// `names` has those it is known for.
    ///
    /// # Errors
    /// A file that is broken, or whose default is none of its prompts.
    pub fn read<'n>(
        dir: Option<&Path>,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> Result<Prompts, Error> {
        let path = dir.map(|dir| dir.join(FILE));
        let file: Option<File> = match &path {
            Some(path) => json::read_optional(path, MAX_CONFIG)?,
            None => None,
        };
        let Some((path, File { prompts, default_prompt_name })) = path.zip(file) else {
            return Ok(Prompts::known(names));
        };
        let all = prompts.unwrap_or_default();
        let default = match &default_prompt_name {
            None => String::new(),
            Some(name) => match all.get(name) {
                Some(words) => words.clone().unwrap_or_default(),
                None => {
                    let (field, remedy) = ("default_prompt_name", "it names one of `prompts`");
                    return Err(Error::Unsupported { path, field, value: name.clone(), remedy });
                }
            },
        };
        let own = Prompts {
            by_name: all.into_iter().map(|(name, words)| (name, words.unwrap_or_default())).collect(),
            default,
        };
        let known = Prompts::known(names);
        let says = own.by_name.values().any(|words| !words.is_empty());
        Ok(if says || known == Prompts::default() { own } else { known })
    }

    /// Of a model that is known by one of these names.
    fn known<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Prompts {
        let is = |part: &str| {
            names.clone().map(str::to_lowercase).any(|n| n.contains(part) && !n.contains("instruct"))
        };
        let found = KNOWN.iter().find(|(part, _)| is(part)).map_or(&[][..], |(_, prompts)| prompts);
        let by_name = found.iter().map(|(name, words)| ((*name).to_owned(), (*words).to_owned())).collect();
        Prompts { by_name, default: String::new() }
    }

    /// What comes before a text.
    ///
    /// # Errors
    /// A name that this model does not have.
    pub fn of(&self, prompt: &Prompt) -> Result<&str, Error> {
        let get = |name: &str| self.by_name.get(name).map(String::as_str);
        let words = |name: &str| get(name).filter(|words| !words.is_empty());
        match prompt {
            Prompt::None => Ok(""),
            Prompt::Query => Ok(words("query").unwrap_or(&self.default)),
            Prompt::Document => Ok(DOCUMENT.iter().find_map(|name| words(name)).unwrap_or(&self.default)),
            Prompt::Named(name) => get(name).ok_or_else(|| Error::UnknownPrompt {
                name: name.chars().take(64).collect(),
                known: self.by_name.keys().cloned().collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: Option<&str>, names: &[&str]) -> Result<Prompts, Error> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = text {
            std::fs::write(dir.path().join(FILE), text).unwrap();
        }
        Prompts::read(Some(dir.path()), names.iter().copied())
    }

    #[test]
    fn the_files_words_go_before_those_a_model_is_known_for() {
        let file = r#"{"prompts": {"query": "ask: ", "passage": "say: ", "document": ""},
            "default_prompt_name": "passage"}"#;
        let prompts = read(Some(file), &["multilingual-e5-small"]).unwrap();
        assert_eq!(prompts.of(&Prompt::None).unwrap(), "");
        assert_eq!(prompts.of(&Prompt::Query).unwrap(), "ask: ");
        assert_eq!(prompts.of(&Prompt::Document).unwrap(), "say: ");
        assert_eq!(prompts.of(&Prompt::Named("passage".into())).unwrap(), "say: ");
        assert_eq!(prompts.of(&Prompt::Named("document".into())).unwrap(), "");
        let error = prompts.of(&Prompt::Named("other".into())).unwrap_err().to_string();
        assert!(error.contains("other") && error.contains("document, passage, query"), "{error}");
        let only = read(Some(r#"{"prompts": {"a": "x"}, "default_prompt_name": "a"}"#), &[]).unwrap();
        assert_eq!(only.of(&Prompt::Query).unwrap(), "x", "the default");
    }

    #[test]
    fn models_that_say_nothing_have_what_they_are_known_for() {
        let empty = r#"{"prompts": {"query": "", "document": ""}, "default_prompt_name": null}"#;
        for file in [None, Some("{}"), Some(empty)] {
            let e5 = read(file, &["mine", "intfloat/Multilingual-E5-small"]).unwrap();
            assert_eq!(e5.of(&Prompt::Query).unwrap(), "query: ");
            assert_eq!(e5.of(&Prompt::Document).unwrap(), "passage: ");
            let nomic = read(file, &["nomic-embed-text-v1.5"]).unwrap();
            assert_eq!(nomic.of(&Prompt::Document).unwrap(), "search_document: ");
            for other in ["bge-m3", "multilingual-e5-large-instruct"] {
                assert_eq!(read(file, &[other]).unwrap().of(&Prompt::Query).unwrap(), "");
            }
        }
        assert_eq!(Prompts::default().of(&Prompt::Query).unwrap(), "");
    }

    #[test]
    fn files_that_lie_are_refused() {
        assert!(read(Some("["), &[]).is_err());
        assert!(read(Some(r#"{"prompts": {"a": 1}}"#), &[]).is_err());
        let error = read(Some(r#"{"prompts": {}, "default_prompt_name": "b"}"#), &[]).unwrap_err();
        assert!(error.to_string().contains("default_prompt_name"), "{error}");
    }
}
