//! Against the reference implementations, on a real mel that both sides read from the same bytes.
//! The goldens and the command that makes them are in `tests/golden/asr`.

use std::path::PathBuf;

use serde::Deserialize;

use super::*;
use crate::ops::testing::composed;
use crate::types::model::Precision;

const LIMITS: Limits = Limits { windows: 3, window_bytes: u64::MAX, precision: Precision::F16 };

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/asr").join(name)
}

fn json<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// A model of the test machine's home folder; `None`, with a word, where there is none.
fn test_model(id: &str) -> Option<PathBuf> {
    let home = std::env::var_os("STENTOR_TEST_MODELS");
    let folder = home.map(|home| Path::new(&home).join("models").join(id)).filter(|f| f.is_dir());
    if folder.is_none() {
        eprintln!("skipped: STENTOR_TEST_MODELS has no models/{id}");
    }
    folder
}

/// The window of `jfk_mel.u8`: 80 x 3000, of which 1100 frames are sound.
fn mel() -> Vec<f32> {
    let bytes = std::fs::read(golden("jfk_mel.u8")).unwrap();
    let mut window = vec![0.0f32; 80 * WINDOW];
    for (bin, frames) in bytes.chunks_exact(1100).enumerate() {
        for (t, &byte) in frames.iter().enumerate() {
            window[bin * WINDOW + t] = f32::from(byte) / 100.0 - 1.0;
        }
    }
    window
}

fn encoded(model: &WhisperModel) -> Vec<Vec<f32>> {
    model.encoder.forward(&[&mel()], &model.device).unwrap().get(0).unwrap().to_vec2().unwrap()
}

/// A step of rows that were given room of their own.
fn step(rows: Vec<Row>) -> Decode {
    Decode { copies: Vec::new(), rows }
}

fn row(slot: usize, tokens: &[u32], position: usize) -> Row {
    let blocks = 10 * slot as u32..10 * (slot as u32 + 1);
    Row { slot, tokens: tokens.to_vec(), position, table: blocks.collect(), want: Want::Last }
}

fn logits(output: RowOutput) -> (Vec<f32>, Option<Vec<f32>>) {
    match output {
        RowOutput::Logits { last, probe } => (last, probe),
        other => panic!("{other:?}"),
    }
}

fn last(model: &mut WhisperModel, row: Row) -> Vec<f32> {
    logits(model.decode(&step(vec![row])).unwrap().remove(0)).0
}

/// Logits after every token, fed one at a time from `prompt` on.
fn teacher_forced(model: &mut WhisperModel, tokens: &[u32], prompt: usize) -> Vec<Vec<f32>> {
    model.encode(&[(0, &mel())]).unwrap();
    let mut all = Vec::new();
    for end in 1..=prompt {
        let row = Row { want: Want::Probe(end - 1), ..row(0, &tokens[..prompt], 0) };
        all.push(logits(model.decode(&step(vec![row])).unwrap().remove(0)).1.unwrap());
    }
    for (position, token) in tokens.iter().enumerate().skip(prompt) {
        all.push(last(model, row(0, &[*token], position)));
    }
    all
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) -> f32 {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: off by {worst}, {tolerance} is allowed");
    worst
}

