//! From samples to windows: who is heard in each, and what the speaker model makes of their voices.
//!
//! A recording passes through once, whatever its length: kept are the last window's samples and energies, and of each window
//! two bytes a frame and a vector a speaker.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use super::super::Error;
use super::windows::{Grid, Window, heard};
use crate::audio::Fbank;
use crate::engine::handle::Handle;
use crate::engine::job::{Event, Job};
use crate::engine::lane::embed::{ByRow, Input};
use crate::engine::worker::AnyJob;
use crate::model::segment::Segment;
use crate::model::speaker::Speaker;

/// Windows that are heard at a time.
const BATCH: usize = 12;
/// Seconds alone from which a voice is known by these; else all that it says counts.
const CLEAN: f32 = 0.5;
/// Seconds below which nothing is known of a voice.
const LEAST: f32 = 0.25;

/// The networks that a recording is heard with.
#[derive(Clone)]
pub(super) struct Networks {
    pub segment: Handle<Segment>,
    pub speaker: Handle<Speaker>,
}

/// Rows for a model, and their results when they are there.
pub(super) fn ask<M>(handle: &Handle<M>, rows: Vec<M::Row>) -> Result<Vec<M::Value>, Error>
where
    M: ByRow<Delta = Infallible>,
    AnyJob: From<Job<M>>,
{
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    match handle.submit(Input { rows }, None)?.blocking_recv() {
        Some(Event::Done(values)) => Ok(values),
        Some(Event::Delta(never)) => match never {},
        Some(Event::Failed(failure)) => Err(failure.into()),
        None => Err(Error::Internal { detail: "the worker dropped the job".to_owned() }),
    }
}

/// Hears one recording.
pub(super) struct Ear {
    networks: Networks,
    grid: Grid,
    fbank: Fbank,
    /// Samples from `dropped` on.
    samples: Vec<f32>,
    dropped: usize,
    /// Samples so far.
    count: usize,
    /// Frames of energies from `first_energies` on, and the samples that the next one begins with.
    energies: VecDeque<[f32; Fbank::BINS]>,
    first_energies: usize,
    /// The next window to be put into a batch.
    next: usize,
    batch: Vec<Arc<[f32]>>,
    /// Windows of a batch.
    at_once: usize,
    windows: Vec<Window>,
}

impl Ear {
    pub fn new(networks: Networks) -> Ear {
        let grid = Grid::new(networks.segment.front());
        let fbank = Fbank::new(networks.speaker.front().features);
        Ear {
            networks,
            grid,
            fbank,
            samples: Vec::new(),
            dropped: 0,
            count: 0,
            energies: VecDeque::new(),
            first_energies: 0,
            next: 0,
            batch: Vec::new(),
            at_once: BATCH,
            windows: Vec::new(),
        }
    }

    /// Of a stream: each window is heard as soon as it is there.
    pub fn live(networks: Networks) -> Ear {
        Ear { at_once: 1, ..Ear::new(networks) }
    }

    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Samples so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes the next samples, at 16 kHz.
    pub fn push(&mut self, samples: &[f32]) -> Result<(), Error> {
        self.count += samples.len();
        self.samples.extend_from_slice(samples);
        self.more_energies();
        while self.next * self.grid.stride() + self.grid.samples <= self.count {
            self.take_window();
            if self.batch.len() >= self.at_once {
                self.hear()?;
            }
        }
        self.forget();
        Ok(())
    }

    /// The windows of the samples so far, the last filled up with silence; more samples may follow.
    pub fn so_far(&mut self) -> Result<Vec<Window>, Error> {
        let (next, known) = (self.next - self.batch.len(), self.windows.len());
        let heard = self.rest();
        let windows = self.windows.clone();
        self.windows.truncate(known);
        self.batch.clear();
        self.next = next;
        heard.map(|()| windows)
    }

    /// The windows of all samples.
    pub fn finish(mut self) -> Result<Vec<Window>, Error> {
        self.rest()?;
        Ok(self.windows)
    }

    /// Hears what is left, the last window filled up with silence.
    fn rest(&mut self) -> Result<(), Error> {
        while self.next < self.grid.windows(self.count) {
            self.take_window();
        }
        self.hear()
    }

    /// Computes the energies of whole frames that are new.
    fn more_energies(&mut self) {
        let from = (self.first_energies + self.energies.len()) * Fbank::HOP;
        let Some(samples) = self.samples.get(from.saturating_sub(self.dropped)..) else { return };
        let rows = self.fbank.whole(samples);
        self.energies.extend(rows.as_chunks::<{ Fbank::BINS }>().0);
    }

    fn take_window(&mut self) {
        let from = (self.next * self.grid.stride()).saturating_sub(self.dropped);
        let there = self.samples.get(from..).unwrap_or_default();
        let mut window = vec![0f32; self.grid.samples];
        let count = there.len().min(window.len());
        window[..count].copy_from_slice(&there[..count]);
        self.batch.push(window.into());
        self.next += 1;
    }

    /// Hears the batch.
    fn hear(&mut self) -> Result<(), Error> {
        let first = self.next - self.batch.len();
        let scores = ask(&self.networks.segment, std::mem::take(&mut self.batch))?;
        let classes = self.networks.segment.front().classes;
        let mut windows: Vec<Window> =
            scores.iter().map(|scores| Window::new(heard(scores, classes), &self.grid)).collect();
        let (mut rows, mut whose) = (Vec::new(), Vec::new());
        for (at, window) in windows.iter().enumerate() {
            for speaker in 0..window.speakers.len() {
                if let Some(row) = self.voice(first + at, window, speaker) {
                    rows.push(row);
                    whose.push((at, speaker));
                }
            }
        }
        let embeddings = ask(&self.networks.speaker, rows)?;
        for ((at, speaker), embedding) in whose.into_iter().zip(embeddings) {
            windows[at].speakers[speaker].embedding = embedding;
        }
        self.windows.append(&mut windows);
        Ok(())
    }

    /// The energies of a speaker's voice in a window, if there is enough of it.
    fn voice(&self, at: usize, window: &Window, speaker: usize) -> Option<Arc<[f32]>> {
        let local = window.speakers.get(speaker)?;
        if local.active < LEAST {
            return None;
        }
        let alone = local.clean >= CLEAN;
        let start = at * self.grid.step;
        let spoken = self.grid.energies(at).filter(|frame| {
            let frame = self.grid.of_energies(*frame);
            frame.checked_sub(start).is_some_and(|frame| window.speaks(speaker, frame, alone))
        });
        let energies = spoken.filter_map(|frame| self.energies.get(frame.checked_sub(self.first_energies)?));
        let mut row: Vec<f32> = energies.flatten().copied().collect();
        self.fbank.floor(&mut row);
        let least = self.networks.speaker.front().least_frames * Fbank::BINS;
        (row.len() >= least).then(|| row.into())
    }

    /// Lets go of what no window to come needs.
    fn forget(&mut self) {
        let first = self.next - self.batch.len();
        let gone = (first * self.grid.stride() / Fbank::HOP).saturating_sub(self.first_energies);
        let gone = gone.min(self.energies.len());
        self.energies.drain(..gone);
        self.first_energies += gone;
        let coming = (self.first_energies + self.energies.len()) * Fbank::HOP;
        let keep = (self.next * self.grid.stride()).min(coming);
        let drop = keep.saturating_sub(self.dropped).min(self.samples.len());
        // Moving what stays costs more than keeping a little: a second at a time.
        if drop > 16_000 {
            self.samples.drain(..drop);
            self.dropped += drop;
        }
    }
}
