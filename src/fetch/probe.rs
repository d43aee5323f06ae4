//! Tells what a file or folder on this machine is, from as few bytes as that takes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::{gguf, whisper};
use crate::types::model::{Format, Installed, Kind, gguf_parts};

const MAX_JSON: u64 = 4 << 20;
/// The remedy where something else is offered.
pub(super) const TAKEN: &str = "what can be read is a GGUF file, a folder with config.json and *.safetensors, or \
    Whisper as a CTranslate2 folder, a *.pt or a ggml-*.bin";
/// The remedy where weights are quantised in a way that is not read.
const UNQUANTISED: &str =
    "take the model's own weights, which are rounded as they are loaded, or a GGUF file";
/// Most files taken from a folder.
const MAX_FILES: usize = 1024;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub kind: Kind,
    pub architecture: String,
    pub format: Format,
    /// Absolute folder of the files.
    pub folder: PathBuf,
    /// Their paths under it.
    pub files: Vec<String>,
    /// What the files or the folder are called.
    pub name: String,
}

/// Looks at `path`.
pub fn probe(path: &Path) -> Result<Found> {
    let path = fs::canonicalize(path).map_err(Error::io(path))?;
    let bad = |what: &str| Error::Import { path: path.clone(), what: what.to_owned() };
    let name =
        path.file_name().and_then(|n| n.to_str()).ok_or_else(|| bad("has a name that is not UTF-8"))?;
    if path.is_file() {
        let folder = path.parent().ok_or_else(|| bad("has no folder"))?.to_path_buf();
        if let Some(format) = whisper::format(&path)? {
            return whisper::found(&folder, name, format);
        }
        let architecture = gguf::architecture(&path)?;
        let files = gguf_parts(name).unwrap_or_else(|| vec![name.to_owned()]);
        if let Some(missing) = files.iter().find(|file| !folder.join(file).is_file()) {
            return Err(bad(&format!(
                "is the first of {} files, and {missing} is not beside it",
                files.len()
            )));
        }
        return Ok(Found {
            kind: gguf_kind(&architecture),
            architecture,
            format: Format::Gguf,
            folder,
            name: match files.len() {
                1 => name.strip_suffix(".gguf").unwrap_or(name).to_owned(),
                // Without `-00001-of-00003.gguf`.
                _ => name[..name.len() - "-00001-of-00003.gguf".len()].to_owned(),
            },
            files,
        });
    }
    let files = list(&path)?;
    let checkpoints: Vec<&String> = files.iter().filter(|f| whisper::is_named(f)).collect();
    let has = |file: &str| files.iter().any(|f| f == file);
    if has("model.bin") {
        ctranslate2(&path, name, &files)
    } else if files.iter().any(|f| f.ends_with(".safetensors")) {
        safetensors(&path, name, files)
    } else if let Some(gguf) = files.iter().find(|f| f.ends_with(".gguf")) {
        Err(bad(&format!("is a folder; import the file in it: {}", path.join(gguf).display())))
    } else if let [file] = checkpoints[..] {
        let found = probe(&path.join(file))?;
        Ok(Found { name: name.to_owned(), ..found })
    } else if let [first, ..] = checkpoints[..] {
        let count = checkpoints.len();
        Err(bad(&format!("holds {count} models; import one of them: {}", path.join(first).display())))
    } else {
        Err(bad(&format!("holds no model.bin and no *.safetensors; {TAKEN}")))
    }
}

/// The model at `path` as it would be if it were registered.
pub fn model_at(path: &Path) -> Result<Installed> {
    let found = probe(path)?;
    let size = |file: &String| {
        let path = found.folder.join(file);
        Ok(fs::metadata(&path).map_err(Error::io(&path))?.len())
    };
    let bytes = found.files.iter().map(size).sum::<Result<u64>>()?;
    let path = match found.files.first().filter(|_| found.format.is_file()) {
        Some(file) => found.folder.join(file),
        None => found.folder,
    };
    Ok(Installed {
        id: super::paths::to_id(&found.name).unwrap_or_else(|| "model".to_owned()),
        aliases: Vec::new(),
        kind: found.kind,
        architecture: found.architecture,
        format: found.format,
        path,
        bytes,
        created: 0,
        owner: "local".to_owned(),
    })
}

/// Plain files of a folder and of its folders one level down.
fn list(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = Vec::new();
    for (path, name) in entries(folder)? {
        if path.is_dir() {
            folders.push((path, name));
        } else {
            names.push(name);
        }
    }
    for (path, folder_name) in folders {
        names.extend(
            entries(&path)?
                .into_iter()
                .filter(|(p, _)| p.is_file())
                .map(|(_, n)| format!("{folder_name}/{n}")),
        );
    }
    names.sort();
    names.truncate(MAX_FILES);
    Ok(names)
}

fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))?.take(MAX_FILES) {
        let entry = entry.map_err(Error::io(folder))?;
        match entry.file_name().into_string() {
            Ok(name) if !name.starts_with('.') => found.push((entry.path(), name)),
            _ => {}
        }
    }
    Ok(found)
}

