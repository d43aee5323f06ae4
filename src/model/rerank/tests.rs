//! Cross-encoders of random weights against the reference implementation.

use std::path::Path;

use candle_core::Device;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Loaded, Pair, load};
use crate::model::embed::Error;
use crate::model::embed::testing::{golden, installed, read};
use crate::ops::testing::composed;
use crate::types::model::{Format, Kind};

/// A pair, its tokens and its logit by the reference implementation.
#[derive(Deserialize)]
struct Golden {
    query: String,
    text: String,
    ids: Vec<u32>,
    types: Vec<u32>,
    score: f32,
}

fn open(dir: &Path) -> Result<Loaded, String> {
    load(&installed(dir, Format::Safetensors, Kind::Rerank), &Device::Cpu).map_err(|e| e.to_string())
}

#[track_caller]
fn agrees(name: &str) {
    let rows: Vec<Golden> = read(&format!("{name}/golden.json"));
    let mut loaded = open(&golden(name)).unwrap();
    let pair = |row: &Golden| -> Pair {
        loaded.front.tokenizer.pairs(&row.query, std::slice::from_ref(&row.text), true).unwrap().remove(0)
    };
    let pairs: Vec<Pair> = rows.iter().map(pair).collect();
    for (pair, row) in pairs.iter().zip(&rows) {
        assert_eq!((pair.ids(), pair.types()), (&*row.ids, &*row.types), "{:?} {:?}", row.query, row.text);
    }
    assert!(rows.iter().any(|row| row.ids.len() == loaded.front.tokenizer.max_tokens()), "one is cut");
    let scores = loaded.model.step(&pairs).unwrap();
    for ((score, row), pair) in scores.iter().zip(&rows).zip(&pairs) {
        assert!((score - row.score).abs() < 1e-4, "{score} for {} of {:?}", row.score, row.text);
        assert_eq!(loaded.model.step(&vec![pair.clone()]).unwrap(), [*score], "depends on its neighbours");
    }
    let scores = composed(|| open(&golden(name)).unwrap().model.step(&pairs).unwrap());
    for (score, row) in scores.iter().zip(&rows) {
        assert!((score - row.score).abs() < 1e-4, "{score} for {} of {:?} composed", row.score, row.text);
    }
}

#[test]
fn a_bert_with_a_head_agrees_with_transformers() {
    agrees("rerank-bert");
}

#[test]
fn an_xlm_roberta_with_a_head_agrees_with_transformers() {
    agrees("rerank-xlm-roberta");
}

#[test]
fn pairs_are_those_of_each_text_in_order() {
    let tokenizer = open(&golden("rerank-bert")).unwrap().front.tokenizer;
    let texts = ["a".to_owned(), String::new(), "the fox".to_owned()];
    let pairs = tokenizer.pairs("dog", &texts, false).unwrap();
    for (pair, text) in pairs.iter().zip(&texts) {
        assert_eq!(pair, &tokenizer.pairs("dog", std::slice::from_ref(text), true).unwrap()[0]);
    }
    assert!(pairs[1].ids().len() < pairs[0].ids().len());
    let long = ["a".to_owned(), "the fox ".repeat(100_000)];
    assert_eq!(tokenizer.pairs("dog", &long, true).unwrap()[1].ids().len(), tokenizer.max_tokens());
    let (at, error) = tokenizer.pairs("dog", &long, false).unwrap_err();
    assert!(at == 1 && matches!(error, Error::Cut { limit: 64 }), "{error}");
}

/// A copy of a model's folder whose configuration or tokenizer was changed.
fn changed(name: &str, file: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden(&format!("{name}/{file}")), dir.path().join(file)).unwrap();
    }
    let mut value: Value = read(&format!("{name}/{file}"));
    change(&mut value);
    std::fs::write(dir.path().join(file), value.to_string()).unwrap();
    dir
}

#[test]
fn folders_that_are_no_rerankers_say_so() {
    let refused = |name: &str, file: &str, change: &dyn Fn(&mut Value)| {
        open(changed(name, file, change).path()).err().unwrap()
    };
    let error = refused("rerank-bert", "config.json", &|c| c["model_type"] = json!("t5"));
    assert!(error.contains("t5") && error.contains("xlm-roberta"), "{error}");
    let error = refused("rerank-bert", "config.json", &|c| c["model_type"] = json!("xlm-roberta"));
    assert!(error.contains("classifier.dense.weight is missing"), "{error}");
    let error = refused("rerank-xlm-roberta", "config.json", &|c| c["type_vocab_size"] = json!(2));
    assert!(error.contains("token_type_embeddings") && error.contains("[1, 32]"), "{error}");
    let error = refused("rerank-bert", "tokenizer.json", &|t| {
        t["post_processor"]["pair"][3]["Sequence"]["type_id"] = json!(5);
    });
    assert!(error.contains("type 5"), "{error}");
    let error = refused("rerank-bert", "tokenizer.json", &|t| {
        t["post_processor"]["pair"] = json!([{"Sequence": {"id": "B", "type_id": 0}}]);
    });
    assert!(error.contains("tokenizer.json"), "{error}");
}

/// transformers gives RoBERTa's networks no types, whatever the template has.
#[test]
fn types_of_networks_without_are_0() {
    let typed = changed("rerank-xlm-roberta", "tokenizer.json", |t| {
        t["post_processor"]["pair"][4]["Sequence"]["type_id"] = json!(1);
    });
    let pairs =
        |dir: &Path| open(dir).unwrap().front.tokenizer.pairs("fox", &["dog".to_owned()], true).unwrap();
    assert_eq!(pairs(typed.path()), pairs(&golden("rerank-xlm-roberta")));
}
