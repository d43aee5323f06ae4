//! A layer of long short-term memory (Hochreiter and Schmidhuber, 1997) with PyTorch's gates, over rows of any
//! lengths at once.
//!
//! What the gates take from the input is one product over all steps of all rows. What they take from the step before
//! is computed step by step, for the rows that have one together: the recurrent weights, which do not fit the
//! first-level cache, are read once for several rows. On the CPU the four gates of 16 units lie side by side, so that
//! a cell's sums never leave the registers. A row's result does not depend on the rows beside it, to the last bit.

#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::gemm::{Line, PANEL};
use super::simd::{self, Simd, dispatch};
use super::{Linear, cpu, linear, par};

/// Input, forget, cell and output gate.
const GATES: usize = 4;

#[derive(Clone)]
enum Recurrent {
    /// For every 16 units, for every unit of the step before: a line a gate.
    Packed(Arc<[Line]>),
    /// `(hidden, 4 hidden)`
    Plain(Tensor),
}

/// One layer's weights. Cheap to clone.
#[derive(Clone)]
pub struct Lstm {
    input: Linear,
    recurrent: Recurrent,
    hidden: usize,
}

/// What a step leaves to the next, a row each: `(rows, hidden)`.
#[derive(Debug, Clone)]
pub struct LstmState {
    /// The output.
    pub h: Tensor,
    /// The memory.
    pub c: Tensor,
}

impl Lstm {
    /// Takes weights as PyTorch stores them: `(4 hidden, inputs)`, `(4 hidden, hidden)` and two biases of `(4 hidden)`,
    /// the gates in the order input, forget, cell, output.
    ///
    /// # Errors
    /// Shapes that do not fit each other.
    pub fn new(weight_ih: &Tensor, weight_hh: &Tensor, bias_ih: &Tensor, bias_hh: &Tensor) -> Result<Self> {
        let (gates, hidden) = weight_hh.dims2()?;
        if hidden == 0 || gates != GATES * hidden || weight_ih.dim(0)? != gates {
            bail!("lstm: weights of shapes {:?} and {:?}", weight_ih.shape(), weight_hh.shape());
        }
        let recurrent = if cpu::fused(&[weight_hh]) && hidden.is_multiple_of(PANEL) {
            let w = weight_hh.contiguous()?;
            Recurrent::Packed(cpu::with(&w, "lstm: weight", |w| Ok(pack(w, hidden)))?)
        } else {
            Recurrent::Plain(weight_hh.t()?.contiguous()?)
        };
        Ok(Lstm { input: Linear::new(weight_ih, Some(&(bias_ih + bias_hh)?))?, recurrent, hidden })
    }

    /// Units, and width of the output.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Bytes that the layer holds.
    pub fn bytes(&self) -> usize {
        self.input.bytes()
            + match &self.recurrent {
                Recurrent::Packed(w) => size_of_val::<[Line]>(w),
                Recurrent::Plain(w) => w.elem_count() * w.dtype().size_in_bytes(),
            }
    }
}

/// Copies a row-major `(4 hidden, hidden)` weight into lines.
fn pack(w: &[f32], hidden: usize) -> Arc<[Line]> {
    let mut lines = Vec::with_capacity(GATES * hidden * hidden / PANEL);
    for first in (0..hidden).step_by(PANEL) {
        for before in 0..hidden {
            let value = |gate: usize, unit: usize| w[(gate * hidden + first + unit) * hidden + before];
            lines.extend((0..GATES).map(|gate| Line(std::array::from_fn(|unit| value(gate, unit)))));
        }
    }
    lines.into()
}

/// One row of a call.
#[derive(Debug, Clone, Copy)]
struct Row {
    index: usize,
    start: usize,
    len: usize,
}

/// The outputs `(steps, hidden)` for `x` of shape `(steps, inputs)`, and the state after each row's last step. Row `i`
/// is the steps `starts[i]..starts[i + 1]` and begins with row `i` of `state`; one without steps keeps it.
///
/// # Errors
/// `starts` that do not rise from 0 to the number of steps, a state of another shape; on the CPU, what is not
/// contiguous.
pub fn lstm(x: &Tensor, starts: &[usize], layer: &Lstm, state: &LstmState) -> Result<(Tensor, LstmState)> {
    let (steps, _) = x.dims2()?;
    let rising = starts.windows(2).all(|w| w[0] <= w[1]);
    if starts.first() != Some(&0) || starts.last() != Some(&steps) || !rising {
        bail!("lstm: row starts must rise from 0 to {steps}");
    }
    let shape = [starts.len() - 1, layer.hidden];
    if state.h.dims() != shape || state.c.dims() != shape {
        bail!("lstm: a state of {:?} and {:?}, {shape:?} is needed", state.h.shape(), state.c.shape());
    }
    let mut rows: Vec<Row> = starts
        .windows(2)
        .enumerate()
        .map(|(index, w)| Row { index, start: w[0], len: w[1] - w[0] })
        .collect();
    // The longest first: those that still have steps are a prefix.
    rows.sort_by_key(|row| Reverse(row.len));
    let gates = linear(x, &layer.input)?;
    match &layer.recurrent {
        Recurrent::Packed(w) => fused(&gates, &rows, w, layer.hidden, state),
        Recurrent::Plain(w) => composed(&gates, &rows, w, state),
    }
}

