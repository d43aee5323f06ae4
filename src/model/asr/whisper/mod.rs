//! Whisper (Radford et al., 2022; reference implementation openai/whisper), every size.
//!
//! Data in and out is plain: a scheduler that owns slots and blocks encodes a window into a slot, then appends tokens
//! to any number of sequences a call, each at a position of its own.

pub mod agree;
mod config;
mod decoder;
mod encoder;
mod heads;
mod layers;
mod openai;
#[cfg(test)]
mod tests;
mod weights;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use crate::model::asr::vocab::Vocab;
use crate::model::asr::{Alignment, Asr, Batch, Decode, Error, Front, Limits, Loaded, Row, RowOutput, Want};
use crate::model::{self, Model, Size};
use crate::ops::{CrossCache, KvCache, KvType};
use crate::types::model::{Footprint, Format};

use config::Room;
pub use config::{Config, WINDOW};
use decoder::{Decoder, Output};
use encoder::Encoder;
use weights::Source;

/// A loaded model and the keys and values of its sequences.
pub struct WhisperModel {
    config: Config,
    encoder: Encoder,
    decoder: Decoder,
    heard: CrossCache,
    own: KvCache,
    room: Room,
    device: Device,
}

impl WhisperModel {
    /// Loads a model folder, or the file of its weights where the format is one file. Memory for windows and sequences
    /// is taken when it is first used.
    pub fn load(path: &Path, format: Format, device: &Device, limits: Limits) -> Result<WhisperModel, Error> {
        let (source, config) = Source::open(path, format)?;
        let (layers, length) = (config.decoder_layers, config.audio_context);
        let room = config.room(limits);
        let shape = (config.heads, config.head_dim());
        Ok(WhisperModel {
            encoder: Encoder::load(&source, &config, device)?,
            decoder: Decoder::load(&source, &config, limits.precision, device)?,
            heard: CrossCache::new(room.windows, layers, length, shape, device)?,
            own: KvCache::new(KvType::F16, layers, room.blocks, shape, device)?,
            room,
            device: device.clone(),
            config,
        })
    }

    /// The model's dimensions: mel bins, vocabulary, context.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Encodes windows of `mels` x 3000, bin-major as [`crate::types::asr::LogMel::window`] gives them, into slots.
    pub fn encode(&mut self, windows: &[(usize, &[f32])]) -> Result<(), Error> {
        let needed = self.config.mels * WINDOW;
        for (i, (slot, mel)) in windows.iter().enumerate() {
            if *slot >= self.heard.slots() || windows.iter().take(i).any(|(other, _)| other == slot) {
                return Err(call(format!("slot {slot} is not there, or named twice")));
            }
            if mel.len() != needed {
                return Err(call(format!("a window of {} values, {needed} are needed", mel.len())));
            }
        }
        let mels: Vec<&[f32]> = windows.iter().map(|(_, mel)| *mel).collect();
        let encoded = self.encoder.forward(&mels, &self.device)?;
        for (i, &(slot, _)) in windows.iter().enumerate() {
            self.decoder.hear(&mut self.heard, slot, &encoded.get(i)?)?;
        }
        Ok(())
    }

    /// Appends tokens to sequences; gives what each row wants, in the same order.
    pub fn decode(&mut self, step: &Decode) -> Result<Vec<RowOutput>, Error> {
        self.check(&step.rows)?;
        self.own.copy(&step.copies)?;
        let mut wanted = Vec::new();
        let mut packed = 0;
        for row in &step.rows {
            let first = packed;
            packed += row.tokens.len();
            match row.want {
                Want::Last => wanted.push((packed - 1) as u32),
                Want::Probe(at) => wanted.extend([(first + at) as u32, (packed - 1) as u32]),
                Want::Alignment { score: true, .. } => wanted.extend((first..packed - 1).map(|at| at as u32)),
                Want::Alignment { .. } => {}
            }
        }
        let Output { logits, alignments } =
            self.decoder.forward(&step.rows, &self.own, &self.heard, &wanted)?;
        let mut logits = logits.map(|l| l.to_vec2::<f32>()).transpose()?.unwrap_or_default().into_iter();
        let mut alignments = alignments.into_iter();
        let mut output = |row: &Row| {
            let mut next = || logits.next().unwrap_or_default();
            match row.want {
                Want::Last => Some(RowOutput::Logits { last: next(), probe: None }),
                Want::Probe(_) => {
                    let probe = Some(next());
                    Some(RowOutput::Logits { last: next(), probe })
                }
                Want::Alignment { score, .. } => {
                    let next_tokens = row.tokens.iter().skip(1).filter(|_| score);
                    let probabilities = next_tokens.map(|&token| probability(&next(), token)).collect();
                    alignments.next().map(|a| RowOutput::Alignment(Alignment { probabilities, ..a }))
                }
            }
        };
        Ok(step.rows.iter().filter_map(&mut output).collect())
    }

