//! Opus (RFC 6716, RFC 7845) through `ropus`, a port of the reference decoder without C.
//!
//! The stream's own header says how many samples of encoder delay to drop from the front (pre-skip), how loud
//! to play and how channels map. Output is at 48 kHz, Opus' own clock.

use ropus::opus::multistream::OpusMSDecoder;
use ropus::{Channels, DecodeMode, Decoder};

/// Opus counts everything in samples at this rate.
pub(super) const RATE: u32 = 48_000;
/// Most samples of one packet: 120 ms.
const MAX_FRAMES: usize = RATE as usize * 120 / 1000;
/// Most channels of a mapping with a meaning (family 1).
const MAX_CHANNELS: usize = 8;

/// The identification header.
///
/// | bytes | field |
/// |---|---|
/// | 0..8 | `OpusHead` |
/// | 8 | version: 1 in Ogg and Matroska, 0 in MP4, whose numbers are big-endian |
/// | 9 | channels |
/// | 10..12 | pre-skip, samples at 48 kHz |
/// | 12..16 | rate of the original, not used |
/// | 16..18 | output gain, 1/256 dB, signed |
/// | 18 | mapping family; unless 0: streams, coupled streams, one index a channel |
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) channels: usize,
    pub(super) pre_skip: u32,
    gain: i16,
    streams: u8,
    coupled: u8,
    mapping: Vec<u8>,
}

impl Head {
    /// Reads the header, or says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Head, &'static str> {
        let body = bytes.strip_prefix(b"OpusHead").ok_or("no Opus header")?;
        let &[version, channels, s0, s1, _, _, _, _, g0, g1, family, ref table @ ..] = body else {
            return Err("Opus header cut short");
        };
        if version & 0xf0 != 0 {
            return Err("unknown version of the Opus header");
        }
        let u16_of =
            |a, b| if version == 0 { u16::from_be_bytes([a, b]) } else { u16::from_le_bytes([a, b]) };
        let count = usize::from(channels);
        let (streams, coupled, mapping) = match (family, table) {
            (0, _) if (1..=2).contains(&count) => (1, channels - 1, (0..channels).collect()),
            (1, &[streams, coupled, ref map @ ..]) if (1..=MAX_CHANNELS).contains(&count) => {
                (streams, coupled, map.get(..count).ok_or("Opus channel table cut short")?.to_vec())
            }
            _ => return Err("Opus channel mapping not supported"),
        };
        let decoded = u16::from(streams) + u16::from(coupled);
        if streams == 0 || coupled > streams || usize::from(streams) > MAX_CHANNELS {
            return Err("Opus stream counts contradict each other");
        }
        if mapping.iter().any(|&m| m != 255 && u16::from(m) >= decoded) {
            return Err("Opus channel table names a stream that is not there");
        }
        Ok(Head {
            channels: count,
            pre_skip: u32::from(u16_of(s0, s1)),
            gain: u16_of(g0, g1) as i16,
            streams,
            coupled,
            mapping,
        })
    }

    /// Whether one decoder gives the channels as they are.
    fn is_simple(&self) -> bool {
        self.streams == 1
            && match self.mapping.as_slice() {
                [0] => true,
                [0, 1] => self.coupled == 1,
                _ => false,
            }
    }
}

enum Inner {
    Simple(Box<Decoder>),
    Multi(Box<OpusMSDecoder>, Vec<i16>),
}

/// One Opus stream: packets in, mono samples at 48 kHz out.
pub(super) struct OpusStream {
    head: Head,
    inner: Inner,
    pcm: Vec<f32>,
    /// Samples still to be dropped from the front.
    skip: usize,
}

