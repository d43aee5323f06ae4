//! Whisper's dimensions, taken from the weights themselves (CTranslate2) or from `config.json`.

use std::path::Path;

use serde::Deserialize;

use crate::model::asr::{Error, Limits, MOST_ROWS, ROWS_A_WINDOW};
use crate::model::weights::ctranslate2::Ct2;
use crate::model::{Size, Widths};
use crate::ops::{CrossCache, KvCache, KvType};
use crate::types::model::Precision;

/// Mel frames of a window: 30 s.
pub const WINDOW: usize = 3000;

/// Most windows a model may be given.
const MAX_WINDOWS: usize = 256;

/// What a model has room for at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub windows: usize,
    /// Sequences of text.
    pub rows: usize,
    /// Blocks of their key-value cache.
    pub blocks: usize,
}

/// Dimensions of one Whisper model. Checked: every product of them fits in memory arithmetic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Mel bins: 80, from large-v3 on 128.
    pub mels: usize,
    /// Width of both stacks: 384 (tiny) to 1280 (large).
    pub width: usize,
    /// Width of the feed-forward layers: 4 x `width`.
    pub ffn: usize,
    pub heads: usize,
    pub encoder_layers: usize,
    /// Fewer than the encoder's in turbo and distilled models.
    pub decoder_layers: usize,
    /// Rows of the token embedding.
    pub vocab: usize,
    /// Positions after the encoder's stride of two: 1500.
    pub audio_context: usize,
    /// Tokens of prompt and answer together: 448.
    pub text_context: usize,
    /// Layer and head of the decoder's attention that follow the speech in time.
    pub alignment_heads: Vec<(usize, usize)>,
}

/// What Hugging Face's `config.json` says.
#[derive(Deserialize)]
struct HfConfig {
    model_type: String,
    num_mel_bins: usize,
    d_model: usize,
    encoder_ffn_dim: usize,
    decoder_ffn_dim: usize,
    encoder_attention_heads: usize,
    decoder_attention_heads: usize,
    encoder_layers: usize,
    decoder_layers: usize,
    vocab_size: usize,
    max_source_positions: usize,
    max_target_positions: usize,
}

impl Config {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Dimensions of a CTranslate2 model, from the shapes of its variables.
    pub fn from_ct2(ct2: &Ct2) -> Result<Config, Error> {
        let file = ct2.path();
        let dim = |name: &str, axis: usize| {
            ct2.shape(name).and_then(|s| s.get(axis).copied()).ok_or_else(|| Error::Config {
                file: file.to_path_buf(),
                reason: format!("{name} is missing or has too few dimensions"),
            })
        };
        let layers = |stack: &str| {
            let exists =
                |i: &usize| ct2.shape(&format!("{stack}/layer_{i}/self_attention/linear_0/weight")).is_some();
            (0..=MAX_LAYERS).take_while(exists).count()
        };
        let heads = |stack: &str| -> Result<i64, Error> {
            Ok(ct2.integer(&format!("{stack}/num_heads"))?.unwrap_or_default())
        };
        let [encoder_heads, heads] = [heads("encoder")?, heads("decoder")?];
        let flags = [("activation", 3), ("pre_norm", 1), ("scale_embeddings", 0), ("alibi", 0)];
        for (flag, expected) in flags {
            let found = ct2.integer(&format!("decoder/{flag}"))?.unwrap_or(expected);
            if found != expected {
                let reason = format!("decoder/{flag} is {found}, Whisper has {expected}");
                return Err(Error::Config { file: file.to_path_buf(), reason });
            }
        }
        let config = Config {
            mels: dim("encoder/conv1/weight", 1)?,
            width: dim("encoder/conv1/weight", 0)?,
            ffn: dim("decoder/layer_0/ffn/linear_0/weight", 0)?,
            heads: usize::try_from(heads).unwrap_or_default(),
            encoder_layers: layers("encoder"),
            decoder_layers: layers("decoder"),
            vocab: dim("decoder/embeddings/weight", 0)?,
            audio_context: WINDOW / 2,
            text_context: dim("decoder/position_encodings/encodings", 0)?,
            alignment_heads: Vec::new(),
        };
        if encoder_heads != heads {
            let reason = format!("{encoder_heads} heads in the encoder, {heads} in the decoder");
            return Err(Error::Config { file: file.to_path_buf(), reason });
        }
        config.checked(file)
    }

    /// Dimensions from a Hugging Face `config.json`.
    pub fn from_json(file: &Path) -> Result<Config, Error> {
        let fail = |reason: String| Error::Config { file: file.to_path_buf(), reason };
        let bytes = std::fs::read(file).map_err(|e| fail(format!("cannot be read: {e}")))?;
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let hf: HfConfig = serde_path_to_error::deserialize(&mut reader).map_err(|e| fail(e.to_string()))?;
        if hf.model_type != "whisper" {
            return Err(fail(format!("model_type is {:?}, not \"whisper\"", hf.model_type)));
        }
        if hf.encoder_attention_heads != hf.decoder_attention_heads
            || hf.encoder_ffn_dim != hf.decoder_ffn_dim
        {
            return Err(fail("encoder and decoder differ in heads or feed-forward width".into()));
        }
        if hf.max_source_positions != WINDOW / 2 {
            let found = hf.max_source_positions;
            return Err(fail(format!("max_source_positions is {found}, Whisper has {}", WINDOW / 2)));
        }
        let config = Config {
            mels: hf.num_mel_bins,
            width: hf.d_model,
            ffn: hf.encoder_ffn_dim,
            heads: hf.encoder_attention_heads,
            encoder_layers: hf.encoder_layers,
            decoder_layers: hf.decoder_layers,
            vocab: hf.vocab_size,
            audio_context: hf.max_source_positions,
            text_context: hf.max_target_positions,
            alignment_heads: Vec::new(),
        };
        config.checked(file)
    }

