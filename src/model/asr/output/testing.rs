//! A vocabulary small enough to read, and recordings for networks that are scripted.

use std::sync::{Arc, OnceLock};

use serde_json::json;

use crate::model::asr::vocab::Vocab;
use crate::types::asr::{HOP, LogMel};

/// Token ids of the small vocabulary: letters 0..26, a space, the empty string, then the special ones.
pub const SPACE: u32 = 26;
pub const EOT: u32 = 28;
pub const SOT: u32 = 29;
pub const DE: u32 = 31;
pub const EN: u32 = 30;
pub const TRANSCRIBE: u32 = 33;
pub const PREV: u32 = 35;
pub const NO_SPEECH: u32 = 36;
pub const T: u32 = 38;
pub const VOCAB: usize = 38 + 1501;

pub fn vocab() -> Arc<Vocab> {
    static VOCAB: OnceLock<Arc<Vocab>> = OnceLock::new();
    VOCAB
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let mut words = serde_json::Map::new();
            for (i, letter) in ('a'..='z').enumerate() {
                words.insert(letter.into(), json!(i));
            }
            words.insert("Ġ".into(), json!(SPACE));
            words.insert("".into(), json!(27));
            let special = [
                "endoftext",
                "startoftranscript",
                "en",
                "de",
                "translate",
                "transcribe",
                "startoflm",
                "startofprev",
                "nospeech",
                "notimestamps",
            ];
            let added: Vec<_> = (EOT..)
                .zip(special)
                .map(|(id, name)| {
                    json!({"id": id, "content": format!("<|{name}|>"), "special": true, "single_word": false,
                       "lstrip": false, "rstrip": false, "normalized": false})
                })
                .collect();
            let tokenizer = json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                                  "use_regex": true},
                "post_processor": null,
                "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                          "end_of_word_suffix": null, "fuse_unk": false, "vocab": words, "merges": []},
            });
            std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
            // The letter z is never spoken.
            let config = json!({"suppress_ids": [25], "suppress_ids_begin": [SPACE, EOT]});
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            Arc::new(Vocab::load(dir.path()).unwrap())
        })
        .clone()
}

/// A recording of so many frames that is not silent.
pub fn recording(frames: usize) -> LogMel {
    let mut mel = LogMel::new(1);
    (0..frames).for_each(|_| mel.push(&[0.0]));
    mel.set_samples((frames * HOP) as u64);
    mel
}
