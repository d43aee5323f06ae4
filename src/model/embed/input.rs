//! Text to token ids, framed by the model's special tokens and cut to its length.
//!
//! Holds nothing of the device: one tokenizer serves any number of threads.

use std::path::{Path, PathBuf};

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

use super::Error;
use crate::model::weights::{Error as WeightsError, WeightsFile};

/// The longest tokenizer file read; XLM-RoBERTa's has 17 MB.
const MAX_FILE: u64 = 128 << 20;
/// Bytes of text tokenised at a time, where texts can be cut at white space.
const PIECE: usize = 16 << 10;

/// A model's tokenizer.
pub struct EmbedTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    /// Ids that every row begins with.
    prefix: Vec<u32>,
    /// Ids that every row ends with.
    suffix: Vec<u32>,
    max_tokens: usize,
    vocabulary: usize,
    /// Whether tokens never span ASCII white space, so that a long text can be tokenised piece by piece.
    splits_at_space: bool,
}

impl EmbedTokenizer {
    /// Reads `tokenizer.json` in `dir`. Rows are cut to `max_tokens`, special tokens included, and ids are checked
    /// against the model's `vocabulary`.
    ///
    /// Padding and truncation that the file asks for are off: rows are not padded here, and they are cut as
    /// sentence-transformers cuts them, by dropping tokens at the end of the text and keeping the special tokens
    /// around it.
    ///
    /// # Errors
    /// A file that is missing or broken, special tokens that leave no room, or a tokenizer with more tokens than the
    /// model has vectors for.
    pub fn load(dir: &Path, max_tokens: usize, vocabulary: usize) -> Result<Self, Error> {
        let path = dir.join("tokenizer.json");
        let file = WeightsFile::open(&path)?;
        if file.len() > MAX_FILE {
            return Err(
                WeightsError::malformed(&path, "length", format!("more than {MAX_FILE} bytes")).into()
            );
        }
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(&mut bytes, 0, "content")?;
        let broken = |message: String| Error::Tokenizer { path: path.clone(), message };
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|e| broken(e.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| broken(e.to_string()))?;
        let (prefix, suffix) = frame_of(&tokenizer).map_err(&broken)?;
        if prefix.len() + suffix.len() >= max_tokens {
            return Err(broken(format!("its special tokens fill the {max_tokens} tokens of a row")));
        }
        let cut = TruncationParams {
            max_length: max_tokens,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: TruncationDirection::Right,
        };
        tokenizer.with_truncation(Some(cut)).map_err(|e| broken(e.to_string()))?;
        let tokens = tokenizer.get_vocab_size(true);
        if tokens > vocabulary {
            return Err(broken(format!("has {tokens} tokens, the model has vectors for {vocabulary}")));
        }
        let splits_at_space =
            matches!(tokenizer.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)));
        Ok(EmbedTokenizer { path, tokenizer, prefix, suffix, max_tokens, vocabulary, splits_at_space })
    }

    /// The ids of `text` between the special tokens, cut to the model's length. Special tokens written out in the
    /// text count as such, as in the reference implementation.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let refused =
            |e: tokenizers::Error| Error::Tokenizer { path: self.path.clone(), message: e.to_string() };
        if !self.splits_at_space || text.len() <= 2 * PIECE {
            return Ok(self.tokenizer.encode_fast(text, true).map_err(refused)?.get_ids().to_vec());
        }
        // What lies behind the cut is never looked at, however long the text is.
        let room = self.max_tokens - self.prefix.len() - self.suffix.len();
        let (mut ids, mut rest) = (Vec::new(), text);
        while ids.len() < room && !rest.is_empty() {
            let end = rest.as_bytes().iter().skip(PIECE).position(u8::is_ascii_whitespace);
            let (piece, tail) = rest.split_at(end.map_or(rest.len(), |at| PIECE + at));
            ids.extend_from_slice(self.tokenizer.encode_fast(piece, false).map_err(refused)?.get_ids());
            rest = tail;
        }
        Ok(self.framed(&ids))
    }

    /// How many tokens a text is with the special tokens around it, however long it is. One that the tokenizer refuses
    /// has none.
    pub fn count(&self, text: &str) -> usize {
        let Ok(encoding) = self.tokenizer.encode_fast(text, false) else { return 0 };
        let parts = encoding.get_overflowing().iter().map(|part| part.get_ids().len()).sum::<usize>();
        self.prefix.len() + encoding.get_ids().len() + parts + self.suffix.len()
    }

    /// Token ids framed and cut like a text's. Ids that a tokenizer has framed already are not framed twice.
    ///
    /// # Errors
    /// An id that the model has no vector for.
    pub fn frame(&self, ids: &[u32]) -> Result<Vec<u32>, Error> {
        match ids.iter().position(|&id| id as usize >= self.vocabulary) {
            None => {
                let bare = ids.strip_prefix(&*self.prefix).and_then(|i| i.strip_suffix(&*self.suffix));
                Ok(self.framed(bare.unwrap_or(ids)))
            }
            Some(at) => {
                Err(Error::TokenOutOfRange { id: ids[at], position: at, vocabulary: self.vocabulary })
            }
        }
    }

    /// The longest row, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn framed(&self, ids: &[u32]) -> Vec<u32> {
        let room = self.max_tokens - self.prefix.len() - self.suffix.len();
        [&self.prefix, &ids[..ids.len().min(room)], &self.suffix].concat()
    }
}

/// The special tokens before and after a text.
fn frame_of(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    let ids = |special| {
        tokenizer.encode_fast("a", special).map(|e| e.get_ids().to_vec()).map_err(|e| e.to_string())
    };
    let (bare, framed) = (ids(false)?, ids(true)?);
    let at = framed.windows(bare.len().max(1)).position(|w| w == bare);
    match at {
        Some(at) => Ok((framed[..at].to_vec(), framed[at + bare.len()..].to_vec())),
        None => Err("its special tokens do not stand around the text".to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tokenizer of three words, for tests that need one and never read it.
    pub(crate) fn tiny() -> EmbedTokenizer {
        let json = r#"{"version": "1.0", "added_tokens": [],
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"}}"#;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json).unwrap();
        EmbedTokenizer::load(dir.path(), 16, 8).unwrap()
    }

    #[test]
    fn a_tokenizer_without_special_tokens_frames_nothing() {
        assert_eq!(tiny().encode("a").unwrap(), [1]);
        assert_eq!(tiny().frame(&[2, 1]).unwrap(), [2, 1]);
        assert!(tiny().frame(&[9]).is_err());
    }
}
