//! From the probability of speech in each frame to where speech is.
//!
//! The rules are those of `get_speech_timestamps` (snakers4/silero-vad 6.2.3, `utils_vad.py`), with its
//! `use_max_poss_sil_at_max_speech` off, as faster-whisper has them: speech begins with a frame at or above the
//! threshold and ends where frames are below a lower one for long enough; what grows too long is cut at its last pause.

use crate::types::asr::{SAMPLE_RATE, Vad};

use super::FRAME;

/// A pause shorter than this is no place to cut at: 98 ms.
const PAUSE: usize = SAMPLE_RATE as usize * 98 / 1000;
/// How far below the threshold speech may fall and go on.
const SLACK: f32 = 0.15;
/// The least probability that ends it.
const FLOOR: f32 = 0.01;

/// Speech from one sample to another, which is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// Samples that it has.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The settings in samples.
struct Limits {
    threshold: f32,
    min_speech: usize,
    max_speech: usize,
    min_silence: usize,
    pad: usize,
}

impl Limits {
    fn new(vad: &Vad) -> Limits {
        // What is past the largest number becomes it, and what is no number 0.
        let samples = |seconds: f32| (f64::from(seconds) * f64::from(SAMPLE_RATE)).round() as usize;
        let pad = samples(vad.pad);
        Limits {
            threshold: vad.threshold,
            min_speech: samples(vad.min_speech),
            // It is found too long only a frame later, and is padded then.
            max_speech: samples(vad.max_speech).saturating_sub(FRAME).saturating_sub(pad.saturating_mul(2)),
            min_silence: samples(vad.min_silence),
            pad,
        }
    }
}

/// A pause long enough to cut at.
#[derive(Clone, Copy)]
struct Pause {
    /// Where speech ended.
    start: usize,
    /// Where it went on, if it did.
    end: Option<usize>,
}

/// Speech that has not ended.
struct Speech {
    start: usize,
    /// Where it has been quiet since, if it is.
    quiet: Option<usize>,
    /// The last pause in it.
    pause: Option<Pause>,
}

impl Speech {
    fn from(start: usize) -> Speech {
        Speech { start, quiet: None, pause: None }
    }
}

/// Where speech is in a recording of `samples` samples whose frames have these probabilities: in order, apart from each
/// other, and none longer than `vad.max_speech` (or two paddings and a frame, if that is more).
pub fn spans(probabilities: &[f32], samples: usize, vad: &Vad) -> Vec<Span> {
    let limits = Limits::new(vad);
    let mut spans = Vec::new();
    let mut speech: Option<Speech> = None;
    for (i, &probability) in probabilities.iter().enumerate().take(samples.div_ceil(FRAME)) {
        speech = next(speech, i * FRAME, probability, &limits, &mut spans);
    }
    if let Some(Speech { start, .. }) = speech
        && samples - start > limits.min_speech
    {
        spans.push(Span { start, end: samples });
    }
    pad(&mut spans, samples, limits.pad);
    spans
}

/// What a frame that begins at sample `now` makes of the speech before it.
fn next(
    speech: Option<Speech>,
    now: usize,
    probability: f32,
    limits: &Limits,
    spans: &mut Vec<Span>,
) -> Option<Speech> {
    let heard = probability >= limits.threshold;
    let Some(mut speech) = speech else { return heard.then(|| Speech::from(now)) };
    if heard && speech.quiet.take().is_some() {
        speech.pause = speech.pause.map(|pause| Pause { end: pause.end.or(Some(now)), ..pause });
    }
    if now - speech.start > limits.max_speech {
        let cut = speech.pause.map_or(now, |pause| pause.start);
        spans.push(Span { start: speech.start, end: cut });
        // Without a pause the next frame may begin anew; in one that lasts nothing goes on.
        speech = Speech::from(speech.pause?.end?);
    }
    if probability < (limits.threshold - SLACK).max(FLOOR) {
        let quiet = *speech.quiet.get_or_insert(now);
        if now - quiet > PAUSE && speech.pause.is_none_or(|pause| pause.start != quiet) {
            speech.pause = Some(Pause { start: quiet, end: None });
        }
        if now - quiet >= limits.min_silence {
            if quiet - speech.start > limits.min_speech {
                spans.push(Span { start: speech.start, end: quiet });
            }
            return None;
        }
    }
    Some(speech)
}

/// Adds `pad` samples at both ends of each; where two would meet, each gets half of what is between them.
fn pad(spans: &mut [Span], samples: usize, pad: usize) {
    if let Some(first) = spans.first_mut() {
        first.start = first.start.saturating_sub(pad);
    }
    for i in 1..spans.len() {
        let between = spans[i].start - spans[i - 1].end;
        let added = pad.min(between / 2);
        spans[i - 1].end += added;
        spans[i].start -= added;
    }
    if let Some(last) = spans.last_mut() {
        last.end = last.end.saturating_add(pad).min(samples);
    }
}

