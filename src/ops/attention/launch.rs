//! Which kernels attend over whole rows on a GPU.

use super::Span;
use crate::ops::gpu::{Address, Launch, plain};

/// Sizes of heads that there are kernels for.
const KERNELS: [(usize, &str); 3] = [(32, "attention_32"), (64, "attention_64"), (128, "attention_128")];
/// Queries of a warp.
const ROWS: usize = 16;
/// Rows that one launch takes at most.
const MOST: usize = 128;
/// Queries of a row from which its blocks have twice the warps: each then reads the keys and values for twice as many.
const LONG: usize = 512;

/// The kernel for heads of this size.
pub(super) fn kernel(head_dim: usize) -> Option<&'static str> {
    KERNELS.iter().find(|(dim, _)| *dim == head_dim).map(|(_, name)| *name)
}

/// `EncoderRow` of kernels/attention.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RowAt {
    q: u32,
    k: u32,
    v: u32,
    out: u32,
    queries: u32,
    keys: u32,
    block: u32,
}

/// `Encoder` of kernels/attention.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct EncoderAt {
    q: Address,
    k: Address,
    v: Address,
    out: Address,
    strides: [u32; 4],
    scale: f32,
    causal: u32,
    count: u32,
    rows: [RowAt; MOST],
    unused: u32,
}

plain!(RowAt: 28, EncoderAt: 3648);

/// Queries, keys, values and the result: where each begins, and the floats from one token to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensors {
    pub q: (Address, usize),
    pub k: (Address, usize),
    pub v: (Address, usize),
    pub out: (Address, usize),
}

impl Tensors {
    /// Whether the kernels can read these: they take 4 floats at a time.
    pub fn are_aligned(&self) -> bool {
        let aligned = |(at, stride): (Address, usize)| {
            at.is_multiple_of(16) && stride.is_multiple_of(4) && u32::try_from(stride).is_ok()
        };
        [self.q, self.k, self.v, self.out].into_iter().all(aligned)
    }
}

/// A span's place in groups of 4 floats; `None` where it lies at no whole one, or too far.
fn place(span: &Span, block: usize) -> Option<RowAt> {
    let group = |at: usize| u32::try_from(at / 4).ok().filter(|_| at.is_multiple_of(4));
    Some(RowAt {
        q: group(span.q)?,
        k: group(span.k)?,
        v: group(span.v)?,
        out: group(span.out)?,
        queries: u32::try_from(span.queries).ok().filter(|n| *n < 1 << 30)?,
        keys: u32::try_from(span.keys).ok().filter(|n| *n < 1 << 30)?,
        block: u32::try_from(block).ok()?,
    })
}

/// What computes attention over `spans`, each written whole; `None` for heads or places that the kernels do not take.
pub(super) fn launches(
    tensors: &Tensors,
    spans: &[Span],
    (heads, head_dim): (usize, usize),
    scale: f32,
    causal: bool,
) -> Option<Vec<Launch>> {
    let kernel = kernel(head_dim).filter(|_| tensors.are_aligned())?;
    let spans: Vec<&Span> = spans.iter().filter(|s| s.queries > 0).collect();
    let longest = spans.iter().map(|s| s.queries).max().unwrap_or(0);
    let warps = if longest >= LONG { 8 } else { 4 };
    let mut launches = Vec::with_capacity(spans.len().div_ceil(MOST));
    for spans in spans.chunks(MOST) {
        let nothing = RowAt { q: 0, k: 0, v: 0, out: 0, queries: 0, keys: 0, block: 0 };
        let (mut rows, mut blocks) = ([nothing; MOST], 0);
        for (row, span) in rows.iter_mut().zip(spans) {
            *row = place(span, blocks)?;
            blocks += span.queries.div_ceil(ROWS * warps);
        }
        let Tensors { q, k, v, out } = *tensors;
        let at = EncoderAt {
            q: q.0,
            k: k.0,
            v: v.0,
            out: out.0,
            strides: [q, k, v, out].map(|(_, stride)| stride as u32),
            // e^x = 2^(x log2 e)
            scale: scale * std::f32::consts::LOG2_E,
            causal: causal.into(),
            count: spans.len() as u32,
            rows,
            unused: 0,
        };
        launches.push(Launch::new(kernel, [blocks, heads, 1], 32 * warps).structure(&at));
    }
    Some(launches)
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
