//! Tokenizers that come as a `tokenizer.json`: WordPiece of the BERT family, Whisper's, and others.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Error;

/// Far above any real one (the largest, of 256,000 tokens, has 33 MB).
const MAX_BYTES: u64 = 128 << 20;

/// A tokenizer built by the `tokenizers` crate.
pub struct HfTokenizer {
    inner: tokenizers::Tokenizer,
    /// Bytes of the longest token, times four for what normalising may take away.
    longest: usize,
}

impl HfTokenizer {
    /// Reads a `tokenizer.json`. Its own truncation and padding are switched off, and special tokens written
    /// out in a text stay text.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bad = |problem: String| Error::Json { path: path.to_owned(), problem };
        let mut inner = tokenizers::Tokenizer::from_bytes(read(path)?).map_err(|e| bad(e.to_string()))?;
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(true);
        let longest = inner.get_vocab(true).keys().map(String::len).max().unwrap_or(1).max(1);
        Ok(HfTokenizer { inner, longest: longest.saturating_mul(4) })
    }

    /// Number of tokens, added ones too.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Tokens of a text; with `frame`, those around it that the model was trained with (`[CLS]`, `[SEP]`).
    /// Only the first `keep_bytes` of the text are looked at, cut between characters, which bounds the time
    /// where the caller truncates anyway.
    pub fn encode(&self, text: &str, frame: bool, keep_bytes: usize) -> Result<Vec<u32>, Error> {
        let text = &text[..text.floor_char_boundary(keep_bytes)];
        let encoding = self.inner.encode_fast(text, frame).map_err(|e| Error::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Like [`encode`](Self::encode), but a text that cannot have `limit` tokens or fewer is refused, most
    /// often before any work is done.
    pub fn encode_bounded(&self, text: &str, frame: bool, limit: usize) -> Result<Vec<u32>, Error> {
        // Runs of space and unknown words vanish into few tokens, so length alone proves little; but a text
        // this long has outgrown any request that a model's context was meant for.
        let at_least = text.len() / self.longest;
        if at_least > limit {
            return Err(Error::TooLong { at_least, limit });
        }
        let ids = self.encode(text, frame, usize::MAX)?;
        if ids.len() > limit {
            return Err(Error::TooLong { at_least: ids.len(), limit });
        }
        Ok(ids)
    }

    /// Text of tokens, special ones left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.inner.decode(ids, true).map_err(|e| Error::Encode(e.to_string()))
    }
}

/// The bytes of a `tokenizer.json`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let bad = |problem: String| Error::Json { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|e| bad(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(bad(format!("larger than {MAX_BYTES} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_in_a_text_stay_text() {
        let Some(home) = std::env::var_os("STENTOR_TEST_MODELS") else {
            println!("skipped: STENTOR_TEST_MODELS is not set");
            return;
        };
        let path = Path::new(&home).join("models/all-minilm-l6-v2/tokenizer.json");
        let tokenizer = HfTokenizer::open(&path).unwrap();
        let (cls, sep) = (tokenizer.id("[CLS]").unwrap(), tokenizer.id("[SEP]").unwrap());
        let ids = tokenizer.encode("hello [SEP] world", true, usize::MAX).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == sep).count(), 1);
        assert_eq!((ids.first(), ids.last()), (Some(&cls), Some(&sep)));
        assert_eq!(
            tokenizer.encode("hello é", false, 7).unwrap(),
            tokenizer.encode("hello", false, 99).unwrap()
        );
        let long = "word ".repeat(2_000_000);
        assert!(matches!(tokenizer.encode_bounded(&long, true, 512), Err(Error::TooLong { .. })));
    }

    #[test]
    fn what_is_no_tokenizer_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"model\": 1}").unwrap();
        let Err(error) = HfTokenizer::open(file.path()) else { panic!("opened") };
        assert!(error.to_string().contains(&file.path().display().to_string()));
    }
}
