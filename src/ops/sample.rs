//! A token of each row of logits, chosen where the logits lie.
//!
//! What is chosen, and in which order penalties, temperature and filters come, is defined by
//! [`sample`](crate::model::llm::output::sample); the kernel comes to the same token but where the rounding of a float
//! decides. There is no CPU side here: on a CPU that function is what chooses.

use candle_core::{Result, Tensor, bail};

/// How one row's token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Draw {
    /// The random number, a share of 2^64.
    pub number: u64,
    /// What logits are divided by; 0 or less chooses the largest.
    pub temperature: f32,
    /// The likeliest tokens, so many of them, that are kept.
    pub top_k: Option<u32>,
    /// The share of their probability that is kept, the likeliest first; 1 keeps all.
    pub top_p: f32,
    /// The least weight that is kept, where the likeliest token has 1; not below e^-20, which is
    /// [`sample`](crate::model::llm::output::sample)'s own floor.
    pub floor: f32,
    /// What the logits of repeated tokens are divided by, or multiplied with below 0.
    pub repetition: f32,
    /// By token, ascending: one edit a token at most.
    pub edits: Vec<Edit>,
}

/// What comes before a choice: one token's logit is changed, in the order of these fields.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Edit {
    pub token: u32,
    /// Impossible, unless nothing is possible but what is forbidden.
    pub forbidden: bool,
    /// Added.
    pub bias: f32,
    /// The repetition's share is taken.
    pub repeated: bool,
    /// Subtracted.
    pub less: f32,
}

/// Whether [`sample_rows`] chooses from these logits: not on a CPU, and not from vocabularies of more than 2^19.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn samples(logits: &Tensor) -> bool {
    #[cfg(test)]
    if super::testing::is_sampling() {
        return true;
    }
    #[cfg(feature = "cuda")]
    if super::gpu::cuda::of(logits.device()).is_some() {
        return logits.dims().last().is_some_and(|width| *width <= device::WIDEST);
    }
    false
}

/// Chooses a token of each of these rows of `logits` (rows, vocabulary) f32, which are named in ascending order; the
/// values of these rows are scratch afterwards.
///
/// # Errors
/// Logits that there is no kernel for ([`samples`]), not of two dimensions, not f32, or with gaps; rows and edits that are
/// out of order or out of range.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn sample_rows(logits: &Tensor, draws: &[(u32, Draw)]) -> Result<Vec<u32>> {
    #[cfg(test)]
    if super::testing::is_sampling() {
        let mut values = logits.flatten_all()?.to_vec1()?;
        return Ok(tests::choose(&mut values, logits.dims2()?.1, draws, 64));
    }
    #[cfg(feature = "cuda")]
    if samples(logits) {
        use super::gpu::cuda::{address, run, under, unset};
        if logits.dtype() != candle_core::DType::F32 {
            bail!("sample: logits of {:?}", logits.dtype());
        }
        let (rows, width) = logits.dims2()?;
        let listed = device::list(draws, rows, width)?;
        let count = listed.len();
        let listed = Tensor::from_vec(listed, count, logits.device())?;
        let gpu = under(logits)?;
        let out = unset::<u32>(gpu, draws.len())?;
        run(gpu, &[device::launch(address(logits)?, width, address(&listed)?, draws.len(), address(&out)?)])?;
        return out.to_vec1();
    }
    bail!("sample: no kernel chooses from {:?} on {:?}", logits.shape(), logits.device())
}

#[cfg(any(test, feature = "cuda"))]
mod device {
    use candle_core::{Result, bail};

    use super::{Draw, Edit};
    use crate::ops::gpu::{Address, Launch, plain};

    /// Columns whose weights add up within 64 bits, each as a share of 2^44.
    pub const WIDEST: usize = 1 << 19;

    /// `Draw` of kernels/sample.cu.
    #[derive(Debug, Clone, Copy)]
    #[repr(C)]
    struct DrawAt {
        number: u64,
        share: u64,
        row: u32,
        first: u32,
        edits: u32,
        forbidden: u32,
        keep: u32,
        scale: f32,
        floor: f32,
        repetition: f32,
    }

    /// `Edit` of kernels/sample.cu.
    #[derive(Debug, Clone, Copy)]
    #[repr(C)]
    struct EditAt {
        token: u32,
        bias: f32,
        less: f32,
        what: u32,
    }

    plain!(DrawAt: 48, EditAt: 16);

    fn draw_at(row: u32, draw: &Draw, first: usize) -> DrawAt {
        let keeps_all = draw.top_p.is_nan() || draw.top_p >= 1.0;
        DrawAt {
            number: draw.number,
            // Exact: a float below 1 has its 24 bits within the 64.
            share: if keeps_all { u64::MAX } else { (f64::from(draw.top_p) * 2f64.powi(64)) as u64 },
            row,
            first: first as u32,
            edits: draw.edits.len() as u32,
            forbidden: draw.edits.iter().filter(|e| e.forbidden).count() as u32,
            keep: draw.top_k.unwrap_or(0),
            scale: if draw.temperature <= 0.0 { -1.0 } else { draw.temperature.recip() },
            floor: draw.floor,
            repetition: draw.repetition,
        }
    }

    fn edit_at(edit: &Edit) -> EditAt {
        let what = u32::from(edit.repeated) | u32::from(edit.forbidden) << 1;
        EditAt { token: edit.token, bias: edit.bias, less: edit.less, what }
    }

    /// The draws, then the edits of all, as the kernel reads them.
    ///
    /// # Errors
    /// Rows or tokens that are out of order or out of range, which the kernel would take for granted; a floor below the
    /// least weight that it can tell.
    pub fn list(draws: &[(u32, Draw)], rows: usize, width: usize) -> Result<Vec<u32>> {
        let ascending = draws.is_sorted_by(|a, b| a.0 < b.0);
        if width == 0 || !ascending || draws.last().is_some_and(|last| last.0 as usize >= rows) {
            bail!("sample: these are no rows of {rows} x {width}, in order");
        }
        let (mut heads, mut edits) = (Vec::with_capacity(draws.len()), Vec::new());
        for (row, draw) in draws {
            let ascending = draw.edits.is_sorted_by(|a, b| a.token < b.token);
            if !ascending || draw.edits.last().is_some_and(|last| last.token as usize >= width) {
                bail!("sample: edits of {width} tokens that are not in order");
            }
            if draw.floor.is_nan() || draw.floor <= 2f32.powi(-29) {
                bail!("sample: weights of {} are too small", draw.floor);
            }
            heads.push(draw_at(*row, draw, edits.len()));
            edits.extend(draw.edits.iter().map(edit_at));
        }
        let mut listed = bytemuck::cast_slice::<DrawAt, u32>(&heads).to_vec();
        listed.extend_from_slice(bytemuck::cast_slice(&edits));
        Ok(listed)
    }

    /// A choice of each of `draws` that are [listed](list).
    pub fn launch(logits: Address, width: usize, listed: Address, draws: usize, out: Address) -> Launch {
        let edits = listed + (draws * size_of::<DrawAt>()) as u64;
        let launch = Launch::new("sample", [draws, 1, 1], 1024).address(logits).count(width);
        launch.address(listed).address(edits).address(out)
    }
}

#[cfg(test)]
#[path = "sample_tests.rs"]
mod tests;
