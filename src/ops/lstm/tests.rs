//! The layer against its definition in f64, on the CPU's kernels and as the composition for other devices.

use candle_core::Device;
use proptest::prelude::*;

use super::*;
use crate::ops::simd::every_set;
use crate::ops::testing::{assert_close, composed, noise};

fn tensor(values: &[f32], width: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / width, width), &Device::Cpu).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Weights as PyTorch draws them, within `1 / sqrt(hidden)`.
struct Weights {
    inputs: usize,
    hidden: usize,
    ih: Vec<f32>,
    hh: Vec<f32>,
    b: [Vec<f32>; 2],
}

impl Weights {
    fn new(inputs: usize, hidden: usize) -> Weights {
        let scaled = |len: usize, seed| -> Vec<f32> {
            noise(len, seed).iter().map(|v| 2.0 * v / (hidden as f32).sqrt()).collect()
        };
        let gates = 4 * hidden;
        let (ih, hh) = (scaled(gates * inputs, 1), scaled(gates * hidden, 2));
        Weights { inputs, hidden, ih, hh, b: [scaled(gates, 3), scaled(gates, 4)] }
    }

    fn layer(&self) -> Lstm {
        let bias = |i: usize| Tensor::from_slice(&self.b[i], 4 * self.hidden, &Device::Cpu).unwrap();
        let (ih, hh) = (tensor(&self.ih, self.inputs), tensor(&self.hh, self.hidden));
        Lstm::new(&ih, &hh, &bias(0), &bias(1)).unwrap()
    }

    /// One row, in f64: its outputs, and the state that it leaves in `h` and `c`.
    fn naive(&self, x: &[f32], h: &mut [f32], c: &mut [f32]) -> Vec<f32> {
        let n = self.hidden;
        let dot = |a: &[f32], b: &[f64]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum::<f64>();
        let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (mut before, mut memory) = (wide(h), wide(c));
        let mut out = Vec::new();
        for x in x.chunks(self.inputs).map(wide) {
            let gate = |i: usize| {
                let bias = f64::from(self.b[0][i]) + f64::from(self.b[1][i]);
                bias + dot(&self.ih[i * self.inputs..][..self.inputs], &x)
                    + dot(&self.hh[i * n..][..n], &before)
            };
            let gates: Vec<f64> = (0..4 * n).map(gate).collect();
            for i in 0..n {
                let new = sigmoid(gates[i]) * gates[2 * n + i].tanh();
                memory[i] = sigmoid(gates[n + i]) * memory[i] + new;
            }
            before = (0..n).map(|i| sigmoid(gates[3 * n + i]) * memory[i].tanh()).collect();
            out.extend(before.iter().map(|v| *v as f32));
        }
        h.iter_mut().zip(before).for_each(|(h, v)| *h = v as f32);
        c.iter_mut().zip(memory).for_each(|(c, v)| *c = v as f32);
        out
    }
}

fn starts(lens: &[usize]) -> Vec<usize> {
    std::iter::once(0)
        .chain(lens.iter().scan(0, |sum, len| {
            *sum += len;
            Some(*sum)
        }))
        .collect()
}

