//! What subtitles show at a time: by words where their times are known, else a segment at a time.
//!
//! A cue of words has at most [`MAX_LINES`] lines of [`MAX_CHARS`] characters and lasts at most [`MAX_SECONDS`]. It
//! takes in what is said until a long pause, or until more would not fit. What does not fit is cut at the last
//! sentence that ends in it, else at a pause or a clause in its second half, else where it is full.

use crate::types::asr::Segment;

const MAX_LINES: usize = 2;
const MAX_CHARS: usize = 42;
const MAX_SECONDS: f64 = 7.0;
/// Silence, in seconds, over which no cue goes on.
const LONG_PAUSE: f64 = 1.0;
/// Silence, in seconds, that is as good as a comma.
const PAUSE: f64 = 0.3;

/// Text and when it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cue {
    pub start: f64,
    pub end: f64,
    /// None is blank, as a blank line would end the cue.
    pub lines: Vec<String>,
}

/// Words that stand together.
struct Piece {
    /// With the space before it.
    text: String,
    start: f64,
    end: f64,
    /// Whether a segment ends with it.
    last: bool,
}

/// The cues of these segments.
pub(super) fn cues(segments: &[Segment]) -> Vec<Cue> {
    let mut cues = Vec::new();
    for run in segments.chunk_by(|a, b| a.words.is_empty() == b.words.is_empty()) {
        if run[0].words.is_empty() {
            let shown = run.iter().filter(|segment| !segment.text.trim().is_empty());
            cues.extend(shown.map(|s| Cue { start: s.start, end: s.end, lines: vec![line(&s.text)] }));
            continue;
        }
        let pieces = pieces(run);
        let mut rest = pieces.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cut(rest));
            cues.extend(cue(now));
            rest = later;
        }
    }
    cues
}

/// One line, without the arrow that would begin a cue's times.
fn line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace("-->", "->")
}

/// The words of the segments: none is longer than a line, and what hangs together (`well` and `-known`) is one.
fn pieces(segments: &[Segment]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for segment in segments {
        for word in segment.words.iter().filter(|word| !word.text.trim().is_empty()) {
            match pieces.last_mut() {
                Some(before) if hangs_on(&before.text, &word.text) => {
                    before.text.push_str(&word.text);
                    before.end = word.end;
                }
                _ => pieces.extend(split(&word.text, word.start, word.end)),
            }
        }
        if let Some(piece) = pieces.last_mut() {
            piece.last = true;
        }
    }
    pieces
}

fn hangs_on(before: &str, word: &str) -> bool {
    let begins = word.starts_with(|c: char| c.is_ascii_alphanumeric() || "-'’".contains(c));
    begins
        && before.ends_with(|c: char| c.is_ascii_alphanumeric())
        && length(before) + length(word) <= MAX_CHARS
}

/// Characters of a text on a line.
fn length(text: &str) -> usize {
    text.trim().chars().count()
}

/// A word in pieces that fit on a line, its time shared among their characters.
fn split(text: &str, start: f64, end: f64) -> Vec<Piece> {
    let all: Vec<char> = text.trim_end().chars().collect();
    let at = |count: usize| start + (end - start) * count as f64 / all.len() as f64;
    // The space before the word is no character of a line.
    let size = if length(text) > MAX_CHARS { MAX_CHARS } else { all.len() };
    let parts = all.chunks(size.max(1)).enumerate();
    let piece = parts.map(|(part, chars)| Piece {
        text: chars.iter().collect(),
        start: at(part * size),
        end: at(part * size + chars.len()),
        last: false,
    });
    piece.collect()
}

/// How many pieces the next cue has; at least one.
fn cut(pieces: &[Piece]) -> usize {
    let mut full = 1;
    while let Some(next) = pieces.get(full) {
        if next.start - pieces[full - 1].end >= LONG_PAUSE {
            return full;
        }
        if next.end - pieces[0].start > MAX_SECONDS || lines(&pieces[..=full]).is_none() {
            return natural(pieces, full);
        }
        full += 1;
    }
    full
}

