//! Tests of the whole way from a file to energies. Fixtures and the commands that made them are in
//! `tests/data/audio` and `tests/golden/audio`.

mod fbank;
mod files;
mod hostile;
mod mel;
mod resample;

use std::io::Cursor;
use std::path::PathBuf;

use super::{Decoded, Error, Limits, decode};

/// A path in the clone.
fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// A committed fixture.
fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(path("tests/data/audio").join(name)).unwrap()
}

/// Decodes bytes and keeps the samples, checking what the contract promises of every chunk.
fn decode_all(bytes: Vec<u8>, limits: &Limits) -> Result<(Vec<f32>, Decoded), Error> {
    let mut all = Vec::new();
    let decoded = decode(Cursor::new(bytes), None, limits, &mut |samples| {
        assert!(!samples.is_empty() && samples.len() <= 4096);
        assert!(samples.iter().all(|s| (-1.0..=1.0).contains(s)));
        all.extend_from_slice(samples);
        Ok(())
    })?;
    assert_eq!(decoded.samples, all.len() as u64);
    Ok((all, decoded))
}

/// A WAV file of 16-bit samples.
fn wav(rate: u32, channels: u16, samples: &[i16]) -> Vec<u8> {
    wav_of(1, 16, rate, channels, &samples.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>())
}

/// A WAV file of any format tag.
fn wav_of(tag: u16, bits: u16, rate: u32, channels: u16, data: &[u8]) -> Vec<u8> {
    let block = channels * bits.div_ceil(8);
    let mut out = b"RIFF".to_vec();
    out.extend((36 + data.len() as u32).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0");
    out.extend(tag.to_le_bytes());
    out.extend(channels.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend(rate.wrapping_mul(u32::from(block)).to_le_bytes());
    out.extend(block.to_le_bytes());
    out.extend(bits.to_le_bytes());
    out.extend(b"data");
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

/// Root of the mean square.
fn rms(samples: &[f32]) -> f32 {
    (samples.iter().map(|s| s * s).sum::<f32>() / samples.len().max(1) as f32).sqrt()
}

/// How much of `samples` is a tone of `hz`: amplitude of that tone.
fn amplitude(samples: &[f32], rate: f64, hz: f64) -> f64 {
    let (mut re, mut im) = (0.0, 0.0);
    for (i, &s) in samples.iter().enumerate() {
        let phase = std::f64::consts::TAU * hz * i as f64 / rate;
        re += f64::from(s) * phase.cos();
        im += f64::from(s) * phase.sin();
    }
    2.0 * (re * re + im * im).sqrt() / samples.len().max(1) as f64
}

/// A page of an Ogg stream; no packet may be longer than 254 bytes times 255.
fn ogg_page(sequence: u32, granule: u64, flags: u8, packets: &[&[u8]]) -> Vec<u8> {
    let mut lacing = Vec::new();
    for p in packets {
        lacing.extend(std::iter::repeat_n(255u8, p.len() / 255));
        lacing.push((p.len() % 255) as u8);
    }
    let mut page = b"OggS\0".to_vec();
    page.push(flags);
    page.extend(granule.to_le_bytes());
    page.extend(1u32.to_le_bytes());
    page.extend(sequence.to_le_bytes());
    page.extend([0; 4]);
    page.push(lacing.len() as u8);
    page.extend(lacing);
    packets.iter().for_each(|p| page.extend_from_slice(p));
    let crc = page.iter().fold(0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b) << 24, |c, _| if c >> 31 == 1 { c << 1 ^ 0x04c1_1db7 } else { c << 1 })
    });
    page[22..26].copy_from_slice(&crc.to_le_bytes());
    page
}
