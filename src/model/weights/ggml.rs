//! whisper.cpp's model files, `ggml-*.bin`.
//!
//! | field, little-endian | bytes |
//! |---|---|
//! | magic `0x67676d6c` | u32 |
//! | sizes, in the order of [`SIZES`] | 11 x i32 |
//! | mel filters: bins, width, values | 2 x i32, f32 each |
//! | vocabulary: number of tokens; length and bytes of each | i32; u32 and bytes |
//! | until the end, tensors: rank, length of the name, type | 3 x i32 |
//! | ... dimensions, innermost first | rank x i32 |
//! | ... name, then data without padding | |
//!
//! Types are ggml's; a quantised row is whole blocks. Source: whisper.cpp's `models/convert-pt-to-ggml.py` and
//! `whisper_model_load`.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek};
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

use super::file::Buffered;
use super::{Error, WeightsFile, floats, gguf, gguf_header};

/// As it lies in the file.
const MAGIC: [u8; 4] = *b"lmgg";
/// The sizes that a file begins with, by openai/whisper's names; the last is the type of most tensors.
pub const SIZES: [&str; 11] = [
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
    "n_mels",
    "ftype",
];
const MAX_TOKENS: u32 = 1 << 20;
const MAX_TENSORS: usize = 1 << 16;
const MAX_NAME: u32 = 512;
const MAX_RANK: u32 = 4;

/// Where a tensor lies. Invariant: within the file; its innermost dimension is whole blocks.
#[derive(Debug)]
struct Entry {
    /// Outermost first.
    shape: Vec<usize>,
    dtype: GgmlDType,
    at: u64,
    bytes: u64,
}

/// An open file: its head read and checked, values still on disk.
#[derive(Debug)]
pub struct GgmlFile {
    file: WeightsFile,
    sizes: [i32; SIZES.len()],
    tensors: BTreeMap<String, Entry>,
}

