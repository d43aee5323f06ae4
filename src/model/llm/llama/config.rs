//! The sizes of a llama-family decoder, read from GGUF metadata and checked.

use crate::model::Error;
use crate::model::weights::gguf::{Field, Gguf};
use crate::ops::RopeStyle;

/// Bounds that no published model comes near: a file beyond them lies.
const MAX_LAYERS: usize = 1_024;
const MAX_WIDTH: usize = 1 << 17;
const MAX_CONTEXT: usize = 1 << 24;

/// Sizes and constants of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub context: usize,
    pub vocabulary: usize,
    pub norm_eps: f32,
    pub rope_base: f64,
    /// Dimensions of a head that turn.
    pub rope_dims: usize,
    pub rope_style: RopeStyle,
    /// Divides every angle (linear scaling); 1 without.
    pub rope_scale: f32,
}

impl Config {
    /// Reads and checks the metadata under the file's architecture name.
    pub fn read(gguf: &Gguf) -> Result<Config, Error> {
        let architecture = gguf.architecture()?.to_owned();
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str, max: usize| -> Result<usize, Error> {
            let key = key(name);
            checked(&key, gguf.meta(&key).usize()?, max)
        };
        let optional = |name: &str, default: usize| -> Result<usize, Error> {
            let key = key(name);
            let value = gguf.meta(&key).opt(Field::usize)?.unwrap_or(default);
            checked(&key, value, MAX_WIDTH)
        };
        let hidden = size("embedding_length", MAX_WIDTH)?;
        let heads = size("attention.head_count", MAX_WIDTH)?;
        let kv_heads = optional("attention.head_count_kv", heads)?;
        let head_dim = optional("attention.key_length", hidden / heads)?;
        let rope_dims = optional("rope.dimension_count", head_dim)?;
        let (base, scaling, factor, eps) = (
            key("rope.freq_base"),
            key("rope.scaling.type"),
            key("rope.scaling.factor"),
            key("attention.layer_norm_rms_epsilon"),
        );
        let config = Config {
            layers: size("block_count", MAX_LAYERS)?,
            hidden,
            feed_forward: size("feed_forward_length", 8 * MAX_WIDTH)?,
            heads,
            kv_heads,
            head_dim,
            context: size("context_length", MAX_CONTEXT)?,
            vocabulary: gguf.require("token_embd.weight")?.shape.first().copied().unwrap_or(0),
            norm_eps: gguf.meta(&eps).f32()?,
            rope_base: f64::from(gguf.meta(&base).f32_or(10_000.0)?),
            rope_dims,
            rope_style: if architecture == "qwen2" { RopeStyle::Halves } else { RopeStyle::Interleaved },
            rope_scale: match gguf.meta(&scaling).opt(Field::str)? {
                None | Some("none") => 1.0,
                Some("linear") => gguf.meta(&factor).f32()?,
                Some(other) => {
                    let problem = format!("`{other}` is not supported");
                    return Err(Error::config(scaling.as_str(), problem));
                }
            },
        };
        config.check()
    }

    fn check(self) -> Result<Config, Error> {
        let fail = |field: &str, problem: String| Err(Error::config(field, problem));
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fail(
                "attention.head_count_kv",
                format!("{} do not divide {}", self.kv_heads, self.heads),
            );
        }
        if self.rope_dims > self.head_dim || !self.rope_dims.is_multiple_of(2) {
            return fail(
                "rope.dimension_count",
                format!("{} of {} dimensions", self.rope_dims, self.head_dim),
            );
        }
        if !(self.rope_base.is_finite() && self.rope_base > 0.0) {
            return fail("rope.freq_base", format!("{} is not a positive number", self.rope_base));
        }
        if !(self.rope_scale.is_finite() && self.rope_scale > 0.0) {
            return fail("rope.scaling.factor", format!("{} is not a positive number", self.rope_scale));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return fail(
                "attention.layer_norm_rms_epsilon",
                format!("{} is not a small number", self.norm_eps),
            );
        }
        Ok(self)
    }
}

fn checked(key: &str, value: usize, max: usize) -> Result<usize, Error> {
    match value {
        0 => Err(Error::config(key, "is 0")),
        v if v > max => Err(Error::config(key, format!("is {v}; at most {max} can be"))),
        v => Ok(v),
    }
}
