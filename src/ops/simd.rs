//! One vector type over three instruction sets, chosen at run time. The file is over 500 lines because the sets and
//! the functions built on them belong side by side.
//!
//! Kernels are written once, generic over [`Simd`], and instantiated inside functions that carry the matching
//! `#[target_feature]`; [`dispatch!`](crate::ops::simd::dispatch) picks one by [`isa`]. Everything between the
//! two is `#[inline(always)]`, so that the intrinsics land in the function that may use them.

#![allow(unsafe_code)]

use std::sync::OnceLock;

/// The instruction sets that kernels exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// 16 lanes: AVX-512 F and DQ with FMA.
    Avx512,
    /// 8 lanes: AVX2 with FMA and F16C.
    Avx2,
    /// 4 lanes in plain Rust, which compilers turn into SSE2 or NEON.
    Portable,
}

/// The best set that this processor has; detected once.
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let fma = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    if fma && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
        Isa::Avx512
    } else if fma {
        Isa::Avx2
    } else {
        Isa::Portable
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}

/// A vector of f32.
///
/// # Safety
/// Every function requires that the processor has the implementor's instruction set, and that pointers are
/// valid for [`LANES`](Simd::LANES) values (no alignment is needed).
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    type V: Copy;
    const LANES: usize;
    /// Rows and 16-wide panels of the largest matrix tile whose accumulators fit the registers.
    const TILE: (usize, usize);
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Loads IEEE halves, given as their bits, and widens them.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    /// Loads bfloat16, given as their bits, and widens them.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// Has the line at `p` brought into the cache; `p` need not be valid.
    unsafe fn prefetch(p: *const u16);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the set has it.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest integer.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^n` for integral `n` within -127..=127; -127 gives 0.
    unsafe fn pow2(n: Self::V) -> Self::V;
    unsafe fn sum(a: Self::V) -> f32;
    unsafe fn largest(a: Self::V) -> f32;
}

/// Plain Rust, four lanes.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

// SAFETY: pointers are valid for four values by the trait's contract; no instruction set is assumed.
impl Simd for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;
    const TILE: (usize, usize) = (2, 1);
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 4] {
        // SAFETY: valid for four values by the trait's contract; read unaligned.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 4]) {
        // SAFETY: valid for four values by the trait's contract; written unaligned.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> [f32; 4] {
        // SAFETY: valid for four values by the trait's contract; read unaligned.
        unsafe { p.cast::<[u16; 4]>().read_unaligned() }.map(|bits| half::f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> [f32; 4] {
        // SAFETY: as above.
        unsafe { p.cast::<[u16; 4]>().read_unaligned() }.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u16) {}
    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        // Without an FMA unit `mul_add` is a library call; every aarch64 has one.
        if cfg!(target_arch = "aarch64") {
            [
                a[0].mul_add(b[0], c[0]),
                a[1].mul_add(b[1], c[1]),
                a[2].mul_add(b[2], c[2]),
                a[3].mul_add(b[3], c[3]),
            ]
        } else {
            zip(zip(a, b, |x, y| x * y), c, |x, y| x + y)
        }
    }
    #[inline(always)]
    unsafe fn round(a: [f32; 4]) -> [f32; 4] {
        // Adding and taking away 1.5 * 2^23 leaves no room for a fraction.
        const BIG: f32 = 12_582_912.0;
        zip(a, [BIG; 4], |x, big| (x + big) - big)
    }
    #[inline(always)]
    unsafe fn pow2(n: [f32; 4]) -> [f32; 4] {
        zip(n, n, |x, _| f32::from_bits((((x as i32) + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: [f32; 4]) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    unsafe fn largest(a: [f32; 4]) -> f32 {
        a[0].max(a[2]).max(a[1].max(a[3]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    /// Eight lanes; requires AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    /// Sixteen lanes; requires AVX-512 F and DQ.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    /// One function of the trait whose body is an expression of intrinsics.
    macro_rules! each {
        ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
            #[inline(always)]
            unsafe fn $name($($arg: $ty),*) -> $out {
                // SAFETY: the instruction set and the pointers are valid by the trait's contract.
                unsafe { $body }
            }
        )*};
    }

    // SAFETY: callers have AVX2 and FMA and pass valid pointers, by the trait's contract.
    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const TILE: (usize, usize) = (6, 1);
        each! {
            splat(x: f32) -> __m256 = _mm256_set1_ps(x);
            load(p: *const f32) -> __m256 = _mm256_loadu_ps(p);
            add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
            sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
            mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
            min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
            max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
            fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            round(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            pow2(n: __m256) -> __m256 = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(
                _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127))));
            sum(a: __m256) -> f32 = {
                let h = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let h = _mm_add_ps(h, _mm_movehl_ps(h, h));
                _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps::<1>(h, h)))
            };
            largest(a: __m256) -> f32 = {
                let h = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let h = _mm_max_ps(h, _mm_movehl_ps(h, h));
                _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps::<1>(h, h)))
            };
            store(p: *mut f32, v: __m256) -> () = _mm256_storeu_ps(p, v);
            load_f16(p: *const u16) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
            load_bf16(p: *const u16) -> __m256 = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(
                _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))));
            prefetch(p: *const u16) -> () = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        }
    }

    // SAFETY: callers have AVX-512 F and DQ and pass valid pointers, by the trait's contract.
    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const TILE: (usize, usize) = (8, 3);
        each! {
            splat(x: f32) -> __m512 = _mm512_set1_ps(x);
            load(p: *const f32) -> __m512 = _mm512_loadu_ps(p);
            add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
            sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
            mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
            min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
            max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
            fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            round(a: __m512) -> __m512 = _mm512_roundscale_ps::<0x08>(a);
            pow2(n: __m512) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(
                _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127))));
            sum(a: __m512) -> f32 = _mm512_reduce_add_ps(a);
            largest(a: __m512) -> f32 = _mm512_reduce_max_ps(a);
            store(p: *mut f32, v: __m512) -> () = _mm512_storeu_ps(p, v);
            load_f16(p: *const u16) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()));
            load_bf16(p: *const u16) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(
                _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))));
            prefetch(p: *const u16) -> () = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        }
    }
}

/// Defines `$vis fn $name(args) -> out` that runs the generic `$kernel::<S>(args)` with the best [`Simd`] of this
/// processor, each instance compiled for its instruction set.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? = $kernel:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn avx512($($arg: $ty),*) $(-> $out)? {
                    // SAFETY: this function is entered only where the set was detected; the rest is the
                    // caller's contract.
                    unsafe { $kernel::<$crate::ops::simd::Avx512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn avx2($($arg: $ty),*) $(-> $out)? {
                    // SAFETY: as above, for AVX2 and FMA.
                    unsafe { $kernel::<$crate::ops::simd::Avx2>($($arg),*) }
                }
                match $crate::ops::simd::isa() {
                    // SAFETY: `isa` detected the set.
                    $crate::ops::simd::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: `isa` detected the set.
                    $crate::ops::simd::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::simd::Isa::Portable => {}
                }
            }
            // SAFETY: `Portable` needs no instruction set; the rest is the caller's contract.
            unsafe { $kernel::<$crate::ops::simd::Portable>($($arg),*) }
        }
    };
}
pub(crate) use dispatch;

/// A function of one vector. A trait and not a closure: closures are compiled without the caller's instruction set
/// and then called, intrinsic by intrinsic; `#[inline(always)]` methods are not.
pub(crate) trait Map: Copy {
    /// # Safety
    /// The processor has `S`.
    unsafe fn apply<S: Simd>(self, v: S::V) -> S::V;
}