/// What a task of the CPU side computes: its rows from their first step to their last.
struct Run<'a> {
    rows: &'a [Row],
    hidden: usize,
    /// `hidden / 16 * hidden * 4` lines.
    weights: *const f32,
    /// `(steps, 4 hidden)`
    gates: *const f32,
    /// The outputs before the first step, `(rows of the call, hidden)`.
    h: *const f32,
    /// The memory, which each step replaces: `(rows of the call, hidden)`.
    c: *mut f32,
    /// `(steps, hidden)`
    out: *mut f32,
}

fn fused(
    gates: &Tensor,
    rows: &[Row],
    weights: &[Line],
    hidden: usize,
    state: &LstmState,
) -> Result<(Tensor, LstmState)> {
    let (steps, _) = gates.dims2()?;
    let mut c = cpu::with(&state.c, "lstm: memory", |c| Ok(c.to_vec()))?;
    let mut h = cpu::with(&state.h, "lstm: state", |h| Ok(h.to_vec()))?;
    // SAFETY: the rows cover all steps, and each step writes its whole output.
    let mut out = unsafe { par::uninit(steps * hidden) };
    let (c_ptr, out_ptr) = (par::SharedMut::new(&mut c), par::SharedMut::new(&mut out));
    let tasks: Vec<&[Row]> = rows.chunks(rows.len().div_ceil(par::threads()).max(1)).collect();
    let ns = (steps * GATES * hidden * hidden) as f64 / 30.0;
    cpu::with(gates, "lstm: gates", |gates| {
        let h = h.as_slice();
        par::for_each(tasks.len(), ns, |task| {
            let (rows, weights) = (tasks[task], weights.as_ptr().cast());
            let run = Run {
                rows,
                hidden,
                weights,
                gates: gates.as_ptr(),
                h: h.as_ptr(),
                c: c_ptr.get(),
                out: out_ptr.get(),
            };
            // SAFETY: every buffer holds the rows and steps that `rows` names; a row, and so its part of `c` and
            // `out`, is in one task only.
            unsafe { run_rows(&run) };
        });
        Ok(())
    })?;
    for row in rows.iter().filter(|row| row.len > 0) {
        let last = (row.start + row.len - 1) * hidden;
        h[row.index * hidden..][..hidden].copy_from_slice(&out[last..][..hidden]);
    }
    let shape = state.h.shape();
    Ok((
        cpu::tensor(out, (steps, hidden))?,
        LstmState { h: cpu::tensor(h, shape)?, c: cpu::tensor(c, shape)? },
    ))
}

