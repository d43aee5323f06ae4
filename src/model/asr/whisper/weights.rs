//! Where Whisper's parameters lie in its formats, under one set of names.
//!
//! CTranslate2 stores Q, K and V of self-attention as one matrix and K and V of cross-attention as another;
//! Hugging Face and OpenAI store them apart and give K no bias. Everything is handed out fused.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::config::Config;
use super::layers::{Norm, Params};
use super::openai::OpenAi;
use crate::model::asr::Error;
use crate::model::weights::ctranslate2::Ct2;
use crate::model::weights::safetensors::SafetensorsFolder;
use crate::types::model::Format;

/// An open model.
pub(super) enum Source {
    Ct2(Ct2),
    Hf(SafetensorsFolder),
    OpenAi(OpenAi),
}

/// A parameter's name in CTranslate2, and the names in Hugging Face whose rows make it up; OpenAI's follow from those.
struct Name<'a> {
    ct2: String,
    hf: &'a [String],
}

impl Source {
    /// Opens a model folder, or the file of its weights where the format is one file.
    pub(super) fn open(path: &Path, format: Format) -> Result<(Source, Config), Error> {
        match format {
            Format::CTranslate2 => {
                let ct2 = Ct2::open(path, "WhisperSpec")?;
                let config = Config::from_ct2(&ct2)?.with_alignment_heads(&path.join("config.json"), None)?;
                Ok((Source::Ct2(ct2), config))
            }
            Format::Safetensors => {
                let config = Config::from_json(&path.join("config.json"))?
                    .with_alignment_heads(&path.join("generation_config.json"), None)?;
                Ok((Source::Hf(SafetensorsFolder::open(path)?), config))
            }
            Format::Torch | Format::Ggml => {
                let (file, config) = OpenAi::open(path, format)?;
                Ok((Source::OpenAi(file), config))
            }
            Format::Gguf => Err(Error::Format { format }),
        }
    }

    /// A matrix `(outputs, inputs)` with its bias `(outputs)`; rows of absent biases are zero.
    pub(super) fn linear(
        &self,
        ct2: &str,
        hf: &[String],
        outputs: usize,
        inputs: usize,
    ) -> Result<Params, Error> {
        let weight = self.read(Name { ct2: format!("{ct2}/weight"), hf }, ".weight", &[outputs, inputs])?;
        let bias = self.read(Name { ct2: format!("{ct2}/bias"), hf }, ".bias", &[outputs])?;
        Ok(Params { weight, bias, outputs, inputs })
    }

    /// Gain and offset of a layer norm.
    pub(super) fn norm(&self, ct2: &str, hf: &str, width: usize, device: &Device) -> Result<Norm, Error> {
        let hf = [hf.to_owned()];
        let gain = self.read(Name { ct2: format!("{ct2}/gamma"), hf: &hf }, ".weight", &[width])?;
        let offset = self.read(Name { ct2: format!("{ct2}/beta"), hf: &hf }, ".bias", &[width])?;
        Ok(Norm {
            gain: Tensor::from_vec(gain, width, device)?,
            offset: Tensor::from_vec(offset, width, device)?,
        })
    }

    /// A convolution's kernel `(outputs, inputs, 3)` as a matrix `(outputs, 3 x inputs)` over frames side by
    /// side, with its bias.
    pub(super) fn conv(&self, name: &str, outputs: usize, inputs: usize) -> Result<Params, Error> {
        let hf = [format!("model.encoder.{name}")];
        let ct2 = format!("encoder/{name}");
        let kernel =
            self.read(Name { ct2: format!("{ct2}/weight"), hf: &hf }, ".weight", &[outputs, inputs, 3])?;
        let bias = self.read(Name { ct2: format!("{ct2}/bias"), hf: &hf }, ".bias", &[outputs])?;
        let mut weight = Vec::with_capacity(kernel.len());
        for filter in kernel.chunks_exact(inputs * 3) {
            for tap in 0..3 {
                weight.extend(filter.iter().skip(tap).step_by(3));
            }
        }
        Ok(Params { weight, bias, outputs, inputs: 3 * inputs })
    }

    /// The encoder's positions `(1500, width)`: as stored, or computed where the format leaves them out.
    pub(super) fn encoder_positions(&self, config: &Config) -> Result<Vec<f32>, Error> {
        let shape = [config.audio_context, config.width];
        let (ct2, hf) = ("encoder/position_encodings/encodings", "model.encoder.embed_positions.weight");
        let stored = match self {
            Source::Ct2(file) => file.shape(ct2).is_some(),
            _ => self.has(hf),
        };
        match stored {
            true => self.read(Name { ct2: ct2.into(), hf: &[hf.into()] }, "", &shape),
            false => Ok(sinusoids(config.audio_context, config.width)),
        }
    }

    /// The decoder's learned positions `(text_context, width)`.
    pub(super) fn decoder_positions(&self, config: &Config) -> Result<Vec<f32>, Error> {
        let hf = ["model.decoder.embed_positions.weight".to_owned()];
        let ct2 = "decoder/position_encodings/encodings".to_owned();
        self.read(Name { ct2, hf: &hf }, "", &[config.text_context, config.width])
    }

    /// Token embedding `(vocab, width)`, also the output projection.
    pub(super) fn embedding(&self, config: &Config) -> Result<Vec<f32>, Error> {
        let hf = ["model.decoder.embed_tokens.weight".to_owned()];
        let ct2 = "decoder/embeddings/weight".to_owned();
        self.read(Name { ct2, hf: &hf }, "", &[config.vocab, config.width])
    }

    fn read(&self, name: Name<'_>, suffix: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        if let Source::Ct2(file) = self {
            return Ok(file.read_f32(&name.ct2, shape)?);
        }
        let rows = shape.first().map_or(0, |rows| rows / name.hf.len().max(1));
        let part: Vec<usize> = std::iter::once(rows).chain(shape.iter().skip(1).copied()).collect();
        let mut values = Vec::with_capacity(shape.iter().product());
        for stem in name.hf {
            let full = format!("{stem}{suffix}");
            if full.ends_with("k_proj.bias") && !self.has(&full) {
                values.resize(values.len() + rows, 0.0);
            } else {
                self.append(&full, &part, &mut values)?;
            }
        }
        Ok(values)
    }

    /// Whether there is a parameter of Hugging Face's name.
    fn has(&self, hf: &str) -> bool {
        match self {
            Source::Ct2(_) => false,
            Source::Hf(file) => file.shape(hf).is_some(),
            Source::OpenAi(file) => file.has(hf),
        }
    }

    fn append(&self, hf: &str, shape: &[usize], values: &mut Vec<f32>) -> Result<(), Error> {
        match self {
            Source::Ct2(file) => values.extend(file.read_f32(hf, shape)?),
            Source::Hf(file) => drop(file.append_f32(hf, shape, values)?),
            Source::OpenAi(file) => file.append_f32(hf, shape, values)?,
        }
        Ok(())
    }
}

/// openai/whisper `model.py`: sines in the first half, cosines in the second, timescales up to 10,000.
pub(super) fn sinusoids(length: usize, channels: usize) -> Vec<f32> {
    let half = channels / 2;
    let step = 10_000f64.ln() / (half.max(2) - 1) as f64;
    let mut values = Vec::with_capacity(length * channels);
    for t in 0..length {
        let angle = |i: usize| t as f64 * (-step * i as f64).exp();
        values.extend((0..half).map(|i| angle(i).sin() as f32));
        values.extend((0..half).map(|i| angle(i).cos() as f32));
    }
    values
}
