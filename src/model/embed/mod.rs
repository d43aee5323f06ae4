//! Embedding models: token ids in, one vector of length 1 a text out.
//!
//! | file | does |
//! |---|---|
//! | `agree` | whether two devices compute the same |
//! | `input` | text to token ids, for any thread |
//! | `prompts` | what a model wants before a text |
//! | `settings` | what sentence-transformers' files beside the weights ask for |
//! | `folder` | those files and the tensors |
//! | `rows` | ragged batches, for all networks |
//! | `bert` | BERT, RoBERTa and XLM-RoBERTa: MiniLM, bge, mxbai-embed-large, multilingual-e5 and their like |
//! | `nomic` | nomic-bert: nomic-embed-text, from folders and GGUF files |
//! | `wordpiece` | the tokenizer of such files |
//! | `qwen3` | Qwen3-Embedding |
//!
//! A model takes rows of any lengths without padding: all tokens lie one after the other, and only attention knows
//! where rows begin. A row's vector does not depend on the rows it is computed with.

pub mod agree;
pub mod bert;
mod error;
mod folder;
pub mod input;
pub mod nomic;
mod prompts;
pub mod qwen3;
pub(super) mod rows;
pub(super) mod settings;
#[cfg(test)]
pub(crate) mod testing;
mod wordpiece;

use std::path::Path;

use candle_core::Device;

use super::weights::gguf::{Field, Gguf};
use super::{Model, Network};
use crate::types::model::{Format, Installed};

pub use bert::BertModel;
pub use error::Error;
pub use folder::Folder;
pub use input::EmbedTokenizer;
pub use prompts::Prompts;
pub use settings::Settings;

/// The network kind of this module.
#[derive(Debug)]
pub struct Embed;

impl Network for Embed {
    /// Rows of token ids with their special tokens, as [`EmbedTokenizer`] makes them.
    type Batch = Vec<Vec<u32>>;
    /// One vector of length 1 a row, in order.
    type Output = Vec<Vec<f32>>;
}

/// What callers need of a loaded model.
pub struct Front {
    pub tokenizer: EmbedTokenizer,
    pub prompts: Prompts,
    /// Length of a vector.
    pub dimensions: usize,
}

/// A model and what its callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Embed>>,
    pub front: Front,
}

/// What an architecture makes of a model's files.
pub struct Built {
    pub model: Box<dyn Model<Embed>>,
    pub tokenizer: EmbedTokenizer,
    /// Length of a vector.
    pub dimensions: usize,
}

/// Loads an open model onto a device.
pub type Load<S> = fn(&S, &Device) -> Result<Built, Error>;

/// One architecture: how files say that they are one, and who loads them.
pub struct Architecture {
    /// `model_type` in a folder's `config.json`, words joined by `-`.
    pub name: &'static str,
    /// From a folder of safetensors or a checkpoint of PyTorch.
    pub folder: Load<Folder>,
    /// From a GGUF file, whose `general.architecture` is the same name.
    pub gguf: Option<Load<Gguf>>,
}

/// Every architecture, a row each.
pub const REGISTRY: &[Architecture] = &[
    Architecture { name: "bert", folder: bert::load, gguf: None },
    Architecture { name: "nomic-bert", folder: nomic::load, gguf: Some(nomic::load_gguf) },
    Architecture { name: "qwen3", folder: qwen3::load, gguf: None },
    Architecture { name: "roberta", folder: bert::load, gguf: None },
    Architecture { name: "xlm-roberta", folder: bert::load, gguf: None },
];

/// Whether a model of this architecture can be loaded from files of a format.
pub fn runs(architecture: &str, format: Format) -> bool {
    let reads = |row: &Architecture| match format {
        Format::Safetensors | Format::Torch => true,
        Format::Gguf => row.gguf.is_some(),
        Format::CTranslate2 | Format::Ggml => false,
    };
    REGISTRY.iter().any(|row| row.name == architecture && reads(row))
}

/// Loads a model with the architecture that its own files name.
///
/// # Errors
/// An architecture or a format that no row of [`REGISTRY`] has, or files that are missing or broken.
pub fn load(installed: &Installed, device: &Device) -> Result<Loaded, Error> {
    let names = std::iter::once(&installed.id).chain(&installed.aliases).map(String::as_str);
    let (built, prompts) = match installed.format {
        Format::Gguf => {
            let gguf = Gguf::open(&installed.path)?;
            let name = gguf.architecture()?;
            let found = REGISTRY.iter().find_map(|row| row.gguf.filter(|_| row.name == name));
            let load = found.ok_or_else(|| {
                let name = name.to_owned();
                unknown(gguf.path(), name, |row| row.gguf.is_some())
            })?;
            let own = gguf.meta("general.name").opt(Field::str)?;
            (load(&gguf, device)?, Prompts::read(None, names.chain(own))?)
        }
        _ => {
            let folder = open(installed)?;
            let name = settings::model_type(folder.dir())?;
            let Some(row) = REGISTRY.iter().find(|row| row.name == name) else {
                return Err(unknown(&folder.config_path(), name, |_| true));
            };
            ((row.folder)(&folder, device)?, Prompts::read(Some(folder.dir()), names)?)
        }
    };
    let Built { model, tokenizer, dimensions } = built;
    Ok(Loaded { model, front: Front { tokenizer, prompts, dimensions } })
}

fn unknown(path: &Path, name: String, is_there: impl Fn(&&Architecture) -> bool) -> Error {
    let known = REGISTRY.iter().filter(is_there).map(|row| row.name).collect::<Vec<_>>().join(", ");
    Error::UnknownArchitecture { path: path.to_owned(), name, known }
}

/// Bytes of a folder's tensors in f32, as they are loaded; `None` where they are not read so, or cannot be.
pub fn f32_bytes(installed: &Installed) -> Option<u64> {
    open(installed).ok().map(|folder| folder.f32_bytes())
}

/// Opens a model that lies in a folder.
///
/// # Errors
/// Another format than safetensors and PyTorch's; files that are missing or contradict themselves.
pub(super) fn open(installed: &Installed) -> Result<Folder, Error> {
    match installed.format {
        Format::Safetensors => Folder::open(&installed.path),
        Format::Torch => Folder::open_torch(&installed.path),
        other => Err(Error::Unsupported {
            path: installed.path.clone(),
            field: "format",
            value: other.as_str().to_owned(),
            remedy: "safetensors and torch are",
        }),
    }
}
