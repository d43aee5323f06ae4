//! What is to be known of parts of a recording, each of one person.
//!
//! Who speaks when is known by then. The recording passes through a second time, and of each part the frames are kept in
//! which the voice heard most speaks alone, up to a bound: so memory does not grow with the recording.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::super::listen::read;
use super::super::{Error, Upload};
use super::ear::{Networks, ask};
use super::who::direction;
use crate::audio::{self, Fbank};
use crate::types::asr::SAMPLE_RATE;
use crate::types::speaker::{Diarization, Part, Sample, Turn};

/// Frames of a part that are kept: a minute and a half. More of a voice says no more of it.
const MAX_FRAMES: usize = 9_000;
/// Frames of all parts together, an hour, which take 115 MB; and of a part however many there are.
const ALL_FRAMES: usize = 360_000;
const LEAST_FRAMES: usize = 300;
/// Frames that the speaker model hears at a time, and how far apart these pieces begin.
const PIECE: usize = 300;
const HOP: usize = 150;
/// Power below which there is digital silence: a half of the last of 16 bits.
const SILENCE: f64 = 2.3e-10;
/// Seconds without speech from which their level is known.
const LEAST_PAUSE: f64 = 0.3;

/// What is found of each part; of the whole, where there are none.
pub(super) fn samples(
    networks: &Networks,
    found: &Diarization,
    mut upload: Upload,
    limits: &audio::Limits,
    parts: &[Part],
    wanted: &AtomicBool,
) -> Result<Vec<Sample>, Error> {
    upload.rewind()?;
    let whole = [Part { start: 0, end: usize::MAX }];
    let parts = if parts.is_empty() { &whole } else { parts };
    let room = (ALL_FRAMES / parts.len()).clamp(LEAST_FRAMES, MAX_FRAMES);
    let mut picks: Vec<Pick> = parts.iter().map(|part| Pick::new(*part, found, room)).collect();
    // By their start, so that each frame is looked for in few of them.
    let mut order: Vec<usize> = (0..picks.len()).collect();
    order.sort_by_key(|&at| picks[at].part.start);
    let mut frames = Frames::new(Fbank::new(networks.speaker.front().features));
    // Before it all parts are over.
    let mut first = 0;
    read(upload, limits, wanted, &mut |samples| {
        frames.push(samples, |at, power, energies| {
            while first < order.len() && picks[order[first]].part.end <= at {
                first += 1;
            }
            for &pick in &order[first..] {
                let pick = &mut picks[pick];
                if pick.part.start > at {
                    break;
                }
                if at < pick.part.end {
                    pick.frame(at, power, energies);
                }
            }
        });
        Ok(())
    })?;
    let fbank = &frames.fbank;
    picks.into_iter().map(|pick| pick.sample(networks, fbank)).collect()
}

/// Frames of a recording as it passes.
pub(super) struct Frames {
    fbank: Fbank,
    pending: Vec<f32>,
    /// The sample that `pending` begins with.
    at: usize,
}

impl Frames {
    pub fn new(fbank: Fbank) -> Frames {
        Frames { fbank, pending: Vec::new(), at: 0 }
    }

    /// Calls `f` for each frame: its middle sample, the power of the samples up to the next, the energies.
    pub fn push(&mut self, samples: &[f32], mut f: impl FnMut(usize, f64, &[f32])) {
        self.pending.extend_from_slice(samples);
        let energies = self.fbank.whole(&self.pending);
        let count = energies.len() / Fbank::BINS;
        for (frame, energies) in energies.chunks_exact(Fbank::BINS).enumerate() {
            let samples = &self.pending[frame * Fbank::HOP..][..Fbank::HOP];
            let power =
                samples.iter().map(|s| f64::from(*s) * f64::from(*s)).sum::<f64>() / Fbank::HOP as f64;
            f(self.at + frame * Fbank::HOP + Fbank::MIDDLE, power, energies);
        }
        self.pending.drain(..count * Fbank::HOP);
        self.at += count * Fbank::HOP;
    }
}

/// A part on its way to a sample.
struct Pick {
    part: Part,
    /// Samples in which the voice heard most speaks alone, and in which anyone speaks.
    alone: Vec<Range<usize>>,
    anyone: Vec<Range<usize>>,
    /// Seconds of speech, and those of other voices.
    speech: f64,
    others: f64,
    kept: Vec<f32>,
    /// Frames that are kept at most.
    room: usize,
    /// Sum of the power, and frames: with speech and without.
    levels: [(f64, usize); 2],
    /// The last sample of it that passed.
    end: usize,
}

