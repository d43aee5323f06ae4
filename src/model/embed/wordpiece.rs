//! The tokenizer of a GGUF file whose `tokenizer.ggml.model` is `bert`: WordPiece (Wu et al., 2016).
//!
//! | key | content |
//! |---|---|
//! | `tokenizer.ggml.tokens` | by id: a word's beginning has `▁` before it, where BERT's own files have nothing; what goes on with a word has nothing, where those have `##`; special tokens are in brackets |
//! | `tokenizer.ggml.bos_token_id`, or in older files `cls_token_id` | the token before a text; `[CLS]` if absent |
//! | `tokenizer.ggml.seperator_token_id` (spelled so) | the token behind it; `[SEP]` if absent |
//! | `tokenizer.ggml.unknown_token_id` | what stands for unknown words; `[UNK]` if absent |
//!
//! The file does not tell whether texts are lower-cased. They are, and accents dropped, as BERT's uncased models do,
//! unless its vocabulary has words with capitals.

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::Error;
use crate::model::weights::Error as WeightsError;
use crate::model::weights::gguf::{Field, Gguf, StrArray};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
/// Before what begins a word.
const BEGIN: char = '\u{2581}';
/// The longest word that is looked up, in characters: BERT's limit.
const MAX_WORD: usize = 100;
/// Tokens that count as such where a text spells them.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Builds the file's tokenizer.
///
/// # Errors
/// Another kind of vocabulary, or one without the tokens that frame a text.
pub(super) fn tokenizer(gguf: &Gguf) -> Result<Tokenizer, Error> {
    let model = gguf.meta(MODEL).str()?;
    if model != "bert" {
        let problem = format!("{model:?} is not supported for embedding models; bert is");
        return Err(WeightsError::unsupported(gguf.path(), format!("metadata field {MODEL}"), problem).into());
    }
    let tokens = gguf.meta(TOKENS).strs()?;
    let special = |keys: &[&str], name: &str| named(gguf, tokens, keys, name);
    let cls = special(&["tokenizer.ggml.bos_token_id", "tokenizer.ggml.cls_token_id"], "[CLS]")?;
    let sep = special(&["tokenizer.ggml.seperator_token_id"], "[SEP]")?;
    let unknown = special(&["tokenizer.ggml.unknown_token_id"], "[UNK]")?;
    let mut vocabulary = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        vocabulary.entry(spelled(token)).or_insert(id.into());
    }
    let capitals = |token: &str| !in_brackets(token) && token.chars().any(char::is_uppercase);
    let lower = !tokens.iter().any(capitals);
    let added = SPECIAL.iter().filter_map(|&name| {
        let id = vocabulary.get(name)?;
        Some(json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}))
    });
    let description = json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": Value::Null, "lowercase": lower},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "cls": [cls.1, cls.0], "sep": [sep.1, sep.0]},
        "model": {"type": "WordPiece", "unk_token": unknown.1, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": MAX_WORD, "vocab": vocabulary},
    });
    Tokenizer::from_bytes(description.to_string())
        .map_err(|e| Error::Tokenizer { path: gguf.path().to_owned(), message: e.to_string() })
}

/// The id that the first of `keys` in the file tells, else that of the token `name`; and its spelling.
fn named(gguf: &Gguf, tokens: &StrArray, keys: &[&str], name: &str) -> Result<(u32, String), Error> {
    let missing = || WeightsError::Missing {
        path: gguf.path().to_owned(),
        field: format!("token {name} of metadata field {TOKENS}"),
    };
    for key in keys {
        if let Some(id) = gguf.meta(key).opt(Field::u32)? {
            let Some(token) = tokens.get(id as usize) else {
                let problem = format!("{id} is no token of the {} there are", tokens.len());
                return Err(WeightsError::malformed(gguf.path(), *key, problem).into());
            };
            return Ok((id, spelled(token)));
        }
    }
    let at = tokens.iter().position(|token| token == name).ok_or_else(missing)?;
    Ok((u32::try_from(at).map_err(|_| missing())?, name.to_owned()))
}

fn in_brackets(token: &str) -> bool {
    token.starts_with('[') && token.ends_with(']') && token.len() > 2
}

/// A token as BERT's own files spell it.
fn spelled(token: &str) -> String {
    match token.strip_prefix(BEGIN) {
        Some(word) => word.to_owned(),
        None if in_brackets(token) => token.to_owned(),
        None => format!("##{token}"),
    }
}
