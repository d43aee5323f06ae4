//! A transcript that is known: which part of it a window's own text stands for.
//!
//! The network writes down what it hears as ever, and its text is laid beside the transcript (edit distance over words,
//! Levenshtein, 1966). The part of the transcript beside it takes its place and is timed instead: where the network
//! mishears, the transcript is right; where speaker and transcript differ, the rest still falls into place.

use std::ops::Range;

/// Words of the transcript that may be passed over between what two windows say, and by how many words the two texts
/// may be apart within a window.
const SLACK: usize = 60;
/// What it costs to take a word heard for one with nothing in common, to leave it out, and to pass over a known one:
/// speakers leave out headings more often than networks make words up.
const UNLIKE: f64 = 1.5;
const LEAVE: f64 = 1.0;
const PASS: f64 = 0.5;

/// A transcript in words.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    words: Vec<Word>,
}

#[derive(Debug, PartialEq)]
struct Word {
    /// Bytes of the text.
    place: Range<usize>,
    /// In small letters, without marks.
    plain: String,
}

impl Script {
    pub fn new(text: &str) -> Script {
        Script { words: words(text), text: text.to_owned() }
    }

    /// Words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// These words as they stand in the text, with the space before them that a network writes.
    pub fn text(&self, words: Range<usize>) -> String {
        let place = self.words.get(words).and_then(|w| Some(w.first()?.place.start..w.last()?.place.end));
        let text = place.and_then(|place| self.text.get(place)).unwrap_or_default();
        match text.chars().next() {
            Some(first) if !is_unspaced(first) => format!(" {text}"),
            _ => text.to_owned(),
        }
    }

    /// Where the words from `from` on are, of which texts heard one after the other make so many: the first word that
    /// is not said before the end of each text.
    pub fn ends(&self, from: usize, heard: &[String]) -> Vec<usize> {
        let heard: Vec<Vec<Word>> = heard.iter().map(|text| words(text)).collect();
        let plain: Vec<&str> = heard.iter().flatten().map(|word| word.plain.as_str()).collect();
        let rest = self.words.get(from..).unwrap_or_default();
        let reached = reached(&plain, &rest[..rest.len().min(plain.len() + SLACK)]);
        let mut count = 0;
        let after = heard.iter().map(|words| {
            count += words.len();
            from + reached.get(count).copied().unwrap_or_default()
        });
        after.collect()
    }
}

/// For each number of words heard, how many of the `known` ones are said by then.
fn reached(heard: &[&str], known: &[Word]) -> Vec<usize> {
    let width = known.len() + 1;
    // What the cheapest way to each pair of counts costs, and whether it leaves out a word heard, passes over a known
    // one, or takes one for the other.
    let mut cost: Vec<f64> = (0..width).map(|j| j as f64 * PASS).collect();
    let mut steps = vec![Step::Pass; (heard.len() + 1) * width];
    for (i, word) in heard.iter().enumerate() {
        let mut diagonal = cost[0];
        cost[0] += LEAVE;
        let row = &mut steps[(i + 1) * width..][..width];
        row[0] = Step::Leave;
        for j in 1..width {
            let (leave, pass) = (cost[j] + LEAVE, cost[j - 1] + PASS);
            let take = match i.abs_diff(j - 1) <= SLACK {
                true => diagonal + unlike(word, &known[j - 1].plain),
                false => f64::INFINITY,
            };
            diagonal = cost[j];
            (cost[j], row[j]) = match take <= leave && take <= pass {
                true => (take, Step::Take),
                false if leave <= pass => (leave, Step::Leave),
                false => (pass, Step::Pass),
            };
        }
    }
    let end = (0..width).min_by(|&a, &b| cost[a].total_cmp(&cost[b])).unwrap_or_default();
    let mut reached = vec![0; heard.len() + 1];
    let (mut i, mut j) = (heard.len(), end);
    reached[i] = j;
    while i > 0 {
        match steps[i * width + j] {
            Step::Pass => j -= 1,
            Step::Leave => i -= 1,
            Step::Take => (i, j) = (i - 1, j - 1),
        }
        // Known words that were passed over belong to what is said after them.
        reached[i] = j;
    }
    reached
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Leave,
    Pass,
    Take,
}

