//! Whisper with random weights, as a folder of Hugging Face: speed can be measured where no weights are.
//!
//! Shapes, vocabulary and special tokens are those of the real models; the words are other ones, and so are the codes of
//! the languages but `en`. What such weights say has no end: the end of the text is listed among the tokens that are
//! never said (`generation_config.json`), so a window's text is as long as it may be.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Error;
use super::synthetic::byte_symbols;
use super::synthetic_folder::{self as folder, Tensors};

/// The sizes of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    pub mels: usize,
    pub width: usize,
    pub heads: usize,
    /// Width of the feed-forward part.
    pub ff: usize,
    pub encoder_layers: usize,
    pub decoder_layers: usize,
    /// Tokens of text, at least 257: every byte, and the empty string as the last.
    pub text: usize,
    pub languages: usize,
}

/// openai/whisper-base.
pub const BASE: Shape = Shape {
    name: "whisper-base",
    mels: 80,
    width: 512,
    heads: 8,
    ff: 2048,
    encoder_layers: 6,
    decoder_layers: 6,
    text: 50_257,
    languages: 99,
};
/// openai/whisper-large-v3-turbo.
pub const LARGE_V3_TURBO: Shape = Shape {
    name: "whisper-large-v3-turbo",
    mels: 128,
    width: 1280,
    heads: 20,
    ff: 5120,
    encoder_layers: 32,
    decoder_layers: 4,
    text: 50_257,
    languages: 100,
};
/// No real model: for checks, with heads as wide as those of every real one.
pub const TINY: Shape = Shape {
    name: "whisper-synthetic",
    mels: 80,
    width: 128,
    heads: 2,
    ff: 256,
    encoder_layers: 2,
    decoder_layers: 2,
    text: 300,
    languages: 2,
};

/// Mel positions after the encoder's stride, and positions of prompt and text.
const HEARD: usize = 1500;
const CONTEXT: usize = 448;
/// Tokens for times: every 20 ms from 0 to 30 s.
const TIMES: usize = 1501;

impl Shape {
    /// Rows of the table of tokens.
    pub fn vocab(&self) -> usize {
        self.text + self.special().len() + TIMES
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> u64 {
        self.tensors().bytes()
    }

    /// The tokens behind those of text, in order, without the times.
    fn special(&self) -> Vec<String> {
        let codes = (b'a'..=b'z').flat_map(|a| (b'a'..=b'z').map(move |b| [a, b].map(char::from)));
        let codes = codes.map(String::from_iter).filter(|code| code != "en");
        let languages = std::iter::once("en".to_owned()).chain(codes).take(self.languages);
        let before = ["endoftext", "startoftranscript"].map(str::to_owned);
        let behind = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
            .map(str::to_owned);
        before.into_iter().chain(languages).chain(behind).map(|name| format!("<|{name}|>")).collect()
    }

    fn tensors(&self) -> Tensors {
        let (mut all, width) = (Tensors::default(), self.width);
        all.linear("model.encoder.conv1", &[width, self.mels, 3], true);
        all.linear("model.encoder.conv2", &[width, width, 3], true);
        all.weights("model.encoder.embed_positions.weight", &[HEARD, width]);
        for i in 0..self.encoder_layers {
            self.block(&mut all, &format!("model.encoder.layers.{i}"), &["self_attn"]);
        }
        all.norm("model.encoder.layer_norm", width);
        all.weights("model.decoder.embed_tokens.weight", &[self.vocab(), width]);
        all.weights("model.decoder.embed_positions.weight", &[CONTEXT, width]);
        for i in 0..self.decoder_layers {
            self.block(&mut all, &format!("model.decoder.layers.{i}"), &["self_attn", "encoder_attn"]);
        }
        all.norm("model.decoder.layer_norm", width);
        all
    }

    /// A layer with its attentions; keys have no bias.
    fn block(&self, all: &mut Tensors, name: &str, attentions: &[&str]) {
        let (width, ff) = (self.width, self.ff);
        for attention in attentions {
            for (part, biased) in [("q_proj", true), ("k_proj", false), ("v_proj", true), ("out_proj", true)]
            {
                all.linear(&format!("{name}.{attention}.{part}"), &[width, width], biased);
            }
            all.norm(&format!("{name}.{attention}_layer_norm"), width);
        }
        all.linear(&format!("{name}.fc1"), &[ff, width], true);
        all.linear(&format!("{name}.fc2"), &[width, ff], true);
        all.norm(&format!("{name}.final_layer_norm"), width);
    }

    fn config(&self) -> Value {
        json!({
            "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"],
            "num_mel_bins": self.mels, "d_model": self.width,
            "encoder_ffn_dim": self.ff, "decoder_ffn_dim": self.ff,
            "encoder_attention_heads": self.heads, "decoder_attention_heads": self.heads,
            "encoder_layers": self.encoder_layers, "decoder_layers": self.decoder_layers,
            "vocab_size": self.vocab(), "max_source_positions": HEARD, "max_target_positions": CONTEXT
        })
    }

