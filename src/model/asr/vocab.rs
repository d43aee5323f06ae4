//! Whisper's vocabulary: text to tokens and back, and the ids of its special tokens.
//!
//! Ids are looked up by content, never by number: they differ between the English-only and the multilingual
//! vocabularies and again from large-v3 on (openai/whisper `tokenizer.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

/// Ids believed at most; real vocabularies have about 52,000.
const MAX_VOCAB: u32 = 1 << 20;

/// Symbols whose tokens are not spoken (openai/whisper `non_speech_tokens`).
const SYMBOLS: &str = "\" # ( ) * + / : ; < = > @ [ \\ ] ^ _ ` { | } ~ 「 」 『 』 << >> <<< >>> -- --- -( -[ (' (\" \
                       (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪";
/// Signs that may take several tokens; suppressing the first is safe, no spoken text starts with it.
const SIGNS: &str = "♩ ♪ ♫ ♬ ♭ ♮ ♯";

/// Why a vocabulary cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{file}: cannot be read: {reason}: copy the tokenizer.json of the original model there")]
    Tokenizer { file: PathBuf, reason: String },
    #[error("{file}: has no token {token}: this is not the vocabulary of a Whisper model")]
    Missing { file: PathBuf, token: &'static str },
    #[error("{file}: {reason}: take the file of the original model")]
    Config { file: PathBuf, reason: String },
}

/// The tokens with a meaning of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Special {
    /// `<|endoftext|>`; text tokens are below it.
    pub eot: u32,
    /// `<|startoftranscript|>`
    pub sot: u32,
    pub translate: u32,
    pub transcribe: u32,
    /// `<|startofprev|>`: what follows is context.
    pub sot_prev: u32,
    /// `<|nospeech|>`, in older vocabularies `<|nocaptions|>`.
    pub no_speech: u32,
    pub no_timestamps: u32,
    /// `<|0.00|>`; each id after it is 20 ms more.
    pub timestamp_begin: u32,
}

/// A tokenizer with what decoding must know.
pub struct Vocab {
    tokenizer: Tokenizer,
    special: Special,
    /// Language tokens by ISO code; empty for English-only models.
    languages: BTreeMap<String, u32>,
    /// Never sampled.
    suppress: Vec<u32>,
    /// Not sampled as the first token.
    suppress_begin: Vec<u32>,
}

impl Vocab {
    /// Reads `tokenizer.json`, and the suppressed tokens from CTranslate2's `config.json` or Hugging Face's
    /// `generation_config.json` if either lists them; otherwise they are derived as the reference does.
    pub fn load(folder: &Path) -> Result<Vocab, Error> {
        let file = folder.join("tokenizer.json");
        let mut tokenizer = Tokenizer::from_file(&file)
            .map_err(|e| Error::Tokenizer { file: file.clone(), reason: e.to_string() })?;
        tokenizer.set_encode_special_tokens(true);
        whole_words(&mut tokenizer);
        let special = special(&tokenizer, &file)?;
        let languages = languages(&tokenizer, &special);
        let mut vocab =
            Vocab { tokenizer, special, languages, suppress: Vec::new(), suppress_begin: Vec::new() };
        let ct2 = suppressed(&folder.join("config.json"), ["suppress_ids", "suppress_ids_begin"])?;
        let hf =
            suppressed(&folder.join("generation_config.json"), ["suppress_tokens", "begin_suppress_tokens"])?;
        let [always, begin] = ct2.or(hf).unwrap_or_default();
        vocab.suppress = if always.is_empty() { vocab.non_speech() } else { always };
        vocab.suppress_begin = if begin.is_empty() { vocab.blank() } else { begin };
        vocab.suppress.extend(vocab.steering());
        vocab.suppress.sort_unstable();
        vocab.suppress.dedup();
        Ok(vocab)
    }

    /// Ids of the special tokens.
    pub fn special(&self) -> &Special {
        &self.special
    }

    /// Whether the model knows languages besides English.
    pub fn is_multilingual(&self) -> bool {
        !self.languages.is_empty()
    }

    /// Language tokens by ISO code; empty for English-only models.
    pub fn languages(&self) -> &BTreeMap<String, u32> {
        &self.languages
    }

    /// Tokens never sampled, ascending.
    pub fn suppress(&self) -> &[u32] {
        &self.suppress
    }

    /// Tokens not sampled first in a window.
    pub fn suppress_begin(&self) -> &[u32] {
        &self.suppress_begin
    }

