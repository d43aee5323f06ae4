//! Weights in the order in which the kernels read them.
//!
//! A matrix (outputs, inputs) is cut into tiles of 16 outputs by 128 or 256 inputs, those of the same outputs one after
//! the other; what is missing of the last ones is zeros. A *unit* is 16 by 128; in it lane `l = 4 g + t` of a warp has
//! the inputs `32 t .. 32 t + 32` of the outputs `g` and `g + 8` (`half` 0 and 1, `at = 2 unit + half`):
//!
//! | format | of the file's | bytes of a tile | in it |
//! |---|---|---|---|
//! | Q4_K | Q4_K | 256 inputs: 2304 | heads of 16 bytes an output; codes, 16 bytes at `256 + 512 at + 16 l` |
//! | Q5_K | Q5_K | 256 inputs: 2816 | the same; fifth bits, 4 bytes at `2304 + 128 at + 4 l` |
//! | Q6_K | Q6_K | 256 inputs: 3360 | codes at `512 at + 16 l`; their upper 2 bits, 8 bytes at `2048 + 256 at + 8 l`; 2 scales at `3072 + 64 at + 2 l`; f16 of each output at 3328 |
//! | Q8_0 | Q8_0 | 128 inputs: 2176 | codes + 128, twice 16 bytes at `1024 half + 16 l` and 512 further; f16 at `2048 + 64 half + 2 l` |
//! | Q4_1 | Q4_0, Q4_1 | 128 inputs: 1280 | codes at `512 half + 16 l`; f16 scale and minimum at `1024 + 128 half + 4 l` |
//! | Q5_1 | Q5_0, Q5_1 | 128 inputs: 1536 | the same; fifth bits, 4 bytes at `1280 + 128 half + 4 l` |
//! | F16 | F16, BF16, F32 | 128 inputs: 4096 | 4 times 16 bytes at `2048 half + 16 l` and each 512 further |
//!
//! A head is the file's two halves (scale, and scale of minima), then for each of 2 units 4 bytes, one a lane's `t`: a
//! 6-bit scale below the minimum's lower 2 bits; then 4 bits of each minimum above them. Codes of 4 bits lie so that
//! `word >> 4 i & 0x000f000f` has the inputs `2 i` and `2 i + 1` of the word's eight, upper bits so that one shift brings
//! them above two codes. Every weight is kept exactly: Q4_0 is Q4_1 with a minimum of -8 scales.

use candle_core::quantized::GgmlDType;
use candle_core::{Result, bail};
use half::f16;

use crate::ops::par;

/// How tiles hold weights; the numbers are the kernels'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Format {
    Q4K = 0,
    Q5K = 1,
    Q6K = 2,
    Q8 = 3,
    Q4 = 4,
    Q5 = 5,
    F16 = 6,
}

/// Outputs of a tile.
pub(crate) const ROWS: usize = 16;
/// Inputs of a unit.
pub(crate) const UNIT: usize = 128;

impl Format {
    /// The one that keeps a file's type exactly; `None` where none does.
    pub fn of(dtype: GgmlDType) -> Option<Self> {
        Some(match dtype {
            GgmlDType::Q4K => Format::Q4K,
            GgmlDType::Q5K => Format::Q5K,
            GgmlDType::Q6K => Format::Q6K,
            GgmlDType::Q8_0 => Format::Q8,
            GgmlDType::Q4_0 | GgmlDType::Q4_1 => Format::Q4,
            GgmlDType::Q5_0 | GgmlDType::Q5_1 => Format::Q5,
            GgmlDType::F16 | GgmlDType::BF16 | GgmlDType::F32 => Format::F16,
            _ => return None,
        })
    }

    /// Inputs of a tile.
    pub fn depth(self) -> usize {
        if matches!(self, Format::Q4K | Format::Q5K | Format::Q6K) { 2 * UNIT } else { UNIT }
    }

    pub fn tile_bytes(self) -> usize {
        match self {
            Format::Q4K => 2304,
            Format::Q5K => 2816,
            Format::Q6K => 3360,
            Format::Q8 => 2176,
            Format::Q4 => 1280,
            Format::Q5 => 1536,
            Format::F16 => 4096,
        }
    }
}

/// What a matrix in tiles is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub format: Format,
    pub outputs: usize,
    pub inputs: usize,
}

impl Layout {
    /// Tiles along the outputs.
    pub fn tiles(&self) -> usize {
        self.outputs.div_ceil(ROWS)
    }

    /// Tiles along the inputs.
    pub fn deep(&self) -> usize {
        self.inputs.div_ceil(self.format.depth())
    }

    /// Units along the inputs, those that fill the last tile up among them.
    pub fn units(&self) -> usize {
        self.deep() * self.format.depth() / UNIT
    }

    /// Bytes of all tiles.
    pub fn bytes(&self) -> usize {
        self.tiles() * self.deep() * self.format.tile_bytes()
    }
}

