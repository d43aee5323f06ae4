//! Reads GGUF models: metadata, and tensors straight into a device's buffers.
//!
//! The file stays open while a [`Gguf`] lives, and nothing of its tensors is held: each is read when asked
//! for, through one buffer of its own size. `gguf_header.rs` describes the format.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

pub use super::gguf_meta::{Array, Field, StrArray, Value};

use super::gguf_header::{self, Header};
use super::{Error, WeightsFile};
use crate::ops::{Packer, QWeight};
use crate::types::model::gguf_parts;

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// Row-major: outermost first. A matrix that maps `k` inputs to `n` outputs is `[n, k]`.
    pub shape: Vec<usize>,
    pub ggml_type: GgmlDType,
    /// The file it is in: 0 but for models that are split.
    pub part: usize,
    /// From the start of the file.
    pub offset: u64,
    pub bytes: u64,
}

/// An open GGUF file whose head has been checked.
#[derive(Debug)]
pub struct Gguf {
    /// In the order of a split model's parts; one otherwise.
    files: Vec<WeightsFile>,
    version: u32,
    meta: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

/// The field that an error about a split model is of.
const SPLIT: &str = "metadata field split.count";

/// Bytes read and checked at a time, so that the check finds them in the cache.
const CHUNK: usize = 1 << 20;

impl Gguf {
    /// Opens a file and reads its head: magic, metadata, tensor descriptions. Every tensor is known to lie
    /// within the file afterwards. Of a split model it is the first part, and the others are opened with it.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        let path = path.as_ref();
        let file = WeightsFile::open(path)?;
        let Header { version, meta, tensors, by_name, split } = gguf_header::parse(&file)?;
        let mut gguf = Gguf { files: vec![file], version, meta, tensors, by_name };
        if let Some((part, count)) = split {
            if part != 0 {
                let problem = format!("is part {} of {count}; the first one is to be opened", part + 1);
                return Err(Error::unsupported(path, SPLIT, problem));
            }
            gguf.open_parts(path, count)?;
        }
        Ok(gguf)
    }

    /// Opens the other parts of a split model, which lie beside the first.
    fn open_parts(&mut self, first: &Path, count: u64) -> Result<(), Error> {
        let names = first.file_name().and_then(|name| gguf_parts(name.to_str()?));
        let Some(names) = names.filter(|names| names.len() as u64 == count) else {
            let problem =
                format!("the model is in {count} files, which must be named NAME-00001-of-{count:05}.gguf");
            return Err(Error::unsupported(first, SPLIT, problem));
        };
        for (part, name) in names.iter().enumerate().skip(1) {
            let path = first.with_file_name(name);
            let file = WeightsFile::open(&path)?;
            let header = gguf_header::parse(&file)?;
            if header.split != Some((part as u64, count)) {
                let problem = format!("the file is not part {} of {count}", part + 1);
                return Err(Error::malformed(&path, SPLIT, problem));
            }
            for info in header.tensors {
                let at = self.tensors.len();
                if self.by_name.insert(info.name.clone(), at).is_some() {
                    return Err(Error::malformed(&path, format!("tensor {}", info.name), "is in two parts"));
                }
                self.tensors.push(TensorInfo { part, ..info });
            }
            self.files.push(file);
        }
        Ok(())
    }

