//! Random blocks in each quantised format, made in place: no float matrix is ever quantised, so a model of
//! billions of weights takes as long as writing its bytes.
//!
//! Each weight is uniform with mean near 0 and standard deviation `1 / sqrt(row)`, so that a matrix product
//! keeps the scale of its input. Block layouts: ggml's `ggml-common.h`.

use std::io::{self, Write};

use candle_core::quantized::GgmlDType;
use half::f16;

use super::gguf_write::TensorSpec;

/// SplitMix64 (Steele, Lea, Flood 2014): one multiplication chain a word, every seed sound.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn bytes(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// Uniform in [-1, 1).
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Writes all data of one tensor: matrices at random, norms near 1, biases near 0, rope factors 1.
pub(super) fn fill(tensor: &TensorSpec, random: &mut Random, out: &mut dyn Write) -> io::Result<()> {
    let bytes = tensor.bytes().unwrap_or(0) as usize;
    if tensor.ggml_type == GgmlDType::F32 {
        return (0..bytes / 4).try_for_each(|_| {
            let value = match tensor.name.as_str() {
                "rope_freqs.weight" => 1.0,
                name if name.ends_with(".bias") => 0.1 * random.signed(),
                _ => 1.0 + 0.1 * random.signed(),
            };
            out.write_all(&value.to_le_bytes())
        });
    }
    let std = 1.0 / (tensor.shape.last().copied().unwrap_or(1) as f32).sqrt();
    let block = tensor.ggml_type.type_size();
    let mut buf = vec![0; (1 << 16) / block * block];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(buf.len());
        random.bytes(&mut buf[..n]);
        for b in buf[..n].chunks_exact_mut(block) {
            scale(tensor.ggml_type, b, std);
        }
        out.write_all(&buf[..n])?;
        left -= n;
    }
    Ok(())
}

fn put(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// Replaces the random scales of a block so that its weights have standard deviation `std` and mean 0.
/// A uniform integer of `n` values has standard deviation `n / sqrt(12)`.
fn scale(ggml_type: GgmlDType, block: &mut [u8], std: f32) {
    let unit = |values: f32| std * 12f32.sqrt() / values;
    match ggml_type {
        GgmlDType::F16 | GgmlDType::BF16 => {
            // Sign and mantissa stay random; the exponent is fixed, so |w| is uniform in [1, 2) * 2^e.
            let bits = u16::from_le_bytes([block[0], block[1]]);
            let exponent = (std.log2().floor() as i32 + 15).clamp(1, 30) as u16;
            block.copy_from_slice(&((bits & 0x83ff) | (exponent << 10)).to_le_bytes());
        }
        GgmlDType::Q4_0 => signed(block, unit(16.0)),
        GgmlDType::Q5_0 => signed(block, unit(32.0)),
        GgmlDType::Q8_0 => signed(block, unit(256.0)),
        GgmlDType::Q4_1 => {
            put(block, 0, unit(16.0));
            put(block, 2, -7.5 * unit(16.0));
        }
        GgmlDType::Q5_1 => {
            put(block, 0, unit(32.0));
            put(block, 2, -15.5 * unit(32.0));
        }
        GgmlDType::Q4K => k_scales(block, unit(16.0), 7.5),
        GgmlDType::Q5K => k_scales(block, unit(32.0), 15.5),
        GgmlDType::Q6K => {
            // Sub-block scales in +-[32, 63]; the mean of q - 32 is -0.5, which their signs cancel.
            for s in &mut block[192..208] {
                let size = 32 + (*s & 31);
                *s = if *s & 0x80 == 0 { size } else { size.wrapping_neg() };
            }
            put(block, 208, unit(64.0) / 48.0);
        }
        // Not written by any mix.
        _ => block.fill(0),
    }
}

/// Formats without an offset: their integers have mean -0.5, which scales of random sign cancel.
fn signed(block: &mut [u8], unit: f32) {
    let sign = if block[0] & 1 == 0 { 1.0 } else { -1.0 };
    put(block, 0, sign * unit);
}

/// Q4_K and Q5_K: `w = d * scale * q - dmin * min` with 6-bit scales and mins. The mins equal the scales and
/// `dmin = d * mid`, which centres each sub-block.
fn k_scales(block: &mut [u8], unit: f32, mid: f32) {
    // Scales 0..4 in bytes 0..4 and mins 0..4 in bytes 4..8, six bits each; the two high bits of a byte hold
    // the high bits of scales and mins 4..8, whose low four bits share bytes 8..12.
    for i in 0..4 {
        let low = 32 | (block[4 + i] & 31);
        let high = 32 | (block[8 + i] & 31);
        block[4 + i] = low | (high >> 4 << 6);
        block[8 + i] = low | (high >> 4 << 6);
        block[12 + i] = (high & 15) | (high << 4);
    }
    put(block, 0, unit / 48.0);
    put(block, 2, unit / 48.0 * mid);
}
