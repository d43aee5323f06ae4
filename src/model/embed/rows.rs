//! Rows of token ids of different lengths, as every network here takes them: one after the other, without padding.

use candle_core::{Result as TensorResult, Tensor};

use super::Error;
use crate::ops;

/// Tokens of one forward pass: enough to fill the device, few enough that the widest activation of a usual model
/// (tokens times the width of its feed-forward layer) stays within tens of megabytes.
pub(in crate::model) const TOKENS_A_PASS: usize = 4096;

/// The rows of one forward pass.
pub(in crate::model) struct Ragged {
    /// Of all rows.
    pub ids: Vec<u32>,
    /// Row `i` is the tokens `starts[i]..starts[i + 1]`.
    pub starts: Vec<usize>,
}

impl Ragged {
    /// The rows, one after the other.
    pub fn new<'r>(rows: impl Iterator<Item = &'r [u32]>) -> Ragged {
        let (mut ids, mut starts) = (Vec::new(), vec![0]);
        for row in rows {
            ids.extend_from_slice(row);
            starts.push(ids.len());
        }
        Ragged { ids, starts }
    }

    /// Each row's ids.
    pub fn rows(&self) -> impl Iterator<Item = &[u32]> {
        self.starts.windows(2).map(|w| self.ids.get(w[0]..w[1]).unwrap_or_default())
    }

    /// Each token's place in its row, from 0. Rows are checked against the positions that a network has, which fit.
    pub fn positions(&self) -> Vec<u32> {
        self.rows().flat_map(|row| 0..row.len() as u32).collect()
    }
}

/// Refuses rows that a model cannot take.
///
/// # Errors
/// A row that is empty, longer than `limit` or holds an id past the vocabulary.
pub(in crate::model) fn check<'r>(
    rows: impl Iterator<Item = &'r [u32]>,
    limit: usize,
    vocabulary: usize,
) -> Result<(), Error> {
    for (row, ids) in rows.enumerate() {
        if ids.is_empty() {
            return Err(Error::EmptyRow { row });
        }
        if ids.len() > limit {
            return Err(Error::TooLong { row, tokens: ids.len(), limit });
        }
        if let Some(position) = ids.iter().position(|&id| id as usize >= vocabulary) {
            return Err(Error::TokenOutOfRange { id: ids[position], position, vocabulary });
        }
    }
    Ok(())
}

/// Cuts rows into passes of [`TOKENS_A_PASS`] tokens at most, or of one longer row, and joins what they give.
///
/// # Errors
/// What a pass gives.
pub(in crate::model) fn in_passes<R, V>(
    rows: &[R],
    tokens: impl Fn(&R) -> usize,
    mut pass: impl FnMut(&[R]) -> Result<Vec<V>, Error>,
) -> Result<Vec<V>, Error> {
    let mut values = Vec::with_capacity(rows.len());
    let mut rest = rows;
    while !rest.is_empty() {
        let mut sum = 0;
        let fit = rest.iter().take_while(|row| {
            sum += tokens(row);
            sum <= TOKENS_A_PASS
        });
        let (some, tail) = rest.split_at(fit.count().max(1));
        values.extend(pass(some)?);
        rest = tail;
    }
    Ok(values)
}

/// A layer norm's weight and bias, both (width) f32.
pub(in crate::model) struct Norm {
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f64,
}

impl Norm {
    /// Of `x + residual`: the step between two blocks of a post-norm network.
    pub fn of_sum(&self, x: &Tensor, residual: &Tensor) -> TensorResult<Tensor> {
        ops::add_layer_norm(x, residual, &self.weight, &self.bias, self.eps)
    }
}
