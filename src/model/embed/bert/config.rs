//! `config.json` of a BERT.

use std::path::Path;

use serde::Deserialize;

use crate::model::embed::Error;
use crate::model::weights::Error as WeightsError;

/// The fields that shape the network; the others steer training.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    #[serde(default = "small")]
    pub layer_norm_eps: f64,
    #[serde(default = "gelu")]
    pub hidden_act: String,
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
}

fn two() -> usize {
    2
}

fn small() -> f64 {
    1e-12
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn absolute() -> String {
    "absolute".to_owned()
}

impl Config {
    /// Refuses what cannot be and what nothing here computes; sizes are compared with the weights as they load.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub fn check(&self, path: &Path) -> Result<(), Error> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        for (field, value) in sizes {
            if value == 0 || value > u32::MAX as usize {
                return Err(WeightsError::malformed(path, field, format!("{value} is out of range")).into());
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let problem =
                format!("{} do not divide hidden_size {}", self.num_attention_heads, self.hidden_size);
            return Err(WeightsError::malformed(path, "num_attention_heads", problem).into());
        }
        if !self.layer_norm_eps.is_finite() || self.layer_norm_eps < 0.0 {
            return Err(
                WeightsError::malformed(path, "layer_norm_eps", "is not a small positive number").into()
            );
        }
        let unsupported = |field, value: &str, remedy| {
            Err(Error::Unsupported { path: path.to_owned(), field, value: value.to_owned(), remedy })
        };
        if self.hidden_act != "gelu" {
            return unsupported("hidden_act", &self.hidden_act, "gelu is");
        }
        if self.position_embedding_type != "absolute" {
            return unsupported("position_embedding_type", &self.position_embedding_type, "absolute is");
        }
        Ok(())
    }
}
