//! Vectors of 8 bits and their dot products with one of them: what a search over many vectors computes.
//!
//! A row is padded to whole cache lines and begins on one, so that a product of 384 dimensions is six loads. The
//! rows that a search asks for lie anywhere: while one is computed the next are fetched.

#![allow(unsafe_code)]

use super::quant::lanes::{Isa, isa};
use super::quant::{Line, lines};

/// Bytes of a cache line.
const LINE: usize = size_of::<Line>();
/// What is added to a code as it is stored: the processor multiplies unsigned by signed bytes.
const OFFSET: i32 = 128;
/// Rows that are fetched ahead of their use.
const AHEAD: usize = 4;
/// Most dimensions: so many products of 255 and 127 are just within 32 bits.
const MOST: usize = 1 << 16;

/// Rows of codes from -127 to 127.
#[derive(Debug, Clone)]
pub struct Codes {
    dim: usize,
    /// Lines of a row.
    lines: usize,
    /// A code plus 128 a byte; 128 beyond `dim`.
    data: Vec<Line>,
}

/// A vector that rows are multiplied with.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Zero beyond the dimensions.
    data: Vec<Line>,
    /// What the offsets of a row add to every product.
    excess: i32,
}

impl Codes {
    /// No rows yet. `None` where a row has no dimension, or more than 65,536.
    pub fn new(dim: usize) -> Option<Codes> {
        (1..=MOST).contains(&dim).then(|| Codes { dim, lines: dim.div_ceil(LINE), data: Vec::new() })
    }

    /// Rows that are there.
    pub fn len(&self) -> usize {
        self.data.len() / self.lines
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Dimensions of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Bytes that the rows take.
    pub fn bytes(&self) -> usize {
        self.data.len() * LINE
    }

    /// Makes room for so many rows; those that are new are zeros.
    pub fn resize(&mut self, rows: usize) {
        self.data.resize(rows * self.lines, Line([OFFSET as u8; LINE]));
    }

    /// Overwrites a row; codes past the dimensions are left out, and a row that is not there is not written.
    pub fn set(&mut self, row: usize, codes: &[i8]) {
        let Some(lines) = self.data.get_mut(row * self.lines..(row + 1) * self.lines) else { return };
        let bytes = bytemuck::cast_slice_mut::<Line, u8>(lines);
        for (byte, code) in bytes.iter_mut().zip(codes.iter().take(self.dim)) {
            *byte = (i32::from(*code) + OFFSET) as u8;
        }
    }

    /// The codes of a row that is there.
    pub fn get(&self, row: usize) -> Option<impl Iterator<Item = i8> + '_> {
        let lines = self.data.get(row * self.lines..(row + 1) * self.lines)?;
        let bytes = bytemuck::cast_slice::<Line, u8>(lines);
        Some(bytes.iter().take(self.dim).map(|byte| (i32::from(*byte) - OFFSET) as i8))
    }

    /// A vector to multiply rows with; missing codes are zero.
    pub fn probe(&self, codes: impl Iterator<Item = i8>) -> Probe {
        let mut data = lines(self.lines * LINE);
        let mut excess = 0;
        for (byte, code) in
            bytemuck::cast_slice_mut::<Line, i8>(&mut data).iter_mut().zip(codes.take(self.dim))
        {
            *byte = code;
            excess += i32::from(code) * OFFSET;
        }
        Probe { data, excess }
    }

    /// A probe for rows of these dimensions: zeros.
    pub fn blank(&self) -> Probe {
        Probe { data: lines(self.lines * LINE), excess: 0 }
    }

    /// Makes `probe`, which is of rows of these dimensions, a row's codes; those of a row that is not there are zeros.
    pub fn aim(&self, probe: &mut Probe, row: u32) {
        let lines = row as usize * self.lines..(row as usize + 1) * self.lines;
        let Some(lines) = self.data.get(lines).filter(|lines| lines.len() == probe.data.len()) else {
            *probe = self.blank();
            return;
        };
        let mut sum = 0i32;
        for (to, from) in bytemuck::cast_slice_mut::<Line, i8>(&mut probe.data)
            .iter_mut()
            .zip(bytemuck::cast_slice::<Line, u8>(lines))
        {
            // Less the offset, modulo 256; what is beyond the dimensions becomes zero.
            *to = (from ^ OFFSET as u8) as i8;
            sum += i32::from(*to);
        }
        probe.excess = sum * OFFSET;
    }

