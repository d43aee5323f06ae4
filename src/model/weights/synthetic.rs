//! Random weights in the shape of real models, written as GGUF: speed can be measured where no weights are.
//!
//! A spec is `SHAPE:QUANT`, as in `qwen2.5-7b:q4_k_m`. The tensors have the names, shapes and quantisation mix
//! of the file that llama.cpp's quantiser makes of the real model, the scales are such that activations stay
//! of order one, and the vocabulary is byte-level BPE of the true size: it encodes any text, only with other
//! tokens than the real one. llama.cpp loads the result:
//!
//! ```text
//! stentor bench llm --synthetic tiny:q4_k_m --write tiny.gguf
//! python -c 'import llama_cpp; print(llama_cpp.Llama("tiny.gguf")("hello", max_tokens=8))'
//! ```
//!
//! (checked with llama-cpp-python 0.3.36 for every `tiny` shape; `writes_files_for_another_engine` makes them)

use std::fs::File;
use std::io::Write;
use std::path::Path;

use candle_core::quantized::GgmlDType;

use super::Error;
use super::gguf::{Array, StrArray, Value};
use super::gguf_write::{TensorSpec, Writer};
use super::synthetic_blocks::{Random, fill};
pub use super::synthetic_shapes::{Arch, SHAPES, Shape};

/// How the matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quant {
    F16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q4KM,
    Q5KM,
    Q6K,
}

impl Quant {
    pub const ALL: [(&str, Quant); 7] = [
        ("f16", Quant::F16),
        ("q8_0", Quant::Q8_0),
        ("q4_0", Quant::Q4_0),
        ("q4_1", Quant::Q4_1),
        ("q4_k_m", Quant::Q4KM),
        ("q5_k_m", Quant::Q5KM),
        ("q6_k", Quant::Q6K),
    ];

    fn base(self) -> GgmlDType {
        match self {
            Quant::F16 => GgmlDType::F16,
            Quant::Q8_0 => GgmlDType::Q8_0,
            Quant::Q4_0 => GgmlDType::Q4_0,
            Quant::Q4_1 => GgmlDType::Q4_1,
            Quant::Q4KM => GgmlDType::Q4K,
            Quant::Q5KM => GgmlDType::Q5K,
            Quant::Q6K => GgmlDType::Q6K,
        }
    }

    /// `general.file_type`, llama.cpp's number for the mix.
    fn file_type(self) -> u32 {
        match self {
            Quant::F16 => 1,
            Quant::Q4_0 => 2,
            Quant::Q4_1 => 3,
            Quant::Q8_0 => 7,
            Quant::Q4KM => 15,
            Quant::Q5KM => 17,
            Quant::Q6K => 18,
        }
    }
}

/// What to write.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub shape: &'static Shape,
    pub quant: Quant,
}

/// Why a spec is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{0:?} is not SHAPE:QUANT, for example qwen2.5-7b:q4_k_m")]
    Form(String),
    #[error("no shape is named {name:?}; the nearest is {nearest}. There are: {}", SHAPES.iter().map(|s| s.name).collect::<Vec<_>>().join(", "))]
    Shape { name: String, nearest: &'static str },
    #[error("no quantisation is named {name:?}. There are: {}", Quant::ALL.map(|q| q.0).join(", "))]
    Quant { name: String },
}

/// Parses `SHAPE:QUANT`, in any case.
pub fn spec(text: &str) -> Result<Spec, SpecError> {
    let lower = text.trim().to_lowercase();
    let (name, quant) = lower.split_once(':').ok_or_else(|| SpecError::Form(text.to_owned()))?;
    let shape = SHAPES.iter().find(|s| s.name == name).ok_or_else(|| {
        let distance = |s: &&Shape| strsim::damerau_levenshtein(s.name, name);
        let nearest = SHAPES.iter().min_by_key(distance).map_or("", |s| s.name);
        SpecError::Shape { name: name.to_owned(), nearest }
    })?;
    let quant = Quant::ALL
        .iter()
        .find(|q| q.0 == quant)
        .ok_or_else(|| SpecError::Quant { name: quant.to_owned() })?
        .1;
    Ok(Spec { shape, quant })
}

