//! Products of several rows on AVX2.
//!
//! The shared tile ([`kernel`](super::kernel)) unpacks a block's codes again for every two rows, and with 16
//! registers its unrolled block spills. Here a panel is unpacked once for all rows; then four rows at a time pass over
//! it, a vector of codes an iteration. Codes of 4 to 6 bits are a byte each, and their products are summed in 16 bits as
//! far as they fit. Those of 8 bits would not fit once: codes and activations are widened to 16 bits, which takes two
//! multiplications where bytes take two and a change of signs. The integer sums are exact and the steps in f32 the
//! same, so results are too, to the last bit.

#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::hint::black_box;

use super::format::{BLOCK, Format, PANEL};
use super::kernel::{Task, decode};
use super::lanes::{Avx2, Lanes};
use super::{Line, lines};

/// Rows from which on unpacking apart pays.
pub(super) const LEAST_ROWS: usize = 3;

/// Bytes of a vector of codes: 16 outputs by 4 inputs.
const VECTOR: usize = 64;
/// Vectors of codes in a block.
const VECTORS: usize = BLOCK / 4;

/// How often the loop over a half's vectors turns that must stay a loop: unrolled, its sums are reordered until they
/// spill. So the compiler must not know.
#[derive(Clone, Copy)]
struct Trips(usize);

impl Trips {
    /// Runs of vectors in a half, and vectors in a run: as many as have products whose sums by twos fit 16 bits
    /// (8 * 2 * 15 * 127, 4 * 2 * 31 * 127, 2 * 2 * 63 * 127). Of 8 bits, half vectors in a block.
    const fn of(bits: usize, halves: usize) -> (usize, usize) {
        let run = match bits {
            4 => 8,
            5 => 4,
            6 => 2,
            _ => return (2 * VECTORS, 1),
        };
        (VECTORS / halves / run, run)
    }

    fn opaque(bits: usize, halves: usize) -> Trips {
        let (runs, run) = Trips::of(bits, halves);
        Trips(black_box(if bits < 6 { run } else { runs }))
    }
}

/// A panel and what goes with it.
struct Unpacked {
    /// (blocks, vectors, outputs, 4) bytes; of 8 bits (blocks, vectors, 2, outputs, 2) 16-bit codes counted from 128.
    codes: Vec<Line>,
    /// The activations in 16 bits, (rows, inputs), for codes of 8 bits.
    wide: Vec<i16>,
    /// (blocks, halves, outputs)
    scales: Vec<f32>,
    /// (blocks, outputs)
    minima: Vec<f32>,
}

/// All panels of a task.
///
/// # Safety
/// As [`kernel::run`](super::kernel::run), with panels of `F`, on a processor with AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn panels<F: Format>(task: &Task) {
    let layout = F::LAYOUT;
    let mut unpacked = Unpacked {
        codes: lines(task.blocks * VECTORS * VECTOR * if layout.bits == 8 { 2 } else { 1 }),
        wide: Vec::new(),
        scales: vec![0.0; task.blocks * layout.halves * PANEL],
        minima: vec![0.0; if layout.minimum { task.blocks * PANEL } else { 0 }],
    };
    if layout.bits == 8 {
        // SAFETY: the task's activations are (rows, 32 blocks).
        let x = unsafe { std::slice::from_raw_parts(task.x, task.rows * task.blocks * BLOCK) };
        unpacked.wide = x.iter().map(|&x| i16::from(x)).collect();
    }
    let trips = Trips::opaque(layout.bits, layout.halves);
    for panel in 0..task.columns.div_ceil(PANEL) {
        // SAFETY: the task has `panel`; tiles take rows `row..row + R` with `R` at most what is left.
        unsafe {
            unpack::<F>(task, panel, &mut unpacked);
            let mut row = 0;
            while row < task.rows {
                row += match task.rows - row {
                    1 => tile::<F, 1>(task, &unpacked, (panel, row), trips),
                    2 => tile::<F, 2>(task, &unpacked, (panel, row), trips),
                    3 => tile::<F, 3>(task, &unpacked, (panel, row), trips),
                    _ => tile::<F, 4>(task, &unpacked, (panel, row), trips),
                };
            }
        }
    }
}

