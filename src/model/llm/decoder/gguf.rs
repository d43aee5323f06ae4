//! A decoder's configuration from GGUF metadata.
//!
//! Keys are those of ggml's `docs/gguf.md`, below the name of the architecture. What a family leaves out of its
//! metadata is in [`Family`]: llama.cpp, whose converters write the files, has it in its code.

use candle_core::Device;

use super::config::{Config, Experts, Local, MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, checked};
use super::rope::{Scaling, Yarn};
use crate::model::Error;
use crate::model::weights::gguf::{Field, Gguf};
use crate::ops::{Activation, Angles, RopeStyle};

/// What the metadata does not tell.
struct Family {
    rope_style: RopeStyle,
    activation: Activation,
    /// Embeddings are multiplied with the root of their width.
    scaled_embeddings: bool,
    windows: Windows,
}

/// Which layers have a window where the metadata gives its size.
enum Windows {
    /// None: the metadata's window is not used in inference.
    None,
    All,
    /// All but every sixth, which turns by the metadata's base; the others by 10,000.
    GemmaThree,
}

/// Layers of the one Gemma 3 (27B) whose attention is scaled by the width of the stream, not of a head.
const GEMMA_27B_LAYERS: usize = 62;
const GEMMA_PERIOD: usize = 6;

fn family(architecture: &str) -> Family {
    let halves = Family {
        rope_style: RopeStyle::Halves,
        activation: Activation::Silu,
        scaled_embeddings: false,
        windows: Windows::None,
    };
    match architecture {
        "gemma3" => Family {
            activation: Activation::GeluTanh,
            scaled_embeddings: true,
            windows: Windows::GemmaThree,
            ..halves
        },
        "phi3" => Family { windows: Windows::All, ..halves },
        // The converter permutes these projections, so that pairs lie side by side.
        "llama" => Family { rope_style: RopeStyle::Interleaved, ..halves },
        _ => halves,
    }
}

/// Reads metadata by name below the architecture.
struct Keys<'g> {
    gguf: &'g Gguf,
    architecture: &'g str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str, max: usize) -> Result<usize, Error> {
        let key = self.key(name);
        checked(&key, self.gguf.meta(&key).usize()?, max)
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize, Error> {
        let key = self.key(name);
        let value = self.gguf.meta(&key).opt(Field::usize)?.unwrap_or(default);
        checked(&key, value, MAX_WIDTH)
    }

    fn float(&self, name: &str) -> Result<Option<f64>, Error> {
        let key = self.key(name);
        Ok(self.gguf.meta(&key).opt(Field::f32)?.map(f64::from))
    }

    /// A float that must be above 0.
    fn positive(&self, name: &str, default: f64) -> Result<f64, Error> {
        let value = self.float(name)?.unwrap_or(default);
        match value > 0.0 {
            true => Ok(value),
            false => Err(Error::config(self.key(name), format!("{value} is not a positive number"))),
        }
    }
}

/// Reads and checks the metadata. `context` is how many positions will be used at most, which decides between the
/// two sets of factors that some models have.
pub(super) fn config(gguf: &Gguf, context: usize) -> Result<Config, Error> {
    let architecture = gguf.architecture()?;
    let family = family(architecture);
    let keys = Keys { gguf, architecture };
    let layers = keys.size("block_count", MAX_LAYERS)?;
    let hidden = keys.size("embedding_length", MAX_WIDTH)?;
    let heads = keys.size("attention.head_count", MAX_WIDTH)?;
    let head_dim = keys.size_or("attention.key_length", hidden / heads)?;
    let values = keys.size_or("attention.value_length", head_dim)?;
    if values != head_dim {
        let problem = format!("is {values} where keys have {head_dim} dimensions");
        return Err(Error::config(keys.key("attention.value_length"), problem));
    }
    let experts = experts(&keys)?;
    let feed_forward = match experts {
        Some(_) if gguf.meta(&keys.key("expert_feed_forward_length")).is_present() => {
            keys.size("expert_feed_forward_length", 8 * MAX_WIDTH)?
        }
        _ => keys.size("feed_forward_length", 8 * MAX_WIDTH)?,
    };
    let trained = keys.size("context_length", MAX_CONTEXT)?;
    let rope = rope(&keys, head_dim, context.min(trained), trained)?;
    let eps = keys.key("attention.layer_norm_rms_epsilon");
    let scaled = match architecture == "gemma3" && layers == GEMMA_27B_LAYERS {
        true => hidden / heads,
        false => head_dim,
    };
    let config = Config {
        layers,
        hidden,
        feed_forward,
        heads,
        kv_heads: keys.size_or("attention.head_count_kv", heads)?,
        head_dim,
        context: trained,
        vocabulary: gguf.require("token_embd.weight")?.shape.first().copied().unwrap_or(0),
        norm_eps: gguf.meta(&eps).f32()?,
        activation: family.activation,
        embedding_scale: if family.scaled_embeddings { (hidden as f32).sqrt() } else { 1.0 },
        attention_scale: (scaled as f32).sqrt().recip(),
        rope_style: family.rope_style,
        local: local(&keys, &family.windows, layers, &rope)?,
        rope,
        experts,
    };
    config.check(|setting| keys.key(name_of(setting)))
}

