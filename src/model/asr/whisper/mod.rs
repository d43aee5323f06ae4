//! Whisper (Radford et al., 2022; reference implementation openai/whisper), every size.
//!
//! Data in and out is plain: a scheduler that owns slots encodes a window into a slot, then appends tokens to
//! any number of slots a call, each at a position of its own.

mod config;
mod decoder;
mod encoder;
mod layers;
#[cfg(test)]
mod tests;
mod weights;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use crate::model::asr::vocab::Vocab;
use crate::model::asr::{Asr, Batch, Error, Front, Loaded, Row, RowLogits};
use crate::model::{self, Model};
use crate::types::model::Format;

pub use config::{Config, WINDOW};
use decoder::{Cache, Decoder, Step};
use encoder::Encoder;
use layers::Precision;
use weights::Source;

/// Most slots a model may be given.
const MAX_SLOTS: usize = 256;

/// A loaded model and the state of its sequences.
pub struct WhisperModel {
    config: Config,
    encoder: Encoder,
    decoder: Decoder,
    slots: Vec<Slot>,
    device: Device,
}

/// One sequence's state. Invariant: positions below `filled` of its cache hold the window's tokens.
#[derive(Default)]
struct Slot {
    cache: Option<Cache>,
    filled: usize,
}

impl WhisperModel {
    /// Loads a model folder, with room for `slots` sequences (their memory is taken when first used).
    pub fn load(folder: &Path, format: Format, device: &Device, slots: usize) -> Result<WhisperModel, Error> {
        WhisperModel::load_with(folder, format, device, slots, Precision::Half)
    }

    fn load_with(
        folder: &Path,
        format: Format,
        device: &Device,
        slots: usize,
        precision: Precision,
    ) -> Result<WhisperModel, Error> {
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(call(format!("{slots} slots asked for, 1 to {MAX_SLOTS} are possible")));
        }
        let (source, config) = Source::open(folder, format)?;
        Ok(WhisperModel {
            encoder: Encoder::load(&source, &config, device)?,
            decoder: Decoder::load(&source, &config, precision, device)?,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            device: device.clone(),
            config,
        })
    }

    /// The model's dimensions: mel bins, vocabulary, context.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many sequences there is room for.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Encodes a window of `mels` x 3000, bin-major as [`crate::types::asr::LogMel::window`] gives it, for
    /// the sequence in `slot`, which starts anew.
    pub fn encode(&mut self, slot: usize, mel: &[f32]) -> Result<(), Error> {
        self.encode_batch(&[(slot, mel)])
    }

    /// Encodes windows for several slots at once.
    pub fn encode_batch(&mut self, windows: &[(usize, &[f32])]) -> Result<(), Error> {
        let needed = self.config.mels * WINDOW;
        for (i, (slot, mel)) in windows.iter().enumerate() {
            if *slot >= self.slots.len() || windows.iter().take(i).any(|(other, _)| other == slot) {
                return Err(call(format!("slot {slot} is not there, or named twice")));
            }
            if mel.len() != needed {
                return Err(call(format!("a window of {} values, {needed} are needed", mel.len())));
            }
        }
        let mels: Vec<&[f32]> = windows.iter().map(|(_, mel)| *mel).collect();
        let encoded = self.encoder.forward(&mels, &self.device)?;
        for (i, &(slot, _)) in windows.iter().enumerate() {
            let slot = &mut self.slots[slot];
            slot.filled = 0;
            let cache = match &mut slot.cache {
                Some(cache) => cache,
                empty => empty.insert(self.decoder.cache(&self.config, &self.device)?),
            };
            self.decoder.set_window(cache, &encoded.get(i)?)?;
        }
        Ok(())
    }

    /// Appends tokens to sequences, one row a slot; gives each row's logits in the same order.
    pub fn decode(&mut self, rows: &[Row]) -> Result<Vec<RowLogits>, Error> {
        self.check(rows)?;
        let mut steps = Vec::with_capacity(rows.len());
        let mut wanted = Vec::new();
        let mut packed = 0;
        for row in rows {
            let cache = self.slots[row.slot].cache.as_ref();
            let cache = cache.ok_or_else(|| call(format!("slot {} has no window", row.slot)))?;
            steps.push(Step { cache, tokens: &row.tokens, position: row.position });
            wanted.extend(row.probe.map(|p| (packed + p) as u32));
            packed += row.tokens.len();
            wanted.push((packed - 1) as u32);
        }
        let mut logits = self.decoder.forward(&steps, &wanted)?.to_vec2::<f32>()?.into_iter();
        let mut next = || logits.next().unwrap_or_default();
        let outputs =
            rows.iter().map(|row| RowLogits { probe: row.probe.map(|_| next()), last: next() }).collect();
        for row in rows {
            self.slots[row.slot].filled = row.position + row.tokens.len();
        }
        Ok(outputs)
    }

    fn check(&self, rows: &[Row]) -> Result<(), Error> {
        if rows.is_empty() {
            return Err(call("no rows to decode".into()));
        }
        for (i, row) in rows.iter().enumerate() {
            let slot = self.slots.get(row.slot).filter(|s| s.cache.as_ref().is_some_and(Cache::has_window));
            let filled = slot.map(|s| s.filled);
            let problem = if filled.is_none() {
                "the slot has no window"
            } else if rows.iter().take(i).any(|other| other.slot == row.slot) {
                "the slot has two rows"
            } else if row.tokens.is_empty() || row.probe.is_some_and(|p| p >= row.tokens.len()) {
                "a row without tokens, or a probe past them"
            } else if filled.is_some_and(|filled| row.position > filled) {
                "a gap before the row's position"
            } else if row.position + row.tokens.len() > self.config.text_context {
                "the context is full"
            } else if row.tokens.iter().any(|&t| t as usize >= self.config.vocab) {
                "a token past the vocabulary"
            } else {
                continue;
            };
            return Err(call(format!("row {i}, slot {}, position {}: {problem}", row.slot, row.position)));
        }
        Ok(())
    }
}

fn call(reason: String) -> Error {
    Error::Call { reason }
}

/// Loads a folder and its vocabulary; the registry's entry.
pub fn load(folder: &Path, format: Format, device: &Device, slots: usize) -> Result<Loaded, Error> {
    let vocab = Arc::new(Vocab::load(folder)?);
    let model = WhisperModel::load(folder, format, device, slots)?;
    let front = Front { vocab, mels: model.config.mels, context: model.config.text_context };
    Ok(Loaded { model: Box::new(model), front })
}

impl Model<Asr> for WhisperModel {
    fn step(&mut self, batch: &Batch) -> Result<Vec<RowLogits>, model::Error> {
        match batch {
            Batch::Encode(windows) => {
                let windows: Vec<(usize, &[f32])> =
                    windows.iter().map(|(s, mel)| (*s, mel.as_slice())).collect();
                self.encode_batch(&windows)?;
                Ok(Vec::new())
            }
            Batch::Decode(rows) => Ok(self.decode(rows)?),
        }
    }

    /// Every window's keys and values: 48 MB a slot for the base size.
    fn rest(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = Slot::default());
    }

    fn bytes(&self) -> u64 {
        let slots = self.slots.len() * self.config.slot_bytes();
        (self.encoder.bytes() + self.decoder.bytes() + slots) as u64
    }
}
