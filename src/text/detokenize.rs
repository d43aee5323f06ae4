//! Tokens to text, one at a time, never showing half a character.

use super::Tokenizer;

/// What to do with a space that the tokenizer itself puts before text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// Drop one at the start: the tokens begin a text (an answer, a whole decoded text).
    Strip,
    /// Keep it: the tokens go on where another text ended.
    Keep,
}

/// Decodes one stream of tokens. Bytes that are no UTF-8 become U+FFFD; bytes that may still become a character
/// wait for the next token.
pub struct Detokenizer {
    strip: bool,
    pending: Vec<u8>,
    text: String,
}

impl Detokenizer {
    pub fn new(tokenizer: &Tokenizer, lead: Lead) -> Self {
        let strip = lead == Lead::Strip && tokenizer.adds_space();
        Detokenizer { strip, pending: Vec::new(), text: String::new() }
    }

    /// Takes the next token; gives the whole characters it completes, if any.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Option<&str> {
        let mut piece = tokenizer.piece(id);
        if self.strip && !piece.is_empty() {
            self.strip = false;
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.pending.extend_from_slice(piece);
        self.text.clear();
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            self.text.push_str(chunk.valid());
            used += chunk.valid().len();
            let broken = chunk.invalid();
            if broken.is_empty() || (used + broken.len() == self.pending.len() && may_continue(broken)) {
                break;
            }
            self.text.push(char::REPLACEMENT_CHARACTER);
            used += broken.len();
        }
        self.pending.drain(..used);
        (!self.text.is_empty()).then_some(self.text.as_str())
    }

    /// The stream ended: a character that was begun is shown as U+FFFD.
    pub fn finish(&mut self) -> Option<&'static str> {
        let begun = !self.pending.is_empty();
        self.pending.clear();
        begun.then_some("\u{fffd}")
    }
}

/// Whether bytes that end a text are the beginning of a character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

impl Tokenizer {
    /// Decodes a whole text.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut all = String::new();
        let mut stream = Detokenizer::new(self, Lead::Strip);
        for &id in ids {
            all.push_str(stream.push(self, id).unwrap_or_default());
        }
        all.push_str(stream.finish().unwrap_or_default());
        all
    }

    /// Decodes a whole text, with control tokens as their spelling. Ids that are no tokens give nothing.
    pub fn spell(&self, ids: &[u32]) -> String {
        let mut all = String::new();
        let mut stream = Detokenizer::new(self, Lead::Strip);
        for &id in ids {
            if self.piece(id).is_empty() {
                all.push_str(stream.finish().unwrap_or_default());
                all.push_str(&self.token_text(id).unwrap_or_default());
            } else {
                all.push_str(stream.push(self, id).unwrap_or_default());
            }
        }
        all.push_str(stream.finish().unwrap_or_default());
        all
    }
}
