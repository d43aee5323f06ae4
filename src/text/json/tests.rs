//! Ids against the `tokenizers` package (`tests/golden/text/json/make.py`) and against its crate.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::text::{Special, Tokenizer};

const NAMES: [&str; 9] =
    ["llama3", "qwen2", "smollm2", "gpt4o", "llama2", "mistral", "metaspace", "phi3", "gemma3"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text/json").join(name)
}

fn ours(name: &str) -> Tokenizer {
    open(&path(&format!("{name}.json")), &Roles::default()).unwrap()
}

fn theirs(name: &str) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_file(path(&format!("{name}.json"))).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn ids_equal_the_reference() {
    let files =
        std::fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> =
        files.filter_map(|file| Some(file.strip_suffix(".ids.json")?.to_owned())).collect();
    assert!(NAMES.iter().all(|name| names.iter().any(|n| n == name)));
    for name in names {
        let start = std::time::Instant::now();
        let tokenizer = ours(&name);
        println!("{name}: {} tokens in {:?}", tokenizer.vocab_size(), start.elapsed());
        let golden = std::fs::read(path(&format!("{name}.ids.json"))).unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&golden).unwrap();
        assert!(cases.len() > 60);
        for case in cases {
            let text = case[0].as_str().unwrap();
            for (special, wanted) in [(Special::AsText, &case[1]), (Special::Parse, &case[2])] {
                let mut wanted = ids(if wanted.is_null() { &case[1] } else { wanted });
                // A text that brings its own is not given a second one.
                if tokenizer.bos().is_some_and(|bos| wanted.starts_with(&[bos, bos])) {
                    wanted.remove(0);
                }
                assert_eq!(tokenizer.encode(text, special, true), wanted, "{name} {special:?} {text:?}");
            }
        }
    }
}

/// What texts are made of: what some step of some tokenizer treats in its own way.
const PIECES: [&str; 40] = [
    "a",
    "b",
    "Ab",
    "ing",
    " the",
    " ",
    "  ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\u{a0}",
    "\u{3000}",
    "\u{85}",
    "▁",
    "▁▁",
    "é",
    "e\u{301}",
    "\u{1100}\u{1161}\u{11a8}",
    "日本",
    "😀",
    "👨‍👩‍👧",
    "ß",
    "'s",
    "'LL",
    "'\u{17f}",
    "12",
    "3456",
    "²",
    "٣",
    "!",
    "...",
    "\u{4}",
    "<s>",
    "</s>",
    "<|im_end|>",
    "<|user|>",
    "<|left|>",
    "<think>",
    "<0x41>",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn ids_equal_the_crates(at in prop::collection::vec(0..PIECES.len(), 0..24)) {
        let text: String = at.iter().map(|&i| PIECES[i]).collect();
        for name in NAMES {
            thread_local! {
                static BOTH: std::cell::RefCell<Vec<(Tokenizer, tokenizers::Tokenizer)>> =
                    std::cell::RefCell::new(NAMES.iter().map(|n| (ours(n), theirs(n))).collect());
            }
            BOTH.with_borrow_mut(|both| {
                let (ours, theirs) = &mut both[NAMES.iter().position(|n| *n == name).unwrap()];
                for special in [Special::AsText, Special::Parse] {
                    theirs.set_encode_special_tokens(special == Special::AsText);
                    let wanted = theirs.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
                    prop_assert_eq!(ours.encode(&text, special, false), wanted, "{} {:?} {:?}", name, special, text);
                }
                Ok(())
            })?;
        }
    }

    #[test]
    fn text_comes_back(text in r"(?s)([^\x{2581}]|[ a-z]{1,9}|\s){0,60}") {
        for name in ["llama3", "gpt4o", "llama2", "phi3", "gemma3"] {
            let tokenizer = ours(name);
            let ids = tokenizer.encode(&text, Special::AsText, false);
            prop_assert_eq!(&tokenizer.decode(&ids), &text, "{}", name);
        }
    }

    /// Whatever a file says: a tokenizer or a reason, and with a tokenizer, ids that it has.
    #[test]
    fn damaged_files_are_read_or_refused(
        which in 0..NAMES.len(), field in 0usize..400, value in 0usize..8, flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..3),
    ) {
        let whole = std::fs::read(path(&format!("{}.json", NAMES[which]))).unwrap();
        let mut file: Value = serde_json::from_slice(&whole).unwrap();
        let values = [json!(null), json!(true), json!(-1), json!(4_000_000_000u32), json!("x"), json!([]), json!({}), json!(["a", "b"])];
        let mut left = field;
        replace(&mut file, &mut left, &values[value]);
        let mut bytes = serde_json::to_vec(&file).unwrap();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(tokenizer) = parse(&bytes, &Roles::default()) {
            let ids = tokenizer.encode("Hello <s> wörld 12▁ \n\n", Special::Parse, true);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }
}