/// The file's name for a setting.
fn name_of(setting: &str) -> &str {
    match setting {
        "kv_heads" => "attention.head_count_kv",
        "rope_dims" => "rope.dimension_count",
        "rope" => "rope.freq_base",
        "norm_eps" => "attention.layer_norm_rms_epsilon",
        "attention_scale" => "attention.key_length",
        "experts" => "expert_used_count",
        other => other,
    }
}

fn experts(keys: &Keys<'_>) -> Result<Option<Experts>, Error> {
    let count = keys.gguf.meta(&keys.key("expert_count")).opt(Field::usize)?.unwrap_or(0);
    if count == 0 {
        return Ok(None);
    }
    let count = checked(&keys.key("expert_count"), count, MAX_EXPERTS)?;
    Ok(Some(Experts { count, used: keys.size("expert_used_count", MAX_EXPERTS)? }))
}

fn local(keys: &Keys<'_>, windows: &Windows, layers: usize, rope: &Angles) -> Result<Option<Local>, Error> {
    if !keys.gguf.meta(&keys.key("attention.sliding_window")).is_present() {
        return Ok(None);
    }
    let window = || keys.size("attention.sliding_window", MAX_CONTEXT);
    match windows {
        Windows::None => Ok(None),
        Windows::All => Ok(Some(Local { window: window()?, rope: rope.clone(), layers: vec![true; layers] })),
        Windows::GemmaThree => Ok(Some(Local {
            window: window()?,
            rope: Angles::plain(keys.positive("rope.freq_base_swa", 10_000.0)?, 2 * rope.steps.len()),
            layers: (1..=layers).map(|i| !i.is_multiple_of(GEMMA_PERIOD)).collect(),
        })),
    }
}

/// The angles of the layers that see everything.
fn rope(keys: &Keys<'_>, head_dim: usize, context: usize, trained: usize) -> Result<Angles, Error> {
    let dims = keys.size_or("rope.dimension_count", head_dim)?;
    if dims > head_dim || !dims.is_multiple_of(2) {
        let problem = format!("{dims} of {head_dim} dimensions");
        return Err(Error::config(keys.key("rope.dimension_count"), problem));
    }
    let base = keys.positive("rope.freq_base", 10_000.0)?;
    let kind = keys.key("rope.scaling.type");
    let factor = || keys.positive("rope.scaling.factor", 1.0);
    let original = || keys.size_or("rope.scaling.original_context_length", trained.min(MAX_WIDTH));
    let factors = |name: &str| -> Result<Vec<f32>, Error> {
        let factors: Vec<f32> = keys.gguf.tensor_f32(name, &[dims / 2], &Device::Cpu)?.to_vec1()?;
        match factors.iter().find(|f| **f <= 0.0) {
            None => Ok(factors),
            Some(bad) => Err(Error::config(name, format!("{bad} is not a positive factor"))),
        }
    };
    let scaling = match keys.gguf.meta(&kind).opt(Field::str)? {
        _ if keys.gguf.tensor("rope_freqs.weight").is_some() => {
            Scaling::Factors { factors: factors("rope_freqs.weight")?, magnitude: 1.0 }
        }
        _ if keys.gguf.tensor("rope_factors_long.weight").is_some() => {
            let long = context > original()?;
            let name = if long { "rope_factors_long.weight" } else { "rope_factors_short.weight" };
            let magnitude = keys.positive("rope.scaling.attn_factor", 1.0)?;
            Scaling::Factors { factors: factors(name)?, magnitude }
        }
        None | Some("none") => Scaling::None,
        Some("linear") => Scaling::Linear { factor: factor()? },
        Some("yarn") => Scaling::Yarn(Yarn {
            factor: factor()?,
            original: original()? as f64,
            fast: keys.positive("rope.scaling.yarn_beta_fast", 32.0)?,
            slow: keys.positive("rope.scaling.yarn_beta_slow", 1.0)?,
            magnitude: None,
        }),
        Some(other) => {
            let problem = format!("`{other}` is not supported; none, linear and yarn are");
            return Err(Error::config(kind.as_str(), problem));
        }
    };
    Ok(scaling.angles(base, dims))
}
