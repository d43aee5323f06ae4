//! The network and the spans against Silero's own package (`tests/golden/vad/speech.json`).

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use serde::Deserialize;

use super::*;
use crate::audio;
use crate::model::vad::segments::{Span, spans};
use crate::ops::testing::{composed, noise};
use crate::testing;
use crate::types::asr;

#[derive(Deserialize)]
struct Want {
    /// Silence in samples, then the file behind it.
    parts: Vec<(usize, String)>,
    samples: usize,
    probabilities: Vec<f32>,
    settings: Vec<Setting>,
}

#[derive(Deserialize)]
struct Setting {
    threshold: f32,
    min_speech: f32,
    /// `None`: any length.
    max_speech: Option<f32>,
    min_silence: f32,
    pad: f32,
    spans: Vec<(usize, usize)>,
}

impl Setting {
    fn vad(&self) -> asr::Vad {
        asr::Vad {
            threshold: self.threshold,
            min_speech: self.min_speech,
            max_speech: self.max_speech.unwrap_or(f32::INFINITY),
            min_silence: self.min_silence,
            pad: self.pad,
        }
    }
}

fn model() -> Option<SileroVad> {
    Some(SileroVad::load(&testing::model("silero-vad")?, &Device::Cpu).unwrap())
}

/// Where a file of the golden lies; `None`, with a word, where it does not.
fn file(name: &str) -> Option<PathBuf> {
    let path = match name.strip_prefix("clips/") {
        Some(clip) => std::env::var_os("STENTOR_TEST_AUDIO").map(|folder| PathBuf::from(folder).join(clip)),
        None => Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name)),
    };
    let found = path.filter(|path| path.is_file());
    if found.is_none() {
        println!("skipped: {name} is not here");
    }
    found
}

/// A recording of the golden, in samples at 16 kHz.
fn samples(want: &Want) -> Option<Vec<f32>> {
    let mut all = Vec::new();
    for (silence, name) in &want.parts {
        all.resize(all.len() + silence, 0.0);
        let source = File::open(file(name)?).unwrap();
        let mut keep = |samples: &[f32]| {
            all.extend_from_slice(samples);
            Ok(())
        };
        audio::decode(source, Some(name), &audio::Limits::default(), &mut keep).unwrap();
    }
    assert_eq!(all.len(), want.samples);
    Some(all)
}

/// With zeros up to a whole frame.
fn whole(mut samples: Vec<f32>) -> Row {
    samples.resize(samples.len().next_multiple_of(FRAME), 0.0);
    Row { samples, ..Row::default() }
}

/// Samples that are speech to one and not to the other.
fn apart(got: &[Span], want: &[(usize, usize)], samples: usize) -> usize {
    let marked = |at: usize, spans: &[(usize, usize)]| spans.iter().any(|s| (s.0..s.1).contains(&at));
    let got: Vec<(usize, usize)> = got.iter().map(|s| (s.start, s.end)).collect();
    (0..samples).filter(|at| marked(*at, &got) != marked(*at, want)).count()
}

fn near(got: &[Span], want: &[(usize, usize)]) -> bool {
    got.len() == want.len()
        && got.iter().zip(want).all(|(g, w)| g.start.abs_diff(w.0) <= FRAME && g.end.abs_diff(w.1) <= FRAME)
}

#[test]
fn speech_is_found_where_the_reference_finds_it() {
    let Some(model) = model() else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vad/speech.json");
    let all: BTreeMap<String, Want> = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    for (name, want) in all {
        // On the reference's own probabilities to the sample.
        for setting in &want.settings {
            let found = spans(&want.probabilities, want.samples, &setting.vad());
            let found: Vec<(usize, usize)> = found.iter().map(|s| (s.start, s.end)).collect();
            assert_eq!(found, setting.spans, "{name}");
        }
        let Some(samples) = samples(&want) else { continue };
        let (got, _) = model.hear(&[whole(samples)]).unwrap().remove(0);
        assert_eq!(got.len(), want.probabilities.len(), "{name}");
        let off = got.iter().zip(&want.probabilities).map(|(g, w)| (g - w).abs());
        let (worst, mean) = (off.clone().fold(0f32, f32::max), off.sum::<f32>() / got.len() as f32);
        println!("{name}: off by {worst:e} at most, by {mean:e} in the mean");
        // FFmpeg resamples this one with another filter, which is heard.
        let resampled = name == "jfk";
        let (at_most, in_the_mean) = if resampled { (0.25, 0.02) } else { (5e-5, 1e-5) };
        assert!(worst < at_most && mean < in_the_mean, "{name}: {worst} {mean}");
        for setting in &want.settings {
            let found = spans(&got, want.samples, &setting.vad());
            let same = match resampled {
                true => apart(&found, &setting.spans, want.samples) < want.samples / 50,
                false => near(&found, &setting.spans),
            };
            assert!(same, "{name}: {found:?} for {:?}", setting.spans);
        }
    }
}