/// Puts `value` in the place of the field whose turn it is; of long tables only the first fields have one.
fn replace(at: &mut Value, left: &mut usize, value: &Value) -> bool {
    let parts: Box<dyn Iterator<Item = &mut Value>> = match at {
        Value::Object(map) => Box::new(map.values_mut()),
        Value::Array(list) => Box::new(list.iter_mut()),
        _ => return false,
    };
    for part in parts.take(30) {
        if *left == 0 {
            *part = value.clone();
            return true;
        }
        *left -= 1;
        if replace(part, left, value) {
            return true;
        }
    }
    false
}

#[test]
fn what_is_not_supported_is_named() {
    let refused = |name: &str, pointer: &str, value: Value, says: &str| {
        let mut file: Value = serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap();
        *file.pointer_mut(pointer).unwrap() = value;
        let refused = parse(&serde_json::to_vec(&file).unwrap(), &Roles::default());
        let Err(problem) = refused else { panic!("{pointer} was read") };
        assert!(problem.contains(says), "{problem}");
    };
    refused("llama3.json", "/model/type", json!("Unigram"), "`Unigram` is not supported");
    refused("llama3.json", "/model/merges/0", json!("a b c"), "is not two tokens");
    refused("llama3.json", "/model/merges/0", json!(["\u{120}", "nothing"]), "is no token");
    refused("llama3.json", "/model/end_of_word_suffix", json!("</w>"), "end_of_word_suffix");
    refused("llama3.json", "/normalizer", json!({"type": "Lowercase"}), "`Lowercase`");
    refused("llama3.json", "/pre_tokenizer", json!({"type": "Whitespace"}), "`Whitespace`");
    refused("llama3.json", "/pre_tokenizer", json!(null), "neither ByteLevel nor Metaspace");
    let regex = "/pre_tokenizer/pretokenizers/0/pattern/Regex";
    for pattern in [r"a(?=b)|\s+(?!\S)|\s+", r"x?+|\s+(?!\S)|\s+", r"[\s]{2}|\s+(?!\S)|\s+", "("] {
        refused("llama3.json", regex, json!(pattern), "pre-tokenizer");
    }
    refused(
        "llama3.json",
        "/pre_tokenizer/pretokenizers/1/add_prefix_space",
        json!(true),
        "add_prefix_space",
    );
    refused("llama3.json", "/post_processor", json!({"type": "BertProcessing"}), "`BertProcessing`");
    let framing = "/post_processor/special_tokens/<s>/ids/0";
    refused("mistral.json", framing, json!(4_000_000_000u32), "post_processor: token 4000000000 where");
    refused("llama3.json", "/added_tokens/0/id", json!(3_000_000), "ids up to 3000000");
    refused("llama3.json", "/added_tokens/0/id", json!(5), "token 5 is");
    refused("llama3.json", "/added_tokens/0/single_word", json!(true), "whole words");
    refused("mistral.json", "/model/ignore_merges", json!(true), "ignore_merges");
    refused("mistral.json", "/pre_tokenizer/replacement", json!("_"), "Metaspace");
    refused("llama2.json", "/normalizer/normalizers/0/prepend", json!("x"), "`Prepend`");
}

#[test]
fn roles_come_from_the_files_beside_it() {
    let at = path("llama2.json");
    let roles = Roles {
        bos: Some(Named::Text("<s>")),
        eos: Some(Named::Id(2)),
        ends: vec![7],
        frame: Some((false, true)),
    };
    let tokenizer = open(&at, &roles).unwrap();
    let mut ends: Vec<u32> = tokenizer.ends().collect();
    ends.sort_unstable();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), ends), (Some(1), Some(2), vec![2, 7]));
    let framed = tokenizer.encode("a", Special::AsText, true);
    assert_eq!((framed.first() == Some(&1), framed.last()), (false, Some(&2)));
    for (bos, says) in [
        (Named::Text("<nothing>"), "\"<nothing>\" is no token"),
        (Named::Id(100_000), "token 100000 where there are"),
        (Named::Id(2), "frames a text with token 1, and bos_token is 2"),
    ] {
        let Err(error) = open(&at, &Roles { bos: Some(bos), ..Roles::default() }) else { panic!("opened") };
        assert!(error.to_string().contains(says), "{error}");
    }
    let chatml = ours("qwen2");
    assert!(chatml.ends().any(|id| chatml.token_text(id).unwrap() == "<|im_end|>"), "known by its name");
}
