//! Every container and codec decodes to the sound that went in, at its time and pitch.

use std::io::Cursor;

use super::super::{Error, Limits, Stop, Warning, decode};
use super::{amplitude, decode_all, fixture, path, rms, wav, wav_of};

/// File, codec, container, rate, channels, tolerated error of time in samples at 16 kHz.
const TONES: &[(&str, &str, &str, u32, usize, usize)] = &[
    ("tone.mp3", "mp3", "mp3", 44_100, 2, 30),
    ("tone.m4a", "aac", "isomp4", 44_100, 2, 30),
    ("video.mp4", "aac", "isomp4", 48_000, 1, 30),
    ("tone.aac", "aac", "aac", 48_000, 1, 380),
    ("tone.ogg", "vorbis", "ogg", 48_000, 2, 30),
    ("tone.opus", "opus", "ogg", 48_000, 1, 30),
    ("tone.webm", "opus", "matroska", 48_000, 2, 30),
    ("vorbis.mkv", "vorbis", "matroska", 48_000, 1, 30),
    ("tone-opus.mp4", "opus", "isomp4", 48_000, 1, 30),
    ("tone.flac", "flac", "flac", 16_000, 1, 2),
    ("alac.m4a", "alac", "isomp4", 8_000, 1, 4),
    ("mulaw.wav", "pcm_mulaw", "wave", 8_000, 1, 4),
    ("alaw.wav", "pcm_alaw", "wave", 8_000, 1, 4),
    ("adpcm.wav", "adpcm_ima_wav", "wave", 11_025, 1, 16),
];