impl Spec {
    /// Every tensor, in the order of the file.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (s, all) = (self.shape, &mut Vec::new());
        let (hidden, q, kv) = (s.hidden, s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let f32s = |n: usize, name: String| TensorSpec::new(name, &[n], GgmlDType::F32);
        let embedding = if s.tied { self.output_type() } else { self.quant.base() };
        all.push(self.matrix("token_embd.weight".into(), s.vocab, hidden, embedding));
        if s.rope_factors {
            all.push(f32s(s.head_dim / 2, "rope_freqs.weight".into()));
        }
        for i in 0..s.layers {
            let name = |part: &str| format!("blk.{i}.{part}");
            let weight = |part: &str, n, k| self.matrix(name(part), n, k, self.layer_type(part, i));
            all.push(f32s(hidden, name("attn_norm.weight")));
            if s.arch == Arch::Phi3 {
                all.push(weight("attn_qkv.weight", q + 2 * kv, hidden));
            } else {
                all.push(weight("attn_q.weight", q, hidden));
                all.push(weight("attn_k.weight", kv, hidden));
                all.push(weight("attn_v.weight", kv, hidden));
            }
            if s.arch == Arch::Qwen2 {
                all.push(f32s(q, name("attn_q.bias")));
                all.push(f32s(kv, name("attn_k.bias")));
                all.push(f32s(kv, name("attn_v.bias")));
            }
            if matches!(s.arch, Arch::Qwen3 | Arch::Gemma3) {
                all.push(f32s(s.head_dim, name("attn_q_norm.weight")));
                all.push(f32s(s.head_dim, name("attn_k_norm.weight")));
            }
            all.push(weight("attn_output.weight", hidden, q));
            if s.arch == Arch::Gemma3 {
                all.push(f32s(hidden, name("post_attention_norm.weight")));
                all.push(f32s(hidden, name("post_ffw_norm.weight")));
            }
            all.push(f32s(hidden, name("ffn_norm.weight")));
            if s.arch == Arch::Phi3 {
                all.push(weight("ffn_up.weight", 2 * s.ff, hidden));
            } else {
                all.push(weight("ffn_gate.weight", s.ff, hidden));
                all.push(weight("ffn_up.weight", s.ff, hidden));
            }
            all.push(weight("ffn_down.weight", hidden, s.ff));
        }
        all.push(f32s(hidden, "output_norm.weight".into()));
        if !s.tied {
            all.push(self.matrix("output.weight".into(), s.vocab, hidden, self.output_type()));
        }
        std::mem::take(all)
    }

    /// Bytes of all tensors: what the file takes, less its head of some megabytes.
    pub fn bytes(&self) -> u64 {
        self.tensors().iter().filter_map(TensorSpec::bytes).sum()
    }

    /// A matrix in type `wanted`, or in the one that llama.cpp falls back to where rows are no multiple of 256.
    fn matrix(&self, name: String, n: usize, k: usize, wanted: GgmlDType) -> TensorSpec {
        let ggml_type = match wanted {
            t if k.is_multiple_of(t.block_size()) => t,
            GgmlDType::Q4K if k.is_multiple_of(32) => GgmlDType::Q5_0,
            GgmlDType::Q5K if k.is_multiple_of(32) => GgmlDType::Q5_1,
            GgmlDType::Q6K if k.is_multiple_of(32) => GgmlDType::Q8_0,
            _ => GgmlDType::F16,
        };
        TensorSpec::new(name, &[n, k], ggml_type)
    }

    /// The type of the matrix that gives logits.
    fn output_type(&self) -> GgmlDType {
        match self.quant {
            Quant::F16 => GgmlDType::F16,
            Quant::Q8_0 => GgmlDType::Q8_0,
            _ => GgmlDType::Q6K,
        }
    }

    /// The `_M` mixes keep values and the down projection of half the layers in six bits (llama.cpp's
    /// quantiser: the first and last eighth, and every third layer between).
    fn layer_type(&self, part: &str, layer: usize) -> GgmlDType {
        let n = self.shape.layers;
        let (eighth, last) = (n / 8, 7 * n / 8);
        let more_bits = layer < eighth || layer >= last || (layer - eighth) % 3 == 2;
        match (self.quant, part) {
            (Quant::Q4KM, "attn_qkv.weight") => GgmlDType::Q5K,
            (Quant::Q5KM, "attn_qkv.weight") => GgmlDType::Q6K,
            (Quant::Q4KM | Quant::Q5KM, "attn_v.weight" | "ffn_down.weight") if more_bits => GgmlDType::Q6K,
            _ => self.quant.base(),
        }
    }

