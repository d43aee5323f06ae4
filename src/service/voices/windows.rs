//! What a segmentation model heard in windows that overlap, on one grid of frames.

use std::ops::Range;

use crate::audio::Fbank;
use crate::model::segment::Front;

/// A speaker of one window: others of the same number elsewhere are nobody in particular.
#[derive(Debug, Clone, Default)]
pub(super) struct Local {
    /// What the speaker model makes of the voice, of length 1; empty where there is too little of it.
    pub embedding: Vec<f32>,
    /// Seconds in which it speaks alone.
    pub clean: f32,
    /// Seconds in which it speaks.
    pub active: f32,
}

/// A window.
#[derive(Debug, Clone)]
pub(super) struct Window {
    /// Who speaks in each frame: bit `i` is speaker `i`.
    pub heard: Vec<u8>,
    pub speakers: Vec<Local>,
}

/// How windows lie over a recording. Frames of all windows fall on one grid: windows begin a whole number of frames apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// Frames of a window.
    pub frames: usize,
    /// Frames from one window to the next.
    pub step: usize,
    /// Samples of a window.
    pub samples: usize,
    /// Samples from one frame to the next.
    pub hop: usize,
    /// Samples from the beginning of a window to the middle of its first frame.
    pub first: usize,
    /// Speakers that a window tells apart.
    pub speakers: usize,
}

impl Grid {
    /// A quarter of a window apart: every moment is heard four times.
    pub fn new(front: &Front) -> Grid {
        let &Front { samples, frames, hop, first, speakers, .. } = front;
        Grid { frames, step: (samples / 4 / hop).max(1), samples, hop, first, speakers }
    }

    /// Samples from one window to the next.
    pub fn stride(&self) -> usize {
        self.step * self.hop
    }

    /// Windows of a recording: the last is filled up with silence.
    pub fn windows(&self, samples: usize) -> usize {
        match samples {
            0 => 0,
            samples => samples.saturating_sub(self.samples).div_ceil(self.stride()) + 1,
        }
    }

    /// Frames of a recording of so many windows.
    pub fn all_frames(&self, windows: usize) -> usize {
        windows.checked_sub(1).map_or(0, |last| last * self.step + self.frames)
    }

    /// The windows, of so many, that hear a frame of the recording.
    pub fn covering(&self, frame: usize, windows: usize) -> Range<usize> {
        (frame + 1).saturating_sub(self.frames).div_ceil(self.step)..(frame / self.step + 1).min(windows)
    }

    /// The second in which a frame of the recording begins: each lasts until the next.
    pub fn begin(&self, frame: usize) -> f64 {
        self.seconds(frame) - self.hop_seconds() / 2.0
    }

    /// The second in the middle of a frame of the recording.
    pub fn seconds(&self, frame: usize) -> f64 {
        (self.first + frame * self.hop) as f64 / 16_000.0
    }

    /// Seconds from one frame to the next.
    pub fn hop_seconds(&self) -> f64 {
        self.hop as f64 / 16_000.0
    }

    /// The frame of the recording that is nearest to the middle of a frame of energies.
    pub fn of_energies(&self, at: usize) -> usize {
        (at * Fbank::HOP + Fbank::MIDDLE + self.hop / 2).saturating_sub(self.first) / self.hop
    }

    /// Frames of energies that lie in a window, by the recording's numbers.
    pub fn energies(&self, window: usize) -> Range<usize> {
        let start = window * self.stride();
        start.div_ceil(Fbank::HOP)..(start + self.samples) / Fbank::HOP
    }
}

/// The likeliest class of every frame, as who is heard.
pub(super) fn heard(scores: &[f32], classes: &[u8]) -> Vec<u8> {
    let most = |frame: &[f32]| {
        let best = frame.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.and_then(|(class, _)| classes.get(class)).copied().unwrap_or(0)
    };
    scores.chunks_exact(classes.len().max(1)).map(most).collect()
}

impl Window {
    /// A window by who is heard in it, nobody's voice known yet.
    pub fn new(heard: Vec<u8>, grid: &Grid) -> Window {
        let speakers = (0..grid.speakers).map(|speaker| {
            let bit = 1u8 << speaker;
            let seconds = |count: usize| (count as f64 * grid.hop_seconds()) as f32;
            Local {
                embedding: Vec::new(),
                clean: seconds(heard.iter().filter(|who| **who == bit).count()),
                active: seconds(heard.iter().filter(|who| **who & bit != 0).count()),
            }
        });
        Window { speakers: speakers.collect(), heard }
    }

    /// Whether a frame belongs to what is known of a speaker's voice: it speaks, alone if `alone`.
    pub fn speaks(&self, speaker: usize, frame: usize, alone: bool) -> bool {
        let bit = 1u8 << speaker;
        self.heard.get(frame).is_some_and(|who| if alone { *who == bit } else { who & bit != 0 })
    }
}