/// Noise that comes and goes.
fn signal(frames: usize, seed: u64) -> Row {
    let mut samples = noise(frames * FRAME, seed);
    samples.iter_mut().enumerate().for_each(|(i, s)| *s *= (i as f32 * 1e-3).sin().powi(4));
    Row { samples, ..Row::default() }
}

#[test]
fn a_stream_in_pieces_beside_others_is_what_it_is_whole_and_alone() {
    let Some(model) = model() else { return };
    let streams: Vec<Row> = (0..5).map(|i| signal(300 - 40 * i as usize, i)).collect();
    let alone: Vec<_> =
        streams.iter().map(|row| model.hear(std::slice::from_ref(row)).unwrap().remove(0)).collect();
    assert!(model.hear(&streams).unwrap() == alone, "together in one step");
    // In pieces of other lengths, each step with those that have one left.
    let mut got: Vec<(Vec<f32>, VadState)> = vec![Default::default(); streams.len()];
    let mut at = vec![0; streams.len()];
    while at.iter().zip(&streams).any(|(at, row)| *at < row.frames()) {
        let mut rows = Vec::new();
        let mut whose = Vec::new();
        for (i, row) in streams.iter().enumerate() {
            let to = (at[i] + 1 + (at[i] * 7 + i) % 60).min(row.frames());
            if at[i] < to {
                let samples = row.samples[at[i] * FRAME..to * FRAME].to_vec();
                rows.push(Row { state: got[i].1.clone(), samples });
                whose.push(i);
                at[i] = to;
            }
        }
        for (i, (speech, state)) in whose.into_iter().zip(model.hear(&rows).unwrap()) {
            got[i].0.extend(speech);
            got[i].1 = state;
        }
    }
    assert!(got == alone, "in pieces");
}

#[test]
fn the_composition_for_other_devices_agrees() {
    let Some(model) = model() else { return };
    let rows = [signal(12, 1), signal(5, 2), signal(20, 3)];
    let want = model.hear(&rows).unwrap();
    let got = composed(|| self::model().unwrap().hear(&rows)).unwrap();
    for ((got, after), (want, end)) in got.iter().zip(&want) {
        crate::ops::testing::assert_close(got, want, 1e-5);
        crate::ops::testing::assert_close(&after.c, &end.c, 1e-4);
        assert_eq!(after.context, end.context);
    }
}

#[test]
fn what_is_not_heard_is_an_error() {
    let Some(model) = model() else { return };
    assert!(model.hear(&[]).unwrap().is_empty());
    let bad =
        |samples| model.hear(&[signal(1, 1), Row { samples, ..Row::default() }]).unwrap_err().to_string();
    assert!(bad(vec![0.0; FRAME + 1]).contains("513 samples"));
    assert!(bad(Vec::new()).contains("0 samples"));
    let mut samples = vec![0.0; FRAME];
    samples[7] = f32::INFINITY;
    assert!(bad(samples).contains("sample 7 is inf"));
    // As loud as may be, and no more than numbers come of it.
    let loud = Row { samples: vec![-1e6; 3 * FRAME], ..Row::default() };
    let (speech, state) = model.hear(&[loud]).unwrap().remove(0);
    assert!(speech.iter().chain(&state.h).chain(&state.c).all(|v| v.is_finite()));
}

#[test]
fn another_basis_is_refused() {
    let Some(folder) = testing::model("silero-vad") else { return };
    let source = testing::only_file(&folder, "safetensors");
    let mut bytes = std::fs::read(source).unwrap();
    // The basis comes first; a value in its middle.
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[data + 132_000..][..4].copy_from_slice(&0.75f32.to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let refused = SileroVad::load(dir.path(), &Device::Cpu).err().unwrap().to_string();
    assert!(refused.contains("stft_conv.weight: is not the short-time Fourier transform"), "{refused}");
}
