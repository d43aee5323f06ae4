//! Which kernels multiply by matrices in [tiles](crate::ops::gpu::tiles), by the number of rows.
//!
//! | rows | kernel | bound by |
//! |---|---|---|
//! | to [`FEW`] | `qlinear_few_1` to `_3`: activations rounded to 8 bits first, as on a CPU; a tile a block | reading the weights |
//! | to 16 | `qlinear_8`, `_16`, wide or narrow: activations packed as halves first | reading the weights |
//! | to [`MANY`] | `qlinear_32_narrow`, `_64_narrow` where outputs are few, else `qlinear_32_shared`, `_64_shared`, 64 rows at a time | the tensor cores |
//! | more | the matrix as halves for once, and cuBLAS | the tensor cores |
//!
//! The split of the inputs among warps and blocks hangs on the matrix and the card alone, so a row's result is the same
//! whatever rows stand beside it within one kernel.

use crate::ops::gpu::tiles::{Format, Layout, ROWS, UNIT};
use crate::ops::gpu::{Address, Launch, plain};

/// Matrices of one layer at most.
pub(super) const PARTS: usize = 4;
/// Rows whose products are of bytes: unpacking weights to halves takes three times the instructions of a row's, which an
/// H200's memory is too fast for.
const FEW: usize = 3;
/// Blocks that fill a large card: two for each of 132 multiprocessors.
const FILLED: usize = 264;
/// Tiles that blocks have side by side which share their work.
const WIDE: usize = 8;
/// Blocks of `qlinear_32_shared` and `_64_shared` that a multiprocessor holds at once, to which the kernels are bounded.
const CROWD: [usize; 2] = [3, 2];
/// The most groups of [`WIDE`] tiles that there are counters for.
pub(super) const GROUPS: usize = 1 << 16;
/// Rows that one launch of packed activations takes at most.
const STRIP: usize = 64;
/// Rows up to which weights are read in their own precision for each 64 of them. Writing 2 bytes a weight and reading
/// them again costs what 7 more readings of 4.5 bits do; cuBLAS then has them for nothing.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(super) const MANY: usize = 256;

/// `Part` of kernels/qlinear.cu.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Part {
    weights: Address,
    format: u32,
    tiles: u32,
    outputs: u32,
    column: u32,
}

/// `Matrices` of kernels/qlinear.cu.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Matrices {
    parts: [Part; PARTS],
    count: u32,
    inputs: u32,
    rows: u32,
    columns: u32,
}

plain!(Part: 24, Matrices: 112);

impl Part {
    pub fn new((weights, layout): (Address, Layout), column: usize) -> Self {
        Part {
            weights,
            format: layout.format as u32,
            tiles: layout.tiles() as u32,
            outputs: layout.outputs as u32,
            column: column as u32,
        }
    }
}

/// A product: `rows` of activations by matrices that share their input.
#[derive(Debug, Clone)]
pub(super) struct Product<'a> {
    /// At most [`PARTS`], at least one, of the same inputs.
    pub matrices: &'a [(Address, Layout)],
    /// (rows, inputs) f32.
    pub x: Address,
    pub rows: usize,
    /// Of all columns, or 0.
    pub bias: Address,
    /// (rows, columns) f32.
    pub out: Address,
    /// The activations rounded, where whoever made them has done it.
    pub rounded: Option<Address>,
    pub bench: Bench,
}

/// A kernel of packed activations and its blocks.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    /// Each block has outputs of its own.
    Own(&'static str, usize),
    /// Blocks share outputs, and what they leave for one another.
    Shared(&'static str, usize),
}

/// What products of one device share: they run one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bench {
    /// Multiprocessors of the card.
    pub multiprocessors: usize,
    /// [`Bench::partial_bytes`] of room.
    pub partial: Address,
    /// [`GROUPS`] u32, 0 between launches.
    pub arrived: Address,
}

impl Bench {
    /// What blocks of a card leave for one another: up to two groups of f32 sums each.
    pub fn partial_bytes(multiprocessors: usize) -> usize {
        let rows = (CROWD[0] * 32).max(CROWD[1] * 64);
        multiprocessors * rows * 2 * WIDE * 16 * size_of::<f32>()
    }
}