/// [`gelu`].
#[derive(Clone, Copy)]
pub(crate) struct Gelu;

impl Map for Gelu {
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, v: S::V) -> S::V {
        // SAFETY: the caller's contract.
        unsafe { gelu::<S>(v) }
    }
}

/// [`exp`].
#[derive(Clone, Copy)]
pub(crate) struct Exp;

impl Map for Exp {
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, v: S::V) -> S::V {
        // SAFETY: the caller's contract.
        unsafe { exp::<S>(v) }
    }
}

/// Multiplication by a number.
#[derive(Clone, Copy)]
pub(crate) struct Times(pub(crate) f32);

impl Map for Times {
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, v: S::V) -> S::V {
        // SAFETY: the caller's contract.
        unsafe { S::mul(v, S::splat(self.0)) }
    }
}

/// Calls `$check::<S>()` for every instruction set of this processor: the tests' way to the sets that
/// [`dispatch!`] would not choose here.
#[cfg(test)]
macro_rules! every_set {
    ($check:ident) => {{
        use $crate::ops::simd::{Isa, isa};
        $check::<$crate::ops::simd::Portable>();
        #[cfg(target_arch = "x86_64")]
        {
            if isa() != Isa::Portable {
                $check::<$crate::ops::simd::Avx2>();
            }
            if isa() == Isa::Avx512 {
                $check::<$crate::ops::simd::Avx512>();
            }
        }
    }};
}
#[cfg(test)]
pub(crate) use every_set;

