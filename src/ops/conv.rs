//! Convolutions over time, or over time and frequency, with the channels last.
//!
//! With the channels last, a tap's values of neighbouring places lie as the rows of a matrix do, which overlap where the
//! taps do: so a convolution is a [product](super::gemm) a tap without any copy of its windows. On the CPU only the
//! padding is copied in. What a place comes to does not depend on how many places there are, to the last bit.

#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::gemm::{Activation, End, Gemm, Line, MC, PANEL, Rhs, gemm};
use super::linear::pack;
use super::{cpu, par};

/// How a convolution moves over its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moves {
    /// Steps of time, and of frequency, from one place to the next.
    pub stride: (usize, usize),
    /// Zeros before and behind, in time and in frequency.
    pub pad: (usize, usize),
    /// Steps of time from one tap to the next.
    pub dilation: usize,
}

impl Moves {
    /// Place by place, without padding.
    pub const PLAIN: Moves = Moves { stride: (1, 1), pad: (0, 0), dilation: 1 };
}

#[derive(Clone)]
enum Weights {
    /// `ceil(outputs / 16)` panels of `taps * inputs` lines, in order of time, frequency, channel; bias.
    Packed(Arc<[Line]>, Option<Arc<[f32]>>),
    /// `(taps * inputs, outputs)`; bias.
    Plain(Tensor, Option<Tensor>),
}

/// A convolution's weights. Cheap to clone.
#[derive(Clone)]
pub struct Conv {
    inputs: usize,
    outputs: usize,
    /// In time and in frequency.
    taps: (usize, usize),
    moves: Moves,
    weights: Weights,
}

impl Conv {
    /// Takes a weight of `(outputs, inputs, taps in time, taps in frequency)` and a bias of `(outputs)`.
    ///
    /// # Errors
    /// A zero dimension or stride, or a bias that does not fit.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, moves: Moves) -> Result<Conv> {
        let (outputs, inputs, times, freqs) = weight.dims4()?;
        if weight.elem_count() == 0 || moves.stride.0 * moves.stride.1 * moves.dilation == 0 {
            bail!("conv: a weight of shape {:?}, {moves:?}", weight.shape());
        }
        if bias.is_some_and(|bias| bias.dims() != [outputs]) {
            bail!("conv: a bias that does not fit {outputs} outputs");
        }
        let rows = weight.permute((0, 2, 3, 1))?.contiguous()?.reshape((outputs, times * freqs * inputs))?;
        let weights = if cpu::fused(&[&rows]) && bias.is_none_or(|b| cpu::fused(&[b])) {
            let bias = bias.map(|b| cpu::with(&b.contiguous()?, "conv: bias", |b| Ok(Arc::from(b))));
            let depth = times * freqs * inputs;
            let packed = cpu::with(&rows, "conv: weight", |w| Ok(pack(w, outputs, depth)))?;
            Weights::Packed(packed, bias.transpose()?)
        } else {
            Weights::Plain(rows.t()?.contiguous()?, bias.cloned())
        };
        Ok(Conv { inputs, outputs, taps: (times, freqs), moves, weights })
    }

    /// A convolution over time alone: a weight of `(outputs, inputs, taps)`, as PyTorch stores it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn over_time(weight: &Tensor, bias: Option<&Tensor>, moves: Moves) -> Result<Conv> {
        Conv::new(&weight.unsqueeze(3)?, bias, moves)
    }

    /// Channels of its output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that the weights hold.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Packed(w, b) => {
                size_of_val::<[Line]>(w) + b.as_ref().map_or(0, |b| size_of_val::<[f32]>(b))
            }
            Weights::Plain(w, b) => {
                (w.elem_count() + b.as_ref().map_or(0, Tensor::elem_count)) * w.dtype().size_in_bytes()
            }
        }
    }

    /// Places of the output, in time and in frequency.
    fn places(&self, times: usize, freqs: usize) -> Result<(usize, usize)> {
        let Moves { stride, pad, dilation } = self.moves;
        let count = |len: usize, pad: usize, span: usize, stride: usize| {
            (len + 2 * pad).checked_sub(span).map(|room| room / stride + 1)
        };
        let times_out = count(times, pad.0, (self.taps.0 - 1) * dilation + 1, stride.0);
        let freqs_out = count(freqs, pad.1, self.taps.1, stride.1);
        match (times_out, freqs_out) {
            (Some(t), Some(f)) => Ok((t, f)),
            _ => bail!("conv: {times} x {freqs} places are too few for {:?} taps", self.taps),
        }
    }
}

/// `conv(x) + bias` of `(time, frequency, inputs)`: `(time', frequency', outputs)`.
///
/// # Errors
/// Another number of channels, or too few places for the taps; on the CPU, an `x` that is not contiguous.
pub fn conv(x: &Tensor, layer: &Conv) -> Result<Tensor> {
    apply(x, layer, None, Activation::None)
}

