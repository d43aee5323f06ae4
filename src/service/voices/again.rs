//! The second hearing: stretches in which one speaker is heard alone, each by itself.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::super::listen::read;
use super::super::{Error, Upload};
use super::ear::{Networks, ask};
use super::sample::Frames;
use super::turns::{Piece, Scene};
use crate::audio::{self, Fbank};

/// Frames below which a piece stays whose it is: half a second.
const LEAST: usize = 50;
/// Pieces that are heard at a time.
const BATCH: usize = 16;

/// Hears all pieces of a recording once more and gives each to the voice that it is clearly more like.
pub(super) fn hear_again(
    networks: &Networks,
    scene: &mut Scene,
    voices: &[Vec<f32>],
    mut upload: Upload,
    limits: &audio::Limits,
    wanted: &AtomicBool,
) -> Result<(), Error> {
    let pieces = scene.pieces();
    if voices.len() < 2 || pieces.is_empty() {
        return Ok(());
    }
    upload.rewind()?;
    let mut frames = Frames::new(Fbank::new(networks.speaker.front().features));
    let fbank = Fbank::new(networks.speaker.front().features);
    let mut pending = Pending { networks, fbank, scene, voices, batch: Vec::new(), row: Vec::new() };
    let mut pieces = pieces.into_iter().peekable();
    read(upload, limits, wanted, &mut |samples| {
        let mut failed = None;
        frames.push(samples, |at, _, energies| {
            while let Some(piece) = pieces.next_if(|piece| pending.end(piece) <= at) {
                failed = failed.take().or(pending.close(piece).err());
            }
            if pieces.peek().is_some_and(|piece| pending.begin(piece) <= at) {
                pending.row.extend_from_slice(energies);
            }
        });
        failed.map_or(Ok(()), Err)
    })?;
    for piece in pieces {
        pending.close(piece)?;
    }
    pending.hear()
}

/// Pieces whose energies are known.
struct Pending<'a> {
    networks: &'a Networks,
    /// What is below the loudest of a piece by far is raised.
    fbank: Fbank,
    scene: &'a mut Scene,
    voices: &'a [Vec<f32>],
    batch: Vec<(Piece, Arc<[f32]>)>,
    /// Energies of the piece that is passing.
    row: Vec<f32>,
}

impl Pending<'_> {
    /// The first sample of a piece, and the one behind its last.
    fn begin(&self, piece: &Piece) -> usize {
        self.scene.sample(piece.frames.start)
    }

    fn end(&self, piece: &Piece) -> usize {
        self.scene.sample(piece.frames.end)
    }

    /// All of a piece has passed.
    fn close(&mut self, piece: Piece) -> Result<(), Error> {
        let mut row = std::mem::take(&mut self.row);
        self.fbank.floor(&mut row);
        let least = LEAST.max(self.networks.speaker.front().least_frames);
        if row.len() >= least * Fbank::BINS {
            self.batch.push((piece, row.into()));
        }
        if self.batch.len() >= BATCH { self.hear() } else { Ok(()) }
    }

    fn hear(&mut self) -> Result<(), Error> {
        let (pieces, rows): (Vec<Piece>, Vec<Arc<[f32]>>) =
            std::mem::take(&mut self.batch).into_iter().unzip();
        let embeddings = ask(&self.networks.speaker, rows)?;
        for (piece, embedding) in pieces.iter().zip(&embeddings) {
            self.scene.judge(piece, embedding, self.voices);
        }
        Ok(())
    }
}
