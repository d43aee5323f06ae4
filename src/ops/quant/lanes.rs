//! Integer vectors over one panel: 16 rows by 4 inputs, 64 bytes, on every instruction set.
//!
//! Beside [`simd`](crate::ops::simd), whose vectors are as wide as the processor's: here a vector is always a
//! panel wide, in one register or in two, so that one packed form serves all sets.

#![allow(unsafe_code)]

use std::sync::OnceLock;

/// The instruction sets that products exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 with VNNI: 64 products and their sums an instruction.
    Avx512Vnni,
    /// AVX2 with VNNI on 256 bits.
    AvxVnni,
    Avx2,
    /// Plain Rust.
    Portable,
}

/// The best set that this processor has; detected once.
pub(crate) fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| every().into_iter().next().unwrap_or(Isa::Portable))
}

/// Every set that this processor has, best first.
pub(crate) fn every() -> Vec<Isa> {
    let mut sets = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        if avx2 && avx512 && is_x86_feature_detected!("avx512vnni") {
            sets.push(Isa::Avx512Vnni);
        }
        if avx2 && is_x86_feature_detected!("avxvnni") {
            sets.push(Isa::AvxVnni);
        }
        if avx2 {
            sets.push(Isa::Avx2);
        }
    }
    sets.push(Isa::Portable);
    sets
}

/// Vectors one panel wide.
///
/// # Safety
/// Every function requires that the processor has the implementor's instruction set, and that pointers are valid
/// for what is read or written: 64 bytes of codes, 4 of activations, 16 scales, 16 outputs. No alignment is needed.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Lanes: Copy + 'static {
    /// 16 rows by 4 inputs, a byte each.
    type Bytes: Copy;
    /// A number for each of 16 rows.
    type Ints: Copy;
    type Floats: Copy;
    /// Rows of activations whose accumulators fit the registers.
    const ROWS: usize;
    /// Whether [`dot_wide`](Lanes::dot_wide) takes its codes as counted from 128 instead of from 0.
    const CENTRED: bool;
    unsafe fn bytes(p: *const u8) -> Self::Bytes;
    unsafe fn and(a: Self::Bytes, mask: u8) -> Self::Bytes;
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Shifts bytes to the left; bits that cross from a byte into the next are left to the caller to mask.
    unsafe fn shl(a: Self::Bytes, by: usize) -> Self::Bytes;
    /// Shifts to the right, as [`shl`](Lanes::shl).
    unsafe fn shr(a: Self::Bytes, by: usize) -> Self::Bytes;
    unsafe fn ints(x: i32) -> Self::Ints;
    /// Adds each row's four codes, below 64, times the four activations at `x`.
    unsafe fn dot(sum: Self::Ints, codes: Self::Bytes, x: *const i8) -> Self::Ints;
    /// The same for codes up to 255.
    unsafe fn dot_wide(sum: Self::Ints, codes: Self::Bytes, x: *const i8) -> Self::Ints;
    unsafe fn floats(x: Self::Ints) -> Self::Floats;
    unsafe fn splat(x: f32) -> Self::Floats;
    /// Widens 16 halves.
    unsafe fn halves(p: *const u8) -> Self::Floats;
    /// Widens 16 bytes.
    unsafe fn unsigned(p: *const u8) -> Self::Floats;
    /// Widens 16 signed bytes.
    unsafe fn signed(p: *const u8) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, fused where the set has it.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    unsafe fn store(p: *mut f32, v: Self::Floats);
}

#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn each<T: Copy, U: Copy + Default, const N: usize>(a: [T; N], f: impl Fn(T) -> U) -> [U; N] {
    let mut out = [U::default(); N];
    for (out, a) in out.iter_mut().zip(a) {
        *out = f(a);
    }
    out
}

