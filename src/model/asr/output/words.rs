//! When each word was said: dynamic time warping over what the alignment heads look at (openai/whisper `timing.py`,
//! after Giorgino, 2009), and the reference's corrections at the ends of sentences and around pauses.

use super::split::Piece;
use crate::model::asr::Alignment;
use crate::model::asr::vocab::Vocab;
use crate::types::asr::Word;

/// Frames of the median filter over time.
const MEDIAN: usize = 7;
/// Seconds a position of the encoder's output stands for.
const POSITION: f64 = 0.02;
/// Longest that a usual word is taken to be, in seconds.
const LONG_MEDIAN: f64 = 0.7;
const SENTENCE_ENDS: &[&str] = &[".", "。", "!", "！", "?", "？"];
/// Belong to the word after them, or before.
const PREPENDED: &str = "\"'“¿([{-";
const APPENDED: &str = "\"'.。,，!！?？:：”)]}、";
/// Languages written without spaces between words (openai/whisper `tokenizer.py`).
const UNSPACED: &[&str] = &["zh", "ja", "th", "lo", "my", "yue"];

/// A word and its time in the window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timing {
    pub text: String,
    /// Tokens of the text that it is made of.
    pub tokens: usize,
    /// Seconds from the start of the window.
    pub start: f64,
    pub end: f64,
    pub probability: f32,
}

/// Times of the words of `tokens`, text alone, from the weights of the prompt's `before` tokens, the text and its
/// end. `probabilities` are the tokens'.
pub(super) fn time(
    alignment: &Alignment,
    before: usize,
    tokens: &[u32],
    probabilities: &[f32],
    vocab: &Vocab,
    language: &str,
) -> Vec<Timing> {
    let words = words(tokens, vocab, UNSPACED.contains(&language));
    // The row before a token is the one that chose it.
    let rows = before.saturating_sub(1)..alignment.tokens.saturating_sub(1);
    if words.is_empty() || rows.len() != tokens.len() + 1 || alignment.keys == 0 {
        return Vec::new();
    }
    let matrix = emphasis(alignment, rows);
    let jumps = warp(&matrix, tokens.len() + 1, alignment.keys);
    let second = |token: usize| jumps.get(token).copied().unwrap_or_default() as f64 * POSITION;
    let mut at = 0;
    let mut timings = Vec::with_capacity(words.len());
    for (text, count) in words {
        let own = probabilities.get(at..at + count).unwrap_or_default();
        let probability = own.iter().sum::<f32>() / own.len().max(1) as f32;
        timings.push(Timing { text, tokens: count, start: second(at), end: second(at + count), probability });
        at += count;
    }
    timings
}

/// The mean over heads of the weights of `rows`, each position's scaled over the tokens to a mean of 0 and a deviation
/// of 1, and smoothed over time: `(rows, keys)`.
fn emphasis(alignment: &Alignment, rows: std::ops::Range<usize>) -> Vec<f32> {
    let (tokens, keys) = (alignment.tokens, alignment.keys);
    let mut mean = vec![0f32; rows.len() * keys];
    let (mut centre, mut spread) = (vec![0f32; keys], vec![0f32; keys]);
    let mut scaled = vec![0f32; keys];
    for head in alignment.weights.chunks_exact(tokens * keys) {
        centre.fill(0.0);
        spread.fill(0.0);
        for row in head.chunks_exact(keys) {
            centre.iter_mut().zip(row).for_each(|(c, w)| *c += w);
        }
        centre.iter_mut().for_each(|c| *c /= tokens as f32);
        for row in head.chunks_exact(keys) {
            spread.iter_mut().zip(row).zip(&centre).for_each(|((s, w), c)| *s += (w - c) * (w - c));
        }
        spread.iter_mut().for_each(|s| *s = (*s / tokens as f32).sqrt().max(f32::MIN_POSITIVE).recip());
        let head = head.chunks_exact(keys).skip(rows.start);
        for (row, sum) in head.zip(mean.chunks_exact_mut(keys)) {
            for ((out, w), (c, s)) in scaled.iter_mut().zip(row).zip(centre.iter().zip(&spread)) {
                *out = (w - c) * s;
            }
            add_median(&scaled, sum);
        }
    }
    mean
}

