//! Words that are in every text of a language, which tell a search nothing: in a small collection few texts have a given
//! one by chance, and BM25 would take it for rare.

use std::sync::OnceLock;

use tantivy::tokenizer::{Language, LowerCaser, StopWordFilter, TextAnalyzer};

use super::tokens::{Words, language};
use crate::types::store::Stemming;

/// Languages whose words are known, as Lucene and Snowball list them; of those that fit alike the first is taken.
const KNOWN: [Language; 13] = [
    Language::English,
    Language::German,
    Language::French,
    Language::Spanish,
    Language::Italian,
    Language::Portuguese,
    Language::Dutch,
    Language::Russian,
    Language::Swedish,
    Language::Danish,
    Language::Norwegian,
    Language::Finnish,
    Language::Hungarian,
];

fn analyzer(language: Language) -> Option<TextAnalyzer> {
    let filter = StopWordFilter::new(language)?;
    Some(TextAnalyzer::builder(Words).filter(LowerCaser).filter(filter).build())
}

fn known() -> &'static [TextAnalyzer] {
    static ANALYZERS: OnceLock<Vec<TextAnalyzer>> = OnceLock::new();
    ANALYZERS.get_or_init(|| KNOWN.into_iter().filter_map(analyzer).collect())
}

fn words(mut analyzer: TextAnalyzer, text: &str) -> Vec<String> {
    let (mut stream, mut words) = (analyzer.token_stream(text), Vec::new());
    while stream.advance() {
        words.push(stream.token().text.clone());
    }
    words
}

/// A question without such words of the collection's language or, where it has none, of the language that most of the
/// question's words are of. One that has no others stays as it is.
pub fn telling(stemming: Stemming, question: &str) -> String {
    let left = match language(stemming) {
        Some(language) => analyzer(language).map(|analyzer| words(analyzer, question)),
        None => known().iter().map(|analyzer| words(analyzer.clone(), question)).min_by_key(Vec::len),
    };
    match left {
        Some(left) if !left.is_empty() => left.join(" "),
        _ => question.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_that_tell_something_are_left() {
        for (question, want) in [
            ("What is in the box of the king?", "what box king"),
            ("Wie wird das Paket auf dem Server installiert?", "paket server installiert"),
            ("To be, or not to be", "To be, or not to be"),
            ("--no-commit", "commit"),
            ("GPL", "gpl"),
            ("", ""),
        ] {
            assert_eq!(telling(Stemming::None, question), want, "{question}");
        }
        assert_eq!(telling(Stemming::English, "the die is cast"), "die cast");
        assert_eq!(telling(Stemming::German, "the die is cast"), "the is cast");
        // No list is known.
        assert_eq!(telling(Stemming::Greek, "the die"), "the die");
    }
}