/// Where to cut, of the places up to `full` pieces.
fn natural(pieces: &[Piece], full: usize) -> usize {
    let sentence = (1..=full).rev().find(|&at| ends_with(&pieces[at - 1].text, ".?!…。？！؟।"));
    let half = full.div_ceil(2);
    let pause = |at: usize| pieces.get(at).is_some_and(|next| next.start - pieces[at - 1].end >= PAUSE);
    let clause = (half..=full).rev().find(|&at| {
        let before = &pieces[at - 1];
        pause(at) || before.last || ends_with(&before.text, ",;:—，、；：،")
    });
    sentence.or(clause).unwrap_or(full)
}

/// Whether the text ends with one of these, closing quotes and brackets aside.
fn ends_with(text: &str, marks: &str) -> bool {
    let bare = text.trim_end().trim_end_matches(['"', '\'', '”', '’', ')', ']', '»', '」', '』']);
    bare.ends_with(|c: char| marks.contains(c))
}

/// The pieces on one line, or on two that are about as long; `None`: they need more.
fn lines(pieces: &[Piece]) -> Option<Vec<String>> {
    let text = |pieces: &[Piece]| line(&pieces.iter().map(|piece| piece.text.as_str()).collect::<String>());
    let whole = text(pieces);
    if length(&whole) <= MAX_CHARS {
        return Some(vec![whole]);
    }
    if length(&whole) > MAX_LINES * MAX_CHARS + 1 {
        return None;
    }
    let halves = (1..pieces.len()).map(|at| [text(&pieces[..at]), text(&pieces[at..])]);
    let fitting = halves.filter(|halves| halves.iter().all(|half| length(half) <= MAX_CHARS));
    let best = fitting.min_by_key(|[first, second]| length(first).abs_diff(length(second)))?;
    Some(best.into())
}

