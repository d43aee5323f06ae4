//! The kernels on the CPU against attention as it is defined.

use half::f16;

use super::*;
use crate::ops::gpu::host::{at, at_mut, run};
use crate::ops::testing::{assert_close, noise};

const BLOCK: usize = 32;

/// Halves aligned as a GPU's memory is, all of them no number.
struct Halves(Vec<u128>);

impl Halves {
    fn new(count: usize) -> Self {
        let mut all = Halves(vec![0; count.div_ceil(8)]);
        all.values_mut().fill(f16::NAN);
        all
    }

    fn values(&self) -> &[f16] {
        bytemuck::cast_slice(&self.0)
    }

    fn values_mut(&mut self) -> &mut [f16] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// A sequence's share of a step: tokens before, tokens now.
type Row = (usize, usize);

struct Case {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    window: Option<usize>,
    rows: Vec<Row>,
}

/// A step and the cache it works on.
struct Setup {
    tokens: usize,
    positions: Vec<u32>,
    slots: Vec<u32>,
    info: Vec<u32>,
    tables: Vec<u32>,
    width: usize,
    keys: Halves,
    values: Halves,
}

impl Setup {
    /// Sequences' blocks lie apart, in no order.
    fn new(case: &Case) -> Self {
        let width = case.rows.iter().map(|(b, n)| (b + n).div_ceil(BLOCK)).max().unwrap();
        let blocks = case.rows.len() * width;
        let table = |r: usize| (0..width).map(move |b| (blocks - 1 - (r + b * case.rows.len())) as u32);
        let (mut positions, mut slots, mut info, mut tables) = (vec![], vec![], vec![], vec![]);
        for (r, (before, now)) in case.rows.iter().enumerate() {
            let own: Vec<u32> = table(r).collect();
            info.extend([positions.len() as u32, *now as u32, *before as u32]);
            for p in *before..before + now {
                positions.push(p as u32);
                slots.push(own[p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32);
            }
            tables.extend(own);
        }
        let size = blocks * case.kv_heads * case.dim * BLOCK;
        let tokens = positions.len();
        Setup {
            tokens,
            positions,
            slots,
            info,
            tables,
            width,
            keys: Halves::new(size),
            values: Halves::new(size),
        }
    }

    fn step(&self) -> StepAt {
        StepAt {
            positions: at(&self.positions),
            slots: at(&self.slots),
            rows: at(&self.info),
            tables: at(&self.tables),
            width: self.width as u32,
            unused: 0,
        }
    }

    fn cache(&mut self, case: &Case) -> CacheAt {
        CacheAt {
            keys: at_mut(&mut self.keys.0),
            values: at_mut(&mut self.values.0),
            heads: case.kv_heads as u32,
            unused: 0,
        }
    }

    /// Where a number of a position of row `r` lies among the keys and among the values.
    fn place(&self, case: &Case, r: usize, position: usize, head: usize, d: usize) -> (usize, usize) {
        let block = self.tables[r * self.width + position / BLOCK] as usize;
        let (cell, offset) = ((block * case.kv_heads + head) * case.dim * BLOCK, position % BLOCK);
        (cell + offset * case.dim + d, cell + d * BLOCK + offset)
    }
}

fn plain_heads(case: &Case) -> HeadsAt {
    HeadsAt {
        queries: case.heads as u32,
        columns: ((case.heads + 2 * case.kv_heads) * case.dim) as u32,
        query_norm: 0,
        key_norm: 0,
        eps: 0.0,
        unused: 0,
        cosines: 0,
        sines: 0,
        pairs: 0,
        interleaved: 0,
    }
}

/// Attention by the kernels and by its definition over the same halves.
fn both(case: &Case, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut setup = Setup::new(case);
    let (dim, columns) = (case.dim, (case.heads + 2 * case.kv_heads) * case.dim);
    for (r, (before, _)) in case.rows.iter().enumerate() {
        let past = noise(2 * before * case.kv_heads * dim, seed + r as u64);
        for (i, v) in past.chunks_exact(2).enumerate() {
            let (position, head, d) = (i / dim / case.kv_heads, i / dim % case.kv_heads, i % dim);
            let (key, value) = setup.place(case, r, position, head, d);
            setup.keys.values_mut()[key] = f16::from_f32(v[0]);
            setup.values.values_mut()[value] = f16::from_f32(v[1]);
        }
    }
    let mut qkv = noise(setup.tokens * columns, seed + 99);
    let (step, cache) = (setup.step(), setup.cache(case));
    let tokens = setup.tokens;
    run(&[place(&plain_heads(case), (&cache, dim), &step, tokens, at_mut(&mut qkv)).unwrap()]);

    let mut order: Vec<u32> = (0..case.rows.len() as u32).collect();
    order.sort_by_key(|r| case.rows[*r as usize].1);
    let lengths: Vec<u32> = order.iter().map(|r| case.rows[*r as usize].1 as u32).collect();
    let mut out = vec![f32::NAN; tokens * case.heads * dim];
    let scale = (dim as f32).sqrt().recip();
    let attend = Attend {
        qkv: at(&qkv),
        columns,
        heads: case.heads,
        head_dim: dim,
        cache: &cache,
        step: &step,
        scale,
        window: case.window,
        out: at_mut(&mut out),
        lengths: &lengths,
        order: at(&order),
    };
    let mut partial = vec![f32::NAN; attend.partial_len(tokens)];
    run(&attend.launches(at_mut(&mut partial)).unwrap());
    let want = defined(case, &setup, &qkv, scale);
    (out, want)
}

fn defined(case: &Case, setup: &Setup, qkv: &[f32], scale: f32) -> Vec<f32> {
    let (dim, columns) = (case.dim, (case.heads + 2 * case.kv_heads) * case.dim);
    let mut want = Vec::new();
    for (r, (before, now)) in case.rows.iter().enumerate() {
        let first = setup.info[3 * r] as usize;
        for i in 0..*now {
            for head in 0..case.heads {
                let query = &qkv[(first + i) * columns + head * dim..][..dim];
                let kv = head / (case.heads / case.kv_heads);
                let last = before + i;
                let from = case.window.map_or(0, |w| (last + 1).saturating_sub(w));
                let number = |halves: &Halves, at: usize| halves.values()[at].to_f32();
                let scores: Vec<f32> = (from..=last)
                    .map(|p| {
                        let product =
                            |d: usize| query[d] * number(&setup.keys, setup.place(case, r, p, kv, d).0);
                        (0..dim).map(product).sum::<f32>() * scale
                    })
                    .collect();
                let top = scores.iter().copied().fold(f32::MIN, f32::max);
                let weights: Vec<f32> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f32 = weights.iter().sum();
                want.extend((0..dim).map(|d| {
                    let value = |p: usize| number(&setup.values, setup.place(case, r, p, kv, d).1);
                    weights.iter().enumerate().map(|(p, w)| w * value(from + p)).sum::<f32>() / total
                }));
            }
        }
    }
    want
}

fn check(case: &Case) {
    let (got, want) = both(case, 5);
    // Queries and weights are rounded to halves.
    assert_close(&got, &want, 4e-3);
}

#[test]
fn decoding_rows_attend_to_all_before_them() {
    for (heads, kv_heads, dim) in [(7, 1, 128), (4, 2, 64), (2, 2, 32), (8, 1, 96), (4, 4, 256)] {
        check(&Case { heads, kv_heads, dim, window: None, rows: vec![(0, 1), (31, 1), (32, 1), (70, 1)] });
    }
}

#[test]
fn a_long_past_is_shared_out_and_joined() {
    check(&Case { heads: 6, kv_heads: 2, dim: 64, window: None, rows: vec![(700, 1), (3, 1), (130, 2)] });
    check(&Case { heads: 2, kv_heads: 1, dim: 128, window: None, rows: vec![(1500, 1)] });
}

#[test]
fn prompts_attend_causally_beside_decoding_rows() {
    check(&Case { heads: 6, kv_heads: 2, dim: 64, window: None, rows: vec![(40, 1), (0, 75), (33, 30)] });
    check(&Case { heads: 1, kv_heads: 1, dim: 128, window: None, rows: vec![(0, 33)] });
    check(&Case { heads: 14, kv_heads: 2, dim: 32, window: None, rows: vec![(5, 3), (64, 40)] });
}

#[test]
fn a_window_hides_what_lies_before_it() {
    for window in [1, 20, 64] {
        let rows = vec![(90, 1), (0, 80), (200, 1)];
        check(&Case { heads: 4, kv_heads: 2, dim: 64, window: Some(window), rows });
    }
}

#[test]
fn heads_are_normalised_and_turned_on_their_way() {
    for (interleaved, pairs) in [(false, 32), (true, 32), (false, 12)] {
        let case = Case { heads: 3, kv_heads: 1, dim: 64, window: None, rows: vec![(30, 4), (0, 1)] };
        let mut setup = Setup::new(&case);
        let columns = 5 * 64;
        let before = noise(setup.tokens * columns, 3);
        let mut qkv = before.clone();
        let norms = [noise(64, 1), noise(64, 2)];
        let turns = noise(64 * pairs, 4);
        let (cosines, sines) = (&turns[..], noise(64 * pairs, 5));
        let heads = HeadsAt {
            query_norm: at(&norms[0]),
            key_norm: at(&norms[1]),
            eps: 1e-5,
            cosines: at(cosines),
            sines: at(&sines),
            pairs: pairs as u32,
            interleaved: interleaved.into(),
            ..plain_heads(&case)
        };
        let (step, cache, tokens) = (setup.step(), setup.cache(&case), setup.tokens);
        run(&[place(&heads, (&cache, 64), &step, tokens, at_mut(&mut qkv)).unwrap()]);
        for token in 0..tokens {
            let (r, position) = if token < 4 { (0, 30 + token) } else { (1, 0) };
            let turn = |head: usize| {
                let x = &before[token * columns + head * 64..][..64];
                let norm = &norms[usize::from(head >= 3)];
                let by = (x.iter().map(|v| v * v).sum::<f32>() / 64.0 + 1e-5).sqrt().recip();
                let mut y: Vec<f32> = x.iter().zip(norm).map(|(v, w)| v * by * w).collect();
                for p in 0..pairs {
                    let (i, j) = if interleaved { (2 * p, 2 * p + 1) } else { (p, p + pairs) };
                    let (c, s) = (cosines[position * pairs + p], sines[position * pairs + p]);
                    (y[i], y[j]) = (y[i] * c - y[j] * s, y[i] * s + y[j] * c);
                }
                y
            };
            for head in 0..3 {
                assert_close(&qkv[token * columns + head * 64..][..64], &turn(head), 1e-5);
            }
            let cached = |d: usize| setup.place(&case, r, position, 0, d);
            let keys: Vec<f32> = (0..64).map(|d| setup.keys.values()[cached(d).0].to_f32()).collect();
            assert_close(&keys, &turn(3), 2f32.powi(-10));
            let values: Vec<f32> = (0..64).map(|d| setup.values.values()[cached(d).1].to_f32()).collect();
            assert_close(&values, &before[token * columns + 4 * 64..][..64], 2f32.powi(-11));
        }
    }
}

#[test]
fn heads_of_odd_sizes_have_no_kernels() {
    assert!(serves(64) && !serves(80));
    assert!(kernels(80).is_err());
}