/// A matrix on its way to a GPU.
pub(crate) struct Tiles {
    layout: Layout,
    dtype: GgmlDType,
    bytes: Vec<u8>,
}

impl Tiles {
    /// For rows of this type.
    ///
    /// # Errors
    /// A type that no format keeps, inputs that are no multiple of 32, a size that cannot be addressed.
    pub fn new(dtype: GgmlDType, outputs: usize, inputs: usize) -> Result<Self> {
        let Some(format) = Format::of(dtype) else { bail!("no kernel multiplies with {dtype:?}") };
        if !inputs.is_multiple_of(32) {
            bail!("a matrix of {inputs} inputs: the kernels take multiples of 32");
        }
        let layout = Layout { format, outputs, inputs };
        let Some(padded) = outputs.checked_add(ROWS).zip(inputs.checked_add(2 * UNIT)) else {
            bail!("a matrix of ({outputs}, {inputs}) cannot be addressed");
        };
        if padded.0.checked_mul(padded.1).and_then(|n| n.checked_mul(2)).is_none() {
            bail!("a matrix of ({outputs}, {inputs}) cannot be addressed");
        }
        Ok(Tiles { layout, dtype, bytes: vec![0; layout.bytes()] })
    }

    /// Takes whole rows over, from row `first` on, a multiple of 16, in the file's form.
    pub fn fill(&mut self, first: usize, rows: &[u8]) {
        let row_bytes = self.layout.inputs / self.dtype.block_size() * self.dtype.type_size();
        let band = self.layout.deep() * self.layout.format.tile_bytes();
        let begin = (first / ROWS * band).min(self.bytes.len());
        let bands = self.bytes[begin..].chunks_exact_mut(band).zip(rows.chunks(ROWS * row_bytes));
        let (layout, dtype) = (self.layout, self.dtype);
        par::each(bands.collect(), |(band, rows): (&mut [u8], &[u8])| {
            for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                fill_row(layout, dtype, band, row, bytes);
            }
        });
    }

    /// The layout and the bytes.
    pub fn finish(self) -> (Layout, Vec<u8>) {
        (self.layout, self.bytes)
    }
}

/// One row of a band of tiles.
fn fill_row(layout: Layout, dtype: GgmlDType, band: &mut [u8], row: usize, bytes: &[u8]) {
    let (format, size) = (layout.format, dtype.type_size());
    let tile = format.tile_bytes();
    match format {
        Format::Q4K | Format::Q5K | Format::Q6K => {
            for (block, tile) in bytes.chunks_exact(size).zip(band.chunks_exact_mut(tile)) {
                match format {
                    Format::Q6K => q6k(tile, row, block),
                    _ => q45k(tile, row, block, format == Format::Q5K),
                }
            }
        }
        Format::F16 => {
            for (i, value) in bytes.chunks_exact(size).enumerate() {
                let tile = &mut band[i / UNIT * tile..][..tile];
                let place = Place::new(row, i % UNIT);
                let at =
                    2048 * place.half + 512 * (place.element / 8) + 16 * place.lane + 2 * (place.element % 8);
                tile[at..at + 2].copy_from_slice(&half_of(dtype, value).to_le_bytes());
            }
        }
        Format::Q8 | Format::Q4 | Format::Q5 => {
            for (i, block) in bytes.chunks_exact(size).enumerate() {
                let tile = &mut band[i * 32 / UNIT * tile..][..tile];
                small(tile, Place::new(row, i * 32 % UNIT), dtype, block);
            }
        }
    }
}

/// Where an input of a unit lies for an output of its tile.
#[derive(Clone, Copy)]
struct Place {
    lane: usize,
    half: usize,
    /// Of the lane's 32 inputs.
    element: usize,
}

impl Place {
    fn new(row: usize, input: usize) -> Self {
        Place { lane: row % 8 * 4 + input / 32, half: row / 8, element: input % 32 }
    }
}

fn half_of(dtype: GgmlDType, value: &[u8]) -> f16 {
    match (dtype, value) {
        (GgmlDType::F16, [a, b]) => f16::from_le_bytes([*a, *b]),
        (GgmlDType::BF16, [a, b]) => f16::from_f32(half::bf16::from_le_bytes([*a, *b]).to_f32()),
        (_, [a, b, c, d]) => f16::from_f32(f32::from_le_bytes([*a, *b, *c, *d])),
        _ => f16::NAN,
    }
}

/// A code of 4 bits among a lane's 16 bytes.
fn put_code(bytes: &mut [u8], element: usize, code: u8) {
    let (word, e) = (element / 8, element % 8);
    let nibble = if e % 2 == 0 { e / 2 } else { 4 + e / 2 };
    bytes[4 * word + nibble / 2] |= (code & 15) << (4 * (nibble % 2));
}

