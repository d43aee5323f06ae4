//! Configurations as transformers wrote them before and since its version 5, and what is refused.

use serde_json::{Value, json};

use super::*;

/// The `config.json` of a golden folder.
fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/llm/architectures/{name}/config.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn with(mut config: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

fn without(mut config: Value, fields: &[&str]) -> Value {
    fields.iter().for_each(|name| drop(config.as_object_mut().unwrap().remove(*name)));
    config
}

#[test]
fn older_files_say_the_same_in_other_fields() {
    let old = |name: &str, fields: Value| with(without(golden(name), &["rope_parameters"]), fields);
    let llama3 = json!({"type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16});
    let longrope =
        json!({"type": "su", "short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.2, 1.9, 2.7, 4.1]});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let gemma = json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 1_000_000,
        "rope_local_base_freq": 10_000, "sliding_window_pattern": 6});
    for (name, before) in [
        ("llama", old("llama", json!({"rope_theta": 10000.0, "rope_scaling": null}))),
        ("llama", old("llama", json!({"num_attention_heads": 4, "head_dim": null}))),
        ("llama-3.1", old("llama-3.1", json!({"rope_theta": 500.0, "rope_scaling": llama3}))),
        ("llama-linear", old("llama-linear", json!({"rope_scaling": {"type": "linear", "factor": 2.5}}))),
        ("qwen2-yarn", old("qwen2-yarn", json!({"rope_theta": 1000.0, "rope_scaling": yarn}))),
        ("phi3-longrope", old("phi3-longrope", json!({"rope_theta": 1000.0, "rope_scaling": longrope}))),
        ("phi3-partial", old("phi3-partial", json!({"partial_rotary_factor": 0.5}))),
        ("gemma3", without(old("gemma3", gemma), &["layer_types", "_sliding_window_pattern"])),
        ("qwen3-window", without(golden("qwen3-window"), &["layer_types"])),
        ("qwen3moe", with(golden("qwen3moe"), json!({"num_local_experts": null, "num_experts": 6}))),
    ] {
        assert_eq!(read(&before, 64).unwrap(), read(&golden(name), 64).unwrap(), "{name}");
    }
    let within = json!({"model_type": "gemma3", "text_config": golden("gemma3"), "vision_config": {}});
    let (within, alone) = (read(&within, 64).unwrap(), read(&golden("gemma3"), 64).unwrap());
    assert_eq!((within.config, within.within, alone.within), (alone.config, true, false));
}

#[test]
fn what_is_left_out_is_what_its_class_has() {
    let gemma = json!({"model_type": "gemma3_text"});
    let found = read(&gemma, 1 << 20).unwrap();
    let c = found.config;
    assert_eq!((c.layers, c.hidden, c.heads, c.kv_heads, c.head_dim), (26, 2304, 8, 4, 256));
    assert_eq!((c.vocabulary, c.context, found.tied), (262_208, 131_072, true));
    let local = c.local.unwrap();
    assert_eq!((local.window, local.layers.iter().filter(|l| !**l).count()), (4096, 4));
    let window = |config: &Value| read(config, 64).unwrap().config.local.map(|l| (l.window, l.layers));
    let mistral = golden("mistral");
    assert_eq!(window(&without(mistral.clone(), &["sliding_window"])), Some((4096, vec![true; 2])));
    assert_eq!(window(&with(mistral, json!({"sliding_window": null}))), None);
    let qwen = without(golden("qwen2"), &["layer_types"]);
    let qwen = with(qwen, json!({"sliding_window": 8, "max_window_layers": 1}));
    assert_eq!(window(&qwen), None, "`use_sliding_window` is false");
    assert_eq!(window(&with(qwen, json!({"use_sliding_window": true}))), Some((8, vec![false, true])));
    // Added by hand, as the model's card says, beside the length of the training.
    let yarn = json!({"rope_parameters": null, "max_position_embeddings": 16, "rope_scaling":
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}});
    assert_eq!(read(&with(golden("qwen2"), yarn), 64).unwrap().config.context, 64);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let rope = |kind: Value| json!({"rope_parameters": kind});
    for (name, fields, says) in [
        ("llama", json!({"quantization_config": {"quant_method": "awq"}}), "quantised as `awq`"),
        ("llama", json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), "quantised as `gptq`"),
        ("llama", json!({"model_type": "mamba"}), "`mamba` (safetensors) is not supported"),
        ("llama", json!({"hidden_act": "relu2"}), "hidden_act: `relu2`"),
        ("llama", json!({"mlp_bias": true}), "mlp_bias: is true"),
        ("llama", rope(json!({"rope_type": "dynamic", "factor": 2.0})), "rope_type: `dynamic`"),
        ("llama", rope(json!({"rope_type": "linear"})), "rope_parameters: factor: is missing"),
        ("llama", rope(json!({"rope_type": "linear", "factor": -1})), "factor: is not a number above 0"),
        ("llama", rope(json!({"rope_type": 3})), "rope_type: is not a text"),
        ("llama", rope(json!([])), "rope_parameters: is not an object"),
        (
            "llama",
            rope(json!({"rope_theta": 1e4, "partial_rotary_factor": 0.5})),
            "partial_rotary_factor: 0.5",
        ),
        (
            "qwen2-yarn",
            rope(json!({"rope_type": "yarn", "factor": 2, "truncate": false})),
            "truncate: is false",
        ),
        (
            "llama-3.1",
            rope(json!({"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 1})),
            "high_freq_factor: 1 is not above",
        ),
        (
            "phi3-longrope",
            rope(json!({"type": "longrope", "long_factor": [1], "short_factor": [1, 1, 1, 1]})),
            "long_factor: is not a list of 4",
        ),
        ("phi3-partial", rope(json!({"partial_rotary_factor": 0.1})), "makes 0 of 8 dimensions turn"),
        ("llama", json!({"num_key_value_heads": 3}), "num_key_value_heads: 3 do not divide 4"),
        ("llama", json!({"num_hidden_layers": 0}), "num_hidden_layers: is 0"),
        ("llama", json!({"num_hidden_layers": 1e9}), "num_hidden_layers: is not a whole number"),
        ("llama", json!({"hidden_size": 1u64 << 40}), "hidden_size: is"),
        ("llama", json!({"hidden_size": null}), "hidden_size: is missing"),
        ("llama", json!({"vocab_size": -5}), "vocab_size: is not a whole number"),
        ("llama", json!({"rms_norm_eps": "small"}), "rms_norm_eps: is not a number above 0"),
        ("gemma3", json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping: is 30.0"),
        ("gemma3", json!({"layer_types": ["full_attention"]}), "layer_types: names 1 layers of 7"),
        ("gemma3", json!({"layer_types": vec!["chunked_attention"; 7]}), "holds \"chunked_attention\""),
        ("qwen3moe", json!({"norm_topk_prob": null}), "norm_topk_prob: is false"),
        ("qwen3moe", json!({"mlp_only_layers": [0]}), "mlp_only_layers: is [0]"),
        ("qwen3moe", json!({"num_experts_per_tok": 7}), "num_experts_per_tok: 7 used of 6"),
    ] {
        let refused = read(&with(golden(name), fields.clone()), 64);
        let Err(error) = refused else { panic!("{fields} was read") };
        assert!(error.to_string().contains(says), "{fields}: {error}");
    }
    assert!(read(&json!([]), 64).unwrap_err().to_string().contains("no JSON object"));
}

/// Every field in turn, with values of every kind: a configuration within bounds, or the name of a field.
#[test]
fn no_value_of_any_field_panics() {
    let values = [
        json!(null),
        json!(0),
        json!(-1),
        json!(7),
        json!(1e300),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
    ];
    for name in ["llama-3.1", "qwen2-yarn", "qwen3-window", "qwen3moe", "gemma3", "phi3-longrope", "mistral"]
    {
        let whole = golden(name);
        let rope: Vec<String> = whole["rope_parameters"].as_object().unwrap().keys().cloned().collect();
        for value in &values {
            for field in whole.as_object().unwrap().keys() {
                let _ = read(&with(whole.clone(), json!({ field: value })), 64);
            }
            for field in &rope {
                let mut changed = whole.clone();
                changed["rope_parameters"][field] = value.clone();
                let _ = read(&changed, 64);
            }
        }
    }
}