    /// The products of `probe` with each of the rows, in order; of a row that is not there the smallest number.
    pub fn dots(&self, probe: &Probe, rows: &[u32], out: &mut Vec<i32>) {
        out.clear();
        out.resize(rows.len(), i32::MIN);
        if probe.data.len() == self.lines {
            dots(self, probe, rows, out);
        }
    }

    /// The row's first byte, where it is there.
    #[inline(always)]
    fn at(&self, row: u32) -> Option<*const u8> {
        let row = row as usize;
        (row < self.len()).then(|| self.data[row * self.lines..].as_ptr().cast())
    }
}

/// Products by one instruction set: of a row and a probe of so many lines.
trait Product {
    /// # Safety
    /// The processor has the set; `row` and `probe` are valid for `lines` lines and begin on one.
    unsafe fn dot(row: *const u8, probe: *const i8, lines: usize) -> i32;
    /// # Safety
    /// The processor has the set; any pointer will do.
    unsafe fn prefetch(_: *const u8) {}
}

/// # Safety
/// The processor has the set of `P`.
#[inline(always)]
unsafe fn dots_of<P: Product>(codes: &Codes, probe: &Probe, rows: &[u32], out: &mut [i32]) {
    let fetch = |row: &u32| {
        if let Some(at) = codes.at(*row) {
            for line in 0..codes.lines {
                // SAFETY: the caller's contract.
                unsafe { P::prefetch(at.wrapping_add(line * LINE)) };
            }
        }
    };
    rows.iter().take(AHEAD).for_each(fetch);
    for (i, (row, out)) in rows.iter().zip(out).enumerate() {
        if let Some(next) = rows.get(i + AHEAD) {
            fetch(next);
        }
        if let Some(at) = codes.at(*row) {
            // SAFETY: the row is there, and a probe has the lines of a row.
            *out = unsafe { P::dot(at, probe.data.as_ptr().cast(), codes.lines) } - probe.excess;
        }
    }
}

struct Portable;

impl Product for Portable {
    #[inline(always)]
    unsafe fn dot(row: *const u8, probe: *const i8, lines: usize) -> i32 {
        // SAFETY: valid for as many bytes by the caller's contract.
        let (row, probe) = unsafe {
            (std::slice::from_raw_parts(row, lines * LINE), std::slice::from_raw_parts(probe, lines * LINE))
        };
        row.iter().zip(probe).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LINE, Product};

    pub struct Avx512Vnni;
    pub struct Avx2;

    impl Product for Avx512Vnni {
        #[inline(always)]
        unsafe fn dot(row: *const u8, probe: *const i8, lines: usize) -> i32 {
            // SAFETY: whole lines by the caller's contract, who has the instruction set.
            unsafe {
                let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                let load = |p: *const u8, line: usize| _mm512_load_si512(p.add(line * LINE).cast());
                for line in (0..lines / 2 * 2).step_by(2) {
                    even = _mm512_dpbusd_epi32(even, load(row, line), load(probe.cast(), line));
                    odd = _mm512_dpbusd_epi32(odd, load(row, line + 1), load(probe.cast(), line + 1));
                }
                if lines % 2 == 1 {
                    even = _mm512_dpbusd_epi32(even, load(row, lines - 1), load(probe.cast(), lines - 1));
                }
                _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd))
            }
        }

        #[inline(always)]
        unsafe fn prefetch(at: *const u8) {
            // SAFETY: a hint.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
    }

    impl Product for Avx2 {
        #[inline(always)]
        unsafe fn dot(row: *const u8, probe: *const i8, lines: usize) -> i32 {
            // SAFETY: as above, sixteen bytes at a time. Products of bytes are exact in 16 bits times 16 bits.
            unsafe {
                let mut sum = _mm256_setzero_si256();
                for at in (0..lines * LINE).step_by(16) {
                    let a = _mm256_cvtepu8_epi16(_mm_load_si128(row.add(at).cast()));
                    let b = _mm256_cvtepi8_epi16(_mm_load_si128(probe.add(at).cast()));
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
                }
                let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
                let half = _mm_add_epi32(half, _mm_shuffle_epi32::<0b00_00_11_10>(half));
                _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32::<0b00_00_00_01>(half)))
            }
        }

        #[inline(always)]
        unsafe fn prefetch(at: *const u8) {
            // SAFETY: a hint.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
    }
}

