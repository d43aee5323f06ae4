//! Rerankers: a question and a text in, one score of how well the text answers it out.
//!
//! Both go through one encoder together (a cross-encoder: Nogueira and Cho, 2019), so that each token of the one looks at
//! the other's. On the encoders of [`embed`](super::embed) stands a classification head with one output:
//!
//! | architecture | head over the first token's vector `x` |
//! |---|---|
//! | `bert` | `classifier(tanh(bert.pooler.dense(x)))` |
//! | `roberta`, `xlm-roberta` | `classifier.out_proj(tanh(classifier.dense(x)))` |
//!
//! As there, batches are ragged, and a score does not depend on the pairs it is computed with.

mod input;
#[cfg(test)]
mod tests;

use candle_core::Device;

pub use input::{Pair, PairTokenizer};

use super::embed::bert::{Config, Encoder};
use super::embed::rows::{Ragged, check, in_passes};
use super::embed::{Error, Folder, settings};
use super::{Model, Network, Size};
use crate::ops::{self, Linear};
use crate::types::model::{Footprint, Installed};

/// The network kind of this module.
#[derive(Debug)]
pub struct Rerank;

impl Network for Rerank {
    /// Pairs as [`PairTokenizer`] makes them.
    type Batch = Vec<Pair>;
    /// One score a pair, in order: a logit, so any number.
    type Output = Vec<f32>;
}

/// What callers need of a loaded model.
pub struct Front {
    pub tokenizer: PairTokenizer,
}

/// A model and what its callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Rerank>>,
    pub front: Front,
}

/// One architecture: how files say that they are one, and where its head lies in them.
pub struct Architecture {
    /// `model_type` in the folder's `config.json`.
    pub name: &'static str,
    /// The layer before the tanh, and the one behind it.
    head: [&'static str; 2],
    /// Whether it is told which tokens are the question's; to the others all tokens have type 0, whatever their
    /// tokenizers' templates say.
    typed: bool,
}

/// Where RoBERTa's head lies.
const ROBERTA: [&str; 2] = ["classifier.dense", "classifier.out_proj"];

/// Every architecture, a row each.
pub const REGISTRY: &[Architecture] = &[
    Architecture { name: "bert", head: ["bert.pooler.dense", "classifier"], typed: true },
    Architecture { name: "roberta", head: ROBERTA, typed: false },
    Architecture { name: "xlm-roberta", head: ROBERTA, typed: false },
];

/// Loads a model with the architecture that its own files name.
///
/// # Errors
/// An architecture or a format that is not known, a head of several outputs, or files that are missing or broken.
pub fn load(installed: &Installed, device: &Device) -> Result<Loaded, Error> {
    let folder = super::embed::open(installed)?;
    let name = settings::model_type(folder.dir())?;
    let Some(row) = REGISTRY.iter().find(|row| row.name == name) else {
        let known = REGISTRY.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        return Err(Error::UnknownArchitecture { path: folder.config_path(), name, known });
    };
    let model = CrossEncoder::load(&folder, row, device)?;
    let config = model.encoder.config();
    let types = if row.typed { config.type_vocab_size } else { 1 };
    let tokenizer = PairTokenizer::load(folder.dir(), model.max_tokens, config.vocab_size, types)?;
    Ok(Loaded { model: Box::new(model), front: Front { tokenizer } })
}

/// What a model will take once it is loaded, by the heads of its files.
///
/// # Errors
/// Files that cannot be read.
pub fn footprint(installed: &Installed, largest: Size) -> Result<Footprint, Error> {
    let folder = super::embed::open(installed)?;
    let (weights, config) = (folder.loaded_bytes(largest.gpu), Config::read(&folder)?);
    Ok(Footprint {
        weights: weights.saturating_add(weights / 16),
        cache: 0,
        step: config.step_bytes(largest),
    })
}

/// An encoder with a head.
struct CrossEncoder {
    encoder: Encoder,
    dense: Linear,
    score: Linear,
    max_tokens: usize,
}

impl CrossEncoder {
    fn load(folder: &Folder, row: &Architecture, device: &Device) -> Result<Self, Error> {
        let encoder = Encoder::load(folder, device)?;
        let hidden = encoder.config().hidden_size;
        let linear = |name: &str, outputs: usize| -> Result<Linear, Error> {
            let weight = folder.tensor(&format!("{name}.weight"), &[outputs, hidden], device)?;
            let bias = folder.tensor(&format!("{name}.bias"), &[outputs], device)?;
            Ok(Linear::new(&weight, Some(&bias))?)
        };
        let [dense, score] = row.head;
        let (dense, score) = (linear(dense, hidden)?, linear(score, 1)?);
        let max_tokens = settings::max_tokens(folder.dir(), encoder.config().longest_row())?;
        Ok(CrossEncoder { encoder, dense, score, max_tokens })
    }

    fn score(&self, pairs: &[Pair]) -> Result<Vec<f32>, Error> {
        let rows = Ragged::new(pairs.iter().map(Pair::ids));
        let types = pairs.iter().flat_map(|pair| pair.types().iter().copied()).collect();
        let x = self.encoder.forward(&rows, Some(types))?;
        let firsts: Vec<u32> = rows.starts.iter().take(pairs.len()).map(|&start| start as u32).collect();
        let firsts = candle_core::Tensor::new(firsts, x.device())?;
        let pooled = ops::linear(&x.index_select(&firsts, 0)?, &self.dense)?.tanh()?;
        Ok(ops::linear(&pooled, &self.score)?.flatten_all()?.to_vec1()?)
    }
}

impl Model<Rerank> for CrossEncoder {
    fn step(&mut self, pairs: &Vec<Pair>) -> Result<Vec<f32>, super::Error> {
        let vocabulary = self.encoder.config().vocab_size;
        check(pairs.iter().map(Pair::ids), self.max_tokens, vocabulary)?;
        Ok(in_passes(pairs, |pair| pair.ids().len(), |pass| self.score(pass))?)
    }

    fn footprint(&self, largest: Size) -> Footprint {
        Footprint {
            weights: (self.encoder.bytes() + self.dense.bytes() + self.score.bytes()) as u64,
            cache: 0,
            step: self.encoder.config().step_bytes(largest),
        }
    }
}
