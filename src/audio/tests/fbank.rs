//! Against torchaudio's port of Kaldi's filterbank (`tests/golden/speaker`).

use crate::audio::Fbank;
use crate::model::speaker::testing::{floats, samples};
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
        let got = Fbank::new(Features::Kaldi { window, scale }).energies(&samples);
        assert_eq!(got.len(), Fbank::frames(samples.len()) * Fbank::BINS);
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
    assert_eq!((Fbank::frames(559), Fbank::frames(560)), (1, 2));
}
