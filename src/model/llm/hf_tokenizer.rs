//! The tokenizer and the chat template of a Hugging Face folder.
//!
//! | file | what is read |
//! |---|---|
//! | `tokenizer.json` | the tokenizer: [`crate::text::json`] |
//! | `tokenizer_config.json` | `bos_token`, `eos_token`, `add_bos_token`, `add_eos_token`, `chat_template` |
//! | `chat_template.jinja` | the chat template, which goes before that of `tokenizer_config.json` |
//! | `generation_config.json`, `config.json` | `eos_token_id`, one or a list: tokens that end an answer |

use std::path::Path;

use serde_json::Value;

use super::tokenizer::Error;
use crate::model::weights::{self, WeightsFile, json};
use crate::text::json::{self as tokenizer_json, Named, Roles};
use crate::text::{self, ChatTemplate, Tokenizer};

/// No template comes near this.
const MAX_TEMPLATE: u64 = 1 << 20;
/// The most tokens that end an answer.
const MAX_ENDS: usize = 64;

/// A folder's files beside its weights.
struct Files<'f> {
    folder: &'f Path,
    tokenizer: Value,
    generation: Value,
    model: Value,
}

/// Reads both from the files of a folder.
///
/// # Errors
/// Names the file and the field.
pub(super) fn read(folder: &Path) -> Result<(Tokenizer, ChatTemplate), Error> {
    let file = |name: &str| -> Result<Value, Error> {
        Ok(json::read_optional(&folder.join(name), json::MAX_CONFIG)?.unwrap_or_default())
    };
    let tokenizer = file("tokenizer_config.json")?;
    let files =
        Files { folder, tokenizer, generation: file("generation_config.json")?, model: file("config.json")? };
    let roles = files.roles()?;
    let path = folder.join("tokenizer.json");
    let tokenizer = tokenizer_json::open(&path, &roles).map_err(Error::Json)?;
    let template = files.template(&tokenizer)?;
    Ok((tokenizer, template))
}

fn in_file(path: &Path, source: text::Error) -> Error {
    Error::Text { path: path.display().to_string(), source }
}

impl Files<'_> {
    fn wrong(&self, file: &str, field: &str, problem: &str) -> Error {
        weights::Error::malformed(&self.folder.join(file), field, problem).into()
    }

    fn roles(&self) -> Result<Roles<'_>, Error> {
        let mut ends = Vec::new();
        for (file, value) in [("generation_config.json", &self.generation), ("config.json", &self.model)] {
            ends.extend(self.ids(file, value, "eos_token_id")?);
        }
        let begins = self.ids("config.json", &self.model, "bos_token_id")?;
        let bos = self.token("bos_token", begins.first())?;
        let eos = self.token("eos_token", ends.first())?;
        let flag = |field: &str| self.tokenizer.get(field).and_then(Value::as_bool);
        let frame = match (flag("add_bos_token"), flag("add_eos_token")) {
            (None, None) => None,
            (begins, ends) => Some((begins.unwrap_or(false), ends.unwrap_or(false))),
        };
        Ok(Roles { bos, eos, ends, frame })
    }

    /// A token by its text, which may be the `content` of an object; `else_id` where nothing is said of it.
    fn token(&self, field: &str, else_id: Option<&u32>) -> Result<Option<Named<'_>>, Error> {
        let value = match self.tokenizer.get(field) {
            None => return Ok(else_id.copied().map(Named::Id)),
            Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        match value.as_str().or_else(|| value.get("content")?.as_str()) {
            Some(text) => Ok(Some(Named::Text(text))),
            None => Err(self.wrong("tokenizer_config.json", field, "is no token")),
        }
    }

    /// One id or a list of them.
    fn ids(&self, file: &str, value: &Value, field: &str) -> Result<Vec<u32>, Error> {
        let list = match value.get(field) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = list.iter().map(id).collect();
        match ids.filter(|ids| ids.len() <= MAX_ENDS) {
            Some(ids) => Ok(ids),
            None => Err(self.wrong(file, field, "is no token id and no list of a few")),
        }
    }

    fn template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate, Error> {
        let path = self.folder.join("chat_template.jinja");
        let (source, path) = match path.try_exists() {
            Ok(false) => (self.own_template()?, self.folder.join("tokenizer_config.json")),
            _ => (Some(text_of(&path)?), path),
        };
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or_default();
        ChatTemplate::new(source.as_deref(), &token(tokenizer.bos()), &token(tokenizer.eos()))
            .map_err(|source| in_file(&path, source))
    }

    /// The template in `tokenizer_config.json`: of several, the one called `default`.
    fn own_template(&self) -> Result<Option<String>, Error> {
        const FIELD: &str = "chat_template";
        let named = |list: &Vec<Value>| {
            let default = |t: &&Value| t.get("name").and_then(Value::as_str) == Some("default");
            Some(list.iter().find(default)?.get("template")?.as_str()?.to_owned())
        };
        let found = match self.tokenizer.get(FIELD) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Array(list)) => named(list),
            Some(_) => None,
        };
        let problem = "is neither a template nor a list of them with one called `default`";
        found.map(Some).ok_or_else(|| self.wrong("tokenizer_config.json", FIELD, problem))
    }
}

/// A text file that is not too long.
fn text_of(path: &Path) -> Result<String, Error> {
    let file = WeightsFile::open(path)?;
    let refuse = |problem: &str| weights::Error::malformed(path, "content", problem);
    if file.len() > MAX_TEMPLATE {
        return Err(refuse("is longer than any template").into());
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(&mut bytes, 0, "content")?;
    Ok(String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8"))?)
}

#[cfg(test)]
#[path = "hf_tokenizer_tests.rs"]
mod tests;
