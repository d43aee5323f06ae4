//! Whether somebody speaks, frame by frame. The thresholds are those of
//! [`segments`](crate::model::vad::segments), which sees a whole recording.

use super::Turns;
use crate::model::vad::FRAME;
use crate::types::asr::SAMPLE_RATE;

/// Frames above the threshold in a row that are speech: 96 ms. One by itself is a click.
const ONSET: u64 = 3;
/// How far below the threshold speech may fall and go on.
const SLACK: f32 = 0.15;
/// The least probability that ends it.
const FLOOR: f32 = 0.01;

/// What a frame changed; sample positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// At the first frame of speech.
    Started(u64),
    /// At the end of the silence that ended it.
    Stopped(u64),
}

/// Follows one stream.
#[derive(Debug)]
pub(super) struct Voice {
    turns: Turns,
    speaking: bool,
    /// Frames above the threshold in a row, while nobody speaks.
    onset: u64,
    /// Where it has been quiet since, while somebody speaks.
    quiet: Option<u64>,
}

impl Voice {
    pub fn new(turns: Turns) -> Voice {
        Voice { turns, speaking: false, onset: 0, quiet: None }
    }

    /// The turn was ended by somebody else: what is spoken from here on begins a new one.
    pub fn reset(&mut self) {
        *self = Voice::new(self.turns);
    }

    /// The frame that begins at sample `at`.
    pub fn hear(&mut self, at: u64, probability: f32) -> Option<Change> {
        let end = at + FRAME as u64;
        if !self.speaking {
            self.onset = if probability >= self.turns.threshold { self.onset + 1 } else { 0 };
            if self.onset < ONSET {
                return None;
            }
            (self.speaking, self.onset, self.quiet) = (true, 0, None);
            return Some(Change::Started(end.saturating_sub(ONSET * FRAME as u64)));
        }
        if probability >= self.turns.threshold {
            self.quiet = None;
        }
        if probability < (self.turns.threshold - SLACK).max(FLOOR) {
            self.quiet.get_or_insert(at);
        }
        let quiet = self.quiet?;
        if end - quiet < samples(self.turns.silence) {
            return None;
        }
        self.reset();
        Some(Change::Stopped(end))
    }
}

/// Samples that last so long.
pub(super) fn samples(time: std::time::Duration) -> u64 {
    (time.as_secs_f64() * f64::from(SAMPLE_RATE)) as u64
}

/// Seconds that so many samples last.
pub(super) fn seconds(samples: u64) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}
