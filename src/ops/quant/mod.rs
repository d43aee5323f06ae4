//! Products with weights that stay quantised, on the CPU.
//!
//! Weights are repacked once, as they are read, into panels of 16 outputs ([`format`]) that every instruction set
//! reads front to back. Activations are rounded to 8 bits ([`activation`]) once for all weights that share them. The products ([`kernel`]) are integer inside a block and f32 across blocks.

#![allow(unsafe_code)]

mod activation;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod format;
mod kernel;
pub(super) mod lanes;
mod pack;
#[cfg(test)]
mod tests;

use candle_core::{Result, bail};

use self::activation::Activations;
use self::format::BLOCK;
pub(crate) use self::format::{Kind, PANEL};
use self::kernel::Task;
use self::lanes::{Isa, isa};
use super::par;

/// A cache line. Vectors of codes begin on one, so that no load touches two.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u8; 64]);

// SAFETY: bytes, of which any value is one, zero included; 64 of them aligned to 64 leave no padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

pub(super) fn lines(bytes: usize) -> Vec<Line> {
    bytemuck::allocation::zeroed_vec(bytes.div_ceil(size_of::<Line>()))
}

/// A quantised matrix (outputs, inputs) in panels.
pub(crate) struct Matrix {
    kind: Kind,
    outputs: usize,
    inputs: usize,
    codes: Vec<Line>,
    scales: Vec<Line>,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({}, {})", self.kind, self.outputs, self.inputs)
    }
}

impl Matrix {
    /// A matrix whose rows are still to be [`fill`](Self::fill)ed in; all weights are 0.
    pub(crate) fn new(kind: Kind, outputs: usize, inputs: usize) -> Result<Self> {
        let layout = kind.layout();
        if outputs == 0 || inputs == 0 || !inputs.is_multiple_of(BLOCK * layout.group) {
            bail!("({outputs}, {inputs}) is no shape of a {kind:?} matrix");
        }
        let (panels, groups) = (outputs.div_ceil(PANEL), inputs / BLOCK / layout.group);
        let bytes = |a_group: usize| panels.checked_mul(groups).and_then(|n| n.checked_mul(a_group));
        match (bytes(layout.group * layout.code_bytes()), bytes(layout.scale_bytes())) {
            (Some(codes), Some(scales)) => {
                Ok(Matrix { kind, outputs, inputs, codes: lines(codes), scales: lines(scales) })
            }
            _ => bail!("a matrix of ({outputs}, {inputs}) cannot be"),
        }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        (self.codes.len() + self.scales.len()) * size_of::<Line>()
    }

    fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    /// Bytes of a panel's codes and scales.
    fn panel_bytes(&self) -> (usize, usize) {
        let layout = self.kind.layout();
        (self.blocks() * layout.code_bytes(), self.blocks() / layout.group * layout.scale_bytes())
    }

    /// Bytes of a row as a GGUF file has it.
    pub(crate) fn row_bytes(&self) -> usize {
        self.blocks() / self.kind.layout().group * self.kind.source_bytes()
    }

    /// Takes over whole rows from `first` on, which is a multiple of 16, as a GGUF file has them. Each row once.
    pub(crate) fn fill(&mut self, first: usize, rows: &[u8]) -> Result<()> {
        let row_bytes = self.row_bytes();
        let count = rows.len() / row_bytes;
        if !first.is_multiple_of(PANEL)
            || !rows.len().is_multiple_of(row_bytes)
            || first + count > self.outputs
        {
            bail!("{} bytes at row {first} do not fit {self:?}", rows.len());
        }
        let (codes, scales) = self.panel_bytes();
        let kind = self.kind;
        let parts: Vec<_> = (bytemuck::cast_slice_mut(&mut self.codes).chunks_exact_mut(codes))
            .zip(bytemuck::cast_slice_mut(&mut self.scales).chunks_exact_mut(scales))
            .skip(first / PANEL)
            .zip(rows.chunks(PANEL * row_bytes))
            .collect();
        par::each(parts, |((codes, scales), rows)| pack::pack(kind, rows, row_bytes, codes, scales));
        Ok(())
    }

    /// One row as f32; `out` has room for the inputs, and `row` is below the outputs.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (codes, scales) = self.panel_bytes();
        let part = |lines: &'_ [Line], bytes: usize| -> std::ops::Range<usize> {
            let start = row / PANEL * bytes;
            debug_assert!(start + bytes <= std::mem::size_of_val(lines));
            start..start + bytes
        };
        let codes = &bytemuck::cast_slice::<_, u8>(&self.codes)[part(&self.codes, codes)];
        let scales = &bytemuck::cast_slice::<_, u8>(&self.scales)[part(&self.scales, scales)];
        pack::unpack(self.kind, codes, scales, row % PANEL, out);
    }
}

