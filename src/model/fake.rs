//! Models without weights, for states that real ones cannot be brought to: slow steps, failures, panics. Same
//! input, same output.

use std::time::Duration;

use super::embed::Embed;
use super::llm::{Batch, Choice, Llm, Logits};
use super::vad::{CONTEXT, FRAME, Row, Vad, VadState};
use super::{Error, Model, Size};
use crate::types::model::Footprint;

/// Tokens of the fakes' vocabulary.
pub const VOCABULARY: usize = 64;
/// Ends an answer; never generated unless a prompt holds [`SAY_STOP`].
pub const STOP: u32 = 0;
/// In a prompt: the next token is [`STOP`].
pub const SAY_STOP: u32 = 1;
/// In a batch: the step fails.
pub const FAIL: u32 = 2;
/// In a batch: the step panics.
pub const PANIC: u32 = 3;
/// In a batch of more than [`FEW`] tokens: there is too little memory for the step.
pub const HUNGRY: u32 = 4;
pub const FEW: usize = 8;

fn feed(tokens: usize, hungry: bool) -> Result<(), Error> {
    match hungry && tokens > FEW {
        true => Err(Error::Batch("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".to_owned())),
        false => Ok(()),
    }
}

/// Answers each token with the next one of the vocabulary. Draws are left to whoever asks.
pub struct FakeLlm {
    /// How long a step takes.
    pub step: Duration,
}

impl Model<Llm> for FakeLlm {
    fn step(&mut self, batch: &Batch) -> Result<Logits, Error> {
        std::thread::sleep(self.step);
        if batch.tokens.contains(&FAIL) {
            return Err(Error::Batch("asked to fail".to_owned()));
        }
        feed(batch.tokens.len(), batch.tokens.contains(&HUNGRY))?;
        assert!(!batch.tokens.contains(&PANIC), "asked to panic");
        let (mut chosen, mut data) = (Vec::new(), Vec::new());
        let mut end = 0;
        for row in &batch.rows {
            end += row.len;
            for &token in &batch.tokens[end - row.logits..end] {
                let next = match token {
                    SAY_STOP => STOP,
                    token => 8 + (token + 1) % 50,
                };
                let largest = matches!(row.choice, Choice::Largest);
                chosen.push(largest.then_some(next));
                if largest {
                    continue;
                }
                data.extend((0..VOCABULARY as u32).map(|t| if t == next { 9.0 } else { 0.0 }));
            }
        }
        Ok(Logits { chosen, data, vocabulary: VOCABULARY })
    }

    fn footprint(&self, _: Size) -> Footprint {
        Footprint { weights: 1 << 20, ..Footprint::default() }
    }
}

/// Gives each row its length and its first token.
pub struct FakeEmbed;

impl Model<Embed> for FakeEmbed {
    fn step(&mut self, rows: &Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, Error> {
        assert!(!rows.iter().any(|r| r.contains(&PANIC)), "asked to panic");
        feed(rows.iter().map(Vec::len).sum(), rows.iter().any(|r| r.contains(&HUNGRY)))?;
        Ok(rows.iter().map(|r| vec![r.len() as f32, r[0] as f32]).collect())
    }

    fn footprint(&self, _: Size) -> Footprint {
        Footprint { weights: 1 << 20, ..Footprint::default() }
    }
}

/// Says of each frame what its first sample is, and counts a stream's frames in the first value of its state.
pub struct FakeVad;

impl FakeVad {
    /// As a sample: the step panics.
    pub const PANIC: f32 = 9.0;
}

impl Model<Vad> for FakeVad {
    fn step(&mut self, rows: &Vec<Row>) -> Result<Vec<(Vec<f32>, VadState)>, Error> {
        let hear = |row: &Row| {
            assert!(!row.samples.contains(&FakeVad::PANIC), "asked to panic");
            let mut state = row.state.clone();
            state.h[0] += row.frames() as f32;
            state.context.copy_from_slice(&row.samples[row.samples.len() - CONTEXT..]);
            (row.samples.iter().step_by(FRAME).copied().collect(), state)
        };
        Ok(rows.iter().map(hear).collect())
    }

    fn footprint(&self, _: Size) -> Footprint {
        Footprint { weights: 1 << 20, ..Footprint::default() }
    }
}
