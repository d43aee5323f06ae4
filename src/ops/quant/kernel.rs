//! The product of quantised activations and panels, a tile at a time.
//!
//! For a block of 32 inputs the integer products are summed exactly; `sum * (weight scale * activation scale)` is
//! then added to the output in f32, and `minimum * activation total` where the format has minima. Each output is one
//! chain of these in the order of the blocks, whatever the tile: a row's result does not depend on the rows it is
//! computed with, to the last bit, nor on the instruction set as long as it has fused multiply-adds.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::format::*;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512Vnni, AvxVnni};
use super::lanes::{Isa, Lanes, Portable};

/// A run of panels times some rows of activations.
#[derive(Clone, Copy)]
pub(super) struct Task {
    /// Blocks of 32 inputs.
    pub(super) blocks: usize,
    /// Of the first panel.
    pub(super) codes: *const u8,
    pub(super) scales: *const u8,
    /// Outputs, all within the panels.
    pub(super) columns: usize,
    /// Rows of activations.
    pub(super) rows: usize,
    /// (rows, 32 blocks).
    pub(super) x: *const i8,
    /// (rows, blocks).
    pub(super) x_scales: *const f32,
    /// (rows, blocks).
    pub(super) x_totals: *const f32,
    /// (rows, blocks, halves) of the format; not read where its offset is 0.
    pub(super) starts: *const i32,
    /// Column of the first output in the first row.
    pub(super) out: *mut f32,
    /// From one row of the output to the next.
    pub(super) out_stride: usize,
}

/// Computes a task.
///
/// # Safety
/// The processor has `isa`. `codes` and `scales` are valid for as many panels of `kind` as `columns` need, `x` and
/// what goes with it for `rows`, `out` for `columns` values in each row; nothing else touches those meanwhile.
pub(super) unsafe fn run(isa: Isa, kind: Kind, task: &Task) {
    // SAFETY: the caller's contract, and each kind's panels have the layout of its format.
    unsafe {
        match kind {
            Kind::Q4_0 => run_as::<Q4_0>(isa, task),
            Kind::Q4_1 => run_as::<Q4_1>(isa, task),
            Kind::Q5_0 => run_as::<Q5_0>(isa, task),
            Kind::Q5_1 => run_as::<Q5_1>(isa, task),
            Kind::Q8_0 => run_as::<Q8_0>(isa, task),
            Kind::Q4K => run_as::<Q4K>(isa, task),
            Kind::Q5K => run_as::<Q5K>(isa, task),
            Kind::Q6K => run_as::<Q6K>(isa, task),
        }
    }
}

/// # Safety
/// As [`run`], with panels of `F`.
unsafe fn run_as<F: Format>(isa: Isa, task: &Task) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        unsafe fn avx512_vnni<F: Format>(task: &Task) {
            // SAFETY: entered only where the caller says the set is; the rest is its contract.
            unsafe { panels::<Avx512Vnni, F>(task) }
        }
        #[target_feature(enable = "avxvnni,avx2,fma,f16c")]
        unsafe fn avx_vnni<F: Format>(task: &Task) {
            // SAFETY: as above.
            unsafe { panels::<AvxVnni, F>(task) }
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2_set<F: Format>(task: &Task) {
            // SAFETY: as above.
            unsafe {
                match task.rows >= avx2::LEAST_ROWS {
                    true => avx2::panels::<F>(task),
                    false => panels::<Avx2, F>(task),
                }
            }
        }
        // SAFETY: the processor has `isa` by the caller's contract.
        match isa {
            Isa::Avx512Vnni => return unsafe { avx512_vnni::<F>(task) },
            // SAFETY: as above.
            Isa::AvxVnni => return unsafe { avx_vnni::<F>(task) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2_set::<F>(task) },
            Isa::Portable => {}
        }
    }
    let _ = isa;
    // SAFETY: needs no instruction set; the rest is the caller's contract.
    unsafe { panels::<Portable, F>(task) }
}

/// # Safety
/// As [`run`], with panels of `F`, on a processor with `D`.
#[inline(always)]
unsafe fn panels<D: Lanes, F: Format>(task: &Task) {
    for panel in 0..task.columns.div_ceil(PANEL) {
        let mut row = 0;
        while row < task.rows {
            let left = task.rows - row;
            // SAFETY: the tile's rows are `row..row + R`, and `R <= left`.
            row += unsafe {
                if D::ROWS >= 8 && left >= 8 {
                    tile::<D, F, 8>(task, panel, row)
                } else if D::ROWS >= 6 && left >= 6 {
                    tile::<D, F, 6>(task, panel, row)
                } else if D::ROWS >= 4 && left >= 4 {
                    tile::<D, F, 4>(task, panel, row)
                } else if D::ROWS >= 3 && left >= 3 {
                    tile::<D, F, 3>(task, panel, row)
                } else if D::ROWS >= 2 && left >= 2 {
                    tile::<D, F, 2>(task, panel, row)
                } else {
                    tile::<D, F, 1>(task, panel, row)
                }
            };
        }
    }
}

