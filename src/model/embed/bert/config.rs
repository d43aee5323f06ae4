//! `config.json` of a BERT or RoBERTa.

use std::path::Path;

use serde::Deserialize;

use crate::model::embed::rows::{Ragged, TOKENS_A_PASS};
use crate::model::embed::{Error, Folder};
use crate::model::weights::Error as WeightsError;
use crate::model::{Size, Widths};

/// The fields that shape the network; the others steer training.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    #[serde(default)]
    pub model_type: String,
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
    /// Of RoBERTa: positions are counted from behind it on.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
}

/// RoBERTa's `pad_token_id` where its file has none: the default of its class.
const PADDING: u32 = 1;

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
    /// Bytes that a step takes besides weights: of as many tokens as its passes have, or of one longer row.
    pub fn step_bytes(&self, largest: Size) -> u64 {
        let (hidden, wide) = (self.hidden_size, self.intermediate_size);
        let widths = Widths { hidden, qkv: 3 * hidden, attended: hidden, wide, inner: wide };
        let tokens = largest.units.min(TOKENS_A_PASS).max(self.max_position_embeddings);
        widths.pass_bytes(tokens, largest.gpu)
    }

    /// Reads and checks the folder's file.
    ///
    /// # Errors
    /// A file that is missing or holds none, and those of [`check`](Self::check).
    pub fn read(folder: &Folder) -> Result<Config, Error> {
        let config: Config = folder.config()?;
        config.check(&folder.config_path())?;
        Ok(config)
    }

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
        if self.padding().is_some_and(|p| p as usize + 2 > self.max_position_embeddings) {
            let problem = format!(
                "leaves no position of the {} in max_position_embeddings",
                self.max_position_embeddings
            );
            return Err(WeightsError::malformed(path, "pad_token_id", problem).into());
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

    /// The token at whose id RoBERTa's positions stand still; `None` for a BERT, which numbers them all.
    fn padding(&self) -> Option<u32> {
        let roberta = matches!(self.model_type.as_str(), "roberta" | "xlm-roberta");
        roberta.then(|| self.pad_token_id.unwrap_or(PADDING))
    }

    /// Tokens of the longest row that there are positions for.
    pub fn longest_row(&self) -> usize {
        self.max_position_embeddings - self.padding().map_or(0, |padding| padding as usize + 1)
    }

    /// The row of the position table of each token. RoBERTa's first is the one behind the padding token's id, and that
    /// token, where a text holds it, has that id's and is not counted.
    pub(super) fn places(&self, rows: &Ragged) -> Vec<u32> {
        let Some(padding) = self.padding() else { return rows.positions() };
        let mut places = Vec::with_capacity(rows.ids.len());
        for row in rows.rows() {
            let mut last = padding;
            places.extend(row.iter().map(|&id| {
                last += u32::from(id != padding);
                if id == padding { padding } else { last }
            }));
        }
        places
    }
}