impl OpusStream {
    /// A decoder for the stream that `header` introduces.
    pub(super) fn new(header: &[u8]) -> Result<Self, &'static str> {
        let head = Head::parse(header)?;
        let inner = new_inner(&head)?;
        let pcm = vec![0.0; MAX_FRAMES * head.channels];
        let skip = head.pre_skip as usize;
        Ok(OpusStream { head, inner, pcm, skip })
    }

    pub(super) fn channels(&self) -> usize {
        self.head.channels
    }

    /// Starts with fresh decoder state, as after a packet that broke it. Nothing more is skipped.
    pub(super) fn reset(&mut self) {
        if let Ok(inner) = new_inner(&self.head) {
            self.inner = inner;
        }
    }

    /// Decodes one packet and appends the mean of its channels to `out`, without the last `trim_end` samples.
    /// Returns how many samples the packet lasts, trimmed ones included.
    pub(super) fn decode(
        &mut self,
        packet: &[u8],
        trim_end: u64,
        out: &mut Vec<f32>,
    ) -> Result<usize, &'static str> {
        if packet.is_empty() {
            return Err("empty Opus packet");
        }
        let channels = self.head.channels;
        let frames = match &mut self.inner {
            Inner::Simple(decoder) => decoder
                .decode_float(packet, &mut self.pcm, DecodeMode::Normal)
                .map_err(|_| "invalid Opus packet")?,
            Inner::Multi(decoder, pcm) => {
                let len = i32::try_from(packet.len()).map_err(|_| "Opus packet too large")?;
                let frames = decoder
                    .decode(Some(packet), len, pcm, MAX_FRAMES as i32, false)
                    .map_err(|_| "invalid Opus packet")?;
                for (f, &i) in self.pcm.iter_mut().zip(pcm.iter()) {
                    *f = f32::from(i) / 32768.0;
                }
                usize::try_from(frames).unwrap_or(0)
            }
        }
        .min(MAX_FRAMES);
        let end = frames.saturating_sub(usize::try_from(trim_end).unwrap_or(usize::MAX));
        let start = self.skip.min(frames);
        self.skip -= start;
        let heard = self.pcm.get(start * channels..end.max(start) * channels).unwrap_or_default();
        super::mix::down(heard, channels, out);
        Ok(frames)
    }
}

fn new_inner(head: &Head) -> Result<Inner, &'static str> {
    let failed = "the Opus decoder could not be set up";
    if head.is_simple() {
        let channels = if head.channels == 1 { Channels::Mono } else { Channels::Stereo };
        let mut decoder = Decoder::new(RATE, channels).map_err(|_| failed)?;
        if head.gain != 0 {
            decoder.set_gain(i32::from(head.gain)).map_err(|_| failed)?;
        }
        return Ok(Inner::Simple(Box::new(decoder)));
    }
    let channels = i32::try_from(head.channels).map_err(|_| failed)?;
    let decoder = OpusMSDecoder::new(
        RATE as i32,
        channels,
        i32::from(head.streams),
        i32::from(head.coupled),
        &head.mapping,
    )
    .map_err(|_| failed)?;
    Ok(Inner::Multi(Box::new(decoder), vec![0; MAX_FRAMES * head.channels]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: u8, channels: u8, family: &[u8]) -> Vec<u8> {
        let mut h = b"OpusHead".to_vec();
        h.extend([version, channels, 0x38, 0x01, 0x80, 0xbb, 0, 0, 0, 0]);
        h.extend(family);
        h
    }

    #[test]
    fn reads_the_header_of_ogg_and_of_mp4() {
        let ogg = Head::parse(&head(1, 2, &[0])).unwrap();
        assert_eq!((ogg.channels, ogg.pre_skip), (2, 312));
        let mp4 = Head::parse(&head(0, 1, &[0])).unwrap();
        assert_eq!(mp4.pre_skip, 0x3801);
    }

    #[test]
    fn refuses_headers_that_contradict_themselves() {
        for (bytes, why) in [
            (head(1, 3, &[0]), "three channels in family 0"),
            (head(1, 0, &[0]), "no channel"),
            (head(16, 1, &[0]), "a version to come"),
            (head(1, 6, &[1, 4, 2, 0, 4, 1]), "a table cut short"),
            (head(1, 2, &[1, 1, 2, 0, 1]), "more coupled streams than streams"),
            (head(1, 2, &[1, 1, 1, 0, 7]), "a stream that is not there"),
            (head(1, 9, &[1, 9, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]), "nine channels"),
            (b"OpusHead\x01".to_vec(), "cut short"),
        ] {
            assert!(Head::parse(&bytes).is_err(), "{why}");
        }
        assert!(Head::parse(&head(1, 6, &[1, 4, 2, 0, 4, 1, 2, 3, 5])).is_ok());
    }

    #[test]
    fn drops_pre_skip_and_trim_and_survives_garbage() {
        let mut encoder =
            ropus::Encoder::builder(48_000, Channels::Mono, ropus::Application::Voip).build().unwrap();
        let mut stream = OpusStream::new(&head(1, 1, &[0])).unwrap();
        let mut out = Vec::new();
        let mut packet = [0u8; 1500];
        let n = encoder.encode(&[0i16; 960], &mut packet).unwrap();
        assert_eq!(stream.decode(&packet[..n], 0, &mut out), Ok(960));
        assert_eq!(out.len(), 960 - 312);
        assert_eq!(stream.decode(&packet[..n], 100, &mut out), Ok(960));
        assert_eq!(out.len(), 2 * 960 - 312 - 100);
        assert!(stream.decode(&[], 0, &mut out).is_err());
        assert!(stream.decode(&[0xff; 3], 0, &mut out).is_err());
        assert_eq!(stream.decode(&packet[..n], u64::MAX, &mut out), Ok(960));
    }
}
