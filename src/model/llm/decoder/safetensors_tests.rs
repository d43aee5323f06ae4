//! Folders that are damaged, or are of models that have more than is computed.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::model::llm::Limits;
use crate::ops::KvType;

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llm/architectures").join(name)
}

/// A copy of a golden folder that `change` may alter.
fn folder(name: &str, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    change(dir.path());
    dir
}

fn load(dir: &Path) -> Result<usize, String> {
    let limits = Limits { context: 64, blocks: 2, cache: KvType::F16, quantise: Quantise::Q8_0 };
    let open = SafetensorsFolder::open(dir).map_err(|e| e.to_string())?;
    let loaded = crate::model::llm::decoder::load_folder(&open, &Device::Cpu, limits);
    loaded.map(|(_, shape)| shape.vocabulary).map_err(|e| e.to_string())
}

fn refusal(name: &str, change: impl FnOnce(&Path)) -> String {
    load(folder(name, change).path()).expect_err("a damaged folder was loaded")
}

fn configure(dir: &Path, fields: &Value) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        config[name] = value.clone();
    }
    fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
}

/// Replaces bytes in the header of the weights by as many others.
fn rename(dir: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let path = dir.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at: Vec<usize> = bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, w)| *w == from.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!at.is_empty(), "{from}");
    at.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to.as_bytes()));
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_part_must_be_there() {
    assert_eq!(load(folder("gemma3", |_| {}).path()), Ok(96));
    for (name, tensor) in [
        ("llama", "model.norm.weight"),
        ("llama", "lm_head.weight"),
        ("llama", "layers.1.self_attn.k_proj.weight"),
        ("qwen2", "layers.0.self_attn.v_proj.bias"),
        ("qwen3", "layers.1.self_attn.q_norm.weight"),
        ("gemma3", "layers.3.post_feedforward_layernorm.weight"),
        ("phi3", "layers.0.mlp.gate_up_proj.weight"),
    ] {
        let lost = tensor.replace("weight", "weighx").replace("bias", "biax");
        let text = refusal(name, |dir| rename(dir, tensor, &lost));
        assert!(text.contains(tensor) && text.contains("is missing"), "{text}");
    }
}

#[test]
fn what_would_not_be_computed_is_refused() {
    // Norms of queries and keys, which llama does not know.
    let text = refusal("qwen3", |dir| {
        configure(dir, &json!({"model_type": "llama", "head_dim": 16}));
    });
    assert!(text.contains("_norm.weight: is no part of a decoder of the family Llama"), "{text}");
    let text = refusal("llama", |dir| configure(dir, &json!({"num_hidden_layers": 1})));
    assert!(text.contains("tensor model.layers.1."), "{text}");
    // A tied output layer may be there a second time.
    assert_eq!(
        load(folder("llama", |dir| configure(dir, &json!({"tie_word_embeddings": true}))).path()),
        Ok(96)
    );
}

#[test]
fn a_decoder_within_a_model_that_sees_is_found() {
    let config: Value =
        serde_json::from_slice(&fs::read(golden("gemma3").join("config.json")).unwrap()).unwrap();
    let within = json!({"model_type": "gemma3", "text_config": config, "vision_config": {}});
    for prefix in ["language_model.model.", "model.language_model."] {
        let dir = folder("gemma3", |dir| {
            fs::write(dir.join("config.json"), serde_json::to_vec(&within).unwrap()).unwrap();
            let path = dir.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
            let header = header.replace("\"model.", &format!("\"{prefix}"));
            let whole = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]];
            fs::write(path, whole.concat()).unwrap();
        });
        assert_eq!(load(dir.path()), Ok(96), "{prefix}");
    }
}

#[test]
fn shapes_must_be_those_of_the_configuration() {
    for fields in [
        json!({"hidden_size": 64}),
        json!({"vocab_size": 97}),
        json!({"num_key_value_heads": 4}),
        json!({"intermediate_size": 49}),
        json!({"head_dim": 16}),
        json!({"hidden_size": 1 << 17, "num_attention_heads": 1 << 17, "vocab_size": 1 << 22}),
    ] {
        let text = refusal("llama", |dir| configure(dir, &fields));
        assert!(text.contains("has shape"), "{fields}: {text}");
    }
}

#[test]
fn shards_must_be_whole_and_inside() {
    let second = "model-00002-of-00002.safetensors";
    let text = refusal("qwen3moe", |dir| fs::remove_file(dir.join(second)).unwrap());
    assert!(text.contains(second), "{text}");
    let text = refusal("qwen3moe", |dir| {
        let bytes = fs::read(dir.join(second)).unwrap();
        fs::write(dir.join(second), &bytes[..bytes.len() - 1]).unwrap();
    });
    assert!(text.contains(second) && text.contains("bytes declared"), "{text}");
    let text = refusal("qwen3moe", |dir| {
        let index = dir.join("model.safetensors.index.json");
        let text = fs::read_to_string(&index).unwrap().replace(second, &format!("../{second}"));
        fs::write(index, text).unwrap();
    });
    assert!(text.contains("is not the name of a file in this folder"), "{text}");
    for bytes in [&b"{"[..], b"[]", b"{}", b"\xff"] {
        assert!(
            refusal("llama", |dir| fs::write(dir.join("config.json"), bytes).unwrap())
                .contains("config.json")
        );
    }
}

#[test]
fn a_value_that_is_no_number_is_refused() {
    let text = refusal("llama-linear", |dir| {
        let path = dir.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4 * 32 - 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(path, bytes).unwrap();
    });
    assert!(text.contains("no number") || text.contains("NaN"), "{text}");
}