    /// Tokens of plain text; special tokens written out in it are text like any other.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        match self.tokenizer.encode(text, false) {
            Ok(encoding) => encoding.get_ids().to_vec(),
            Err(_) => Vec::new(),
        }
    }

    /// Text of tokens; special tokens and timestamps are left out, broken UTF-8 becomes U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let text: Vec<u32> = tokens.iter().copied().filter(|&t| t < self.special.eot).collect();
        self.tokenizer.decode(&text, false).unwrap_or_default()
    }

    /// Tokens that steer the network and are never text.
    pub fn steering(&self) -> Vec<u32> {
        let s = &self.special;
        let known = [s.transcribe, s.translate, s.sot, s.sot_prev, s.no_speech];
        known.into_iter().chain(self.tokenizer.token_to_id("<|startoflm|>")).collect()
    }

    /// The bytes of a token of text, which alone need not be UTF-8; none for one that is no text.
    pub fn bytes(&self, token: u32) -> Vec<u8> {
        let symbols =
            self.tokenizer.id_to_token(token).filter(|_| token < self.special.eot).unwrap_or_default();
        symbols.chars().filter_map(byte).collect()
    }

    fn non_speech(&self) -> Vec<u32> {
        let mut tokens: Vec<u32> =
            [" -", " '"].iter().filter_map(|s| self.encode(s).first().copied()).collect();
        for (list, first_of_many) in [(SYMBOLS, false), (SIGNS, true)] {
            for symbol in list.split_whitespace() {
                for text in [symbol.to_owned(), format!(" {symbol}")] {
                    let ids = self.encode(&text);
                    if ids.len() == 1 || first_of_many {
                        tokens.extend(ids.first());
                    }
                }
            }
        }
        tokens
    }

    fn blank(&self) -> Vec<u32> {
        let mut tokens = self.encode(" ");
        tokens.push(self.special.eot);
        tokens
    }
}

/// The byte that a symbol of a byte-level vocabulary stands for (GPT-2's `bytes_to_unicode`): printable bytes of
/// Latin-1 are themselves, the others follow from U+0100 on in their order.
fn byte(symbol: char) -> Option<u8> {
    let is_printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(symbol) {
        code @ 0..=0xff => u8::try_from(code).ok(),
        code => (0..=u8::MAX).filter(|&b| !is_printable(b)).nth(usize::try_from(code - 0x100).ok()?),
    }
}

/// Takes what stands between spaces for one token where the vocabulary has it, as openai/whisper's tokenizer does. The
/// multilingual files of Hugging Face lack the merge of a space and `t`: by merges alone ` the` would be two tokens that
/// the network never writes.
fn whole_words(tokenizer: &mut Tokenizer) {
    if let ModelWrapper::BPE(merges) = tokenizer.get_model() {
        let mut words = merges.clone();
        words.ignore_merges = true;
        tokenizer.with_model(words);
    }
}

fn special(tokenizer: &Tokenizer, file: &Path) -> Result<Special, Error> {
    let id = |token: &'static str| {
        tokenizer
            .token_to_id(token)
            .filter(|&id| id < MAX_VOCAB)
            .ok_or_else(|| Error::Missing { file: file.to_path_buf(), token })
    };
    let no_timestamps = id("<|notimestamps|>")?;
    Ok(Special {
        eot: id("<|endoftext|>")?,
        sot: id("<|startoftranscript|>")?,
        translate: id("<|translate|>")?,
        transcribe: id("<|transcribe|>")?,
        sot_prev: id("<|startofprev|>")?,
        no_speech: id("<|nospeech|>").or_else(|_| id("<|nocaptions|>"))?,
        no_timestamps,
        timestamp_begin: no_timestamps + 1,
    })
}

/// Language tokens lie between `<|startoftranscript|>` and the tasks. English-only vocabularies list them too;
/// what tells them apart is that the multilingual one holds the empty string as its last text token.
fn languages(tokenizer: &Tokenizer, special: &Special) -> BTreeMap<String, u32> {
    let tasks = special.translate.min(special.transcribe);
    if tokenizer.token_to_id("").is_none() {
        return BTreeMap::new();
    }
    (special.sot + 1..tasks)
        .filter_map(|id| {
            let token = tokenizer.id_to_token(id)?;
            let code = token.strip_prefix("<|")?.strip_suffix("|>")?;
            let plausible = (2..=3).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase());
            plausible.then(|| (code.to_owned(), id))
        })
        .collect()
}

/// The two lists of a JSON file; `None` if the file is absent or holds neither.
fn suppressed(file: &Path, keys: [&str; 2]) -> Result<Option<[Vec<u32>; 2]>, Error> {
    let fail = |reason: String| Error::Config { file: file.to_path_buf(), reason };
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(format!("cannot be read: {e}"))),
    };
    let json: Value = serde_json::from_slice(&bytes).map_err(|e| fail(format!("is not JSON: {e}")))?;
    let list = |key: &str| -> Result<Vec<u32>, Error> {
        let Some(values) = json.get(key).filter(|v| !v.is_null()) else { return Ok(Vec::new()) };
        let values = values.as_array().ok_or_else(|| fail(format!("{key} is not a list")))?;
        let mut ids = Vec::new();
        for value in values {
            match value.as_i64() {
                Some(-1) => {}
                Some(id) if (0..i64::from(MAX_VOCAB)).contains(&id) => ids.push(id as u32),
                _ => return Err(fail(format!("{key} holds {value}, which is no token id"))),
            }
        }
        Ok(ids)
    };
    let lists = [list(keys[0])?, list(keys[1])?];
    Ok(lists.iter().any(|l| !l.is_empty()).then_some(lists))
}
