//! How much the streams of a pdf file unpack to, before a library that does not ask unpacks them.
//!
//! Streams are looked for twice: in the bytes before the file is loaded, for loading unpacks some, and among its
//! objects once it is, when those of an encrypted file are legible. Pictures are not decoded here, and may have more
//! room than the rest; they are measured because nothing keeps a file from calling a font a picture.
//!
//! Not seen is what loading unpacks of an encrypted file: streams of objects. The size of the file is their bound.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::{DeflateDecoder, ZlibDecoder};
use hayro_interpret::hayro_syntax::Filter;
use hayro_interpret::hayro_syntax::Pdf;
use hayro_interpret::hayro_syntax::object::{Array, Name, Object, ObjectIdentifier, Stream};
use hayro_interpret::hayro_syntax::page::Page;

use super::super::budget::Budget;
use super::super::kind::find;
use super::super::{Error, Kind};

/// Compressed in compressed; more is not written by any program.
const LAYERS: usize = 3;
/// So much more room have pictures.
const PICTURES: usize = 8;
/// Streams of a file.
const STREAMS: usize = 200_000;
/// Bytes before a stream in which its dictionary is looked for.
const HEAD: usize = 1024;

/// Measures what looks like a stream in the bytes of a file.
pub(super) fn before(bytes: &[u8], budget: &Budget<'_>) -> Result<(), Error> {
    let mut room = Room::new(budget);
    // The end of the stream that is looked at, found once for all that begin before it.
    let (mut at, mut end, mut count) = (0, 0, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| find(rest, b"stream")) {
        let begin = at + found + b"stream".len();
        let head = bytes.get((at + found).saturating_sub(HEAD)..at + found).unwrap_or_default();
        at = begin;
        if head.ends_with(b"end") {
            continue;
        }
        let data = bytes.get(begin..).unwrap_or_default();
        let data = data.strip_prefix(b"\r").unwrap_or(data);
        let data = data.strip_prefix(b"\n").unwrap_or(data);
        count += 1;
        if count > STREAMS {
            return Err(Error::broken(
                Kind::Pdf,
                format!("byte {begin}"),
                format!("it has more than {STREAMS} streams"),
            ));
        }
        if end < begin {
            end = find(data, b"endstream").map_or(bytes.len(), |found| bytes.len() - data.len() + found);
        }
        // What is compressed ends by itself, and may have the word in it.
        let data = if is_zlib(data) {
            data
        } else {
            data.get(..(data.len() + end) - bytes.len()).unwrap_or_default()
        };
        let is_picture = find(head, b"/Image").is_some();
        room.take(data, is_picture, begin)?;
        budget.check(Kind::Pdf, || format!("byte {begin}"))?;
    }
    Ok(())
}

/// The room that is left for streams, and that for pictures.
struct Room<'a> {
    budget: &'a Budget<'a>,
    pictures: usize,
    rest: usize,
}

impl<'a> Room<'a> {
    fn new(budget: &'a Budget<'a>) -> Self {
        let rest = budget.room();
        Room { budget, pictures: rest.saturating_mul(PICTURES), rest }
    }

    /// Takes what `data` unpacks to, and says how much it is.
    fn take(&mut self, data: &[u8], is_picture: bool, place: usize) -> Result<usize, Error> {
        let room = if is_picture { &mut self.pictures } else { &mut self.rest };
        let most = (*room).min(self.budget.room());
        let size = unpacked(data, most, LAYERS).filter(|size| *size <= most);
        let size = size.ok_or_else(|| bomb(self.budget, format!("the stream at byte {place}")))?;
        *room -= size;
        Ok(size)
    }
}

fn bomb(budget: &Budget<'_>, place: String) -> Error {
    Error::Bomb { place, limit: budget.limits.unpacked }
}

/// What each stream unpacks to, by its object.
pub(super) struct Sizes {
    all: HashMap<ObjectIdentifier, usize>,
    /// Of pages so far, each of which keeps its content.
    contents: std::cell::Cell<usize>,
}

