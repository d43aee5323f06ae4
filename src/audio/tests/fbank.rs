//! Against torchaudio's port of Kaldi's filterbank, and SpeechBrain's own (`tests/golden/speaker`).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::audio::Fbank;
use crate::model::speaker::testing::{floats, read, samples};
use crate::types::speaker::{Features, Window};

#[test]
fn energies_are_kaldis() {
    let file = "librispeech-test-other/1688/1688-142285-0001.flac";
    let Some(samples) = samples(file, Some(3.0)) else { return };
    for (golden, window, scale) in [
        ("fbank-povey-1688", Window::Povey, 32_768.0),
        ("fbank-hamming-1688", Window::Hamming, 32_768.0),
        ("fbank-unit-1688", Window::Povey, 1.0),
    ] {
        let mut fbank = Fbank::new(Features::Kaldi { window, scale });
        let got = fbank.energies(&samples);
        assert_eq!(got.len(), fbank.frames(samples.len()) * Fbank::BINS);
        let got = got.chunks_exact(Fbank::BINS).step_by(5).flatten();
        let want = floats(&format!("speaker/{golden}.f32"));
        let apart: Vec<f32> = got.zip(&want).map(|(got, want)| (got - want).abs()).collect();
        assert_eq!(apart.len(), want.len());
        let (worst, mean) =
            (apart.iter().copied().fold(0f32, f32::max), apart.iter().sum::<f32>() / apart.len() as f32);
        println!("{golden}: off by {worst:e} at most, by {mean:e} in the mean");
        assert!(worst < 3e-3 && mean < 1e-5, "{golden}: {worst} {mean}");
    }
}

#[test]
fn what_is_shorter_than_a_frame_has_none() {
    let mut fbank = Fbank::new(Features::Kaldi { window: Window::Povey, scale: 1.0 });
    assert_eq!(fbank.energies(&[0.0; 399]).len(), 0);
    let silent = fbank.energies(&[0.0; 400]);
    assert_eq!(silent, [f32::EPSILON.ln(); Fbank::BINS]);
    assert_eq!((fbank.frames(559), fbank.frames(560)), (1, 2));
}

#[derive(Deserialize)]
struct Want {
    file: String,
    seconds: f64,
    /// Every 20th frame.
    #[serde(default)]
    features: Vec<Vec<f32>>,
}

#[test]
fn energies_are_speechbrains() {
    let wanted: BTreeMap<String, Want> = read("speaker/ecapa/golden.json");
    let want = &wanted["1688"];
    let Some(samples) = samples(&want.file, Some(want.seconds)) else { return };
    let mut fbank = Fbank::new(Features::SpeechBrain);
    let got = fbank.energies(&samples);
    assert_eq!(got.len(), fbank.frames(samples.len()) * Fbank::BINS);
    let got: Vec<&[f32]> = got.chunks_exact(Fbank::BINS).step_by(20).collect();
    assert_eq!(got.len(), want.features.len());
    let pairs = got.iter().copied().flatten().zip(want.features.iter().flatten());
    let apart: Vec<f32> = pairs.map(|(got, want)| (got - want).abs()).collect();
    let (worst, mean) =
        (apart.iter().copied().fold(0f32, f32::max), apart.iter().sum::<f32>() / apart.len() as f32);
    println!("off by {worst:e} dB at most, by {mean:e} in the mean");
    assert!(worst < 3e-3 && mean < 1e-4, "{worst} {mean}");
}

#[test]
fn speechbrain_frames_are_centred_and_have_a_floor() {
    let mut fbank = Fbank::new(Features::SpeechBrain);
    assert_eq!([0, 159, 160, 1600].map(|samples| fbank.frames(samples)), [1, 1, 2, 11]);
    assert_eq!(fbank.energies(&[]), [-100.0; Fbank::BINS]);
    // A click is in the frames within 200 samples of it alone: those at 0 and 160, and not that at 320.
    let mut click = vec![0.0; 480];
    click[100] = 1.0;
    let got = fbank.energies(&click);
    let loudest = got.iter().copied().fold(f32::MIN, f32::max);
    let frames: Vec<&[f32]> = got.chunks_exact(Fbank::BINS).collect();
    assert_eq!(frames.len(), 4);
    assert!(frames[0][40] > loudest - 20.0 && frames[1][40] > loudest - 20.0);
    assert!(frames[2..].iter().all(|frame| frame.iter().all(|v| *v == loudest - 80.0)));
}