/// Adds the median of each value and its neighbours to `sum`; beyond the ends they are mirrored. Rows too short to
/// mirror are added as they are.
fn add_median(row: &[f32], sum: &mut [f32]) {
    const HALF: usize = MEDIAN / 2;
    if row.len() <= HALF {
        return sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
    let mut padded = Vec::with_capacity(row.len() + 2 * HALF);
    padded.extend((1..=HALF).rev().map(|i| row[i]));
    padded.extend_from_slice(row);
    padded.extend((1..=HALF).map(|i| row[row.len() - 1 - i]));
    for (s, w) in sum.iter_mut().zip(padded.windows(MEDIAN)) {
        *s += median(w);
    }
}

/// The fourth largest of seven, by exchanges (Devillard, "Fast median search", 1998), which compile to minima and
/// maxima.
fn median(w: &[f32]) -> f32 {
    let mut v = [0f32; MEDIAN];
    v.copy_from_slice(w);
    for (a, b) in [
        (0, 5),
        (0, 3),
        (1, 6),
        (2, 4),
        (0, 1),
        (3, 5),
        (2, 6),
        (2, 3),
        (3, 6),
        (4, 5),
        (1, 4),
        (1, 3),
        (3, 4),
    ] {
        let (x, y) = (v[a], v[b]);
        v[a] = if x < y { x } else { y };
        v[b] = if x < y { y } else { x };
    }
    v[3]
}

/// For each row the first column of the cheapest monotonic path through the negated matrix.
fn warp(matrix: &[f32], rows: usize, columns: usize) -> Vec<usize> {
    let width = columns + 1;
    let mut cost = vec![f32::INFINITY; width];
    cost[0] = 0.0;
    // Where each cell was come to from: 0 both one before, 1 the row before, 2 the column before.
    let mut trace = vec![0u8; rows * columns];
    for (row, trace) in matrix.chunks_exact(columns).zip(trace.chunks_exact_mut(columns)) {
        let mut diagonal = cost[0];
        cost[0] = f32::INFINITY;
        for (j, (value, from)) in row.iter().zip(trace).enumerate() {
            let (above, left) = (cost[j + 1], cost[j]);
            let (best, step) = if diagonal < above && diagonal < left {
                (diagonal, 0)
            } else if above < diagonal && above < left {
                (above, 1)
            } else {
                (left, 2)
            };
            diagonal = above;
            cost[j + 1] = best - value;
            *from = step;
        }
    }
    let mut firsts = vec![0; rows];
    let (mut i, mut j) = (rows - 1, columns - 1);
    loop {
        firsts[i] = j;
        match trace[i * columns + j] {
            0 if i > 0 && j > 0 => (i, j) = (i - 1, j - 1),
            1 if i > 0 => i -= 1,
            2 if j > 0 => j -= 1,
            // Along an edge there is one way left.
            _ if i > 0 => i -= 1,
            _ if j > 0 => j -= 1,
            _ => return firsts,
        }
    }
}

/// Tokens joined to words: text, and how many tokens it is made of.
fn words(tokens: &[u32], vocab: &Vocab, unspaced: bool) -> Vec<(String, usize)> {
    let mut words: Vec<(String, usize)> = Vec::new();
    for (text, count) in characters(tokens, vocab) {
        let mark = text.trim();
        let is_mark = mark.chars().count() == 1 && mark.chars().all(|c| c.is_ascii_punctuation());
        match words.last_mut() {
            Some((word, of)) if !(unspaced || text.starts_with(' ') || is_mark) => {
                word.push_str(&text);
                *of += count;
            }
            _ => words.push((text, count)),
        }
    }
    words
}

/// Tokens joined until they are whole characters.
fn characters(tokens: &[u32], vocab: &Vocab) -> Vec<(String, usize)> {
    let mut parts = Vec::new();
    let mut from = 0;
    for i in 0..tokens.len() {
        let text = vocab.decode(&tokens[from..=i]);
        let count = i + 1 - from;
        // A character has four bytes at most: what they do not make whole is shown as it is.
        let whole = !text.contains(char::REPLACEMENT_CHARACTER) || count >= 4;
        if whole || i + 1 == tokens.len() {
            parts.push((text, count));
            from = i + 1;
        }
    }
    parts
}

/// A usual word's length, and the longest that is believed where sentences end and pauses are.
fn lengths(timings: &[Timing]) -> (f64, f64) {
    let mut lengths: Vec<f64> = timings.iter().map(|t| t.end - t.start).filter(|l| *l != 0.0).collect();
    lengths.sort_by(f64::total_cmp);
    let median = match lengths.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => (lengths[n / 2 - 1] + lengths[n / 2]) / 2.0,
        n => lengths[n / 2],
    };
    (median.min(LONG_MEDIAN), median.min(LONG_MEDIAN) * 2.0)
}

