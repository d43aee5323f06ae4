//! What shapes a nomic-bert, from `config.json` or from GGUF metadata.
//!
//! The published models' `config.json` has the field names of GPT-2's; transformers, which has the network built in
//! since 5.x, writes those of BERT's. Both are read.

use std::path::Path;

use serde::Deserialize;

use crate::model::embed::rows::TOKENS_A_PASS;
use crate::model::embed::{Error, Folder};
use crate::model::weights::Error as WeightsError;
use crate::model::weights::gguf::{Field, Gguf};
use crate::model::{Size, Widths};

/// Bounds that no published model comes near: a file beyond them lies.
const MAX_LAYERS: usize = 1_024;
const MAX_WIDTH: usize = 1 << 17;
const MAX_POSITIONS: usize = 1 << 20;
const MAX_VOCABULARY: usize = 1 << 24;

/// The base of the rotary embedding where a file has none: transformers' default for this network.
const ROPE_BASE: f64 = 1_000.0;

/// The network's shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vocabulary: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub feed_forward: usize,
    /// Token types, of which a text alone has the first.
    pub types: usize,
    /// Tokens of the longest row.
    pub positions: usize,
    pub norm_eps: f64,
    /// Of the wavelengths of the rotary embedding.
    pub rope_base: f64,
}

/// `config.json`.
#[derive(Deserialize)]
struct File {
    vocab_size: usize,
    n_embd: Option<usize>,
    hidden_size: Option<usize>,
    n_layer: Option<usize>,
    num_hidden_layers: Option<usize>,
    n_head: Option<usize>,
    num_attention_heads: Option<usize>,
    n_inner: Option<usize>,
    intermediate_size: Option<usize>,
    n_positions: Option<usize>,
    max_position_embeddings: Option<usize>,
    max_trained_positions: Option<usize>,
    type_vocab_size: Option<usize>,
    layer_norm_epsilon: Option<f64>,
    layer_norm_eps: Option<f64>,
    activation_function: Option<String>,
    hidden_act: Option<String>,
    rotary_emb_base: Option<f64>,
    rotary_emb_fraction: Option<f64>,
    rotary_emb_scale_base: Option<f64>,
    rotary_scaling_factor: Option<f64>,
    rope_parameters: Option<Rope>,
    num_experts: Option<usize>,
    #[serde(flatten)]
    switches: Switches,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// What is another network where it is on.
#[derive(Deserialize)]
struct Switches {
    rotary_emb_interleaved: Option<bool>,
    qkv_proj_bias: Option<bool>,
    mlp_fc1_bias: Option<bool>,
    mlp_fc2_bias: Option<bool>,
    prenorm: Option<bool>,
    parallel_block: Option<bool>,
    use_rms_norm: Option<bool>,
    causal: Option<bool>,
}

impl File {
    /// Refuses what is set and is not computed here.
    fn refuse(&self, path: &Path) -> Result<(), Error> {
        let s = &self.switches;
        let switches = [
            ("rotary_emb_interleaved", s.rotary_emb_interleaved),
            ("qkv_proj_bias", s.qkv_proj_bias),
            ("mlp_fc1_bias", s.mlp_fc1_bias),
            ("mlp_fc2_bias", s.mlp_fc2_bias),
            ("prenorm", s.prenorm),
            ("parallel_block", s.parallel_block),
            ("use_rms_norm", s.use_rms_norm),
            ("causal", s.causal),
        ];
        let on = switches.iter().find(|(_, on)| *on == Some(true));
        let mut wrong = on.map(|(field, _)| (*field, "true".to_owned(), "false is"));
        let kind = self.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref());
        if let Some(kind) = kind.filter(|kind| *kind != "default") {
            wrong = Some(("rope_parameters.rope_type", kind.to_owned(), "default is"));
        }
        if let Some(part) = self.rotary_emb_fraction.filter(|part| *part != 1.0) {
            wrong = Some(("rotary_emb_fraction", part.to_string(), "1 is"));
        }
        if let Some(base) = self.rotary_emb_scale_base {
            wrong = Some(("rotary_emb_scale_base", base.to_string(), "null is"));
        }
        if let Some(count) = self.num_experts.filter(|count| *count > 1) {
            wrong = Some(("num_experts", count.to_string(), "models without experts are"));
        }
        let acts = [("activation_function", &self.activation_function), ("hidden_act", &self.hidden_act)];
        let known = |act: &&String| !matches!(act.as_str(), "swiglu" | "silu");
        for (field, act) in acts {
            if let Some(act) = act.as_ref().filter(known) {
                wrong = Some((field, act.clone(), "swiglu and silu are"));
            }
        }
        match wrong {
            None => Ok(()),
            Some((field, value, remedy)) => {
                Err(Error::Unsupported { path: path.to_owned(), field, value, remedy })
            }
        }
    }
}

