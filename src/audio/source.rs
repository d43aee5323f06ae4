//! The bytes of a file as demuxers read them: what they look like, where the audio begins in them, and how
//! many of them may be read.

use std::io::{self, Read, Seek, SeekFrom};

use symphonia::core::io::MediaSource;

use super::error::Error;

/// Bytes looked at to tell what a file is.
const HEAD: usize = 4096;
/// ID3v2 tags in front of the audio that are stepped over before it counts as garbage.
const MAX_ID3_TAGS: usize = 8;
/// A demuxer may read each byte this many times (interleaved files are read back and forth) ...
const MAX_READS_PER_BYTE: u64 = 64;
/// ... and this many more, so that small files are not held to a small budget.
const READ_ALLOWANCE: u64 = 64 << 20;

/// A file from the first byte of its audio container on.
///
/// Reads are counted: a demuxer that a hostile file sends in circles gets an I/O error once the budget is
/// spent, so decoding ends whatever the file says.
pub(super) struct Source<R> {
    inner: R,
    start: u64,
    len: u64,
    budget: u64,
    facts: Facts,
}

/// What the first bytes tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// The container, if its mark is there.
    pub(super) container: Option<&'static str>,
    /// False for a WAV that was written to a pipe, whose lengths are placeholders.
    pub(super) length_known: bool,
}

impl<R> Source<R> {
    pub(super) fn facts(&self) -> Facts {
        self.facts
    }
}

/// Opens a file: tells what it is by its content and steps over ID3v2 tags.
pub(super) fn open<R: Read + Seek>(mut inner: R) -> Result<Source<R>, Error> {
    let total = inner.seek(SeekFrom::End(0))?;
    if total == 0 {
        return Err(Error::Empty);
    }
    let start = skip_id3(&mut inner, total)?;
    let mut head = vec![0u8; HEAD];
    inner.seek(SeekFrom::Start(start))?;
    let n = read_up_to(&mut inner, &mut head)?;
    head.truncate(n);
    check_head(&head)?;
    let facts = Facts { container: container(&head), length_known: length_known(&head) };
    inner.seek(SeekFrom::Start(start))?;
    let len = total - start;
    let budget = len.saturating_mul(MAX_READS_PER_BYTE).saturating_add(READ_ALLOWANCE);
    Ok(Source { inner, start, len, budget, facts })
}

/// Position of the first byte after any ID3v2 tags. A cover picture of megabytes would otherwise exhaust the
/// prober, and nothing in a tag matters here.
fn skip_id3<R: Read + Seek>(inner: &mut R, total: u64) -> Result<u64, Error> {
    let mut start = 0;
    for _ in 0..MAX_ID3_TAGS {
        let mut header = [0u8; 10];
        inner.seek(SeekFrom::Start(start))?;
        if read_up_to(inner, &mut header)? < header.len() || !header.starts_with(b"ID3") {
            break;
        }
        let [.., a, b, c, d] = header;
        let size = [a, b, c, d].iter().fold(0u64, |size, &byte| size << 7 | u64::from(byte & 0x7f));
        let footer = if header[5] & 0x10 != 0 { 10 } else { 0 };
        let next = start + 10 + size + footer;
        if next >= total {
            // The tag is all there is, or it lies about its size: there is no audio to find.
            return Err(Error::ZeroLength { container: "mp3" });
        }
        start = next;
    }
    Ok(start)
}

fn read_up_to<R: Read>(inner: &mut R, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match inner.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(read) => n += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// The container that the content is marked as.
fn container(head: &[u8]) -> Option<&'static str> {
    const MARKS: &[(usize, &[u8], &str)] = &[
        (0, b"RIFF", "wave"),
        (0, b"fLaC", "flac"),
        (0, b"OggS", "ogg"),
        (0, b"\x1a\x45\xdf\xa3", "matroska"),
        (4, b"ftyp", "mp4"),
        (4, b"moov", "mp4"),
        (4, b"mdat", "mp4"),
        (4, b"wide", "mp4"),
        (0, b"FORM", "aiff"),
        (0, b"caff", "caf"),
        (0, b"\xff\xfb", "mp3"),
        (0, b"\xff\xf3", "mp3"),
        (0, b"\xff\xf1", "aac"),
        (0, b"\xff\xf9", "aac"),
    ];
    MARKS.iter().find(|(at, mark, _)| head.get(*at..).is_some_and(|h| h.starts_with(mark))).map(|m| m.2)
}