/// Shortens words at sentence ends to twice the usual length.
fn shorten(timings: &mut [Timing], longest: f64) {
    for i in 1..timings.len() {
        if timings[i].end - timings[i].start <= longest {
            continue;
        }
        if SENTENCE_ENDS.contains(&timings[i].text.as_str()) {
            timings[i].end = timings[i].start + longest;
        } else if SENTENCE_ENDS.contains(&timings[i - 1].text.as_str()) {
            timings[i].start = timings[i].end - longest;
        }
    }
}

/// Joins marks to the words they belong to; what was joined is left empty.
fn join_marks(timings: &mut [Timing]) {
    let join = |timings: &mut [Timing], from: usize, to: usize| {
        let text = std::mem::take(&mut timings[from].text);
        let tokens = std::mem::take(&mut timings[from].tokens);
        let word = &mut timings[to];
        word.text = if from < to { text + &word.text } else { std::mem::take(&mut word.text) + &text };
        word.tokens += tokens;
    };
    let mut following = timings.len().saturating_sub(1);
    for i in (0..timings.len().saturating_sub(1)).rev() {
        let text = &timings[i].text;
        if text.starts_with(' ') && PREPENDED.contains(text.trim()) {
            join(timings, i, following);
        } else {
            following = i;
        }
    }
    let mut previous = 0;
    for i in 1..timings.len() {
        if !timings[previous].text.ends_with(' ') && APPENDED.contains(&timings[i].text) {
            join(timings, i, previous);
        } else {
            previous = i;
        }
    }
}

/// Gives each piece its words, and moves its ends to them where they are believed. `offset` is where the window
/// begins, in seconds; `last` where speech was last heard, which it updates.
pub(super) fn attach(
    pieces: &mut [Piece],
    text_tokens: impl Fn(&Piece) -> usize,
    mut timings: Vec<Timing>,
    offset: f64,
    last: &mut f64,
) -> Vec<Vec<Word>> {
    let (usual, longest) = lengths(&timings);
    shorten(&mut timings, longest);
    join_marks(&mut timings);
    let mut timings = timings.into_iter().peekable();
    let mut all = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let wanted = text_tokens(piece);
        let (mut taken, mut words) = (0, Vec::new());
        while taken < wanted
            && let Some(timing) = timings.next()
        {
            taken += timing.tokens;
            if !timing.text.is_empty() {
                words.push(Word {
                    text: timing.text,
                    start: hundredths(offset + timing.start),
                    end: hundredths(offset + timing.end),
                    probability: timing.probability,
                });
            }
        }
        settle(piece, &mut words, usual, longest, last);
        all.push(words);
    }
    all
}