/// One panel of outputs for `R` rows; gives `R`.
///
/// # Safety
/// As [`panels`], and the task has `panel` and rows `row..row + R`.
#[inline(always)]
unsafe fn tile<D: Lanes, F: Format, const R: usize>(task: &Task, panel: usize, row: usize) -> usize {
    let layout = F::LAYOUT;
    // SAFETY: every pointer moves within the panel and rows that the caller vouches for.
    unsafe {
        let mut codes = task.codes.add(panel * task.blocks * layout.code_bytes());
        let groups = task.blocks / layout.group;
        let mut scales = task.scales.add(panel * groups * layout.scale_bytes());
        let mut at = row * task.blocks;
        let mut acc = [D::splat(0.0); R];
        for _ in 0..groups {
            let scale = D::halves(scales);
            let minimum = if layout.minimum { D::halves(scales.add(2 * PANEL)) } else { scale };
            let mut sub = scales.add(layout.head_bytes());
            for _ in 0..layout.group {
                block::<D, F, R>(task, codes, sub, (scale, minimum), at, &mut acc);
                codes = codes.add(layout.code_bytes());
                sub = sub.add(layout.sub_bytes());
                at += 1;
            }
            scales = scales.add(layout.scale_bytes());
        }
        let columns = (task.columns - panel * PANEL).min(PANEL);
        for (r, acc) in acc.into_iter().enumerate() {
            let out = task.out.add((row + r) * task.out_stride + panel * PANEL);
            if columns == PANEL {
                D::store(out, acc);
            } else {
                let mut whole = [0f32; PANEL];
                D::store(whole.as_mut_ptr(), acc);
                std::ptr::copy_nonoverlapping(whole.as_ptr(), out, columns);
            }
        }
    }
    R
}

/// Adds one block's products; `at` is the block's index in the first row of activations.
///
/// # Safety
/// As [`tile`]; `codes` and `sub` are the block's.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the same constant index into several arrays, unrolled
unsafe fn block<D: Lanes, F: Format, const R: usize>(
    task: &Task,
    codes: *const u8,
    sub: *const u8,
    (scale, minimum): (D::Floats, D::Floats),
    at: usize,
    acc: &mut [D::Floats; R],
) {
    let layout = F::LAYOUT;
    let pairs = 4 / layout.halves;
    // SAFETY: offsets are within one block of codes, scales and activations of the caller's rows.
    unsafe {
        let x = task.x.add(at * BLOCK);
        for half in 0..layout.halves {
            let mut sums = [D::ints(0); R];
            if layout.offset != 0 && !(D::CENTRED && layout.bits == 8) {
                for r in 0..R {
                    let start = (at + r * task.blocks) * layout.halves + half;
                    sums[r] = D::ints(*task.starts.add(start));
                }
            }
            for pair in half * pairs..(half + 1) * pairs {
                let [first, second] = decode::<D, F>(codes, pair);
                for r in 0..R {
                    let x = x.add(r * task.blocks * BLOCK + pair * 8);
                    if layout.bits == 8 {
                        sums[r] = D::dot_wide(D::dot_wide(sums[r], first, x), second, x.add(4));
                    } else {
                        sums[r] = D::dot(D::dot(sums[r], first, x), second, x.add(4));
                    }
                }
            }
            let scale = match (layout.group > 1, layout.minimum) {
                (false, _) => scale,
                (true, true) => D::mul(scale, D::unsigned(sub)),
                (true, false) => D::mul(scale, D::signed(sub.add(half * PANEL))),
            };
            for r in 0..R {
                let x_scale = D::splat(*task.x_scales.add(at + r * task.blocks));
                acc[r] = D::fma(D::floats(sums[r]), D::mul(scale, x_scale), acc[r]);
            }
        }
        if layout.minimum {
            let minimum =
                if layout.group > 1 { D::mul(minimum, D::unsigned(sub.add(PANEL))) } else { minimum };
            for r in 0..R {
                acc[r] = D::fma(minimum, D::splat(*task.x_totals.add(at + r * task.blocks)), acc[r]);
            }
        }
    }
}

/// Vectors `2 pair` and `2 pair + 1` of a block.
///
/// # Safety
/// `codes` is valid for a block of `F`; `pair < 4`.
#[inline(always)]
pub(super) unsafe fn decode<D: Lanes, F: Format>(codes: *const u8, pair: usize) -> [D::Bytes; 2] {
    let bits = F::LAYOUT.bits;
    // SAFETY: offsets are within the block.
    unsafe {
        if bits == 8 {
            return [D::bytes(codes.add(128 * pair)), D::bytes(codes.add(128 * pair + 64))];
        }
        let both = D::bytes(codes.add(64 * pair));
        let low = [D::and(both, 15), D::and(D::shr(both, 4), 15)];
        if bits == 4 {
            return low;
        }
        // Of vector `j`, the high bits lie from bit `from` on; they go to bit 4.
        let width = bits - 4;
        let plane = D::bytes(codes.add(256 + if bits == 6 { pair / 2 * 64 } else { 0 }));
        let mut out = low;
        for (i, (out, low)) in out.iter_mut().zip(low).enumerate() {
            let from = if bits == 6 { (2 * pair + i) % 4 * 2 } else { 2 * pair + i };
            let moved = if from < 4 { D::shl(plane, 4 - from) } else { D::shr(plane, from - 4) };
            *out = D::or(low, D::and(moved, ((1u8 << width) - 1) << 4));
        }
        out
    }
}