/// Programs that write WAV to a pipe cannot come back for the length and leave a very large one.
fn length_known(head: &[u8]) -> bool {
    match head {
        [b'R', b'I', b'F', b'F', a, b, c, d, ..] => {
            !matches!(u32::from_le_bytes([*a, *b, *c, *d]), 0 | 0x7fff_0000..)
        }
        _ => true,
    }
}

/// Refuses what is plainly not audio, or audio that cannot be decoded, by name. Passes everything else.
fn check_head(head: &[u8]) -> Result<(), Error> {
    const UNSUPPORTED: &[(&[u8], &str)] = &[
        (b"#!AMR", "AMR audio"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (asf, wma)"),
        (b"MThd", "MIDI"),
        (b"wvpk", "WavPack audio"),
        (b"MAC ", "Monkey's Audio"),
        (b".snd", "Sun audio (au)"),
        (b"FLV\x01", "Flash video"),
        (b"RF64", "RF64 (64-bit wav)"),
        (b"MPCK", "Musepack audio"),
        (b"MP+", "Musepack audio"),
    ];
    const OTHER: &[(&[u8], &str)] = &[
        (b"%PDF", "a PDF document"),
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"\xff\xd8\xff\xe1", "a JPEG image"),
        (b"GIF8", "a GIF image"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"BZh", "a bzip2 archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\xfd7zXZ", "an xz archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
        (b"\x7fELF", "a program"),
        (b"SQLite format 3", "a database"),
    ];
    if let Some((_, what)) = UNSUPPORTED.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(Error::Unsupported { what: (*what).to_owned() });
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ") {
        return Err(Error::Unsupported { what: "AVI video".to_owned() });
    }
    if let Some((_, looks_like)) = OTHER.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(Error::NotAudio { looks_like });
    }
    if head.iter().all(|&b| b == 0) {
        return Err(Error::NotAudio { looks_like: "zero bytes" });
    }
    match text_like(head) {
        Some(looks_like) => Err(Error::NotAudio { looks_like }),
        None => Ok(()),
    }
}

/// What kind of text this is, if it is text: UTF-8 (a character may be cut at the end) without control
/// characters. No audio container passes: each has a zero or an invalid byte in its first bytes.
fn text_like(head: &[u8]) -> Option<&'static str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() && e.valid_up_to() > 0 => {
            std::str::from_utf8(head.get(..e.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{c}')) {
        return None;
    }
    let start = text.trim_start_matches(['\u{feff}', ' ', '\n', '\r', '\t']);
    let lower: String = start.chars().take(16).flat_map(char::to_lowercase).collect();
    Some(if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        "a web page (HTML)"
    } else if lower.starts_with("<?xml") {
        "XML text"
    } else if lower.starts_with('{') || lower.starts_with('[') {
        "JSON text"
    } else {
        "plain text"
    })
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.budget == 0 {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the file sends its reader in circles"));
        }
        let n = self.inner.read(buf)?;
        self.budget = self.budget.saturating_sub(n as u64);
        Ok(n)
    }
}

impl<R: Seek> Seek for Source<R> {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        // Each seek costs as much as a small read: seeking in circles ends as well.
        self.budget = self.budget.saturating_sub(64);
        let pos = match pos {
            SeekFrom::Start(at) => SeekFrom::Start(at.saturating_add(self.start)),
            other => other,
        };
        let at = self.inner.seek(pos)?;
        at.checked_sub(self.start)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start of the audio"))
    }
}

impl<R: Read + Seek + Send + Sync> MediaSource for Source<R> {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len)
    }
}
