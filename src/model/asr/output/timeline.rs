//! The stretches of a recording that are heard as if they were all of it.

use std::ops::Range;

use crate::types::asr::{FRAMES_PER_SECOND, LogMel};

/// Stretches of frames, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timeline {
    /// Where each begins among the frames that are heard, and its frames in the recording; never empty ones.
    spans: Vec<(usize, Range<usize>)>,
    frames: usize,
    /// Of the frames that are heard.
    loudest: u16,
}

impl Timeline {
    /// All `frames` of a recording.
    pub fn whole(mel: &LogMel, frames: usize) -> Timeline {
        let spans = if frames == 0 { Vec::new() } else { vec![(0, 0..frames)] };
        Timeline { spans, frames, loudest: mel.loudest() }
    }

    /// Only these, in order, as far as the recording's `frames` go.
    pub fn of(mel: &LogMel, frames: usize, stretches: &[Range<usize>]) -> Timeline {
        let mut line = Timeline { spans: Vec::with_capacity(stretches.len()), frames: 0, loudest: 0 };
        for stretch in stretches {
            let stretch = stretch.start.min(frames)..stretch.end.min(frames);
            if !stretch.is_empty() {
                line.loudest = line.loudest.max(mel.loudest_of(stretch.clone()));
                line.spans.push((line.frames, stretch.clone()));
                line.frames += stretch.len();
            }
        }
        line
    }

    /// Frames that are heard.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Whether all of it is digital silence.
    pub fn is_silent(&self) -> bool {
        self.loudest == 0
    }

    /// The window of `count` frames at `seek` as the network hears it, bin-major; zeros past the end.
    pub fn window(&self, mel: &LogMel, seek: usize, count: usize, out: &mut [f32]) {
        let heard = self.spans.iter().filter_map(|(at, stretch)| {
            let from = seek.max(*at);
            let to = (seek + count).min(at + stretch.len());
            (from < to).then(|| stretch.start + (from - at)..stretch.start + (to - at))
        });
        mel.window(heard, count, self.loudest, out);
    }

    fn span(&self, frame: f64, is_end: bool) -> Option<&(usize, Range<usize>)> {
        // What ends where a stretch begins belongs to the one before.
        let begun = |&(at, _): &(usize, Range<usize>)| match is_end {
            true => (at as f64) < frame,
            false => at as f64 <= frame,
        };
        let count = self.spans.partition_point(begun);
        self.spans.get(count.saturating_sub(1))
    }

    fn moved(&self, seconds: f64, span: Option<&(usize, Range<usize>)>) -> f64 {
        let Some((at, stretch)) = span else { return seconds };
        seconds + (stretch.start as f64 - *at as f64) / FRAMES_PER_SECOND as f64
    }

    /// Seconds in the recording of what begins, or ends, so many seconds into what is heard.
    pub fn real(&self, seconds: f64, is_end: bool) -> f64 {
        self.moved(seconds, self.span(seconds * FRAMES_PER_SECOND as f64, is_end))
    }

    /// The same for both ends of a word, which lies in one stretch: that of its middle.
    pub fn real_word(&self, start: f64, end: f64) -> (f64, f64) {
        let span = self.span((start + end) / 2.0 * FRAMES_PER_SECOND as f64, false);
        (self.moved(start, span), self.moved(end, span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_frames_are_those_of_the_recording() {
        let mut mel = LogMel::new(1);
        (0..1000u16).for_each(|i| mel.push(&[f32::from(i) / 100.0 - 6.0]));
        let line = Timeline::of(&mel, 1000, &[100..200, 300..300, 500..700, 990..2000]);
        assert_eq!(line.frames(), 310);
        assert_eq!((line.real(0.0, false), line.real(0.5, true)), (1.0, 1.5));
        assert_eq!((line.real(1.0, true), line.real(1.0, false)), (2.0, 5.0));
        assert_eq!(line.real(3.1, true), 10.0);
        assert_eq!(line.real_word(0.9, 1.3), (4.9, 5.3));
        let mut window = vec![0.0; 200];
        line.window(&mel, 50, 200, &mut window);
        let mut whole = vec![0.0; 1000];
        let all = Timeline { loudest: line.loudest, ..Timeline::whole(&mel, 1000) };
        all.window(&mel, 0, 1000, &mut whole);
        assert_eq!(window[..50], whole[150..200]);
        assert_eq!(window[50..], whole[500..650]);
        assert_eq!(Timeline::of(&mel, 1000, &[]).frames(), 0);
        assert_eq!(Timeline::whole(&mel, 0).real(2.0, true), 2.0);
    }
}
