//! The files beside the weights; and whole folders.

use std::fs;
use std::path::PathBuf;

use candle_core::Device;
use serde_json::json;

use super::*;
use crate::model::Size;
use crate::model::llm::{self, Batch, Choice, Grant, Row};
use crate::ops::KvType;
use crate::text::RenderOptions;
use crate::text::Special;
use crate::types::llm::{Message, Role};
use crate::types::model::Quantise;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// A folder with the tokenizer of that name, and these files.
fn folder(name: &str, files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden(&format!("text/json/{name}.json")), dir.path().join("tokenizer.json")).unwrap();
    for (name, content) in files {
        let bytes = match content {
            Value::String(text) => text.clone().into_bytes(),
            other => serde_json::to_vec(other).unwrap(),
        };
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn ends(tokenizer: &Tokenizer) -> Vec<String> {
    let mut ends: Vec<String> = tokenizer.ends().filter_map(|id| tokenizer.token_text(id)).collect();
    ends.sort();
    ends
}

fn rendered(template: &ChatTemplate) -> String {
    let now = time::OffsetDateTime::UNIX_EPOCH;
    let options = RenderOptions { tools: &[], enable_thinking: None, add_generation_prompt: true, now };
    template.render(&[Message::new(Role::User, "hi")], options).unwrap()
}

#[test]
fn ends_and_frames_come_from_all_files() {
    let eos = json!({"content": "</s>", "lstrip": false});
    let dir = folder(
        "llama2",
        &[
            ("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": eos, "add_bos_token": true})),
            ("generation_config.json", json!({"eos_token_id": [2, 100]})),
            ("config.json", json!({"eos_token_id": 101})),
        ],
    );
    let (tokenizer, _) = read(dir.path()).unwrap();
    assert!(tokenizer.adds_bos());
    assert_eq!(ends(&tokenizer).len(), 3);
    assert!(tokenizer.is_end(2) && tokenizer.is_end(100) && tokenizer.is_end(101));
    // Nothing but the numbers; and `add_bos_token` goes before what the tokenizer does.
    let dir = folder("llama2", &[("config.json", json!({"eos_token_id": 2, "bos_token_id": 1}))]);
    let (tokenizer, _) = read(dir.path()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), Some(2), true));
    let dir =
        folder("llama2", &[("tokenizer_config.json", json!({"bos_token": "<s>", "add_bos_token": false}))]);
    assert!(!read(dir.path()).unwrap().0.adds_bos());
    let dir =
        folder("qwen2", &[("tokenizer_config.json", json!({"bos_token": null, "eos_token": "<|im_end|>"}))]);
    let (tokenizer, _) = read(dir.path()).unwrap();
    assert_eq!(
        (tokenizer.bos(), ends(&tokenizer)),
        (None, vec!["<|endoftext|>".into(), "<|im_end|>".into()])
    );
}

#[test]
fn the_template_is_found_where_it_is() {
    let own =
        |template: Value| ("tokenizer_config.json", json!({"bos_token": "<s>", "chat_template": template}));
    let text = |files: &[(&str, Value)]| rendered(&read(folder("llama2", files).path()).unwrap().1);
    let one = json!("{{ bos_token }}one {{ messages[0].content }}");
    assert_eq!(text(&[own(one.clone())]), "<s>one hi");
    let several = json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "two"}]);
    assert_eq!(text(&[own(several)]), "two");
    assert_eq!(text(&[own(one), ("chat_template.jinja", json!("three {{ bos_token }}"))]), "three <s>");
    assert!(text(&[]).contains("<|im_start|>user\nhi<|im_end|>"), "ChatML where there is none");
}