    fn check(&self, rows: &[Row]) -> Result<(), Error> {
        if rows.is_empty() {
            return Err(call("no rows to decode".into()));
        }
        for (i, row) in rows.iter().enumerate() {
            let end = row.position.saturating_add(row.tokens.len());
            let problem = if !self.heard.is_filled(row.slot) {
                "the slot has no window"
            } else if row.tokens.is_empty() || matches!(row.want, Want::Probe(p) if p >= row.tokens.len()) {
                "a row without tokens, or a probe past them"
            } else if matches!(row.want, Want::Alignment { keys, .. } if keys == 0 || keys > self.config.audio_context)
            {
                "an alignment with what is not there"
            } else if end > self.config.text_context {
                "the context is full"
            } else if row.table.len() * KvCache::BLOCK < end
                || row.table.iter().any(|&b| b as usize >= self.room.blocks)
            {
                "blocks that are missing"
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

/// Of a token, from logits; 0 where they say nothing.
fn probability(logits: &[f32], token: u32) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|l| (l - largest).exp()).sum();
    logits.get(token as usize).map_or(0.0, |l| (l - largest).exp() / sum)
}

fn call(reason: String) -> Error {
    Error::Call { reason }
}

/// What a model will take once it is loaded, by the heads of its files; the registry's entry.
///
/// # Errors
/// Files that cannot be read.
pub fn footprint(path: &Path, format: Format, limits: Limits, largest: Size) -> Result<Footprint, Error> {
    let (_, config) = Source::open(path, format)?;
    let room = config.room(limits);
    let matrices = config.matrix_bytes(limits.precision, largest.gpu);
    Ok(Footprint {
        weights: matrices.saturating_add(matrices / 16),
        cache: config.cache_bytes(room, KvType::F16),
        step: config.step_bytes(largest, room),
    })
}

/// Loads a model and the vocabulary that lies in its folder; the registry's entry.
pub fn load(path: &Path, format: Format, device: &Device, limits: Limits) -> Result<Loaded, Error> {
    let folder = if format.is_file() { path.parent().unwrap_or(path) } else { path };
    let vocab = Arc::new(Vocab::load(folder)?);
    let model = WhisperModel::load(path, format, device, limits)?;
    let front = Front {
        vocab,
        mels: model.config.mels,
        context: model.config.text_context,
        windows: model.heard.slots(),
        rows: model.room.rows,
        blocks: model.room.blocks,
    };
    Ok(Loaded { model: Box::new(model), front })
}

impl Model<Asr> for WhisperModel {
    fn step(&mut self, batch: &Batch) -> Result<Vec<RowOutput>, model::Error> {
        match batch {
            Batch::Encode(windows) => {
                let windows: Vec<(usize, &[f32])> =
                    windows.iter().map(|(s, mel)| (*s, mel.as_slice())).collect();
                self.encode(&windows)?;
                Ok(Vec::new())
            }
            Batch::Decode(step) => Ok(self.decode(step)?),
        }
    }

    /// Every window's keys and values (18 MB a window of the base size), and every sequence's.
    fn rest(&mut self) {
        self.heard.clear();
        let shape = (self.config.heads, self.config.head_dim());
        // The cache there is stays where a new one cannot be had.
        if let Ok(own) =
            KvCache::new(KvType::F16, self.config.decoder_layers, self.room.blocks, shape, &self.device)
        {
            self.own = own;
        }
    }

    fn footprint(&self, largest: Size) -> Footprint {
        Footprint {
            weights: (self.encoder.bytes() + self.decoder.bytes()) as u64,
            cache: self.config.cache_bytes(self.room, self.own.kind()),
            step: self.config.step_bytes(largest, self.room),
        }
    }
}