/// `max(conv(x) + bias, 0)`; otherwise as [`conv`].
///
/// # Errors
/// As [`conv`].
pub fn conv_relu(x: &Tensor, layer: &Conv) -> Result<Tensor> {
    apply(x, layer, None, Activation::Relu)
}

/// `max(conv(x) + bias + beside, 0)`; otherwise as [`conv`].
///
/// # Errors
/// As [`conv`]; a `beside` of another shape than the output.
pub fn conv_add_relu(x: &Tensor, layer: &Conv, beside: &Tensor) -> Result<Tensor> {
    apply(x, layer, Some(beside), Activation::Relu)
}

fn apply(x: &Tensor, layer: &Conv, onto: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    let (times, freqs, inputs) = x.dims3()?;
    if inputs != layer.inputs {
        bail!("conv: {inputs} channels, {} are needed", layer.inputs);
    }
    let (times_out, freqs_out) = layer.places(times, freqs)?;
    let shape = (times_out, freqs_out, layer.outputs);
    if let Some(onto) = onto
        && onto.dims() != [times_out, freqs_out, layer.outputs]
    {
        bail!("conv: {:?} beside an output of {shape:?}", onto.shape());
    }
    let Weights::Packed(weights, bias) = &layer.weights else {
        return composed(x, layer, (times_out, freqs_out), onto, activation);
    };
    if let Some(onto) = onto
        && !layer.outputs.is_multiple_of(PANEL)
    {
        // The product adds to whole panels only.
        return activated((apply(x, layer, None, Activation::None)? + onto)?, activation);
    }
    let mut out = match onto {
        Some(onto) => cpu::with(onto, "conv: beside", |onto| Ok(onto.to_vec()))?,
        // SAFETY: the tasks of `run` cover all times and each writes all its places.
        None => unsafe { par::uninit(times_out * freqs_out * layer.outputs) },
    };
    cpu::with(x, "conv: input", |x| {
        let padded = padded(x, (times, freqs, inputs), layer.moves.pad);
        let run = Run {
            x: padded.as_deref().unwrap_or(x),
            pitch: (freqs + 2 * layer.moves.pad.1) * inputs,
            layer,
            weights,
            bias: bias.as_deref(),
            freqs: freqs_out,
            onto: onto.is_some(),
            activation,
        };
        run.all(&mut out, times_out);
        Ok(())
    })?;
    cpu::tensor(out, shape)
}

/// The input within zeros; `None` without padding.
fn padded(
    x: &[f32],
    (times, freqs, channels): (usize, usize, usize),
    pad: (usize, usize),
) -> Option<Vec<f32>> {
    if pad == (0, 0) {
        return None;
    }
    let (row, pitch) = (freqs * channels, (freqs + 2 * pad.1) * channels);
    let mut out = vec![0f32; (times + 2 * pad.0) * pitch];
    for (time, from) in x.chunks_exact(row).enumerate() {
        out[(time + pad.0) * pitch + pad.1 * channels..][..row].copy_from_slice(from);
    }
    Some(out)
}

/// One call on the CPU.
struct Run<'a> {
    /// With its padding.
    x: &'a [f32],
    /// Values of one time of it.
    pitch: usize,
    layer: &'a Conv,
    weights: &'a [Line],
    bias: Option<&'a [f32]>,
    /// Places in frequency.
    freqs: usize,
    onto: bool,
    activation: Activation,
}