/// A code's fifth bit among a lane's 4 bytes.
fn put_fifth(bytes: &mut [u8], element: usize, code: u8) {
    let bit = element / 2 + 16 * (element % 2);
    bytes[bit / 8] |= (code >> 4 & 1) << (bit % 8);
}

/// A code's fifth and sixth bit among a lane's 8 bytes.
fn put_upper(bytes: &mut [u8], element: usize, code: u8) {
    let pair = element / 2;
    let bit = 2 * (pair % 8) + 16 * (element % 2);
    bytes[4 * (pair / 8) + bit / 8] |= (code >> 4 & 3) << (bit % 8);
}

/// The scale and minimum of group `j` of 32 in a K-quant's 12 bytes.
fn scale_and_minimum(scales: &[u8], j: usize) -> (u8, u8) {
    match j {
        0..4 => (scales[j] & 63, scales[j + 4] & 63),
        _ => ((scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4, (scales[j + 4] >> 4) | (scales[j] >> 6) << 4),
    }
}

fn q45k(tile: &mut [u8], row: usize, block: &[u8], five: bool) {
    let (scales, rest) = (&block[4..16], &block[16..]);
    let (fifths, codes) = if five { rest.split_at(32) } else { (&[][..], rest) };
    let head = 16 * row;
    tile[head..head + 4].copy_from_slice(&block[..4]);
    for j in 0..8 {
        let (scale, minimum) = scale_and_minimum(scales, j);
        tile[head + 4 + j] = scale | (minimum & 3) << 6;
        tile[head + 12 + j / 2] |= (minimum >> 2) << (4 * (j % 2));
        let at = 2 * (j / 4) + row / 8;
        for l in 0..32 {
            let both = codes[32 * (j / 2) + l];
            let mut code = if j % 2 == 0 { both & 15 } else { both >> 4 };
            if five {
                code |= (fifths[l] >> j & 1) << 4;
            }
            let place = Place::new(row, 32 * (j % 4) + l);
            put_code(&mut tile[256 + 512 * at + 16 * place.lane..][..16], l, code);
            if five {
                put_fifth(&mut tile[2304 + 128 * at + 4 * place.lane..][..4], l, code);
            }
        }
    }
}

fn q6k(tile: &mut [u8], row: usize, block: &[u8]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], &block[208..210]);
    tile[3328 + 2 * row..][..2].copy_from_slice(d);
    for w in 0..256 {
        // Of each 128: quarters of 32, two in the lower bits of 64 bytes, two in the upper.
        let (n, quarter, l) = (w / 128, w % 128 / 32, w % 32);
        let both = low[64 * n + 32 * (quarter % 2) + l];
        let lower = if quarter < 2 { both & 15 } else { both >> 4 };
        let code = lower | (high[32 * n + l] >> (2 * quarter) & 3) << 4;
        let (at, place) = (2 * n + row / 8, Place::new(row, w % 128));
        put_code(&mut tile[512 * at + 16 * place.lane..][..16], l, code);
        put_upper(&mut tile[2048 + 256 * at + 8 * place.lane..][..8], l, code);
        tile[3072 + 64 * at + 2 * place.lane + l / 16] = scales[w / 16];
    }
}

/// A block of 32.
fn small(tile: &mut [u8], Place { lane, half, .. }: Place, dtype: GgmlDType, block: &[u8]) {
    if dtype == GgmlDType::Q8_0 {
        tile[2048 + 64 * half + 2 * lane..][..2].copy_from_slice(&block[..2]);
        for (i, code) in block[2..].iter().enumerate() {
            tile[1024 * half + 512 * (i / 16) + 16 * lane + i % 16] = code ^ 0x80;
        }
        return;
    }
    let five = matches!(dtype, GgmlDType::Q5_0 | GgmlDType::Q5_1);
    let scale = f16::from_le_bytes([block[0], block[1]]);
    let (minimum, rest) = match dtype {
        GgmlDType::Q4_1 | GgmlDType::Q5_1 => (f16::from_le_bytes([block[2], block[3]]), &block[4..]),
        // Codes are above their weights by 8 or 16.
        _ => (f16::from_f32(-scale.to_f32() * if five { 16.0 } else { 8.0 }), &block[2..]),
    };
    let both = &mut tile[1024 + 128 * half + 4 * lane..][..4];
    both[..2].copy_from_slice(&scale.to_le_bytes());
    both[2..].copy_from_slice(&minimum.to_le_bytes());
    let (fifths, codes) = if five { rest.split_at(4) } else { (&[][..], rest) };
    for e in 0..32 {
        let mut code = if e < 16 { codes[e] & 15 } else { codes[e - 16] >> 4 };
        if five {
            code |= (fifths[e / 8] >> (e % 8) & 1) << 4;
            put_fifth(&mut tile[1280 + 128 * half + 4 * lane..][..4], e, code);
        }
        put_code(&mut tile[512 * half + 16 * lane..][..16], e, code);
    }
}