/// A CTranslate2 folder: `model.bin` begins with u32 version, u16 length, and the specification's name.
fn ctranslate2(folder: &Path, name: &str, files: &[String]) -> Result<Found> {
    let path = folder.join("model.bin");
    let bad = |what: String| Error::Import { path: path.clone(), what };
    let mut file = File::open(&path).map_err(Error::io(&path))?;
    let mut header = [0; 6];
    let short = || bad("is too short for a CTranslate2 model".into());
    file.read_exact(&mut header).map_err(|_| short())?;
    let [a, b, c, d, e, f] = header;
    let (version, length) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
    if !(2..=16).contains(&version) || length > 256 {
        return Err(bad(format!("is no CTranslate2 model: its version reads {version}")));
    }
    let mut spec = vec![0; usize::from(length)];
    file.read_exact(&mut spec).map_err(|_| short())?;
    let spec = String::from_utf8_lossy(&spec).trim_end_matches('\0').to_owned();
    if spec != "WhisperSpec" {
        return Err(bad(format!("holds a {spec:?}; of CTranslate2 models only Whisper is served")));
    }
    let wanted = |f: &&String| *f == "model.bin" || f.ends_with(".json") || f.ends_with(".txt");
    let files: Vec<String> = files.iter().filter(|f| !f.contains('/')).filter(wanted).cloned().collect();
    for (need, any) in
        [("config.json", ["config.json"; 2]), ("tokenizer.json", ["tokenizer.json", "vocabulary.json"])]
    {
        if !files.iter().any(|f| any.contains(&f.as_str())) {
            return Err(bad(format!("has no {need} beside it")));
        }
    }
    Ok(Found {
        kind: Kind::Asr,
        architecture: "whisper".into(),
        format: Format::CTranslate2,
        folder: folder.to_path_buf(),
        files,
        name: name.to_owned(),
    })
}

/// A folder as `transformers` saves it: `config.json` and one or more safetensors files.
fn safetensors(folder: &Path, name: &str, files: Vec<String>) -> Result<Found> {
    let path = folder.join("config.json");
    let bad = |what: String| Error::Import { path: path.clone(), what };
    let config = read_json(&path)?;
    let class = config.pointer("/architectures/0").and_then(|v| v.as_str()).unwrap_or_default();
    let architecture =
        config.get("model_type").and_then(|v| v.as_str()).unwrap_or_default().replace('_', "-");
    if !super::paths::is_id(&architecture) {
        return Err(bad("has no `model_type`".into()));
    }
    let sentence = files.iter().any(|f| f == "modules.json");
    let kind = if architecture == "whisper" {
        Kind::Asr
    } else if class.ends_with("ForSequenceClassification") {
        Kind::Rerank
    } else if sentence || architecture.contains("bert") {
        Kind::Embed
    } else if class.ends_with("ForCausalLM") || class.ends_with("ForConditionalGeneration") {
        Kind::Chat
    } else {
        return Err(bad(format!(
            "describes {architecture} ({class}), which is no chat, embedding, reranking or speech model"
        )));
    };
    let weights = weights(folder, &files)?;
    if kind == Kind::Chat {
        if let Some(method) = config.pointer("/quantization_config/quant_method") {
            return Err(bad(format!(
                "describes weights quantised as {method}, which are not read; {UNQUANTISED}"
            )));
        }
        if !files.iter().any(|f| f == "tokenizer.json") {
            return Err(bad(
                "has no tokenizer.json beside it, which `save_pretrained` of a fast tokenizer writes".into(),
            ));
        }
    }
    let wanted = |f: &String| {
        let pooling = f.ends_with("_Pooling/config.json") || f.ends_with("_Dense/config.json");
        let top = [".json", ".txt", ".model", ".jinja"].iter().any(|e| f.ends_with(e));
        if f.contains('/') { pooling } else { top || weights.contains(f) }
    };
    let files: Vec<String> = files.into_iter().filter(wanted).collect();
    let folder = folder.to_path_buf();
    Ok(Found { kind, architecture, format: Format::Safetensors, folder, files, name: name.to_owned() })
}

/// The files of a model's weights: one, or those that the index of a split model names, which must be there. Some
/// folders have the same weights a second time under other names.
fn weights(folder: &Path, files: &[String]) -> Result<BTreeSet<String>> {
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    let has = |name: &str| files.iter().any(|f| f == name);
    if has(SINGLE) {
        return Ok(BTreeSet::from([SINGLE.to_owned()]));
    }
    let path = folder.join(INDEX);
    if !has(INDEX) {
        return Err(Error::Import {
            path: folder.to_path_buf(),
            what: format!("has no {SINGLE} and no {INDEX}"),
        });
    }
    let index = read_json(&path)?;
    let map = index.get("weight_map").and_then(|m| m.as_object());
    let named: BTreeSet<&str> = map.into_iter().flat_map(|m| m.values()).filter_map(|v| v.as_str()).collect();
    match named.iter().find(|shard| shard.contains('/') || !has(shard)) {
        Some(shard) => Err(Error::Import { path, what: format!("names {shard:?}, which is not there") }),
        None => Ok(named.into_iter().map(str::to_owned).collect()),
    }
}

