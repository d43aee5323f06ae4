//! What the files of a sentence-transformers folder ask for beside the weights.
//!
//! | file | field | without it |
//! |---|---|---|
//! | `modules.json` | the steps; transformer, pooling and normalising are known here, any other is refused | those |
//! | `1_Pooling/config.json` (or the path in `modules.json`) | mean of all tokens, the first token or the last | what is usual for the architecture |
//! | `sentence_bert_config.json` | `max_seq_length` | see the next row |
//! | `tokenizer_config.json` | `model_max_length` | the positions that the network has |
//!
//! Vectors are always scaled to length 1, whether or not a folder lists the step: it is what callers of an
//! embeddings endpoint expect, and it changes no cosine.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Error;
use crate::model::weights::json::{self, MAX_CONFIG};
use crate::ops::Pooling;

/// How a folder wants its model to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub pooling: Pooling,
    /// The longest row, special tokens included; what is longer is cut.
    pub max_tokens: usize,
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    /// A float: libraries write 1e30 for "no limit".
    model_max_length: Option<f64>,
}

#[derive(Deserialize)]
struct ModelType {
    model_type: String,
}

/// `model_type` in the folder's `config.json`, its words joined by `-` as manifests and GGUF files join them.
pub(in crate::model) fn model_type(dir: &Path) -> Result<String, Error> {
    let name = json::read::<ModelType>(&dir.join("config.json"), MAX_CONFIG)?.model_type;
    Ok(name.replace('_', "-"))
}

impl Settings {
    /// Reads the folder's files; `positions` is how many tokens the network has positions for, `usual` how its vectors
    /// are pooled where no file tells.
    ///
    /// # Errors
    /// Files that are broken, or that ask for a step or a pooling that is not known here.
    pub fn read(dir: &Path, positions: usize, usual: Pooling) -> Result<Self, Error> {
        let max_tokens = max_tokens(dir, positions)?;
        Ok(Settings { pooling: pooling(dir)?.unwrap_or(usual), max_tokens })
    }
}

/// The longest row that the folder's files allow a network of so many `positions`, special tokens included.
///
/// # Errors
/// Files that are broken.
pub(in crate::model) fn max_tokens(dir: &Path, positions: usize) -> Result<usize, Error> {
    let asked: Option<SentenceConfig> =
        json::read_optional(&dir.join("sentence_bert_config.json"), MAX_CONFIG)?;
    let limit = match asked.and_then(|c| c.max_seq_length) {
        Some(limit) => limit,
        None => json::read_optional::<TokenizerConfig>(&dir.join("tokenizer_config.json"), MAX_CONFIG)?
            .and_then(|c| c.model_max_length)
            // A float beyond `usize` saturates.
            .map_or(positions, |limit| limit as usize),
    };
    // Room for a token between the two that frame a row.
    Ok(limit.min(positions).max(3))
}

fn pooling(dir: &Path) -> Result<Option<Pooling>, Error> {
    let modules_path = dir.join("modules.json");
    let modules: Vec<Module> = json::read_optional(&modules_path, MAX_CONFIG)?.unwrap_or_default();
    let mut config = dir.join("1_Pooling/config.json");
    for module in &modules {
        // The class's name: the modules around it move between releases.
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Normalize" => {}
            "Pooling" => config = inside(dir, &module.path, &modules_path)?.join("config.json"),
            other => {
                return Err(Error::Unsupported {
                    path: modules_path,
                    field: "type",
                    value: other.to_owned(),
                    remedy: "use a model whose steps are Transformer, Pooling and Normalize",
                });
            }
        }
    }
    match json::read_optional::<Map<String, Value>>(&config, MAX_CONFIG)? {
        Some(fields) => pooling_of(&fields, config).map(Some),
        None => Ok(None),
    }
}

/// `path` under `dir`, which it may not leave.
fn inside(dir: &Path, path: &str, file: &Path) -> Result<PathBuf, Error> {
    if Path::new(path).components().all(|c| matches!(c, Component::Normal(_))) {
        return Ok(dir.join(path));
    }
    Err(Error::Unsupported {
        path: file.to_owned(),
        field: "path",
        value: path.to_owned(),
        remedy: "a step's path names a folder beside this file",
    })
}