    fn metadata(&self) -> Vec<(String, Value)> {
        let s = self.shape;
        let arch = s.arch.name();
        let mut meta: Vec<(String, Value)> = vec![
            ("general.architecture".into(), Value::Str(arch.into())),
            // llama.cpp patches the vocabulary of models by family names in this field, so it has none.
            ("general.name".into(), Value::Str("synthetic".into())),
            ("general.description".into(), Value::Str(format!("random weights, {}", s.name))),
            ("general.file_type".into(), Value::U32(self.quant.file_type())),
            ("general.quantization_version".into(), Value::U32(2)),
        ];
        let mut own = |key: &str, value: Value| meta.push((format!("{arch}.{key}"), value));
        own("block_count", Value::U32(s.layers as u32));
        own("context_length", Value::U32(s.context));
        own("embedding_length", Value::U32(s.hidden as u32));
        own("feed_forward_length", Value::U32(s.ff as u32));
        own("attention.head_count", Value::U32(s.heads as u32));
        own("attention.head_count_kv", Value::U32(s.kv_heads as u32));
        own("attention.key_length", Value::U32(s.head_dim as u32));
        own("attention.value_length", Value::U32(s.head_dim as u32));
        own("attention.layer_norm_rms_epsilon", Value::F32(s.rms_eps));
        own("rope.freq_base", Value::F32(s.rope_base));
        own("rope.dimension_count", Value::U32(s.head_dim as u32));
        own("vocab_size", Value::U32(s.vocab as u32));
        if let Some(window) = s.sliding_window {
            own("attention.sliding_window", Value::U32(window));
        }
        vocabulary(s.vocab, &mut meta);
        meta
    }
}

/// Writes the model to `path` (created or overwritten), the same bytes for the same seed.
pub fn write(spec: &Spec, path: &Path, seed: u64) -> Result<(), Error> {
    let io = |source| Error::Io { path: path.to_owned(), action: "create", source };
    let file = File::create(path).map_err(io)?;
    let tensors = spec.tensors();
    let count = tensors.len();
    let mut writer = Writer::begin(file, path, &spec.metadata(), tensors)?;
    let mut random = Random::new(seed);
    for _ in 0..count {
        writer.tensor(|tensor, out: &mut dyn Write| fill(tensor, &mut random, out))?;
    }
    writer.finish()?.sync_all().map_err(io)
}

/// The characters that stand for bytes in byte-level BPE (GPT-2's table): printable ones for themselves, the
/// rest from U+0100 on.
pub(super) fn byte_symbols() -> Vec<char> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    (0..256)
        .filter_map(|b| {
            if printable(b) {
                return char::from_u32(b);
            }
            next += 1;
            char::from_u32(next - 1)
        })
        .collect()
}

/// Byte-level BPE of exactly `size` tokens: 3 control tokens, the 256 bytes, then merges of two symbols, then
/// of three. Letters and the space come first, so that ordinary text takes few tokens.
fn vocabulary(size: usize, meta: &mut Vec<(String, Value)>) {
    const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut symbols = byte_symbols();
    let mut tokens: StrArray = CONTROL.iter().copied().collect();
    let mut types = vec![3i32; CONTROL.len()];
    for c in &symbols {
        let _ = tokens.push(c.encode_utf8(&mut [0; 4]));
        types.push(1);
    }
    symbols.sort_by_key(|&c| (!c.is_ascii_lowercase() && c != 'Ġ', !c.is_ascii_graphic(), c));
    let mut merges = StrArray::default();
    // Pairs ordered by the later of the two symbols: a small vocabulary joins the commonest letters.
    let symbols = &symbols;
    let pairs = (0..symbols.len())
        .flat_map(|k| (0..=k).map(move |i| (i, k)).chain((0..k).map(move |i| (k, i))))
        .map(|(i, k)| (symbols[i].to_string(), symbols[k]));
    let triples = symbols.iter().flat_map(|&a| {
        symbols.iter().flat_map(move |&b| symbols.iter().map(move |&c| (format!("{a}{b}"), c)))
    });
    for (left, right) in pairs.chain(triples).take(size.saturating_sub(types.len())) {
        let _ = merges.push(&format!("{left} {right}"));
        let _ = tokens.push(&format!("{left}{right}"));
        types.push(1);
    }
    meta.push(("tokenizer.ggml.model".into(), Value::Str("gpt2".into())));
    meta.push(("tokenizer.ggml.pre".into(), Value::Str("gpt-2".into())));
    meta.push(("tokenizer.ggml.tokens".into(), Value::Array(Array::Str(tokens))));
    meta.push(("tokenizer.ggml.token_type".into(), Value::Array(Array::I32(types))));
    meta.push(("tokenizer.ggml.merges".into(), Value::Array(Array::Str(merges))));
    meta.push(("tokenizer.ggml.bos_token_id".into(), Value::U32(0)));
    meta.push(("tokenizer.ggml.eos_token_id".into(), Value::U32(2)));
    meta.push(("tokenizer.ggml.add_bos_token".into(), Value::Bool(false)));
}

#[cfg(test)]
#[path = "synthetic_tests.rs"]
mod tests;
