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
