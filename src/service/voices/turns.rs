//! From windows and the voices of a recording to turns.
//!
//! Every frame is heard in several windows. How many speak in it is their mean, rounded (Bredin, "pyannote.audio 2.1 speaker
//! diarization pipeline", 2023); who, those whose voices the speakers that the windows hear in it are most like, all
//! together. No window decides whose voice it heard: what one mistakes the others make good.

use super::dot;
use super::windows::{Grid, Local, Window};
use crate::types::speaker::Turn;

/// A pause that is not longer does not end a turn, in seconds.
const MIN_PAUSE: f64 = 0.2;
/// A turn that is shorter is none, in seconds.
const MIN_TURN: f64 = 0.2;

/// How alike the voices of one window's speakers are to those of the recording: `[speaker][voice]`, nothing where a
/// speaker's is not known.
type Alike = Vec<Vec<f32>>;

/// Who speaks when, and who is heard best when.
pub(super) fn turns(windows: &[Window], voices: &[Vec<f32>], grid: &Grid) -> (Vec<Turn>, Vec<Turn>) {
    let alike: Vec<Alike> = windows.iter().map(|window| alike(window, voices)).collect();
    let frames =
        windows.len().saturating_sub(1) * grid.step + if windows.is_empty() { 0 } else { grid.frames };
    let (mut all, mut one) = (Track::new(voices.len()), Track::new(voices.len()));
    let mut heard = vec![0f32; voices.len()];
    for frame in 0..frames {
        heard.fill(0.0);
        let count = hear(windows, &alike, frame, grid, &mut heard);
        let mut speaking: Vec<usize> = (0..voices.len()).filter(|&voice| heard[voice] > 0.0).collect();
        speaking.sort_by(|a, b| heard[*b].total_cmp(&heard[*a]));
        speaking.truncate(count);
        all.frame(frame, &speaking);
        one.frame(frame, speaking.get(..1).unwrap_or_default());
    }
    (all.finish(frames, grid), one.finish(frames, grid))
}

fn alike(window: &Window, voices: &[Vec<f32>]) -> Alike {
    let speakers = window.speakers.iter();
    // Where there is one voice it is that, however little is known.
    let of = |local: &Local| match (voices, local.embedding.as_slice()) {
        ([_], _) => vec![1.0],
        (_, []) => Vec::new(),
        (voices, embedding) => voices.iter().map(|voice| dot(embedding, voice)).collect(),
    };
    speakers.map(of).collect()
}

/// How much of each voice is heard in a frame, into `heard`, and how many speak in it.
fn hear(windows: &[Window], alike: &[Alike], frame: usize, grid: &Grid, heard: &mut [f32]) -> usize {
    let first = (frame + 1).saturating_sub(grid.frames).div_ceil(grid.step);
    let last = (frame / grid.step).min(windows.len().saturating_sub(1));
    let (mut speakers, mut hearing) = (0, 0);
    for at in first..=last {
        let (Some(window), Some(alike)) = (windows.get(at), alike.get(at)) else { continue };
        hearing += 1;
        let within = frame - at * grid.step;
        for (speaker, alike) in alike.iter().enumerate() {
            if window.speaks(speaker, within, false) {
                speakers += 1;
                heard.iter_mut().zip(alike).for_each(|(heard, alike)| *heard += alike);
            }
        }
    }
    if hearing > 0 { (2 * speakers + hearing) / (2 * hearing) } else { 0 }
}

/// The runs of frames in which each voice speaks.
struct Track {
    /// Where the run that goes on began, a voice each.
    since: Vec<Option<usize>>,
    /// Voice, first frame, frame behind the last.
    runs: Vec<(usize, usize, usize)>,
}

impl Track {
    fn new(voices: usize) -> Track {
        Track { since: vec![None; voices], runs: Vec::new() }
    }

    fn frame(&mut self, frame: usize, speaking: &[usize]) {
        for (voice, since) in self.since.iter_mut().enumerate() {
            match (speaking.contains(&voice), *since) {
                (true, None) => *since = Some(frame),
                (false, Some(start)) => {
                    self.runs.push((voice, start, frame));
                    *since = None;
                }
                _ => {}
            }
        }
    }

    /// The turns, in order of their start.
    fn finish(mut self, frames: usize, grid: &Grid) -> Vec<Turn> {
        let open =
            self.since.iter().enumerate().filter_map(|(voice, since)| Some((voice, (*since)?, frames)));
        self.runs.extend(open);
        self.runs.sort_unstable();
        let mut turns: Vec<Turn> = Vec::new();
        for (speaker, first, end) in self.runs {
            let half = grid.hop_seconds() / 2.0;
            let (start, end) = (grid.seconds(first) - half, grid.seconds(end) - half);
            match turns.last_mut() {
                Some(last) if last.speaker == speaker && start - last.end <= MIN_PAUSE => last.end = end,
                _ => turns.push(Turn { start, end, speaker }),
            }
        }
        turns.retain(|turn| turn.end - turn.start >= MIN_TURN);
        turns.sort_by(|a, b| a.start.total_cmp(&b.start).then(a.speaker.cmp(&b.speaker)));
        turns
    }
}
