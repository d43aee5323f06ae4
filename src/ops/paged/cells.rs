//! What cells are made of, and how new tokens get into them.
//!
//! | type | a cell of `D` dimensions and `S` positions |
//! |---|---|
//! | f32, f16 | `D S` numbers, (D, S) of keys and (S, D) of values |
//! | 8 bits | `D S` codes in the same order, then `S` scales (f32, little endian): of a position's numbers the largest is 127 |

#![allow(unsafe_code)]

use candle_core::{CpuStorage, Device, InplaceOp1, InplaceOp2, Layout, Result, Tensor, WithDType, bail};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::KvCache;
use crate::ops::multi::{f32s, multiversion};
use crate::ops::simd::{Simd, dispatch};

const BLOCK: usize = KvCache::BLOCK;

/// The numbers of a cell.
pub(super) trait Element: WithDType + bytemuck::Pod {
    /// How many of them a cell has.
    fn cell(dim: usize) -> usize;

    /// Puts one position's numbers into a cell, of keys (`transposed`) or of values.
    fn store(cell: &mut [Self], offset: usize, head: &[f32], transposed: bool);

    /// A cell as f32, `out` in the same order.
    fn widen(cell: &[Self], transposed: bool, out: &mut [f32]);
}

/// An empty part of the cache: zeros of the system's, where candle would write each.
pub(super) fn zeros<E: Element>(blocks: usize, heads: usize, dim: usize) -> Result<Tensor> {
    let mut zeros = bytemuck::allocation::zeroed_vec::<E>(blocks * heads * E::cell(dim));
    crate::device::take_pages_singly(bytemuck::cast_slice_mut(&mut zeros));
    Tensor::from_vec(zeros, (blocks, heads, E::cell(dim)), &Device::Cpu)
}

/// Every `BLOCK`-th number from `offset` on is the position's, or a run of them.
fn put<E>(cell: &mut [E], offset: usize, numbers: impl ExactSizeIterator<Item = E>, transposed: bool) {
    let (from, step) = if transposed { (offset, BLOCK) } else { (offset * numbers.len(), 1) };
    for (to, number) in cell.iter_mut().skip(from).step_by(step).zip(numbers) {
        *to = number;
    }
}

impl Element for f32 {
    fn cell(dim: usize) -> usize {
        dim * BLOCK
    }

    fn store(cell: &mut [f32], offset: usize, head: &[f32], transposed: bool) {
        put(cell, offset, head.iter().copied(), transposed);
    }

    fn widen(cell: &[f32], _: bool, out: &mut [f32]) {
        out.copy_from_slice(cell);
    }
}

impl Element for f16 {
    fn cell(dim: usize) -> usize {
        dim * BLOCK
    }

    fn store(cell: &mut [f16], offset: usize, head: &[f32], transposed: bool) {
        if !transposed {
            return cell[offset * head.len()..][..head.len()].convert_from_f32_slice(head);
        }
        // One by one the conversion asks each time what the processor can do.
        let mut halves = [f16::ZERO; BLOCK];
        for (head, cell) in head.chunks(BLOCK).zip(cell.chunks_mut(BLOCK * BLOCK)) {
            let halves = &mut halves[..head.len()];
            halves.convert_from_f32_slice(head);
            put(cell, offset, halves.iter().copied(), true);
        }
    }

    fn widen(cell: &[f16], _: bool, out: &mut [f32]) {
        debug_assert!(cell.len() == out.len() && cell.len().is_multiple_of(BLOCK));
        let count = cell.len().min(out.len()) / BLOCK * BLOCK;
        // SAFETY: both are valid for `count` numbers, whole blocks, which any set's vectors divide.
        unsafe { widen_halves(cell.as_ptr().cast(), out.as_mut_ptr(), count) }
    }
}

/// Codes are `i8` as its bits.
impl Element for u8 {
    fn cell(dim: usize) -> usize {
        (dim + size_of::<f32>()) * BLOCK
    }

    fn store(cell: &mut [u8], offset: usize, head: &[f32], transposed: bool) {
        let (codes, scales) = cell.split_at_mut(head.len() * BLOCK);
        let largest = head.iter().fold(0f32, |m, v| m.max(v.abs()));
        // `as` makes codes of NaN 0, so the scale has to carry it.
        let broken = head.iter().any(|v| !v.is_finite());
        let scale = if broken { f32::NAN } else { largest / 127.0 };
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        scales[offset * 4..][..4].copy_from_slice(&scale.to_le_bytes());
        let code = |v: &f32| ((v * inverse).round_ties_even() as i8).cast_unsigned();
        put(codes, offset, head.iter().map(code), transposed);
    }

