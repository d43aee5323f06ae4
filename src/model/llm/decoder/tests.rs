//! Against llama.cpp on the real weights, transformers on small ones of every architecture, and against itself in
//! other batches.

use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use serde::Deserialize;

use super::greedy_tests::requantise;
use crate::model::llm::{Batch, Choice, Limits, Llm, Row};
use crate::model::weights::gguf::Gguf;
use crate::model::weights::safetensors::SafetensorsFolder;
use crate::model::{Model, Size};
use crate::ops::KvType;
use crate::ops::argmax;
use crate::ops::testing::composed;
use crate::types::model::Quantise;

#[derive(Deserialize)]
struct Case {
    prompt: Vec<u32>,
    logits: Vec<(usize, f32)>,
    /// Of the same weights in f32.
    exact: Vec<(usize, f32)>,
    greedy: Vec<u32>,
    /// How far llama.cpp's best logit was above its second at each step.
    margins: Vec<f32>,
}

fn smollm2() -> Option<Box<dyn Model<Llm>>> {
    let path = crate::testing::model("smollm2-135m-instruct")?;
    let gguf = Gguf::open(crate::testing::only_file(&path, "gguf")).unwrap();
    let limits = Limits { context: 2048, blocks: 96, cache: KvType::F16, quantise: Quantise::None };
    Some(super::load(&gguf, &Device::Cpu, limits).unwrap().0)
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../../../../tests/golden/llm/smollm2-135m-instruct.json")).unwrap()
}

/// One sequence of a batch; its blocks begin at `block`.
fn row(start: usize, len: usize, block: u32) -> Row {
    Row { len, start, table: (block..block + 8).collect(), logits: 1, choice: Choice::Logits }
}

fn step(model: &mut dyn Model<Llm>, tokens: &[u32], rows: Vec<Row>) -> Vec<Vec<f32>> {
    let logits = model.step(&Batch { tokens: tokens.to_vec(), rows }).unwrap();
    logits.data.chunks_exact(logits.vocabulary).map(<[f32]>::to_vec).collect()
}

#[test]
fn logits_and_greedy_tokens_equal_those_of_llama_cpp() {
    check_golden(&cases());
}

/// What a GPU computes, here on the CPU, where it is slow: one case.
#[test]
fn compositions_equal_llama_cpp_too() {
    composed(|| check_golden(&cases()[..1]));
}

