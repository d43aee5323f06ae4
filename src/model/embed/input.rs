//! Text to token ids, framed by the model's special tokens and cut to its length.
//!
//! Holds nothing of the device: one tokenizer serves any number of threads.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

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
        let tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::Tokenizer { path: path.clone(), message: e.to_string() })?;
        Self::new(path, tokenizer, max_tokens, vocabulary)
    }

    /// Takes a tokenizer over that came from the file `path`; otherwise as [`load`](Self::load).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(super) fn new(
        path: PathBuf,
        mut tokenizer: Tokenizer,
        max_tokens: usize,
        vocabulary: usize,
    ) -> Result<Self, Error> {
        let broken = |message: String| Error::Tokenizer { path: path.clone(), message };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| broken(e.to_string()))?;
        let (prefix, suffix) = frame_of(&tokenizer).map_err(&broken)?;
        if prefix.len() + suffix.len() >= max_tokens {
            return Err(broken(format!("its special tokens fill the {max_tokens} tokens of a row")));
        }
        let tokens = tokenizer.get_vocab_size(true);
        if tokens > vocabulary {
            return Err(broken(format!("has {tokens} tokens, the model has vectors for {vocabulary}")));
        }
        let splits_at_space = tokenizer.get_pre_tokenizer().is_some_and(splits_at_space);
        Ok(EmbedTokenizer { path, tokenizer, prefix, suffix, max_tokens, vocabulary, splits_at_space })
    }

    /// The ids of `text` between the special tokens, cut to the model's length. Special tokens written out in the
    /// text count as such, as in the reference implementation.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.framed(&self.bare(text, self.room())?))
    }

    /// As [`encode`](Self::encode), of a text that may not be cut.
    ///
    /// # Errors
    /// Also a text that is longer.
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.framed_whole(&self.bare(text, self.room())?)
    }

    /// The ids of `text` without special tokens: all of them, or more than `limit`.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub(in crate::model) fn bare(&self, text: &str, limit: usize) -> Result<Vec<u32>, Error> {
        let tokens = |text: &str| {
            let encoded = self.tokenizer.encode_fast(text, false);
            let refused = |e: tokenizers::Error| self.broken(e.to_string());
            encoded.map(|e| e.get_ids().to_vec()).map_err(refused)
        };
        if !self.splits_at_space || text.len() <= 2 * PIECE {
            return tokens(text);
        }
        // What lies far behind the cut is never looked at, however long the text is.
        let (mut ids, mut rest) = (Vec::new(), text);
        while ids.len() <= limit && !rest.is_empty() {
            let end = rest.as_bytes().iter().skip(PIECE).position(u8::is_ascii_whitespace);
            let (piece, tail) = rest.split_at(end.map_or(rest.len(), |at| PIECE + at));
            ids.extend(tokens(piece)?);
            rest = tail;
        }
        Ok(ids)
    }

    /// How many tokens a text is with the special tokens around it, however long it is. One that the tokenizer refuses
    /// has none.
    pub fn count(&self, text: &str) -> usize {
        let Ok(encoding) = self.tokenizer.encode_fast(text, false) else { return 0 };
        self.prefix.len() + encoding.get_ids().len() + self.suffix.len()
    }

    /// Token ids framed and cut like a text's. Ids that a tokenizer has framed already are not framed twice.
    ///
    /// # Errors
    /// An id that the model has no vector for.
    pub fn frame(&self, ids: &[u32]) -> Result<Vec<u32>, Error> {
        Ok(self.framed(self.unframed(ids)?))
    }

    /// As [`frame`](Self::frame), of ids that may not be cut.
    ///
    /// # Errors
    /// Also more ids than fit.
    pub fn frame_whole(&self, ids: &[u32]) -> Result<Vec<u32>, Error> {
        self.framed_whole(self.unframed(ids)?)
    }

    /// Ids within the vocabulary, without a frame that they have.
    fn unframed<'i>(&self, ids: &'i [u32]) -> Result<&'i [u32], Error> {
        match ids.iter().position(|&id| id as usize >= self.vocabulary) {
            None => {
                let bare = ids.strip_prefix(&*self.prefix).and_then(|i| i.strip_suffix(&*self.suffix));
                Ok(bare.unwrap_or(ids))
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

    /// An error about the tokenizer's file, or about what it was given.
    pub(in crate::model) fn broken(&self, message: String) -> Error {
        Error::Tokenizer { path: self.path.clone(), message }
    }

    /// The tokenizer itself.
    pub(in crate::model) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens that a row has room for besides the special ones.
    fn room(&self) -> usize {
        self.max_tokens - self.prefix.len() - self.suffix.len()
    }

    fn framed(&self, ids: &[u32]) -> Vec<u32> {
        [&self.prefix, &ids[..ids.len().min(self.room())], &self.suffix].concat()
    }

    fn framed_whole(&self, ids: &[u32]) -> Result<Vec<u32>, Error> {
        match ids.len() > self.room() {
            true => Err(Error::Cut { limit: self.max_tokens }),
            false => Ok(self.framed(ids)),
        }
    }
}

/// Whether tokens never span ASCII white space.
fn splits_at_space(splitter: &PreTokenizerWrapper) -> bool {
    match splitter {
        PreTokenizerWrapper::BertPreTokenizer(_) | PreTokenizerWrapper::WhitespaceSplit(_) => true,
        PreTokenizerWrapper::Sequence(steps) => steps.as_ref().first().is_some_and(splits_at_space),
        _ => false,
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
    fn what_is_too_long_is_cut_or_refused() {
        let (tokenizer, limit) = (tiny(), 16);
        let ids = std::iter::repeat_n(1, limit + 1).collect::<Vec<u32>>();
        assert_eq!(tokenizer.frame(&ids).unwrap(), ids[..limit]);
        assert_eq!(tokenizer.frame_whole(&ids[..limit]).unwrap(), ids[..limit]);
        let error = tokenizer.frame_whole(&ids).unwrap_err();
        assert!(matches!(error, Error::Cut { limit: 16 }), "{error}");
        assert_eq!(tokenizer.encode_whole("b").unwrap(), [2]);
    }

    #[test]
    fn a_tokenizer_without_special_tokens_frames_nothing() {
        assert_eq!(tiny().encode("a").unwrap(), [1]);
        assert_eq!(tiny().frame(&[2, 1]).unwrap(), [2, 1]);
        assert!(tiny().frame(&[9]).is_err());
    }
}
