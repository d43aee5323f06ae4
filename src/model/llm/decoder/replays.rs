//! Steps in which every sequence gets one token, recorded on a GPU and run again.
//!
//! A recording is of so many rows and of tables so long; a step is filled up to the next of both. Rows that fill it up
//! write to a block of the cache that is nobody's. The first step of a size runs as any other does, which loads what it
//! needs; the second records. Tokens are [drawn](super::choose) behind the recording, by what each step says anew.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use super::Decoder;
use crate::model::Error;
use crate::model::llm::{Batch, Logits, Row};
use crate::ops::{Replay, Scratch, SteadyStep, argmax_rows};

/// Rows of recordings.
const ROWS: [usize; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64];

/// The recordings of a decoder.
#[derive(Default)]
pub(super) struct Replays {
    /// By rows and blocks of a table; `None` where the size was seen once.
    sizes: HashMap<(usize, usize), Option<Recorded>>,
    scratch: Scratch,
    /// What all of them fill.
    results: Option<Results>,
    /// Recording failed: steps run as they come.
    refused: bool,
}

struct Recorded {
    replay: Replay,
    step: SteadyStep,
    results: Results,
}

/// Of the largest recording: (rows, vocabulary) f32 and (rows) u32.
#[derive(Clone)]
struct Results {
    logits: Tensor,
    best: Tensor,
}

impl Decoder {
    /// The step by a recording; `None` where there is none for it, and the caller computes it.
    pub(super) fn replay(&mut self, batch: &Batch) -> Result<Option<Logits>, Error> {
        let single = |r: &Row| r.len == 1 && r.logits == 1;
        if !self.device.is_cuda() || self.replays.refused || self.config.experts.is_some() {
            return Ok(None);
        }
        let count = batch.rows.len();
        let Some(rows) = ROWS.into_iter().find(|rows| *rows >= count) else { return Ok(None) };
        if !batch.rows.iter().all(single) {
            return Ok(None);
        }
        let longest = batch.rows.iter().map(|r| r.table.len()).max().unwrap_or(1);
        let size = (rows, longest.next_power_of_two());
        match self.replays.sizes.get(&size) {
            None => {
                self.replays.sizes.insert(size, None);
                return Ok(None);
            }
            Some(None) => match self.record(size) {
                Ok(recorded) => drop(self.replays.sizes.insert(size, recorded)),
                Err(error) => {
                    self.replays.refused = true;
                    tracing::warn!(%error, "steps of decoding are not recorded; each asks the driver for every kernel");
                    return Ok(None);
                }
            },
            Some(Some(_)) => {}
        }
        let Some(Some(recorded)) = self.replays.sizes.get(&size) else { return Ok(None) };
        let (positions, slots) = self.place(batch)?;
        if let Some(far) = self.rope.first_past(&positions) {
            return Err(Error::Batch(format!(
                "position {far} is past the context of {}",
                self.rope.context()
            )));
        }
        let tables: Vec<&[u32]> = batch.rows.iter().map(|r| &r.table[..]).collect();
        recorded.step.fill(&batch.tokens, &positions, &slots, &tables, &self.cache)?;
        recorded.replay.run()?;
        let best = recorded.results.best.narrow(0, 0, count)?;
        self.read(&recorded.results.logits.narrow(0, 0, count)?, Some(&best), &batch.rows).map(Some)
    }

    fn record(&mut self, (rows, width): (usize, usize)) -> Result<Option<Recorded>, Error> {
        let Some(step) = SteadyStep::new(rows, width, &self.cache, &self.device)? else { return Ok(None) };
        let results = self.results()?;
        let mut scratch = std::mem::take(&mut self.replays.scratch);
        let replay = Replay::record(&self.device, &mut scratch, || {
            let fail = |error: Error| candle_core::Error::msg(error.to_string());
            let computed = self.output.forward(&self.forward(&step.step()).map_err(fail)?)?;
            results.best.slice_set(&argmax_rows(&computed)?, 0, 0)?;
            results.logits.slice_set(&computed, 0, 0)
        });
        self.replays.scratch = scratch;
        Ok(replay?.map(|replay| Recorded { replay, step, results }))
    }

    fn results(&mut self) -> Result<Results, Error> {
        if let Some(results) = &self.replays.results {
            return Ok(results.clone());
        }
        let rows = ROWS.into_iter().max().unwrap_or(1);
        let logits = Tensor::zeros((rows, self.config.vocabulary), DType::F32, &self.device)?;
        let best = Tensor::zeros(rows, DType::U32, &self.device)?;
        Ok(self.replays.results.insert(Results { logits, best }).clone())
    }
}
