//! Chunks by a count of words.

/// Pieces of `words` words, of which each begins with the last `overlap` of the one before; blanks become one.
/// The last piece may be shorter, and has more than what it shares.
pub fn by_words(text: &str, words: usize, overlap: usize) -> Vec<String> {
    let words = words.max(1);
    let step = words - overlap.min(words - 1);
    let all: Vec<&str> = text.split_whitespace().collect();
    let mut pieces = Vec::new();
    let mut start = 0;
    while let Some(rest) = all.get(start..).filter(|rest| !rest.is_empty()) {
        pieces.push(rest.get(..words.min(rest.len())).unwrap_or_default().join(" "));
        if rest.len() <= words {
            break;
        }
        start += step;
    }
    pieces
}
