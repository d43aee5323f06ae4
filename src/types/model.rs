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
    Rerank,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::Chat, Kind::Embed, Kind::Asr, Kind::Vad, Kind::Speaker, Kind::Segment, Kind::Rerank];

    /// The name in manifests, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Chat => "chat",
            Kind::Embed => "embed",
            Kind::Asr => "asr",
            Kind::Vad => "vad",
            Kind::Speaker => "speaker",
            Kind::Segment => "segment",
            Kind::Rerank => "rerank",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.as_str() == name)
    }
}

/// What a model takes of its device's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Weights, and what else is there for as long as the model is.
    pub weights: u64,
    /// Keys and values of what it has under way, or keeps for what comes.
    pub cache: u64,
    /// What its largest step takes besides, while it runs. A device computes one step at a time: models that share it need
    /// the largest of these once.
    pub step: u64,
}

impl Footprint {
    /// What it holds for as long as it is loaded.
    pub fn kept(self) -> u64 {
        self.weights.saturating_add(self.cache)
    }

    /// What it takes at most, alone.
    pub fn most(self) -> u64 {
        self.kept().saturating_add(self.step)
    }

    /// Of a model and a smaller one that is loaded with it and steps in turn with it.
    pub fn with(self, other: Footprint) -> Footprint {
        Footprint {
            weights: self.weights.saturating_add(other.weights),
            cache: self.cache.saturating_add(other.cache),
            step: self.step.max(other.step),
        }
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
    /// One file of PyTorch's `torch.save`.
    Torch,
    /// One file of whisper.cpp, `ggml-*.bin`.
    Ggml,
}

impl Format {
    pub const ALL: [Format; 5] =
        [Format::Gguf, Format::Safetensors, Format::CTranslate2, Format::Torch, Format::Ggml];

    /// The name in manifests and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Gguf => "gguf",
            Format::Safetensors => "safetensors",
            Format::CTranslate2 => "ctranslate2",
            Format::Torch => "torch",
            Format::Ggml => "ggml",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|f| f.as_str() == name)
    }

    /// Whether the weights are a file, the first of a model's, and not a folder.
    pub fn is_file(self) -> bool {
        match self {
            Format::Gguf | Format::Torch | Format::Ggml => true,
            Format::Safetensors | Format::CTranslate2 => false,
        }
    }
}

/// How the matrices of a speech model's decoder are kept, which go through memory for every token. Its encoder computes
/// with floats in any case: there bytes cost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    /// Halves: exact where the file holds halves.
    F16,
    /// bfloat16: exact where the file holds it; the range of f32 with 8 significant bits.
    Bf16,
    /// 8 bits and a scale for each 32 of a row, products of whole numbers: half the bytes of halves.
    Int8,
}

impl Precision {
    /// Everything that can be asked for.
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::F16, Precision::Bf16, Precision::Int8];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(name: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|p| p.as_str() == name)
    }
}

/// What the matrices of weights that are floats in their files are rounded to as they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantise {
    /// 8 bits and a scale for each 32 of a row (8.5 bits a weight): half the memory of halves, and faster on a CPU.
    /// Rows of another width are rounded to halves.
    Q8_0,
    /// To halves only.
    None,
}

impl Quantise {
    /// Everything that can be asked for.
    pub const ALL: [Quantise; 2] = [Quantise::Q8_0, Quantise::None];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Quantise::Q8_0 => "q8_0",
            Quantise::None => "none",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(name: &str) -> Option<Quantise> {
        Quantise::ALL.into_iter().find(|q| q.as_str() == name)
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
    /// The weights where they are [a file](Format::is_file), else the folder that holds the model's files.
    pub path: PathBuf,
    /// Bytes of its files together.
    pub bytes: u64,
    /// Unix seconds when it was installed or registered.
    pub created: u64,
    /// Who published it, as `/v1/models` says in `owned_by`.
    pub owner: String,
}

/// Parts that a split model has at most.
const MAX_PARTS: usize = 512;

/// The files of a split GGUF model, by the name of its first: `NAME-00001-of-00003.gguf`, as llama.cpp's
/// `llama-gguf-split` writes them. `None` for any other name.
pub fn gguf_parts(first: &str) -> Option<Vec<String>> {
    let number = |text: &str| -> Option<usize> {
        text.parse().ok().filter(|_| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()))
    };
    let (head, count) = first.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = head.rsplit_once('-')?;
    let count = number(count).filter(|count| (1..=MAX_PARTS).contains(count))?;
    let name = |part: usize| format!("{stem}-{part:05}-of-{count:05}.gguf");
    (number(part)? == 1).then(|| (1..=count).map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::gguf_parts;

    #[test]
    fn parts_are_named_by_the_first() {
        assert_eq!(
            gguf_parts("a-b-00001-of-00002.gguf").unwrap(),
            ["a-b-00001-of-00002.gguf", "a-b-00002-of-00002.gguf"]
        );
        for name in [
            "a.gguf",
            "a-00002-of-00002.gguf",
            "a-1-of-2.gguf",
            "a-00001-of-00000.gguf",
            "a-00001-of-99999.gguf",
            "a-00001-of-+0002.gguf",
            "00001-of-00002.gguf",
            "a-00001-of-00002.bin",
        ] {
            assert_eq!(gguf_parts(name), None, "{name}");
        }
    }
}
