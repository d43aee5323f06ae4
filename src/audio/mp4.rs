//! Where the sound of an MP4 file begins.
//!
//! AAC encoders put 1024 to 2112 samples of delay in front and say so in an edit list (ISO 14496-12, 8.6.6),
//! which symphonia does not apply. Without it every time in a transcript is up to 50 ms late.

use std::io::{Read, Seek, SeekFrom};

use super::error::Error;

/// Boxes looked at before the search is given up.
const MAX_BOXES: u32 = 4096;
/// A longer cut is an editor's, not an encoder's, and is not applied.
const MAX_DELAY_SECONDS: f64 = 1.0;

/// Seconds to drop from the front of the first sound track, if the file says so. Leaves `file` at its start;
/// a file that makes no sense gives `None`: the demuxer will say what is wrong with it.
pub(super) fn audio_delay<R: Read + Seek>(file: &mut R) -> Result<Option<f64>, Error> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut walk = Walk { file, boxes: 0 };
    let delay = walk.find_moov(end);
    file.seek(SeekFrom::Start(0))?;
    Ok(delay.filter(|d| *d > 0.0 && *d <= MAX_DELAY_SECONDS))
}

/// What was found of one track.
#[derive(Default)]
struct Trak {
    is_sound: bool,
    timescale: Option<u32>,
    media_time: Option<i64>,
}

struct Walk<'a, R> {
    file: &'a mut R,
    boxes: u32,
}

impl<R: Read + Seek> Walk<'_, R> {
    fn find_moov(&mut self, end: u64) -> Option<f64> {
        let (start, end) = self.children(0, end).into_iter().find(|(kind, ..)| kind == b"moov").map(span)?;
        for (kind, start, end) in self.children(start, end) {
            if &kind != b"trak" {
                continue;
            }
            let mut trak = Trak::default();
            self.read_trak(start, end, &mut trak);
            if trak.is_sound {
                let time = u32::try_from(trak.media_time?).ok()?;
                return Some(f64::from(time) / f64::from(trak.timescale.filter(|&t| t > 0)?));
            }
        }
        None
    }

    /// Reads a track's handler, clock and first edit; `edts` and `mdia` are one level deeper.
    fn read_trak(&mut self, start: u64, end: u64, trak: &mut Trak) {
        for (kind, start, end) in self.children(start, end) {
            match &kind {
                b"edts" | b"mdia" => self.read_trak(start, end, trak),
                b"hdlr" => trak.is_sound = self.bytes::<12>(start, end).is_some_and(|b| b.ends_with(b"soun")),
                b"mdhd" => {
                    let v0 = self.bytes::<16>(start, end);
                    let v1 = self.bytes::<24>(start, end);
                    let clock = match (v0, v1) {
                        (Some([0, .., a, b, c, d]), _) => Some([a, b, c, d]),
                        (Some([1, ..]), Some([.., a, b, c, d])) => Some([a, b, c, d]),
                        _ => None,
                    };
                    trak.timescale = clock.map(u32::from_be_bytes);
                }
                b"elst" => trak.media_time = self.first_edit(start, end),
                _ => {}
            }
        }
    }

    /// Where in the media the first edit begins, if it is the only one.
    fn first_edit(&mut self, start: u64, end: u64) -> Option<i64> {
        let head = self.bytes::<8>(start, end)?;
        if head[4..] != [0, 0, 0, 1] {
            return None;
        }
        match head[0] {
            0 => {
                let [.., a, b, c, d] = self.bytes::<16>(start, end)?;
                Some(i64::from(i32::from_be_bytes([a, b, c, d])))
            }
            1 => {
                let [.., a, b, c, d, e, f, g, h] = self.bytes::<24>(start, end)?;
                Some(i64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => None,
        }
    }

    /// The boxes from `start` to `end`: kind, and where their content lies.
    fn children(&mut self, mut start: u64, end: u64) -> Vec<([u8; 4], u64, u64)> {
        let mut found = Vec::new();
        while self.boxes < MAX_BOXES {
            self.boxes += 1;
            let Some([s0, s1, s2, s3, k0, k1, k2, k3]) = self.bytes::<8>(start, end) else { break };
            let (header, size) = match u32::from_be_bytes([s0, s1, s2, s3]) {
                0 => (8, end - start),
                1 => match self.bytes::<16>(start, end) {
                    Some([.., a, b, c, d, e, f, g, h]) => (16, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
                    None => break,
                },
                size => (8, u64::from(size)),
            };
            let next = match start.checked_add(size) {
                Some(next) if size >= header && next <= end => next,
                _ => break,
            };
            found.push(([k0, k1, k2, k3], start + header, next));
            start = next;
        }
        found
    }

    /// `N` bytes at `start`, if they lie before `end`.
    fn bytes<const N: usize>(&mut self, start: u64, end: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        if start.checked_add(N as u64)? > end {
            return None;
        }
        self.file.seek(SeekFrom::Start(start)).ok()?;
        self.file.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }
}

fn span((_, start, end): ([u8; 4], u64, u64)) -> (u64, u64) {
    (start, end)
}
