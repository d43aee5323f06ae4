//! The kernel, run on the CPU, beside the function that defines it.

use proptest::prelude::*;

use super::*;
use crate::model::llm::draw::{Drawing, Tokens};
use crate::model::llm::output::{forbid, sample};
use crate::ops::gpu::host::{at, at_mut, run};
use crate::ops::testing::noise;
use crate::types::llm::Sampling;

/// Chooses by the kernel, with so many threads a row.
pub(super) fn choose(logits: &mut [f32], width: usize, draws: &[(u32, Draw)], threads: u32) -> Vec<u32> {
    let listed = device::list(draws, logits.len() / width, width).unwrap();
    let mut out = vec![u32::MAX; draws.len()];
    let mut launch = device::launch(at_mut(logits), width, at(&listed), draws.len(), at_mut(&mut out));
    launch.threads = threads;
    run(&[launch]);
    out
}

/// A choice that both sides make.
#[derive(Debug, Clone)]
struct Case {
    sampling: Sampling,
    seed: u64,
    tokens: Vec<u32>,
    prompt_len: usize,
    ends: Vec<u32>,
    least: usize,
}

impl Case {
    fn new(sampling: Sampling, seed: u64) -> Case {
        Case { sampling, seed, tokens: vec![3, 0, 7, 3, 9999, 3], prompt_len: 2, ends: Vec::new(), least: 0 }
    }

    fn draw(&self, width: usize) -> Draw {
        let drawing = Drawing {
            sampling: self.sampling.clone(),
            seed: self.seed,
            prompt_len: self.prompt_len,
            tokens: Tokens::new(&self.sampling, &self.tokens, &[]),
            ends: self.ends.clone().into(),
            least: self.least,
        };
        assert!(drawing.suits_devices());
        drawing.at(0, width)
    }

    fn expected(&self, logits: &[f32]) -> u32 {
        let mut logits = logits.to_vec();
        if self.tokens.len() < self.least {
            forbid(&mut logits, &self.ends);
        }
        sample(&mut logits, &self.sampling, self.seed, &self.tokens, self.prompt_len)
    }
}

/// Holds every case against these logits, all in one launch.
#[track_caller]
fn hold(logits: &[f32], cases: &[Case], threads: u32, what: &str) {
    let width = logits.len();
    let draws: Vec<(u32, Draw)> = (0..).zip(cases).map(|(row, case)| (row, case.draw(width))).collect();
    let got = choose(&mut logits.repeat(cases.len()), width, &draws, threads);
    for (case, got) in cases.iter().zip(got) {
        assert_eq!(got, case.expected(logits), "{what}, {width} wide: {case:?}");
    }
}

/// Logits that lie far enough apart, where they are not alike, that rounding does not decide.
fn stepped(width: usize, range: f32, seed: u64) -> Vec<f32> {
    noise(width, seed).into_iter().map(|v| (v * range * 64.0).round() / 64.0).collect()
}

/// Rows of every kind, by name.
fn rows(width: usize) -> Vec<(&'static str, Vec<f32>)> {
    let few = |value: f32, every: usize| {
        let mut row = stepped(width, 5.0, 3);
        row.iter_mut().step_by(every).for_each(|v| *v = value);
        row
    };
    let none = f32::NEG_INFINITY;
    vec![
        ("apart", stepped(width, 12.0, 1)),
        ("close", stepped(width, 0.5, 2)),
        ("alike", vec![1.5; width]),
        ("two values", (0..width).map(|i| (i % 2) as f32).collect()),
        ("NaN among them", few(f32::NAN, 3)),
        ("-inf among them", few(none, 2)),
        ("one of +inf", few(f32::INFINITY, width)),
        ("NaN", vec![f32::NAN; width]),
        ("-inf", vec![none; width]),
        ("the lowest", vec![f32::MIN; width]),
        ("large", few(3e38, 7)),
    ]
}