    /// Byte-level BPE: the bytes, then as many of their pairs and triples as there is room for.
    fn tokenizer(&self) -> Value {
        let symbols = byte_symbols();
        let one = symbols.iter().map(|&a| String::from(a));
        let two = symbols.iter().flat_map(|&a| symbols.iter().map(move |&b| String::from_iter([a, b])));
        let words = one.chain(two).take(self.text - 1).chain([String::new()]);
        let vocab: Map<String, Value> = words.enumerate().map(|(id, word)| (word, id.into())).collect();
        let times = (0..TIMES).map(|t| format!("<|{}.{:02}|>", t / 50, t % 50 * 2));
        let added = self.special().into_iter().chain(times).zip(self.text..);
        let added: Vec<Value> = added.map(|(content, id)| folder::special(id, &content)).collect();
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        });
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "vocab": vocab, "merges": []
            }
        })
    }
}

/// Writes the model into `path`, a folder that is made; the same bytes for the same seed.
pub fn write(shape: &Shape, path: &Path, seed: u64) -> Result<(), Error> {
    let end = shape.text;
    let said = json!({"suppress_tokens": [end], "begin_suppress_tokens": [end]});
    let files = [
        ("config.json", shape.config()),
        ("tokenizer.json", shape.tokenizer()),
        ("generation_config.json", said),
    ];
    folder::write(path, &shape.tensors(), &files, seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::asr::vocab::Vocab;
    use crate::model::weights::safetensors::SafetensorsFolder;

    #[test]
    fn sizes_are_those_of_the_real_models() {
        // Rows of the table, and millions of weights.
        for (shape, vocab, millions) in [(BASE, 51_865, 72), (LARGE_V3_TURBO, 51_866, 808)] {
            assert_eq!(shape.vocab(), vocab);
            assert_eq!(shape.bytes() / 2_000_000, millions, "{}", shape.name);
        }
    }

    #[test]
    fn the_vocabulary_is_a_whispers() {
        let dir = tempfile::tempdir().unwrap();
        for shape in [TINY, Shape { width: 8, ff: 8, encoder_layers: 1, decoder_layers: 1, ..LARGE_V3_TURBO }]
        {
            write(&shape, dir.path(), 1).unwrap();
            let vocab = Vocab::load(dir.path()).unwrap();
            let special = vocab.special();
            assert_eq!(special.eot as usize, shape.text);
            assert_eq!(special.timestamp_begin as usize + TIMES, shape.vocab());
            assert_eq!(vocab.languages().len(), shape.languages);
            assert_eq!(vocab.languages()["en"], special.sot + 1);
            assert!(vocab.suppress().contains(&special.eot));
            assert_eq!(vocab.decode(&vocab.encode("any text")), "any text");
        }
    }

    #[test]
    fn weights_are_sane() {
        let dir = tempfile::tempdir().unwrap();
        write(&TINY, dir.path(), 1).unwrap();
        let folder = SafetensorsFolder::open(dir.path()).unwrap();
        let read = |name: &str, shape: &[usize]| {
            let mut values = Vec::new();
            folder.append_f32(name, shape, &mut values).unwrap();
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let deviation = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
            (mean, deviation.sqrt())
        };
        let (mean, deviation) = read("model.encoder.conv2.weight", &[128, 128, 3]);
        assert!(mean.abs() < 1e-3 && (0.5..2.0).contains(&(deviation * 384f32.sqrt())), "{mean} {deviation}");
        let (mean, _) = read("model.decoder.layers.1.final_layer_norm.weight", &[128]);
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        let mut table = Vec::new();
        folder.append_f32("model.decoder.embed_tokens.weight", &[TINY.vocab(), 128], &mut table).unwrap();
        let mut rows: Vec<Vec<u32>> =
            table.chunks_exact(128).map(|row| row.iter().map(|v| v.to_bits()).collect()).collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), TINY.vocab(), "no two rows are the same");
    }
}