/// Whether so many rows are multiplied as bytes.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) fn rounds(rows: usize, width: usize) -> bool {
    rows <= FEW && width.is_multiple_of(32)
}

/// Bytes of rounded activations: a scale and two sums of each 32 in 16 bytes, then the codes.
pub(crate) fn rounded_bytes(rows: usize, width: usize) -> usize {
    rows * (width / 2 + width)
}

/// Where codes and scales lie in them.
pub(crate) fn rounded_parts(rounded: Address, rows: usize, width: usize) -> (Address, Address) {
    (rounded + (rows * width / 2) as u64, rounded)
}

impl Product<'_> {
    fn inputs(&self) -> usize {
        self.matrices.first().map_or(0, |(_, layout)| layout.inputs)
    }

    fn columns(&self) -> usize {
        self.matrices.iter().map(|(_, layout)| layout.outputs).sum()
    }

    /// Bytes of room for rounded or packed activations that [`launches`](Self::launches) wants.
    pub fn packed_bytes(&self) -> usize {
        match self.rows {
            ..=FEW if self.rounded.is_some() => 0,
            ..=FEW => rounded_bytes(self.rows, self.inputs()),
            rows => self.inputs().div_ceil(UNIT) * groups(rows.min(STRIP)) * 2048,
        }
    }

    /// What computes it, up to [`MANY`] rows.
    pub fn launches(&self, packed: Address) -> Vec<Launch> {
        if self.rows <= FEW {
            return self.few(packed);
        }
        let strips = (0..self.rows).step_by(STRIP).map(|first| (first, (self.rows - first).min(STRIP)));
        strips.flat_map(|(first, rows)| self.strip(first, rows, packed)).collect()
    }

    fn argument(&self, rows: usize) -> Matrices {
        let mut parts = [Part::default(); PARTS];
        let mut column = 0;
        for (part, matrix) in parts.iter_mut().zip(self.matrices) {
            *part = Part::new(*matrix, column);
            column += matrix.1.outputs;
        }
        Matrices {
            parts,
            count: self.matrices.len().min(PARTS) as u32,
            inputs: self.inputs() as u32,
            rows: rows as u32,
            columns: self.columns() as u32,
        }
    }

    fn few(&self, room: Address) -> Vec<Launch> {
        let (codes, scales) = rounded_parts(self.rounded.unwrap_or(room), self.rows, self.inputs());
        let fours = self.rows * self.inputs() / 4;
        let round = Launch::new("qlinear_round", [fours.div_ceil(256), 1, 1], 256)
            .address(self.x)
            .address(codes)
            .address(scales)
            .count(fours);
        let kernel = match self.rows {
            ..=1 => "qlinear_few_1",
            2 => "qlinear_few_2",
            _ => "qlinear_few_3",
        };
        let tiles: usize = self.matrices.iter().map(|(_, layout)| layout.tiles()).sum();
        let deep = self.matrices.iter().map(|(_, layout)| layout.deep()).max().unwrap_or(1);
        let product = Launch::new(kernel, [tiles, 1, 1], 32 * warps(tiles, deep))
            .structure(&self.argument(self.rows))
            .address(self.x)
            .address(codes)
            .address(scales)
            .address(self.bias)
            .address(self.out);
        // Weights of halves take the activations as they are.
        let bytes = self.matrices.iter().any(|(_, layout)| layout.format != Format::F16);
        if bytes && self.rounded.is_none() { vec![round, product] } else { vec![product] }
    }

    /// Rows from `first` on: packed, then multiplied.
    fn strip(&self, first: usize, rows: usize, packed: Address) -> [Launch; 2] {
        self.strip_by(self.kernel(groups(rows)), first, rows, packed)
    }

    fn strip_by(&self, kernel: Kernel, first: usize, rows: usize, packed: Address) -> [Launch; 2] {
        let groups = groups(rows);
        let x = self.x + (first * self.inputs() * size_of::<f32>()) as u64;
        let pack = Launch::new("qlinear_pack", [self.inputs().div_ceil(UNIT), groups, 1], 32)
            .address(x)
            .address(packed)
            .count(rows)
            .count(self.inputs())
            .count(groups)
            // The product's blocks would come in where those of the launch before end: 12% fewer tokens/s of 4 to 8 rows.
            .apart();
        let (name, blocks, threads) = match kernel {
            Kernel::Own(name, blocks) => (name, blocks, 256),
            Kernel::Shared(name, blocks) => (name, blocks, 128),
        };
        let product = Launch::new(name, [blocks, 1, 1], threads)
            .structure(&self.argument(rows))
            .address(packed)
            .address(self.bias)
            .address(self.out + (first * self.columns() * size_of::<f32>()) as u64);
        let product = match kernel {
            Kernel::Own(..) => product,
            Kernel::Shared(..) => product.address(self.bench.partial).address(self.bench.arrived),
        };
        [pack, product]
    }

    fn kernel(&self, groups: usize) -> Kernel {
        match (groups, self.blocks(4) >= FILLED) {
            (..=1, true) => Kernel::Own("qlinear_8_wide", self.blocks(4)),
            (..=1, false) => Kernel::Own("qlinear_8_narrow", self.blocks(1)),
            (2, true) => Kernel::Own("qlinear_16_wide", self.blocks(4)),
            (2, false) => Kernel::Own("qlinear_16_narrow", self.blocks(1)),
            (3..=4, true) => self.shared("qlinear_32_shared", CROWD[0]),
            (3..=4, false) => Kernel::Own("qlinear_32_narrow", self.blocks(2)),
            (_, true) => self.shared("qlinear_64_shared", CROWD[1]),
            (_, false) => Kernel::Own("qlinear_64_narrow", self.blocks(2)),
        }
    }

    /// By as many blocks as the card holds, each of which has a step at least: the kernels rely on it.
    fn shared(&self, name: &'static str, crowd: usize) -> Kernel {
        let steps = self.blocks(WIDE) * self.inputs().div_ceil(UNIT);
        Kernel::Shared(name, steps.min(self.bench.multiprocessors * crowd).max(1))
    }

    /// Blocks that take so many tiles each.
    fn blocks(&self, tiles: usize) -> usize {
        self.matrices.iter().map(|(_, layout)| layout.tiles().div_ceil(tiles)).sum()
    }

    /// Groups of outputs that blocks may share: at most [`GROUPS`].
    pub fn shared_groups(&self) -> usize {
        self.blocks(WIDE)
    }
}

