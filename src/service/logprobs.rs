//! Log-probabilities of an answer's tokens on their way out: none leaves before its text is known to be part of the
//! answer, and none after it.

use std::collections::VecDeque;

use crate::model::llm::logprobs::Logprobs;
use crate::text::Tokenizer;
use crate::types::llm::{Scored, TokenLogprobs};

/// Tokens whose text has not come out of the search for stop strings.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Each with where its text begins, in bytes of the answer.
    tokens: VecDeque<(usize, TokenLogprobs)>,
    /// Bytes and characters of text that tokens gave, stop strings included.
    bytes: usize,
    characters: u32,
    /// Bytes that came out.
    shown: usize,
}

impl Waiting {
    /// A token came, and its scores where they were asked for; `text` is what its bytes completed.
    pub fn token(&mut self, tokenizer: &Tokenizer, token: u32, scores: Option<&Logprobs>, text: &str) {
        if let Some(scores) = scores {
            let top = scores.top.iter().map(|&(token, logprob)| scored(tokenizer, token, logprob)).collect();
            let chosen = scored(tokenizer, token, scores.chosen);
            self.tokens.push_back((self.bytes, TokenLogprobs { chosen, top, offset: self.characters }));
        }
        self.text(text);
    }

    /// Text came that is no token's.
    pub fn text(&mut self, text: &str) {
        self.bytes += text.len();
        self.characters = self.characters.saturating_add(text.chars().count() as u32);
    }

    /// So much text came out: gives the tokens that it begins, or goes on, with.
    pub fn show(&mut self, text: &str) -> Vec<TokenLogprobs> {
        self.shown += text.len();
        let count = self.tokens.partition_point(|(begin, _)| *begin < self.shown);
        self.tokens.drain(..count).map(|(_, token)| token).collect()
    }

    /// The answer has ended by itself: gives the tokens that are left, which have no text of their own.
    pub fn finish(&mut self) -> Vec<TokenLogprobs> {
        self.tokens.drain(..).map(|(_, token)| token).collect()
    }
}

/// A control token has its name and no bytes.
fn scored(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Scored {
    let bytes = tokenizer.piece(id);
    let token = if bytes.is_empty() { tokenizer.token_text(id).unwrap_or_default() } else { name(bytes) };
    Scored { token, bytes: bytes.to_vec(), logprob }
}

/// A token's text. One that is not whole characters is named by its bytes, as OpenAI's are: `bytes:\xf0\x9f`.
pub(super) fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |name, byte| format!("{name}\\x{byte:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Detokenizer, Family, Lead, StopMatcher, TokenizerSpec};

    const TOKENS: [&str; 7] = ["<end>", "a", "b", "<0xC3>", "<0xA9>", "abé", "<mark>"];

    fn tokenizer() -> Tokenizer {
        let kinds = [3, 1, 1, 6, 6, 1, 3];
        let spec =
            TokenizerSpec { tokens: TOKENS.to_vec(), kinds: &kinds, ..TokenizerSpec::empty(Family::Spm) };
        Tokenizer::new(&spec).unwrap()
    }

    /// The pieces of an answer of these tokens: the text that is shown, and the tokens that leave with it.
    fn pieces(stop: &str, tokens: &[u32]) -> Vec<(String, Vec<(String, u32)>)> {
        let tokenizer = tokenizer();
        let mut detokenizer = Detokenizer::new(&tokenizer, Lead::Keep);
        let (mut stop, mut waiting) = (StopMatcher::new(&[stop]), Waiting::default());
        let named = |left: Vec<TokenLogprobs>| {
            left.into_iter().map(|t| (t.chosen.token, t.offset)).collect::<Vec<_>>()
        };
        let mut all = Vec::new();
        for &token in tokens {
            let text = detokenizer.push(&tokenizer, token).unwrap_or_default();
            waiting.token(&tokenizer, token, Some(&Logprobs { chosen: -1.0, top: Vec::new() }), text);
            let (shown, stopped) = stop.push(text);
            let left = named(waiting.show(&shown));
            assert!(left.is_empty() || !shown.is_empty(), "a token left before its text");
            all.push((shown, left));
            if stopped {
                return all;
            }
        }
        let tail = detokenizer.finish().unwrap_or_default();
        waiting.text(tail);
        let shown = [stop.push(tail).0, stop.finish()].concat();
        let mut left = named(waiting.show(&shown));
        left.extend(named(waiting.finish()));
        all.push((shown, left));
        all
    }

    fn piece(shown: &str, left: &[(&str, u32)]) -> (String, Vec<(String, u32)>) {
        (shown.to_owned(), left.iter().map(|(name, offset)| ((*name).to_owned(), *offset)).collect())
    }

    #[test]
    fn parts_of_a_character_leave_together_with_it() {
        let nothing = piece("", &[]);
        assert_eq!(
            pieces("", &[1, 3, 4, 2]),
            [
                piece("a", &[("a", 0)]),
                nothing.clone(),
                piece("é", &[("bytes:\\xc3", 1), ("bytes:\\xa9", 1)]),
                piece("b", &[("b", 2)]),
                nothing,
            ]
        );
        // One that is never completed is shown as a sign for it.
        assert_eq!(pieces("", &[3])[1], piece("\u{fffd}", &[("bytes:\\xc3", 0)]));
    }

    #[test]
    fn tokens_of_a_stop_string_never_leave() {
        // What was held back and is no stop string leaves with the text that shows it.
        let held = pieces("aab", &[1, 1, 1, 2]);
        assert_eq!(held[..3], [piece("", &[]), piece("", &[]), piece("a", &[("a", 0)])]);
        assert_eq!(held[3], piece("", &[]));
        assert_eq!(held.len(), 4);
        // A token whose beginning is shown is a part of the answer.
        assert_eq!(pieces("é", &[1, 5]), [piece("a", &[("a", 0)]), piece("ab", &[("abé", 1)])]);
        // Without the stop string all of it is shown in the end.
        assert_eq!(pieces("aab", &[1, 1])[2], piece("aa", &[("a", 0), ("a", 1)]));
    }

    #[test]
    fn control_tokens_have_a_name_and_no_bytes() {
        assert_eq!(pieces("", &[1, 6])[2], piece("", &[("<mark>", 1)]));
        let mark = scored(&tokenizer(), 6, -2.0);
        assert_eq!(mark, Scored { token: "<mark>".into(), bytes: Vec::new(), logprob: -2.0 });
        assert_eq!(scored(&tokenizer(), 3, -2.0).bytes, [0xc3]);
    }
}
