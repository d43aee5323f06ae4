//! Energies against the reference implementations; the goldens are made by `tests/golden/audio/mel.py`.

use super::super::{Limits, MelExtractor, log_mel};
use super::path;
use crate::types::asr::LogMel;

/// The signal of the golden: silence, then a chirp over noise.
fn synthetic() -> Vec<f32> {
    let n = 40_123usize;
    let mut state = 12345u32;
    (0..n)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let t = i as f64 / 16_000.0;
            let sweep = 50.0 + 7900.0 * t / (2.0 * n as f64 / 16_000.0);
            let chirp = 0.5 * (2.0 * std::f64::consts::PI * sweep * t).sin();
            let noise = (f64::from(state) / 4_294_967_296.0 - 0.5) * 0.01;
            if i < n / 4 { 0.0 } else { (chirp + noise) as f32 }
        })
        .collect()
}

fn extract(samples: &[f32], bins: usize, step: usize) -> LogMel {
    let mut mel = MelExtractor::new(bins);
    for chunk in samples.chunks(step) {
        mel.push(chunk);
    }
    mel.finish()
}

/// Largest and mean difference to a golden that has every `every`-th frame.
fn differences(mel: &LogMel, golden: &str, every: usize) -> (f32, f32) {
    let golden: Vec<f32> = std::fs::read(path("tests/golden/audio").join(golden))
        .unwrap()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let (bins, frames) = (mel.bins(), mel.frames());
    assert_eq!(golden.len(), frames.div_ceil(every) * bins);
    let mut ours = vec![0.0; bins * frames];
    mel.window(std::iter::once(0..frames), frames, mel.loudest(), &mut ours);
    let (mut worst, mut sum) = (0.0f32, 0.0f32);
    for (i, want) in golden.iter().enumerate() {
        let (t, m) = (i / bins * every, i % bins);
        let difference = (ours[m * frames + t] - want).abs();
        worst = worst.max(difference);
        sum += difference;
    }
    (worst, sum / golden.len() as f32)
}

#[test]
fn agrees_with_the_reference() {
    for bins in [80, 128] {
        let mel = extract(&synthetic(), bins, 1000);
        assert_eq!(mel.frames(), 250);
        let (worst, _) = differences(&mel, &format!("synthetic-{bins}.f32"), 5);
        println!("{bins} bins: largest difference {worst:e}");
        assert!(worst < 1e-4, "{bins} bins: {worst}");
    }
}

#[test]
fn agrees_with_the_reference_on_speech() {
    let Ok(file) =
        std::fs::File::open(path("../shared/data/librispeech-test-other/1688/1688-142285-0000.flac"))
    else {
        println!("skipped: ../shared/data/librispeech-test-other is not here");
        return;
    };
    let (mel, decoded) = log_mel(file, None, &Limits::default(), 80).unwrap();
    assert_eq!((decoded.codec, decoded.source_rate, decoded.warning), ("flac", 16_000, None));
    let (worst, _) = differences(&mel, "speech-80.f32", 20);
    println!("largest difference on speech {worst:e}");
    assert!(worst < 1e-4, "{worst}");
}

/// The reference resamples with another filter and rounds to 16 bits, which shows above 7 kHz and in near
/// silence: the mean difference counts.
#[test]
fn resampled_speech_is_close_to_the_reference() {
    let Ok(file) = std::fs::File::open(path("../shared/data/jfk.flac")) else {
        println!("skipped: ../shared/data/jfk.flac is not here");
        return;
    };
    let (mel, decoded) = log_mel(file, Some("jfk.flac"), &Limits::default(), 80).unwrap();
    assert_eq!((mel.frames(), decoded.source_rate, decoded.warning), (1100, 44_100, None));
    let (worst, mean) = differences(&mel, "jfk-80.f32", 10);
    println!("resampled speech differs by {worst:e} at most, {mean:e} in the mean");
    assert!(worst < 0.25 && mean < 2e-3, "{worst} {mean}");
}

#[test]
fn chunks_do_not_matter() {
    let signal = synthetic();
    let whole = extract(&signal, 80, usize::MAX);
    for step in [1, 159, 160, 161, 16_000, 39_999] {
        assert_eq!(extract(&signal, 80, step), whole, "chunks of {step}");
    }
}

#[test]
fn frames_are_whole_hops_of_content() {
    for (samples, frames) in [(0, 0), (1, 0), (159, 0), (160, 1), (200, 1), (201, 1), (319, 1), (16_000, 100)]
    {
        let mel = extract(&vec![0.1; samples], 80, 77);
        assert_eq!(mel.frames(), frames, "{samples} samples");
        assert_eq!(mel.seconds(), samples as f64 / 16_000.0);
    }
}

#[test]
fn silence_is_one_value_and_padding_is_zero() {
    let mel = extract(&[0.0; 1600], 80, 1600);
    let mut window = vec![9.0; 80 * 20];
    mel.window(std::iter::once(0..20), 20, mel.loudest(), &mut window);
    for m in 0..80 {
        assert!(window[m * 20..m * 20 + 10].iter().all(|&v| (v + 1.5).abs() < 1e-4));
        assert!(window[m * 20 + 10..m * 20 + 20].iter().all(|&v| v == 0.0));
    }
    mel.window(std::iter::once(1000..1020), 20, mel.loudest(), &mut window);
    assert!(window.iter().all(|&v| v == 0.0), "a window past the end is all padding");
}
