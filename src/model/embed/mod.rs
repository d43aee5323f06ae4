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
use super::{Model, Network, Size};
use crate::types::model::{Footprint, Format, Installed};

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

/// How an architecture is read from open files of one kind.
pub struct Reader<S> {
    /// Loads the model onto a device.
    pub load: fn(&S, &Device) -> Result<Built, Error>,
    /// Bytes that a step takes besides weights.
    pub step_bytes: fn(&S, Size) -> Result<u64, Error>,
}

/// One architecture: how files say that they are one, and who reads them.
pub struct Architecture {
    /// `model_type` in a folder's `config.json`, words joined by `-`.
    pub name: &'static str,
    /// From a folder of safetensors or a checkpoint of PyTorch.
    pub folder: Reader<Folder>,
    /// From a GGUF file, whose `general.architecture` is the same name.
    pub gguf: Option<Reader<Gguf>>,
}

/// Every architecture, a row each.
pub const REGISTRY: &[Architecture] = &[
    Architecture { name: "bert", folder: bert::FOLDER, gguf: None },
    Architecture { name: "nomic-bert", folder: nomic::FOLDER, gguf: Some(nomic::GGUF) },
    Architecture { name: "qwen3", folder: qwen3::FOLDER, gguf: None },
    Architecture { name: "roberta", folder: bert::FOLDER, gguf: None },
    Architecture { name: "xlm-roberta", folder: bert::FOLDER, gguf: None },
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
            let own = gguf.meta("general.name").opt(Field::str)?;
            ((of_gguf(&gguf)?.load)(&gguf, device)?, Prompts::read(None, names.chain(own))?)
        }
        _ => {
            let folder = open(installed)?;
            ((of_folder(&folder)?.load)(&folder, device)?, Prompts::read(Some(folder.dir()), names)?)
        }
    };
    let Built { model, tokenizer, dimensions } = built;
    Ok(Loaded { model, front: Front { tokenizer, prompts, dimensions } })
}

fn unknown(path: &Path, name: String, is_there: impl Fn(&&Architecture) -> bool) -> Error {
    let known = REGISTRY.iter().filter(is_there).map(|row| row.name).collect::<Vec<_>>().join(", ");
    Error::UnknownArchitecture { path: path.to_owned(), name, known }
}

fn of_gguf(gguf: &Gguf) -> Result<&'static Reader<Gguf>, Error> {
    let name = gguf.architecture()?;
    let found = REGISTRY.iter().filter(|row| row.name == name).find_map(|row| row.gguf.as_ref());
    found.ok_or_else(|| unknown(gguf.path(), name.to_owned(), |row| row.gguf.is_some()))
}

fn of_folder(folder: &Folder) -> Result<&'static Reader<Folder>, Error> {
    let name = settings::model_type(folder.dir())?;
    let found = REGISTRY.iter().find(|row| row.name == name);
    found.map(|row| &row.folder).ok_or_else(|| unknown(&folder.config_path(), name, |_| true))
}

/// What a model will take once it is loaded, by the heads of its files.
///
/// # Errors
/// Files that cannot be read, or that nothing here can load.
pub fn footprint(installed: &Installed, largest: Size) -> Result<Footprint, Error> {
    let (weights, step) = match installed.format {
        Format::Gguf => {
            let gguf = Gguf::open(&installed.path)?;
            (installed.bytes, (of_gguf(&gguf)?.step_bytes)(&gguf, largest)?)
        }
        _ => {
            let folder = open(installed)?;
            (folder.loaded_bytes(largest.gpu), (of_folder(&folder)?.step_bytes)(&folder, largest)?)
        }
    };
    Ok(Footprint { weights: weights.saturating_add(weights / 16), cache: 0, step })
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