#[derive(Deserialize)]
struct Hf {
    frames: Vec<usize>,
    encoder: Vec<Vec<f32>>,
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn small() -> WhisperModel {
    WhisperModel::load(&golden("hf"), Format::Safetensors, &Device::Cpu, LIMITS).unwrap()
}

#[test]
fn hugging_face_weights_match_transformers() {
    check_hugging_face();
}

/// What a GPU computes, here on the CPU.
#[test]
fn compositions_match_transformers_too() {
    composed(check_hugging_face);
}

fn check_hugging_face() {
    let want: Hf = json("hf.json");
    let mut model = small();
    let encoded = encoded(&model);
    for (&frame, want) in want.frames.iter().zip(&want.encoder) {
        assert_close(&encoded[frame], want, 2e-4, &format!("encoder at {frame}"));
    }
    let logits = teacher_forced(&mut model, &want.tokens, 2);
    for (i, (got, want)) in logits.iter().zip(&want.logits).enumerate() {
        // Keys and values are kept as halves.
        assert_close(got, want, 1.5e-3, &format!("logits after token {i}"));
    }
}

#[test]
fn other_formats_of_the_same_weights_give_the_same() {
    let Hf { tokens, .. } = json("hf.json");
    let mut model = small();
    let (hidden, want) = (encoded(&model), teacher_forced(&mut model, &tokens, 2));
    for (file, format) in [("small.pt", Format::Torch), ("ggml-small.bin", Format::Ggml)] {
        let path = golden("formats").join(file);
        let mut other = WhisperModel::load(&path, format, &Device::Cpu, LIMITS).unwrap();
        assert_eq!(other.config, model.config, "{file}");
        assert_close(&encoded(&other).concat(), &hidden.concat(), 1e-6, file);
        assert_close(&teacher_forced(&mut other, &tokens, 2).concat(), &want.concat(), 1e-6, file);
        // The golden has no vocabulary beside it.
        let error = load(&path, format, &Device::Cpu, LIMITS).err().unwrap().to_string();
        assert!(error.contains("formats/tokenizer.json: cannot be read"), "{error}");
    }
}

#[derive(Deserialize)]
struct Reference {
    frames: Vec<usize>,
    dims: usize,
    encoder: Vec<Vec<f32>>,
    encoder_mean_square: f32,
    tokens: Vec<u32>,
    prompt: usize,
    probe: Vec<usize>,
    logits: Vec<Vec<f32>>,
    argmax: Vec<u32>,
}

fn matches_reference(id: &str, precision: Precision, tolerance: f32) {
    let Some(folder) = test_model(id) else { return };
    let all: std::collections::HashMap<String, Reference> = json("reference.json");
    let want = &all[id];
    let mut model =
        WhisperModel::load(&folder, Format::CTranslate2, &Device::Cpu, Limits { precision, ..LIMITS })
            .unwrap();
    let encoded = encoded(&model);
    for (&frame, want) in want.frames.iter().zip(&want.encoder) {
        assert_close(&encoded[frame][..want.len()], want, 3e-3, &format!("encoder at {frame}"));
    }
    let squares: f64 = encoded.iter().flatten().map(|&x| f64::from(x * x)).sum();
    let mean = (squares / (encoded.len() * encoded[0].len()) as f64) as f32;
    assert!((mean / want.encoder_mean_square - 1.0).abs() < 1e-4);
    assert_eq!(want.dims, 64);
    let logits = teacher_forced(&mut model, &want.tokens, want.prompt);
    let mut worst = 0.0f32;
    for (i, (got, reference)) in logits.iter().zip(&want.logits).enumerate() {
        let probed: Vec<f32> = want.probe.iter().map(|&p| got[p]).collect();
        worst = worst.max(assert_close(&probed, reference, tolerance, &format!("logits after token {i}")));
        if i >= want.prompt {
            let top = (0..got.len()).max_by(|&a, &b| got[a].total_cmp(&got[b])).unwrap();
            assert_eq!(top as u32, want.argmax[i], "the likeliest token after token {i}");
        }
    }
    println!("{id} {precision:?}: logits off by at most {worst}");
}

#[test]
fn base_matches_openai_whisper() {
    matches_reference("whisper-base", Precision::F32, 5e-3);
    matches_reference("whisper-base", Precision::F16, 5e-3);
}

#[test]
fn tiny_en_matches_openai_whisper() {
    matches_reference("whisper-tiny.en", Precision::F32, 5e-3);
    matches_reference("whisper-tiny.en", Precision::F16, 5e-3);
}

/// Rounded weights, and activations, write the same text, less surely.
#[test]
fn fewer_bits_match_openai_whisper_roughly() {
    matches_reference("whisper-base", Precision::Bf16, 0.3);
    composed(|| matches_reference("whisper-tiny.en", Precision::Bf16, 0.3));
    matches_reference("whisper-base", Precision::Int8, 1.0);
    composed(|| matches_reference("whisper-tiny.en", Precision::Int8, 1.0));
}

/// What a GPU computes, here on the CPU.
#[test]
fn tiny_en_of_compositions_matches_openai_whisper_too() {
    composed(|| matches_reference("whisper-tiny.en", Precision::F16, 5e-3));
}

#[test]
fn rows_do_not_see_each_other() {
    rows_are_their_own();
    composed(rows_are_their_own);
}

fn rows_are_their_own() {
    let mut model = small();
    let silent = vec![0.0f32; 80 * WINDOW];
    let window = mel();
    model.encode(&[(0, &window), (1, &silent)]).unwrap();
    model.encode(&[(2, &window)]).unwrap();
    let alone = last(&mut model, row(2, &[3, 5, 7, 9], 0));
    // Different lengths and positions in one call.
    model.decode(&step(vec![row(1, &[3], 0), row(0, &[3, 5, 7], 0)])).unwrap();
    let mixed = model.decode(&step(vec![row(0, &[9], 3), row(1, &[11, 12], 1)])).unwrap();
    let mixed: Vec<Vec<f32>> = mixed.into_iter().map(|o| logits(o).0).collect();
    // Keys and values are kept as halves.
    assert_close(&mixed[0], &alone, 1e-3, "the same sequence among others");
    assert!(mixed[1].iter().zip(&alone).any(|(a, b)| (a - b).abs() > 1e-2));
    // Going back forgets what followed.
    let again = last(&mut model, row(0, &[7, 9], 2));
    assert_close(&again, &alone, 1e-3, "the same sequence after going back");
}

/// Two texts branch off one prompt: one goes on in its blocks, the other in a copy of them.
#[test]
fn a_copied_sequence_goes_on_like_the_first() {
    let mut model = small();
    model.encode(&[(0, &mel())]).unwrap();
    last(&mut model, row(0, &[3, 5, 7], 0));
    let branch = Row { table: vec![20, 21], ..row(0, &[9], 3) };
    let both = Decode { copies: vec![(0, 20)], rows: vec![row(0, &[11], 3), branch] };
    let outputs: Vec<Vec<f32>> = model.decode(&both).unwrap().into_iter().map(|o| logits(o).0).collect();
    for (output, token) in outputs.iter().zip([11, 9]) {
        let fresh = last(&mut model, Row { table: vec![22, 23], ..row(0, &[3, 5, 7, token], 0) });
        assert_close(output, &fresh, 1e-3, "a branch");
    }
}

#[test]
fn alignments_are_weights_over_what_is_heard() {
    let run = || {
        let mut model = small();
        model.encode(&[(0, &mel())]).unwrap();
        let aligned = Row { want: Want::Alignment { keys: 550, score: false }, ..row(0, &[3, 5, 7, 9], 0) };
        let outputs = model.decode(&step(vec![aligned])).unwrap();
        let [RowOutput::Alignment(alignment)] = &outputs[..] else { panic!("{outputs:?}") };
        let heads = model.config.alignment_heads.len();
        assert!(heads > 0);
        assert_eq!((alignment.heads, alignment.tokens, alignment.keys), (heads, 4, 550));
        for row in alignment.weights.chunks_exact(550) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        }
        alignment.weights.clone()
    };
    assert_close(&run(), &composed(run), 1e-4, "the two sides");
}