    /// Takes the heads that a JSON file lists under `alignment_heads` (CTranslate2's `config.json`, Hugging Face's
    /// `generation_config.json`); where it lists none those that are `known`, else all of the decoder's later half, as
    /// in the reference.
    pub fn with_alignment_heads(
        mut self,
        file: &Path,
        known: Option<&[(usize, usize)]>,
    ) -> Result<Config, Error> {
        #[derive(Deserialize)]
        struct Listed {
            alignment_heads: Option<Vec<(usize, usize)>>,
        }
        let fail = |reason: String| Error::Config { file: file.to_path_buf(), reason };
        let listed = match std::fs::read(file) {
            Ok(bytes) => {
                let listed: Listed = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
                listed.alignment_heads.unwrap_or_default()
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(fail(format!("cannot be read: {e}"))),
        };
        if let Some((layer, head)) =
            listed.iter().find(|(l, h)| *l >= self.decoder_layers || *h >= self.heads)
        {
            return Err(fail(format!(
                "alignment_heads names head {head} of layer {layer}, which is not there"
            )));
        }
        self.alignment_heads = match (listed.is_empty(), known) {
            (false, _) => listed,
            (true, Some(known)) => known.to_vec(),
            (true, None) => (self.decoder_layers / 2..self.decoder_layers)
                .flat_map(|layer| (0..self.heads).map(move |head| (layer, head)))
                .collect(),
        };
        Ok(self)
    }

    /// Windows of sound, sequences of text and blocks of their cache that there is room for.
    pub(super) fn room(&self, limits: Limits) -> Room {
        let windows = usize::try_from(limits.window_bytes / self.window_bytes().max(1)).unwrap_or(usize::MAX);
        let windows = windows.min(limits.windows).clamp(1, MAX_WINDOWS);
        let rows = (windows * ROWS_A_WINDOW).max(MOST_ROWS);
        // Every sequence at its longest, and of each window the last block of its prompt.
        let blocks = rows * self.text_context.div_ceil(KvCache::BLOCK) + windows;
        Room { windows, rows, blocks }
    }

    /// Bytes of the keys and values of one window.
    fn window_bytes(&self) -> u64 {
        CrossCache::slot_bytes(self.decoder_layers, self.audio_context, self.width)
    }

    /// Bytes of all keys and values.
    pub(super) fn cache_bytes(&self, room: Room, kept: KvType) -> u64 {
        let own = KvCache::block_bytes(kept, self.decoder_layers, self.heads, self.head_dim());
        room.windows as u64 * self.window_bytes() + room.blocks as u64 * own
    }

    /// Bytes of the matrices: of the encoder as f32, or as halves on a GPU; of the decoder as `precision` says.
    pub(super) fn matrix_bytes(&self, precision: Precision, gpu: bool) -> u64 {
        let (width, ffn) = (self.width as u64, self.ffn as u64);
        let layer = |attentions: u64| attentions * 4 * width * width + 2 * width * ffn;
        let convolutions = 3 * width * (self.mels as u64 + width);
        let encoder = self.encoder_layers as u64 * layer(1) + convolutions;
        let decoder = self.decoder_layers as u64 * layer(2);
        let table = self.vocab as u64 * width;
        let heard = if gpu { 2 } else { 4 };
        encoder * heard
            + match precision {
                // The table lies there twice: as rows, and as a product's matrix.
                Precision::F32 => (decoder + table) * heard + table * 4,
                Precision::F16 | Precision::Bf16 => (decoder + table) * 2,
                Precision::Int8 => (decoder + table) * 34 / 32,
            }
    }

    /// Bytes that a step takes besides: as many windows encoded as it may be of, or the logits of every sequence, on the
    /// device and as they are read.
    pub(super) fn step_bytes(&self, largest: Size, room: Room) -> u64 {
        let (hidden, wide) = (self.width, self.ffn);
        let widths = Widths { hidden, qkv: 3 * hidden, attended: hidden, wide, inner: wide };
        // Three frames side by side of each stay there until the end.
        let frames = (largest.units * WINDOW * 3 * self.mels * size_of::<f32>()) as u64;
        let encoded = widths.pass_bytes(largest.units * self.audio_context, largest.gpu) + frames;
        let logits = 2 * (room.rows * self.vocab * size_of::<f32>()) as u64;
        encoded.max(logits)
    }

    pub(super) fn checked(self, file: &Path) -> Result<Config, Error> {
        let ranges = [
            ("mel bins", self.mels, 1, 512),
            ("width", self.width, 2, 8192),
            ("feed-forward width", self.ffn, 1, 65_536),
            ("heads", self.heads, 1, 256),
            ("encoder layers", self.encoder_layers, 1, MAX_LAYERS),
            ("decoder layers", self.decoder_layers, 1, MAX_LAYERS),
            ("vocabulary", self.vocab, 16, 1 << 20),
            ("text context", self.text_context, 16, 8192),
        ];
        for (what, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                let reason = format!("{what} of {value}, {low} to {high} is believed");
                return Err(Error::Config { file: file.to_path_buf(), reason });
            }
        }
        if !self.width.is_multiple_of(2 * self.heads) {
            let reason = format!("{} heads do not divide a width of {}", self.heads, self.width);
            return Err(Error::Config { file: file.to_path_buf(), reason });
        }
        Ok(self)
    }
}

/// Most layers a stack may have; large has 32.
const MAX_LAYERS: usize = 128;