fn dots(codes: &Codes, probe: &Probe, rows: &[u32], out: &mut [i32]) {
    dots_with(isa(), codes, probe, rows, out);
}

fn dots_with(isa: Isa, codes: &Codes, probe: &Probe, rows: &[u32], out: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2")]
        unsafe fn avx512_vnni(codes: &Codes, probe: &Probe, rows: &[u32], out: &mut [i32]) {
            // SAFETY: this function is entered only where the set was detected.
            unsafe { dots_of::<x86::Avx512Vnni>(codes, probe, rows, out) }
        }
        #[target_feature(enable = "avx2")]
        unsafe fn avx2(codes: &Codes, probe: &Probe, rows: &[u32], out: &mut [i32]) {
            // SAFETY: as above.
            unsafe { dots_of::<x86::Avx2>(codes, probe, rows, out) }
        }
        match isa {
            // SAFETY: `isa` was detected.
            Isa::Avx512Vnni => return unsafe { avx512_vnni(codes, probe, rows, out) },
            // SAFETY: `isa` was detected; both have AVX2.
            Isa::AvxVnni | Isa::Avx2 => return unsafe { avx2(codes, probe, rows, out) },
            Isa::Portable => {}
        }
    }
    let _ = isa;
    // SAFETY: needs no instruction set.
    unsafe { dots_of::<Portable>(codes, probe, rows, out) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::quant::lanes::every;
    use super::*;

    fn row(codes: &Codes, row: usize) -> Vec<i8> {
        codes.get(row).unwrap().collect()
    }

    proptest! {
        #[test]
        fn products_are_exact_on_every_instruction_set(
            dim in 1usize..300,
            seed in any::<u64>(),
            asked in prop::collection::vec(0u32..12, 0..20),
        ) {
            let mut state = seed | 1;
            let mut code = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Both ends are common.
                match state >> 60 { 0 => -127, 1 => 127, _ => ((state >> 33) % 255) as i32 - 127 }
            };
            let rows: Vec<Vec<i8>> = (0..10).map(|_| (0..dim).map(|_| code() as i8).collect()).collect();
            let mut codes = Codes::new(dim).unwrap();
            codes.resize(10);
            rows.iter().enumerate().for_each(|(i, row)| codes.set(i, row));
            let probe = codes.probe(rows[3].iter().copied());
            let want: Vec<i32> = asked.iter().map(|&i| {
                let dot = |row: &Vec<i8>| row.iter().zip(&rows[3]).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                rows.get(i as usize).map_or(i32::MIN, dot)
            }).collect();
            for isa in every() {
                let mut out = vec![i32::MIN; asked.len()];
                dots_with(isa, &codes, &probe, &asked, &mut out);
                prop_assert_eq!(&out, &want, "{:?}", isa);
            }
            prop_assert_eq!(row(&codes, 7), rows[7].clone());
            let (mut aimed, mut out, mut same) = (codes.blank(), Vec::new(), Vec::new());
            codes.aim(&mut aimed, 3);
            codes.dots(&aimed, &asked, &mut out);
            codes.dots(&probe, &asked, &mut same);
            prop_assert_eq!(out, same);
        }
    }

    #[test]
    fn what_is_not_there_is_not_read_or_written() {
        let mut codes = Codes::new(3).unwrap();
        assert!(codes.is_empty() && codes.get(0).is_none());
        codes.resize(2);
        codes.set(1, &[1, 2, 3, 4, 5]);
        codes.set(2, &[1, 2, 3]);
        assert_eq!((row(&codes, 0), row(&codes, 1), codes.len()), (vec![0; 3], vec![1, 2, 3], 2));
        let mut out = Vec::new();
        codes.dots(&codes.probe([1i8, 1].into_iter()), &[1, 0, 9], &mut out);
        assert_eq!(out, [3, 0, i32::MIN]);
        let other = Codes::new(100).unwrap().probe([1i8].into_iter());
        codes.dots(&other, &[0], &mut out);
        assert_eq!(out, [i32::MIN], "a probe of another length");
        assert!(Codes::new(0).is_none() && Codes::new(MOST + 1).is_none());
    }
}