/// The pieces as a cue; `None`: there is nothing to show.
fn cue(pieces: &[Piece]) -> Option<Cue> {
    let (first, last) = (pieces.first()?, pieces.last()?);
    let lines = lines(pieces)?;
    // One word may last longer, where silence is taken for a part of it.
    let end = last.end.max(first.start).min(first.start + MAX_SECONDS);
    lines.iter().any(|line| !line.is_empty()).then_some(Cue { start: first.start, end, lines })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::transcript::tests::{segment, spoken};

    fn shown(segments: &[Segment]) -> Vec<String> {
        cues(segments).into_iter().map(|cue| cue.lines.join("|")).collect()
    }

    fn check(cues: &[Cue]) {
        for cue in cues {
            assert!((1..=MAX_LINES).contains(&cue.lines.len()), "{cue:?}");
            assert!(cue.lines.iter().all(|line| length(line) <= MAX_CHARS && !line.is_empty()), "{cue:?}");
            assert!(cue.end >= cue.start && cue.end - cue.start <= MAX_SECONDS, "{cue:?}");
        }
        assert!(cues.is_sorted_by(|a, b| a.end <= b.start), "{cues:?}");
    }

    #[test]
    fn a_cue_is_as_long_as_fits_and_ends_with_a_sentence() {
        let text =
            "The first one is short. The second sentence is quite a bit longer than that. And now the third.";
        let cues = cues(&[spoken(0.0, 0.25, text)]);
        check(&cues);
        let lines: Vec<_> = cues.iter().map(|cue| cue.lines.join("|")).collect();
        let both = "The first one is short. The second|sentence is quite a bit longer than that.";
        assert_eq!(lines, [both, "And now the third."]);
        assert_eq!((cues[0].start, cues[0].end, cues[1].start), (0.0, 3.75, 3.75));
    }

    #[test]
    fn a_long_sentence_is_cut_at_a_pause_or_a_comma_else_where_it_is_full() {
        let text = "and so we went on along the river for a long while, until the water was too deep for any of us \
                    and nobody wanted to go any further that day";
        let lines = shown(&[spoken(0.0, 0.2, text)]);
        assert_eq!(lines[0], "and so we went on along|the river for a long while,");
        check(&cues(&[spoken(0.0, 0.2, text)]));
        let mut segment = spoken(0.0, 0.2, &text.replace(',', ""));
        for word in &mut segment.words[9..] {
            (word.start, word.end) = (word.start + 0.4, word.end + 0.4);
        }
        assert_eq!(shown(&[segment])[0], "and so we went on along the river for");
        let plain = "word ".repeat(40);
        let lines = shown(&[spoken(0.0, 0.1, &plain)]);
        assert_eq!(lines[0], ["word word word word word word word word"; 2].join("|"));
    }

    #[test]
    fn silence_and_slow_speech_end_a_cue() {
        let segments = [spoken(0.0, 0.5, "one two"), spoken(2.5, 0.5, "three")];
        assert_eq!(shown(&segments), ["one two", "three"]);
        let segments = [spoken(0.0, 0.5, "one two"), spoken(1.5, 0.5, "three")];
        assert_eq!(shown(&segments), ["one two three"], "a short pause does not");
        let cues = cues(&[spoken(0.0, 2.0, "one two three four five")]);
        check(&cues);
        assert_eq!(cues.len(), 2);
        let long = self::cues(&[spoken(0.0, 20.0, "one")]);
        check(&long);
        assert_eq!(long[0].end, MAX_SECONDS);
    }

    #[test]
    fn words_without_spaces_and_endless_ones_fit_too() {
        let chinese: Vec<String> =
            "今天天气很好我们一起去公园散步吧。".chars().cycle().take(100).map(String::from).collect();
        let mut segment = segment(0.0, 20.0, "");
        for (at, text) in chinese.iter().enumerate() {
            let start = at as f64 * 0.1;
            segment.words.push(crate::types::asr::Word {
                text: text.clone(),
                start,
                end: start + 0.1,
                probability: 1.0,
            });
        }
        let chinese = cues(std::slice::from_ref(&segment));
        check(&chinese);
        assert!(chinese[0].lines.last().unwrap().ends_with('。'), "{chinese:?}");
        let endless = cues(&[spoken(0.0, 30.0, &"a".repeat(500))]);
        check(&endless);
        let text: String =
            endless.iter().flat_map(|cue| cue.lines.concat().chars().collect::<Vec<_>>()).collect();
        assert_eq!(text, "a".repeat(500));
        let mut hanging = spoken(0.0, 0.3, "well known");
        hanging.words[1].text = "-known".into();
        assert_eq!(shown(&[hanging]), ["well-known"]);
    }

    #[test]
    fn segments_without_words_are_shown_as_they_are() {
        let long = "word ".repeat(40);
        let segments = [segment(0.0, 20.0, &long), spoken(20.0, 0.5, "timed"), segment(21.0, 22.0, "")];
        assert_eq!(shown(&segments), [long.trim(), "timed"]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_said_nothing_is_lost(
            words in proptest::collection::vec((" ?[a-z,.?-]{0,60}", 0.0..3.0f64, 0.0..2.0f64), 0..60),
        ) {
            let mut segment = segment(0.0, 1.0, "");
            let mut now = 0.0;
            for (text, length, pause) in words {
                let word = crate::types::asr::Word { text, start: now, end: now + length, probability: 0.5 };
                segment.words.push(word);
                now += length + pause;
            }
            let squeezed = |text: String| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let said = squeezed(line(&segment.words.iter().map(|word| word.text.as_str()).collect::<String>()));
            let cues = cues(&[segment]);
            for cue in &cues {
                assert!(cue.lines.len() <= MAX_LINES && cue.end - cue.start <= MAX_SECONDS + 1e-9, "{cue:?}");
                assert!(cue.lines.iter().all(|line| length(line) <= MAX_CHARS), "{cue:?}");
            }
            let shown = squeezed(cues.into_iter().flat_map(|cue| cue.lines).collect());
            assert_eq!(shown.replace("-->", "->"), said);
        }
    }
}