/// Reads both spellings: a flag a mode, or one `pooling_mode`.
fn pooling_of(fields: &Map<String, Value>, path: PathBuf) -> Result<Pooling, Error> {
    if fields.get("include_prompt") == Some(&Value::Bool(false)) {
        let (value, remedy) = ("false".to_owned(), "models whose prompts count among their tokens are");
        return Err(Error::Unsupported { path, field: "include_prompt", value, remedy });
    }
    let flags = fields.iter().filter(|(_, v)| **v == Value::Bool(true)).map(|(k, _)| k.as_str());
    let mut modes: Vec<&str> = flags.filter_map(|k| k.strip_prefix("pooling_mode_")).collect();
    if let Some(Value::String(mode)) = fields.get("pooling_mode") {
        modes.push(mode);
    }
    modes.sort_unstable();
    modes.dedup();
    match modes[..] {
        ["mean_tokens" | "mean"] | ["mean", "mean_tokens"] | [] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] | ["cls", "cls_token"] => Ok(Pooling::First),
        ["lasttoken"] => Ok(Pooling::Last),
        _ => Err(Error::Unsupported {
            path,
            field: "pooling_mode",
            value: modes.join(" + "),
            remedy: "mean_tokens, cls_token and lasttoken are",
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn read(files: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::read(folder(files).path(), 512, Pooling::Mean)
    }

    #[test]
    fn defaults_and_limits() {
        assert_eq!(read(&[]).unwrap(), Settings { pooling: Pooling::Mean, max_tokens: 512 });
        let limit = |file, text| read(&[(file, text)]).unwrap().max_tokens;
        assert_eq!(limit("sentence_bert_config.json", r#"{"max_seq_length":256}"#), 256);
        assert_eq!(limit("sentence_bert_config.json", r#"{"max_seq_length":9000}"#), 512);
        assert_eq!(limit("sentence_bert_config.json", r#"{"max_seq_length":null}"#), 512);
        assert_eq!(limit("tokenizer_config.json", r#"{"model_max_length":1e30}"#), 512);
        assert_eq!(limit("tokenizer_config.json", r#"{"model_max_length":128}"#), 128);
        assert_eq!(limit("tokenizer_config.json", r#"{"model_max_length":-5}"#), 3);
        assert!(read(&[("sentence_bert_config.json", r#"{"max_seq_length":-1}"#)]).is_err());
    }

    #[test]
    fn pooling_comes_from_the_folder() {
        let pool = |text: &str| read(&[("1_Pooling/config.json", text)]).map(|s| s.pooling);
        assert_eq!(
            pool(r#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false}"#).unwrap(),
            Pooling::First
        );
        assert_eq!(pool(r#"{"pooling_mode_mean_tokens":true}"#).unwrap(), Pooling::Mean);
        assert_eq!(pool(r#"{"pooling_mode_lasttoken":true,"include_prompt":true}"#).unwrap(), Pooling::Last);
        assert!(pool(r#"{"pooling_mode_mean_tokens":true,"include_prompt":false}"#).is_err());
        assert_eq!(pool(r#"{"pooling_mode":"cls"}"#).unwrap(), Pooling::First);
        assert!(pool(r#"{"pooling_mode_max_tokens":true}"#).is_err());
        assert!(pool(r#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":true}"#).is_err());
        assert!(pool("[").is_err());
        let modules = |text: &str| {
            read(&[("modules.json", text), ("p/config.json", r#"{"pooling_mode":"cls"}"#)]).map(|s| s.pooling)
        };
        assert_eq!(
            modules(r#"[{"path":"p","type":"sentence_transformers.models.Pooling"}]"#).unwrap(),
            Pooling::First
        );
        assert!(modules(r#"[{"path":"../p","type":"a.Pooling"}]"#).is_err());
        assert!(modules(r#"[{"path":"2_Dense","type":"sentence_transformers.models.Dense"}]"#).is_err());
    }
}