fn check_golden(cases: &[Case]) {
    let Some(mut model) = smollm2() else { return };
    for case in cases {
        let mut logits = step(&mut *model, &case.prompt, vec![row(0, case.prompt.len(), 0)]).remove(0);
        let off = |want: &[(usize, f32)]| {
            let squares = want.iter().map(|(i, w)| (logits[*i] - w).powi(2)).sum::<f32>();
            (squares / want.len() as f32).sqrt()
        };
        // Both engines round activations to 8 bits before each product, on other grids; llama.cpp's logits are
        // 0.1 to 0.3 from the exact ones.
        let (exact, peer) = (off(&case.exact), off(&case.logits));
        assert!(exact < 0.35 && peer < 0.5, "off by {exact} from f32 and {peer} from llama.cpp");
        for (i, (&want, margin)) in case.greedy.iter().zip(&case.margins).enumerate() {
            let got = argmax(&logits);
            // A tie within the rounding may fall either way; from there on the texts differ.
            if got != want {
                assert!(*margin < 0.35, "token {i} is {got}, not {want}, which led by {margin}");
                break;
            }
            logits = step(&mut *model, &[want], vec![row(case.prompt.len() + i, 1, 0)]).remove(0);
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_batch_or_its_chunks() {
    // To the last bit: what one sequence computed stands for another's, and a seed gives the same text in any batch.
    check_batches(0.0);
    composed(|| check_batches(1e-2));
}

fn check_batches(tolerance: f32) {
    let Some(mut model) = smollm2() else { return };
    let (a, b) = (&cases()[1].prompt, &cases()[3].prompt);
    let alone = step(&mut *model, a, vec![row(0, a.len(), 0)]).remove(0);
    let both = [a.as_slice(), b].concat();
    let together = step(&mut *model, &both, vec![row(0, a.len(), 0), row(0, b.len(), 8)]);
    let close = |x: &[f32], y: &[f32]| {
        let worst = x.iter().zip(y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance, "a logit differs by {worst}");
    };
    close(&alone, &together[0]);
    // In two chunks, the second beside a decoding neighbour.
    step(&mut *model, &a[..5], vec![row(0, 5, 16)]);
    let mixed = [&a[5..], &[7042]].concat();
    let mixed = step(&mut *model, &mixed, vec![row(5, a.len() - 5, 16), row(b.len(), 1, 8)]);
    close(&alone, &mixed[0]);
}

#[test]
fn a_batch_that_does_not_fit_is_an_error() {
    let Some(mut model) = smollm2() else { return };
    let mut refused = |tokens: &[u32], row: Row| {
        assert!(model.step(&Batch { tokens: tokens.to_vec(), rows: vec![row] }).is_err());
    };
    refused(&[], row(0, 0, 0));
    refused(&[1], row(0, 2, 0));
    refused(&[1_000_000], row(0, 1, 0));
    refused(&[1], row(400, 1, 0));
    refused(&[1], Row { table: vec![9_999; 8], ..row(0, 1, 0) });
}

#[derive(Deserialize)]
struct Reference {
    tokens: Vec<u32>,
    /// Which logits are given: every so many, from the first.
    every: usize,
    /// After each token.
    logits: Vec<Vec<f32>>,
}

/// Models of every architecture with random weights, the very same in both files, and transformers' logits.
const ARCHITECTURES: [&str; 10] = [
    "llama",
    "llama-3.1",
    "llama-linear",
    "qwen2",
    "qwen2-yarn",
    "qwen3",
    "qwen3moe",
    "gemma3",
    "phi3",
    "phi3-longrope",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llm/architectures").join(name)
}

fn reference(name: &str) -> Reference {
    serde_json::from_slice(&std::fs::read(golden(&format!("{name}.json"))).unwrap()).unwrap()
}

fn open(name: &str) -> Box<dyn Model<Llm>> {
    let gguf = Gguf::open(golden(&format!("{name}.gguf"))).unwrap();
    let limits = Limits { context: 64, blocks: 2, cache: KvType::F16, quantise: Quantise::None };
    super::load(&gguf, &Device::Cpu, limits).unwrap().0
}

/// The tokens in steps of these lengths; the logits after each step against the reference.
fn check_steps(name: &str, model: &mut dyn Model<Llm>, lengths: impl IntoIterator<Item = usize>) {
    let want = reference(name);
    let mut at = 0;
    for len in lengths {
        let row = Row { len, start: at, table: vec![1, 0], logits: 1, choice: Choice::Logits };
        let logits = step(model, &want.tokens[at..at + len], vec![row]).remove(0);
        at += len;
        let largest = want.logits[at - 1].iter().fold(0f32, |m, v| m.max(v.abs()));
        for (got, want) in logits.iter().step_by(want.every).zip(&want.logits[at - 1]) {
            // Keys and values are kept in 11 bits, which moves llama.cpp's logits by as much.
            assert!((got - want).abs() < 1e-2 * largest, "{name}: {got}, not {want}, after {at} tokens");
        }
    }
    assert_eq!(at, want.tokens.len(), "{name}: all tokens are used");
}

#[test]
fn every_architecture_equals_transformers() {
    for name in ARCHITECTURES {
        for run in [vec![44], vec![1; 44], vec![7, 2, 20, 15]] {
            check_steps(name, &mut *open(name), run.iter().copied());
            composed(|| check_steps(name, &mut *open(name), run));
        }
    }
}

fn open_folder(name: &str, quantise: Quantise) -> Box<dyn Model<Llm>> {
    let folder = SafetensorsFolder::open(&golden(name)).unwrap();
    let limits = Limits { context: 64, blocks: 2, cache: KvType::F16, quantise };
    super::load_folder(&folder, &Device::Cpu, limits).unwrap().0
}

/// What llama.cpp's converter has no place for.
const FOLDERS_ONLY: [&str; 3] = ["mistral", "qwen3-window", "phi3-partial"];

#[test]
fn every_folder_equals_transformers() {
    for name in ARCHITECTURES.into_iter().chain(FOLDERS_ONLY) {
        for run in [vec![44], vec![1; 44], vec![7, 2, 20, 15]] {
            check_steps(name, &mut *open_folder(name, Quantise::None), run.iter().copied());
            composed(|| check_steps(name, &mut *open_folder(name, Quantise::None), run));
        }
    }
}

#[test]
fn rounded_weights_are_near_and_smaller() {
    for name in ARCHITECTURES.into_iter().chain(FOLDERS_ONLY) {
        let (mut whole, mut rounded) = (open_folder(name, Quantise::None), open_folder(name, Quantise::Q8_0));
        let weights =
            |model: &dyn Model<Llm>| model.footprint(Size { units: 1, logits: 1, gpu: false }).weights;
        assert!(weights(&*rounded) < weights(&*whole), "{name}");
        let want = reference(name);
        let row = || {
            vec![Row {
                len: want.tokens.len(),
                start: 0,
                table: vec![0, 1],
                logits: 1,
                choice: Choice::Logits,
            }]
        };
        let [exact, near] = [&mut whole, &mut rounded].map(|m| step(&mut **m, &want.tokens, row()).remove(0));
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| x * x).sum::<f32>().sqrt();
        let off = norm(&mut exact.iter().zip(&near).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied());
        // 8 bits of weights and of activations are half a percent each; large random weights make more of it.
        assert!(off > 0.0 && off < 0.15, "{name}: {off} off");
    }
}

/// To the last bit: a folder's weights are rounded to what a file of that type has.
#[test]
fn a_rounded_folder_is_a_quantised_file() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["qwen2", "qwen3", "gemma3", "phi3"] {
        let file = dir.path().join(name);
        requantise(&golden(&format!("{name}.gguf")), GgmlDType::Q8_0, &file);
        let limits = Limits { context: 64, blocks: 2, cache: KvType::F16, quantise: Quantise::None };
        let mut file = super::load(&Gguf::open(&file).unwrap(), &Device::Cpu, limits).unwrap().0;
        let tokens = reference(name).tokens;
        let row = || {
            vec![Row { len: tokens.len(), start: 0, table: vec![0, 1], logits: 1, choice: Choice::Logits }]
        };
        let want = step(&mut *file, &tokens, row());
        assert_eq!(step(&mut *open_folder(name, Quantise::Q8_0), &tokens, row()), want, "{name}");
    }
}
