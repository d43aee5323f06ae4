//! A linear layer's product: blocks of rows are packed where they are used, the weights once for all.

use std::cell::RefCell;
use std::sync::Arc;

use super::super::gemm::{Activation, End};
use super::super::par;
use super::super::simd::{Simd, dispatch};
use super::pack::Source;
use super::{DEPTH, GROUP, Micro, Step, pack_columns, pack_rows};

/// Steps between visits to the result: a group of columns of this depth (64 KB) stays near while rows pass it.
const STEPS: usize = 16;
/// Rows of a block at most: packed to this depth they take a quarter of a second-level cache (512 KB).
const ROWS: usize = 256;

/// A weight in steps: `ceil(outputs / 32)` groups of `ceil(inputs / 32)`.
#[derive(Clone)]
pub(crate) struct Tiled {
    steps: Arc<[Step]>,
    outputs: usize,
    inputs: usize,
}

impl Tiled {
    /// Packs a row-major `(outputs, inputs)` weight, neither of them zero.
    pub(crate) fn new(weight: &[f32], outputs: usize, inputs: usize) -> Tiled {
        assert_eq!(weight.len(), outputs * inputs);
        let depth = inputs.div_ceil(DEPTH);
        let mut steps = vec![Step::ZERO; outputs.div_ceil(GROUP) * depth];
        let groups = weight.chunks(GROUP * inputs).zip(steps.chunks_exact_mut(depth)).collect();
        par::each(groups, |(rows, out): (&[f32], &mut [Step])| {
            let from =
                Source { values: rows.as_ptr(), rows: rows.len() / inputs, width: inputs, stride: inputs };
            // SAFETY: whole rows, and the steps of one group.
            unsafe { pack_columns(from, out.as_mut_ptr()) };
        });
        Tiled { steps: steps.into(), outputs, inputs }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val::<[Step]>(&self.steps)
    }
}

/// `act(x Wᵀ + b)` for whole rows `x`. A row's result does not depend on the others, to the last bit.
pub(crate) fn product(x: &[f32], weight: &Tiled, bias: Option<&[f32]>, activation: Activation) -> Vec<f32> {
    let (k, n) = (weight.inputs, weight.outputs);
    let m = x.len() / k;
    // SAFETY: the tasks below cover every row and column, and each writes all of its own.
    let mut out = unsafe { par::uninit(m * n) };
    let dst = par::SharedMut::new(&mut out);
    let groups = n.div_ceil(GROUP);
    let (rows, cuts) = split(m, groups);
    let ns = (2 * m * n * k) as f64 / 500.0 + (n * k) as f64 / 5.0;
    par::for_each(m.div_ceil(rows) * cuts, ns, |task| {
        let (row, cut) = (task / cuts * rows, task % cuts);
        // SAFETY: a task's rows and groups are within the product's; the result has all rows and columns.
        unsafe {
            let task = Task {
                x: x.as_ptr(),
                weight,
                bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
                out: dst.get(),
                activation,
                rows: (row, (row + rows).min(m)),
                groups: (groups * cut / cuts, groups * (cut + 1) / cuts),
            };
            PACKED.with_borrow_mut(|packed| run(task, packed));
        }
    });
    out
}

/// Rows of a block, and how many cuts of the columns: a few tasks for each thread, columns cut only where there are
/// not rows enough.
fn split(m: usize, groups: usize) -> (usize, usize) {
    let wanted = par::threads() * 2;
    let rows = m.div_ceil(wanted).next_multiple_of(GROUP).clamp(GROUP, ROWS);
    let blocks = m.div_ceil(rows).max(1);
    (rows, if blocks >= wanted { 1 } else { (wanted * 2).div_ceil(blocks).min(groups) })
}

thread_local! {
    /// The block of rows that a thread works on, in steps: 512 KB at most.
    static PACKED: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy)]
