//! BERT as an encoder of texts (Devlin et al., 2018): post-norm, learned positions, exact GELU; and RoBERTa (Liu et al.,
//! 2019) and XLM-RoBERTa (Conneau et al., 2020), which are the same network and count positions from another one on.
//!
//! Activations are `(tokens, hidden)` over all rows of a batch, without padding; linear layers and norms do not
//! know that there are rows. Q, K and V are one product, whose output attention reads in place.

mod config;
mod encoder;
#[cfg(test)]
mod family_tests;
#[cfg(test)]
mod tests;

use std::path::Path;

use candle_core::Device;

pub use config::Config;
pub(in crate::model) use encoder::Encoder;

use super::rows::{Ragged, check, in_passes};
use super::{Built, Embed, EmbedTokenizer, Error, Folder, Reader, Settings};
use crate::model::{self, Model, Size};
use crate::ops::{self, Pooling};
use crate::types::model::Footprint;

/// An encoder whose token vectors are pooled.
pub struct BertModel {
    encoder: Encoder,
    settings: Settings,
}

impl BertModel {
    /// Loads the safetensors folder `dir` in f32. Memory: the weights once, and one layer's again while it loads.
    ///
    /// # Errors
    /// Files that are missing, broken or not a BERT's; a device without room.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Error> {
        Self::from_folder(&Folder::open(dir)?, device)
    }

    /// As [`load`](Self::load), from an open folder.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_folder(folder: &Folder, device: &Device) -> Result<Self, Error> {
        let encoder = Encoder::load(folder, device)?;
        let settings = Settings::read(folder.dir(), encoder.config().longest_row(), Pooling::Mean)?;
        Ok(BertModel { encoder, settings })
    }

    /// The network's shape.
    pub fn config(&self) -> &Config {
        self.encoder.config()
    }

    /// One vector of length 1 a row, in order. Rows are token ids with their special tokens.
    ///
    /// # Errors
    /// A row that is empty, longer than the model takes or holds an id past the vocabulary; a device that fails.
    pub fn embed(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        check(rows.iter().map(Vec::as_slice), self.settings.max_tokens, self.config().vocab_size)?;
        in_passes(rows, Vec::len, |pass| {
            let rows = Ragged::new(pass.iter().map(Vec::as_slice));
            let x = self.encoder.forward(&rows, None)?;
            Ok(ops::pool_rows(&x, &rows.starts, self.settings.pooling)?)
        })
    }

    /// The longest row, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.settings.max_tokens
    }
}

/// The registry's entry.
pub const FOLDER: Reader<Folder> =
    Reader { load, step_bytes: |folder, largest| Ok(Config::read(folder)?.step_bytes(largest)) };

/// Loads a folder and its tokenizer.
fn load(folder: &Folder, device: &Device) -> Result<Built, Error> {
    let model = BertModel::from_folder(folder, device)?;
    let tokenizer = EmbedTokenizer::load(folder.dir(), model.max_tokens(), model.config().vocab_size)?;
    Ok(Built { dimensions: model.config().hidden_size, tokenizer, model: Box::new(model) })
}

impl Model<Embed> for BertModel {
    fn step(&mut self, rows: &Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, model::Error> {
        Ok(self.embed(rows)?)
    }

    fn footprint(&self, largest: Size) -> Footprint {
        Footprint { weights: self.encoder.bytes() as u64, cache: 0, step: self.config().step_bytes(largest) }
    }
}
