//! One window's tokens cut into segments (openai/whisper `transcribe.py`).

use std::ops::Range;

/// Seconds a timestamp token stands for.
const TIMESTAMP: f64 = 0.02;
/// Mel frames a timestamp token stands for.
const FRAMES: usize = 2;

/// A stretch of one window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    /// Seconds from the start of what the window is a part of.
    pub start: f64,
    pub end: f64,
    /// Which of the window's tokens.
    pub tokens: Range<usize>,
}

/// A window cut up.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Split {
    pub pieces: Vec<Piece>,
    /// Frames to go on.
    pub advance: usize,
    /// Whether nothing is said after the last timestamp.
    pub single_ending: bool,
}

/// Cuts the tokens of the window at frame `seek`, which holds `frames` frames of sound, where two timestamps meet.
pub(super) fn split(tokens: &[u32], timestamp_begin: u32, seek: usize, frames: usize) -> Split {
    let offset = seek as f64 * 0.01;
    let is_timestamp = |t: u32| t >= timestamp_begin;
    let steps = |t: u32| t.saturating_sub(timestamp_begin);
    let seconds = |t: u32| f64::from(steps(t)) * TIMESTAMP;
    let single_ending = matches!(tokens, [.., a, b] if !is_timestamp(*a) && is_timestamp(*b));
    let pairs = tokens.windows(2).enumerate().filter(|(_, w)| w.iter().all(|&t| is_timestamp(t)));
    let mut cuts: Vec<usize> = pairs.map(|(i, _)| i + 1).collect();
    if cuts.is_empty() {
        let last = tokens.iter().rev().copied().find(|&t| is_timestamp(t)).filter(|&t| steps(t) > 0);
        let length = last.map_or(frames as f64 * 0.01, seconds);
        let piece = Piece { start: offset, end: offset + length, tokens: 0..tokens.len() };
        return Split { pieces: vec![piece], advance: frames, single_ending };
    }
    if single_ending {
        cuts.push(tokens.len());
    }
    let mut pieces = Vec::with_capacity(cuts.len());
    let mut from = 0;
    for cut in cuts {
        if let [first, .., last] | [first @ last] = &tokens[from..cut] {
            let (start, end) = (offset + seconds(*first), offset + seconds(*last));
            pieces.push(Piece { start, end, tokens: from..cut });
        }
        from = cut;
    }
    let advance = match single_ending {
        true => frames,
        false => {
            from.checked_sub(1).and_then(|i| tokens.get(i)).map_or(frames, |&t| steps(t) as usize * FRAMES)
        }
    };
    // The rules forbid empty segments; a step of nothing would repeat the window for ever all the same.
    let advance = if advance == 0 { frames } else { advance };
    Split { pieces, advance, single_ending }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: u32 = 100;

    fn piece(start: f64, end: f64, tokens: Range<usize>) -> Piece {
        Piece { start, end, tokens }
    }

    #[test]
    fn cuts_where_timestamps_meet() {
        // The unfinished third stretch is heard again in the next window.
        let tokens = [T, 1, 2, T + 50, T + 60, 3, T + 100, T + 100, 4];
        let split = split(&tokens, T, 1000, 3000);
        assert_eq!(split.pieces, [piece(10.0, 11.0, 0..4), piece(10.0 + 1.2, 12.0, 4..7)]);
        assert_eq!((split.advance, split.single_ending), (200, false));
    }

    #[test]
    fn a_single_timestamp_at_the_end_finishes_the_window() {
        let tokens = [T, 1, T + 50, T + 50, 2, T + 90];
        let split = split(&tokens, T, 0, 2500);
        assert_eq!(split.pieces, [piece(0.0, 1.0, 0..3), piece(1.0, 1.8, 3..6)]);
        assert_eq!((split.advance, split.single_ending), (2500, true));
    }

    #[test]
    fn without_a_pair_the_window_is_one_segment() {
        let cut = |tokens: &[u32], seek, frames| {
            let split = split(tokens, T, seek, frames);
            (split.pieces, split.advance)
        };
        assert_eq!(cut(&[T, 1, T + 40], 0, 3000), (vec![piece(0.0, 0.8, 0..3)], 3000));
        assert_eq!(cut(&[T, 1, 2], 100, 500), (vec![piece(1.0, 6.0, 0..3)], 500));
        assert_eq!(cut(&[], 0, 100), (vec![piece(0.0, 1.0, 0..0)], 100));
    }

    proptest! {
        #[test]
        fn always_goes_on(tokens in proptest::collection::vec(90u32..200, 0..40), frames in 1usize..3001) {
            let split = split(&tokens, T, 0, frames);
            prop_assert!(split.advance > 0);
            let mut at = 0;
            for piece in split.pieces {
                prop_assert!(piece.tokens.start == at && piece.tokens.end <= tokens.len());
                at = piece.tokens.end;
            }
        }
    }
}
