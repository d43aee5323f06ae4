//! BERT as an embedding model with random weights, as a folder of sentence-transformers: speed can be measured where no
//! weights are. Shapes and sizes of vocabularies are those of the real models; [`words`] gives words that are one token
//! each.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Error;
use super::synthetic_folder::{self as folder, Tensors};

/// The sizes of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    /// Width of the feed-forward part.
    pub ff: usize,
    pub vocab: usize,
    /// Tokens of the longest text.
    pub positions: usize,
    /// Whether the first token's vector is the text's; else the mean of all.
    pub first: bool,
}

/// mixedbread-ai/mxbai-embed-large-v1.
pub const MXBAI_LARGE: Shape = Shape {
    name: "mxbai-embed-large",
    hidden: 1024,
    layers: 24,
    heads: 16,
    ff: 4096,
    vocab: 30_522,
    positions: 512,
    first: true,
};
/// sentence-transformers/all-MiniLM-L6-v2, whose heads are half as wide.
pub const MINI_LM: Shape = Shape {
    name: "all-minilm-l6-v2",
    hidden: 384,
    layers: 6,
    heads: 12,
    ff: 1536,
    vocab: 30_522,
    positions: 512,
    first: false,
};
/// No real models: for checks, with heads of 64 and of 32.
pub const TINY: Shape = Shape {
    name: "bert-synthetic",
    hidden: 128,
    layers: 2,
    heads: 2,
    ff: 256,
    vocab: 1000,
    positions: 128,
    first: true,
};
pub const TINY_NARROW: Shape = Shape { name: "bert-synthetic-narrow", heads: 4, first: false, ..TINY };

/// Ids of the special tokens, as in the real vocabularies.
const SPECIAL: [(&str, usize); 5] =
    [("[PAD]", 0), ("[UNK]", 100), ("[CLS]", 101), ("[SEP]", 102), ("[MASK]", 103)];

/// Words that are one token each, in a model of any shape.
pub fn words() -> impl Iterator<Item = String> {
    (104..TINY.vocab).map(word)
}

/// The token of an id that is not special: its digits to the base of 26, as letters.
fn word(mut id: usize) -> String {
    let mut letters = Vec::new();
    while id > 0 || letters.is_empty() {
        letters.push(char::from(b'a' + (id % 26) as u8));
        id /= 26;
    }
    letters.iter().rev().collect()
}

impl Shape {
    /// Bytes of the weights.
    pub fn bytes(&self) -> u64 {
        self.tensors().bytes()
    }

    fn tensors(&self) -> Tensors {
        let (mut all, hidden) = (Tensors::default(), self.hidden);
        for (table, rows) in [("word", self.vocab), ("position", self.positions), ("token_type", 2)] {
            all.weights(format!("embeddings.{table}_embeddings.weight"), &[rows, hidden]);
        }
        all.norm("embeddings.LayerNorm", hidden);
        for i in 0..self.layers {
            let at = |part: &str| format!("encoder.layer.{i}.{part}");
            for part in ["query", "key", "value"] {
                all.linear(&at(&format!("attention.self.{part}")), &[hidden, hidden], true);
            }
            all.linear(&at("attention.output.dense"), &[hidden, hidden], true);
            all.norm(&at("attention.output.LayerNorm"), hidden);
            all.linear(&at("intermediate.dense"), &[self.ff, hidden], true);
            all.linear(&at("output.dense"), &[hidden, self.ff], true);
            all.norm(&at("output.LayerNorm"), hidden);
        }
        all
    }

    fn config(&self) -> Value {
        json!({
            "model_type": "bert", "architectures": ["BertModel"], "vocab_size": self.vocab,
            "hidden_size": self.hidden, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "intermediate_size": self.ff, "max_position_embeddings": self.positions, "type_vocab_size": 2,
            "layer_norm_eps": 1e-12, "hidden_act": "gelu"
        })
    }

    fn tokenizer(&self) -> Value {
        let named = |id: usize| SPECIAL.iter().find(|(_, at)| *at == id).map(|(name, _)| (*name).to_owned());
        let vocab: Map<String, Value> =
            (0..self.vocab).map(|id| (named(id).unwrap_or_else(|| word(id)), id.into())).collect();
        let added: Vec<Value> = SPECIAL.iter().map(|(name, id)| folder::special(*id, name)).collect();
        let frame = |name: &str, id: usize| json!({"id": name, "ids": [id], "tokens": [name]});
        let token = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {
                "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [token("[CLS]"), text, token("[SEP]")],
                "pair": [
                    token("[CLS]"), text, token("[SEP]"),
                    {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}
                ],
                "special_tokens": {"[CLS]": frame("[CLS]", 101), "[SEP]": frame("[SEP]", 102)}
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocab
            }
        })
    }
}

/// Writes the model into `path`, a folder that is made; the same bytes for the same seed.
pub fn write(shape: &Shape, path: &Path, seed: u64) -> Result<(), Error> {
    let module = |at: usize, path: &str, kind: &str| {
        json!({"idx": at, "name": at.to_string(), "path": path,
               "type": format!("sentence_transformers.models.{kind}")})
    };
    let modules = [module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling")];
    let pooling = json!({"pooling_mode_cls_token": shape.first, "pooling_mode_mean_tokens": !shape.first});
    let files = [
        ("config.json", shape.config()),
        ("tokenizer.json", shape.tokenizer()),
        ("modules.json", json!(modules)),
        ("1_Pooling/config.json", pooling),
    ];
    folder::write(path, &shape.tensors(), &files, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_real_models() {
        // Millions of weights, without the pooler, which nothing here reads.
        for (shape, millions) in [(MXBAI_LARGE, 334), (MINI_LM, 22)] {
            assert_eq!(shape.bytes() / 2_000_000, millions, "{}", shape.name);
        }
    }

    #[test]
    fn words_are_words() {
        assert_eq!([0, 25, 26, 27].map(word), ["a", "z", "ba", "bb"]);
        let mut all: Vec<String> = words().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), TINY.vocab - 104);
    }
}