impl Pick {
    fn new(part: Part, found: &Diarization, room: usize) -> Pick {
        let range = |turn: &Turn| {
            let sample = |at: f64| (at * f64::from(SAMPLE_RATE)) as usize;
            sample(turn.start).max(part.start)..sample(turn.end).min(part.end)
        };
        let within = |turns: &[Turn], voice: Option<usize>| -> Vec<Range<usize>> {
            let of = turns.iter().filter(|turn| voice.is_none_or(|voice| turn.speaker == voice));
            of.map(range).filter(|range| !range.is_empty()).collect()
        };
        let seconds = |ranges: &[Range<usize>]| {
            ranges.iter().map(ExactSizeIterator::len).sum::<usize>() as f64 / f64::from(SAMPLE_RATE)
        };
        let each: Vec<f64> =
            (0..found.voices.len()).map(|voice| seconds(&within(&found.exclusive, Some(voice)))).collect();
        let most = (0..each.len()).max_by(|a, b| each[*a].total_cmp(&each[*b]));
        let speech: f64 = each.iter().sum();
        let mine = most.map_or(0.0, |most| each[most]);
        // Where two speak at once neither is known.
        let mut alone = most.map(|most| within(&found.exclusive, Some(most))).unwrap_or_default();
        for turn in found.turns.iter().filter(|turn| Some(turn.speaker) != most) {
            alone = without(&alone, &range(turn));
        }
        Pick {
            part,
            alone,
            anyone: within(&found.turns, None),
            speech,
            others: speech - mine,
            kept: Vec::new(),
            room,
            levels: [(0.0, 0); 2],
            end: part.start,
        }
    }

    fn frame(&mut self, at: usize, power: f64, energies: &[f32]) {
        let is_in = |ranges: &[Range<usize>]| ranges.iter().any(|range| range.contains(&at));
        let level = &mut self.levels[usize::from(!is_in(&self.anyone))];
        *level = (level.0 + power, level.1 + 1);
        if self.kept.len() < self.room * Fbank::BINS && is_in(&self.alone) {
            self.kept.extend_from_slice(energies);
        }
        self.end = at;
    }

    fn sample(mut self, networks: &Networks, fbank: &Fbank) -> Result<Sample, Error> {
        let seconds =
            self.end.min(self.part.end).saturating_sub(self.part.start) as f64 / f64::from(SAMPLE_RATE);
        fbank.floor(&mut self.kept);
        let [speech, pause] = self.levels;
        let mean = |(sum, count): (f64, usize)| (sum / count.max(1) as f64).max(SILENCE);
        let known =
            pause.1 as f64 * Fbank::HOP as f64 / f64::from(SAMPLE_RATE) >= LEAST_PAUSE && speech.1 > 0;
        let snr = 10.0 * (mean(speech) / mean(pause)).log10();
        Ok(Sample {
            seconds,
            speech: self.speech,
            snr_db: known.then_some(snr as f32),
            others: if self.speech > 0.0 { (self.others / self.speech) as f32 } else { 0.0 },
            embedding: embed(networks, &self.kept)?,
        })
    }
}

/// Ranges without what lies in `gone`.
fn without(ranges: &[Range<usize>], gone: &Range<usize>) -> Vec<Range<usize>> {
    let parts = ranges.iter().flat_map(|r| [r.start..r.end.min(gone.start), r.start.max(gone.end)..r.end]);
    parts.filter(|range| !range.is_empty()).collect()
}

/// The mean of what the speaker model makes of pieces of a voice, of length 1; empty of too little.
fn embed(networks: &Networks, kept: &[f32]) -> Result<Vec<f32>, Error> {
    let frames = kept.len() / Fbank::BINS;
    if frames < networks.speaker.front().least_frames {
        return Ok(Vec::new());
    }
    let last = frames.saturating_sub(PIECE);
    let starts = (0..last.div_ceil(HOP)).map(|i| i * HOP).chain([last]);
    let rows: Vec<Arc<[f32]>> = starts
        .map(|start| kept[start * Fbank::BINS..(start + PIECE).min(frames) * Fbank::BINS].into())
        .collect();
    let vectors = ask(&networks.speaker, rows)?;
    Ok(direction(vectors.iter().map(Vec::as_slice)).unwrap_or_default())
}