impl Sizes {
    /// Measures the streams of a loaded file.
    pub(super) fn measure(pdf: &Pdf, budget: &Budget<'_>) -> Result<Sizes, Error> {
        let mut room = Room::new(budget);
        let mut all = HashMap::new();
        for (at, object) in pdf.objects().into_iter().enumerate() {
            budget.check(Kind::Pdf, || format!("object {at}"))?;
            let Object::Stream(stream) = object else { continue };
            let is_picture = stream.dict().get::<Name<'_>>(b"Subtype").is_some_and(|name| *name == *b"Image");
            let size = measured(&stream, is_picture, &mut room, at)?;
            all.insert(stream.obj_id(), size);
        }
        Ok(Sizes { all, contents: std::cell::Cell::new(0) })
    }

    /// Adds up the content of a page, which may name a stream often.
    pub(super) fn check(&self, page: &Page<'_>, budget: &Budget<'_>, place: &str) -> Result<(), Error> {
        let dict = page.raw();
        let size = |stream: &Stream<'_>| self.all.get(&stream.obj_id()).copied().unwrap_or(0);
        let mut sum = self.contents.get();
        if let Some(stream) = dict.get::<Stream<'_>>(b"Contents") {
            sum = sum.saturating_add(size(&stream));
        } else if let Some(streams) = dict.get::<Array<'_>>(b"Contents") {
            for stream in streams.iter::<Stream<'_>>() {
                sum = sum.saturating_add(size(&stream));
                if sum > budget.limits.unpacked {
                    break;
                }
            }
        }
        self.contents.set(sum);
        if sum > budget.limits.unpacked { Err(bomb(budget, place.to_owned())) } else { Ok(()) }
    }
}

fn measured(stream: &Stream<'_>, is_picture: bool, room: &mut Room<'_>, at: usize) -> Result<usize, Error> {
    let filters = stream.filters();
    let data = stream.raw_data();
    let grows =
        |filter: &Filter| matches!(filter, Filter::FlateDecode | Filter::LzwDecode | Filter::RunLengthDecode);
    let Some(first) = filters.iter().position(grows) else { return Ok(data.len()) };
    let mut plain = data.into_owned();
    for filter in filters.iter().take(first) {
        plain = ascii(&plain, *filter == Filter::AsciiHexDecode);
    }
    // How much is hidden behind these is told by their codes alone, so nothing may be behind them.
    let counted = match filters.get(first) {
        Some(Filter::LzwDecode) => lzw(&plain, true).max(lzw(&plain, false)),
        Some(Filter::RunLengthDecode) => plain.len().saturating_mul(64),
        _ => return room.take(&plain, is_picture, at),
    };
    let most = room.budget.room();
    if counted > most || filters.iter().skip(first + 1).any(grows) {
        return Err(bomb(room.budget, format!("the stream of object {at}")));
    }
    Ok(counted)
}

fn is_zlib(data: &[u8]) -> bool {
    matches!(data, [first, second, ..]
        if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)).is_multiple_of(31))
}

/// How many bytes `data` becomes with all its layers off, or nothing if that is more than `most`.
fn unpacked(data: &[u8], most: usize, layers: usize) -> Option<usize> {
    if !is_zlib(data) {
        // An encoding as letters, which says so by being nothing else.
        let head = data.get(..64.min(data.len())).unwrap_or_default();
        let is_ascii =
            head.len() > 8 && head.iter().all(|byte| matches!(byte, b'!'..=b'z' | b'\r' | b'\n' | b'~'));
        if is_ascii && layers > 0 {
            let is_hex = head.iter().all(|byte| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace());
            return match is_zlib(&ascii(head, is_hex)) {
                true => unpacked(&ascii(data, is_hex), most, layers - 1),
                false => Some(data.len()),
            };
        }
        // Without the header of zlib it is unpacked all the same.
        return Some(count(DeflateDecoder::new(data), most)?.0.max(data.len()));
    }
    let (size, head) = count(ZlibDecoder::new(data), most)?;
    if !is_zlib(&head) || unpacked_head(&head) == 0 {
        return Some(size);
    }
    let mut inner = Vec::new();
    let _ = ZlibDecoder::new(data).take(size as u64).read_to_end(&mut inner);
    layers.checked_sub(1).and_then(|layers| unpacked(&inner, most, layers)).map(|deeper| deeper.max(size))
}

