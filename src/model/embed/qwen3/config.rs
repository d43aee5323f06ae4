//! `config.json` of a Qwen3, as far as an embedding model of it has one.

use std::path::Path;

use serde::Deserialize;

use crate::model::embed::rows::TOKENS_A_PASS;
use crate::model::embed::{Error, Folder};
use crate::model::weights::Error as WeightsError;
use crate::model::{Size, Widths};

/// Bounds that no published model comes near: a file beyond them lies.
const MAX_LAYERS: usize = 1_024;
const MAX_WIDTH: usize = 1 << 17;
const MAX_POSITIONS: usize = 1 << 20;
const MAX_VOCABULARY: usize = 1 << 22;

/// The base of the rotary embedding where a file has none: transformers' default.
const ROPE_BASE: f64 = 10_000.0;

/// The fields that shape the network. One that a file leaves out has the value of transformers' class.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    #[serde(default = "usual_head")]
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_parameters: Option<Rope>,
    #[serde(default)]
    rope_scaling: Option<Rope>,
    #[serde(default)]
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: Option<bool>,
    #[serde(default)]
    use_sliding_window: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn usual_head() -> usize {
    128
}

impl Config {
    /// Bytes that a step takes besides weights: of as many tokens as its passes have, or of one longer row. Attention's
    /// slices of heads are put side by side, which has what it gives twice; the feed-forward layer goes by passes.
    pub fn step_bytes(&self, largest: Size) -> u64 {
        let pass = largest.units.min(TOKENS_A_PASS);
        let hidden = self.hidden_size;
        let qkv = self.queries() + 2 * self.keys();
        let attention = Widths { hidden, qkv, attended: 2 * self.queries(), wide: 0, inner: 0 };
        let (wide, inner) = (2 * self.intermediate_size, self.intermediate_size);
        let feed = Widths { hidden: 0, qkv: 0, attended: 0, wide, inner };
        let row = pass.max(self.max_position_embeddings);
        attention.pass_bytes(row, largest.gpu) + feed.pass_bytes(pass, largest.gpu)
    }

    /// Reads and checks the folder's file; sizes are compared with the weights as they load.
    ///
    /// # Errors
    /// A field that is missing, out of range or asks for what nothing here computes.
    pub fn read(folder: &Folder) -> Result<Config, Error> {
        let config: Config = folder.config()?;
        let path = folder.config_path();
        config.refuse(&path)?;
        config.check(&path)?;
        Ok(config)
    }

    fn refuse(&self, path: &Path) -> Result<(), Error> {
        let unsupported = |field, value: &str, remedy| {
            Err(Error::Unsupported { path: path.to_owned(), field, value: value.to_owned(), remedy })
        };
        let on = |switch: Option<bool>| switch == Some(true);
        if on(self.attention_bias) {
            return unsupported("attention_bias", "true", "false is");
        }
        if on(self.use_sliding_window) {
            return unsupported("use_sliding_window", "true", "false is");
        }
        let ropes = [("rope_parameters", &self.rope_parameters), ("rope_scaling", &self.rope_scaling)];
        for (field, rope) in ropes {
            let kind = rope.as_ref().and_then(|rope| rope.rope_type.as_deref().or(rope.kind.as_deref()));
            if let Some(kind) = kind.filter(|kind| *kind != "default") {
                return unsupported(field, kind, "default is");
            }
        }
        match self.hidden_act.as_deref() {
            None | Some("silu" | "swish") => Ok(()),
            Some(other) => unsupported("hidden_act", other, "silu is"),
        }
    }

    fn check(&self, path: &Path) -> Result<(), Error> {
        let wrong = |field: &str, problem: String| Err(WeightsError::malformed(path, field, problem).into());
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_VOCABULARY),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, 8 * MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_WIDTH),
            ("num_key_value_heads", self.num_key_value_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS),
        ];
        if let Some((field, value, max)) = sizes.iter().find(|(_, value, max)| *value == 0 || value > max) {
            return wrong(field, format!("{value} is not from 1 to {max}"));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let problem =
                format!("{} do not divide {} heads", self.num_key_value_heads, self.num_attention_heads);
            return wrong("num_key_value_heads", problem);
        }
        if !self.head_dim.is_multiple_of(2) {
            return wrong("head_dim", format!("{} is odd", self.head_dim));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return wrong("rms_norm_eps", format!("{} is not a small number", self.rms_norm_eps));
        }
        match self.rope_base() {
            base if base.is_finite() && base > 0.0 => Ok(()),
            base => wrong("rope_theta", format!("{base} is not a positive number")),
        }
    }

    /// Of the wavelengths of the rotary embedding.
    pub fn rope_base(&self) -> f64 {
        let new = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        new.or(self.rope_theta).unwrap_or(ROPE_BASE)
    }

    /// Query heads that share a key-value head.
    pub fn group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Width of all queries.
    pub fn queries(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all keys, and of all values.
    pub fn keys(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}
