//! A decoder's tensors from a Hugging Face folder, under the names that GGUF files have for them.
//!
//! | in a GGUF file | in a folder |
//! |---|---|
//! | pairs of dimensions that turn together lie side by side (llama) | half a head apart, which the configuration says |
//! | the norms of Gemma 3 have 1 added | have not: it is added as they are read |
//! | the experts of a layer are one tensor | each has its own |
//! | matrices are quantised | are f32, f16 or bf16: rounded as they are read, as [`Quantise`] says |

use std::cell::RefCell;
use std::collections::BTreeSet;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::config::Config;
use super::hf_config::{self, Family};
use super::source::Tensors;
use crate::model::Error;
use crate::model::weights::safetensors::SafetensorsFolder;
use crate::ops::QWeight;
use crate::types::model::Quantise;

/// Where the decoder's names begin: alone, or within a model that sees, as written before and since transformers 4.52.
const ALONE: [&str; 1] = ["model."];
const WITHIN: [&str; 2] = ["language_model.model.", "model.language_model."];

/// An open folder.
pub(super) struct Folder<'f> {
    tensors: &'f SafetensorsFolder,
    family: Family,
    tied: bool,
    prefix: &'static str,
    /// The output layer's name.
    head: &'static str,
    quantise: Quantise,
    /// What was read, by its name in the folder.
    read: RefCell<BTreeSet<String>>,
}