/// What the first bytes of a stream unpack to: text that begins like one unpacks to nothing.
fn unpacked_head(head: &[u8]) -> usize {
    let mut out = [0; 64];
    let mut decoder = ZlibDecoder::new(head);
    decoder.read(&mut out).unwrap_or(0)
}

/// How many bytes come out, and the first of them; nothing if they are more than `most`.
fn count(mut decoder: impl Read, most: usize) -> Option<(usize, Vec<u8>)> {
    let mut buffer = vec![0; 16 << 10];
    let (mut size, mut head) = (0_usize, Vec::new());
    // Damage ends a stream: what comes before it is what others make of it too.
    while let Ok(got @ 1..) = decoder.read(&mut buffer) {
        if size == 0 {
            head.extend_from_slice(buffer.get(..got.min(4096)).unwrap_or_default());
        }
        size += got;
        if size > most {
            return None;
        }
    }
    Some((size, head))
}

/// Letters to bytes: of base 85, or hexadecimal.
fn ascii(data: &[u8], hex: bool) -> Vec<u8> {
    let (base, group, bytes) = if hex { (16_u32, 2, 1) } else { (85, 5, 4) };
    let mut out = Vec::new();
    let (mut value, mut count) = (0_u32, 0);
    for byte in data {
        let digit = match (hex, byte) {
            (false, b'~') | (true, b'>') => break,
            (false, b'z') if count == 0 => {
                out.extend_from_slice(&[0; 4]);
                continue;
            }
            (false, b'!'..=b'u') => u32::from(byte - b'!'),
            (true, byte) if byte.is_ascii_hexdigit() => char::from(*byte).to_digit(16).unwrap_or(0),
            _ => continue,
        };
        value = value.wrapping_mul(base).wrapping_add(digit);
        count += 1;
        if count == group {
            out.extend_from_slice(value.to_be_bytes().get(4 - bytes..).unwrap_or_default());
            (value, count) = (0, 0);
        }
    }
    if count > 1 {
        for _ in count..group {
            value = value.wrapping_mul(base).wrapping_add(base - 1);
        }
        out.extend(value.to_be_bytes().into_iter().skip(4 - bytes).take(count - 1));
    }
    out
}

/// How many bytes LZW makes of `data`; codes grow one early, or not.
fn lzw(data: &[u8], early: bool) -> usize {
    const CLEAR: usize = 256;
    let mut lengths: Vec<usize> = Vec::with_capacity(4096);
    let (mut bits, mut have, mut width) = (0_u32, 0, 9);
    let (mut total, mut last) = (0_usize, 0);
    let mut bytes = data.iter();
    loop {
        while have < width {
            let Some(byte) = bytes.next() else { return total };
            (bits, have) = (bits << 8 | u32::from(*byte), have + 8);
        }
        have -= width;
        let code = (bits >> have) as usize & ((1 << width) - 1);
        if code == CLEAR || lengths.len() >= 4096 {
            lengths.clear();
            (width, last) = (9, 0);
            continue;
        }
        // One that is not known yet is the last with one byte more.
        let length =
            if code < CLEAR { 1 } else { lengths.get(code.saturating_sub(258)).copied().unwrap_or(last + 1) };
        total = total.saturating_add(length);
        if last > 0 {
            lengths.push(last + 1);
        }
        last = length;
        let known = lengths.len() + 258 + usize::from(early);
        width = if known < 512 {
            9
        } else if known < 1024 {
            10
        } else if known < 2048 {
            11
        } else {
            12
        };
    }
}
