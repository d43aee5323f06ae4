//! Whether two devices compute the same of a Whisper: what the encoder hears, then prompts and steps of texts.

use std::path::Path;

use candle_core::Device;

use super::{Encoder, WINDOW, WhisperModel};
use crate::model::apart::{Apart, Compared};
use crate::model::asr::{Decode, Error, Limits, Row, RowOutput, Want};
use crate::ops::KvCache;
use crate::types::model::{Format, Precision};

/// What was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Agreement {
    /// The encoder's output.
    pub encoder: Apart,
    /// Logits after prompts, and after tokens behind them.
    pub logits: Apart,
    /// Where the texts look, as times of words are taken from it.
    pub alignment: Apart,
}

/// Windows, and the texts side by side at each: a beam, and one alone.
const TEXTS: [usize; 4] = [0, 0, 0, 1];
/// Tokens of the prompts, then steps of one token.
const PROMPT: usize = 5;
const STEPS: usize = 3;
/// Positions of the window that an alignment looks over: no multiple of anything.
const KEYS: usize = 1237;

/// Computes the same of a folder of safetensors on both devices, the decoder in `precision`.
///
/// # Errors
/// A folder that cannot be loaded; a device that fails.
pub fn agree(folder: &Path, precision: Precision, one: &Device, other: &Device) -> Result<Agreement, Error> {
    let limits = Limits { windows: 2, window_bytes: u64::MAX, precision };
    let load = |device| WhisperModel::load(folder, Format::Safetensors, device, limits);
    let (mut one, mut other) = (load(one)?, load(other)?);
    let mels = one.config().mels;
    let windows = [sound(mels, 1), sound(mels, 2)];
    let heard: Vec<&[f32]> = windows.iter().map(Vec::as_slice).collect();
    let encoded = |encoder: &Encoder, device: &Device| -> Result<Vec<f32>, Error> {
        Ok(encoder.forward(&heard, device)?.flatten_all()?.to_vec1()?)
    };
    let mut encoder = Compared::default();
    encoder.add(&encoded(&one.encoder, &one.device)?, &encoded(&other.encoder, &other.device)?);
    let slots: Vec<(usize, &[f32])> = heard.into_iter().enumerate().collect();
    one.encode(&slots)?;
    other.encode(&slots)?;
    let (mut logits, mut alignment) = (Compared::default(), Compared::default());
    for step in 0..=STEPS {
        let step = tokens(step, one.config().vocab);
        for (a, b) in one.decode(&step)?.iter().zip(&other.decode(&step)?) {
            match (a, b) {
                (RowOutput::Logits { last: a, .. }, RowOutput::Logits { last: b, .. }) => logits.add(a, b),
                (RowOutput::Alignment(a), RowOutput::Alignment(b)) => alignment.add(&a.weights, &b.weights),
                _ => return Err(super::call("two devices gave different things".into())),
            }
        }
    }
    Ok(Agreement {
        encoder: encoder.deviations(),
        logits: logits.deviations(),
        alignment: alignment.shares(),
    })
}

/// A window that is not silent and not the same everywhere: every bin swells and fades at a pace of its own.
fn sound(mels: usize, seed: usize) -> Vec<f32> {
    let value = |i: usize| {
        let (bin, frame) = (i / WINDOW, i % WINDOW);
        let slow = (frame as f32 / (20.0 + 3.0 * bin as f32) + seed as f32).sin();
        let noise = ((i * seed).wrapping_mul(2_654_435_761) >> 8) & 0xffff;
        0.7 * slow + noise as f32 / 65_536.0 - 0.5
    };
    (0..mels * WINDOW).map(value).collect()
}

/// The prompts, then a token of each text, at last of one an alignment over all it has.
fn tokens(step: usize, vocabulary: usize) -> Decode {
    const BLOCKS: usize = 2;
    let (start, len) = if step == 0 { (0, PROMPT) } else { (PROMPT + step - 1, 1) };
    let token = |text: usize, p: usize| ((p * 7919 + text * 104_729 + 11) % vocabulary) as u32;
    let row = |(text, slot): (usize, usize)| {
        let table = (0..BLOCKS).map(|b| (b * TEXTS.len() + text) as u32).collect();
        let last = step == STEPS && text == 0;
        let (start, len) = if last { (0, PROMPT + STEPS) } else { (start, len) };
        let want = if last { Want::Alignment { keys: KEYS, score: false } } else { Want::Last };
        let tokens = (start..start + len).map(|p| token(text, p)).collect();
        Row { slot, tokens, position: start, table, want }
    };
    const { assert!(PROMPT + STEPS <= BLOCKS * KvCache::BLOCK) };
    Decode { copies: Vec::new(), rows: TEXTS.into_iter().enumerate().map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::synthetic_whisper;
    use crate::ops::testing::composed;

    #[test]
    fn a_device_agrees_with_itself() {
        let dir = tempfile::tempdir().unwrap();
        synthetic_whisper::write(&synthetic_whisper::TINY, dir.path(), 1).unwrap();
        let found = agree(dir.path(), Precision::F16, &Device::Cpu, &Device::Cpu).unwrap();
        assert_eq!(found, Agreement::default());
    }

    /// Compositions of candle's operations round elsewhere than the kernels do: as far as that goes two devices agree.
    #[test]
    fn compositions_agree_with_the_kernels() {
        let dir = tempfile::tempdir().unwrap();
        synthetic_whisper::write(&synthetic_whisper::TINY, dir.path(), 1).unwrap();
        let limits = Limits { windows: 2, window_bytes: u64::MAX, precision: Precision::F16 };
        let heard = sound(synthetic_whisper::TINY.mels, 1);
        let run = || {
            let format = Format::Safetensors;
            let mut model = WhisperModel::load(dir.path(), format, &Device::Cpu, limits).unwrap();
            model.encode(&[(0, &heard), (1, &heard)]).unwrap();
            let outputs = model.decode(&tokens(0, model.config().vocab)).unwrap();
            let logits = |output| match output {
                RowOutput::Logits { last, .. } => last,
                RowOutput::Alignment(_) => panic!("none was asked for"),
            };
            outputs.into_iter().flat_map(logits).collect::<Vec<f32>>()
        };
        let mut compared = Compared::default();
        compared.add(&run(), &composed(run));
        let apart = compared.deviations();
        assert!(apart.worst < 0.01 && apart.typical > 0.0, "{apart:?}");
    }
}
