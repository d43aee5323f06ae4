//! A decoder's configuration from the `config.json` of a Hugging Face folder.
//!
//! Fields are those of transformers' configuration classes, and one that a file leaves out has the value of its
//! class. What is set and would change the result, and is not computed here, is refused by name.

use serde_json::{Map, Value};

use super::config::{Config, Experts, Local, MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, checked};
use super::hf_rope::{self, Ropes};
use crate::model::Error;
use crate::ops::{Activation, RopeStyle};
use crate::types::model::Format;

/// The largest vocabulary; the largest published one has 262,208 tokens.
const MAX_VOCABULARY: usize = 1 << 22;

/// The `model_type` of every configuration that is known, as a row of the registry has it.
pub const MODEL_TYPES: [&str; 8] =
    ["llama", "mistral", "qwen2", "qwen3", "qwen3-moe", "gemma3", "gemma3-text", "phi3"];

/// What sets the families apart beside their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Gemma3,
    Phi3,
}

impl Family {
    fn of(model_type: &str) -> Result<Family, Error> {
        Ok(match model_type {
            "llama" => Family::Llama,
            "mistral" => Family::Mistral,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            "qwen3_moe" => Family::Qwen3Moe,
            "gemma3" | "gemma3_text" => Family::Gemma3,
            "phi3" => Family::Phi3,
            other => {
                let (format, supported) = (Format::Safetensors.as_str(), MODEL_TYPES.to_vec());
                return Err(Error::Architecture { architecture: other.to_owned(), format, supported });
            }
        })
    }
}

/// What a file describes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Described {
    pub config: Config,
    pub family: Family,
    /// The output layer is the embedding table.
    pub tied: bool,
    /// The decoder is the part of a model that sees, too.
    pub within: bool,
}

/// The fields of an object, by name.
pub(super) struct Fields<'c> {
    map: &'c Map<String, Value>,
    /// How errors name the object.
    place: String,
}

impl<'c> Fields<'c> {
    fn root(value: &'c Value) -> Result<Self, Error> {
        let place = "config.json".to_owned();
        match value.as_object() {
            Some(map) => Ok(Fields { map, place }),
            None => Err(Error::config(place, "is no JSON object")),
        }
    }

    /// The name for errors.
    pub fn name(&self, field: &str) -> String {
        format!("{}: {field}", self.place)
    }

    pub fn wrong(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::config(self.name(field), problem)
    }

    /// A field that is there and not null.
    pub fn get(&self, field: &str) -> Option<&'c Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn read<T>(
        &self,
        field: &str,
        what: &str,
        read: impl Fn(&'c Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(field) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(field, format!("is not {what}")))
    }

