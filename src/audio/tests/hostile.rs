//! Whatever the bytes are: an answer, soon, in bounded memory.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::{Error, Limits};
use super::{decode_all, fixture, ogg_page, wav, wav_of};

const FIXTURES: &[&str] = &[
    "tone.mp3",
    "tone.m4a",
    "video.mp4",
    "tone.aac",
    "tone.ogg",
    "tone.opus",
    "tone.webm",
    "vorbis.mkv",
    "tone-opus.mp4",
    "tone.flac",
    "alac.m4a",
    "mulaw.wav",
    "adpcm.wav",
    "speech-5.1.opus",
    "silent-video.mp4",
];

fn error(bytes: Vec<u8>) -> Error {
    decode_all(bytes, &Limits::default()).expect_err("must not decode")
}

#[test]
fn what_is_not_audio_is_named() {
    assert!(matches!(error(Vec::new()), Error::Empty));
    for (bytes, name) in [
        (&b"Hello, this is my speech."[..], "plain text"),
        (b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe", "plain text"),
        (b"<!DOCTYPE html><html><body>404", "a web page (HTML)"),
        (b"{\"error\": \"expired\"}", "JSON text"),
        (b"%PDF-1.7\n\x80\x81", "a PDF document"),
        (b"PK\x03\x04\x14\0", "a zip archive"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (&[0; 9000], "zero bytes"),
    ] {
        match error(bytes.to_vec()) {
            Error::NotAudio { looks_like } => assert_eq!(looks_like, name),
            other => panic!("{name}: {other}"),
        }
    }
    for (bytes, name) in [(&b"#!AMR\n\x3c\x91\x17"[..], "AMR"), (b"RIFF\x10\0\0\0AVI LIST\0\x80", "AVI")] {
        let e = error(bytes.to_vec());
        assert!(matches!(&e, Error::Unsupported { what } if what.contains(name)), "{e}");
    }
    let noise: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let e = error(noise);
    assert!(matches!(e, Error::Unsupported { .. } | Error::Corrupt { .. }), "{e}");
}

#[test]
fn files_without_sound_say_so() {
    assert!(matches!(error(wav(16_000, 1, &[])), Error::ZeroLength { container: "wave" }));
    assert!(matches!(error(fixture("silent-video.mp4")), Error::NoAudioTrack { .. }));
    assert!(matches!(error(b"ID3\x04\0\0\0\0\0\x05hello".to_vec()), Error::ZeroLength { .. }));
    let (samples, decoded) = decode_all(wav(8_000, 2, &[0; 16_000]), &Limits::default()).unwrap();
    assert_eq!((samples.len(), decoded.warning), (16_000, None));
    assert!(samples.iter().all(|&s| s == 0.0), "silence is audio");
}

#[test]
fn headers_that_lie_are_refused_or_put_right() {
    for (rate, channels) in
        [(0, 1), (4_000_000_000, 1), (u32::MAX, 2), (1, 1), (16_000, 0), (16_000, 999), (16_000, u16::MAX)]
    {
        let e = error(wav_of(1, 8, rate, channels, &[127; 4000]));
        assert!(
            matches!(e, Error::Unsupported { .. } | Error::Corrupt { .. }),
            "{rate} Hz, {channels} channels: {e}"
        );
    }
    // A data chunk that claims more than the file has, and a file that claims less.
    let mut bytes = wav(16_000, 1, &[500; 16_000]);
    bytes[40..44].copy_from_slice(&0x7000_0000u32.to_le_bytes());
    let (samples, decoded) = decode_all(bytes, &Limits::default()).unwrap();
    assert_eq!(samples.len(), 16_000);
    assert!(decoded.warning.is_some());
    // Nothing but a header.
    assert!(matches!(error(b"RIFF\x24\0\0\0WAVE".to_vec()), Error::Corrupt { .. }));
    assert!(matches!(error(b"OggS\0\x02\0\0\x80".to_vec()), Error::Corrupt { .. }));
    assert!(matches!(error(b"fLaC\0\0\0\x22\xff".to_vec()), Error::Corrupt { .. }));
}

#[test]
fn float_samples_that_are_no_numbers_are_silence() {
    let data: Vec<u8> = [f32::NAN, f32::INFINITY, -1e38, 1e38]
        .iter()
        .cycle()
        .take(48_000)
        .flat_map(|s| s.to_le_bytes())
        .collect();
    for rate in [16_000, 48_000] {
        decode_all(wav_of(3, 32, rate, 1, &data), &Limits::default()).unwrap();
    }
}

#[test]
fn damage_in_the_middle_is_passed_over() {
    for name in ["tone.mp3", "tone.opus", "tone.ogg", "tone.flac"] {
        let mut bytes = fixture(name);
        let middle = bytes.len() / 2;
        bytes[middle..middle + 60].fill(0x55);
        let (samples, _) = decode_all(bytes, &Limits::default()).unwrap();
        assert!(samples.len() > 32_000, "{name}: only {} samples", samples.len());
        if matches!(name, "tone.opus" | "tone.ogg") {
            // Their pages last a second each, and time is right again a page after a lost one.
            continue;
        }
        // What follows the damage keeps its time: 1000 Hz from 2.0 s on, and nothing before.
        let at = |t: usize| super::amplitude(&samples[t..t + 1600], 16_000.0, 1000.0);
        assert!(at(37_000) > 0.2 && at(29_500) < 0.02, "{name}: {} {}", at(37_000), at(29_500));
    }
}

/// Speech in small pages, one of them lost: what follows the next is in its place.
#[test]
fn a_lost_page_does_not_shift_what_follows() {
    let mut encoder =
        ropus::Encoder::builder(48_000, ropus::Channels::Mono, ropus::Application::Audio).build().unwrap();
    let mut packet = [0u8; 1500];
    let mut file = ogg_page(0, 0, 2, &[b"OpusHead\x01\x01\0\0\x80\xbb\0\0\0\0\0"]);
    file.extend(ogg_page(1, 0, 0, &[b"OpusTags\0\0\0\0\0\0\0\0"]));
    for i in 0..20u32 {
        let packets: Vec<Vec<u8>> = (0..5)
            .map(|k| {
                let frame: Vec<f32> = (0..960u32)
                    .map(|j| {
                        let t = (i * 4800 + k * 960 + j) as f32 / 48_000.0;
                        if t < 1.5 { 0.0 } else { 0.5 * (std::f32::consts::TAU * 1000.0 * t).sin() }
                    })
                    .collect();
                let n = encoder.encode_float(&frame, &mut packet).unwrap();
                packet[..n].to_vec()
            })
            .collect();
        let refs: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        if i != 7 {
            file.extend(ogg_page(i + 2, u64::from(i + 1) * 4800, if i == 19 { 4 } else { 0 }, &refs));
        }
    }
    let (samples, decoded) = decode_all(file, &Limits::default()).unwrap();
    assert!(samples.len().abs_diff(32_000) <= 160, "{} samples, {:?}", samples.len(), decoded.warning);
    let at = |t: usize| super::amplitude(&samples[t..t + 800], 16_000.0, 1000.0);
    assert!(at(24_400) > 0.4 && at(23_000) < 0.02, "{} {}", at(24_400), at(23_000));
}

/// An Opus file of one packet of silence repeated: hours in a few kilobytes.
#[test]
fn a_decode_bomb_stops_at_the_limit() {
    let mut file = ogg_page(0, 0, 2, &[b"OpusHead\x01\x01\0\0\x80\xbb\0\0\0\0\0"]);
    file.extend(ogg_page(1, 0, 0, &[b"OpusTags\0\0\0\0\0\0\0\0"]));
    // 48 frames of 2.5 ms in three bytes.
    let packet: &[u8] = &[0xe3, 48];
    for i in 0..400u64 {
        file.extend(ogg_page(2 + i as u32, (i + 1) * 255 * 5760, 0, &[packet; 255]));
    }
    assert!(file.len() < 400_000);
    let start = Instant::now();
    let outcome = decode_all(file, &Limits { max_seconds: 60 });
    assert!(matches!(outcome, Err(Error::TooLong { limit_seconds: 60 })), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn every_cut_of_every_file_has_an_answer() {
    for name in FIXTURES {
        let whole = fixture(name);
        for at in (0..whole.len()).step_by(whole.len() / 60 + 1).chain(0..64.min(whole.len())) {
            let _ = decode_all(whole[..at].to_vec(), &Limits { max_seconds: 10 });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 50, ..ProptestConfig::default() })]

    /// Bytes changed anywhere, most of them in the headers, where they do most harm.
    #[test]
    fn damaged_files_have_an_answer(
        which in 0..FIXTURES.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = fixture(FIXTURES[which]);
        for (index, in_header, value) in edits {
            let range = if in_header { bytes.len().min(1200) } else { bytes.len() };
            bytes[index.index(range)] = value;
        }
        let start = Instant::now();
        let _ = decode_all(bytes, &Limits { max_seconds: 10 });
        prop_assert!(start.elapsed() < Duration::from_secs(20), "{} takes {:?}", FIXTURES[which], start.elapsed());
    }

    /// Anything behind the mark of a container.
    #[test]
    fn garbage_behind_a_mark_has_an_answer(mark in 0..6usize, tail in prop::collection::vec(any::<u8>(), 0..3000)) {
        let marks: [&[u8]; 6] = [
            b"RIFF\xff\xff\0\0WAVEfmt ", b"fLaC\0\0\0\x22", b"OggS\0\x02", b"\x1a\x45\xdf\xa3",
            b"\0\0\0\x18ftypisom\0\0\0\0mp41isom\0\x01\0\0moov", b"\xff\xfb\x90\x00",
        ];
        let mut bytes = marks[mark].to_vec();
        bytes.extend(tail);
        let _ = decode_all(bytes, &Limits { max_seconds: 10 });
    }
}
