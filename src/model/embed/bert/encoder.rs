//! The network itself, from token ids to a vector each.

use candle_core::{Device, Result as TensorResult, Tensor};

use super::Config;
use crate::model::embed::rows::{Norm, Ragged};
use crate::model::embed::{Error, Folder};
use crate::ops::{self, Linear};

/// What stands before the names of the encoder's tensors: nothing, or in a task model's files the encoder's own name.
const PREFIXES: [&str; 3] = ["", "bert.", "roberta."];

struct Layer {
    qkv: Linear,
    attended: Linear,
    attended_norm: Norm,
    wide: Linear,
    narrow: Linear,
    narrow_norm: Norm,
}

/// A loaded encoder.
pub(in crate::model) struct Encoder {
    config: Config,
    device: Device,
    words: Tensor,
    /// Position vectors, the vector of token type 0 added to each: a text alone has no other type.
    positions: Tensor,
    /// What the other types' vectors have beyond type 0's: (types, hidden).
    types: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    bytes: usize,
}

/// Reads tensors below a prefix.
pub(in crate::model) struct Weights<'a> {
    folder: &'a Folder,
    prefix: &'static str,
    device: &'a Device,
    eps: f64,
}

impl<'a> Weights<'a> {
    /// The encoder's tensors in a folder.
    fn of_encoder(folder: &'a Folder, c: &Config, device: &'a Device) -> Self {
        let prefix = folder.prefix(&PREFIXES, "embeddings.word_embeddings.weight");
        Weights { folder, prefix, device, eps: c.layer_norm_eps }
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        self.folder.tensor(&format!("{}{name}", self.prefix), shape, self.device)
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, Error> {
        let (weight, bias) =
            (self.get(&format!("{name}.weight"), &[width])?, self.get(&format!("{name}.bias"), &[width])?);
        Ok(Norm { weight, bias, eps: self.eps })
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

impl Encoder {
    /// Loads a folder in f32. Memory: the weights once, and one layer's again while it loads.
    ///
    /// # Errors
    /// Files that are missing, broken or no such encoder's; a device without room.
    pub fn load(folder: &Folder, device: &Device) -> Result<Self, Error> {
        let config = Config::read(folder)?;
        let weights = Weights::of_encoder(folder, &config, device);
        let hidden = config.hidden_size;
        let words = weights.get("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let shape = [config.max_position_embeddings, hidden];
        let positions = weights.get("embeddings.position_embeddings.weight", &shape)?;
        let types =
            weights.get("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        let first = types.narrow(0, 0, 1)?;
        let positions = positions.broadcast_add(&first)?;
        let types = types.broadcast_sub(&first)?;
        let norm = weights.norm("embeddings.LayerNorm", hidden)?;
        let layers: Vec<Layer> =
            (0..config.num_hidden_layers).map(|i| weights.layer(i, &config)).collect::<Result<_, _>>()?;
        let tables = (config.vocab_size + config.max_position_embeddings) * hidden * size_of::<f32>();
        let linears =
            |l: &Layer| [&l.qkv, &l.attended, &l.wide, &l.narrow].map(Linear::bytes).iter().sum::<usize>();
        let bytes = tables + layers.iter().map(linears).sum::<usize>();
        let device = device.clone();
        Ok(Encoder { config, device, words, positions, types, norm, layers, bytes })
    }

    /// The network's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of its weights.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last layer's output, (tokens, hidden), of [checked](super::super::rows::check) rows. `types` is each token's
    /// type, below the configuration's `type_vocab_size`; without them all have type 0.
    ///
    /// # Errors
    /// A device that fails.
    pub fn forward(&self, rows: &Ragged, types: Option<Vec<u32>>) -> TensorResult<Tensor> {
        let tokens = rows.ids.len();
        let lookup = |table: &Tensor, at| table.index_select(&Tensor::from_vec(at, tokens, &self.device)?, 0);
        let words = lookup(&self.words, rows.ids.clone())?;
        let places = lookup(&self.positions, self.config.places(rows))?;
        let places = match types {
            Some(types) => (places + lookup(&self.types, types)?)?,
            None => places,
        };
        let mut x = self.norm.of_sum(&words, &places)?;
        let heads = self.config.num_attention_heads;
        let scale = 1.0 / ((self.config.hidden_size / heads) as f32).sqrt();
        for layer in &self.layers {
            let qkv = ops::linear(&x, &layer.qkv)?;
            let attended = ops::attention_varlen(&qkv, &rows.starts, heads, scale)?;
            let attended = ops::linear(&attended, &layer.attended)?;
            x = layer.attended_norm.of_sum(&attended, &x)?;
            let wide = ops::linear_gelu(&x, &layer.wide)?;
            x = layer.narrow_norm.of_sum(&ops::linear(&wide, &layer.narrow)?, &x)?;
        }
        Ok(x)
    }
}