/// What it costs to take one word for another: nothing for the same.
fn unlike(a: &str, b: &str) -> f64 {
    if a == b { 0.0 } else { UNLIKE * (1.0 - strsim::normalized_levenshtein(a, b)) }
}

/// The words of a text: between spaces, and single characters where a script has none. Marks belong to the word that
/// they touch, or else to the one after them.
fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    // Whether a space was before, and whether a letter would go on with the last word.
    let (mut spaced, mut open) = (true, false);
    for (at, c) in text.char_indices() {
        if c.is_whitespace() {
            (spaced, open) = (true, false);
            continue;
        }
        let (letter, alone) = (c.is_alphanumeric(), is_unspaced(c));
        let end = at + c.len_utf8();
        let goes_on = if letter { open && !alone } else { !spaced };
        match words.last_mut() {
            Some(word) if goes_on || word.plain.is_empty() => {
                word.place.end = end;
                word.plain.extend(c.to_lowercase().filter(|c| c.is_alphanumeric()));
            }
            _ => {
                let plain = c.to_lowercase().filter(|c| c.is_alphanumeric()).collect();
                words.push(Word { place: at..end, plain });
            }
        }
        spaced = false;
        if letter {
            open = !alone;
        }
    }
    if let [.., before, last] = &mut words[..]
        && last.plain.is_empty()
    {
        before.place.end = last.place.end;
        words.pop();
    }
    words
}

/// Whether a character is of a script that is written without spaces between words: Han, kana, Thai, Lao, Burmese,
/// Khmer.
fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF
        | 0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(script: &str, from: usize, heard: &[&str]) -> Vec<String> {
        let script = Script::new(script);
        let heard: Vec<String> = heard.iter().map(|h| (*h).to_owned()).collect();
        let mut at = from;
        let ends = script.ends(from, &heard);
        ends.into_iter().map(|end| script.text(std::mem::replace(&mut at, end)..end)).collect()
    }

    #[test]
    fn misheard_words_fall_into_place() {
        let script = "If called to a case supposed or suspected to be one of poisoning, the medical man has two duties.";
        let heard = [" If Carl to a case supposed a suspecter to be one", " of poisoning the medical man"];
        assert_eq!(
            said(script, 0, &heard),
            [" If called to a case supposed or suspected to be one", " of poisoning, the medical man"]
        );
        assert_eq!(said(script, 16, &[" has two duties"]), [" has two duties."]);
    }

    #[test]
    fn what_only_one_of_the_texts_has_is_left_out_or_passed_over() {
        assert_eq!(said("one two three four", 0, &["well one um two", "yes three"]), [" one two", " three"]);
        // The heading is not said.
        assert_eq!(
            said("Chapter one: the night. It was dark, and", 0, &["it was dark"]),
            [" Chapter one: the night. It was dark,"]
        );
        assert_eq!(said("one two", 0, &["", "thank you"]), ["", ""]);
        assert_eq!(said("one two", 2, &["one"]), [""]);
        assert_eq!(said("", 0, &["one"]), [""]);
    }

    #[test]
    fn scripts_without_spaces_are_taken_by_the_character() {
        assert_eq!(
            said("今天天气很好。我们走吧", 0, &["今天天气好", "我们走"]),
            ["今天天气很好。", "我们走"]
        );
        let words: Vec<String> = words("«Да» — 好。ok-ish…").into_iter().map(|w| w.plain).collect();
        assert_eq!(words, ["да", "好", "okish"]);
    }

    proptest! {
        #[test]
        fn parts_follow_one_another(script in "[ab c,。好]{0,40}", heard in prop::collection::vec("[ab c好]{0,20}", 0..4)) {
            let script = Script::new(&script);
            let mut at = 0;
            for end in script.ends(0, &heard) {
                prop_assert!(at <= end && end <= script.len());
                at = end;
            }
        }

        #[test]
        fn a_text_heard_as_it_stands_is_all_said(words in prop::collection::vec("[a-z]{1,6}", 1..80), cut in 0usize..80) {
            let (first, second) = words.split_at(cut.min(words.len()));
            let heard = [first.join(" "), second.join(" ")];
            let ends = Script::new(&words.join(" ")).ends(0, &heard);
            prop_assert_eq!(ends, [first.len(), words.len()]);
        }
    }
}
