//! Parses the head of a GGUF file: magic, counts, metadata, tensor descriptions.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | `GGUF` |
//! | 4 | version, 2 or 3, little-endian like all that follows |
//! | 8 | number of tensors |
//! | 8 | number of metadata pairs |
//! | ... | pairs: key (string), type (u32), value; a string is a u64 length and its bytes; an array is an element type (u32), a u64 length and its elements |
//! | ... | tensors: name (string), rank (u32), dimensions (u64 each, innermost first), type (u32), offset into the data (u64) |
//! | ... | zeros up to a multiple of `general.alignment` (32), then the data |
//!
//! Source: the specification in ggml's `docs/gguf.md`. Whatever the counts say, memory taken never exceeds a
//! small multiple of the bytes actually read.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::Path;

use candle_core::quantized::GgmlDType;

use super::file::Buffered;
use super::gguf::TensorInfo;
use super::gguf_meta::{Array, StrArray, Value};
use super::{Error, WeightsFile};

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// Far above any model (the largest have some thousands of tensors and some dozens of pairs).
const MAX_TENSORS: u64 = 1 << 17;
const MAX_PAIRS: u64 = 1 << 16;
const MAX_NAME: u64 = 1 << 16;
const MAX_STRING: u64 = 1 << 26;
const MAX_ELEMENTS: u64 = 1 << 26;
const MAX_ALIGNMENT: u64 = 1 << 20;
const MAX_RANK: u32 = 4;
const MAX_ARRAY_DEPTH: u32 = 4;
/// Least bytes of a metadata pair (empty key, one-byte value) and of a tensor description (rank 0).
const MIN_PAIR: u64 = 8 + 4 + 1;
const MIN_TENSOR: u64 = 8 + 4 + 4 + 8;
/// Arrays are first reserved up to this many elements and grow as their bytes arrive.
const RESERVE: usize = 1 << 16;

/// The parsed head.
pub(super) struct Header {
    pub version: u32,
    pub meta: BTreeMap<String, Value>,
    /// In file order; offsets are from the start of the file and lie within it.
    pub tensors: Vec<TensorInfo>,
    pub by_name: HashMap<String, usize>,
    /// Which part of a split model this is, from 0, and of how many.
    pub split: Option<(u64, u64)>,
}

/// Reads the head of `file`.
pub(super) fn parse(file: &WeightsFile) -> Result<Header, Error> {
    let mut p = Parser { path: file.path(), input: Buffered::new(file), len: file.len() };
    let (version, tensor_count, pair_count) = p.preamble()?;
    let meta = p.pairs(pair_count)?;
    let alignment = alignment(p.path, &meta)?;
    let number = |key| meta.get(key).and_then(as_u64);
    let split = number("split.count")
        .filter(|&count| count > 1)
        .map(|count| (number("split.no").unwrap_or(0), count));
    let mut tensors = Vec::new();
    let mut by_name = HashMap::new();
    for i in 0..tensor_count {
        let info = p.tensor(i, alignment)?;
        if by_name.insert(info.name.clone(), tensors.len()).is_some() {
            return Err(p.bad(format!("tensor {}", info.name), "described twice"));
        }
        tensors.push(info);
    }
    let data_start = p
        .input
        .position()
        .checked_next_multiple_of(alignment)
        .ok_or_else(|| p.bad("header", "its length overflows"))?;
    for info in &mut tensors {
        p.place(info, data_start)?;
    }
    Ok(Header { version, meta, tensors, by_name, split })
}

fn as_u64(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::U32(v) => Some(v.into()),
        Value::U64(v) => Some(v),
        _ => None,
    }
}

fn alignment(path: &Path, meta: &BTreeMap<String, Value>) -> Result<u64, Error> {
    let Some(value) = meta.get(ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    match as_u64(value) {
        Some(n) if n.is_power_of_two() && n <= MAX_ALIGNMENT => Ok(n),
        _ => {
            let problem = format!("{value:?} is not a power of two up to {MAX_ALIGNMENT}");
            Err(Error::malformed(path, format!("metadata field {ALIGNMENT_KEY}"), problem))
        }
    }
}

/// The type that number `id` means in a tensor description. `Err` holds the name of a type that ggml has and
/// nothing here computes with, or `None` for a number that ggml does not know.
pub(super) fn ggml_type(id: u32) -> Result<GgmlDType, Option<&'static str>> {
    Ok(match id {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        9 => GgmlDType::Q8_1,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        15 => GgmlDType::Q8K,
        30 => GgmlDType::BF16,
        16 => return Err(Some("IQ2_XXS")),
        17 => return Err(Some("IQ2_XS")),
        18 => return Err(Some("IQ3_XXS")),
        19 => return Err(Some("IQ1_S")),
        20 => return Err(Some("IQ4_NL")),
        21 => return Err(Some("IQ3_S")),
        22 => return Err(Some("IQ2_S")),
        23 => return Err(Some("IQ4_XS")),
        24 => return Err(Some("I8")),
        25 => return Err(Some("I16")),
        26 => return Err(Some("I32")),
        27 => return Err(Some("I64")),
        28 => return Err(Some("F64")),
        29 => return Err(Some("IQ1_M")),
        34 => return Err(Some("TQ1_0")),
        35 => return Err(Some("TQ2_0")),
        39 => return Err(Some("MXFP4")),
        _ => return Err(None),
    })
}

