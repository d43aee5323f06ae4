//! The packed formats and where their bytes lie.
//!
//! A matrix (outputs, inputs) is cut into *panels* of 16 outputs and, along the inputs, into blocks of 32. A panel's
//! codes lie in one stream, its scales in another, both read front to back by the products:
//!
//! | stream | for each block of 32 inputs | bytes |
//! |---|---|---|
//! | codes, 8 bits | 8 vectors; vector `j` holds inputs `4j..4j+4` of row 0, then of row 1, ... | 512 |
//! | codes, 4 bits | 4 such vectors; `i` has vector `2i` in the low halves of its bytes, `2i + 1` in the high | 256 |
//! | codes, 5 bits | the low 4 as above, then one vector: bit `j` of a byte is the fifth bit in vector `j` | 320 |
//! | codes, 6 bits | the low 4 as above, then two: bits `2(j%4)..` of vector `j/4` are the high two in `j` | 384 |
//!
//! | stream | for each group of blocks | bytes |
//! |---|---|---|
//! | scales | one f16 scale a row; one f16 minimum a row, where the format has minima | 32 or 64 |
//! | of K-quants, whose group is 8 blocks | then for each block, a row a byte: its scale and its minimum (Q4_K, Q5_K), or the scales of its two halves (Q6_K) | 32 a block |
//!
//! A weight is `scale * (code - offset) + minimum`, each the product of the group's and the block's. Outputs that
//! fill up the last panel have scale 0. Sources: ggml's `ggml-common.h` and `ggml-quants.c`.

use candle_core::quantized::GgmlDType;

/// Outputs in a panel.
pub(crate) const PANEL: usize = 16;
/// Inputs in a block.
pub(crate) const BLOCK: usize = 32;

/// What the kernels know of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bits of a code, 4, 5, 6 or 8; codes are unsigned.
    pub(crate) bits: usize,
    /// What a code is counted from.
    pub(crate) offset: i32,
    /// Blocks that share the f16 scale; more than one means that blocks have scales of their own.
    pub(crate) group: usize,
    /// Scales in a block.
    pub(crate) halves: usize,
    /// Whether weights have a minimum.
    pub(crate) minimum: bool,
}

impl Layout {
    const fn simple(bits: usize, offset: i32, minimum: bool) -> Self {
        Layout { bits, offset, group: 1, halves: 1, minimum }
    }

    /// Bytes of a block's codes in one panel.
    pub(crate) const fn code_bytes(self) -> usize {
        self.bits * PANEL * BLOCK / 8
    }

    /// Bytes of a group's scales before those of its blocks, in one panel.
    pub(crate) const fn head_bytes(self) -> usize {
        2 * PANEL * (1 + self.minimum as usize)
    }

    /// Bytes of a block's own scales in one panel.
    pub(crate) const fn sub_bytes(self) -> usize {
        if self.group == 1 { 0 } else { 2 * PANEL }
    }

    /// Bytes of a group's scales in one panel.
    pub(crate) const fn scale_bytes(self) -> usize {
        self.head_bytes() + self.group * self.sub_bytes()
    }
}

/// The formats that weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Kind {
    /// The format that holds every weight of a GGUF type exactly, if there is one.
    pub(crate) fn of(dtype: GgmlDType) -> Option<Kind> {
        match dtype {
            GgmlDType::Q4_0 => Some(Kind::Q4_0),
            GgmlDType::Q4_1 => Some(Kind::Q4_1),
            GgmlDType::Q5_0 => Some(Kind::Q5_0),
            GgmlDType::Q5_1 => Some(Kind::Q5_1),
            GgmlDType::Q8_0 => Some(Kind::Q8_0),
            GgmlDType::Q4K => Some(Kind::Q4K),
            GgmlDType::Q5K => Some(Kind::Q5K),
            GgmlDType::Q6K => Some(Kind::Q6K),
            _ => None,
        }
    }

    pub(crate) const fn layout(self) -> Layout {
        match self {
            Kind::Q4_0 => Layout::simple(4, 8, false),
            Kind::Q4_1 => Layout::simple(4, 0, true),
            Kind::Q5_0 => Layout::simple(5, 16, false),
            Kind::Q5_1 => Layout::simple(5, 0, true),
            Kind::Q8_0 => Layout::simple(8, 128, false),
            Kind::Q4K => Layout { bits: 4, offset: 0, group: 8, halves: 1, minimum: true },
            Kind::Q5K => Layout { bits: 5, offset: 0, group: 8, halves: 1, minimum: true },
            Kind::Q6K => Layout { bits: 6, offset: 32, group: 8, halves: 2, minimum: false },
        }
    }

    /// Bytes in a GGUF file of one group of one row.
    pub(crate) const fn source_bytes(self) -> usize {
        match self {
            Kind::Q4_0 => 18,
            Kind::Q4_1 => 20,
            Kind::Q5_0 => 22,
            Kind::Q5_1 => 24,
            Kind::Q8_0 => 34,
            Kind::Q4K => 144,
            Kind::Q5K => 176,
            Kind::Q6K => 210,
        }
    }
}

/// A [`Kind`] as a type, so that each has kernels of its own.
pub(super) trait Format {
    const LAYOUT: Layout;
}

macro_rules! formats {
    ($($name:ident)*) => {$(
        #[allow(non_camel_case_types)]
        pub(super) struct $name;
        impl Format for $name {
            const LAYOUT: Layout = Kind::$name.layout();
        }
    )*};
}
formats!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4K Q5K Q6K);