/// Groups of 8 rows that a kernel is made for.
fn groups(rows: usize) -> usize {
    rows.div_ceil(8).next_power_of_two().min(STRIP / 8)
}

/// Warps that share out the inputs of a tile: enough of them in all to keep a large card's memory busy, and such that
/// all have about as much to do.
fn warps(tiles: usize, deep: usize) -> usize {
    /// About 16 for each of 132 multiprocessors.
    const WANTED: usize = 2000;
    const MOST: usize = 16;
    let least = WANTED.div_ceil(tiles.max(1)).clamp(4, MOST);
    // Rounds that the slowest takes, times warps: at best `deep`.
    let cost = |warps: &usize| deep.div_ceil(*warps) * warps;
    (least..=MOST).min_by_key(cost).unwrap_or(MOST)
}

/// A matrix as halves, (outputs, inputs) in rows.
pub(super) fn unpack(matrix: (Address, Layout), out: Address) -> Launch {
    let layout = matrix.1;
    Launch::new("qlinear_unpack", [layout.units().div_ceil(4), layout.tiles(), 1], 128)
        .structure(&Part::new(matrix, 0))
        .count(layout.inputs)
        .address(out)
}

/// Rows of the matrix as f32, times `factor`. `rows` are `count` numbers below its outputs.
pub(super) fn rows(
    matrix: (Address, Layout),
    rows: Address,
    count: usize,
    factor: f32,
    out: Address,
) -> Launch {
    let layout = matrix.1;
    Launch::new("qlinear_rows", [layout.units().div_ceil(4), count, 1], 128)
        .structure(&Part::new(matrix, 0))
        .count(layout.inputs)
        .address(rows)
        .float(factor)
        .address(out)
}

/// `count` f32 as halves, divided by 64 as the kernels do; a multiple of 4.
pub(super) fn shrink(x: Address, out: Address, count: usize) -> Launch {
    Launch::new("qlinear_shrink", [(count / 4).div_ceil(256), 1, 1], 256)
        .address(x)
        .address(out)
        .count(count / 4)
}

/// Outputs of a tile, as the kernels have it.
const _: () = assert!(ROWS == 16);

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