impl<'f> Folder<'f> {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The field that is missing, out of bounds or not supported.
    pub fn open(
        tensors: &'f SafetensorsFolder,
        context: usize,
        quantise: Quantise,
    ) -> Result<(Config, Self), Error> {
        let file: Value = tensors.config()?;
        let found = hf_config::read(&file, context)?;
        let begins = |prefix: &str| tensors.names().any(|name| name.starts_with(prefix));
        let prefixes: &[&'static str] = if found.within { &WITHIN } else { &ALONE };
        let prefix = prefixes.iter().find(|p| begins(p)).copied().unwrap_or(prefixes[0]);
        let head = if prefix == WITHIN[0] { "language_model.lm_head.weight" } else { "lm_head.weight" };
        let folder = Folder {
            tensors,
            family: found.family,
            tied: found.tied,
            prefix,
            head,
            quantise,
            read: RefCell::default(),
        };
        Ok((found.config, folder))
    }

    /// Refuses a folder whose decoder has tensors that were not asked for: what they are for was not computed.
    pub fn finish(self) -> Result<(), Error> {
        let read = self.read.into_inner();
        // Copies that some files have of what the configuration tells, and of a tied output layer.
        let known = |name: &str| name.ends_with(".rotary_emb.inv_freq") || (self.tied && name == self.head);
        let ours = |name: &&str| name.starts_with(self.prefix) || *name == self.head;
        match self.tensors.names().filter(ours).find(|name| !read.contains(*name) && !known(name)) {
            None => Ok(()),
            Some(name) => {
                let problem =
                    format!("is no part of a decoder of the family {:?} as it is known", self.family);
                Err(Error::config(format!("tensor {name}"), problem))
            }
        }
    }

    /// The name in the folder; `None` where the family has no such part.
    fn name(&self, name: &str, expert: Option<usize>) -> Option<String> {
        let top = match name {
            "token_embd.weight" => Some("embed_tokens.weight"),
            "output_norm.weight" => Some("norm.weight"),
            "output.weight" if self.tied => return None,
            "output.weight" => return Some(self.head.to_owned()),
            _ => None,
        };
        if let Some(top) = top {
            return Some(format!("{}{top}", self.prefix));
        }
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let (part, end) = part.rsplit_once('.')?;
        let part = self.part(part, expert)?;
        Some(format!("{}layers.{layer}.{part}.{end}", self.prefix))
    }

    fn part(&self, part: &str, expert: Option<usize>) -> Option<String> {
        let gemma = self.family == Family::Gemma3;
        let fused = self.family == Family::Phi3;
        let normed = matches!(self.family, Family::Qwen3 | Family::Qwen3Moe | Family::Gemma3);
        let name = match (part, expert) {
            ("ffn_gate_exps", Some(at)) => return Some(format!("mlp.experts.{at}.gate_proj")),
            ("ffn_up_exps", Some(at)) => return Some(format!("mlp.experts.{at}.up_proj")),
            ("ffn_down_exps", Some(at)) => return Some(format!("mlp.experts.{at}.down_proj")),
            (_, Some(_)) => return None,
            ("attn_norm", _) => "input_layernorm",
            ("ffn_norm", _) if gemma => "pre_feedforward_layernorm",
            ("post_attention_norm", _) if gemma => "post_attention_layernorm",
            ("post_ffw_norm", _) if gemma => "post_feedforward_layernorm",
            ("ffn_norm", _) => "post_attention_layernorm",
            ("attn_qkv", _) if fused => "self_attn.qkv_proj",
            ("attn_q", _) if !fused => "self_attn.q_proj",
            ("attn_k", _) if !fused => "self_attn.k_proj",
            ("attn_v", _) if !fused => "self_attn.v_proj",
            ("attn_output", _) => "self_attn.o_proj",
            ("attn_q_norm", _) if normed => "self_attn.q_norm",
            ("attn_k_norm", _) if normed => "self_attn.k_norm",
            ("ffn_up", _) if fused => "mlp.gate_up_proj",
            ("ffn_gate", _) if !fused => "mlp.gate_proj",
            ("ffn_up", _) => "mlp.up_proj",
            ("ffn_down", _) => "mlp.down_proj",
            ("ffn_gate_inp", _) => "mlp.gate",
            _ => return None,
        };
        Some(name.to_owned())
    }

    /// The name of a tensor that will be read now.
    fn take(&self, name: &str, expert: Option<usize>) -> Result<String, Error> {
        let Some(found) = self.name(name, expert) else {
            let problem = format!("a decoder of the family {:?} has none", self.family);
            return Err(Error::config(format!("tensor {name}"), problem));
        };
        self.read.borrow_mut().insert(found.clone());
        Ok(found)
    }

    fn weight(
        &self,
        name: &str,
        shape: [usize; 2],
        kept: Quantise,
        device: &Device,
    ) -> Result<QWeight, Error> {
        let kept = match kept {
            Quantise::Q8_0 if shape[1].is_multiple_of(GgmlDType::Q8_0.block_size()) => Some(GgmlDType::Q8_0),
            _ => None,
        };
        Ok(self.tensors.qweight(name, shape, kept, device)?)
    }
}

impl Tensors for Folder<'_> {
    fn has(&self, name: &str) -> bool {
        let Some(found) = self.name(name, None) else { return false };
        // Only biases are a matter of the file: those of Qwen2's queries, keys and values are not.
        let needed = !name.ends_with(".bias") || self.family == Family::Qwen2;
        needed || self.tensors.shape(&found).is_some()
    }

    fn vector(&self, name: &str, len: usize, device: &Device) -> Result<Tensor, Error> {
        let found = self.take(name, None)?;
        let values = self.tensors.tensor(&found, &[len], DType::F32, device)?;
        match self.family == Family::Gemma3 && name.ends_with("norm.weight") {
            true => Ok((values + 1.0)?),
            false => Ok(values),
        }
    }

    fn matrix(&self, name: &str, shape: [usize; 2], device: &Device) -> Result<QWeight, Error> {
        // Which experts a token takes hangs on small differences, and the router is small itself.
        let kept = if name.ends_with(".ffn_gate_inp.weight") { Quantise::None } else { self.quantise };
        self.weight(&self.take(name, None)?, shape, kept, device)
    }

    fn expert(
        &self,
        name: &str,
        at: usize,
        _count: usize,
        shape: [usize; 2],
        device: &Device,
    ) -> Result<QWeight, Error> {
        self.weight(&self.take(name, Some(at))?, shape, self.quantise, device)
    }
}

#[cfg(test)]
#[path = "safetensors_tests.rs"]
mod tests;
