//! Which kernels attend over slots on a GPU.

use crate::ops::gpu::{Address, Launch, plain};

/// Dimensions of the heads that there are kernels for: Whisper's, of every size.
pub(super) const DIM: usize = 64;
/// Positions of a cell.
const BLOCK: usize = 32;
/// Rows that share a product, and warps that share out what they hear.
const ROWS: usize = 16;
const WARPS: usize = 4;
/// Groups of rows, and heads whose weights are wanted, that one launch takes at most.
const GROUPS: usize = 128;
const WANTED: usize = 64;
/// Blocks that fill a large card: two for each of 132 multiprocessors.
const FILLED: usize = 264;

/// `HeardRows` of kernels/cross.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RowsAt {
    keys: Address,
    values: Address,
    first: u32,
    count: u32,
}

/// `Heard` of kernels/cross.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct HeardAt {
    q: Address,
    out: Address,
    partial: Address,
    width: u32,
    seen: u32,
    length: u32,
    parts: u32,
    scale: f32,
    unused: u32,
    rows: [RowsAt; GROUPS],
}

/// `Wanted` of kernels/cross.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct WantedAt {
    heads: [u32; WANTED],
}

plain!(RowsAt: 24, HeardAt: 3120, WantedAt: 256);

/// Values of keys, and of values, that a layer of a slot takes: whole cells.
pub(super) fn cells(heads: usize, length: usize) -> usize {
    heads * length.next_multiple_of(BLOCK) * DIM
}

/// Keys beside values, (length, 2 heads DIM) f32, into cells.
pub(super) fn place(kv: Address, length: usize, heads: usize, (keys, values): (Address, Address)) -> Launch {
    Launch::new("cross_place_64", [length.div_ceil(BLOCK), 2 * heads, 1], 128)
        .address(kv)
        .count(length)
        .count(heads)
        .address(keys)
        .address(values)
}

/// Adjacent rows that look at one slot, and where this layer of it lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub keys: Address,
    pub values: Address,
    pub first: usize,
    pub len: usize,
}

impl Look {
    /// At most [`ROWS`] rows each.
    fn groups(self) -> impl Iterator<Item = RowsAt> {
        (0..self.len).step_by(ROWS).map(move |at| RowsAt {
            keys: self.keys,
            values: self.values,
            first: (self.first + at) as u32,
            count: (self.len - at).min(ROWS) as u32,
        })
    }
}

/// Queries and what they look at.
pub(super) struct Attend<'a> {
    /// (rows, heads DIM) f32; rows begin where 4 floats can be read at once.
    pub q: Address,
    pub heads: usize,
    /// Positions of a slot.
    pub length: usize,
    pub scale: f32,
    pub looks: &'a [Look],
}

impl Attend<'_> {
    fn rows(&self) -> usize {
        self.looks.iter().map(|look| look.len).sum()
    }

    /// Parts that the positions are shared out to.
    fn parts(&self) -> usize {
        let groups: usize = self.looks.iter().map(|look| look.len.div_ceil(ROWS)).sum();
        let most = self.length.div_ceil(BLOCK).div_ceil(WARPS).max(1);
        FILLED.div_ceil((groups * self.heads).max(1)).clamp(1, most)
    }

    fn at(&self, (out, partial): (Address, Address), seen: usize, parts: usize) -> HeardAt {
        HeardAt {
            q: self.q,
            out,
            partial,
            width: (self.heads * DIM) as u32,
            seen: seen as u32,
            length: self.length as u32,
            parts: parts as u32,
            // e^x = 2^(x log2 e)
            scale: self.scale * std::f32::consts::LOG2_E,
            unused: 0,
            rows: [RowsAt { keys: 0, values: 0, first: 0, count: 0 }; GROUPS],
        }
    }

    /// The argument for each [`GROUPS`] groups of rows, and how many there are.
    fn filled(&self, at: HeardAt) -> Vec<(HeardAt, usize)> {
        let groups: Vec<RowsAt> = self.looks.iter().flat_map(|look| look.groups()).collect();
        let filled = groups.chunks(GROUPS).map(|groups| {
            let mut at = at;
            at.rows[..groups.len()].copy_from_slice(groups);
            (at, groups.len())
        });
        filled.collect()
    }

    /// Room for parts that [`launches`](Self::launches) wants, in floats; 0 for none.
    pub fn partial_len(&self) -> usize {
        match self.parts() {
            1 => 0,
            parts => self.rows() * self.heads * parts * (DIM + 2),
        }
    }

    /// The result, (rows, heads DIM) f32.
    pub fn launches(&self, out: Address, partial: Address) -> Vec<Launch> {
        let parts = self.parts();
        let at = self.at((out, partial), self.length, parts);
        let launch = |(at, groups): &(HeardAt, usize)| {
            Launch::new("cross_attend_64", [parts, self.heads, *groups], 32 * WARPS).structure(at)
        };
        let mut launches: Vec<Launch> = self.filled(at).iter().map(launch).collect();
        if parts > 1 {
            let join = Launch::new("cross_join", [self.rows() * self.heads, 1, 1], DIM);
            launches.push(join.address(partial).count(parts).address(out));
        }
        launches
    }

    /// The weights of wanted heads over the first `seen` positions, (wanted, rows, seen) f32; the looks' rows are adjacent.
    pub fn weights(&self, wanted: &[usize], seen: usize, out: Address) -> Vec<Launch> {
        let (rows, base) = (self.rows(), self.looks.first().map_or(0, |look| look.first));
        let mut launches = Vec::new();
        for (i, some) in wanted.chunks(WANTED).enumerate() {
            let mut chosen = WantedAt { heads: [0; WANTED] };
            chosen.heads.iter_mut().zip(some).for_each(|(to, head)| *to = *head as u32);
            let out = out + (i * WANTED * rows * seen * size_of::<f32>()) as u64;
            for (at, groups) in self.filled(self.at((out, 0), seen, 1)) {
                let grid = [seen.div_ceil(BLOCK * WARPS), some.len(), groups];
                let launch = Launch::new("cross_score_64", grid, 32 * WARPS).structure(&at);
                launches.push(launch.structure(&chosen).count(base).count(rows));
            }
        }
        let normalise = Launch::new("cross_weights", [wanted.len() * rows, 1, 1], 256);
        launches.push(normalise.address(out).count(seen));
        launches
    }
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