struct Task<'a> {
    x: *const f32,
    weight: &'a Tiled,
    /// One value an output, or null.
    bias: *const f32,
    out: *mut f32,
    activation: Activation,
    /// First and past the last.
    rows: (usize, usize),
    groups: (usize, usize),
}

dispatch! {
    /// # Safety
    /// The task's rows are within `x` and `out`, its groups within the weight; nothing else uses these values of
    /// `out`; the bias is null or has the weight's outputs.
    unsafe fn run(task: Task, packed: &mut Vec<Step>) = run_generic
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn run_generic<S: Simd>(task: Task, packed: &mut Vec<Step>) {
    let (from, to) = task.rows;
    let depth = task.weight.inputs.div_ceil(DEPTH);
    let blocks = (to - from).div_ceil(GROUP);
    // After the packed rows, room for 32 columns of sums: a step is as long as a block's.
    let (len, room) =
        (blocks * depth.min(STEPS), blocks * (GROUP * GROUP * size_of::<f32>()) / size_of::<Step>());
    packed.resize((len + room).max(packed.len()), Step::ZERO);
    for first in (0..depth).step_by(STEPS) {
        let steps = STEPS.min(depth - first);
        // SAFETY: the columns from `first` steps on of the task's rows; the buffer has a group's steps for each.
        unsafe {
            let column = first * DEPTH;
            let block = Source {
                values: task.x.add(from * task.weight.inputs + column),
                rows: to - from,
                width: (task.weight.inputs - column).min(steps * DEPTH),
                stride: task.weight.inputs,
            };
            pack_rows(block, 1.0, packed.as_mut_ptr());
            let sums = packed.as_mut_ptr().add(len).cast();
            for group in task.groups.0..task.groups.1 {
                let part = Part { group, first, steps, last: first + steps == depth };
                let mut row = from;
                while row < to {
                    // Whole blocks together, a last one that is not whole by itself.
                    let (rows, count) = match (to - row) / GROUP {
                        0 => (to - row, 1),
                        whole => (GROUP, whole),
                    };
                    let a = packed.as_ptr().add((row - from) / GROUP * steps);
                    corners::<S>(&task, &part, a, row, (rows, count), sums);
                    row += rows * count;
                }
            }
        }
    }
}

/// Some of a weight: a group of its outputs, and of the inputs the steps from `first` on.
struct Part {
    group: usize,
    first: usize,
    steps: usize,
    /// Whether no inputs are left after these.
    last: bool,
}

/// Sums of a part's 32 columns: `count` blocks of `rows` rows, from `row` on.
///
/// # Safety
/// As [`run`], for rows and a part of the task; `a` has the blocks' steps, `sums` room for the task's blocks.
#[inline(always)]
unsafe fn corners<S: Simd>(
    task: &Task,
    part: &Part,
    a: *const Step,
    row: usize,
    (rows, count): (usize, usize),
    sums: *mut f32,
) {
    let (n, column, steps) = (task.weight.outputs, part.group * GROUP, part.steps);
    let columns = GROUP.min(n - column);
    let depth = task.weight.inputs.div_ceil(DEPTH);
    let accumulate = part.first > 0;
    // SAFETY: the rows of `columns` values from `row` and `column` on are within the result.
    unsafe {
        if accumulate {
            for r in 0..rows * count {
                let at = task.out.add((row + r) * n + column);
                std::ptr::copy_nonoverlapping(at, sums.add(r * GROUP), columns);
            }
        }
        let b = task.weight.steps.as_ptr().add(part.group * depth + part.first);
        let next = (steps, 0, GROUP * GROUP);
        Micro { rows, steps, a, b, c: sums, stride: GROUP, accumulate, count, next }.run();
        let end = End {
            bias: if part.last { task.bias } else { std::ptr::null() },
            activation: if part.last { task.activation } else { Activation::None },
            c: task.out,
            ldc: n,
        };
        end.write::<S>((row, rows * count), (column, columns), sums, GROUP);
    }
}
