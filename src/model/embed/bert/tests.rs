//! A BERT of random weights against its own invariants, MiniLM against the reference implementation.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::BertModel;
use crate::model::embed::testing::{Golden, installed};
use crate::model::embed::{EmbedTokenizer, Error, REGISTRY, load};
use crate::ops::testing::composed;
use crate::types::model::{Format, Kind};

/// The MiniLM of the models folder that tests are given.
fn minilm() -> Option<PathBuf> {
    let Some(home) = std::env::var_os("STENTOR_TEST_MODELS") else {
        println!("skipped: STENTOR_TEST_MODELS names no folder with models");
        return None;
    };
    let dir = Path::new(&home).join("models/all-minilm-l6-v2");
    assert!(dir.is_dir(), "{} is missing", dir.display());
    Some(dir)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn open(dir: &Path) -> Result<BertModel, Error> {
    BertModel::load(dir, &Device::Cpu)
}

#[test]
fn minilm_agrees_with_sentence_transformers() {
    let Some(dir) = minilm() else { return };
    let golden: Vec<Golden> =
        serde_json::from_str(include_str!("../../../../tests/golden/embed/minilm.json")).unwrap();
    let mut model = open(&dir).unwrap();
    let tokenizer = EmbedTokenizer::load(&dir, model.max_tokens(), model.config().vocab_size).unwrap();
    let rows: Vec<Vec<u32>> = golden.iter().map(|g| tokenizer.encode(&g.text).unwrap()).collect();
    for (row, g) in rows.iter().zip(&golden) {
        assert_eq!(row, &g.ids, "tokens of {:?}", g.text);
    }
    let vectors = model.embed(&rows).unwrap();
    for ((vector, g), row) in vectors.iter().zip(&golden).zip(&rows) {
        let near = cosine(vector, &g.vector);
        assert!(near > 0.999_999, "cosine {near} for {:?}", g.text);
        let alone = model.embed(std::slice::from_ref(row)).unwrap();
        assert_eq!(&alone[0], vector, "{:?} depends on its neighbours", g.text);
    }
}

/// What a GPU computes, here on the CPU.
#[test]
fn minilm_of_compositions_agrees_too() {
    let Some(dir) = minilm() else { return };
    let golden: Vec<Golden> =
        serde_json::from_str(include_str!("../../../../tests/golden/embed/minilm.json")).unwrap();
    let rows: Vec<Vec<u32>> = golden.iter().map(|g| g.ids.clone()).collect();
    let vectors = composed(|| open(&dir).unwrap().embed(&rows).unwrap());
    for (vector, g) in vectors.iter().zip(&golden) {
        let near = cosine(vector, &g.vector);
        assert!(near > 0.999_999, "cosine {near} for {:?}", g.text);
    }
}

#[test]
fn long_texts_are_cut_like_short_ones() {
    let Some(dir) = minilm() else { return };
    let tokenizer = EmbedTokenizer::load(&dir, 256, 30_522).unwrap();
    let word = "the quick brown fox ";
    let short = tokenizer.encode(&word.repeat(100)).unwrap();
    assert_eq!(short.len(), 256);
    assert_eq!((short[0], short[255]), (101, 102));
    assert_eq!(tokenizer.encode(&word.repeat(500_000)).unwrap(), short);
    assert_eq!(tokenizer.frame(&short[1..255]).unwrap(), short);
    assert_eq!(tokenizer.frame(&short[1..255].repeat(2)).unwrap(), short);
    assert_eq!(tokenizer.frame(&[]).unwrap(), [101, 102]);
    assert!(matches!(tokenizer.frame(&[5, 30_522]), Err(Error::TokenOutOfRange { position: 1, .. })));
}

/// A folder with a small BERT of random weights; `change` edits its configuration.
fn small(change: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut config = serde_json::json!({
        "model_type": "bert", "vocab_size": 100, "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 64,
    });
    change(&mut config);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut tensors = std::collections::HashMap::new();
    let mut put = |name: String, shape: &[usize]| {
        tensors.insert(name, Tensor::randn(0f32, 0.3, shape, &Device::Cpu).unwrap());
    };
    for (name, rows) in [("word", 100), ("position", 64), ("token_type", 2)] {
        put(format!("bert.embeddings.{name}_embeddings.weight"), &[rows, 24]);
    }
    let mut shapes = vec![("embeddings.LayerNorm".to_owned(), vec![24])];
    for i in 0..2 {
        for (name, shape) in [
            ("attention.self.query", vec![24, 24]),
            ("attention.self.key", vec![24, 24]),
            ("attention.self.value", vec![24, 24]),
            ("attention.output.dense", vec![24, 24]),
            ("attention.output.LayerNorm", vec![24]),
            ("intermediate.dense", vec![40, 24]),
            ("output.dense", vec![24, 40]),
            ("output.LayerNorm", vec![24]),
        ] {
            shapes.push((format!("encoder.layer.{i}.{name}"), shape));
        }
    }
    for (name, shape) in shapes {
        put(format!("bert.{name}.weight"), &shape);
        put(format!("bert.{name}.bias"), &shape[..1]);
    }
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let dir = small(|_| {});
    let mut model = open(dir.path()).unwrap();
    assert_eq!(model.max_tokens(), 64);
    // More tokens than one pass takes, so that passes are cut too.
    let rows: Vec<Vec<u32>> =
        (0..400u32).map(|i| (0..=i % 64).map(|t| (t * 7 + i) % 100).collect()).collect();
    let together = model.embed(&rows).unwrap();
    for i in [0, 1, 2, 3, 63, 64, 127, 399] {
        assert_eq!(model.embed(&rows[i..=i]).unwrap()[0], together[i]);
        let norm: f32 = together[i].iter().map(|v| v * v).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }
    assert!(model.embed(&[]).unwrap().is_empty());
    let compositions = composed(|| open(dir.path()).unwrap().embed(&rows).unwrap());
    for (a, b) in together.iter().zip(&compositions) {
        assert!(cosine(a, b) > 0.999_999);
    }
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let dir = small(|_| {});
    let mut model = open(dir.path()).unwrap();
    assert!(matches!(model.embed(&[vec![1], vec![]]), Err(Error::EmptyRow { row: 1 })));
    assert!(matches!(model.embed(&[vec![1; 65]]), Err(Error::TooLong { tokens: 65, limit: 64, .. })));
    assert!(matches!(model.embed(&[vec![1, 100]]), Err(Error::TokenOutOfRange { id: 100, position: 1, .. })));
}

#[test]
fn folders_that_lie_are_refused_with_the_field() {
    for (field, value) in [
        ("vocab_size", serde_json::json!(101)),
        ("hidden_size", 0.into()),
        ("hidden_size", serde_json::json!(u64::MAX)),
        ("num_hidden_layers", 3.into()),
        ("num_attention_heads", 5.into()),
        ("intermediate_size", 41.into()),
        ("hidden_act", "relu".into()),
        ("position_embedding_type", "relative_key".into()),
        ("max_position_embeddings", (-1).into()),
    ] {
        let dir = small(|c| c[field] = value.clone());
        let err = open(dir.path()).err().unwrap_or_else(|| panic!("{field} = {value}"));
        let text = err.to_string();
        let named = text.contains(field) || text.contains("tensor") || text.contains("config.json");
        assert!(named && text.contains(".json") | text.contains(".safetensors"), "{text}");
    }
    let dir = small(|c| c["model_type"] = "gpt2".into());
    let installed = installed(dir.path(), Format::Safetensors, Kind::Embed);
    let text = load(&installed, &Device::Cpu).err().unwrap().to_string();
    assert!(text.contains("gpt2") && text.contains(REGISTRY[0].name), "{text}");
}