fn filters() -> Vec<Sampling> {
    let all = Sampling::default();
    let mut list = vec![all.clone()];
    for temperature in [0.0, -1.0, 1e-40, 1e-6, 0.3, 2.0, 1e6, f32::INFINITY] {
        list.push(Sampling { temperature, ..all.clone() });
    }
    for top_k in [0, 1, 2, 20, 1000, u32::MAX] {
        list.push(Sampling { top_k: Some(top_k), ..all.clone() });
    }
    for top_p in [0.0, 1e-6, 0.5, 0.9, 0.999_999, 2.0, f32::NAN] {
        list.push(Sampling { top_p, ..all.clone() });
    }
    for min_p in [1e-3, 0.1, 1.0] {
        list.push(Sampling { min_p, ..all.clone() });
    }
    let some = Sampling { temperature: 0.7, top_k: Some(20), top_p: 0.8, ..all.clone() };
    list.push(Sampling { min_p: 0.05, ..some.clone() });
    list.push(Sampling { top_k: Some(700), temperature: 5.0, ..some });
    list
}

#[test]
fn filters_leave_what_they_leave_on_a_cpu() {
    for width in [1, 31, 1024, 5000] {
        for (name, row) in rows(width) {
            let cases: Vec<Case> = (1..).zip(filters()).map(|(seed, s)| Case::new(s, seed)).collect();
            hold(&row, &cases, 64, name);
        }
    }
}

#[test]
fn edits_come_before_the_choice() {
    let base = |temperature| Sampling { temperature, ..Sampling::default() };
    let mut list = Vec::new();
    for temperature in [0.0, 1.0] {
        let base = base(temperature);
        for (repetition_penalty, presence_penalty, frequency_penalty) in [
            (1.3, 0.0, 0.0),
            (1e30, 0.0, 0.0),
            (1e-30, 0.0, 0.0),
            (1.0, 0.5, 0.0),
            (1.0, 0.0, -2.0),
            (1.1, 1e38, 3e38),
        ] {
            list.push(Sampling {
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                logit_bias: vec![(7, 2.0), (0, -100.0), (40_000, 5.0)],
                ..base.clone()
            });
        }
        list.push(Sampling { logit_bias: vec![(3, 1e38), (2, 0.25), (3, 2e38)], ..base.clone() });
    }
    for width in [1, 31, 5000] {
        for (name, row) in rows(width) {
            let mut cases: Vec<Case> = (1..).zip(&list).map(|(seed, s)| Case::new(s.clone(), seed)).collect();
            for (least, ends) in [(7, vec![3, 0, 3]), (6, vec![3]), (7, (0..width as u32).collect())] {
                for temperature in [0.0, 1.0] {
                    let s = Sampling { logit_bias: vec![(3, 9.0)], ..base(temperature) };
                    cases.push(Case { ends: ends.clone(), least, ..Case::new(s, 9) });
                }
            }
            hold(&row, &cases, 64, name);
        }
    }
}

#[test]
fn only_ends_that_something_else_can_follow_are_forbidden() {
    let none = f32::NEG_INFINITY;
    let s = Sampling { temperature: 0.0, ..Sampling::default() };
    let case = Case { ends: vec![1], least: 99, ..Case::new(s, 0) };
    for (row, token) in [([none, 4.0, none], 1), ([none, 4.0, f32::MIN], 2), ([none, 4.0, f32::NAN], 0)] {
        assert_eq!(case.expected(&row), token);
        hold(&row, std::slice::from_ref(&case), 64, "an end");
    }
}

#[test]
fn a_large_vocabulary_with_all_threads() {
    let row = stepped(151_936, 11.0, 5);
    let s = |top_k, top_p| Sampling { top_k, top_p, temperature: 0.8, ..Sampling::default() };
    let list = [s(None, 1.0), s(Some(20), 0.95), s(None, 0.9), s(Some(5000), 1.0)];
    let cases: Vec<Case> = (1..).zip(list).map(|(seed, s)| Case::new(s, seed)).collect();
    hold(&row, &cases, 1024, "a vocabulary");
    // As many as can be that weigh 1: sums stay within their bits.
    let cases = [Case::new(s(None, 0.999), 77), Case::new(s(None, 1.0), 78)];
    hold(&vec![0.0; device::WIDEST], &cases, 1024, "alike");
}