impl Config {
    /// Bytes that a step takes besides weights: of as many tokens as its passes have, or of one longer row.
    pub fn step_bytes(&self, largest: Size) -> u64 {
        let (hidden, inner) = (self.hidden, self.feed_forward);
        let widths = Widths { hidden, qkv: 3 * hidden, attended: hidden, wide: 2 * inner, inner };
        let halves = if largest.gpu { widths.halves_bytes() } else { 0 };
        let tokens = largest.units.min(TOKENS_A_PASS).max(self.positions);
        widths.pass_bytes(tokens, largest.gpu) + halves
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// A field that is missing, out of range or asks for what nothing here computes.
    pub fn of_folder(folder: &Folder) -> Result<Config, Error> {
        let path = folder.config_path();
        let file: File = folder.config()?;
        file.refuse(&path)?;
        let need = |field: &str, value: Option<usize>| -> Result<usize, Error> {
            let missing = || WeightsError::Missing { path: path.clone(), field: field.to_owned() };
            Ok(value.ok_or_else(missing)?)
        };
        let positions = need("n_positions", file.n_positions.or(file.max_position_embeddings))?;
        // From there on the angles would be stretched as the row grows, which is not computed here.
        let positions = match (file.rotary_scaling_factor, file.max_trained_positions) {
            (Some(_), Some(trained)) => positions.min(trained),
            _ => positions,
        };
        let theta = file.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        let config = Config {
            vocabulary: file.vocab_size,
            hidden: need("n_embd", file.n_embd.or(file.hidden_size))?,
            layers: need("n_layer", file.n_layer.or(file.num_hidden_layers))?,
            heads: need("n_head", file.n_head.or(file.num_attention_heads))?,
            feed_forward: need("n_inner", file.n_inner.or(file.intermediate_size))?,
            types: file.type_vocab_size.unwrap_or(2),
            positions,
            norm_eps: file.layer_norm_epsilon.or(file.layer_norm_eps).unwrap_or(1e-12),
            rope_base: file.rotary_emb_base.or(theta).unwrap_or(ROPE_BASE),
        };
        config.check(&path)
    }

    /// Reads GGUF metadata, whose keys are those of ggml's `docs/gguf.md` below `nomic-bert.`.
    ///
    /// # Errors
    /// As [`of_folder`](Self::of_folder).
    pub fn of_gguf(gguf: &Gguf) -> Result<Config, Error> {
        let key = |name: &str| format!("nomic-bert.{name}");
        let size = |name: &str| -> Result<usize, Error> { Ok(gguf.meta(&key(name)).usize()?) };
        let float = |name: &str| -> Result<Option<f64>, Error> {
            Ok(gguf.meta(&key(name)).opt(Field::f32)?.map(f64::from))
        };
        let refuse = |field, value: String, remedy| {
            Err(Error::Unsupported { path: gguf.path().to_owned(), field, value, remedy })
        };
        if gguf.meta(&key("attention.causal")).bool_or(false)? {
            return refuse("nomic-bert.attention.causal", "true".to_owned(), "false is");
        }
        match gguf.meta(&key("rope.scaling.type")).opt(Field::str)? {
            None | Some("none") => {}
            Some(kind) => return refuse("nomic-bert.rope.scaling.type", kind.to_owned(), "none is"),
        }
        let rows = |name: &str| -> Result<usize, Error> {
            Ok(gguf.require(name)?.shape.first().copied().unwrap_or(0))
        };
        let config = Config {
            vocabulary: rows("token_embd.weight")?,
            hidden: size("embedding_length")?,
            layers: size("block_count")?,
            heads: size("attention.head_count")?,
            feed_forward: size("feed_forward_length")?,
            types: rows("token_types.weight")?,
            positions: size("context_length")?,
            norm_eps: float("attention.layer_norm_epsilon")?.unwrap_or(1e-12),
            rope_base: float("rope.freq_base")?.unwrap_or(ROPE_BASE),
        };
        config.check(gguf.path())
    }

    /// Refuses what cannot be; sizes are compared with the weights as they load.
    fn check(self, path: &Path) -> Result<Config, Error> {
        let wrong = |field: &str, problem: String| Err(WeightsError::malformed(path, field, problem).into());
        let sizes = [
            ("vocabulary", self.vocabulary, MAX_VOCABULARY),
            ("width", self.hidden, MAX_WIDTH),
            ("layers", self.layers, MAX_LAYERS),
            ("heads", self.heads, MAX_WIDTH),
            ("width of the feed-forward layer", self.feed_forward, 8 * MAX_WIDTH),
            ("token types", self.types, MAX_WIDTH),
            ("positions", self.positions, MAX_POSITIONS),
        ];
        if let Some((field, value, max)) = sizes.iter().find(|(_, value, max)| *value == 0 || value > max) {
            return wrong(field, format!("{value} is not from 1 to {max}"));
        }
        if !self.hidden.is_multiple_of(self.heads) || !(self.hidden / self.heads).is_multiple_of(2) {
            return wrong("heads", format!("{} do not fit a width of {}", self.heads, self.hidden));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return wrong("epsilon of the norms", format!("{} is not a small number", self.norm_eps));
        }
        if !(self.rope_base.is_finite() && self.rope_base > 0.0) {
            return wrong("rotary base", format!("{} is not a positive number", self.rope_base));
        }
        Ok(self)
    }

    /// Dimensions of a head, an even number.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}