impl Run<'_> {
    /// Computes `times` rows of places.
    fn all(&self, out: &mut [f32], times: usize) {
        let width = self.freqs * self.layer.outputs;
        let depth = self.layer.taps.0 * self.layer.taps.1 * self.layer.inputs;
        let ns = (2 * out.len() * depth) as f64 / 100.0;
        let block = if self.is_over_time() { MC } else { 1.max(MC / self.freqs) };
        let tasks = times.div_ceil(block);
        let dst = par::SharedMut::new(out);
        par::for_each(tasks, ns, |task| {
            let (from, to) = (task * block, ((task + 1) * block).min(times));
            if self.is_over_time() {
                // SAFETY: times `from..to` are this task's alone.
                unsafe { self.times(from, to - from, dst.get().add(from * width)) };
            } else {
                // SAFETY: as above.
                (from..to).for_each(|time| unsafe { self.freqs(time, dst.get().add(time * width)) });
            }
        });
    }

    /// Whether the taps take up all frequencies, so that there is one place in each time.
    fn is_over_time(&self) -> bool {
        self.layer.taps.1 * self.layer.inputs == self.pitch
    }

    /// Places one after the other in time: the matrix's rows are times.
    ///
    /// # Safety
    /// `c` is valid for `m` rows of outputs that nothing else uses; times `from..from + m` are there.
    unsafe fn times(&self, from: usize, m: usize, c: *mut f32) {
        let Moves { stride, dilation, .. } = self.layer.moves;
        let (taps, k) = match dilation {
            // Taps that follow each other are one.
            1 => (1, self.layer.taps.0 * self.pitch),
            _ => (self.layer.taps.0, self.pitch),
        };
        let lda = stride.0 * self.pitch;
        // SAFETY: `places` made sure that all taps of all times lie within the padded input.
        unsafe { self.product(m, (taps, dilation * self.pitch, k), from * lda, lda, c) };
    }

    /// The places of one time: the matrix's rows are frequencies.
    ///
    /// # Safety
    /// `c` is valid for all frequencies of `time`, which is there, and nothing else uses them.
    unsafe fn freqs(&self, time: usize, c: *mut f32) {
        let Moves { stride, dilation, .. } = self.layer.moves;
        let k = self.layer.taps.1 * self.layer.inputs;
        let taps = (self.layer.taps.0, dilation * self.pitch, k);
        let (at, lda) = (time * stride.0 * self.pitch, stride.1 * self.layer.inputs);
        // SAFETY: as in `times`.
        unsafe { self.product(self.freqs, taps, at, lda, c) };
    }

    /// # Safety
    /// Rows `lda` apart from value `at` on have all their taps within the input; `c` is valid for `m` rows of outputs.
    unsafe fn product(
        &self,
        m: usize,
        (taps, tap_stride, k): (usize, usize, usize),
        at: usize,
        lda: usize,
        c: *mut f32,
    ) {
        debug_assert!(m == 0 || at + (m - 1) * lda + (taps - 1) * tap_stride + k <= self.x.len());
        let n = self.layer.outputs;
        let bias = self.bias.map_or(std::ptr::null(), <[f32]>::as_ptr);
        // SAFETY: the caller's contract; the weights have `taps * k` lines a panel, the bias `n` values.
        unsafe {
            gemm(Gemm {
                m,
                n,
                k,
                taps,
                tap_stride,
                a: self.x.as_ptr().add(at),
                lda,
                b: Rhs { ptr: self.weights.as_ptr().cast(), panel_stride: PANEL * taps * k },
                onto: self.onto,
                end: End { bias, activation: self.activation, c, ldc: n },
            });
        }
    }
}

/// Bytes of the windows that [`composed`] lays out at a time, where each value is there once for every tap.
const WINDOW_BYTES: usize = if cfg!(test) { 4 << 10 } else { 64 << 20 };

/// The same out of candle's operations: the windows of some times side by side, and one product.
fn composed(
    x: &Tensor,
    layer: &Conv,
    (times, freqs): (usize, usize),
    onto: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor> {
    let Moves { stride, pad, dilation } = layer.moves;
    let Weights::Plain(weight, bias) = &layer.weights else { bail!("conv: weights of another device") };
    let x = x.pad_with_zeros(0, pad.0, pad.0)?.pad_with_zeros(1, pad.1, pad.1)?;
    let pick = |x: &Tensor, dim: usize, count: usize, stride: usize, from: usize| {
        let at: Vec<u32> = (0..count).map(|i| (i * stride + from) as u32).collect();
        x.index_select(&Tensor::from_vec(at, count, x.device())?, dim)
    };
    let a_time = freqs * layer.taps.0 * layer.taps.1 * layer.inputs * size_of::<f32>();
    let part = (WINDOW_BYTES / a_time).max(1);
    let mut parts = Vec::with_capacity(times.div_ceil(part));
    for first in (0..times).step_by(part) {
        let len = part.min(times - first);
        let mut windows = Vec::with_capacity(layer.taps.0 * layer.taps.1);
        for tap in 0..layer.taps.0 {
            let rows = pick(&x, 0, len, stride.0, first * stride.0 + tap * dilation)?;
            for tap in 0..layer.taps.1 {
                windows.push(pick(&rows, 1, freqs, stride.1, tap)?);
            }
        }
        let windows = Tensor::cat(&windows, 2)?.reshape((len * freqs, ()))?;
        parts.push(windows.matmul(weight)?.reshape((len, freqs, layer.outputs))?);
    }
    let mut y = match parts.as_slice() {
        [one] => one.clone(),
        several => Tensor::cat(several, 0)?,
    };
    drop(parts);
    if let Some(bias) = bias {
        y = y.broadcast_add(bias)?;
    }
    if let Some(onto) = onto {
        y = (y + onto)?;
    }
    activated(y, activation)
}

fn activated(y: Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::None => Ok(y),
        Activation::Gelu => y.gelu_erf(),
        Activation::Relu => y.relu(),
    }
}