// SAFETY: pointers are valid by the trait's contract; no instruction set is assumed.
impl Lanes for Portable {
    type Bytes = [[u8; 4]; 16];
    type Ints = [i32; 16];
    type Floats = [f32; 16];
    const ROWS: usize = 2;
    const CENTRED: bool = false;
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> [[u8; 4]; 16] {
        // SAFETY: valid for 64 bytes by the trait's contract.
        unsafe { p.cast::<[[u8; 4]; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn and(a: [[u8; 4]; 16], mask: u8) -> [[u8; 4]; 16] {
        a.map(|a| a.map(|a| a & mask))
    }
    #[inline(always)]
    unsafe fn or(mut a: [[u8; 4]; 16], b: [[u8; 4]; 16]) -> [[u8; 4]; 16] {
        for (a, b) in a.as_flattened_mut().iter_mut().zip(b.as_flattened()) {
            *a |= b;
        }
        a
    }
    #[inline(always)]
    unsafe fn shl(a: [[u8; 4]; 16], by: usize) -> [[u8; 4]; 16] {
        a.map(|a| a.map(|a| a << by))
    }
    #[inline(always)]
    unsafe fn shr(a: [[u8; 4]; 16], by: usize) -> [[u8; 4]; 16] {
        a.map(|a| a.map(|a| a >> by))
    }
    #[inline(always)]
    unsafe fn ints(x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn dot(mut sum: [i32; 16], codes: [[u8; 4]; 16], x: *const i8) -> [i32; 16] {
        // SAFETY: valid for four activations by the trait's contract.
        let x = unsafe { x.cast::<[i8; 4]>().read_unaligned() }.map(i32::from);
        for (sum, c) in sum.iter_mut().zip(codes) {
            let c = c.map(i32::from);
            *sum += (c[0] * x[0] + c[1] * x[1]) + (c[2] * x[2] + c[3] * x[3]);
        }
        sum
    }
    #[inline(always)]
    unsafe fn dot_wide(sum: [i32; 16], codes: [[u8; 4]; 16], x: *const i8) -> [i32; 16] {
        // SAFETY: the same contract.
        unsafe { Self::dot(sum, codes, x) }
    }
    #[inline(always)]
    unsafe fn floats(x: [i32; 16]) -> [f32; 16] {
        each(x, |x| x as f32)
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn halves(p: *const u8) -> [f32; 16] {
        // SAFETY: valid for 16 halves by the trait's contract.
        let bits = unsafe { p.cast::<[[u8; 2]; 16]>().read_unaligned() };
        each(bits, |b| half::f16::from_le_bytes(b).to_f32())
    }
    #[inline(always)]
    unsafe fn unsigned(p: *const u8) -> [f32; 16] {
        // SAFETY: valid for 16 bytes by the trait's contract.
        each(unsafe { p.cast::<[u8; 16]>().read_unaligned() }, f32::from)
    }
    #[inline(always)]
    unsafe fn signed(p: *const u8) -> [f32; 16] {
        // SAFETY: valid for 16 bytes by the trait's contract.
        each(unsafe { p.cast::<[i8; 16]>().read_unaligned() }, f32::from)
    }
    #[inline(always)]
    unsafe fn mul(mut a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        for (a, b) in a.iter_mut().zip(b) {
            *a *= b;
        }
        a
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 16], b: [f32; 16], mut c: [f32; 16]) -> [f32; 16] {
        for ((c, a), b) in c.iter_mut().zip(a).zip(b) {
            // Without an FMA unit `mul_add` is a library call; every aarch64 has one.
            *c = if cfg!(target_arch = "aarch64") { a.mul_add(b, *c) } else { a * b + *c };
        }
        c
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 16]) {
        // SAFETY: valid for 16 values by the trait's contract.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(v) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512Vnni, AvxVnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512Vnni;
    #[derive(Clone, Copy)]
    pub(in super::super) struct AvxVnni;
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2;

    /// Functions of the trait whose bodies are expressions of intrinsics.
    macro_rules! each {
        ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
            #[inline(always)]
            unsafe fn $name($($arg: $ty),*) -> $out {
                // SAFETY: the instruction set and the pointers are valid by the trait's contract.
                unsafe { $body }
            }
        )*};
    }

    /// Four activations in every 32-bit lane.
    ///
    /// # Safety
    /// `x` is valid for four bytes.
    #[inline(always)]
    unsafe fn four(x: *const i8) -> i32 {
        // SAFETY: the caller's contract.
        unsafe { x.cast::<i32>().read_unaligned() }
    }

    // SAFETY: callers have AVX-512 F, BW and VNNI and pass valid pointers, by the trait's contract.
    impl Lanes for Avx512Vnni {
        type Bytes = __m512i;
        type Ints = __m512i;
        type Floats = __m512;
        const ROWS: usize = 8;
        const CENTRED: bool = false;
        each! {
            bytes(p: *const u8) -> __m512i = _mm512_loadu_si512(p.cast());
            and(a: __m512i, mask: u8) -> __m512i = _mm512_and_si512(a, _mm512_set1_epi8(mask as i8));
            or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
            shl(a: __m512i, by: usize) -> __m512i = _mm512_sll_epi16(a, _mm_cvtsi32_si128(by as i32));
            shr(a: __m512i, by: usize) -> __m512i = _mm512_srl_epi16(a, _mm_cvtsi32_si128(by as i32));
            ints(x: i32) -> __m512i = _mm512_set1_epi32(x);
            dot(sum: __m512i, codes: __m512i, x: *const i8) -> __m512i =
                _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(four(x)));
            dot_wide(sum: __m512i, codes: __m512i, x: *const i8) -> __m512i =
                _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(four(x)));
            floats(x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x);
            splat(x: f32) -> __m512 = _mm512_set1_ps(x);
            halves(p: *const u8) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()));
            unsigned(p: *const u8) -> __m512 =
                _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())));
            signed(p: *const u8) -> __m512 =
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())));
            mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            store(p: *mut f32, v: __m512) -> () = _mm512_storeu_ps(p, v);
        }
    }

    /// What the two 256-bit sets share: a panel in two registers.
    macro_rules! two_registers {
        () => {
            type Bytes = [__m256i; 2];
            type Ints = [__m256i; 2];
            type Floats = [__m256; 2];
            const ROWS: usize = 2;
            each! {
                bytes(p: *const u8) -> [__m256i; 2] =
                    [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())];
                and(a: [__m256i; 2], mask: u8) -> [__m256i; 2] = {
                    let mask = _mm256_set1_epi8(mask as i8);
                    [_mm256_and_si256(a[0], mask), _mm256_and_si256(a[1], mask)]
                };
                or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] =
                    [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])];
                shl(a: [__m256i; 2], by: usize) -> [__m256i; 2] = {
                    let by = _mm_cvtsi32_si128(by as i32);
                    [_mm256_sll_epi16(a[0], by), _mm256_sll_epi16(a[1], by)]
                };
                shr(a: [__m256i; 2], by: usize) -> [__m256i; 2] = {
                    let by = _mm_cvtsi32_si128(by as i32);
                    [_mm256_srl_epi16(a[0], by), _mm256_srl_epi16(a[1], by)]
                };
                ints(x: i32) -> [__m256i; 2] = [_mm256_set1_epi32(x); 2];
                floats(x: [__m256i; 2]) -> [__m256; 2] = [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])];
                splat(x: f32) -> [__m256; 2] = [_mm256_set1_ps(x); 2];
                halves(p: *const u8) -> [__m256; 2] =
                    [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast()))];
                unsigned(p: *const u8) -> [__m256; 2] = [
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))),
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast()))),
                ];
                signed(p: *const u8) -> [__m256; 2] = [
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast()))),
                ];
                mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] =
                    [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])];
                fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] =
                    [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
                store(p: *mut f32, v: [__m256; 2]) -> () = {
                    _mm256_storeu_ps(p, v[0]);
                    _mm256_storeu_ps(p.add(8), v[1]);
                };
            }
        };
    }

    // SAFETY: callers have AVX2, FMA, F16C and AVX-VNNI and pass valid pointers, by the trait's contract.
    impl Lanes for AvxVnni {
        two_registers!();
        const CENTRED: bool = false;
        each! {
            dot(sum: [__m256i; 2], codes: [__m256i; 2], x: *const i8) -> [__m256i; 2] = {
                let x = _mm256_set1_epi32(four(x));
                [_mm256_dpbusd_avx_epi32(sum[0], codes[0], x), _mm256_dpbusd_avx_epi32(sum[1], codes[1], x)]
            };
            dot_wide(sum: [__m256i; 2], codes: [__m256i; 2], x: *const i8) -> [__m256i; 2] =
                Self::dot(sum, codes, x);
        }
    }

    /// Adds the products of unsigned and signed bytes by fours. Two products and their sum must fit 16 bits.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    unsafe fn fours(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: arithmetic only; the set is the caller's contract.
        unsafe {
            let pairs = _mm256_maddubs_epi16(unsigned, signed);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    /// Codes up to 255 would overflow the 16 bits: counted from 128 their magnitudes do not (2 * 128 * 127), and
    /// their signs go to the activations.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    unsafe fn fours_wide(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: arithmetic only; the set is the caller's contract.
        unsafe {
            let codes = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            fours(sum, _mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
        }
    }

    // SAFETY: callers have AVX2, FMA and F16C and pass valid pointers, by the trait's contract.
    impl Lanes for Avx2 {
        two_registers!();
        const CENTRED: bool = true;
        each! {
            dot(sum: [__m256i; 2], codes: [__m256i; 2], x: *const i8) -> [__m256i; 2] = {
                let x = _mm256_set1_epi32(four(x));
                [fours(sum[0], codes[0], x), fours(sum[1], codes[1], x)]
            };
            dot_wide(sum: [__m256i; 2], codes: [__m256i; 2], x: *const i8) -> [__m256i; 2] = {
                let x = _mm256_set1_epi32(four(x));
                [fours_wide(sum[0], codes[0], x), fours_wide(sum[1], codes[1], x)]
            };
        }
    }
}