impl GgmlFile {
    /// Opens a file and reads where its tensors lie.
    ///
    /// # Errors
    /// A file that is none of whisper.cpp's, or that contradicts itself or its size.
    pub fn open(path: &Path) -> Result<GgmlFile, Error> {
        let file = WeightsFile::open(path)?;
        let mut cursor = Cursor { path, input: Buffered::new(&file), len: file.len() };
        if cursor.bytes("magic")? != MAGIC {
            return Err(Error::unsupported(path, "magic", "is not that of a whisper.cpp model"));
        }
        let mut sizes = [0; SIZES.len()];
        for (size, name) in sizes.iter_mut().zip(SIZES) {
            *size = i32::from_le_bytes(cursor.bytes(name)?);
        }
        let (bins, width) = (cursor.u32("mel filters")?, cursor.u32("mel filters")?);
        // Of two u32, so it fits; times four it need not.
        cursor.skip((u64::from(bins) * u64::from(width)).saturating_mul(4), "mel filters")?;
        for _ in 0..cursor.count("vocabulary", MAX_TOKENS)? {
            let len = cursor.u32("vocabulary")?;
            cursor.skip(u64::from(len), "vocabulary")?;
        }
        let mut tensors = BTreeMap::new();
        while cursor.input.position() < cursor.len {
            let (name, entry) = cursor.tensor()?;
            if tensors.len() == MAX_TENSORS || tensors.contains_key(&name) {
                return Err(cursor.bad(format!("tensor {name}"), "is there twice, or one of too many"));
            }
            tensors.insert(name, entry);
        }
        drop(cursor);
        Ok(GgmlFile { file, sizes, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// One of [`SIZES`].
    pub fn size(&self, name: &str) -> Option<i64> {
        SIZES.iter().zip(self.sizes).find_map(|(known, size)| (*known == name).then_some(i64::from(size)))
    }

    /// The shape of a tensor, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Reads a tensor behind what `out` holds, as f32. Dimensions of 1 need not match: whisper.cpp keeps the biases
    /// of convolutions as columns.
    ///
    /// # Errors
    /// No such tensor, another shape than `expected`, a value or a scale that is NaN or infinite, or a file that
    /// cannot be read.
    pub fn append_f32(&self, name: &str, expected: &[usize], out: &mut Vec<f32>) -> Result<(), Error> {
        let field = format!("tensor {name}");
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::Missing { path: self.path().to_owned(), field });
        };
        let long = |shape: &[usize]| shape.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
        if long(&entry.shape) != long(expected) {
            return Err(Error::Shape {
                path: self.path().to_owned(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: entry.shape.clone(),
            });
        }
        if matches!(entry.dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) {
            let from = out.len();
            out.resize(from + entry.shape.iter().product::<usize>(), 0.0);
            return floats::read(&self.file, &field, entry.dtype, entry.at, &mut out[from..]);
        }
        out.extend(self.dequantise(entry, name, &field)?);
        Ok(())
    }

    fn dequantise(&self, entry: &Entry, name: &str, field: &str) -> Result<Vec<f32>, Error> {
        // Within the file, which was opened here, so it can be addressed; words, since the device layer takes the
        // bytes as blocks and asserts their alignment.
        let len = entry.bytes as usize;
        let mut words = vec![0u64; len.div_ceil(8)];
        let bytes = bytemuck::cast_slice_mut::<u64, u8>(&mut words).get_mut(..len).unwrap_or_default();
        self.file.read_exact_at(bytes, entry.at, field)?;
        if let Some(block) = gguf::first_not_finite(bytes, entry.dtype) {
            let problem = format!("block {block} has a scale that is no number");
            return Err(Error::malformed(self.path(), field, problem));
        }
        let bytes: &[u8] = bytes;
        QStorage::from_data(bytes.into(), &Device::Cpu, entry.dtype)
            .and_then(|storage| QTensor::new(storage, entry.shape.as_slice()))
            .and_then(|tensor| tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1())
            .map_err(|source| Error::Device {
                path: self.path().to_owned(),
                tensor: name.to_owned(),
                source: source.into(),
            })
    }
}

struct Cursor<'a> {
    path: &'a Path,
    input: Buffered<'a>,
    len: u64,
}

impl Cursor<'_> {
    fn tensor(&mut self) -> Result<(String, Entry), Error> {
        let at = format!("tensor at byte {}", self.input.position());
        let rank = self.count(&at, MAX_RANK)?;
        let length = self.count(&at, MAX_NAME)?;
        let kind = self.u32(&at)?;
        let mut shape = Vec::new();
        let mut elements = 1u64;
        for _ in 0..rank {
            let dim = self.u32(&at)?;
            elements = elements
                .checked_mul(u64::from(dim))
                .filter(|&n| n > 0)
                .ok_or_else(|| self.bad(at.clone(), format!("a dimension of {dim} is out of range")))?;
            shape.insert(0, dim as usize);
        }
        let mut name = vec![0; length as usize];
        self.fill(&mut name, &at)?;
        let name = String::from_utf8(name).map_err(|_| self.bad(at, "its name is not UTF-8"))?;
        let field = format!("tensor {name}");
        let dtype = gguf_header::ggml_type(kind).map_err(|_| {
            Error::unsupported(self.path, &*field, format!("is of ggml's type {kind}, which is not read"))
        })?;
        let (block, size) = (dtype.block_size() as u64, dtype.type_size() as u64);
        if !shape.last().map_or(1, |&d| d as u64).is_multiple_of(block) {
            return Err(self.bad(field, format!("its rows are not whole blocks of {block}")));
        }
        let bytes = (elements / block).saturating_mul(size);
        let at = self.input.position();
        self.skip(bytes, &field)?;
        Ok((name, Entry { shape, dtype, at, bytes }))
    }

    fn bytes<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, field)?;
        Ok(bytes)
    }

    fn u32(&mut self, field: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.bytes(field)?))
    }

    fn count(&mut self, field: &str, most: u32) -> Result<u32, Error> {
        let count = self.u32(field)?;
        match count > most {
            true => Err(self.bad(field, format!("a count of {count}, at most {most} is believed"))),
            false => Ok(count),
        }
    }

    fn fill(&mut self, bytes: &mut [u8], field: &str) -> Result<(), Error> {
        self.input.read_exact(bytes).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.bad(field, "the file ends here"),
            _ => self.io(source),
        })
    }

    /// Passes over bytes that must be there.
    fn skip(&mut self, bytes: u64, field: &str) -> Result<(), Error> {
        let left = self.len.saturating_sub(self.input.position());
        match i64::try_from(bytes) {
            Ok(by) if bytes <= left => self.input.seek_relative(by).map_err(|e| self.io(e)),
            _ => Err(self.bad(field, format!("{bytes} bytes where {left} are left"))),
        }
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io { path: self.path.to_owned(), action: "read the header", source }
    }

    fn bad(&self, field: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::malformed(self.path, field, problem)
    }
}