/// # Safety
/// As [`panels`], and the task has `panel`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack<F: Format>(task: &Task, panel: usize, out: &mut Unpacked) {
    let layout = F::LAYOUT;
    let groups = task.blocks / layout.group;
    let mut to = out.codes.as_mut_ptr().cast::<__m256i>();
    // SAFETY: every pointer moves within the panel that the caller vouches for; `out` has room for it, as made.
    unsafe {
        let mut codes = task.codes.add(panel * task.blocks * layout.code_bytes());
        let mut scales = task.scales.add(panel * groups * layout.scale_bytes());
        for block in 0..task.blocks {
            for pair in 0..VECTORS / 2 {
                let [first, second] = decode::<Avx2, F>(codes, pair);
                for vector in [first, second] {
                    if layout.bits == 8 {
                        let [low, high] = [widen(vector[0]), widen(vector[1])];
                        _mm256_store_si256(to, low[0]);
                        _mm256_store_si256(to.add(1), high[0]);
                        _mm256_store_si256(to.add(2), low[1]);
                        _mm256_store_si256(to.add(3), high[1]);
                        to = to.add(4);
                    } else {
                        _mm256_store_si256(to, vector[0]);
                        _mm256_store_si256(to.add(1), vector[1]);
                        to = to.add(2);
                    }
                }
            }
            codes = codes.add(layout.code_bytes());
            let sub = scales.add(layout.head_bytes() + block % layout.group * layout.sub_bytes());
            let scale = Avx2::halves(scales);
            for half in 0..layout.halves {
                let scale = match (layout.group > 1, layout.minimum) {
                    (false, _) => scale,
                    (true, true) => Avx2::mul(scale, Avx2::unsigned(sub)),
                    (true, false) => Avx2::mul(scale, Avx2::signed(sub.add(half * PANEL))),
                };
                Avx2::store(out.scales.as_mut_ptr().add((block * layout.halves + half) * PANEL), scale);
            }
            if layout.minimum {
                let minimum = Avx2::halves(scales.add(2 * PANEL));
                let minimum = if layout.group > 1 {
                    Avx2::mul(minimum, Avx2::unsigned(sub.add(PANEL)))
                } else {
                    minimum
                };
                Avx2::store(out.minima.as_mut_ptr().add(block * PANEL), minimum);
            }
            if (block + 1) % layout.group == 0 {
                scales = scales.add(layout.scale_bytes());
            }
        }
    }
}

/// Of four codes a row, the first two and the last two, counted from 128, in 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(codes: __m256i) -> [__m256i; 2] {
    let codes = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    // A byte goes to the upper half of its 16 bits; the shift brings it down with its sign.
    let first = _mm_set_epi8(13, -1, 12, -1, 9, -1, 8, -1, 5, -1, 4, -1, 1, -1, 0, -1);
    let last = _mm_set_epi8(15, -1, 14, -1, 11, -1, 10, -1, 7, -1, 6, -1, 3, -1, 2, -1);
    [first, last].map(|which| {
        let spread = _mm256_shuffle_epi8(codes, _mm256_broadcastsi128_si256(which));
        _mm256_srai_epi16(spread, 8)
    })
}

