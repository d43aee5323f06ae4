//! Whisper under the names of openai/whisper: its own checkpoints, and the files of whisper.cpp.

use std::path::Path;

use super::config::{Config, WINDOW};
use super::heads;
use crate::model::asr::Error;
use crate::model::weights::ggml::GgmlFile;
use crate::model::weights::torch::TorchFile;
use crate::types::model::Format;

/// An open file. Parameters are asked for by Hugging Face's names.
pub(super) enum OpenAi {
    Torch(TorchFile),
    Ggml(GgmlFile),
}

impl OpenAi {
    /// Opens a file; `generation_config.json` beside it, if there, says which heads follow the speech.
    pub(super) fn open(path: &Path, format: Format) -> Result<(OpenAi, Config), Error> {
        let file = match format {
            Format::Torch => OpenAi::Torch(TorchFile::open(path)?),
            Format::Ggml => OpenAi::Ggml(GgmlFile::open(path)?),
            format => return Err(Error::Format { format }),
        };
        let config = file.config(path)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let known = heads::published(&config, name);
        let config = config.with_alignment_heads(&path.with_file_name("generation_config.json"), known)?;
        Ok((file, config))
    }

    fn config(&self, path: &Path) -> Result<Config, Error> {
        let fail = |reason: String| Error::Config { file: path.to_path_buf(), reason };
        let size = |name: &str| {
            let size = match self {
                OpenAi::Torch(file) => file.integer(&format!("dims.{name}")),
                OpenAi::Ggml(file) => file.size(name),
            };
            let size = size.ok_or_else(|| fail(format!("has no {name}")))?;
            usize::try_from(size).map_err(|_| fail(format!("{name} is {size}")))
        };
        for part in ["state", "head"] {
            if size(&format!("n_audio_{part}"))? != size(&format!("n_text_{part}"))? {
                return Err(fail(format!("n_audio_{part} and n_text_{part} differ")));
            }
        }
        let audio_context = size("n_audio_ctx")?;
        if audio_context != WINDOW / 2 {
            return Err(fail(format!("n_audio_ctx is {audio_context}, Whisper has {}", WINDOW / 2)));
        }
        let ffn = self.shape("model.decoder.layers.0.fc1.weight").and_then(|shape| shape.first());
        let config = Config {
            mels: size("n_mels")?,
            width: size("n_audio_state")?,
            ffn: *ffn.ok_or_else(|| fail("has no decoder.blocks.0.mlp.0.weight".into()))?,
            heads: size("n_audio_head")?,
            encoder_layers: size("n_audio_layer")?,
            decoder_layers: size("n_text_layer")?,
            vocab: size("n_vocab")?,
            audio_context,
            text_context: size("n_text_ctx")?,
            alignment_heads: Vec::new(),
        };
        config.checked(path)
    }

    pub(super) fn has(&self, hf: &str) -> bool {
        self.shape(hf).is_some()
    }

    fn shape(&self, hf: &str) -> Option<&[usize]> {
        match self {
            OpenAi::Torch(file) => file.shape(&name(hf)),
            OpenAi::Ggml(file) => file.shape(&name(hf)),
        }
    }

    /// Reads a parameter behind what `out` holds.
    pub(super) fn append_f32(&self, hf: &str, shape: &[usize], out: &mut Vec<f32>) -> Result<(), Error> {
        match self {
            OpenAi::Torch(file) => file.append_f32(&name(hf), shape, out)?,
            OpenAi::Ggml(file) => file.append_f32(&name(hf), shape, out)?,
        }
        Ok(())
    }
}

/// OpenAI's name of what Hugging Face calls `hf`.
fn name(hf: &str) -> String {
    let hf = hf.strip_prefix("model.").unwrap_or(hf);
    if let Some(stack) = hf.strip_suffix(".embed_positions.weight") {
        return format!("{stack}.positional_embedding");
    }
    let last = if hf.starts_with("encoder") { "ln_post" } else { "ln" };
    let part = |part| match part {
        "layers" => "blocks",
        "self_attn" => "attn",
        "encoder_attn" => "cross_attn",
        "q_proj" => "query",
        "k_proj" => "key",
        "v_proj" => "value",
        "out_proj" => "out",
        "fc1" => "mlp.0",
        "fc2" => "mlp.2",
        "self_attn_layer_norm" => "attn_ln",
        "encoder_attn_layer_norm" => "cross_attn_ln",
        "final_layer_norm" => "mlp_ln",
        "layer_norm" => last,
        "embed_tokens" => "token_embedding",
        part => part,
    };
    hf.split('.').map(part).collect::<Vec<_>>().join(".")
}