dispatch! {
    /// # Safety
    /// Every pointer of the run is valid for what its field says, at the rows and steps that `rows` names, the longest
    /// first; nothing else uses their part of `c` and `out`.
    unsafe fn run_rows(run: &Run<'_>) = run_generic
}

/// # Safety
/// As [`run_rows`].
#[inline(always)]
unsafe fn run_generic<S: Simd>(run: &Run<'_>) {
    // Four sums a row, four weights and one value fit the registers: 32, or 16.
    let tile = if S::LANES == 16 { 6 } else { 2 };
    let mut active = run.rows.len();
    for t in 0..run.rows.first().map_or(0, |row| row.len) {
        while active > 0 && run.rows[active - 1].len <= t {
            active -= 1;
        }
        for rows in run.rows[..active].chunks(tile) {
            // SAFETY: the caller's contract; each of these rows has a step `t`.
            unsafe {
                match rows.len() {
                    1 => cells::<S, 1>(run, rows, t),
                    2 => cells::<S, 2>(run, rows, t),
                    3 => cells::<S, 3>(run, rows, t),
                    4 => cells::<S, 4>(run, rows, t),
                    5 => cells::<S, 5>(run, rows, t),
                    _ => cells::<S, 6>(run, rows, t),
                }
            }
        }
    }
}

/// Step `t` of `MR` rows.
///
/// # Safety
/// As [`run_rows`]; `rows` are `MR` rows of the run that have a step `t`.
#[inline(always)]
unsafe fn cells<S: Simd, const MR: usize>(run: &Run<'_>, rows: &[Row], t: usize) {
    let hidden = run.hidden;
    // SAFETY: rows and steps are those that the caller vouches for; units are below `hidden`, a multiple of 16.
    unsafe {
        let gates: [*const f32; MR] =
            std::array::from_fn(|i| run.gates.add((rows[i].start + t) * GATES * hidden));
        let before: [*const f32; MR] = std::array::from_fn(|i| match t {
            0 => run.h.add(rows[i].index * hidden),
            _ => run.out.add((rows[i].start + t - 1) * hidden).cast_const(),
        });
        for unit in (0..hidden).step_by(S::LANES) {
            let mut sums = [[S::splat(0.0); GATES]; MR];
            for (row, gates) in sums.iter_mut().zip(gates) {
                for (gate, sum) in row.iter_mut().enumerate() {
                    *sum = S::load(gates.add(gate * hidden + unit));
                }
            }
            let weights = run.weights.add(unit / PANEL * hidden * GATES * PANEL + unit % PANEL);
            for k in 0..hidden {
                let mut w = [S::splat(0.0); GATES];
                for (gate, w) in w.iter_mut().enumerate() {
                    *w = S::load(weights.add((k * GATES + gate) * PANEL));
                }
                for (row, before) in sums.iter_mut().zip(before) {
                    let h = S::splat(*before.add(k));
                    for (sum, w) in row.iter_mut().zip(w) {
                        *sum = S::fma(h, w, *sum);
                    }
                }
            }
            for (sums, row) in sums.into_iter().zip(rows) {
                let c = run.c.add(row.index * hidden + unit);
                let [input, forget, cell, output] = sums;
                let new = S::mul(sigmoid::<S>(input), tanh::<S>(cell));
                let memory = S::fma(sigmoid::<S>(forget), S::load(c), new);
                S::store(c, memory);
                let h = S::mul(sigmoid::<S>(output), tanh::<S>(memory));
                S::store(run.out.add((row.start + t) * hidden + unit), h);
            }
        }
    }
}

/// `1 / (1 + e^-x)`
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: arithmetic only.
    unsafe {
        let e = simd::exp::<S>(S::sub(S::splat(0.0), x));
        S::div(S::splat(1.0), S::add(S::splat(1.0), e))
    }
}

/// `2 sigmoid(2x) - 1`, with an absolute error below 3e-7.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: arithmetic only.
    unsafe { S::fma(S::splat(2.0), sigmoid::<S>(S::add(x, x)), S::splat(-1.0)) }
}

/// The recurrence out of candle's operations; `rows` are the longest first.
fn composed(gates: &Tensor, rows: &[Row], w: &Tensor, state: &LstmState) -> Result<(Tensor, LstmState)> {
    let hidden = w.dim(0)?;
    let pick = |t: &Tensor, at: Vec<u32>| {
        let len = at.len();
        t.index_select(&Tensor::from_vec(at, len, t.device())?, 0)
    };
    let sigmoid = |t: Tensor| (t.neg()?.exp()? + 1.0)?.recip();
    let order: Vec<u32> = rows.iter().map(|row| row.index as u32).collect();
    let (mut h, mut c) = (pick(&state.h, order.clone())?, pick(&state.c, order)?);
    // The states of rows that have ended, the shortest first, and the outputs of each step.
    let (mut ended, mut outs) = (Vec::new(), Vec::new());
    // Where the outputs of each row's steps come to lie among those of all steps.
    let (mut places, mut placed) = (vec![0u32; gates.dim(0)?], 0);
    for t in 0..rows.first().map_or(0, |row| row.len) {
        let active = rows.partition_point(|row| row.len > t);
        let gone = h.dim(0)? - active;
        if gone > 0 {
            ended.push((h.narrow(0, active, gone)?, c.narrow(0, active, gone)?));
            (h, c) = (h.narrow(0, 0, active)?, c.narrow(0, 0, active)?);
        }
        let sums = (pick(gates, rows[..active].iter().map(|row| (row.start + t) as u32).collect())?
            + h.matmul(w)?)?;
        let gate = |i: usize| sums.narrow(1, i * hidden, hidden);
        let new = (sigmoid(gate(0)?)? * gate(2)?.tanh()?)?;
        c = ((sigmoid(gate(1)?)? * c)? + new)?;
        h = (sigmoid(gate(3)?)? * c.tanh()?)?;
        for row in &rows[..active] {
            places[row.start + t] = placed;
            placed += 1;
        }
        outs.push(h.clone());
    }
    ended.push((h, c));
    let mut ranks = vec![0u32; rows.len()];
    rows.iter().enumerate().for_each(|(rank, row)| ranks[row.index] = rank as u32);
    let all = |part: fn(&(Tensor, Tensor)) -> &Tensor| {
        pick(&Tensor::cat(&ended.iter().rev().map(part).collect::<Vec<_>>(), 0)?, ranks.clone())
    };
    let state = LstmState { h: all(|(h, _)| h)?, c: all(|(_, c)| c)? };
    let out =
        if outs.is_empty() { gates.narrow(1, 0, hidden)? } else { pick(&Tensor::cat(&outs, 0)?, places)? };
    Ok((out, state))
}
