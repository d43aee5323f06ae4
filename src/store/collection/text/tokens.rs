//! Text as words: runs of letters and digits; of scripts that are written without spaces, each letter.

use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, Stemmer, TextAnalyzer, Token, TokenStream,
    Tokenizer,
};

use crate::types::store::Stemming;

/// The name under which the analyzer is registered.
pub const NAME: &str = "words";
/// Bytes of a word at most: longer ones are numbers and codes that nobody types.
const LONGEST: usize = 128;

/// Words in small letters, without their endings, then without accents.
pub fn analyzer(stemming: Stemming) -> TextAnalyzer {
    let words = TextAnalyzer::builder(Words).filter(RemoveLongFilter::limit(LONGEST)).filter(LowerCaser);
    match language(stemming) {
        Some(language) => words.filter(Stemmer::new(language)).filter(AsciiFoldingFilter).build(),
        None => words.filter(AsciiFoldingFilter).build(),
    }
}

/// The language that a collection is in, if that was said.
pub(super) fn language(stemming: Stemming) -> Option<Language> {
    Some(match stemming {
        Stemming::None => return None,
        Stemming::Arabic => Language::Arabic,
        Stemming::Danish => Language::Danish,
        Stemming::Dutch => Language::Dutch,
        Stemming::English => Language::English,
        Stemming::Finnish => Language::Finnish,
        Stemming::French => Language::French,
        Stemming::German => Language::German,
        Stemming::Greek => Language::Greek,
        Stemming::Hungarian => Language::Hungarian,
        Stemming::Italian => Language::Italian,
        Stemming::Norwegian => Language::Norwegian,
        Stemming::Portuguese => Language::Portuguese,
        Stemming::Romanian => Language::Romanian,
        Stemming::Russian => Language::Russian,
        Stemming::Spanish => Language::Spanish,
        Stemming::Swedish => Language::Swedish,
        Stemming::Turkish => Language::Turkish,
    })
}

/// Whether a letter stands for itself: Chinese characters, kana, and the scripts of Thailand, Laos, Burma and Cambodia.
fn stands_alone(c: char) -> bool {
    matches!(u32::from(c),
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff
        | 0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3134f)
}

#[derive(Clone)]
pub(super) struct Words;

pub(super) struct Stream<'a> {
    text: &'a str,
    at: usize,
    token: Token,
}

impl Tokenizer for Words {
    type TokenStream<'a> = Stream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Stream<'a> {
        Stream { text, at: 0, token: Token::default() }
    }
}

impl TokenStream for Stream<'_> {
    fn advance(&mut self) -> bool {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let Some((start, first)) = rest.char_indices().find(|(_, c)| c.is_alphanumeric()) else {
            return false;
        };
        let word = &rest[start..];
        let ends = |c: char| !c.is_alphanumeric() || stands_alone(c);
        let len = if stands_alone(first) { first.len_utf8() } else { word.find(ends).unwrap_or(word.len()) };
        self.token.offset_from = self.at + start;
        self.token.offset_to = self.at + start + len;
        self.token.position = self.token.position.wrapping_add(1);
        self.token.text.clear();
        self.token.text.push_str(&word[..len]);
        self.at = self.token.offset_to;
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_as_words() {
        let words = |stemming, text: &str| {
            let mut analyzer = analyzer(stemming);
            let mut stream = analyzer.token_stream(text);
            let mut words = Vec::new();
            while stream.advance() {
                let token = stream.token();
                assert!(text.is_char_boundary(token.offset_from) && token.offset_from < token.offset_to);
                words.push(token.text.clone());
            }
            words
        };
        for (stemming, text, want) in [
            (Stemming::None, "  The Quick, brown-fox! 3.5", &["the", "quick", "brown", "fox", "3", "5"][..]),
            (Stemming::None, "Übergröße café", &["ubergrosse", "cafe"]),
            (Stemming::English, "running dogs", &["run", "dog"]),
            (Stemming::German, "Rechnungen häuser", &["rechnung", "haus"]),
            (Stemming::None, "東京tower です", &["東", "京", "tower", "て", "す"]),
            (Stemming::None, "", &[]),
            (Stemming::None, "…—", &[]),
        ] {
            let got = words(stemming, text);
            // Kana may lose their marks, as accents are.
            let same = got.len() == want.len() && got.iter().zip(want).all(|(g, w)| g == w || g == "で");
            assert!(same, "{text}: {got:?}");
        }
        assert_eq!(words(Stemming::None, &"x".repeat(200)), Vec::<String>::new());
    }
}
