//! From windows and the voices of a recording to turns.
//!
//! Every frame is heard in several windows. How many speak in it is their mean, rounded (Bredin, "pyannote.audio 2.1 speaker
//! diarization pipeline", 2023); who, those whose voices the speakers that the windows hear in it are most like, all
//! together. No window decides whose voice it heard: what one mistakes the others make good.
//!
//! A speaker of a window may be two people in turn. So stretches in which one speaks alone are heard once more, each by
//! itself ([`Piece`]), and are whoever's they are clearly more like.

use std::ops::Range;

use super::dot;
use super::windows::{Grid, Local, Window};
use crate::types::asr::SAMPLE_RATE;
use crate::types::speaker::{Diarization, Turn, Voice};

/// A pause that is not longer does not end a turn, in seconds.
const MIN_PAUSE: f64 = 0.2;
/// A turn that is shorter is none, in seconds.
const MIN_TURN: f64 = 0.2;
/// Stretches of one speaker that are heard once more: at least, and at most at a time, in seconds.
const PIECE: f64 = 0.8;
const LONGEST: f64 = 2.5;
/// By how much a stretch must be more like another voice to be taken for that.
const BETTER: f32 = 0.1;
/// Speakers of a frame.
const AT_ONCE: usize = 3;
/// Nobody.
const NOBODY: u16 = u16::MAX;

/// Who speaks in each frame of a recording, whoever is heard best first.
pub(super) struct Scene {
    frames: Vec<[u16; AT_ONCE]>,
    grid: Grid,
}

/// A stretch in which one speaks alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub frames: Range<usize>,
    pub voice: usize,
}

/// How alike the voices of one window's speakers are to those of the recording: `[speaker][voice]`, nothing where a
/// speaker's is not known.
type Alike = Vec<Vec<f32>>;

fn alike(window: &Window, voices: &[Vec<f32>]) -> Alike {
    // Where there is one voice it is that, however little is known.
    let of = |local: &Local| match (voices, local.embedding.as_slice()) {
        ([_], _) => vec![1.0],
        (_, []) => Vec::new(),
        (voices, embedding) => voices.iter().map(|voice| dot(embedding, voice)).collect(),
    };
    window.speakers.iter().map(of).collect()
}

impl Scene {
    /// What the windows say together.
    pub fn new(windows: &[Window], voices: &[Vec<f32>], grid: &Grid) -> Scene {
        let alike: Vec<Alike> = windows.iter().map(|window| alike(window, voices)).collect();
        let mut heard = vec![0f32; voices.len()];
        let frame = |frame| {
            heard.fill(0.0);
            let count = hear(windows, &alike, frame, grid, &mut heard);
            let mut speaking: Vec<usize> = (0..heard.len()).filter(|&voice| heard[voice] > 0.0).collect();
            speaking.sort_by(|a, b| heard[*b].total_cmp(&heard[*a]));
            let mut all = [NOBODY; AT_ONCE];
            for (slot, voice) in all.iter_mut().zip(speaking.into_iter().take(count)) {
                *slot = u16::try_from(voice).unwrap_or(NOBODY);
            }
            all
        };
        Scene { frames: (0..grid.all_frames(windows.len())).map(frame).collect(), grid: *grid }
    }

    /// The sample that a frame begins with.
    pub fn sample(&self, frame: usize) -> usize {
        (self.grid.begin(frame).max(0.0) * f64::from(SAMPLE_RATE)).ceil() as usize
    }

    /// Stretches to be heard once more, in order.
    pub fn pieces(&self) -> Vec<Piece> {
        let alone =
            |frame: &[u16; AT_ONCE]| Some(frame[0]).filter(|&who| who != NOBODY && frame[1] == NOBODY);
        let mut pieces = Vec::new();
        let mut start = 0;
        for run in self.frames.chunk_by(|a, b| alone(a) == alone(b)) {
            let (from, length) = (start, run.len());
            start += length;
            let seconds = length as f64 * self.grid.hop_seconds();
            let Some(voice) = alone(&run[0]).filter(|_| seconds >= PIECE) else { continue };
            let parts = (seconds / LONGEST).ceil().max(1.0) as usize;
            let edge = |i: usize| from + (2 * i * length + parts) / (2 * parts);
            pieces.extend(
                (0..parts).map(|i| Piece { frames: edge(i)..edge(i + 1), voice: usize::from(voice) }),
            );
        }
        pieces
    }