    /// What is there, or else that it is missing.
    fn need<T>(&self, field: &str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.wrong(field, "is missing"))
    }

    pub fn object(&self, field: &str) -> Result<Option<Fields<'c>>, Error> {
        let place = self.name(field);
        let map = self.read(field, "an object", Value::as_object)?;
        Ok(map.map(|map| Fields { map, place }))
    }

    pub fn text(&self, field: &str) -> Result<Option<&'c str>, Error> {
        self.read(field, "a text", Value::as_str)
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, Error> {
        Ok(self.read(field, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub fn size(&self, field: &str, max: usize) -> Result<Option<usize>, Error> {
        let value = self.read(field, "a whole number", |v| usize::try_from(v.as_u64()?).ok())?;
        value.map(|value| checked(&self.name(field), value, max)).transpose()
    }

    /// A number above 0.
    pub fn positive(&self, field: &str) -> Result<Option<f64>, Error> {
        self.read(field, "a number above 0", |v| v.as_f64().filter(|n| *n > 0.0 && n.is_finite()))
    }

    /// Numbers above 0, so many of them.
    pub fn positives(&self, field: &str, count: usize) -> Result<Vec<f32>, Error> {
        let number = |v: &Value| v.as_f64().map(|n| n as f32).filter(|n| *n > 0.0 && n.is_finite());
        let all = |v: &'c Value| v.as_array().filter(|a| a.len() == count)?.iter().map(number).collect();
        let what = format!("a list of {count} numbers above 0");
        let list = self.read(field, &what, all)?;
        self.need(field, list)
    }

    /// Refuses a field that says anything but what is computed here.
    pub fn only(&self, field: &str, computed: &Value) -> Result<(), Error> {
        match self.get(field) {
            Some(value) if value != computed => {
                let shown: String = value.to_string().chars().take(60).collect();
                Err(self.wrong(field, format!("is {shown}; only {computed} is supported")))
            }
            _ => Ok(()),
        }
    }
}

/// Reads and checks a `config.json`. `context` is how many positions will be used at most, which decides between
/// the two sets of factors that some models have.
pub(super) fn read(config: &Value, context: usize) -> Result<Described, Error> {
    let whole = Fields::root(config)?;
    let model_type = whole.need("model_type", whole.text("model_type")?)?;
    let family = Family::of(model_type)?;
    let part = if model_type == "gemma3" { whole.object("text_config")? } else { None };
    let within = part.is_some();
    refuse_quantised(&whole)?;
    let fields = part.unwrap_or(whole);
    refuse_what_is_not_computed(&fields, family)?;
    let config = numbers(&fields, family, context)?;
    let tied = fields.flag("tie_word_embeddings", family == Family::Gemma3)?;
    Ok(Described { config, family, tied, within })
}

fn refuse_quantised(fields: &Fields<'_>) -> Result<(), Error> {
    let Some(quantised) = fields.object("quantization_config")? else { return Ok(()) };
    let method = quantised.text("quant_method")?.unwrap_or("unknown");
    let problem = format!(
        "weights quantised as `{method}` are not read; take the model's own weights (they are rounded as they are \
         loaded), or a GGUF file"
    );
    Err(fields.wrong("quantization_config", problem))
}

fn refuse_what_is_not_computed(fields: &Fields<'_>, family: Family) -> Result<(), Error> {
    fields.only("mlp_bias", &Value::Bool(false))?;
    match family {
        Family::Gemma3 => {
            fields.only("attn_logit_softcapping", &Value::Null)?;
            fields.only("final_logit_softcapping", &Value::Null)?;
            fields.only("use_bidirectional_attention", &Value::Bool(false))
        }
        Family::Qwen3Moe => {
            if !fields.flag("norm_topk_prob", false)? {
                return Err(fields.wrong("norm_topk_prob", "is false; only true is supported"));
            }
            fields.only("decoder_sparse_step", &Value::from(1))?;
            fields.only("mlp_only_layers", &Value::Array(Vec::new()))
        }
        _ => Ok(()),
    }
}

fn numbers(fields: &Fields<'_>, family: Family, context: usize) -> Result<Config, Error> {
    // What configurations of Gemma 3 leave out, and no others do.
    let usual = |value: usize| if family == Family::Gemma3 { Some(value) } else { None };
    let size = |field: &str, max: usize, default: Option<usize>| {
        fields.need(field, fields.size(field, max)?.or(default))
    };
    let layers = size("num_hidden_layers", MAX_LAYERS, usual(26))?;
    let hidden = size("hidden_size", MAX_WIDTH, usual(2304))?;
    let heads = size("num_attention_heads", MAX_WIDTH, usual(8))?;
    let own = match family {
        Family::Gemma3 => 256,
        Family::Qwen3 => 128,
        _ => (hidden / heads).max(1),
    };
    let head_dim = fields.size("head_dim", MAX_WIDTH)?.unwrap_or(own);
    let kv_heads = match family {
        Family::Llama | Family::Phi3 => Some(heads),
        _ => usual(4),
    };
    let experts = match family {
        Family::Qwen3Moe => {
            let count = fields.size("num_experts", MAX_EXPERTS)?;
            let count = count.or(fields.size("num_local_experts", MAX_EXPERTS)?);
            let used = size("num_experts_per_tok", MAX_EXPERTS, None)?;
            Some(Experts { count: fields.need("num_experts", count)?, used })
        }
        _ => None,
    };
    let feed_forward = if experts.is_some() { "moe_intermediate_size" } else { "intermediate_size" };
    let trained = size("max_position_embeddings", MAX_CONTEXT, usual(131_072))?;
    let Ropes { all, local, context } = hf_rope::ropes(fields, family, head_dim, trained, context)?;
    let epsilon = fields.positive("rms_norm_eps")?;
    let epsilon = epsilon.or(if family == Family::Gemma3 { Some(1e-6) } else { None });
    let scaled = match family {
        Family::Gemma3 => fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0),
        _ => head_dim as f64,
    };
    let config = Config {
        layers,
        hidden,
        feed_forward: size(feed_forward, 8 * MAX_WIDTH, usual(9216))?,
        heads,
        kv_heads: size("num_key_value_heads", MAX_WIDTH, kv_heads)?,
        head_dim,
        context,
        vocabulary: size("vocab_size", MAX_VOCABULARY, usual(262_208))?,
        norm_eps: fields.need("rms_norm_eps", epsilon)? as f32,
        activation: activation(fields, family)?,
        embedding_scale: if family == Family::Gemma3 { (hidden as f32).sqrt() } else { 1.0 },
        attention_scale: scaled.sqrt().recip() as f32,
        rope_style: RopeStyle::Halves,
        local: windows(fields, family, layers)?.map(|(window, layers)| Local { window, rope: local, layers }),
        rope: all,
        experts,
    };
    config.check(|setting| fields.name(name_of(setting)))
}

/// The file's name for a setting.
fn name_of(setting: &str) -> &str {
    match setting {
        "kv_heads" => "num_key_value_heads",
        "rope_dims" => "partial_rotary_factor",
        "rope" => "rope_theta",
        "norm_eps" => "rms_norm_eps",
        "attention_scale" => "head_dim",
        "experts" => "num_experts_per_tok",
        other => other,
    }
}

fn activation(fields: &Fields<'_>, family: Family) -> Result<Activation, Error> {
    let (field, default) = match family {
        Family::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh"),
        _ => ("hidden_act", "silu"),
    };
    match fields.text(field)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        other => {
            let problem = format!("`{other}` is not supported; silu and gelu_pytorch_tanh are");
            Err(fields.wrong(field, problem))
        }
    }
}

