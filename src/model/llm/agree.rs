//! Whether two devices compute the same of a model: prompts, steps of decoding, recorded ones among them.

use std::path::Path;

use candle_core::Device;

use super::draw::{Drawing, Tokens};
use super::output::sample;
use super::{Batch, Choice, Limits, Llm, Row, load_gguf};
use crate::model::apart::Compared;
use crate::model::{Error, Model};
use crate::ops::KvType;
use crate::types::llm::Sampling;
use crate::types::model::Quantise;

/// How far apart they were.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Agreement {
    /// The largest difference of two logits, in standard deviations of the step's logits.
    pub worst: f64,
    /// The root of the mean square of all differences, likewise.
    pub typical: f64,
    /// Greedy choices that were compared, and of these the ones that differ though the first device holds the other's
    /// choice to be less likely by more than `worst`.
    pub choices: usize,
    pub wrong: usize,
    /// Tokens that the second device drew itself, and of these the ones that are not what its own logits come to.
    pub drawn: usize,
    pub misdrawn: usize,
}

/// Rows of a step: tokens before, tokens now.
type Rows = [(usize, usize)];

const BLOCKS_A_ROW: usize = 8;
/// A prompt beside decoding rows, then steps of one token a row, of which the third and what follows are recorded where
/// that is done; a large prompt last.
const STEPS: [&Rows; 7] = [
    &[(0, 40), (0, 7), (0, 1)],
    &[(40, 3), (7, 1), (1, 20)],
    &[(43, 1), (8, 1), (21, 1)],
    &[(44, 1), (9, 1), (22, 1)],
    &[(45, 1), (10, 1), (23, 1)],
    &[(46, 1), (11, 1), (24, 1)],
    &[(47, 200), (12, 30), (25, 60)],
];

/// Computes the same steps of a GGUF file's model on both devices.
///
/// # Errors
/// A file that cannot be loaded; a device that fails.
pub fn agree(path: &Path, one: &Device, other: &Device) -> Result<Agreement, Error> {
    let limits = Limits {
        context: BLOCKS_A_ROW * 32,
        blocks: 3 * BLOCKS_A_ROW,
        cache: KvType::F16,
        quantise: Quantise::None,
    };
    let mut one = load_gguf(path, one, limits)?;
    let mut other = load_gguf(path, other, limits)?;
    let vocabulary = one.front.tokenizer.vocab_size().max(1);
    let mut found = Agreement::default();
    let (mut squares, mut count) = (0.0, 0.0);
    for rows in STEPS {
        let batch = batch(rows, vocabulary);
        let (a, b) = (one.model.step(&batch)?, other.model.step(&batch)?);
        let mut compared = Compared::default();
        compared.add(&a.data, &b.data);
        let (apart, deviation) = (compared.deviations(), compared.deviation());
        found.worst = found.worst.max(apart.worst);
        squares += apart.typical.powi(2) * compared.count();
        count += compared.count();
        compare_choices(&mut *one.model, &mut *other.model, batch.clone(), &a.data, deviation, &mut found)?;
        check_draws(&mut *other.model, batch, &b.data, &mut found)?;
    }
    found.typical = (squares / f64::max(count, 1.0)).sqrt();
    Ok(found)
}

/// The same step again, greedy: its keys and values are written where they already stand.
fn compare_choices(
    one: &mut dyn Model<Llm>,
    other: &mut dyn Model<Llm>,
    mut batch: Batch,
    logits: &[f32],
    deviation: f64,
    found: &mut Agreement,
) -> Result<(), Error> {
    batch.rows.iter_mut().for_each(|row| row.choice = Choice::Largest);
    let (a, b) = (one.step(&batch)?, other.step(&batch)?);
    let both = a.chosen.iter().flatten().zip(b.chosen.iter().flatten());
    for ((&a, &b), logits) in both.zip(logits.chunks_exact(a.vocabulary.max(1))) {
        let of = |at: u32| logits.get(at as usize).map_or(f64::NEG_INFINITY, |v| f64::from(*v));
        found.choices += 1;
        found.wrong += usize::from((of(a) - of(b)) / deviation > 2.0 * found.worst);
    }
    Ok(())
}

/// The same step again, with draws.
fn check_draws(
    model: &mut dyn Model<Llm>,
    mut batch: Batch,
    logits: &[f32],
    found: &mut Agreement,
) -> Result<(), Error> {
    let sampling = Sampling {
        temperature: 0.8,
        top_k: Some(40),
        top_p: 0.95,
        repetition_penalty: 1.1,
        presence_penalty: 0.2,
        ..Sampling::default()
    };
    let (mut first, mut rows) = (0, Vec::new());
    for (row, seed) in batch.rows.iter_mut().zip(0..) {
        let tokens = &batch.tokens[first..first + row.len];
        first += row.len;
        let prompt_len = row.len / 2;
        row.choice = Choice::Drawn(Box::new(Drawing {
            sampling: sampling.clone(),
            seed,
            prompt_len,
            tokens: Tokens::new(&sampling, tokens, &[]),
            ends: [].into(),
            least: 0,
        }));
        rows.push((tokens, prompt_len, seed));
    }
    let got = model.step(&batch)?;
    let rows = rows.into_iter().zip(logits.chunks_exact(got.vocabulary.max(1)));
    for (((tokens, prompt_len, seed), logits), chosen) in rows.zip(&got.chosen) {
        let Some(chosen) = chosen else { continue };
        found.drawn += 1;
        let expected = sample(&mut logits.to_vec(), &sampling, seed, tokens, prompt_len);
        found.misdrawn += usize::from(*chosen != expected);
    }
    Ok(())
}

fn batch(rows: &Rows, vocabulary: usize) -> Batch {
    let mut batch = Batch::default();
    for (r, (start, len)) in rows.iter().enumerate() {
        let token = |p: usize| ((p * 7919 + r * 104_729 + 11) % vocabulary) as u32;
        batch.tokens.extend((*start..start + len).map(token));
        let table = (0..BLOCKS_A_ROW).map(|b| (b * rows.len() + r) as u32).collect();
        batch.rows.push(Row { len: *len, start: *start, table, logits: 1, choice: Choice::Logits });
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::synthetic;
    use crate::ops::testing::sampling;

    #[test]
    fn a_device_agrees_with_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tiny.gguf");
        synthetic::write(&synthetic::spec("tiny-qwen2:q4_k_m").unwrap(), &file, 0).unwrap();
        // As a GPU: the draws that a CPU leaves to others are checked too.
        let found = sampling(|| agree(&file, &Device::Cpu, &Device::Cpu)).unwrap();
        let choices = 3 * STEPS.len();
        assert_eq!(found, Agreement { choices, drawn: choices, ..Agreement::default() });
    }
}
