//! Matrix products on the tile unit of Intel's servers (AMX), nearly as exact as products in f32.
//!
//! The unit multiplies bfloat16 and adds in f32, at 16 times the rate of AVX-512's f32 products. A value is split
//! into two bfloat16, `x = high + low`, which keeps 16 of its 24 bits; a product is then `high·high + high·low +
//! low·high`. What is left out is below `3·2⁻¹⁶` of each `|a||b|` and averages out over a sum. (A GPU's TF32, its usual
//! way with f32, is off by up to 2⁻¹⁰.) Halves split without a rest. Sums are in f32, in an order that does not depend
//! on the other rows.
//!
//! Whisper base's layers, 1500 rows: 790 to 860 GFLOP/s on two cores, where the f32 tiles of
//! [`gemm`](super::gemm) give 275.
//!
//! Each side of a product lies in [`Step`]s, in the order in which the unit reads them: groups of 32 rows of the left
//! side or 32 columns of the right, 32 values of the inner dimension a step.

#![allow(unsafe_code)]

mod pack;
mod product;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod unit;

use std::sync::OnceLock;

pub(crate) use pack::{Source, pack_columns, pack_pairs, pack_rows};
pub(crate) use product::{Tiled, product};

/// Rows or columns of a group: two tiles of 16.
pub(crate) const GROUP: usize = 32;
/// Values of the inner dimension in a step.
pub(crate) const DEPTH: usize = 32;
/// Rows of a tile.
const TILE: usize = 16;

/// One step of a group: the high parts of its two tiles, then the low parts. A tile has 16 rows of 32 values.
///
/// On the left side a tile's rows are rows of the matrix. On the right, row `r` has inner values `2r` and `2r + 1` of
/// each of 16 columns, side by side.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Step([[u16; TILE * DEPTH]; 4]);

impl Step {
    pub(crate) const ZERO: Step = Step([[0; TILE * DEPTH]; 4]);
}

/// Whether products run on the tile unit here: the processor has it and the system lets this process use it.
///
/// Asked once; tests turn it off for a while with [`without_tiles`](super::testing::without_tiles).
pub(crate) fn serves() -> bool {
    #[cfg(test)]
    if super::testing::is_without_tiles() {
        return false;
    }
    unit()
}

fn unit() -> bool {
    static UNIT: OnceLock<bool> = OnceLock::new();
    *UNIT.get_or_init(detect)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn detect() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// `ARCH_REQ_XCOMP_PERM` of `asm/prctl.h` and the number of the tiles' state: Linux saves 8 KB more for each
    /// thread, so a process has to ask.
    const REQUEST: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16");
    if !vectors || __cpuid(0).eax < 7 {
        return false;
    }
    let both = AMX_BF16 | AMX_TILE;
    // SAFETY: the call takes two numbers and touches no memory of the process.
    __cpuid_count(7, 0).edx & both == both
        && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn detect() -> bool {
    false
}

/// One group of rows by one group of columns, `c = a b` or `c += a b`, and more of these at even distances.
#[derive(Clone, Copy)]
pub(crate) struct Micro {
    /// Rows of a group that count, 1 to 32.
    pub(crate) rows: usize,
    pub(crate) steps: usize,
    pub(crate) a: *const Step,
    pub(crate) b: *const Step,
    /// 32 columns of the result, `stride` values from one row to the next.
    pub(crate) c: *mut f32,
    pub(crate) stride: usize,
    pub(crate) accumulate: bool,
    /// Products; each next one is `next` further: steps of `a`, steps of `b`, values of `c`.
    pub(crate) count: usize,
    pub(crate) next: (usize, usize, usize),
}

impl Micro {
    /// # Safety
    /// For each product, `a` and `b` are valid for `steps` steps, one at least, and `c` for 32 values in each of
    /// `rows` rows, which nothing else uses; `rows` is within 1 to 32.
    #[inline]
    pub(crate) unsafe fn run(self) {
        debug_assert!((1..=GROUP).contains(&self.rows) && self.steps > 0);
        if self.count == 0 {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if unit() {
            // SAFETY: the unit is there; the rest is the caller's contract.
            unsafe { unit::run(self) };
            return;
        }
        for i in 0..self.count {
            // SAFETY: the caller's contract, for product `i`.
            unsafe {
                let (a, b) = (self.a.add(i * self.next.0), self.b.add(i * self.next.1));
                Micro { a, b, c: self.c.add(i * self.next.2), ..self }.emulated();
            }
        }
    }

    /// The first product's sums in plain Rust, for tests where there is no unit.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn emulated(self) {
        let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        for (r, n) in (0..self.rows).flat_map(|r| (0..GROUP).map(move |n| (r, n))) {
            // SAFETY: `r` is below `rows`, `n` below 32; steps are the caller's.
            unsafe {
                let c = self.c.add(r * self.stride + n);
                let mut sum = if self.accumulate { *c } else { 0.0 };
                for step in 0..self.steps {
                    let (a, b) = (&(*self.a.add(step)).0, &(*self.b.add(step)).0);
                    for (part_a, part_b) in [(0, 2), (0, 0), (2, 0)] {
                        let (a, b) = (&a[part_a + r / TILE], &b[part_b + n / TILE]);
                        for k in 0..DEPTH {
                            let b = b[k / 2 * DEPTH + n % TILE * 2 + k % 2];
                            sum += value(a[r % TILE * DEPTH + k]) * value(b);
                        }
                    }
                }
                *c = sum;
            }
        }
    }
}