    /// The file, of a split model the first.
    pub fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), WeightsFile::path)
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// `general.architecture`: `llama`, `qwen2`, `bert`, ...
    pub fn architecture(&self) -> Result<&str, Error> {
        self.meta("general.architecture").str()
    }

    /// A metadata field, to be asked for by type: `gguf.meta("llama.block_count").u32()?`.
    pub fn meta<'a>(&'a self, key: &'a str) -> Field<'a> {
        Field { path: self.path(), key, value: self.meta.get(key) }
    }

    /// Every metadata pair, by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.meta.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Drops a metadata value that has been used: a vocabulary and its merges take tens of megabytes.
    pub fn forget(&mut self, key: &str) {
        self.meta.remove(key);
    }

    /// Every tensor, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor's description.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).and_then(|&i| self.tensors.get(i))
    }

    /// A tensor's description, which must exist.
    pub fn require(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.tensor(name)
            .ok_or_else(|| Error::Missing { path: self.path().to_owned(), field: format!("tensor {name}") })
    }

    /// A tensor's description, which must exist and have this shape (row-major).
    pub fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo, Error> {
        let info = self.require(name)?;
        if info.shape == shape {
            return Ok(info);
        }
        Err(Error::Shape {
            path: self.path().to_owned(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
            found: info.shape.clone(),
        })
    }

    /// The bytes of a tensor as they lie in the file, every float and every block scale finite.
    pub fn read_bytes(&self, info: &TensorInfo) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.len_of(info)?];
        self.read_into(info, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a tensor onto a device in the type the file has it in.
    pub fn qtensor(&self, name: &str, device: &Device) -> Result<QTensor, Error> {
        self.load(self.require(name)?, device)
    }

    /// [`qtensor`](Self::qtensor) of a tensor that must have this shape (row-major).
    pub fn qtensor_shaped(&self, name: &str, shape: &[usize], device: &Device) -> Result<QTensor, Error> {
        self.load(self.expect_shape(name, shape)?, device)
    }

    /// Reads a tensor of this shape and widens it to f32: norms, biases, rope factors.
    pub fn tensor_f32(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, Error> {
        let tensor = self.qtensor_shaped(name, shape, &Device::Cpu)?;
        tensor.dequantize(device).map_err(|source| self.device_error(name, source))
    }

    fn load(&self, info: &TensorInfo, device: &Device) -> Result<QTensor, Error> {
        let len = self.len_of(info)?;
        // Words, since the device layer takes the bytes as blocks that hold f32 and asserts their alignment.
        let mut words = vec![0u64; len.div_ceil(8)];
        let bytes = bytemuck::cast_slice_mut::<u64, u8>(&mut words).get_mut(..len).unwrap_or_default();
        self.read_into(info, bytes)?;
        let bytes: &[u8] = bytes;
        QStorage::from_data(bytes.into(), device, info.ggml_type)
            .and_then(|storage| QTensor::new(storage, info.shape.as_slice()))
            .map_err(|source| self.device_error(&info.name, source))
    }

    fn len_of(&self, info: &TensorInfo) -> Result<usize, Error> {
        // The header's check made sure that the file is at least this long.
        usize::try_from(info.bytes).map_err(|_| {
            let field = format!("tensor {}", info.name);
            Error::unsupported(self.path(), field, "larger than this machine can address")
        })
    }

    /// Gives a matrix of this shape to its packer, a piece at a time: a weight for products on the device.
    pub fn qweight_shaped(&self, name: &str, shape: [usize; 2], device: &Device) -> Result<QWeight, Error> {
        let info = self.expect_shape(name, &shape)?;
        self.pack(info, 0, shape, device)
    }

    /// [`qweight_shaped`](Self::qweight_shaped) of matrix `at` of a tensor (count, outputs, inputs).
    pub fn qweight_slice(
        &self,
        name: &str,
        at: usize,
        shape: [usize; 3],
        device: &Device,
    ) -> Result<QWeight, Error> {
        let info = self.expect_shape(name, &shape)?;
        let [count, outputs, inputs] = shape;
        if at >= count {
            let problem = format!("matrix {at} of {count} was asked for");
            return Err(Error::malformed(self.path(), format!("tensor {name}"), problem));
        }
        self.pack(info, at, [outputs, inputs], device)
    }

    /// Packs the `at`-th matrix of this shape in a tensor that is a whole number of them.
    fn pack(
        &self,
        info: &TensorInfo,
        at: usize,
        shape: [usize; 2],
        device: &Device,
    ) -> Result<QWeight, Error> {
        let failed = |source| self.device_error(&info.name, source);
        let mut packer = Packer::new(info.ggml_type, shape[0], shape[1], device).map_err(failed)?;
        let matrices = info.shape.iter().product::<usize>() / (shape[0] * shape[1]).max(1);
        let len = self.len_of(info)? / matrices.max(1);
        let mut piece = vec![0; packer.chunk_bytes().min(len)];
        let (mut from, end) = (at * len, (at + 1) * len);
        while from < end {
            piece.truncate(end - from);
            self.read_part(info, from, &mut piece)?;
            packer.push(&piece).map_err(failed)?;
            from += piece.len();
        }
        packer.finish().map_err(failed)
    }

    fn read_into(&self, info: &TensorInfo, bytes: &mut [u8]) -> Result<(), Error> {
        self.read_part(info, 0, bytes)
    }

    /// Reads and checks whole blocks from byte `at` of a tensor on.
    fn read_part(&self, info: &TensorInfo, mut at: usize, bytes: &mut [u8]) -> Result<(), Error> {
        let Some(file) = self.files.get(info.part) else {
            return Err(Error::Missing {
                path: self.path().to_owned(),
                field: format!("part {}", info.part),
            });
        };
        let block = info.ggml_type.type_size();
        let step = CHUNK / block * block;
        let mut offset = info.offset + at as u64;
        let field = || format!("tensor {}", info.name);
        for chunk in bytes.chunks_mut(step) {
            file.read_exact_at(chunk, offset, &info.name)?;
            if let Some(bad) = first_not_finite(chunk, info.ggml_type) {
                let element = (at / block + bad) * info.ggml_type.block_size();
                let problem = format!("not a finite number at or after element {element}");
                return Err(Error::malformed(file.path(), field(), problem));
            }
            at += chunk.len();
            offset += chunk.len() as u64;
        }
        Ok(())
    }

    fn device_error(&self, tensor: &str, source: candle_core::Error) -> Error {
        Error::Device { path: self.path().to_owned(), tensor: tensor.to_owned(), source: source.into() }
    }
}

/// Index of the first block with an infinite or NaN value or scale.
pub(super) fn first_not_finite(bytes: &[u8], ggml_type: GgmlDType) -> Option<usize> {
    // Byte offsets of the f16 numbers in a block of the type.
    let halves: &[usize] = match ggml_type {
        GgmlDType::F32 => {
            return bytes.chunks_exact(4).position(|b| u16::from_le_bytes([b[2], b[3]]) & 0x7f80 == 0x7f80);
        }
        GgmlDType::BF16 => {
            return bytes.chunks_exact(2).position(|b| u16::from_le_bytes([b[0], b[1]]) & 0x7f80 == 0x7f80);
        }
        GgmlDType::Q8K => {
            return bytes.chunks_exact(292).position(|b| u16::from_le_bytes([b[2], b[3]]) & 0x7f80 == 0x7f80);
        }
        GgmlDType::F16 | GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => &[0],
        GgmlDType::Q4_1 | GgmlDType::Q5_1 | GgmlDType::Q8_1 | GgmlDType::Q4K | GgmlDType::Q5K => &[0, 2],
        GgmlDType::Q2K => &[80, 82],
        GgmlDType::Q3K => &[108],
        GgmlDType::Q6K => &[208],
    };
    let broken = |b: &[u8], at: usize| u16::from_le_bytes([b[at], b[at + 1]]) & 0x7c00 == 0x7c00;
    bytes.chunks_exact(ggml_type.type_size()).position(|block| halves.iter().any(|&at| broken(block, at)))
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;
