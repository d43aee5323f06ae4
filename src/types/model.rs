//! What is known of a model before it is loaded.

use std::path::PathBuf;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Chat,
    Embed,
    Asr,
    Vad,
    Speaker,
    Segment,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Chat, Kind::Embed, Kind::Asr, Kind::Vad, Kind::Speaker, Kind::Segment];

    /// The name in manifests, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Chat => "chat",
            Kind::Embed => "embed",
            Kind::Asr => "asr",
            Kind::Vad => "vad",
            Kind::Speaker => "speaker",
            Kind::Segment => "segment",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.as_str() == name)
    }
}

/// How a model's weights lie on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One GGUF file.
    Gguf,
    /// A folder with `config.json`, `tokenizer.json` and `*.safetensors`.
    Safetensors,
    /// A folder with CTranslate2's `model.bin`, its `config.json` and vocabulary.
    CTranslate2,
    /// A PyTorch pickle.
    Torch,
}

impl Format {
    pub const ALL: [Format; 4] = [Format::Gguf, Format::Safetensors, Format::CTranslate2, Format::Torch];

    /// The name in manifests and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Gguf => "gguf",
            Format::Safetensors => "safetensors",
            Format::CTranslate2 => "ctranslate2",
            Format::Torch => "torch",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|f| f.as_str() == name)
    }
}

/// A model that is on disk, whole, and can be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub id: String,
    /// Other names that callers may use.
    pub aliases: Vec<String>,
    pub kind: Kind,
    /// The row of the registry that builds it: `llama`, `bert`, `whisper`, ...
    pub architecture: String,
    pub format: Format,
    /// The GGUF file, or the folder that holds the model's files.
    pub path: PathBuf,
    /// Bytes of its files together.
    pub bytes: u64,
    /// Unix seconds when it was installed or registered.
    pub created: u64,
    /// Who published it, as `/v1/models` says in `owned_by`.
    pub owner: String,
}
