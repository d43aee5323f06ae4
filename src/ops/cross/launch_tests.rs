//! The kernels on the CPU against attention by its definition.

use half::f16;

use super::*;
use crate::ops::gpu::host::{at, at_mut, run};
use crate::ops::testing::{assert_close, noise};

const HEADS: usize = 3;
const WIDTH: usize = HEADS * DIM;
const SCALE: f32 = 0.3;

/// One layer of a slot: keys beside values as they came, and their cells.
struct Slot {
    kv: Vec<f32>,
    keys: Vec<u128>,
    values: Vec<u128>,
}

impl Slot {
    fn new(length: usize, seed: u64) -> Slot {
        let kv = noise(length * 2 * WIDTH, seed);
        // What is not written is no number.
        let room = || vec![u128::MAX; cells(HEADS, length) / 8];
        let (mut keys, mut values) = (room(), room());
        run(&[place(at(&kv), length, HEADS, (at_mut(&mut keys), at_mut(&mut values)))]);
        Slot { kv, keys, values }
    }

    fn look(&self, first: usize, len: usize) -> Look {
        Look { keys: at(&self.keys), values: at(&self.values), first, len }
    }

    fn half(&self, position: usize, column: usize) -> f32 {
        f16::from_f32(self.kv[position * 2 * WIDTH + column]).to_f32()
    }

    /// Weights of a row's head over the first `seen` positions.
    fn weights(&self, q: &[f32], head: usize, seen: usize) -> Vec<f32> {
        let score = |t: usize| {
            let product = |d: usize| q[head * DIM + d] * self.half(t, head * DIM + d);
            (0..DIM).map(product).sum::<f32>() * SCALE
        };
        let scores: Vec<f32> = (0..seen).map(score).collect();
        let top = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f32> = scores.iter().map(|s| (s - top).exp()).collect();
        let total: f32 = weights.iter().sum();
        weights.iter().map(|w| w / total).collect()
    }

    fn attended(&self, q: &[f32], length: usize) -> Vec<f32> {
        let of_head = |head: usize| {
            let weights = self.weights(q, head, length);
            let value = move |d: usize| {
                let at = |t: usize| self.half(t, WIDTH + head * DIM + d);
                weights.iter().enumerate().map(|(t, w)| w * at(t)).sum::<f32>()
            };
            (0..DIM).map(value).collect::<Vec<_>>()
        };
        (0..HEADS).flat_map(of_head).collect()
    }
}

/// Memory that begins where a GPU's would.
fn aligned(values: &[f32]) -> Vec<u128> {
    bytemuck::pod_collect_to_vec(values)
}

/// Spans of so many rows that look at two slots in turn.
fn check(length: usize, lens: &[usize]) {
    let slots = [Slot::new(length, 1), Slot::new(length, 2)];
    let rows: usize = lens.iter().sum();
    let (q, mut looks, mut first) = (noise(rows * WIDTH, 3), Vec::new(), 0);
    for (i, len) in lens.iter().enumerate() {
        looks.push(slots[i % 2].look(first, *len));
        first += len;
    }
    let memory = aligned(&q);
    let attend = Attend { q: at(&memory), heads: HEADS, length, scale: SCALE, looks: &looks };
    let mut out = vec![f32::NAN; rows * WIDTH];
    let mut partial = vec![f32::NAN; attend.partial_len()];
    run(&attend.launches(at_mut(&mut out), at_mut(&mut partial)));
    for (i, look) in looks.iter().enumerate() {
        for row in look.first..look.first + look.len {
            let want = slots[i % 2].attended(&q[row * WIDTH..][..WIDTH], length);
            // Queries and weights are rounded to halves.
            assert_close(&out[row * WIDTH..][..WIDTH], &want, 2e-3);
        }
    }
}

#[test]
fn rows_attend_to_their_own_slot() {
    check(1500, &[5, 1]);
    check(100, &[17, 3, 1]);
    check(32, &[1]);
    check(7, &[2, 16]);
}

#[test]
fn many_rows_fill_a_card_without_parts() {
    let lens = [33; 44];
    let looks: Vec<Look> =
        (0..44).map(|i| Look { keys: 0, values: 0, first: 33 * i, len: lens[i] }).collect();
    let attend = Attend { q: 0, heads: HEADS, length: 1500, scale: 1.0, looks: &looks };
    assert_eq!(attend.partial_len(), 0);
    // 132 groups: more than a launch takes.
    assert_eq!(attend.launches(0, 0).len(), 2);
}

#[test]
fn more_rows_than_a_launch_takes() {
    let (length, rows) = (7, GROUPS + 2);
    let (slots, q) = ([Slot::new(length, 1), Slot::new(length, 2)], noise((GROUPS + 2) * WIDTH, 3));
    let looks: Vec<Look> = (0..rows).map(|i| slots[i % 2].look(i, 1)).collect();
    let memory = aligned(&q);
    let attend = Attend { q: at(&memory), heads: HEADS, length, scale: SCALE, looks: &looks };
    let mut out = vec![f32::NAN; rows * length];
    run(&attend.weights(&[1], length, at_mut(&mut out)));
    for (row, got) in out.chunks_exact(length).enumerate() {
        assert_close(got, &slots[row % 2].weights(&q[row * WIDTH..][..WIDTH], 1, length), 2e-3);
    }
}

#[test]
fn weights_of_wanted_heads_are_told_for_each_position() {
    for (length, seen, len, first) in [(1500, 1499, 3, 0), (100, 33, 20, 2), (40, 40, 1, 1)] {
        let slot = Slot::new(length, 5);
        let q = noise((first + len) * WIDTH, 6);
        let (memory, wanted) = (aligned(&q), [2, 0]);
        let looks = [slot.look(first, len)];
        let attend = Attend { q: at(&memory), heads: HEADS, length, scale: SCALE, looks: &looks };
        let mut out = vec![f32::NAN; wanted.len() * len * seen];
        run(&attend.weights(&wanted, seen, at_mut(&mut out)));
        for (i, head) in wanted.into_iter().enumerate() {
            for row in 0..len {
                let want = slot.weights(&q[(first + row) * WIDTH..][..WIDTH], head, seen);
                let got = &out[(i * len + row) * seen..][..seen];
                let largest = want.iter().fold(0f32, |m, w| m.max(*w));
                // Of the largest: queries are rounded to halves.
                let near: Vec<f32> = got.iter().map(|w| w / largest).collect();
                assert_close(&near, &want.iter().map(|w| w / largest).collect::<Vec<_>>(), 3e-3);
                assert!((got.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
    }
}