#[test]
fn refuses_calls_that_make_no_sense() {
    let mut model = small();
    assert!(model.decode(&step(vec![row(0, &[1], 0)])).is_err(), "nothing encoded");
    assert!(model.encode(&[(0, &[0.0; 7])]).is_err() && model.encode(&[(3, &mel())]).is_err());
    assert!(model.encode(&[(0, &mel()), (0, &mel())]).is_err());
    model.encode(&[(0, &mel())]).unwrap();
    let context = vec![1; 65];
    let cases = [
        vec![],
        vec![row(1, &[1], 0)],
        vec![row(9, &[1], 0)],
        vec![row(0, &[], 0)],
        vec![row(0, &[70], 0)],
        vec![row(0, &context, 0)],
        vec![Row { want: Want::Probe(1), ..row(0, &[1], 0) }],
        vec![Row { want: Want::Alignment { keys: 0, score: false }, ..row(0, &[1], 0) }],
        vec![Row { want: Want::Alignment { keys: 1501, score: false }, ..row(0, &[1], 0) }],
        vec![Row { table: vec![], ..row(0, &[1], 0) }],
        vec![Row { table: vec![100_000], ..row(0, &[1], 0) }],
    ];
    for (i, rows) in cases.into_iter().enumerate() {
        assert!(matches!(model.decode(&step(rows)), Err(Error::Call { .. })), "case {i}");
    }
    assert!(model.decode(&step(vec![row(0, &[1], 0)])).is_ok());
}

#[test]
fn refuses_damaged_safetensors() {
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(golden("hf/config.json")).unwrap();
    let weights = std::fs::read(golden("hf/model.safetensors")).unwrap();
    let load = |config: &str, weights: &[u8]| {
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
        let loaded = WhisperModel::load(dir.path(), Format::Safetensors, &Device::Cpu, LIMITS);
        loaded.err().map(|e| e.to_string())
    };
    assert_eq!(load(&config, &weights), None);
    for len in [0, 4, 9, 2000, weights.len() - 1] {
        assert!(load(&config, &weights[..len]).is_some(), "cut at {len}");
    }
    let mut huge = weights.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(load(&config, &huge).is_some());
    let wide = load(&config.replace("\"d_model\": 16", "\"d_model\": 32"), &weights).unwrap();
    assert!(wide.contains("shape"), "{wide}");
    let other = load(&config.replace("\"whisper\"", "\"bert\""), &weights).unwrap();
    assert!(other.contains("bert"), "{other}");
    assert!(load(&config.replace("\"d_model\": 16", "\"d_model\": -1"), &weights).is_some());
    assert!(load("{}", &weights).is_some() && load("", &weights).is_some());
}

#[test]
fn sinusoids_are_those_stored() {
    let Some(folder) = test_model("whisper-base") else { return };
    let (source, config) = Source::open(&folder, Format::CTranslate2).unwrap();
    let stored = source.encoder_positions(&config).unwrap();
    // Stored as f16.
    assert_close(&weights::sinusoids(1500, config.width), &stored, 1e-3, "positions");
}