#[test]
fn damaged_files_are_named() {
    for (files, says) in [
        (vec![("tokenizer.json", json!("{"))], "tokenizer.json: "),
        (vec![("tokenizer.json", json!({"model": {"type": "WordPiece"}}))], "`WordPiece` is not supported"),
        (vec![("tokenizer_config.json", json!("["))], "tokenizer_config.json"),
        (vec![("tokenizer_config.json", json!({"bos_token": 3}))], "bos_token: is no token"),
        (vec![("tokenizer_config.json", json!({"eos_token": "<gone>"}))], "\"<gone>\" is no token"),
        (vec![("tokenizer_config.json", json!({"chat_template": 3}))], "chat_template: is neither"),
        (vec![("tokenizer_config.json", json!({"chat_template": []}))], "chat_template: is neither"),
        (vec![("tokenizer_config.json", json!({"chat_template": "{% if %}"}))], "chat template, line 1"),
        (vec![("chat_template.jinja", json!("{{ x"))], "chat_template.jinja"),
        (vec![("chat_template.jinja", json!("x".repeat(2 << 20)))], "longer than any template"),
        (vec![("generation_config.json", json!({"eos_token_id": "x"}))], "eos_token_id: is no token id"),
        (vec![("generation_config.json", json!({"eos_token_id": [1, -2]}))], "eos_token_id: is no token id"),
        (vec![("config.json", json!({"eos_token_id": 4_000_000}))], "token 4000000 where there are"),
        (vec![("config.json", json!({"eos_token_id": vec![1; 1000]}))], "eos_token_id"),
    ] {
        let Err(error) = read(folder("llama2", &files).path()) else { panic!("{says} was read") };
        assert!(error.to_string().contains(says), "{error}");
    }
    let Err(error) = read(tempfile::tempdir().unwrap().path()) else { panic!("read") };
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

/// Letters and a few joins, small enough for the golden models' 96 rows.
fn tiny() -> Value {
    let mut vocab = json!({"<unk>": 0, "<s>": 1, "</s>": 2, "\u{2581}": 3, "he": 4, "\u{2581}he": 5});
    for (id, letter) in (6..).zip('a'..='z') {
        vocab[letter.to_string()] = json!(id);
    }
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "special": true});
    json!({
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "vocab": vocab,
            "merges": ["h e", "\u{2581} he"]},
    })
}

#[test]
fn a_folder_is_loaded_whole() {
    let dir = folder(
        "llama2",
        &[
            ("tokenizer.json", tiny()),
            (
                "tokenizer_config.json",
                json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true,
            "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"}),
            ),
        ],
    );
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden(&format!("llm/architectures/llama/{file}")), dir.path().join(file)).unwrap();
    }
    let installed = crate::fetch::probe::model_at(dir.path()).unwrap();
    let (cache, quantise) = (KvType::F16, Quantise::Q8_0);
    let grant = Grant { context: 64, cache_bytes: 0, room: u64::MAX, cache, quantise };
    let largest = Size { units: 64, logits: 4, gpu: false };
    let (reckoned, blocks) = grant.reckon(&installed, None, largest).unwrap();
    let limits = grant.limits(blocks);
    let llm::Loaded { mut model, front } = llm::load(&installed, &Device::Cpu, limits).unwrap();
    assert_eq!((front.context, blocks, &front.stop[..]), (64, 2, &[2][..]));
    let options = RenderOptions {
        tools: &[],
        enable_thinking: None,
        add_generation_prompt: true,
        now: time::OffsetDateTime::UNIX_EPOCH,
    };
    let said = Message::new(Role::User, "the hex </s>");
    let ids = crate::text::chat::encode(&front.tokenizer, &front.template, &[said], options, 64).unwrap();
    // What a message spells is no token of the template's; what is no letter is unknown.
    assert_eq!(ids, [1, 3, 25, 4, 5, 29, 3, 0, 24, 0, 2]);
    assert_eq!(front.tokenizer.decode(&ids), "the hex s");
    assert_eq!(front.tokenizer.encode("he", Special::AsText, true), [1, 5]);
    let row = Row { len: ids.len(), start: 0, table: vec![0, 1], logits: 1, choice: Choice::Logits };
    let logits = model.step(&Batch { tokens: ids, rows: vec![row] }).unwrap();
    assert!(logits.vocabulary == 96 && logits.data.iter().all(|l| l.is_finite()));
    // What is reckoned before is what it takes then, but for its vectors.
    let takes = model.footprint(largest);
    assert_eq!((reckoned.cache, reckoned.step), (takes.cache, takes.step));
    let vectors = 4 * 32 * 5 + 1024;
    assert!(
        takes.weights.abs_diff(reckoned.weights) < reckoned.weights / 16 + vectors,
        "{reckoned:?} of {takes:?}"
    );
    // A vocabulary that the model has no rows for.
    fs::copy(golden("text/json/llama2.json"), dir.path().join("tokenizer.json")).unwrap();
    let Err(error) = llm::load(&installed, &Device::Cpu, limits) else { panic!("loaded") };
    assert!(error.to_string().contains("tokenizer.json: 659 tokens"), "{error}");
}