/// `x` (rows, inputs) times the transpose of each matrix, side by side: (rows, outputs of all). The matrices have
/// the same number of inputs, and `x` whole rows of it.
pub(crate) fn product(x: &[f32], matrices: &[&Matrix]) -> Result<Vec<f32>> {
    product_on(isa(), x, matrices)
}

/// Bytes of activations that stay in the second-level cache while panels pass by.
const CACHED: usize = 512 << 10;

fn product_on(isa: Isa, x: &[f32], matrices: &[&Matrix]) -> Result<Vec<f32>> {
    let Some(inputs) = matrices.first().map(|m| m.inputs) else { bail!("a product with no matrix") };
    if matrices.iter().any(|m| m.inputs != inputs) || !x.len().is_multiple_of(inputs) {
        bail!("{} values are not rows for {matrices:?}", x.len());
    }
    let rows = x.len() / inputs;
    let total: usize = matrices.iter().map(|m| m.outputs).sum();
    let activations = Activations::new(x, inputs);
    let starts: Vec<Vec<i32>> = (matrices.iter().map(|m| m.kind.layout()))
        .map(|l| if l.offset == 0 { Vec::new() } else { activations.starts(l.offset, l.halves) })
        .collect();
    // SAFETY: the pieces cover every panel of every matrix, for every row.
    let mut out = unsafe { par::uninit(rows * total) };
    let target = par::SharedMut::new(&mut out);
    let panels: usize = matrices.iter().map(|m| m.outputs.div_ceil(PANEL)).sum();
    let height = (CACHED / inputs).clamp(32, 512);
    let bands = rows.div_ceil(height);
    // About 20 GB/s and 150 billion multiply-adds a core.
    let bytes: usize = matrices.iter().map(|m| m.bytes()).sum();
    let ns = bytes as f64 / 20.0 + (rows * inputs * total) as f64 / 150.0;
    let pieces = panels.min(par::pieces(ns)).max(1);
    par::for_each(bands * pieces, ns, |i| {
        let (band, piece) = (i / pieces, i % pieces);
        let rows = band * height..((band + 1) * height).min(rows);
        let panels = panels * piece / pieces..panels * (piece + 1) / pieces;
        // SAFETY: pieces are disjoint.
        unsafe { run_piece(isa, &activations, matrices, &starts, rows, panels, target.get(), total) };
    });
    Ok(out)
}

/// Panels `panels`, counted over all matrices, for `rows`.
///
/// # Safety
/// The processor has `isa`; `out` is valid for all rows of `total` values, and nothing else touches these panels'
/// columns in these rows.
#[allow(clippy::too_many_arguments)]
unsafe fn run_piece(
    isa: Isa,
    x: &Activations,
    matrices: &[&Matrix],
    starts: &[Vec<i32>],
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    out: *mut f32,
    total: usize,
) {
    let (mut first_panel, mut first_column) = (0, 0);
    for (matrix, starts) in matrices.iter().zip(starts) {
        let count = matrix.outputs.div_ceil(PANEL);
        let from = panels.start.max(first_panel) - first_panel;
        let to = panels.end.min(first_panel + count).saturating_sub(first_panel);
        if from < to {
            let (codes, scales) = matrix.panel_bytes();
            let (column, blocks) = (from * PANEL, x.blocks);
            let halves = matrix.kind.layout().halves;
            // SAFETY: `from..to` are panels of the matrix and `rows` rows of the activations; `starts` is empty
            // only where it is not read. The rest is the caller's contract.
            unsafe {
                let task = Task {
                    blocks,
                    codes: matrix.codes.as_ptr().cast::<u8>().add(from * codes),
                    scales: matrix.scales.as_ptr().cast::<u8>().add(from * scales),
                    columns: (to * PANEL).min(matrix.outputs) - column,
                    rows: rows.len(),
                    x: x.codes.as_ptr().add(rows.start * blocks * BLOCK),
                    x_scales: x.scales.as_ptr().add(rows.start * blocks),
                    x_totals: x.totals.as_ptr().add(rows.start * blocks),
                    starts: starts.as_ptr().wrapping_add(rows.start * blocks * halves),
                    out: out.add(rows.start * total + first_column + column),
                    out_stride: total,
                };
                kernel::run(isa, matrix.kind, &task);
            }
        }
        first_panel += count;
        first_column += matrix.outputs;
    }
}
