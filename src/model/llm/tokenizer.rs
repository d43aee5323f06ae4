//! Builds the tokenizer and the chat template that a GGUF file carries.
//!
//! Keys: `tokenizer.*` in ggml's `docs/gguf.md`.

use crate::model::weights;
use crate::model::weights::gguf::{Field, Gguf};
use crate::text::{self, ChatTemplate, Family, Tokenizer, TokenizerSpec};

/// Why a file's tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// A `tokenizer.json`, which the message names.
    #[error(transparent)]
    Json(text::Error),
    #[error("{path}: {source}")]
    Text {
        path: String,
        #[source]
        source: text::Error,
    },
}

/// Keys whose values are as large as the vocabulary: [`forget`](Gguf::forget) them once the tokenizer is built.
pub const LARGE_KEYS: [&str; 4] =
    ["tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"];

/// The file's tokenizer.
pub fn tokenizer(gguf: &Gguf) -> Result<Tokenizer, Error> {
    build(gguf, |_| {})
}

/// The tokenizer of a spec that `change` may alter before it is built.
fn build<'g>(gguf: &'g Gguf, change: impl FnOnce(&mut TokenizerSpec<'g>)) -> Result<Tokenizer, Error> {
    let meta = |key: &'static str| gguf.meta(key);
    let family = match meta("tokenizer.ggml.model").str()? {
        "gpt2" => Family::Bpe,
        "llama" => Family::Spm,
        other => {
            let problem = format!("tokenizer {other:?} is not supported; gpt2 (BPE) and llama (SPM) are");
            return Err(weights::Error::unsupported(
                gguf.path(),
                "metadata field tokenizer.ggml.model",
                problem,
            )
            .into());
        }
    };
    // Some converters write -1 for a token that the model does not have.
    let id = |key: &'static str| -> Result<Option<u32>, Error> {
        let missing = matches!(meta(key).value(), Some(weights::gguf::Value::I32(-1)));
        Ok(if missing { None } else { meta(key).opt(Field::u32)? })
    };
    let bpe = family == Family::Bpe;
    let mut spec = TokenizerSpec {
        family,
        tokens: meta("tokenizer.ggml.tokens").strs()?.iter().collect(),
        kinds: meta("tokenizer.ggml.token_type").opt(Field::i32s)?.unwrap_or_default(),
        scores: meta("tokenizer.ggml.scores").opt(Field::f32s)?.unwrap_or_default(),
        merges: if bpe { meta("tokenizer.ggml.merges").strs()?.iter().collect() } else { Vec::new() },
        pre: meta("tokenizer.ggml.pre").opt(Field::str)?,
        bos: id("tokenizer.ggml.bos_token_id")?,
        eos: id("tokenizer.ggml.eos_token_id")?,
        eot: id("tokenizer.ggml.eot_token_id")?,
        unknown: id("tokenizer.ggml.unknown_token_id")?,
        add_bos: meta("tokenizer.ggml.add_bos_token").opt(Field::bool)?,
        add_eos: meta("tokenizer.ggml.add_eos_token").opt(Field::bool)?,
        add_space_prefix: meta("tokenizer.ggml.add_space_prefix").opt(Field::bool)?,
    };
    change(&mut spec);
    Tokenizer::new(&spec).map_err(|source| text_error(gguf, source))
}

/// The file's chat template, or ChatML where it has none.
pub fn chat_template(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<ChatTemplate, Error> {
    let source = gguf.meta("tokenizer.chat_template").opt(Field::str)?;
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or_default();
    ChatTemplate::new(source, &token(tokenizer.bos()), &token(tokenizer.eos()))
        .map_err(|source| text_error(gguf, source))
}

fn text_error(gguf: &Gguf, source: text::Error) -> Error {
    Error::Text { path: gguf.path().display().to_string(), source }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
