//! Embedding models: token ids in, one vector of length 1 a text out.
//!
//! | file | does |
//! |---|---|
//! | `input` | text to token ids, for any thread |
//! | `settings` | what sentence-transformers' files beside the weights ask for |
//! | `bert` | BERT: MiniLM, bge, mxbai-embed-large and their like |
//!
//! A model takes rows of any lengths without padding: all tokens lie one after the other, and only attention knows
//! where rows begin. A row's vector does not depend on the rows it is computed with.

pub mod bert;
mod error;
pub mod input;
mod settings;

use std::path::Path;

use candle_core::Device;

use super::{Model, Network};

pub use bert::BertModel;
pub use error::Error;
pub use input::EmbedTokenizer;
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
    /// Length of a vector.
    pub dimensions: usize,
}

/// A model and what its callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Embed>>,
    pub front: Front,
}

/// Loads a folder onto a device.
pub type Load = fn(&Path, &Device) -> Result<Loaded, Error>;

/// One architecture: how a folder says that it is one, and who loads it.
pub struct Architecture {
    /// `model_type` in the folder's `config.json`.
    pub name: &'static str,
    pub load: Load,
}

/// Every architecture, a row each.
pub const REGISTRY: &[Architecture] = &[Architecture { name: "bert", load: bert::load }];

/// Loads the safetensors folder `dir` with the architecture that its `config.json` names.
///
/// # Errors
/// An architecture that no row of [`REGISTRY`] has, or files that are missing or broken.
pub fn load(dir: &Path, device: &Device) -> Result<Loaded, Error> {
    let name = settings::model_type(dir)?;
    match REGISTRY.iter().find(|row| row.name == name) {
        Some(row) => (row.load)(dir, device),
        None => Err(Error::UnknownArchitecture {
            path: dir.join("config.json"),
            name,
            known: REGISTRY.iter().map(|row| row.name).collect::<Vec<_>>().join(", "),
        }),
    }
}