#[test]
fn every_format_keeps_pitch_loudness_and_time() {
    let mut wrong = Vec::new();
    for &(name, codec, container, rate, channels, slack) in TONES {
        let (samples, decoded) = decode_all(fixture(name), &Limits::default()).unwrap();
        let mut check = |ok: bool, what: String| {
            if !ok {
                wrong.push(format!("{name}: {what}"));
            }
        };
        let form = (decoded.codec, decoded.container, decoded.source_rate, decoded.channels);
        check(form == (codec, container, rate, channels), format!("is {form:?}"));
        check(decoded.warning.is_none(), format!("{:?}", decoded.warning));
        // Two channels were made from one at 3 dB less.
        let level = if channels == 2 { 0.251 } else { 0.355 };
        // Formats without exact lengths end with up to a block of padding.
        check((2.99..3.15).contains(&decoded.seconds), format!("{} s", decoded.seconds));
        let low = amplitude(&samples[1600..14_400], 16_000.0, 440.0);
        let high = amplitude(&samples[33_600..46_400], 16_000.0, 1000.0);
        check((low - level).abs() < 0.03, format!("440 Hz at {low}"));
        check((high - level).abs() < 0.03, format!("1000 Hz at {high}"));
        check(rms(&samples[17_000..23_000]) < 0.01, "noise in the silence".to_owned());
        // The click of 5 ms at 1.5 s: its centre of energy.
        let part = &samples[23_400..24_800];
        let energy: f64 = part.iter().map(|&s| f64::from(s * s)).sum();
        let centre: f64 =
            part.iter().enumerate().map(|(i, &s)| i as f64 * f64::from(s * s)).sum::<f64>() / energy;
        let late = centre + 23_400.0 - 24_040.0;
        check(late.abs() <= slack as f64 + 8.0, format!("the click is {late:.1} samples late"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn speech_in_short_long_and_surround_opus_frames_is_the_same_speech() {
    let (mp3, _) = decode_all(fixture("speech.mp3"), &Limits::default()).unwrap();
    for name in ["speech-2.5.opus", "speech-60.opus", "speech-5.1.opus"] {
        let (opus, decoded) = decode_all(fixture(name), &Limits::default()).unwrap();
        assert_eq!((decoded.warning, decoded.skipped_packets), (None, 0), "{name}");
        let n = mp3.len().min(opus.len());
        assert!((2.99..3.05).contains(&decoded.seconds), "{name}: {}", decoded.seconds);
        let dot: f32 = mp3[..n].iter().zip(&opus[..n]).map(|(a, b)| a * b).sum::<f32>() / n as f32;
        let correlation = dot / (rms(&mp3[..n]) * rms(&opus[..n]));
        assert!(correlation > 0.9, "{name}: correlation {correlation}");
    }
}

#[test]
fn wav_of_any_sample_format() {
    let tone: Vec<f64> =
        (0..8000).map(|i| 0.5 * (std::f64::consts::TAU * 440.0 * i as f64 / 16e3).sin()).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("u8", wav_of(1, 8, 16_000, 1, &tone.iter().map(|s| (s * 127.0 + 128.0) as u8).collect::<Vec<u8>>())),
        ("s16", wav(16_000, 1, &tone.iter().map(|s| (s * 32767.0) as i16).collect::<Vec<_>>())),
        (
            "s24",
            wav_of(
                1,
                24,
                16_000,
                1,
                &tone
                    .iter()
                    .flat_map(|s| ((s * 8_388_607.0) as i32).to_le_bytes()[..3].to_vec())
                    .collect::<Vec<u8>>(),
            ),
        ),
        (
            "s32",
            wav_of(
                1,
                32,
                16_000,
                1,
                &tone.iter().flat_map(|s| ((s * 2e9) as i32).to_le_bytes()).collect::<Vec<u8>>(),
            ),
        ),
        (
            "f32",
            wav_of(
                3,
                32,
                16_000,
                1,
                &tone.iter().flat_map(|s| (*s as f32).to_le_bytes()).collect::<Vec<u8>>(),
            ),
        ),
        ("f64", wav_of(3, 64, 16_000, 1, &tone.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>())),
    ];
    for (name, bytes) in cases {
        let (samples, decoded) = decode_all(bytes, &Limits::default()).unwrap();
        assert_eq!((samples.len(), decoded.warning), (8000, None), "{name}");
        let a = amplitude(&samples, 16_000.0, 440.0);
        assert!((a - 0.5).abs() < 0.05, "{name}: {a}");
    }
}

#[test]
fn channels_are_averaged() {
    let frames = 96_000;
    let mut samples = Vec::new();
    for i in 0..frames {
        let s = (20_000.0 * (std::f64::consts::TAU * 500.0 * i as f64 / 96_000.0).sin()) as i16;
        samples.extend([s, s, 0, 0, s, s]);
    }
    let (out, decoded) = decode_all(wav(96_000, 6, &samples), &Limits::default()).unwrap();
    assert_eq!((decoded.channels, decoded.source_rate, out.len()), (6, 96_000, 16_000));
    let a = amplitude(&out[1600..14_400], 16_000.0, 500.0);
    assert!((a - 20_000.0 / 32_768.0 * 4.0 / 6.0).abs() < 0.005, "{a}");
}

#[test]
fn content_and_not_the_name_decides() {
    let mut n = 0;
    let decoded = decode(Cursor::new(fixture("tone.flac")), Some("call.mp3"), &Limits::default(), &mut |s| {
        n += s.len();
        Ok(())
    })
    .unwrap();
    assert_eq!((decoded.container, n), ("flac", 48_000));
}

#[test]
fn a_tag_with_a_large_picture_is_stepped_over() {
    let mut file = b"ID3\x04\0\0\x01\x00\x00\x00".to_vec();
    file.resize(10 + (1 << 21), 0xff);
    file.extend(fixture("tone.mp3"));
    let (samples, decoded) = decode_all(file, &Limits::default()).unwrap();
    assert_eq!(decoded.codec, "mp3");
    assert!(samples.len() > 47_000);
}

#[test]
fn a_sink_can_stop_and_limits_hold_while_decoding() {
    let mut calls = 0;
    let stopped = decode(Cursor::new(fixture("tone.opus")), None, &Limits::default(), &mut |_| {
        calls += 1;
        if calls == 3 { Err(Stop) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(calls, 3);
    for name in ["tone.opus", "tone.mp3", "mulaw.wav"] {
        let limited = decode_all(fixture(name), &Limits { max_seconds: 2 });
        assert!(matches!(limited, Err(Error::TooLong { limit_seconds: 2 })), "{name}");
    }
}

#[test]
fn files_cut_short_yield_their_beginning_and_a_warning() {
    for (name, keep) in
        [("mulaw.wav", 0.5), ("tone.flac", 0.5), ("tone.mp3", 0.5), ("tone.opus", 0.6), ("tone.webm", 0.5)]
    {
        let mut bytes = fixture(name);
        bytes.truncate((bytes.len() as f64 * keep) as usize);
        let (samples, decoded) = decode_all(bytes, &Limits::default()).unwrap();
        assert!((8_000..40_000).contains(&samples.len()), "{name}: {}", samples.len());
        let warned = matches!(decoded.warning, Some(Warning::Truncated { .. } | Warning::Damaged { .. }));
        assert!(warned, "{name}: {:?}", decoded.warning);
    }
}

#[test]
fn a_wav_from_a_pipe_has_no_length_to_miss() {
    let mut bytes = wav(16_000, 1, &[100; 16_000]);
    bytes[4..8].fill(0xff);
    bytes[40..44].fill(0xff);
    let (samples, decoded) = decode_all(bytes, &Limits::default()).unwrap();
    assert_eq!((samples.len(), decoded.warning), (16_000, None));
}

#[test]
fn recordings_decode_to_their_length() {
    let Ok(file) = std::fs::read(path("../shared/data/jfk.flac")) else {
        println!("skipped: ../shared/data is not here");
        return;
    };
    let (samples, decoded) = decode_all(file, &Limits::default()).unwrap();
    assert_eq!((samples.len(), decoded.warning), (176_000, None));
    assert!(rms(&samples) > 0.05);
}