/// Applies `f` to every value of `x` in place, a vector at a time.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn map_in_place<S: Simd>(x: &mut [f32], f: impl Map) {
    let n = x.len();
    let p = x.as_mut_ptr();
    let whole = n - n % S::LANES;
    let mut i = 0;
    while i < whole {
        // SAFETY: `i + LANES <= n`.
        unsafe { S::store(p.add(i), f.apply::<S>(S::load(p.add(i)))) };
        i += S::LANES;
    }
    if whole < n {
        let mut last = [0f32; 16];
        last[..n - whole].copy_from_slice(&x[whole..]);
        // SAFETY: `last` holds 16 values, and `LANES <= 16`.
        unsafe { S::store(last.as_mut_ptr(), f.apply::<S>(S::load(last.as_ptr()))) };
        x[whole..].copy_from_slice(&last[..n - whole]);
    }
}

/// `e^x` with a relative error below 2e-7; 0 below -87.7 (and for -inf), `e^88` above 88, NaN for NaN.
///
/// Range reduction by ln 2 in two parts (Cody and Waite), then a degree-6 polynomial on ±ln(2)/2 fitted by
/// Lawson's algorithm (relative error 1.9e-9 before rounding).
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: arithmetic only; the set is the caller's contract.
    unsafe {
        let x = S::min(S::splat(88.0), S::max(S::splat(-88.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(0.001_383_673_7);
        for c in [0.008_374_899, 0.041_668_233, 0.166_664_2, 0.499_999_9, 1.0, 1.0] {
            p = S::fma(p, r, S::splat(c));
        }
        S::mul(p, S::pow2(n))
    }
}

/// The error function with an absolute error below 3e-7.
///
/// `x P(x²) / Q(x²)` on ±3.92, beyond which erf rounds to ±1; P and Q are of degree 5, fitted by iterated
/// Lawson-weighted least squares (error 1.9e-8 before rounding).
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(x: S::V) -> S::V {
    const P: [f32; 5] =
        [2.848_072_6e-4, 0.003_779_551_5, 0.052_790_11, 0.190_782_49, std::f32::consts::FRAC_2_SQRT_PI];
    const Q: [f32; 5] = [0.001_165_198_6, 0.014_997_322, 0.114_256_97, 0.502_409_3, 1.0];
    // SAFETY: arithmetic only; the set is the caller's contract.
    unsafe {
        let x = S::min(S::splat(3.92), S::max(S::splat(-3.92), x));
        let z = S::mul(x, x);
        let mut p = S::splat(2.041_981_1e-6);
        let mut q = S::splat(3.800_411e-5);
        for i in 0..5 {
            p = S::fma(p, z, S::splat(P[i]));
            q = S::fma(q, z, S::splat(Q[i]));
        }
        S::div(S::mul(x, p), q)
    }
}

/// `x/2 (1 + erf(x/√2))`: the exact GELU.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: arithmetic only; the set is the caller's contract.
    unsafe {
        let half = S::mul(x, S::splat(0.5));
        S::fma(half, erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `f` of every value of `x`, through [`map_in_place`].
    fn mapped<S: Simd>(x: &[f32], f: impl Map) -> Vec<f32> {
        let mut x = x.to_vec();
        // SAFETY: `every_set` calls with sets that the processor has.
        unsafe { map_in_place::<S>(&mut x, f) };
        x
    }

    #[test]
    fn exp_is_exact_on_every_set() {
        fn check<S: Simd>() {
            let x: Vec<f32> = (-87_300..88_000).map(|i| i as f32 * 1e-3).collect();
            for (x, e) in x.iter().zip(mapped::<S>(&x, Exp)) {
                let want = f64::from(*x).exp();
                assert!((f64::from(e) / want - 1.0).abs() < 3e-7, "exp({x}) = {e}, want {want}");
            }
            let edge = mapped::<S>(&[f32::NEG_INFINITY, -1e30, -100.0, 0.0, f32::NAN, 200.0], Exp);
            assert_eq!(&edge[..4], &[0.0, 0.0, 0.0, 1.0]);
            assert!(edge[4].is_nan() && edge[5].is_finite());
        }
        every_set!(check);
    }

    #[test]
    fn gelu_agrees_on_every_set() {
        fn check<S: Simd>() {
            let x: Vec<f32> = (-9000..9001).map(|i| i as f32 * 1e-3).collect();
            let want = mapped::<Portable>(&x, Gelu);
            crate::ops::testing::assert_close(&mapped::<S>(&x, Gelu), &want, 1e-6);
        }
        every_set!(check);
    }

    #[test]
    fn sums_and_maxima_take_every_lane() {
        fn check<S: Simd>() {
            for lane in 0..S::LANES {
                let mut x = [-1f32; 16];
                x[lane] = 5.0;
                // SAFETY: sixteen values; the processor has the set.
                let (sum, largest) =
                    unsafe { (S::sum(S::load(x.as_ptr())), S::largest(S::load(x.as_ptr()))) };
                assert_eq!((sum, largest), (6.0 - S::LANES as f32, 5.0));
            }
        }
        every_set!(check);
    }
}