/// The window of those layers that have one, and which these are.
fn windows(fields: &Fields<'_>, family: Family, layers: usize) -> Result<Option<(usize, Vec<bool>)>, Error> {
    let given = fields.size("sliding_window", MAX_CONTEXT)?;
    // A null is no window, which is not the same as a field that is left out.
    let or_usual = given.or(if fields.map.contains_key("sliding_window") { None } else { Some(4096) });
    let slides = fields.flag("use_sliding_window", false)?;
    let window = match family {
        Family::Llama => None,
        Family::Phi3 => given,
        Family::Mistral | Family::Gemma3 => or_usual,
        Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe => or_usual.filter(|_| slides),
    };
    let Some(window) = window else { return Ok(None) };
    let own = match family {
        Family::Qwen2 | Family::Qwen3 | Family::Gemma3 => layer_types(fields, layers)?,
        _ => Some(vec![true; layers]),
    };
    let which = match own {
        Some(which) => which,
        None if family == Family::Gemma3 => {
            let old = fields.size("sliding_window_pattern", MAX_LAYERS)?;
            let period = old.or(fields.size("_sliding_window_pattern", MAX_LAYERS)?).unwrap_or(6);
            (1..=layers).map(|i| !i.is_multiple_of(period)).collect()
        }
        None => {
            let first = fields.read("max_window_layers", "a whole number", Value::as_u64)?.unwrap_or(28);
            (0..layers).map(|i| i as u64 >= first).collect()
        }
    };
    Ok(Some((window, which)).filter(|(_, which)| which.contains(&true)))
}

/// Which layers have a window, where the file tells it of each.
fn layer_types(fields: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, Error> {
    const FIELD: &str = "layer_types";
    let Some(types) = fields.read(FIELD, "a list", Value::as_array)? else { return Ok(None) };
    if types.len() != layers {
        return Err(fields.wrong(FIELD, format!("names {} layers of {layers}", types.len())));
    }
    let local = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => {
            Err(fields.wrong(FIELD, format!("holds {kind}; sliding_attention and full_attention are known")))
        }
    };
    types.iter().map(local).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
#[path = "hf_config_tests.rs"]
mod tests;