fn hundredths(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

/// The reference's corrections at both ends of a segment.
fn settle(piece: &mut Piece, words: &mut [Word], usual: f64, longest: f64, last: &mut f64) {
    let [first, rest @ ..] = words else { return };
    // After a pause the first word, or the first two, are often stretched into it.
    let stretched = first.end - first.start > longest
        || rest.first().is_some_and(|second| second.end - first.start > longest * 2.0);
    if first.end - *last > usual * 4.0 && stretched {
        if let Some(second) = rest.first_mut().filter(|second| second.end - second.start > longest) {
            let boundary = (second.end / 2.0).max(second.end - longest);
            first.end = boundary;
            second.start = boundary;
        }
        first.start = (first.end - longest).max(0.0);
    }
    if piece.start < first.end && piece.start - 0.5 > first.start {
        first.start = (first.end - usual).min(piece.start).max(0.0);
    } else {
        piece.start = first.start;
    }
    let Some(end) = words.last_mut() else { return };
    if piece.end > end.start && piece.end + 0.5 < end.end {
        end.end = (end.start + usual).max(piece.end);
    } else {
        piece.end = end.end;
    }
    *last = piece.end;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(text: &str, start: f64, end: f64) -> Timing {
        Timing { text: text.into(), tokens: 1, start, end, probability: 0.5 }
    }

    #[test]
    fn the_median_is_the_fourth_of_seven() {
        for seed in 0..500u64 {
            let w = crate::ops::testing::noise(7, seed + 1);
            let mut sorted = w.clone();
            sorted.sort_by(f32::total_cmp);
            assert_eq!(median(&w), sorted[3]);
        }
        let mut sum = vec![1.0; 9];
        add_median(&[9.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 1.0], &mut sum);
        assert_eq!(sum, [1.0; 9]);
        let mut short = vec![0.0; 3];
        add_median(&[1.0, 2.0, 3.0], &mut short);
        assert_eq!(short, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn the_path_follows_the_largest_values() {
        // Row 0 belongs to columns 0 and 1, row 1 to 2, row 2 to 3 and 4.
        let matrix =
            [[9.0, 9.0, -1.0, -1.0, -1.0], [-1.0, -1.0, 9.0, -1.0, -1.0], [-1.0, -1.0, -1.0, 9.0, 9.0]];
        assert_eq!(warp(matrix.as_flattened(), 3, 5), [0, 2, 3]);
        assert_eq!(warp(&[1.0], 1, 1), [0]);
        assert_eq!(warp(&[0.0; 6], 6, 1), [0; 6]);
        assert_eq!(warp(&[0.0; 6], 1, 6), [0]);
    }

    #[test]
    fn marks_belong_to_their_words() {
        let texts = [" “", "Hello", ",", " you", "?", "!", " -"];
        let mut timings: Vec<Timing> = texts.iter().map(|t| timing(t, 0.0, 1.0)).collect();
        join_marks(&mut timings);
        let joined: Vec<&str> = timings.iter().map(|t| t.text.as_str()).collect();
        assert_eq!(joined, ["", " “Hello,", "", " you?!", "", "", " -"]);
        assert_eq!(timings.iter().map(|t| t.tokens).sum::<usize>(), 7);
    }

    #[test]
    fn stretched_words_are_shortened_and_segments_follow_them() {
        let mut timings = vec![timing(" a", 0.0, 5.0), timing(" b", 5.0, 5.2), timing(" c", 5.2, 5.4)];
        timings.push(timing(".", 5.4, 9.0));
        let mut pieces = [Piece { start: 10.0, end: 19.5, tokens: 0..4 }];
        let mut last = 0.0;
        let words = attach(&mut pieces, |p| p.tokens.len(), timings, 10.0, &mut last);
        let times: Vec<_> = words[0].iter().map(|w| (w.text.as_str(), w.start, w.end)).collect();
        // Usual 0.7 s at most, so nothing is longer than 1.4 s where a sentence ends or after a pause.
        assert_eq!(times, [(" a", 13.6, 15.0), (" b", 15.0, 15.2), (" c.", 15.2, 15.4)]);
        assert_eq!((pieces[0].start, pieces[0].end, last), (13.6, 15.4, 15.4));
    }
}
