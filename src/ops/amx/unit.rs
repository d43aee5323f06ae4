//! The instructions. The sums of 32 rows by 32 columns stay in tiles 0 to 3 (rows 0 to 15 in 0 and 1), a step's left
//! side passes through 4 and 5, its right side through 6 and 7. Each part is loaded once a step, and while it is used
//! the right side's step after the next is fetched: the processor's own fetching stops at pages, and a step is one.

use std::mem::offset_of;

use super::{GROUP, Micro, Step, TILE};

/// The unit's configuration (`LDTILECFG`): bytes and rows of each tile.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// By the rows of the left side.
static CONFIGS: [Config; GROUP + 1] = {
    let mut configs = [const { config(1) }; GROUP + 1];
    let mut rows = 1;
    while rows <= GROUP {
        configs[rows] = config(rows);
        rows += 1;
    }
    configs
};

const fn config(rows: usize) -> Config {
    let (first, second) = if rows > TILE { (TILE, rows - TILE) } else { (rows, rows) };
    let (first, second, all) = (first as u8, second as u8, TILE as u8);
    let mut config =
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let of_tiles = [first, first, second, second, first, second, all, all];
    let mut tile = 0;
    while tile < of_tiles.len() {
        config.rows[tile] = of_tiles[tile];
        config.row_bytes[tile] = 64;
        tile += 1;
    }
    config
}

/// What a block of instructions reads between two products; offsets are bytes.
#[repr(C)]
struct Turn {
    steps: usize,
    /// Whether the sums begin with what the result holds.
    keep: usize,
    /// From the end of a product's steps to the beginning of the next one's.
    a: isize,
    b: isize,
    c: usize,
}

/// Has six lines fetched, from `$line` on, of the step after the next.
macro_rules! fetch {
    ($line:literal) => {
        concat!(
            ".irp line, 0, 1, 2, 3, 4, 5\n",
            "prefetcht0 [{b} + 8192 + 64 * (\\line + ",
            $line,
            ")]\n",
            ".endr\n"
        )
    };
}

/// A step of up to 32 rows.
macro_rules! two_tiles_step {
    () => {
        concat!(
            "tileloadd tmm4, [{a} + {row}]\n",
            "tileloadd tmm6, [{b} + {row} + 2048]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            fetch!(0),
            "tileloadd tmm5, [{a} + {row} + 1024]\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            fetch!(6),
            "tileloadd tmm7, [{b} + {row} + 3072]\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            fetch!(12),
            "tdpbf16ps tmm3, tmm5, tmm7\n",
            fetch!(18),
            "tileloadd tmm6, [{b} + {row}]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            fetch!(24),
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            fetch!(30),
            "tileloadd tmm7, [{b} + {row} + 1024]\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            fetch!(36),
            "tdpbf16ps tmm3, tmm5, tmm7\n",
            fetch!(42),
            "tileloadd tmm4, [{a} + {row} + 2048]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            fetch!(48),
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            fetch!(54),
            "tileloadd tmm5, [{a} + {row} + 3072]\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            fetch!(58),
            "tdpbf16ps tmm3, tmm5, tmm7\n",
        )
    };
}

/// A step of up to 16 rows.
macro_rules! one_tile_step {
    () => {
        concat!(
            "tileloadd tmm4, [{a} + {row}]\n",
            "tileloadd tmm6, [{b} + {row} + 2048]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            fetch!(0),
            fetch!(6),
            "tileloadd tmm7, [{b} + {row} + 3072]\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            fetch!(12),
            fetch!(18),
            "tileloadd tmm6, [{b} + {row}]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            fetch!(24),
            fetch!(30),
            "tileloadd tmm7, [{b} + {row} + 1024]\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            fetch!(36),
            fetch!(42),
            "tileloadd tmm5, [{a} + {row} + 2048]\n",
            "tdpbf16ps tmm0, tmm5, tmm6\n",
            fetch!(48),
            fetch!(54),
            "tdpbf16ps tmm1, tmm5, tmm7\n",
            fetch!(58),
        )
    };
}