/// `R` rows times the panel; gives `R`.
///
/// # Safety
/// As [`panels`]; the task has `panel` and rows `row..row + R`, and `panel` is what `unpacked` holds.
#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::needless_range_loop)] // the same constant index into several arrays, unrolled
unsafe fn tile<F: Format, const R: usize>(
    task: &Task,
    unpacked: &Unpacked,
    (panel, row): (usize, usize),
    trips: Trips,
) -> usize {
    let layout = F::LAYOUT;
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: every pointer moves within the panel and the rows that the caller vouches for.
    unsafe {
        let mut codes = unpacked.codes.as_ptr().cast::<__m256i>();
        let mut scales = unpacked.scales.as_ptr();
        let mut x = row * task.blocks * BLOCK;
        for block in 0..task.blocks {
            let at = row * task.blocks + block;
            for half in 0..layout.halves {
                let sums = if layout.bits == 8 {
                    wide_block::<R>(task, codes, unpacked.wide.as_ptr().add(x), trips)
                } else {
                    half_block::<F, R>(task, codes, task.x.add(x), (at, half), trips)
                };
                codes = codes.add(2 * VECTORS / layout.halves * if layout.bits == 8 { 2 } else { 1 });
                x += BLOCK / layout.halves;
                let scale = [_mm256_loadu_ps(scales), _mm256_loadu_ps(scales.add(8))];
                scales = scales.add(PANEL);
                for r in 0..R {
                    let x_scale = Avx2::splat(*task.x_scales.add(at + r * task.blocks));
                    acc[r] = Avx2::fma(Avx2::floats(sums[r]), Avx2::mul(scale, x_scale), acc[r]);
                }
            }
            if layout.minimum {
                let minima = unpacked.minima.as_ptr().add(block * PANEL);
                let minimum = [_mm256_loadu_ps(minima), _mm256_loadu_ps(minima.add(8))];
                for r in 0..R {
                    let total = Avx2::splat(*task.x_totals.add(at + r * task.blocks));
                    acc[r] = Avx2::fma(minimum, total, acc[r]);
                }
            }
        }
        let columns = (task.columns - panel * PANEL).min(PANEL);
        for (r, acc) in acc.into_iter().enumerate() {
            let out = task.out.add((row + r) * task.out_stride + panel * PANEL);
            if columns == PANEL {
                Avx2::store(out, acc);
            } else {
                let mut whole = [0f32; PANEL];
                Avx2::store(whole.as_mut_ptr(), acc);
                std::ptr::copy_nonoverlapping(whole.as_ptr(), out, columns);
            }
        }
    }
    R
}

/// The integer sums of a block, or of half a one, for `R` rows.
///
/// # Safety
/// As [`tile`]; `codes` and `x` are those of the half, the latter in the first row, and `at` its place.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::needless_range_loop)]
unsafe fn half_block<F: Format, const R: usize>(
    task: &Task,
    codes: *const __m256i,
    x: *const i8,
    (at, half): (usize, usize),
    trips: Trips,
) -> [[__m256i; 2]; R] {
    let layout = F::LAYOUT;
    let zero = _mm256_setzero_si256();
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[zero; 2]; R];
    // SAFETY: offsets are within what the caller vouches for.
    unsafe {
        if layout.offset != 0 {
            for r in 0..R {
                sums[r] = Avx2::ints(*task.starts.add((at + r * task.blocks) * layout.halves + half));
            }
        }
        let (outer, inner) = Trips::of(layout.bits, layout.halves);
        let (outer, inner) = match layout.bits {
            4 | 5 => (outer, trips.0),
            _ => (trips.0, inner),
        };
        let mut vector = 0;
        for _ in 0..outer {
            let mut pairs = [[zero; 2]; R];
            let end = vector + inner;
            while vector < end {
                let c =
                    [_mm256_load_si256(codes.add(2 * vector)), _mm256_load_si256(codes.add(2 * vector + 1))];
                for r in 0..R {
                    let x = x.add(r * task.blocks * BLOCK + 4 * vector).cast::<i32>();
                    let x = _mm256_set1_epi32(x.read_unaligned());
                    for i in 0..2 {
                        pairs[r][i] = _mm256_add_epi16(pairs[r][i], _mm256_maddubs_epi16(c[i], x));
                    }
                }
                vector += 1;
            }
            for r in 0..R {
                for i in 0..2 {
                    sums[r][i] = _mm256_add_epi32(sums[r][i], _mm256_madd_epi16(pairs[r][i], ones));
                }
            }
        }
    }
    sums
}

/// The integer sums of a block of 16-bit codes for `R` rows.
///
/// # Safety
/// As [`tile`]; `codes` are the block's and `x` its activations in the first row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::needless_range_loop)]
unsafe fn wide_block<const R: usize>(
    task: &Task,
    codes: *const __m256i,
    x: *const i16,
    trips: Trips,
) -> [[__m256i; 2]; R] {
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    for two in 0..trips.0 {
        // SAFETY: a block has 16 pairs of vectors and of activations.
        unsafe {
            let c = [_mm256_load_si256(codes.add(2 * two)), _mm256_load_si256(codes.add(2 * two + 1))];
            for r in 0..R {
                let x = x.add(r * task.blocks * BLOCK + 2 * two).cast::<i32>();
                let x = _mm256_set1_epi32(x.read_unaligned());
                for i in 0..2 {
                    sums[r][i] = _mm256_add_epi32(sums[r][i], _mm256_madd_epi16(c[i], x));
                }
            }
        }
    }
    sums
}
