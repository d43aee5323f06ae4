//! The resampler keeps what speech needs, drops what would alias, and keeps time.

use super::super::resample::Resampler;
use super::amplitude;

const RATES: [u32; 13] =
    [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000, 44_099];

fn resample(rate: u32, samples: &[f32], step: usize) -> Vec<f32> {
    let mut out = Vec::new();
    let mut resampler = Resampler::new(rate).unwrap();
    let mut sink = |s: &[f32]| {
        out.extend_from_slice(s);
        Ok(())
    };
    for chunk in samples.chunks(step) {
        resampler.push(chunk, &mut sink).unwrap();
    }
    resampler.finish(&mut sink).unwrap();
    assert_eq!(resampler.given(), out.len() as u64);
    out
}

fn tone(rate: u32, hz: f64, seconds: f64) -> Vec<f32> {
    (0..(f64::from(rate) * seconds) as usize)
        .map(|i| 0.5 * (std::f64::consts::TAU * hz * i as f64 / f64::from(rate)).sin() as f32)
        .collect()
}

#[test]
fn length_and_chunks() {
    for rate in RATES {
        for n in [1usize, 100, rate as usize, rate as usize * 2 + 7] {
            let input: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1000) as f32 / 2000.0).collect();
            let out = resample(rate, &input, 1153);
            assert_eq!(out.len() as u64, (n as u64 * 16_000).div_ceil(u64::from(rate)), "{n} at {rate}");
            assert_eq!(out, resample(rate, &input, 17), "{rate}: chunks must not matter");
        }
    }
}

#[test]
fn an_impulse_keeps_its_time() {
    for rate in RATES {
        let mut input = vec![0.0; rate as usize * 2];
        input[rate as usize] = 0.9;
        let out = resample(rate, &input, 4096);
        let peak = (0..out.len()).max_by(|&a, &b| out[a].abs().total_cmp(&out[b].abs())).unwrap();
        assert!(peak.abs_diff(16_000) <= 1, "{rate}: the impulse at 1 s is at sample {peak}");
    }
}

#[test]
fn what_would_alias_vanishes_and_speech_stays() {
    for rate in [44_100, 48_000, 96_000, 192_000] {
        for hz in [8_300.0, 12_000.0, 15_900.0, 20_000.0] {
            let out = resample(rate, &tone(rate, hz, 1.0), 4096);
            let loudest = out[1600..14_400].iter().fold(0.0f32, |m, s| m.max(s.abs()));
            assert!(loudest < 0.5e-4, "{hz} Hz at {rate} leaves {loudest}");
        }
        for hz in [60.0, 440.0, 3_000.0, 7_000.0, 7_500.0] {
            let out = resample(rate, &tone(rate, hz, 1.0), 4096);
            let a = amplitude(&out[1600..14_400], 16_000.0, hz);
            assert!((a - 0.5).abs() < 0.005, "{hz} Hz at {rate} comes out at {a}");
        }
    }
    for hz in [440.0, 3_400.0] {
        let out = resample(8_000, &tone(8_000, hz, 1.0), 4096);
        let image = amplitude(&out[1600..14_400], 16_000.0, 8_000.0 - hz);
        assert!(image < 1e-4, "{hz} Hz at 8000 leaves an image of {image}");
    }
}

#[test]
fn absurd_rates_are_refused() {
    for rate in [0, 1, 3_999, 768_001, 4_000_000_000] {
        assert!(Resampler::new(rate).is_err(), "{rate}");
    }
}