/// Joins neighbours into chunks whose speech adds up to `max_seconds` at most; a longer span is a chunk by itself.
pub fn chunks(spans: &[Span], max_seconds: f32) -> Vec<Vec<Span>> {
    let most = (f64::from(max_seconds) * f64::from(SAMPLE_RATE)) as usize;
    let mut chunks: Vec<Vec<Span>> = Vec::new();
    let mut len = 0;
    for span in spans {
        len += span.len();
        match chunks.last_mut() {
            Some(chunk) if len <= most => chunk.push(*span),
            _ => {
                len = span.len();
                chunks.push(vec![*span]);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: usize = SAMPLE_RATE as usize;

    /// Probabilities of frames: so many of each.
    fn frames(runs: &[(usize, f32)]) -> Vec<f32> {
        runs.iter().flat_map(|(n, p)| std::iter::repeat_n(*p, *n)).collect()
    }

    /// In frames.
    fn found(runs: &[(usize, f32)], vad: Vad) -> Vec<(usize, usize)> {
        let probabilities = frames(runs);
        let spans = spans(&probabilities, probabilities.len() * FRAME, &vad);
        spans.iter().map(|s| (s.start / FRAME, s.end / FRAME)).collect()
    }

    const PLAIN: Vad = Vad { threshold: 0.5, min_speech: 0.0, max_speech: 1e9, min_silence: 0.1, pad: 0.0 };

    #[test]
    fn speech_ends_below_the_lower_threshold_and_after_a_long_enough_silence() {
        // 0.1 s is past three frames and before four.
        assert_eq!(found(&[(5, 0.1), (10, 0.9), (9, 0.1)], PLAIN), [(5, 15)]);
        assert_eq!(found(&[(5, 0.1), (10, 0.9), (9, 0.4)], PLAIN), [(5, 24)], "between the two");
        assert_eq!(found(&[(9, 0.9), (4, 0.1), (9, 0.9)], PLAIN), [(0, 22)]);
        assert_eq!(found(&[(9, 0.9), (5, 0.1), (9, 0.9)], PLAIN), [(0, 9), (14, 23)]);
        // Quiet is counted from its first frame, whatever hovers between.
        assert_eq!(found(&[(9, 0.9), (1, 0.1), (4, 0.4), (1, 0.1), (9, 0.9)], PLAIN), [(0, 9), (15, 24)]);
        let short = Vad { min_speech: 0.25, ..PLAIN };
        assert_eq!(found(&[(7, 0.9), (9, 0.1), (8, 0.9), (9, 0.1)], short), [(16, 24)]);
        assert_eq!(found(&[(20, 0.2)], Vad { threshold: 0.1, ..PLAIN }), [(0, 20)]);
        assert_eq!(found(&[(20, f32::NAN)], PLAIN), []);
    }

    #[test]
    fn what_is_too_long_is_cut_at_its_last_pause() {
        // A pause of five frames is no end here, but a place to cut at; one of three is not.
        let vad = Vad { max_speech: 1.0, min_silence: 0.5, ..PLAIN };
        let pauses = [(8, 0.9), (5, 0.1), (8, 0.9), (3, 0.1), (30, 0.9)];
        assert_eq!(found(&pauses, vad), [(0, 8), (13, 44), (45, 54)]);
        assert_eq!(found(&[(70, 0.9)], vad), [(0, 31), (32, 63), (64, 70)]);
        // Cut in a pause that lasts.
        assert_eq!(found(&[(26, 0.9), (14, 0.1), (9, 0.9)], vad), [(0, 26), (40, 49)]);
    }

    #[test]
    fn paddings_do_not_overlap() {
        let vad = Vad { pad: 0.1, ..PLAIN };
        let probabilities = frames(&[(1, 0.1), (9, 0.9), (5, 0.1), (9, 0.9), (30, 0.1), (9, 0.9)]);
        let found = spans(&probabilities, 63 * FRAME, &vad);
        let at = |frame: usize, more: isize| (frame * FRAME).saturating_add_signed(more);
        let want = [(0, at(10, 1280)), (at(15, -1280), at(24, 1600)), (at(54, -1600), 63 * FRAME)];
        assert_eq!(found.iter().map(|s| (s.start, s.end)).collect::<Vec<_>>(), want);
    }

    #[test]
    fn neighbours_are_joined_until_their_speech_fills_a_chunk() {
        let span = |start: usize, end: usize| Span { start: start * SECOND, end: end * SECOND };
        let all = [span(0, 10), span(15, 30), span(40, 45), span(50, 51), span(60, 100), span(101, 102)];
        let want = [vec![all[0], all[1], all[2]], vec![all[3]], vec![all[4]], vec![all[5]]];
        assert_eq!(chunks(&all, 30.0), want);
        assert_eq!(chunks(&all, f32::INFINITY), [all.to_vec()]);
        assert!(chunks(&[], 30.0).is_empty());
    }

    proptest! {
        #[test]
        fn spans_are_ordered_apart_within_the_recording_and_not_too_long(
            runs in proptest::collection::vec((1usize..60, 0f32..1.0), 0..30),
            cut in 0usize..FRAME,
            threshold in 0.05f32..0.95,
            lengths in (0f32..1.0, 0f32..8.0, 0f32..2.5, 0f32..0.5),
            max_seconds in 0.1f32..40.0,
        ) {
            let (min_speech, max_speech, min_silence, pad) = lengths;
            let vad = Vad { threshold, min_speech, max_speech, min_silence, pad };
            let probabilities = frames(&runs);
            let samples = (probabilities.len() * FRAME).saturating_sub(cut);
            let spans = spans(&probabilities, samples, &vad);
            let longest = max_speech.max(2.0 * pad) * SECOND as f32 + FRAME as f32 + 4.0;
            for span in &spans {
                prop_assert!(span.start < span.end && span.end <= samples, "{span:?} of {samples}");
                prop_assert!(span.len() as f32 <= longest, "{} of {longest}", span.len());
            }
            prop_assert!(spans.windows(2).all(|w| w[0].end <= w[1].start));
            let chunks = chunks(&spans, max_seconds);
            prop_assert_eq!(chunks.concat(), spans);
            for chunk in chunks {
                let sum = chunk.iter().map(Span::len).sum::<usize>() as f32;
                prop_assert!(chunk.len() == 1 || sum <= max_seconds * SECOND as f32 + 1.0);
            }
        }
    }
}
