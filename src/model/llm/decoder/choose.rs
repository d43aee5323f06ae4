//! What a step gives of its logits: tokens that were chosen where the logits lie, or the logits.

use candle_core::Tensor;

use super::Decoder;
use crate::model::Error;
use crate::model::llm::{Choice, Logits, Row};
use crate::ops::sample::{Draw, samples};
use crate::ops::{argmax_rows, sample_rows};

impl Decoder {
    /// What these rows want of `logits` (places, vocabulary), those of one after those of the other; `best` has the index
    /// of the largest at each place, where it is known. Logits that are drawn from are scratch afterwards.
    pub(super) fn read(&self, logits: &Tensor, best: Option<&Tensor>, rows: &[Row]) -> Result<Logits, Error> {
        let places = |row: &Row| 0..row.logits.min(row.len);
        let choices: Vec<&Choice> = rows.iter().flat_map(|row| places(row).map(|_| &row.choice)).collect();
        let mut chosen = vec![None; choices.len()];
        // Made while the device computes the logits, so before anything waits for it.
        let draws = if samples(logits) { self.draws(rows) } else { Vec::new() };
        if !draws.is_empty() {
            for ((place, _), token) in draws.iter().zip(sample_rows(logits, &draws)?) {
                chosen[*place as usize] = Some(token);
            }
        }
        if choices.iter().any(|choice| matches!(choice, Choice::Largest)) {
            let best = match best {
                Some(best) => best.to_vec1()?,
                None => argmax_rows(logits)?.to_vec1()?,
            };
            for ((chosen, choice), best) in chosen.iter_mut().zip(choices).zip(best) {
                if matches!(choice, Choice::Largest) {
                    *chosen = Some(best);
                }
            }
        }
        let open: Vec<u32> =
            (0..).zip(&chosen).filter(|(_, chosen)| chosen.is_none()).map(|(place, _)| place).collect();
        let data = match open.len() {
            0 => Vec::new(),
            count if count == chosen.len() => logits.flatten_all()?.to_vec1()?,
            count => {
                let at = Tensor::from_vec(open, count, &self.device)?;
                logits.index_select(&at, 0)?.flatten_all()?.to_vec1()?
            }
        };
        Ok(Logits { chosen, data, vocabulary: self.config.vocabulary })
    }

    /// The draws that a device can make, by their places.
    fn draws(&self, rows: &[Row]) -> Vec<(u32, Draw)> {
        let (mut draws, mut first) = (Vec::new(), 0);
        for row in rows {
            let count = row.logits.min(row.len);
            if let Choice::Drawn(drawing) = &row.choice
                && drawing.suits_devices()
            {
                let draw = |i| ((first + i) as u32, drawing.at(i, self.config.vocabulary));
                draws.extend((0..count).map(draw));
            }
            first += count;
        }
        draws
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::load;
    use super::*;
    use crate::model::Model;
    use crate::model::llm::draw::{Drawing, Tokens};
    use crate::model::llm::output::{argmax, sample};
    use crate::model::llm::{Batch, Limits, Llm};
    use crate::model::weights::{gguf::Gguf, synthetic};
    use crate::ops::KvType;
    use crate::ops::testing::sampling;
    use crate::types::llm::Sampling;
    use crate::types::model::Quantise;

    const LENGTHS: [usize; 4] = [3, 1, 5, 4];

    fn model(folder: &std::path::Path) -> Box<dyn Model<Llm>> {
        let file = folder.join("tiny.gguf");
        synthetic::write(&synthetic::spec("tiny-qwen2:q4_k_m").unwrap(), &file, 0).unwrap();
        let limits =
            Limits { context: 64, blocks: LENGTHS.len(), cache: KvType::F16, quantise: Quantise::None };
        load(&Gguf::open(&file).unwrap(), &Device::Cpu, limits).unwrap().0
    }

    /// Rows of these choices, each with the last two logits where it has so many tokens.
    fn batch(choices: [Choice; 4]) -> Batch {
        let mut batch = Batch::default();
        for ((i, len), choice) in (0..).zip(LENGTHS).zip(choices) {
            batch.tokens.extend((0..len as u32).map(|t| 5 + 7 * t + i));
            batch.rows.push(Row { len, start: 0, table: vec![i], logits: 2, choice });
        }
        batch
    }

    fn drawn(sampling: &Sampling, tokens: &[u32], guess: u32) -> Choice {
        Choice::Drawn(Box::new(Drawing {
            sampling: sampling.clone(),
            seed: 11,
            prompt_len: 1,
            tokens: Tokens::new(sampling, tokens, &[guess]),
            ends: [].into(),
            least: 0,
        }))
    }

    #[test]
    fn what_a_device_draws_is_chosen_and_the_rest_are_logits() {
        let folder = tempfile::tempdir().unwrap();
        let mut model = model(folder.path());
        let all = model.step(&batch(Default::default())).unwrap();
        assert_eq!(all.chosen, [None; 7]);
        let places: Vec<&[f32]> = all.data.chunks_exact(all.vocabulary).collect();
        let plain = Sampling { temperature: 3.0, repetition_penalty: 1.2, ..Sampling::default() };
        let typical = Sampling { typical_p: 0.5, ..plain.clone() };
        let choices =
            || [drawn(&typical, &[9], 8), Choice::Largest, drawn(&plain, &[9, 4], 8), Choice::Logits];
        let want =
            |place: usize, tokens: &[u32]| Some(sample(&mut places[place].to_vec(), &plain, 11, tokens, 1));
        let largest = Some(argmax(places[2]));
        let (first, second) = (want(3, &[9, 4]), want(4, &[9, 4, 8]));
        assert!(first != second && first != Some(argmax(places[3])), "draws are told from one another");
        let got = sampling(|| model.step(&batch(choices())).unwrap());
        assert_eq!(got.chosen, [None, None, largest, first, second, None, None]);
        assert_eq!(got.data, [places[0], places[1], places[5], places[6]].concat());
        // A CPU leaves the draws to whoever asks.
        let got = model.step(&batch(choices())).unwrap();
        assert_eq!(got.chosen, [None, None, largest, None, None, None, None]);
        assert_eq!(got.data.len(), 6 * all.vocabulary);
    }
}
