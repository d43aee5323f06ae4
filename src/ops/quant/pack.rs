//! From the blocks of a GGUF file to panels, and from a panel back to one row.

use half::f16;

use super::format::{BLOCK, Kind, Layout, PANEL};

/// One group of one row, taken apart.
#[derive(Clone, Copy)]
struct Group {
    /// One byte a code, by block.
    codes: [[u8; BLOCK]; 8],
    /// Bits of the f16 scale and minimum.
    head: [u16; 2],
    /// Each block's own two bytes.
    subs: [[u8; 2]; 8],
}

/// Packs up to 16 rows, `bytes` as a file of `kind` has them, into a panel's codes and scales, which must be zero.
pub(super) fn pack(kind: Kind, bytes: &[u8], row_bytes: usize, codes: &mut [u8], scales: &mut [u8]) {
    let layout = kind.layout();
    let mut group = Group { codes: [[0; BLOCK]; 8], head: [0; 2], subs: [[0; 2]; 8] };
    for (r, row) in bytes.chunks_exact(row_bytes).take(PANEL).enumerate() {
        let blocks = row.chunks_exact(kind.source_bytes());
        let codes = codes.chunks_exact_mut(layout.group * layout.code_bytes());
        let scales = scales.chunks_exact_mut(layout.scale_bytes());
        for ((block, codes), scales) in blocks.zip(codes).zip(scales) {
            read(kind, block, &mut group);
            for (codes, packed) in group.codes.iter().zip(codes.chunks_exact_mut(layout.code_bytes())) {
                put_codes(layout.bits, codes, r, packed);
            }
            put_scales(layout, &group, r, scales);
        }
    }
}

/// Four codes of a row as one word, which is how a vector has them.
fn words(codes: &[u8; BLOCK]) -> [u32; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(codes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// Ors `word` into row `r` of vector `vector`.
fn put(packed: &mut [u8], vector: usize, r: usize, word: u32) {
    let at = (vector * PANEL + r) * 4;
    let old = u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]]);
    packed[at..at + 4].copy_from_slice(&(old | word).to_le_bytes());
}

fn put_codes(bits: usize, codes: &[u8; BLOCK], r: usize, packed: &mut [u8]) {
    let words = words(codes);
    if bits == 8 {
        words.iter().enumerate().for_each(|(j, &w)| put(packed, j, r, w));
        return;
    }
    for (i, [low, high]) in words.as_chunks::<2>().0.iter().enumerate() {
        put(packed, i, r, (low & 0x0f0f_0f0f) | ((high & 0x0f0f_0f0f) << 4));
    }
    for (j, word) in words.iter().enumerate() {
        match bits {
            5 => put(packed, 4, r, ((word >> 4) & 0x0101_0101) << j),
            6 => put(packed, 4 + j / 4, r, ((word >> 4) & 0x0303_0303) << (2 * (j % 4))),
            _ => {}
        }
    }
}

fn put_scales(layout: Layout, group: &Group, r: usize, scales: &mut [u8]) {
    for (i, head) in group.head.iter().take(1 + usize::from(layout.minimum)).enumerate() {
        scales[(i * PANEL + r) * 2..][..2].copy_from_slice(&head.to_le_bytes());
    }
    if layout.group > 1 {
        let subs = scales[layout.head_bytes()..].chunks_exact_mut(layout.sub_bytes());
        for (packed, sub) in subs.zip(&group.subs) {
            packed[r] = sub[0];
            packed[PANEL + r] = sub[1];
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Half precision with its sign turned: exact.
fn negated(bits: u16) -> u16 {
    bits ^ 0x8000
}

/// Takes one group of a file apart. The layouts are ggml's (`block_q4_0` and so on in `ggml-common.h`).
fn read(kind: Kind, b: &[u8], group: &mut Group) {
    group.head = [word(b, 0), 0];
    let codes = &mut group.codes;
    match kind {
        Kind::Q8_0 => {
            for (code, &q) in codes[0].iter_mut().zip(&b[2..34]) {
                *code = q ^ 0x80;
            }
        }
        Kind::Q4_0 => nibbles(&b[2..18], &mut codes[0]),
        Kind::Q4_1 => {
            group.head[1] = word(b, 2);
            nibbles(&b[4..20], &mut codes[0]);
        }
        Kind::Q5_0 => {
            nibbles(&b[6..22], &mut codes[0]);
            fifth_bits(&b[2..6], &mut codes[0]);
        }
        Kind::Q5_1 => {
            group.head[1] = word(b, 2);
            nibbles(&b[8..24], &mut codes[0]);
            fifth_bits(&b[4..8], &mut codes[0]);
        }
        Kind::Q4K => {
            k_head(b, group);
            k_nibbles(&b[16..144], &mut group.codes);
        }
        Kind::Q5K => {
            k_head(b, group);
            k_nibbles(&b[48..176], &mut group.codes);
            for (i, codes) in group.codes.iter_mut().enumerate() {
                for (code, &high) in codes.iter_mut().zip(&b[16..48]) {
                    *code |= (high >> i & 1) << 4;
                }
            }
        }
        Kind::Q6K => q6_k(b, group),
    }
}

/// 16 bytes: their low halves, then their high halves.
fn nibbles(bytes: &[u8], codes: &mut [u8; BLOCK]) {
    let (low, high) = codes.split_at_mut(BLOCK / 2);
    for ((l, h), &b) in low.iter_mut().zip(high).zip(bytes) {
        (*l, *h) = (b & 15, b >> 4);
    }
}

fn fifth_bits(bytes: &[u8], codes: &mut [u8; BLOCK]) {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> i & 1) as u8) << 4;
    }
}

