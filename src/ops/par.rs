//! How the CPU side of the ops splits its work: rayon's global pool, a bounded number of pieces.

#![allow(unsafe_code)]

use rayon::prelude::*;

/// Work below this many nanoseconds is not worth waking a thread for.
pub(crate) const WORTH_A_THREAD_NS: f64 = 15_000.0;

/// Threads that share the work of one op.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads().max(1)
}

/// Runs `f(0..count)`, in parallel if the whole takes longer than waking threads does.
///
/// `ns` is a rough cost of all the work on one core.
pub(crate) fn for_each(count: usize, ns: f64, f: impl Fn(usize) + Sync + Send) {
    if count > 1 && ns > WORTH_A_THREAD_NS && threads() > 1 {
        (0..count).into_par_iter().with_max_len(1).for_each(f);
    } else {
        (0..count).for_each(f);
    }
}

/// How many pieces to cut `ns` of work into: enough that a slow core does not hold up the rest.
pub(crate) fn pieces(ns: f64) -> usize {
    if ns <= WORTH_A_THREAD_NS || threads() == 1 { 1 } else { 4 * threads() }
}

/// Runs `f` on every part, in parallel if there are several.
pub(crate) fn each<T: Send>(parts: Vec<T>, f: impl Fn(T) + Sync + Send) {
    if parts.len() > 1 && threads() > 1 {
        parts.into_par_iter().for_each(f);
    } else {
        parts.into_iter().for_each(f);
    }
}

/// What `f` makes of every part, in order; in parallel if there are several.
pub(crate) fn map<T: Send, R: Send>(parts: Vec<T>, f: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    if parts.len() > 1 && threads() > 1 {
        parts.into_par_iter().with_max_len(1).map(f).collect()
    } else {
        parts.into_iter().map(f).collect()
    }
}

/// Runs `f(first_row, rows)` over disjoint runs of rows of `out`, each row `width` values.
pub(crate) fn rows_mut(
    out: &mut [f32],
    width: usize,
    ns_a_value: f64,
    f: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    if out.is_empty() || width == 0 {
        return;
    }
    let rows = out.len() / width;
    let ns = out.len() as f64 * ns_a_value;
    if ns <= WORTH_A_THREAD_NS || threads() == 1 {
        return f(0, out);
    }
    let chunk = rows.div_ceil(threads() * 4).max(1);
    out.par_chunks_mut(chunk * width).enumerate().for_each(|(i, part)| f(i * chunk, part));
}

/// A pointer that several threads write disjoint parts through.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut(*mut f32);

// SAFETY: whoever dereferences it writes only its own part; see each use.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    pub(crate) fn new(out: &mut [f32]) -> Self {
        SharedMut(out.as_mut_ptr())
    }

    /// The pointer itself (a method, so that closures capture the wrapper and not the field).
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}

/// A vector of `len` values for an op that writes every one of them.
///
/// The pages come zeroed from the system or with the leavings of an earlier tensor; nothing reads them before
/// they are written, so they are not cleared again.
///
/// # Safety
/// The caller writes all `len` values before any is read.
#[allow(clippy::uninit_vec)]
pub(crate) unsafe fn uninit(len: usize) -> Vec<f32> {
    let mut v = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`; every bit pattern is an f32; the caller writes before anything reads.
    unsafe { v.set_len(len) };
    v
}