/// The unit's state, its configuration too, begins and ends within the block of instructions: nothing of it is left for
/// the compiler, another thread or the system to keep.
///
/// # Safety
/// As [`Micro::run`], with one product at least, and the unit is there.
pub(super) unsafe fn run(m: Micro) {
    let bytes = (m.steps * size_of::<Step>()).cast_signed();
    let skip = |next: usize| (next * size_of::<Step>()).cast_signed() - bytes;
    let (a, b, c) = m.next;
    let keep = usize::from(m.accumulate);
    let turn = Turn { steps: m.steps, keep, a: skip(a), b: skip(b), c: c * size_of::<f32>() };
    // SAFETY: the caller's contract.
    unsafe { if m.rows > TILE { two_tiles(m, &turn) } else { one_tile(m, &turn) } }
}

/// # Safety
/// As [`run`], for more than 16 rows.
unsafe fn two_tiles(m: Micro, turn: &Turn) {
    // SAFETY: the process has the right to use the tiles; loads and stores are within `a`, `b`, and the rows of `c` that
    // the configuration names; fetching ahead touches nothing.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{config}]",
            "2:",
            "mov {steps}, [{turn} + {turn_steps}]",
            "cmp qword ptr [{turn} + {turn_keep}], 0",
            "je 3f",
            "tileloadd tmm0, [{c} + {stride}]",
            "tileloadd tmm1, [{c} + {stride} + 64]",
            "tileloadd tmm2, [{second} + {stride}]",
            "tileloadd tmm3, [{second} + {stride} + 64]",
            "jmp 4f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "4:",
            two_tiles_step!(),
            "add {a}, 4096",
            "add {b}, 4096",
            "dec {steps}",
            "jnz 4b",
            "tilestored [{c} + {stride}], tmm0",
            "tilestored [{c} + {stride} + 64], tmm1",
            "tilestored [{second} + {stride}], tmm2",
            "tilestored [{second} + {stride} + 64], tmm3",
            "add {a}, [{turn} + {turn_a}]",
            "add {b}, [{turn} + {turn_b}]",
            "add {c}, [{turn} + {turn_c}]",
            "add {second}, [{turn} + {turn_c}]",
            "dec {count}",
            "jnz 2b",
            "tilerelease",
            config = in(reg) &CONFIGS[m.rows],
            turn = in(reg) turn,
            a = inout(reg) m.a => _,
            b = inout(reg) m.b => _,
            c = inout(reg) m.c => _,
            second = inout(reg) m.c.wrapping_add(TILE * m.stride) => _,
            stride = in(reg) m.stride * size_of::<f32>(),
            row = in(reg) 64usize,
            count = inout(reg) m.count => _,
            steps = out(reg) _,
            turn_steps = const offset_of!(Turn, steps),
            turn_keep = const offset_of!(Turn, keep),
            turn_a = const offset_of!(Turn, a),
            turn_b = const offset_of!(Turn, b),
            turn_c = const offset_of!(Turn, c),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// # Safety
/// As [`run`], for 16 rows at most.
unsafe fn one_tile(m: Micro, turn: &Turn) {
    // SAFETY: as in `two_tiles`.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{config}]",
            "2:",
            "mov {steps}, [{turn} + {turn_steps}]",
            "cmp qword ptr [{turn} + {turn_keep}], 0",
            "je 3f",
            "tileloadd tmm0, [{c} + {stride}]",
            "tileloadd tmm1, [{c} + {stride} + 64]",
            "jmp 4f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "4:",
            one_tile_step!(),
            "add {a}, 4096",
            "add {b}, 4096",
            "dec {steps}",
            "jnz 4b",
            "tilestored [{c} + {stride}], tmm0",
            "tilestored [{c} + {stride} + 64], tmm1",
            "add {a}, [{turn} + {turn_a}]",
            "add {b}, [{turn} + {turn_b}]",
            "add {c}, [{turn} + {turn_c}]",
            "dec {count}",
            "jnz 2b",
            "tilerelease",
            config = in(reg) &CONFIGS[m.rows],
            turn = in(reg) turn,
            a = inout(reg) m.a => _,
            b = inout(reg) m.b => _,
            c = inout(reg) m.c => _,
            stride = in(reg) m.stride * size_of::<f32>(),
            row = in(reg) 64usize,
            count = inout(reg) m.count => _,
            steps = out(reg) _,
            turn_steps = const offset_of!(Turn, steps),
            turn_keep = const offset_of!(Turn, keep),
            turn_a = const offset_of!(Turn, a),
            turn_b = const offset_of!(Turn, b),
            turn_c = const offset_of!(Turn, c),
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
