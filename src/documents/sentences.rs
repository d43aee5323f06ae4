//! Where sentences end, in the languages of Europe and those that have signs of their own for it.
//!
//! No model: a full stop ends a sentence unless what is around it says otherwise. Where that cannot be told, as after
//! an initial, the sentence goes on, for two sentences in one do less harm than half a one.

mod abbreviations;

use abbreviations::{is_abbreviation, is_article, is_counted, is_counter, is_last_word, is_month};

/// Signs that may end a sentence if a blank follows, and signs that end it at once.
const ENDS: [char; 6] = ['.', '!', '?', '…', '‽', '؟'];
const FIRM: [char; 9] = ['。', '！', '？', '｡', '।', '॥', '۔', '։', '።'];
/// What closes after the end and belongs to it, and what opens before a beginning.
const CLOSING: &str = "\"'“”‘’»›)]}」』）】》〉*_";
const OPENING: &str = "\"'“‘„‚«‹([{「『（【《〈¿¡*_–—-";

/// The sentences of a text, without the blanks between them. Nothing but blanks is left out.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let firm = FIRM.contains(&c);
        let paragraph = c == '\n' && is_empty_line(text.get(at + 1..).unwrap_or_default());
        if !firm && !paragraph && !ENDS.contains(&c) {
            continue;
        }
        let mut end = at + c.len_utf8();
        while let Some((at, more)) =
            chars.next_if(|(_, c)| ENDS.contains(c) || FIRM.contains(c) || CLOSING.contains(*c))
        {
            end = at + more.len_utf8();
        }
        end += spaced_quote(text.get(end..).unwrap_or_default());
        while chars.next_if(|(at, _)| *at < end).is_some() {}
        let (before, after) = (text.get(start..at).unwrap_or_default(), text.get(end..).unwrap_or_default());
        let signs = text.get(at..end).unwrap_or_default();
        if paragraph || firm || ends(before, signs, after) {
            keep(&mut found, text.get(start..end));
            start = end;
        }
    }
    keep(&mut found, text.get(start..));
    found
}

fn keep<'t>(found: &mut Vec<&'t str>, sentence: Option<&'t str>) {
    found.extend(sentence.map(str::trim).filter(|sentence| !sentence.is_empty()));
}

/// The length of a quotation mark as French sets it, with a blank before it and one after it.
fn spaced_quote(text: &str) -> usize {
    let mark = text.trim_start_matches([' ', '\u{a0}', '\u{202f}']);
    let closes =
        mark.strip_prefix('»').is_some_and(|rest| rest.chars().next().is_none_or(char::is_whitespace));
    if closes { text.len() - mark.len() + '»'.len_utf8() } else { 0 }
}

/// Whether a text begins with a line of blanks.
fn is_empty_line(text: &str) -> bool {
    text.trim_start_matches([' ', '\t', '\r']).starts_with('\n')
}

/// Whether a sentence ends with `signs`, between what it has so far and what follows.
fn ends(before: &str, signs: &str, after: &str) -> bool {
    let Some(first) = after.chars().next() else { return true };
    if !first.is_whitespace() {
        // Signs of Chinese and Japanese need no blank, and neither do their sentences.
        return signs != "." && is_wide(first);
    }
    let next = after.trim_start().trim_start_matches(|c: char| OPENING.contains(c) || c.is_whitespace());
    let Some(letter) = next.chars().next() else { return true };
    if letter.is_lowercase() {
        return false;
    }
    // A quotation that ends is an end by itself, as are all signs but a lone full stop.
    if signs.trim_end_matches(|c: char| CLOSING.contains(c)) != "." {
        return true;
    }
    let word = before.rsplit(char::is_whitespace).next().unwrap_or_default();
    let word = word.trim_start_matches(|c: char| OPENING.contains(c));
    let following = next.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let is_first = before.trim() == word;
    !(goes_on(word, following, before) || (is_first && is_label(word)))
}

/// Whether a word with a full stop is one that does not end a sentence before `following`.
fn goes_on(word: &str, following: &str, before: &str) -> bool {
    if word.is_empty() {
        return false;
    }
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        return is_ordinal(word, following, before);
    }
    let mut pieces = word.split('.');
    if word.contains('.')
        && pieces.all(|piece| piece.chars().count() <= 2 && piece.chars().all(char::is_alphabetic))
    {
        // `z.B.`, `e.g.`, `U.S.`; times of the day end sentences where a new one may begin.
        return !matches!(word.to_lowercase().as_str(), "a.m" | "p.m" | "u.a" | "m.fl");
    }
    let mut letters = word.chars();
    if let (Some(letter), None) = (letters.next(), letters.next())
        && letter.is_alphabetic()
        && !is_wide(letter)
    {
        return true;
    }
    let lower = word.to_lowercase();
    let last = lower.rsplit(['-', '/', '(', '\'', '’']).next().unwrap_or_default();
    if following.starts_with(|c: char| c.is_ascii_digit()) && (is_counter(last) || last.ends_with("str")) {
        return true;
    }
    // Words that often come last do not go on before a capital.
    if is_last_word(last) {
        return following.starts_with(|c: char| c.is_ascii_digit());
    }
    is_abbreviation(last) || (is_roman(word) && is_counted(following))
}

/// `3. Oktober`, `im 19. Jahrhundert`, `der 2. Weltkrieg`, `dnia 3. Maja`.
fn is_ordinal(word: &str, following: &str, before: &str) -> bool {
    if word.len() > 3 {
        return false;
    }
    let lower = following.to_lowercase();
    if is_month(&lower) || is_counted(&lower) {
        return true;
    }
    let previous = before.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end();
    let previous = previous.rsplit(char::is_whitespace).next().unwrap_or_default().to_lowercase();
    is_article(&previous) && following.starts_with(char::is_uppercase)
}

/// The number of a heading or an item, which is no sentence.
fn is_label(word: &str) -> bool {
    word.len() <= 8 && (word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') || is_roman(word))
}

fn is_roman(word: &str) -> bool {
    !word.is_empty()
        && word.bytes().all(|byte| matches!(byte, b'I' | b'V' | b'X' | b'L' | b'C' | b'D' | b'M'))
}

/// Letters of scripts that put no blanks between words.
pub(super) fn is_wide(c: char) -> bool {
    matches!(
        c,
        '\u{e00}'..='\u{eff}'
            | '\u{2e80}'..='\u{a4cf}'
            | '\u{ac00}'..='\u{d7af}'
            | '\u{f900}'..='\u{faff}'
            | '\u{ff00}'..='\u{ffef}'
            | '\u{20000}'..='\u{3ffff}'
    )
}
