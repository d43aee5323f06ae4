//! The rotary embedding that a Hugging Face `config.json` asks for.
//!
//! From transformers 5 on all of it is in `rope_parameters`, for Gemma 3 once for each kind of layer; before, the
//! base was `rope_theta` (`rope_local_base_freq`) and what stretches the context `rope_scaling`.

use std::f64::consts::TAU;

use super::config::MAX_CONTEXT;
use super::hf_config::{Family, Fields};
use super::rope::{Scaling, Yarn};
use crate::model::Error;
use crate::ops::Angles;

/// The angles of both kinds of layers.
pub(super) struct Ropes {
    pub all: Angles,
    /// Of the layers with a window.
    pub local: Angles,
    /// Positions that the model can take.
    pub context: usize,
}

/// What one embedding is made of.
struct Parts<'f, 'c> {
    /// Where the kind and its numbers are; `None` is the plain embedding.
    fields: Option<&'f Fields<'c>>,
    base: f64,
    dims: usize,
    /// The length that the model was trained with, or that its file says it has.
    trained: usize,
    /// Positions that will be used.
    used: usize,
}

/// Reads what the file says of a model of `trained` positions, of which `used` will be used at most.
pub(super) fn ropes(
    config: &Fields<'_>,
    family: Family,
    head_dim: usize,
    trained: usize,
    used: usize,
) -> Result<Ropes, Error> {
    let parameters = config.object("rope_parameters")?;
    let scaling = config.object("rope_scaling")?;
    let of_kind = |kind: &str| match &parameters {
        Some(all) if family == Family::Gemma3 => all.object(kind),
        _ => Ok(None),
    };
    let (full, sliding) = (of_kind("full_attention")?, of_kind("sliding_attention")?);
    let whole = match family {
        Family::Gemma3 => full.as_ref(),
        _ => parameters.as_ref(),
    };
    let whole = whole.or(scaling.as_ref());
    let dims = dims(config, whole, family, head_dim)?;
    let base = |fields: Option<&Fields<'_>>, old: &str, default: f64| -> Result<f64, Error> {
        let new = fields.map(|f| f.positive("rope_theta")).transpose()?.flatten();
        Ok(new.or(config.positive(old)?).unwrap_or(default))
    };
    let usual = if family == Family::Gemma3 { 1e6 } else { 10_000.0 };
    let base_of_all = base(whole, "rope_theta", usual)?;
    let parts = Parts { fields: whole, base: base_of_all, dims, trained, used: used.min(trained) };
    let (all, context) = parts.angles(config, family)?;
    let local = match family {
        Family::Gemma3 => {
            let base = base(sliding.as_ref(), "rope_local_base_freq", 10_000.0)?;
            Parts { fields: sliding.as_ref(), base, ..parts }.angles(config, family)?.0
        }
        _ => all.clone(),
    };
    Ok(Ropes { all, local, context })
}

/// Dimensions of a head that turn.
fn dims(
    config: &Fields<'_>,
    rope: Option<&Fields<'_>>,
    family: Family,
    head_dim: usize,
) -> Result<usize, Error> {
    const FIELD: &str = "partial_rotary_factor";
    let new = rope.map(|f| f.positive(FIELD)).transpose()?.flatten();
    let part = new.or(config.positive(FIELD)?).unwrap_or(1.0);
    if part != 1.0 && family != Family::Phi3 {
        return Err(config.wrong(FIELD, format!("{part} is not supported for this model; only 1 is")));
    }
    let dims = (head_dim as f64 * part) as usize;
    match dims {
        dims if dims <= head_dim && dims >= 2 && dims.is_multiple_of(2) => Ok(dims),
        dims => Err(config.wrong(FIELD, format!("makes {dims} of {head_dim} dimensions turn"))),
    }
}

impl Parts<'_, '_> {
    /// The angles, and how many positions they are good for.
    fn angles(&self, config: &Fields<'_>, family: Family) -> Result<(Angles, usize), Error> {
        let plain = (Scaling::None, self.trained);
        let (scaling, context) = match self.fields {
            None => plain,
            Some(fields) => match self.kind(fields, family)? {
                "default" => plain,
                "linear" => (Scaling::Linear { factor: need(fields, "factor")? }, self.trained),
                "llama3" => (self.llama3(config, fields)?, self.trained),
                "yarn" => self.yarn(config, fields)?,
                "longrope" => (self.longrope(config, fields, family)?, self.trained),
                other => {
                    let problem =
                        format!("`{other}` is not supported; default, linear, llama3, yarn and longrope are");
                    return Err(fields.wrong("rope_type", problem));
                }
            },
        };
        Ok((scaling.angles(self.base, self.dims), context))
    }