fn read_json(path: &Path) -> Result<serde_json::Value> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(MAX_JSON + 1).read_to_end(&mut text).map_err(Error::io(path))?;
    let bad = |what: String| Error::Import { path: path.to_path_buf(), what };
    if text.len() as u64 > MAX_JSON {
        return Err(bad(format!("is longer than {MAX_JSON} bytes")));
    }
    serde_json::from_slice(&text).map_err(|e| bad(format!("is no JSON: {e}")))
}

/// Encoders are named after what they are; everything else in the format is a decoder.
fn gguf_kind(architecture: &str) -> Kind {
    if architecture.contains("bert") { Kind::Embed } else { Kind::Chat }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        dir
    }

    #[test]
    fn encoders_are_known_by_name() {
        assert_eq!((gguf_kind("nomic-bert"), gguf_kind("llama")), (Kind::Embed, Kind::Chat));
    }

    #[test]
    fn folders_are_told_apart() {
        let whisper: &[u8] = b"\x06\0\0\0\x0c\0WhisperSpec\0\x03\0\0\0";
        let dir = folder(&[
            ("model.bin", whisper),
            ("config.json", b"{}"),
            ("tokenizer.json", b"{}"),
            ("README.md", b""),
        ]);
        let found = probe(dir.path()).unwrap();
        assert_eq!(
            (found.kind, found.format, found.architecture.as_str()),
            (Kind::Asr, Format::CTranslate2, "whisper")
        );
        assert_eq!(found.files, ["config.json", "model.bin", "tokenizer.json"]);

        let config = br#"{"model_type": "bert", "architectures": ["BertModel"]}"#;
        let dir =
            folder(&[("config.json", config), ("model.safetensors", b""), ("1_Pooling/config.json", b"{}")]);
        let found = probe(dir.path()).unwrap();
        assert_eq!((found.kind, found.architecture.as_str()), (Kind::Embed, "bert"));
        assert!(found.files.contains(&"1_Pooling/config.json".to_owned()));

        let config = br#"{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}"#;
        let found = probe(folder(&[("config.json", config), ("model.safetensors", b"")]).path()).unwrap();
        assert_eq!((found.kind, found.architecture.as_str()), (Kind::Rerank, "bert"));

        let config = br#"{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}"#;
        let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        let split = [
            ("config.json", &config[..]),
            ("model-1.safetensors", b""),
            ("model.safetensors.index.json", index),
        ];
        let error = probe(folder(&split).path()).unwrap_err().to_string();
        assert!(error.contains("\"model-2.safetensors\", which is not there"), "{error}");

        let more = [
            ("model-2.safetensors", &b""[..]),
            ("consolidated.safetensors", b""),
            ("chat_template.jinja", b""),
        ];
        let mut whole = [&split[..], &more].concat();
        let error = probe(folder(&whole).path()).unwrap_err().to_string();
        assert!(error.contains("has no tokenizer.json"), "{error}");
        whole.push(("tokenizer.json", b"{}"));
        let found = probe(folder(&whole).path()).unwrap();
        assert_eq!((found.kind, found.architecture.as_str()), (Kind::Chat, "qwen2"));
        let weights: Vec<&String> = found.files.iter().filter(|f| f.ends_with(".safetensors")).collect();
        assert_eq!(weights, ["model-1.safetensors", "model-2.safetensors"], "not the other copy");
        assert!(found.files.iter().any(|f| f == "chat_template.jinja"));
    }

    const CHAT: &[u8] = br#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}"#;
    const QUANTISED: &[u8] = br#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "quantization_config": {"quant_method": "awq"}}"#;

    #[test]
    fn what_cannot_be_served_says_why() {
        for (files, says) in [
            (&[("model.bin", &b"\x06\0\0\0\x10\0TransformerSpec\0"[..])][..], "only Whisper is served"),
            (&[("model.bin", b"PK\x03\x04\x01\x02")], "no CTranslate2 model"),
            (&[("model.bin", b"")], "too short"),
            (&[("model.safetensors", b"")], "config.json"),
            (&[("model.safetensors", b""), ("config.json", b"[")], "is no JSON"),
            (
                &[("model.safetensors", b""), ("config.json", br#"{"model_type": "vit"}"#)],
                "no chat, embedding",
            ),
            (&[("x.safetensors", b""), ("config.json", CHAT)], "no model.safetensors and no"),
            (&[("model.safetensors", b""), ("config.json", QUANTISED)], "quantised as \"awq\""),
            (&[("x.gguf", b"")], "import the file in it"),
            (&[("x.txt", b"")], "what can be read is a GGUF file"),
        ] {
            let error = probe(folder(files).path()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
