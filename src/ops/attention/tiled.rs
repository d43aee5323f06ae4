//! One head on the [tile unit](crate::ops::amx): scores and sums of values are tile products, between them the
//! softmax goes over rows with f32 vectors and splits its probabilities for the second product.

use super::{Head, Sums};
use crate::ops::amx::{DEPTH, GROUP, Micro, Source, Step, pack_columns, pack_pairs, pack_rows};
use crate::ops::simd::{Simd, dispatch};

/// Keys a block; the scores of a group of queries take 34 KB.
const KEYS: usize = 256;
/// Values from one row of scores to the next: rows that are 1 KB apart would share a few sets of the cache.
const ROW: usize = KEYS + 16;

/// Steps that [`run_head`] needs.
pub(super) fn scratch_len(keys: usize, dim: usize) -> usize {
    let area = |values: usize| (values * size_of::<f32>()).div_ceil(size_of::<Step>());
    let (dims, key_groups) = (dim.div_ceil(DEPTH), keys.div_ceil(GROUP));
    2 * key_groups * dims + dims + KEYS / DEPTH + area(GROUP * ROW) + area(GROUP * dims * DEPTH)
}

/// The parts of a thread's buffer.
struct Parts {
    keys: *mut Step,
    values: *mut Step,
    queries: *mut Step,
    probabilities: *mut Step,
    scores: *mut f32,
    sums: *mut f32,
}

dispatch! {
    /// # Safety
    /// As the head's [`run_head`](super::run_head); `scratch` is valid for [`scratch_len`] steps.
    pub(super) unsafe fn run_head(h: Head, scratch: *mut Step) = head_generic
}

/// # Safety
/// As [`run_head`].
#[inline(always)]
unsafe fn head_generic<S: Simd>(h: Head, scratch: *mut Step) {
    let (dims, key_groups) = (h.dim.div_ceil(DEPTH), h.keys.div_ceil(GROUP));
    let source = |values, rows, stride| Source { values, rows, width: h.dim, stride };
    // SAFETY: `scratch_len` counts every part; keys, values and queries are valid by the contract.
    unsafe {
        let values = scratch.add(key_groups * dims);
        let queries = values.add(key_groups * dims);
        let probabilities = queries.add(dims);
        let scores = probabilities.add(KEYS / DEPTH).cast::<f32>();
        let parts =
            Parts { keys: scratch, values, queries, probabilities, scores, sums: scores.add(GROUP * ROW) };
        pack_columns(source(h.k, h.keys, h.k_stride), parts.keys);
        pack_pairs(source(h.v, h.keys, h.v_stride), parts.values);
        for first in (0..h.queries).step_by(GROUP) {
            let rows = GROUP.min(h.queries - first);
            pack_rows(source(h.q.add(first * h.q_stride), rows, h.q_stride), h.scale, parts.queries);
            group::<S>(&h, first, rows, dims, &parts);
        }
    }
}

/// Queries `first..first + rows`, packed: all keys block by block, then the rows of the output.
///
/// # Safety
/// As [`run_head`]; the parts hold the head's keys and values and the queries' steps.
#[inline(always)]
unsafe fn group<S: Simd>(h: &Head, first: usize, rows: usize, dims: usize, parts: &Parts) {
    let mut sums = Sums::default();
    let (wide, key_groups) = (dims * DEPTH, h.keys.div_ceil(GROUP));
    for key in (0..h.visible(first + rows - 1)).step_by(KEYS) {
        let n = KEYS.min(h.keys - key);
        let (block, steps) = (key / GROUP, n.div_ceil(GROUP));
        // SAFETY: keys from `block` groups on, `steps` of them; rows of scores have room for `KEYS`, those of sums
        // for `wide`.
        unsafe {
            let of_scores = Micro {
                rows,
                steps: dims,
                a: parts.queries,
                b: parts.keys.add(block * dims),
                c: parts.scores,
                stride: ROW,
                accumulate: false,
                count: steps,
                next: (0, dims, GROUP),
            };
            of_scores.run();
            sums.absorb::<S>(
                h,
                (first, rows),
                (key, n, steps * GROUP),
                (parts.scores, ROW),
                (parts.sums, wide),
            );
            let scores = Source { values: parts.scores, rows, width: steps * GROUP, stride: ROW };
            pack_rows(scores, 1.0, parts.probabilities);
            let of_values = Micro {
                rows,
                steps,
                a: parts.probabilities,
                b: parts.values.add(block),
                c: parts.sums,
                stride: wide,
                accumulate: key > 0,
                count: dims,
                next: (0, key_groups, GROUP),
            };
            of_values.run();
        }
    }
    // SAFETY: a row of sums for each query, and its row of the output.
    unsafe { sums.finish::<S>(h, (first, rows), (parts.sums, wide)) };
}
