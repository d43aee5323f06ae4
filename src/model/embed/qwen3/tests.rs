//! A Qwen3 of random weights against the reference implementation.

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::{Config, Qwen3, TOKENS_A_PASS, feed};
use crate::model::embed::testing::{Golden, agrees, distance, golden, installed, read};
use crate::model::embed::{Folder, load};
use crate::types::embed::Prompt;
use crate::types::model::{Format, Kind};

#[test]
fn qwen3_agrees_with_sentence_transformers() {
    agrees(&golden("qwen3"), Format::Safetensors, "qwen3/golden.json", 1e-4);
}

#[test]
fn queries_have_their_instruction_and_documents_nothing() {
    let loaded = load(&installed(&golden("qwen3"), Format::Safetensors, Kind::Embed), &Device::Cpu).unwrap();
    let words = loaded.front.prompts.of(&Prompt::Query).unwrap();
    assert_eq!(words, "Instruct: find\nQuery:");
    assert_eq!(loaded.front.prompts.of(&Prompt::Document).unwrap(), "");
    let rows: Vec<Golden> = read("qwen3/golden.json");
    assert!(rows.iter().any(|row| row.text == format!("{words}{}", rows[0].text)));
    assert!(rows.iter().all(|row| row.ids.last() == Some(&0)), "each ends with the end of a text");
}

#[test]
fn what_a_text_is_followed_by_does_not_change_its_beginning() {
    let model = Qwen3::load(&Folder::open(&golden("qwen3")).unwrap(), &Device::Cpu).unwrap();
    let rows = |ids: &[u32]| super::Ragged::new([ids].into_iter());
    let long = model.forward(&rows(&[5, 9, 40, 7])).unwrap().to_vec2::<f32>().unwrap();
    let short = model.forward(&rows(&[5, 9])).unwrap().to_vec2::<f32>().unwrap();
    // Few queries are summed in another order than many.
    assert!(distance(&long[1], &short[1]) < 1e-4);
    assert!(distance(&long[3], &short[1]) > 1e-2);
}

#[test]
fn the_feed_forward_layer_of_a_long_row_is_cut() {
    let model = Qwen3::load(&Folder::open(&golden("qwen3")).unwrap(), &Device::Cpu).unwrap();
    let x = Tensor::randn(0f32, 1.0, (TOKENS_A_PASS + 3, 32), &Device::Cpu).unwrap();
    let whole = feed(&x, &model.layers[0]).unwrap();
    let tail = feed(&x.narrow(0, TOKENS_A_PASS, 3).unwrap(), &model.layers[0]).unwrap();
    let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
    assert_eq!(rows(&whole)[TOKENS_A_PASS..], rows(&tail)[..]);
}

fn config(change: impl Fn(&mut Value)) -> Result<Config, String> {
    let mut config: Value = read("qwen3/config.json");
    change(&mut config);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(golden("qwen3/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    Config::read(&Folder::open(dir.path()).unwrap()).map_err(|e| e.to_string())
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    for (field, value) in [
        ("attention_bias", json!(true)),
        ("use_sliding_window", json!(true)),
        ("hidden_act", json!("gelu")),
        ("rope_scaling", json!({"type": "yarn", "factor": 4.0})),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(15)),
        ("hidden_size", json!(0)),
        ("max_position_embeddings", json!(u32::MAX)),
    ] {
        let error = config(|c| c[field] = value.clone()).unwrap_err();
        assert!(error.contains(field) && error.contains("config.json"), "{error}");
    }
    let old = config(|c| {
        c["rope_parameters"] = Value::Null;
        c["rope_theta"] = json!(5e5);
    });
    assert!((old.unwrap().rope_base() - 5e5).abs() < 1.0);
}