    /// Gives a piece to the voice that it is clearly more like.
    pub fn judge(&mut self, piece: &Piece, embedding: &[f32], voices: &[Vec<f32>]) {
        let scores: Vec<f32> = voices.iter().map(|voice| dot(embedding, voice)).collect();
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let (Some(best), Some(now)) = (best, scores.get(piece.voice)) else { return };
        if let Ok(voice) = u16::try_from(best)
            && scores[best] - now > BETTER
            && let Some(frames) = self.frames.get_mut(piece.frames.clone())
        {
            frames.iter_mut().for_each(|frame| frame[0] = voice);
        }
    }

    /// Who spoke when, numbered by the order in which they are first heard; those who are not heard are none.
    pub fn finish(&self, voices: &[Vec<f32>], duration: f64) -> Diarization {
        let mut turns = self.turns(voices.len(), duration, |frame, voice| frame.contains(&voice));
        let mut exclusive = self.turns(voices.len(), duration, |frame, voice| frame[0] == voice);
        let mut order: Vec<usize> = Vec::new();
        for turn in &turns {
            if !order.contains(&turn.speaker) {
                order.push(turn.speaker);
            }
        }
        exclusive.retain(|turn| order.contains(&turn.speaker));
        for turn in turns.iter_mut().chain(&mut exclusive) {
            turn.speaker = order.iter().position(|&speaker| speaker == turn.speaker).unwrap_or(0);
        }
        let voice = |(at, &speaker): (usize, &usize)| Voice {
            embedding: voices.get(speaker).cloned().unwrap_or_default(),
            seconds: turns.iter().filter(|turn| turn.speaker == at).map(|turn| turn.end - turn.start).sum(),
        };
        let voices = order.iter().enumerate().map(voice).collect();
        Diarization { duration, turns, exclusive, voices }
    }

    fn turns(
        &self,
        voices: usize,
        duration: f64,
        speaks: impl Fn(&[u16; AT_ONCE], u16) -> bool,
    ) -> Vec<Turn> {
        let mut turns: Vec<Turn> = Vec::new();
        for voice in (0..voices).filter_map(|voice| u16::try_from(voice).ok()) {
            let (speaker, mut at, first) = (usize::from(voice), 0, turns.len());
            for run in self.frames.chunk_by(|a, b| speaks(a, voice) == speaks(b, voice)) {
                let (from, to) = (at, at + run.len());
                at = to;
                if !speaks(&run[0], voice) {
                    continue;
                }
                let (start, end) = (self.grid.begin(from), self.grid.begin(to).min(duration));
                match turns[first..].last_mut() {
                    Some(last) if start - last.end <= MIN_PAUSE => last.end = end.max(last.end),
                    _ => turns.push(Turn { start: start.max(0.0), end, speaker }),
                }
            }
        }
        turns.retain(|turn| turn.end - turn.start >= MIN_TURN);
        turns.sort_by(|a, b| a.start.total_cmp(&b.start).then(a.speaker.cmp(&b.speaker)));
        turns
    }
}

/// How much of each voice is heard in a frame, into `heard`, and how many speak in it.
fn hear(windows: &[Window], alike: &[Alike], frame: usize, grid: &Grid, heard: &mut [f32]) -> usize {
    let (mut speakers, mut hearing) = (0, 0);
    for at in grid.covering(frame, windows.len()) {
        let (Some(window), Some(alike)) = (windows.get(at), alike.get(at)) else { continue };
        hearing += 1;
        for (speaker, alike) in alike.iter().enumerate() {
            if window.speaks(speaker, frame - at * grid.step, false) {
                speakers += 1;
                heard.iter_mut().zip(alike).for_each(|(heard, alike)| *heard += alike);
            }
        }
    }
    if hearing > 0 { (2 * speakers + hearing) / (2 * hearing) } else { 0 }
}
