//! A nomic-bert of random weights against the reference implementation, from a folder and from GGUF files.

use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::Config;
use crate::model::embed::testing::{agrees, golden, installed, read};
use crate::model::embed::{Folder, load};
use crate::model::weights::gguf::{Array, StrArray, Value as GgufValue};
use crate::model::weights::gguf_write::{TensorSpec, Writer};
use crate::ops::testing::noise;
use crate::types::embed::Prompt;
use crate::types::model::{Format, Kind};

#[test]
fn a_folder_agrees_with_transformers() {
    agrees(&golden("nomic-bert"), Format::Safetensors, "nomic-bert/golden.json", 1e-4);
}

/// The reference's weights are rounded as the file's are.
#[test]
fn a_gguf_file_of_halves_agrees_with_transformers() {
    agrees(&golden("nomic-bert/nomic-F16.gguf"), Format::Gguf, "nomic-bert/nomic-F16.json", 1e-4);
}

/// Beside the weights, activations are rounded to 8 bits.
#[test]
fn a_quantised_gguf_file_agrees_with_transformers() {
    agrees(&golden("nomic-bert/nomic-Q8_0.gguf"), Format::Gguf, "nomic-bert/nomic-Q8_0.json", 2e-2);
}

#[test]
fn a_gguf_file_is_known_by_the_name_in_it() {
    let path = golden("nomic-bert/nomic-F16.gguf");
    let loaded = load(&installed(&path, Format::Gguf, Kind::Embed), &Device::Cpu).unwrap();
    assert_eq!(loaded.front.prompts.of(&Prompt::Query).unwrap(), "search_query: ");
    assert_eq!((loaded.front.dimensions, loaded.front.tokenizer.max_tokens()), (32, 64));
}

/// A folder with the configuration alone, changed.
fn config(name: &str, change: impl Fn(&mut Value)) -> Result<Config, String> {
    let mut config: Value = read(&format!("nomic-bert/{name}"));
    change(&mut config);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(golden("nomic-bert/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    Config::of_folder(&Folder::open(dir.path()).unwrap()).map_err(|e| e.to_string())
}

#[test]
fn both_spellings_of_the_configuration_say_the_same() {
    assert_eq!(config("config.json", |_| {}), config("config-transformers.json", |_| {}));
    let stretched = config("config.json", |c| {
        c["rotary_scaling_factor"] = 2.into();
        c["max_trained_positions"] = 16.into();
    });
    assert_eq!(stretched.unwrap().positions, 16);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    for (field, value) in [
        ("prenorm", json!(true)),
        ("qkv_proj_bias", json!(true)),
        ("causal", json!(true)),
        ("activation_function", json!("gelu")),
        ("rotary_emb_fraction", json!(0.5)),
        ("rotary_emb_scale_base", json!(512)),
        ("num_experts", json!(8)),
        ("n_embd", json!(null)),
        ("heads", json!(5)),
    ] {
        let key = if field == "heads" { "n_head" } else { field };
        let error = config("config.json", |c| c[key] = value.clone()).unwrap_err();
        assert!(error.contains(field) && error.contains("config.json"), "{error}");
    }
}

/// Writes a model 256 wide, as wide as blocks of Q4_K are, whose matrices are of `kind`. The same weights whatever that
/// is.
fn write(path: &Path, kind: GgmlDType) {
    const WIDE: usize = 256;
    let text = |s: &str| GgufValue::Str(s.to_owned());
    let number = |key: &str, n: u32| (format!("nomic-bert.{key}"), GgufValue::U32(n));
    let mut tokens = StrArray::default();
    for token in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u{2581}the", "\u{2581}fox", "es"] {
        assert!(tokens.push(token));
    }
    let rows = tokens.len();
    let meta = vec![
        ("general.architecture".to_owned(), text("nomic-bert")),
        ("tokenizer.ggml.model".to_owned(), text("bert")),
        ("tokenizer.ggml.tokens".to_owned(), GgufValue::Array(Array::Str(tokens))),
        number("context_length", 16),
        number("embedding_length", WIDE as u32),
        number("feed_forward_length", WIDE as u32),
        number("block_count", 1),
        number("attention.head_count", 4),
        number("pooling_type", 1),
    ];
    let matrix = |name: &str, rows: usize| TensorSpec::new(format!("{name}.weight"), &[rows, WIDE], kind);
    let mut specs = vec![
        matrix("token_embd", rows),
        TensorSpec::new("token_types.weight", &[2, WIDE], GgmlDType::F32),
        matrix("blk.0.attn_qkv", 3 * WIDE),
    ];
    let names = ["attn_output", "ffn_up", "ffn_gate", "ffn_down"];
    specs.extend(names.iter().map(|name| matrix(&format!("blk.0.{name}"), WIDE)));
    for name in ["token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"] {
        let part = |end: &str| TensorSpec::new(format!("{name}.{end}"), &[WIDE], GgmlDType::F32);
        specs.extend([part("weight"), part("bias")]);
    }
    let file = std::fs::File::create(path).unwrap();
    let mut writer = Writer::begin(file, path, &meta, specs.clone()).unwrap();
    for (seed, spec) in specs.iter().enumerate() {
        let norm = spec.name.ends_with("norm.weight");
        let value = |v: f32| if norm { 1.0 } else { 0.2 * v };
        let values = noise(spec.shape.iter().product(), seed as u64 + 1).into_iter().map(value).collect();
        let tensor = Tensor::from_vec::<_, f32>(values, spec.shape.as_slice(), &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&tensor, spec.ggml_type).unwrap();
        writer.tensor(|_, out| out.write_all(&tensor.data().unwrap())).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn weights_of_4_bits_say_nearly_what_halves_say() {
    let dir = tempfile::tempdir().unwrap();
    let vectors = |kind: GgmlDType| {
        let path = dir.path().join("model.gguf");
        write(&path, kind);
        let mut loaded = load(&installed(&path, Format::Gguf, Kind::Embed), &Device::Cpu).unwrap();
        let row = loaded.front.tokenizer.encode("The foxes, fox").unwrap();
        assert_eq!(row, [2, 4, 5, 6, 1, 5, 3]);
        loaded.model.step(&vec![row, vec![2, 5, 3]]).unwrap()
    };
    let (whole, small) = (vectors(GgmlDType::F16), vectors(GgmlDType::Q4K));
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for (whole, small) in whole.iter().zip(&small) {
        assert!(cosine(whole, small) > 0.98, "{}", cosine(whole, small));
    }
    assert!(cosine(&whole[0], &whole[1]) < 0.97, "another text");
}