#[test]
fn tokens_come_as_often_as_their_probability_says() {
    // Numbers at even distances: each token's share is off by one of them at most.
    const DRAWS: u64 = 500;
    let logits = [0.5f32, -1.0, 2.0, 1.25, f32::NAN, 0.5];
    let shares = |s: &Sampling| {
        let case = Case::new(s.clone(), 0);
        let draw = |i| Draw { number: (u64::MAX / DRAWS) * i + 1, ..case.draw(logits.len()) };
        let draws: Vec<(u32, Draw)> = (0..DRAWS).map(|i| (i as u32, draw(i))).collect();
        let mut counts = [0.0; 6];
        for token in choose(&mut logits.repeat(DRAWS as usize), logits.len(), &draws, 64) {
            counts[token as usize] += 1.0 / DRAWS as f64;
        }
        counts
    };
    let softmax = |temperature: f64, kept: &[usize]| {
        let mut p = [0.0; 6];
        kept.iter().for_each(|&i| p[i] = (f64::from(logits[i]) / temperature).exp());
        let total: f64 = p.iter().sum();
        p.map(|p| p / total)
    };
    let all = Sampling::default();
    for (s, want) in [
        (all.clone(), softmax(1.0, &[0, 1, 2, 3, 5])),
        (Sampling { temperature: 0.5, ..all.clone() }, softmax(0.5, &[0, 1, 2, 3, 5])),
        (Sampling { top_k: Some(3), ..all.clone() }, softmax(1.0, &[0, 2, 3])),
        // 0.47 and 0.22 of it reach 0.6.
        (Sampling { top_p: 0.6, ..all.clone() }, softmax(1.0, &[2, 3])),
        (Sampling { min_p: 0.2, ..all }, softmax(1.0, &[0, 2, 3, 5])),
    ] {
        for (got, want) in shares(&s).into_iter().zip(want) {
            assert!((got - want).abs() <= 1.5 / DRAWS as f64, "{got} instead of {want} with {s:?}");
        }
    }
}

#[test]
fn rows_between_are_left_as_they_are() {
    let logits = stepped(3 * 40, 3.0, 8);
    let mut changed = logits.clone();
    let draw = Case::new(Sampling::default(), 4).draw(40);
    let got = choose(&mut changed, 40, &[(0, draw.clone()), (2, draw)], 64);
    assert_eq!(changed[40..80], logits[40..80]);
    let case = Case::new(Sampling::default(), 4);
    assert_eq!(got, [case.expected(&logits[..40]), case.expected(&logits[80..])]);
}

#[test]
fn what_the_kernel_takes_for_granted_is_checked() {
    let draw = |tokens: &[u32]| Draw {
        edits: tokens.iter().map(|&token| Edit { token, ..Edit::default() }).collect(),
        ..Case::new(Sampling::default(), 0).draw(10)
    };
    let refused = |draws: &[(u32, Draw)]| device::list(draws, 3, 10).is_err();
    assert!(!refused(&[(0, draw(&[])), (2, draw(&[0, 9]))]));
    assert!(refused(&[(3, draw(&[]))]));
    assert!(refused(&[(1, draw(&[])), (1, draw(&[]))]));
    assert!(refused(&[(1, draw(&[2, 2]))]));
    assert!(refused(&[(1, draw(&[10]))]));
    assert!(refused(&[(1, Draw { floor: 0.0, ..draw(&[]) })]));
    let cpu = Tensor::zeros((3, 10), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    assert!(!samples(&cpu) && sample_rows(&cpu, &[]).is_err(), "a CPU has no kernel");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_for_the_token_is_the_same(
        width in 1usize..700,
        range in 0.1f32..20.0,
        temperature in prop_oneof![Just(0.0), 0.05f32..3.0],
        top_k in proptest::option::of(1u32..800),
        top_p in prop_oneof![Just(1.0), 0.01f32..1.0],
        min_p in prop_oneof![Just(0.0), 0.0f32..1.0],
        penalties in (prop_oneof![Just(1.0f32), 0.5f32..2.0], prop_oneof![Just(0.0f32), -2.0f32..2.0]),
        tokens in proptest::collection::vec(0u32..700, 0..40),
        seeds in (any::<u64>(), any::<u64>()),
    ) {
        let sampling = Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty: penalties.0,
            presence_penalty: penalties.1,
            frequency_penalty: -penalties.1 / 2.0,
            logit_bias: vec![(tokens.len() as u32, 1.5)],
            ..Sampling::default()
        };
        let prompt_len = tokens.len() / 2;
        let least = seeds.0 as usize % 60;
        let case = Case { sampling, seed: seeds.0, tokens, prompt_len, ends: vec![1, 5], least };
        let row = stepped(width, range, seeds.1);
        let case = [case];
        hold(&row, &case, 64, "any");
    }
}