    fn kind<'c>(&self, fields: &Fields<'c>, family: Family) -> Result<&'c str, Error> {
        let named = match fields.text("rope_type")? {
            Some(kind) => Some(kind),
            None => fields.text("type")?,
        };
        Ok(match named.unwrap_or("default") {
            // What files of Phi-3 called it first.
            "su" | "yarn" if family == Family::Phi3 => "longrope",
            kind => kind,
        })
    }

    /// Positions of the training: the file's own field goes before the embedding's.
    fn original(&self, config: &Fields<'_>, fields: &Fields<'_>, default: usize) -> Result<usize, Error> {
        const FIELD: &str = "original_max_position_embeddings";
        let own = config.size(FIELD, MAX_CONTEXT)?;
        Ok(own.or(fields.size(FIELD, MAX_CONTEXT)?).unwrap_or(default))
    }

    /// Divisors that ramp over wavelengths (Llama 3.1).
    fn llama3(&self, config: &Fields<'_>, fields: &Fields<'_>) -> Result<Scaling, Error> {
        let original = self.original(config, fields, self.trained)? as f64;
        let factor = need(fields, "factor")?;
        let (low, high) = (need(fields, "low_freq_factor")?, need(fields, "high_freq_factor")?);
        if low >= high {
            let problem = format!("{high} is not above low_freq_factor, which is {low}");
            return Err(fields.wrong("high_freq_factor", problem));
        }
        let plain = Angles::plain(self.base, self.dims);
        let divisor = |step: &f64| {
            // How often a pair turns over the training's context.
            let turns = original * step / TAU;
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - kept) / factor + kept).recip() as f32
        };
        Ok(Scaling::Factors { factors: plain.steps.iter().map(divisor).collect(), magnitude: 1.0 })
    }

    fn yarn(&self, config: &Fields<'_>, fields: &Fields<'_>) -> Result<(Scaling, usize), Error> {
        fields.only("truncate", &serde_json::Value::Bool(true))?;
        let original = self.original(config, fields, self.trained)?;
        let factor = fields.positive("factor")?.unwrap_or(self.trained as f64 / original as f64);
        let gain = |scale: f64| 0.1 * scale * factor.max(1.0).ln() + 1.0;
        let scales = (fields.positive("mscale")?, fields.positive("mscale_all_dim")?);
        let magnitude = match (fields.positive("attention_factor")?, scales) {
            (Some(given), _) => Some(given),
            (None, (Some(scale), Some(all))) => Some(gain(scale) / gain(all)),
            _ => None,
        };
        let yarn = Yarn {
            factor,
            original: original as f64,
            fast: fields.positive("beta_fast")?.unwrap_or(32.0),
            slow: fields.positive("beta_slow")?.unwrap_or(1.0),
            magnitude,
        };
        // Files that had it added by hand still tell the length of the training.
        let stretched = (original as f64 * factor).min(MAX_CONTEXT as f64) as usize;
        Ok((Scaling::Yarn(yarn), self.trained.max(stretched)))
    }

    fn longrope(&self, config: &Fields<'_>, fields: &Fields<'_>, family: Family) -> Result<Scaling, Error> {
        let default = if family == Family::Phi3 { 4096 } else { self.trained };
        let original = self.original(config, fields, default)?;
        let pairs = self.dims / 2;
        // Both are checked, whichever is used.
        let (short, long) =
            (fields.positives("short_factor", pairs)?, fields.positives("long_factor", pairs)?);
        let stretch = fields.positive("factor")?.unwrap_or(self.trained as f64 / original as f64);
        let magnitude = match fields.positive("attention_factor")? {
            Some(given) => given,
            None if stretch <= 1.0 => 1.0,
            None => (1.0 + stretch.ln() / (original as f64).ln()).sqrt(),
        };
        Ok(Scaling::Factors { factors: if self.used > original { long } else { short }, magnitude })
    }
}

fn need(fields: &Fields<'_>, field: &str) -> Result<f64, Error> {
    fields.positive(field)?.ok_or_else(|| fields.wrong(field, "is missing"))
}
