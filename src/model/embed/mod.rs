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

pub use bert::BertModel;
pub use error::Error;
pub use input::EmbedTokenizer;
pub use settings::Settings;

/// A loaded embedding model. Lives on the thread that owns its device.
pub trait Embedder {
    /// One vector of length 1 a row, in order. Rows are token ids with their special tokens, as
    /// [`EmbedTokenizer`] makes them.
    ///
    /// # Errors
    /// A row that is empty, longer than [`max_tokens`](Self::max_tokens) or holds an id past the vocabulary; a
    /// device that fails.
    fn embed(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error>;

    /// Length of a vector.
    fn dimensions(&self) -> usize;

    /// The longest row, special tokens included.
    fn max_tokens(&self) -> usize;

    /// Bytes of the weights on the device.
    fn bytes(&self) -> usize;
}

/// Loads a folder onto a device.
pub type Load = fn(&Path, &Device) -> Result<Box<dyn Embedder>, Error>;

/// One architecture: how a folder says that it is one, and who loads it.
pub struct Architecture {
    /// `model_type` in the folder's `config.json`.
    pub name: &'static str,
    pub load: Load,
}

/// Every architecture, a row each.
pub const REGISTRY: &[Architecture] =
    &[Architecture { name: "bert", load: |dir, device| Ok(Box::new(BertModel::load(dir, device)?)) }];

/// Loads the safetensors folder `dir` with the architecture that its `config.json` names.
///
/// # Errors
/// An architecture that no row of [`REGISTRY`] has, or files that are missing or broken.
pub fn load(dir: &Path, device: &Device) -> Result<Box<dyn Embedder>, Error> {
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
