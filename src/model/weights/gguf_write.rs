//! Writes GGUF version 3, tensor by tensor, so that a model larger than memory can be written.
//!
//! The head (metadata, descriptions, offsets) goes out first; then each tensor's bytes in the order of the
//! descriptions, padded to the alignment. llama.cpp reads the result. Format: `gguf_header`.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;

use super::Error;
use super::gguf::{Array, StrArray, Value};
use super::gguf_header::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};

const VERSION: u32 = 3;

/// What a tensor will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    /// Row-major: outermost first.
    pub shape: Vec<usize>,
    pub ggml_type: GgmlDType,
}

impl TensorSpec {
    pub fn new(name: impl Into<String>, shape: &[usize], ggml_type: GgmlDType) -> Self {
        TensorSpec { name: name.into(), shape: shape.to_vec(), ggml_type }
    }

    /// Bytes of its data, `None` where its rows are not whole blocks or the number overflows.
    pub fn bytes(&self) -> Option<u64> {
        let row = self.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.ggml_type.block_size()) {
            return None;
        }
        let elements = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
        (elements / self.ggml_type.block_size() as u64).checked_mul(self.ggml_type.type_size() as u64)
    }
}

/// A file half-written: its head is out, its tensors follow by [`tensor`](Writer::tensor).
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: BufWriter<W>,
    path: PathBuf,
    tensors: std::vec::IntoIter<TensorSpec>,
}

impl<W: Write> Writer<W> {
    /// Writes the head. `path` is only named in errors. The metadata must not set `general.alignment`.
    pub fn begin(
        out: W,
        path: &Path,
        meta: &[(String, Value)],
        tensors: Vec<TensorSpec>,
    ) -> Result<Self, Error> {
        let head = head(path, meta, &tensors)?;
        let mut writer = Writer {
            out: BufWriter::with_capacity(1 << 20, out),
            path: path.to_owned(),
            tensors: tensors.into_iter(),
        };
        writer.out.write_all(&head).map_err(|e| writer.io(e))?;
        Ok(writer)
    }

    /// Writes the next tensor's data: `fill` is given its description and must write exactly its bytes.
    pub fn tensor(
        &mut self,
        fill: impl FnOnce(&TensorSpec, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        let Some(spec) = self.tensors.next() else {
            return Err(Error::unsupported(&self.path, "tensors", "more written than described"));
        };
        let expected = spec.bytes().unwrap_or(0);
        let mut counted = Counted { out: &mut self.out, written: 0 };
        fill(&spec, &mut counted)
            .and_then(|()| {
                let written = counted.written;
                if written != expected {
                    let text = format!("{} has {expected} bytes, {written} were written", spec.name);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                let padding = written.next_multiple_of(DEFAULT_ALIGNMENT) - written;
                counted.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding as usize])
            })
            .map_err(|e| self.io(e))
    }

    /// Flushes and gives the sink back; every described tensor must have been written.
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some(spec) = self.tensors.next() {
            return Err(Error::Missing { path: self.path, field: format!("tensor {}", spec.name) });
        }
        let path = self.path;
        self.out.into_inner().map_err(|e| Error::Io { path, action: "write", source: e.into_error() })
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io { path: self.path.clone(), action: "write", source }
    }
}

struct Counted<'a, W: Write> {
    out: &'a mut W,
    written: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn head(path: &Path, meta: &[(String, Value)], tensors: &[TensorSpec]) -> Result<Vec<u8>, Error> {
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((meta.len() as u64).to_le_bytes());
    for (key, value) in meta {
        if key == ALIGNMENT_KEY {
            return Err(Error::unsupported(path, ALIGNMENT_KEY, "only the default alignment is written"));
        }
        put_str(&mut head, key);
        head.extend(value_type(value).to_le_bytes());
        put_value(&mut head, value);
    }
    let mut offset: u64 = 0;
    for spec in tensors {
        let bytes = spec.bytes().ok_or_else(|| {
            let problem = format!("shape {:?} cannot be stored as {:?}", spec.shape, spec.ggml_type);
            Error::unsupported(path, format!("tensor {}", spec.name), problem)
        })?;
        put_str(&mut head, &spec.name);
        head.extend((spec.shape.len() as u32).to_le_bytes());
        for &dim in spec.shape.iter().rev() {
            head.extend((dim as u64).to_le_bytes());
        }
        head.extend(type_id(spec.ggml_type).to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = offset.saturating_add(bytes.next_multiple_of(DEFAULT_ALIGNMENT));
    }
    head.resize(head.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    Ok(head)
}

/// The number of a type in the format, the inverse of the header's table.
fn type_id(ggml_type: GgmlDType) -> u32 {
    match ggml_type {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}

fn value_type(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::Str(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::Str(v) => put_str(out, v),
        Value::Array(v) => put_array(out, v),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(a) => put_numbers(out, 0, a, |v| v.to_le_bytes()),
        Array::I8(a) => put_numbers(out, 1, a, |v| v.to_le_bytes()),
        Array::U16(a) => put_numbers(out, 2, a, |v| v.to_le_bytes()),
        Array::I16(a) => put_numbers(out, 3, a, |v| v.to_le_bytes()),
        Array::U32(a) => put_numbers(out, 4, a, |v| v.to_le_bytes()),
        Array::I32(a) => put_numbers(out, 5, a, |v| v.to_le_bytes()),
        Array::F32(a) => put_numbers(out, 6, a, |v| v.to_le_bytes()),
        Array::Bool(a) => put_numbers(out, 7, a, |v| [u8::from(v)]),
        Array::U64(a) => put_numbers(out, 10, a, |v| v.to_le_bytes()),
        Array::I64(a) => put_numbers(out, 11, a, |v| v.to_le_bytes()),
        Array::F64(a) => put_numbers(out, 12, a, |v| v.to_le_bytes()),
        Array::Str(a) => put_strings(out, a),
        Array::Array(a) => {
            put_array_head(out, 9, a.len());
            a.iter().for_each(|inner| put_array(out, inner));
        }
    }
}

fn put_array_head(out: &mut Vec<u8>, element_type: u32, len: usize) {
    out.extend(element_type.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn put_numbers<T: Copy, const N: usize>(
    out: &mut Vec<u8>,
    element_type: u32,
    all: &[T],
    encode: impl Fn(T) -> [u8; N],
) {
    put_array_head(out, element_type, all.len());
    all.iter().for_each(|&v| out.extend(encode(v)));
}

fn put_strings(out: &mut Vec<u8>, all: &StrArray) {
    put_array_head(out, 8, all.len());
    all.iter().for_each(|s| put_str(out, s));
}
