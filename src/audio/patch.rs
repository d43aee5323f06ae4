//! Lengths in a header that do not match the file, put right before a demuxer trips over them.
//!
//! Recorders that crash, uploads that break off and programs that write to a pipe leave WAV and Matroska
//! files whose outermost length is a placeholder or reaches past the end. The sound in them is good, but
//! symphonia refuses such files; so the demuxer is shown lengths that fit.

use std::io::{self, Read, Seek, SeekFrom};

/// Chunks of a WAV file looked at in search of `data`.
const MAX_CHUNKS: usize = 64;

/// Bytes that replace those of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patch {
    at: u64,
    bytes: [u8; 8],
    len: usize,
}

impl Patch {
    fn new(at: u64, new: &[u8]) -> Self {
        let mut bytes = [0; 8];
        let len = new.len().min(bytes.len());
        bytes[..len].copy_from_slice(&new[..len]);
        Patch { at, bytes, len }
    }

    /// Replaces what of `buf`, read from `at` on, this patch covers.
    pub(super) fn apply(&self, at: u64, buf: &mut [u8]) {
        for (i, &byte) in self.bytes[..self.len].iter().enumerate() {
            let index = (self.at + i as u64).checked_sub(at).and_then(|i| usize::try_from(i).ok());
            if let Some(target) = index.and_then(|i| buf.get_mut(i)) {
                *target = byte;
            }
        }
    }
}

/// What is to be replaced, and what share of the length that the header promises is there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Mend {
    pub(super) patches: Vec<Patch>,
    /// Below 1 if the file was cut short; `None` if the header makes no promise.
    pub(super) present: Option<f64>,
}

/// Looks for lengths that do not fit a file of `len` bytes from `start` on.
pub(super) fn mend<R: Read + Seek>(file: &mut R, start: u64, len: u64, head: &[u8]) -> io::Result<Mend> {
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WAVE") {
        return wave(file, start, len);
    }
    if head.starts_with(b"\x1a\x45\xdf\xa3") {
        return Ok(matroska(head, len).unwrap_or_default());
    }
    Ok(Mend { patches: Vec::new(), present: Some(1.0) })
}

/// Finds the `data` chunk and fits it, and the RIFF chunk around it, to the file.
fn wave<R: Read + Seek>(file: &mut R, start: u64, len: u64) -> io::Result<Mend> {
    let mut at = 12u64;
    let mut outer = [0u8; 4];
    file.seek(SeekFrom::Start(start + 4))?;
    file.read_exact(&mut outer)?;
    let outer = u64::from(u32::from_le_bytes(outer));
    for _ in 0..MAX_CHUNKS {
        let mut header = [0u8; 8];
        if at + 8 > len {
            break;
        }
        file.seek(SeekFrom::Start(start + at))?;
        file.read_exact(&mut header)?;
        let [k0, k1, k2, k3, s0, s1, s2, s3] = header;
        let size = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
        if [k0, k1, k2, k3] != *b"data" {
            at += 8 + size + size % 2;
            continue;
        }
        let rest = len - at - 8;
        let placeholder = size >= 0x7fff_0000 || (size == 0 && outer <= at);
        if size <= rest && outer + 8 <= len && !placeholder {
            return Ok(Mend { patches: Vec::new(), present: Some(1.0) });
        }
        // A whole data chunk keeps its length; one that is not, or is not known, ends with the file.
        let fitted = u32::try_from(if placeholder { rest } else { size.min(rest) }).unwrap_or(u32::MAX - 64);
        let outer = u32::try_from(len - 8).unwrap_or(u32::MAX - 1);
        let patches = vec![Patch::new(4, &outer.to_le_bytes()), Patch::new(at + 4, &fitted.to_le_bytes())];
        let present = (!placeholder).then(|| rest.min(size) as f64 / size.max(1) as f64);
        return Ok(Mend { patches, present });
    }
    Ok(Mend { patches: Vec::new(), present: Some(1.0) })
}

/// Makes the length of a Segment that reaches past the end unknown, as in a live stream.
fn matroska(head: &[u8], len: u64) -> Option<Mend> {
    let (size, n) = vint(head.get(4..)?)?;
    let segment = 4 + n as u64 + size;
    let rest = head.get(usize::try_from(segment).ok()?..)?.strip_prefix(b"\x18\x53\x80\x67")?;
    let (size, n) = vint(rest)?;
    let data = segment + 4 + n as u64;
    let unknown = (1u64 << (7 * n)) - 1;
    if size == unknown {
        return Some(Mend::default());
    }
    if data.checked_add(size)? <= len {
        return Some(Mend { patches: Vec::new(), present: Some(1.0) });
    }
    let bytes = (unknown | 1 << (7 * n)).to_be_bytes();
    let mut patches = vec![Patch::new(segment + 4, bytes.get(8 - n..)?)];
    patches.extend(head.get(usize::try_from(data).ok()?..).and_then(|first| void_index(data, first)));
    Some(Mend { patches, present: Some(len.saturating_sub(data) as f64 / size as f64) })
}

/// Makes the index in front of a Segment (SeekHead) padding (Void) of the same length: what it points to lies
/// behind the cut, and is not needed.
fn void_index(at: u64, element: &[u8]) -> Option<Patch> {
    let (size, n) = vint(element.strip_prefix(b"\x11\x4d\x9b\x74")?)?;
    // The mark of SeekHead takes 4 bytes, that of Void 1: the length takes the other 3.
    let n = n + 3;
    if n > 7 {
        return None;
    }
    let length = (size | 1 << (7 * n)).to_be_bytes();
    let mut bytes = vec![0xec];
    bytes.extend(length.get(8 - n..)?);
    Some(Patch::new(at, &bytes))
}

/// An EBML number and how many bytes it takes.
fn vint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let n = first.leading_zeros() as usize + 1;
    let bytes = bytes.get(..n).filter(|_| n <= 8)?;
    let value = bytes.iter().fold(0u64, |v, &b| v << 8 | u64::from(b));
    Some((value & ((1 << (7 * n)) - 1), n))
}