struct Parser<'a> {
    path: &'a Path,
    input: Buffered<'a>,
    len: u64,
}

impl Parser<'_> {
    /// Version, number of tensors, number of metadata pairs.
    fn preamble(&mut self) -> Result<(u32, u64, u64), Error> {
        let magic: [u8; 4] = self.array("magic")?;
        if magic != MAGIC {
            let problem = format!("found {:?} where {:?} should be: not a GGUF file", magic, MAGIC);
            return Err(self.bad("magic", problem));
        }
        let version = self.u32("version")?;
        match version {
            2 | 3 => {}
            1 => return Err(self.unsupported("version", "GGUF version 1; convert it again with llama.cpp")),
            v if matches!(v.swap_bytes(), 1..=3) => {
                return Err(self.unsupported("version", "a big-endian GGUF file; get the little-endian one"));
            }
            v => return Err(self.unsupported("version", format!("GGUF version {v}; 2 and 3 are read"))),
        }
        let tensors = self.count("tensor count", MAX_TENSORS, MIN_TENSOR)?;
        let pairs = self.count("metadata count", MAX_PAIRS, MIN_PAIR)?;
        Ok((version, tensors, pairs))
    }

    fn pairs(&mut self, count: u64) -> Result<BTreeMap<String, Value>, Error> {
        let mut meta = BTreeMap::new();
        for i in 0..count {
            let field = format!("key of metadata pair {i}");
            let key = self.name(&field)?;
            let field = format!("metadata field {key}");
            let kind = self.u32(&field)?;
            let value = self.value(kind, &field)?;
            if meta.insert(key, value).is_some() {
                return Err(self.bad(field, "given twice"));
            }
        }
        Ok(meta)
    }

    fn value(&mut self, kind: u32, field: &str) -> Result<Value, Error> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array(field)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(field)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(field)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(field)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(field)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(field)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(field)?)),
            7 => Value::Bool(self.array::<1>(field)? != [0]),
            8 => Value::Str(self.string(field)?),
            9 => Value::Array(self.values(field, 1)?),
            10 => Value::U64(u64::from_le_bytes(self.array(field)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(field)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(field)?)),
            _ => return Err(self.bad(field, format!("unknown value type {kind}"))),
        })
    }

    fn values(&mut self, field: &str, depth: u32) -> Result<Array, Error> {
        let kind = self.u32(field)?;
        // The least bytes that an element of this type takes.
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            _ => return Err(self.bad(field, format!("unknown array element type {kind}"))),
        };
        let n = self.count(field, MAX_ELEMENTS, least)?;
        Ok(match kind {
            0 => Array::U8(self.numbers(n, field, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(n, field, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(n, field, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(n, field, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(n, field, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(n, field, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(n, field, f32::from_le_bytes)?),
            7 => Array::Bool(self.numbers(n, field, |b: [u8; 1]| b != [0])?),
            8 => Array::Str(self.strings(n, field)?),
            10 => Array::U64(self.numbers(n, field, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(n, field, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(n, field, f64::from_le_bytes)?),
            _ if depth >= MAX_ARRAY_DEPTH => return Err(self.bad(field, "arrays nested too deep")),
            _ => {
                let mut inner = Vec::new();
                for _ in 0..n {
                    inner.push(self.values(field, depth + 1)?);
                }
                Array::Array(inner)
            }
        })
    }

    fn numbers<const N: usize, T>(
        &mut self,
        n: u64,
        field: &str,
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Error> {
        let n = n as usize;
        let mut all = Vec::with_capacity(n.min(RESERVE));
        for _ in 0..n {
            all.push(decode(self.array(field)?));
        }
        Ok(all)
    }

    fn strings(&mut self, n: u64, field: &str) -> Result<StrArray, Error> {
        let mut all = StrArray::default();
        let mut bytes = Vec::new();
        for _ in 0..n {
            self.string_bytes(field, MAX_STRING, &mut bytes)?;
            // A broken byte must not cost the model: it can only spoil the one string it is in.
            if !all.push(&String::from_utf8_lossy(&bytes)) {
                return Err(self.bad(field, "its strings take more than 4 GiB"));
            }
        }
        Ok(all)
    }

    fn string(&mut self, field: &str) -> Result<String, Error> {
        let mut bytes = Vec::new();
        self.string_bytes(field, MAX_STRING, &mut bytes)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// A key or a tensor's name: these are looked up, so they must be exact.
    fn name(&mut self, field: &str) -> Result<String, Error> {
        let mut bytes = Vec::new();
        self.string_bytes(field, MAX_NAME, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.bad(field, "not UTF-8"))
    }

    fn string_bytes(&mut self, field: &str, cap: u64, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let n = self.count(field, cap, 1)?;
        bytes.clear();
        bytes.resize(n as usize, 0);
        self.fill(bytes, field)
    }

    fn tensor(&mut self, i: u64, alignment: u64) -> Result<TensorInfo, Error> {
        let name = self.name(&format!("name of tensor {i}"))?;
        let field = format!("tensor {name}");
        let rank = self.u32(&field)?;
        if rank > MAX_RANK {
            return Err(self.bad(field, format!("rank {rank} is above {MAX_RANK}")));
        }
        let mut shape = Vec::new();
        let mut elements: u64 = 1;
        for _ in 0..rank {
            let dim = u64::from_le_bytes(self.array(&field)?);
            elements = match elements.checked_mul(dim) {
                Some(n) if n > 0 => n,
                _ => return Err(self.bad(field, format!("dimension {dim} is out of range"))),
            };
            let dim = usize::try_from(dim).map_err(|_| self.bad(&*field, "dimension out of range"))?;
            shape.insert(0, dim);
        }
        let kind = self.u32(&field)?;
        let ggml_type = ggml_type(kind).map_err(|known| match known {
            Some(name) => self.unsupported(
                &*field,
                format!("quantisation {name} is not supported; take a file with Q4_K_M, Q8_0 or F16 weights"),
            ),
            None => self.bad(&*field, format!("unknown type {kind}")),
        })?;
        let (block, size) = (ggml_type.block_size() as u64, ggml_type.type_size() as u64);
        let row = shape.last().map_or(1, |&d| d as u64);
        if !row.is_multiple_of(block) {
            return Err(self.bad(field, format!("rows of {row} are not whole blocks of {block}")));
        }
        let bytes = (elements / block)
            .checked_mul(size)
            .filter(|&b| b <= self.len)
            .ok_or_else(|| self.bad(&*field, format!("{elements} elements are more than the file holds")))?;
        let offset = u64::from_le_bytes(self.array(&field)?);
        if !offset.is_multiple_of(alignment) {
            return Err(self.bad(field, format!("offset {offset} is not a multiple of {alignment}")));
        }
        Ok(TensorInfo { name, shape, ggml_type, part: 0, offset, bytes })
    }

    /// Turns an offset into the data into one into the file, and checks that the tensor lies within it.
    fn place(&self, info: &mut TensorInfo, data_start: u64) -> Result<(), Error> {
        let start = data_start.checked_add(info.offset);
        match start.and_then(|s| s.checked_add(info.bytes)).filter(|&end| end <= self.len) {
            Some(end) => info.offset = end - info.bytes,
            None => {
                let problem = format!(
                    "{} bytes at {} + {data_start} pass the end of the file at {}",
                    info.bytes, info.offset, self.len
                );
                return Err(self.bad(format!("tensor {}", info.name), problem));
            }
        }
        Ok(())
    }

    /// A u64 that says how many things of at least `least` bytes follow; believed only if they can.
    fn count(&mut self, field: &str, cap: u64, least: u64) -> Result<u64, Error> {
        let n = u64::from_le_bytes(self.array(field)?);
        let left = self.len.saturating_sub(self.input.position());
        if n > cap || n > left / least {
            return Err(self.bad(field, format!("a count of {n} where {left} bytes are left")));
        }
        Ok(n)
    }

    fn u32(&mut self, field: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, field)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8], field: &str) -> Result<(), Error> {
        self.input.read_exact(bytes).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.bad(field, "the file ends here"),
            _ => Error::Io { path: self.path.to_owned(), action: "read the header", source },
        })
    }

    fn bad(&self, field: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::malformed(self.path, field, problem)
    }

    fn unsupported(&self, field: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::unsupported(self.path, field, problem)
    }
}
