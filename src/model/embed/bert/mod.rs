//! BERT as an encoder of texts (Devlin et al., 2018): post-norm, learned positions, exact GELU.
//!
//! Activations are `(tokens, hidden)` over all rows of a batch, without padding; linear layers and norms do not
//! know that there are rows. Q, K and V are one product, whose output attention reads in place.

mod config;
#[cfg(test)]
mod tests;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

pub use config::Config;

use super::{Embed, EmbedTokenizer, Error, Front, Loaded, Settings};
use crate::model::weights::safetensors::SafetensorsFolder;
use crate::model::{self, Model};
use crate::ops::{self, Linear};

/// Tokens of one forward pass: enough to fill the device, few enough that the widest activation
/// (`tokens * intermediate_size` values) stays within tens of megabytes.
const TOKENS_A_PASS: usize = 4096;

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

struct Layer {
    qkv: Linear,
    attended: Linear,
    attended_norm: Norm,
    wide: Linear,
    narrow: Linear,
    narrow_norm: Norm,
}

/// A loaded BERT.
pub struct BertModel {
    config: Config,
    settings: Settings,
    device: Device,
    words: Tensor,
    /// Position vectors, the vector of token type 0 added to each: a text alone has no other type.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    bytes: usize,
}

/// Reads the tensors of one model: names below a prefix, all of one type on one device.
struct Weights<'a> {
    folder: &'a SafetensorsFolder,
    prefix: &'static str,
    device: &'a Device,
}

impl Weights<'_> {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        Ok(self.folder.tensor(&format!("{}{name}", self.prefix), shape, DType::F32, self.device)?)
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, Error> {
        let (weight, bias) =
            (self.get(&format!("{name}.weight"), &[width])?, self.get(&format!("{name}.bias"), &[width])?);
        Ok(Norm { weight, bias })
    }

    fn pair(&self, name: &str, outputs: usize, inputs: usize) -> Result<(Tensor, Tensor), Error> {
        Ok((
            self.get(&format!("{name}.weight"), &[outputs, inputs])?,
            self.get(&format!("{name}.bias"), &[outputs])?,
        ))
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, Error> {
        let (weight, bias) = self.pair(name, outputs, inputs)?;
        Ok(Linear::new(&weight, Some(&bias))?)
    }

    fn layer(&self, i: usize, c: &Config) -> Result<Layer, Error> {
        let at = |name: &str| format!("encoder.layer.{i}.{name}");
        let (hidden, wide) = (c.hidden_size, c.intermediate_size);
        let (q, qb) = self.pair(&at("attention.self.query"), hidden, hidden)?;
        let (k, kb) = self.pair(&at("attention.self.key"), hidden, hidden)?;
        let (v, vb) = self.pair(&at("attention.self.value"), hidden, hidden)?;
        Ok(Layer {
            qkv: Linear::fused(&[(&q, Some(&qb)), (&k, Some(&kb)), (&v, Some(&vb))])?,
            attended: self.linear(&at("attention.output.dense"), hidden, hidden)?,
            attended_norm: self.norm(&at("attention.output.LayerNorm"), hidden)?,
            wide: self.linear(&at("intermediate.dense"), wide, hidden)?,
            narrow: self.linear(&at("output.dense"), hidden, wide)?,
            narrow_norm: self.norm(&at("output.LayerNorm"), hidden)?,
        })
    }
}

