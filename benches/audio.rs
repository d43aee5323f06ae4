//! How fast a minute of sound is decoded, and a minute of samples turned into energies.

#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::io::Cursor;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stentor::audio::{Limits, MelExtractor, decode};

const SECONDS: usize = 60;

/// A voice-like sound: a buzz with a moving formant, in words.
fn voice(rate: usize) -> Vec<f32> {
    (0..rate * SECONDS)
        .map(|i| {
            let t = i as f64 / rate as f64;
            let word = (t * 2.0).fract() < 0.7;
            let buzz: f64 = (1..20)
                .map(|h| {
                    (std::f64::consts::TAU * 120.0 * f64::from(h) * t).sin() / (1.0 + f64::from(h - 6).abs())
                })
                .sum();
            if word { (buzz * 0.2) as f32 } else { 0.0 }
        })
        .collect()
}

fn wav(rate: u32, samples: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|s| ((s * 32767.0) as i16).to_le_bytes()).collect();
    let mut out = b"RIFF".to_vec();
    out.extend((36 + data.len() as u32).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    out.extend(rate.to_le_bytes());
    out.extend((rate * 2).to_le_bytes());
    out.extend(b"\x02\0\x10\0data");
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

/// Ogg Opus, 20 ms a packet, 50 packets a page.
fn opus(samples: &[f32]) -> Vec<u8> {
    let mut encoder = ropus::Encoder::builder(48_000, ropus::Channels::Mono, ropus::Application::Voip)
        .build()
        .expect("encoder");
    let mut packet = vec![0u8; 4000];
    let packets: Vec<Vec<u8>> = samples
        .chunks_exact(960)
        .map(|frame| {
            let n = encoder.encode_float(frame, &mut packet).expect("encode");
            packet[..n].to_vec()
        })
        .collect();
    let mut file = page(0, 0, 2, &[b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0".to_vec()]);
    file.extend(page(1, 0, 0, &[b"OpusTags\0\0\0\0\0\0\0\0".to_vec()]));
    for (i, group) in packets.chunks(50).enumerate() {
        file.extend(page(i as u32 + 2, (i as u64 * 50 + group.len() as u64) * 960, 0, group));
    }
    file
}

fn page(sequence: u32, granule: u64, flags: u8, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut lacing = Vec::new();
    for p in packets {
        lacing.extend(std::iter::repeat_n(255u8, p.len() / 255));
        lacing.push((p.len() % 255) as u8);
    }
    let mut out = b"OggS\0".to_vec();
    out.push(flags);
    out.extend(granule.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(sequence.to_le_bytes());
    out.extend([0; 4]);
    out.push(lacing.len() as u8);
    out.extend(lacing);
    packets.iter().for_each(|p| out.extend(p));
    let crc = out.iter().fold(0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b) << 24, |c, _| if c >> 31 == 1 { c << 1 ^ 0x04c1_1db7 } else { c << 1 })
    });
    out[22..26].copy_from_slice(&crc.to_le_bytes());
    out
}

fn benches(c: &mut Criterion) {
    let voice48 = voice(48_000);
    let files = [
        ("wav 16 kHz", wav(16_000, &voice(16_000))),
        ("wav 44.1 kHz", wav(44_100, &voice(44_100))),
        ("wav 48 kHz", wav(48_000, &voice48)),
        ("opus", opus(&voice48)),
    ];
    let mut group = c.benchmark_group("audio/decode 60 s");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(SECONDS as u64));
    for (name, file) in files {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut n = 0;
                let decoded = decode(Cursor::new(file.clone()), None, &Limits::default(), &mut |s| {
                    n += s.len();
                    Ok(())
                });
                black_box((n, decoded.expect("decodes")))
            });
        });
    }
    group.finish();

    let samples = voice(16_000);
    let mut group = c.benchmark_group("audio/mel 60 s");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(SECONDS as u64));
    for bins in [80, 128] {
        group.bench_function(format!("{bins} bins"), |b| {
            b.iter(|| {
                let mut mel = MelExtractor::new(bins);
                samples.chunks(4096).for_each(|chunk| mel.push(chunk));
                black_box(mel.finish())
            });
        });
    }
    group.finish();
}

criterion_group!(audio, benches);
criterion_main!(audio);