/// Scales of Q4_K and Q5_K: `d` and `dmin`, then six bits of scale and six of minimum for each of eight blocks.
/// A minimum is subtracted there and added here.
fn k_head(b: &[u8], group: &mut Group) {
    group.head[1] = negated(word(b, 2));
    let s = &b[4..16];
    for (i, sub) in group.subs.iter_mut().enumerate() {
        *sub = if i < 4 {
            [s[i] & 63, s[i + 4] & 63]
        } else {
            [(s[i + 4] & 15) | (s[i - 4] >> 6 << 4), (s[i + 4] >> 4) | (s[i] >> 6 << 4)]
        };
    }
}

/// 128 bytes: of each 32, the low halves are one block and the high halves the next.
fn k_nibbles(bytes: &[u8], codes: &mut [[u8; BLOCK]; 8]) {
    for ([low, high], bytes) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes.chunks_exact(BLOCK)) {
        for ((l, h), &b) in low.iter_mut().zip(high).zip(bytes) {
            (*l, *h) = (b & 15, b >> 4);
        }
    }
}

/// `ql[128]`, `qh[64]`, `scales[16]` (a signed byte for 16 weights), `d`.
fn q6_k(b: &[u8], group: &mut Group) {
    group.head = [word(b, 208), 0];
    for (i, sub) in group.subs.iter_mut().enumerate() {
        *sub = [b[192 + 2 * i], b[193 + 2 * i]];
    }
    for (i, codes) in group.codes.iter_mut().enumerate() {
        // Blocks 0..4 share the first half of `ql` and `qh`, 4..8 the second.
        let (half, part) = (i / 4, i % 4);
        let low = &b[64 * half + 32 * (part % 2)..][..32];
        let high = &b[128 + 32 * half..][..32];
        for ((code, &l), &h) in codes.iter_mut().zip(low).zip(high) {
            let l = if part < 2 { l & 15 } else { l >> 4 };
            *code = l | (h >> (2 * part) & 3) << 4;
        }
    }
}

/// Row `r` of a panel, as f32.
pub(super) fn unpack(kind: Kind, codes: &[u8], scales: &[u8], r: usize, out: &mut [f32]) {
    let layout = kind.layout();
    let half = |scales: &[u8], i: usize| f16::from_bits(word(scales, (i * PANEL + r) * 2)).to_f32();
    for (b, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let codes = &codes[b * layout.code_bytes()..][..layout.code_bytes()];
        let scales = &scales[b / layout.group * layout.scale_bytes()..][..layout.scale_bytes()];
        let (mut scale, mut minimum) = ([half(scales, 0); 2], 0.0);
        if layout.minimum {
            minimum = half(scales, 1);
        }
        if layout.group > 1 {
            let sub = &scales[layout.head_bytes() + b % layout.group * layout.sub_bytes()..];
            let (first, second) = (sub[r], sub[PANEL + r]);
            if layout.minimum {
                scale = scale.map(|s| s * f32::from(first));
                minimum *= f32::from(second);
            } else {
                scale = [scale[0] * f32::from(first as i8), scale[1] * f32::from(second as i8)];
            }
        }
        for (i, out) in out.iter_mut().enumerate() {
            let code = i32::from(code(layout.bits, codes, r, i)) - layout.offset;
            *out = scale[i / 16] * code as f32 + minimum;
        }
    }
}

/// Code of input `i` of row `r` in a block.
fn code(bits: usize, packed: &[u8], r: usize, i: usize) -> u8 {
    let (vector, byte) = (i / 4, r * 4 + i % 4);
    let at = |vector: usize| packed[vector * 4 * PANEL + byte];
    if bits == 8 {
        return at(vector);
    }
    let low = at(vector / 2) >> (4 * (vector % 2)) & 15;
    match bits {
        5 => low | (at(4) >> vector & 1) << 4,
        6 => low | (at(4 + vector / 4) >> (2 * (vector % 4)) & 3) << 4,
        _ => low,
    }
}