impl BertModel {
    /// Loads the safetensors folder `dir` in f32. Memory: the weights once, and one layer's again while it loads.
    ///
    /// # Errors
    /// Files that are missing, broken or not a BERT's; a device without room.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Error> {
        let folder = SafetensorsFolder::open(dir)?;
        let config: Config = folder.config()?;
        config.check(&dir.join("config.json"))?;
        let settings = Settings::read(dir, config.max_position_embeddings)?;
        // A checkpoint of a task model has its encoder below `bert.`.
        let prefixed = folder.shape("bert.embeddings.word_embeddings.weight").is_some();
        let weights = Weights { folder: &folder, prefix: if prefixed { "bert." } else { "" }, device };
        let hidden = config.hidden_size;
        let words = weights.get("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let shape = [config.max_position_embeddings, hidden];
        let positions = weights.get("embeddings.position_embeddings.weight", &shape)?;
        let types =
            weights.get("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        let positions = positions.broadcast_add(&types.narrow(0, 0, 1)?)?;
        let norm = weights.norm("embeddings.LayerNorm", hidden)?;
        let layers: Vec<Layer> =
            (0..config.num_hidden_layers).map(|i| weights.layer(i, &config)).collect::<Result<_, _>>()?;
        let tables = (config.vocab_size + config.max_position_embeddings) * hidden * size_of::<f32>();
        let linears =
            |l: &Layer| [&l.qkv, &l.attended, &l.wide, &l.narrow].map(Linear::bytes).iter().sum::<usize>();
        let bytes = tables + layers.iter().map(linears).sum::<usize>();
        let device = device.clone();
        Ok(BertModel { config, settings, device, words, positions, norm, layers, bytes })
    }

    /// The network's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// One vector of length 1 a row, in order. Rows are token ids with their special tokens.
    ///
    /// # Errors
    /// A row that is empty, longer than the model takes or holds an id past the vocabulary; a device that fails.
    pub fn embed(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        self.check(rows)?;
        let mut vectors = Vec::with_capacity(rows.len());
        let mut rest = rows;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fit = rest.iter().take_while(|row| {
                tokens += row.len();
                tokens <= TOKENS_A_PASS
            });
            let (pass, tail) = rest.split_at(fit.count().max(1));
            vectors.extend(self.forward(pass)?);
            rest = tail;
        }
        Ok(vectors)
    }

    /// The longest row, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.settings.max_tokens
    }

    fn check(&self, rows: &[Vec<u32>]) -> Result<(), Error> {
        let (limit, vocabulary) = (self.settings.max_tokens, self.config.vocab_size);
        for (row, ids) in rows.iter().enumerate() {
            if ids.is_empty() {
                return Err(Error::EmptyRow { row });
            }
            if ids.len() > limit {
                return Err(Error::TooLong { row, tokens: ids.len(), limit });
            }
            if let Some(position) = ids.iter().position(|&id| id as usize >= vocabulary) {
                return Err(Error::TokenOutOfRange { id: ids[position], position, vocabulary });
            }
        }
        Ok(())
    }

    /// Checked rows through the network in one pass.
    fn forward(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        let mut starts = Vec::with_capacity(rows.len() + 1);
        starts.push(0);
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for row in rows {
            ids.extend_from_slice(row);
            // Rows are at most `max_position_embeddings` long, which fits.
            positions.extend(0..row.len() as u32);
            starts.push(ids.len());
        }
        let tokens = ids.len();
        let lookup = |table: &Tensor, at| table.index_select(&Tensor::from_vec(at, tokens, &self.device)?, 0);
        let (words, positions) = (lookup(&self.words, ids)?, lookup(&self.positions, positions)?);
        let mut x = self.normed(&words, &positions, &self.norm)?;
        let heads = self.config.num_attention_heads;
        let scale = 1.0 / ((self.config.hidden_size / heads) as f32).sqrt();
        for layer in &self.layers {
            let qkv = ops::linear(&x, &layer.qkv)?;
            let attended = ops::attention_varlen(&qkv, &starts, heads, scale)?;
            let attended = ops::linear(&attended, &layer.attended)?;
            x = self.normed(&attended, &x, &layer.attended_norm)?;
            let wide = ops::linear_gelu(&x, &layer.wide)?;
            x = self.normed(&ops::linear(&wide, &layer.narrow)?, &x, &layer.narrow_norm)?;
        }
        Ok(ops::pool_rows(&x, &starts, self.settings.pooling)?)
    }

    fn normed(&self, x: &Tensor, residual: &Tensor, norm: &Norm) -> candle_core::Result<Tensor> {
        ops::add_layer_norm(x, residual, &norm.weight, &norm.bias, self.config.layer_norm_eps)
    }
}

/// Loads a folder and its tokenizer; the registry's entry.
pub fn load(dir: &Path, device: &Device) -> Result<Loaded, Error> {
    let model = BertModel::load(dir, device)?;
    let tokenizer = EmbedTokenizer::load(dir, model.settings.max_tokens, model.config.vocab_size)?;
    let front = Front { tokenizer, dimensions: model.config.hidden_size };
    Ok(Loaded { model: Box::new(model), front })
}

impl Model<Embed> for BertModel {
    fn step(&mut self, rows: &Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, model::Error> {
        Ok(self.embed(rows)?)
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}
