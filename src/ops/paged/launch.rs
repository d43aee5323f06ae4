//! Which kernels write to a cache on a GPU and attend over it.

use candle_core::{Result, bail};

use crate::ops::gpu::{Address, Launch, plain};

/// Sizes of heads that there are kernels for, and the names of each one's.
const KERNELS: [(usize, [&str; 3]); 5] = [
    (32, ["paged_place_32", "paged_short_32", "paged_long_32"]),
    (64, ["paged_place_64", "paged_short_64", "paged_long_64"]),
    (96, ["paged_place_96", "paged_short_96", "paged_long_96"]),
    (128, ["paged_place_128", "paged_short_128", "paged_long_128"]),
    (256, ["paged_place_256", "paged_short_256", "paged_long_256"]),
];

/// Queries, as rows of a product, that one warp takes.
const ROWS: usize = 16;
/// Warps that share out what the queries of a short row see, a block of the cache each at a time.
const WARPS: usize = 4;
/// Blocks that fill a large card, and parts of a row that are joined without much ado.
const FILLED: usize = 256;
const PARTS: usize = 32;
/// No window.
const ALL: u32 = 0x3fff_ffff;

/// Whether there are kernels for heads of this size.
pub(super) fn serves(head_dim: usize) -> bool {
    KERNELS.iter().any(|(dim, _)| *dim == head_dim)
}

fn kernels(head_dim: usize) -> Result<[&'static str; 3]> {
    match KERNELS.iter().find(|(dim, _)| *dim == head_dim) {
        Some((_, names)) => Ok(*names),
        None => bail!("there is no kernel for heads of {head_dim}"),
    }
}

/// `Step` of kernels/paged.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct StepAt {
    pub positions: Address,
    pub slots: Address,
    pub rows: Address,
    pub tables: Address,
    pub width: u32,
    pub unused: u32,
}

/// `Cache` of kernels/paged.cu: one layer's.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct CacheAt {
    pub keys: Address,
    pub values: Address,
    pub heads: u32,
    pub unused: u32,
}

/// `Heads` of kernels/paged.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct HeadsAt {
    pub queries: u32,
    pub columns: u32,
    /// Norms and turns may be 0: none, with no pairs.
    pub query_norm: Address,
    pub key_norm: Address,
    pub eps: f32,
    pub unused: u32,
    pub cosines: Address,
    pub sines: Address,
    pub pairs: u32,
    pub interleaved: u32,
}

/// `Attention` of kernels/paged.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct AttentionAt {
    qkv: Address,
    columns: u32,
    group: u32,
    scale: f32,
    window: u32,
    out: Address,
    chosen: Address,
    parts: u32,
    unused: u32,
    partial: Address,
}

plain!(StepAt: 40, CacheAt: 24, HeadsAt: 56, AttentionAt: 56);

/// Queries in place, keys and values into the cache.
pub(super) fn place(
    heads: &HeadsAt,
    (cache, head_dim): (&CacheAt, usize),
    step: &StepAt,
    tokens: usize,
    qkv: Address,
) -> Result<Launch> {
    let all = heads.queries as usize + 2 * cache.heads as usize;
    let launch = Launch::new(kernels(head_dim)?[0], [all.div_ceil(4), tokens, 1], 128);
    Ok(launch.structure(heads).structure(cache).structure(step).address(qkv))
}

/// Attention of a step's rows over one layer of the cache.
pub(super) struct Attend<'a> {
    pub qkv: Address,
    pub columns: usize,
    /// Query heads.
    pub heads: usize,
    pub head_dim: usize,
    pub cache: &'a CacheAt,
    pub step: &'a StepAt,
    pub scale: f32,
    pub window: Option<usize>,
    pub out: Address,
    /// Tokens of each row, ascending, and where the rows' numbers lie in that order.
    pub lengths: &'a [u32],
    pub order: Address,
}

impl Attend<'_> {
    fn group(&self) -> usize {
        self.heads / (self.cache.heads as usize).max(1)
    }

    /// Rows whose queries fit one product.
    fn short(&self) -> usize {
        let most = ROWS / self.group().max(1);
        self.lengths.partition_point(|len| *len as usize <= most)
    }

    fn parts(&self) -> usize {
        let blocks = self.short() * self.cache.heads as usize;
        let most = (self.step.width as usize).div_ceil(WARPS).clamp(1, PARTS);
        FILLED.div_ceil(blocks.max(1)).clamp(1, most)
    }

    /// Room for the parts of `tokens` that [`launches`](Self::launches) wants, in floats; 0 for none.
    pub fn partial_len(&self, tokens: usize) -> usize {
        match self.parts() {
            1 => 0,
            parts => tokens * self.heads * parts * (self.head_dim + 2),
        }
    }

    /// What computes it.
    ///
    /// # Errors
    /// Heads of a size without kernels.
    pub fn launches(&self, partial: Address) -> Result<Vec<Launch>> {
        let (short, kv_heads) = (self.short(), self.cache.heads as usize);
        let [_, of_short, of_long] = kernels(self.head_dim)?;
        let at = AttentionAt {
            qkv: self.qkv,
            columns: self.columns as u32,
            group: self.group() as u32,
            // e^x = 2^(x log2 e)
            scale: self.scale * std::f32::consts::LOG2_E,
            window: self.window.map_or(ALL, |w| u32::try_from(w).unwrap_or(ALL).min(ALL)),
            out: self.out,
            chosen: self.order,
            parts: self.parts() as u32,
            unused: 0,
            partial,
        };
        let launch = |kernel, grid, at: &AttentionAt| {
            Launch::new(kernel, grid, 32 * WARPS).structure(at).structure(self.cache).structure(self.step)
        };
        let mut launches = Vec::new();
        if short > 0 {
            launches.push(launch(of_short, [self.parts(), kv_heads, short], &at));
            if self.parts() > 1 {
                let join = Launch::new("paged_join", [self.heads, short, 1], self.head_dim);
                launches.push(join.structure(&at).structure(self.step).count(self.head_dim));
            }
        }
        if let Some(longest) = self.lengths[short..].last() {
            let groups = (*longest as usize * self.group()).div_ceil(ROWS * WARPS);
            let chosen = self.order + (short * size_of::<u32>()) as u64;
            let grid = [groups, kv_heads, self.lengths.len() - short];
            launches.push(launch(of_long, grid, &AttentionAt { chosen, ..at }));
        }
        Ok(launches)
    }
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