fn check(lens: &[usize], inputs: usize, hidden: usize) {
    let weights = Weights::new(inputs, hidden);
    let starts = starts(lens);
    let x = noise(starts[lens.len()] * inputs, 5);
    let (mut h, mut c) = (noise(lens.len() * hidden, 6), noise(lens.len() * hidden, 7));
    let state = LstmState { h: tensor(&h, hidden), c: tensor(&c, hidden) };
    let mut want = Vec::new();
    for (i, w) in starts.windows(2).enumerate() {
        let (h, c) = (&mut h[i * hidden..][..hidden], &mut c[i * hidden..][..hidden]);
        want.extend(weights.naive(&x[w[0] * inputs..w[1] * inputs], h, c));
    }
    let x = Tensor::from_slice(&x, (starts[lens.len()], inputs), &Device::Cpu).unwrap();
    let run = || lstm(&x, &starts, &weights.layer(), &state).unwrap();
    for (out, state) in [run(), composed(run)] {
        assert_eq!(out.dims(), &[starts[lens.len()], hidden]);
        assert_close(&flat(&out), &want, 3e-6);
        assert_close(&flat(&state.h), &h, 3e-6);
        assert_close(&flat(&state.c), &c, 1e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rows_of_any_length_equal_the_definition(
        lens in proptest::collection::vec(0usize..12, 1..15),
        inputs in 1usize..20,
        hidden in 1usize..5,
        odd in any::<bool>(),
    ) {
        check(&lens, inputs, if odd { hidden } else { hidden * 16 });
    }
}

#[test]
fn every_set_computes_the_same_cells() {
    fn check<S: Simd>() {
        let (inputs, hidden, lens) = (7, 32, [5, 5, 4, 4, 4, 2, 1]);
        let (weights, starts) = (Weights::new(inputs, hidden), starts(&lens));
        let x = noise(25 * inputs, 5);
        let (h, mut c) = (noise(lens.len() * hidden, 6), noise(lens.len() * hidden, 7));
        let (mut last, mut memory, mut want) = (h.clone(), c.clone(), Vec::new());
        for (i, w) in starts.windows(2).enumerate() {
            let row = i * hidden..(i + 1) * hidden;
            let x = &x[w[0] * inputs..w[1] * inputs];
            want.extend(weights.naive(x, &mut last[row.clone()], &mut memory[row]));
        }
        let layer = weights.layer();
        let gates = flat(&linear(&tensor(&x, inputs), &layer.input).unwrap());
        let lines = pack(&weights.hh, hidden);
        let mut out = vec![0f32; 25 * hidden];
        let row = |(index, len)| Row { index, start: starts[index], len };
        let rows: Vec<Row> = lens.into_iter().enumerate().map(row).collect();
        let run = Run {
            rows: &rows,
            hidden,
            weights: lines.as_ptr().cast(),
            gates: gates.as_ptr(),
            h: h.as_ptr(),
            c: c.as_mut_ptr(),
            out: out.as_mut_ptr(),
        };
        // SAFETY: the buffers hold these rows and steps; `every_set` calls with sets of this processor.
        unsafe { run_generic::<S>(&run) };
        assert_close(&out, &want, 3e-6);
        assert_close(&c, &memory, 1e-5);
    }
    every_set!(check);
}

#[test]
fn no_steps_leave_everything_as_it_is() {
    check(&[0], 3, 16);
    check(&[0, 0], 3, 5);
}

#[test]
fn a_row_does_not_depend_on_its_neighbours_or_on_where_it_is_cut() {
    let (inputs, hidden, lens) = (24, 32, [9, 1, 7, 7, 3, 12, 5, 8]);
    let layer = Weights::new(inputs, hidden).layer();
    let starts = starts(&lens);
    let x = tensor(&noise(starts[lens.len()] * inputs, 5), inputs);
    let zeros = |rows| tensor(&vec![0.0; rows * hidden], hidden);
    let fresh = |rows| LstmState { h: zeros(rows), c: zeros(rows) };
    let (all, _) = lstm(&x, &starts, &layer, &fresh(lens.len())).unwrap();
    for (start, len) in starts.iter().zip(lens) {
        let mut state = fresh(1);
        let mut got = Vec::new();
        for (from, to) in [(0, len / 3), (len / 3, len)] {
            let piece = x.narrow(0, start + from, to - from).unwrap();
            let (out, after) = lstm(&piece, &[0, to - from], &layer, &state).unwrap();
            got.extend(flat(&out));
            state = after;
        }
        assert_eq!(got, flat(&all.narrow(0, *start, len).unwrap()));
    }
}

#[test]
fn sigmoid_and_tanh_hold_on_every_set() {
    fn check<S: Simd>() {
        for i in -1000..1000 {
            let x = [i as f32 * 0.1; 16];
            let (mut s, mut t) = ([0f32; 16], [0f32; 16]);
            // SAFETY: sixteen values; `every_set` calls with sets of this processor.
            unsafe {
                S::store(s.as_mut_ptr(), sigmoid::<S>(S::load(x.as_ptr())));
                S::store(t.as_mut_ptr(), tanh::<S>(S::load(x.as_ptr())));
            }
            let wide = f64::from(x[0]);
            assert!((f64::from(s[0]) - 1.0 / (1.0 + (-wide).exp())).abs() < 2e-7, "sigmoid({wide})");
            assert!((f64::from(t[0]) - wide.tanh()).abs() < 3e-7, "tanh({wide})");
        }
    }
    every_set!(check);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let layer = Weights::new(3, 16).layer();
    let x = tensor(&noise(12, 1), 3);
    let state = |rows: usize| LstmState {
        h: tensor(&vec![0.0; rows * 16], 16),
        c: tensor(&vec![0.0; rows * 16], 16),
    };
    for bad in [&[0, 3][..], &[1, 4], &[0, 3, 2, 4], &[]] {
        assert!(lstm(&x, bad, &layer, &state(1)).is_err());
    }
    assert!(lstm(&x, &[0, 4], &layer, &state(2)).is_err());
    assert!(lstm(&x, &[0, 4], &layer, &state(1)).is_ok());
    let w = tensor(&noise(64 * 16, 1), 16);
    let b = Tensor::from_slice(&noise(64, 1), 64, &Device::Cpu).unwrap();
    assert!(Lstm::new(&w.narrow(0, 0, 32).unwrap(), &w, &b, &b).is_err());
    assert!(Lstm::new(&w, &w.narrow(0, 0, 48).unwrap(), &b, &b).is_err());
}