    fn widen(cell: &[u8], transposed: bool, out: &mut [f32]) {
        let (codes, tail) = cell.split_at(out.len());
        let mut scales = [0f32; BLOCK];
        for (scale, bytes) in scales.iter_mut().zip(tail.as_chunks::<4>().0) {
            *scale = f32::from_le_bytes(*bytes);
        }
        match transposed {
            true => widen_keys(codes, &scales, out),
            false => widen_values(codes, &scales, out),
        }
    }
}

dispatch! {
    /// `count` halves, given as their bits, to `out`.
    unsafe fn widen_halves(halves: *const u16, out: *mut f32, count: usize) = widen_halves_body
}

/// # Safety
/// The processor has `S`; both pointers are valid for `count` numbers, a multiple of its lanes.
#[inline(always)]
unsafe fn widen_halves_body<S: Simd>(halves: *const u16, out: *mut f32, count: usize) {
    for i in (0..count).step_by(S::LANES) {
        // SAFETY: `i + LANES <= count`; the rest is the caller's contract.
        unsafe { S::store(out.add(i), S::load_f16(halves.add(i))) };
    }
}

multiversion! {
    fn widen_keys(codes: &[u8], scales: &[f32; BLOCK], out: &mut [f32]) = widen_keys_body
}

multiversion! {
    fn widen_values(codes: &[u8], scales: &[f32; BLOCK], out: &mut [f32]) = widen_values_body
}

#[inline(always)]
fn widen_keys_body(codes: &[u8], scales: &[f32; BLOCK], out: &mut [f32]) {
    for (out, codes) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(codes.as_chunks::<BLOCK>().0) {
        for ((out, &code), scale) in out.iter_mut().zip(codes).zip(scales) {
            *out = f32::from(code.cast_signed()) * scale;
        }
    }
}

#[inline(always)]
fn widen_values_body(codes: &[u8], scales: &[f32; BLOCK], out: &mut [f32]) {
    let dim = out.len() / BLOCK;
    for ((out, codes), scale) in
        out.chunks_exact_mut(dim.max(1)).zip(codes.chunks_exact(dim.max(1))).zip(scales)
    {
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = f32::from(code.cast_signed()) * scale;
        }
    }
}

/// Writes the keys (`transposed`) or the values of a step's tokens, which begin at column `first` of its rows.
pub(super) struct Write<'a> {
    pub cache: &'a KvCache,
    pub first: usize,
    pub transposed: bool,
    pub slots: &'a [u32],
}

impl InplaceOp2 for Write<'_> {
    fn name(&self) -> &'static str {
        "kv_write"
    }

    fn cpu_fwd(&self, dst: &mut CpuStorage, _: &Layout, src: &CpuStorage, ls: &Layout) -> Result<()> {
        let src = f32s(src, ls, "kv write")?;
        match dst {
            CpuStorage::F32(dst) => self.all(dst, src),
            CpuStorage::F16(dst) => self.all(dst, src),
            CpuStorage::U8(dst) => self.all(dst, src),
            _ => bail!("kv write: no cache is of this type"),
        }
        Ok(())
    }
}

impl Write<'_> {
    fn all<E: Element>(&self, dst: &mut [E], src: &[f32]) {
        let columns = src.len() / self.slots.len().max(1);
        let (heads, dim) = (self.cache.heads, self.cache.head_dim);
        let size = E::cell(dim);
        for (row, &slot) in src.chunks_exact(columns.max(1)).zip(self.slots) {
            let (at, offset) = (slot as usize / BLOCK, slot as usize % BLOCK);
            for h in 0..heads {
                let cell = &mut dst[(at * heads + h) * size..][..size];
                E::store(cell, offset, &row[self.first + h * dim..][..dim], self.transposed);
            }
        }
    }
}

/// Copies blocks onto others, one pair after the other; all are within the cache's `blocks`.
pub(super) struct CopyBlocks<'a> {
    pub pairs: &'a [(u32, u32)],
    pub blocks: usize,
}

impl InplaceOp1 for CopyBlocks<'_> {
    fn name(&self) -> &'static str {
        "kv_copy"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        match storage {
            CpuStorage::F32(all) => self.all(all),
            CpuStorage::F16(all) => self.all(all),
            CpuStorage::U8(all) => self.all(all),
            _ => bail!("kv copy: no cache is of this type"),
        }
        Ok(())
    }
}

impl CopyBlocks<'_> {
    fn all<E: Copy>(&self, all: &mut [E]) {
        let size = all.len() / self.blocks.max(1);
        for &(from, to) in self.pairs {
            let from = from as usize * size;
            all.copy_within(from..from + size, to as usize * size);
        }
    }
}
