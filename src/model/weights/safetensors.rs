//! A folder of safetensors weights, as Hugging Face lays it out: `config.json` and either `model.safetensors` or
//! shards with `model.safetensors.index.json`.
//!
//! | bytes of a file | content |
//! |---|---|
//! | 0..8 | length `n` of the header, little-endian u64 |
//! | 8..8+n | JSON: name to `dtype`, `shape`, `data_offsets` (from the end of the header) |
//! | 8+n.. | the tensors, row-major, little-endian, without gaps |
//!
//! The header is parsed by the `safetensors` crate, which refuses overlaps, gaps, and tensors whose bytes are not
//! their shape times their type; here its length is bounded before it is read and its end compared with the
//! file's. Values are read straight into the buffers of the tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Error, WeightsFile, floats, gguf, json};
use crate::ops::{Packer, QWeight};

/// The longest header read: some hundred thousand tensors.
const MAX_HEADER: u64 = 32 << 20;
/// The longest index read.
const MAX_INDEX: u64 = 32 << 20;
/// The most files of one model.
const MAX_SHARDS: usize = 1024;

#[derive(Debug)]
struct Shard {
    file: WeightsFile,
    metadata: Metadata,
    /// Where the tensors begin.
    data: u64,
}

/// An open folder: headers read and checked, values still on disk.
#[derive(Debug)]
pub struct SafetensorsFolder {
    dir: PathBuf,
    shards: Vec<Shard>,
    /// Which shard holds a tensor.
    names: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl SafetensorsFolder {
    /// Opens `model.safetensors` in `dir`, or the shards that `model.safetensors.index.json` names, or the one file of
    /// the kind that is there under another name.
    ///
    /// # Errors
    /// Files that are missing or that contradict themselves, each other or their size.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let single = dir.join("model.safetensors");
        let index_path = dir.join("model.safetensors.index.json");
        if single.exists() || !index_path.exists() {
            let file = if single.exists() { single } else { only_file(dir).unwrap_or(single) };
            return Self::from_shards(dir, vec![Shard::open(&file)?]);
        }
        let index: Index = json::read(&index_path, MAX_INDEX)?;
        let mut files: Vec<&String> = index.weight_map.values().collect();
        files.sort();
        files.dedup();
        if files.is_empty() || files.len() > MAX_SHARDS {
            let problem = format!("names {} files, expected 1 to {MAX_SHARDS}", files.len());
            return Err(Error::malformed(&index_path, "weight_map", problem));
        }
        let mut shards = Vec::with_capacity(files.len());
        for name in files {
            let inside = Path::new(name).file_name().is_some_and(|f| f == name.as_str());
            if !inside {
                let problem = format!("{name:?} is not the name of a file in this folder");
                return Err(Error::malformed(&index_path, "weight_map", problem));
            }
            shards.push(Shard::open(&dir.join(name))?);
        }
        let folder = Self::from_shards(dir, shards)?;
        for name in index.weight_map.keys() {
            if !folder.names.contains_key(name) {
                let problem = "is in no file that the index names".to_owned();
                return Err(Error::malformed(&index_path, format!("tensor {name}"), problem));
            }
        }
        Ok(folder)
    }

    fn from_shards(dir: &Path, shards: Vec<Shard>) -> Result<Self, Error> {
        let mut names = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.metadata.offset_keys() {
                if names.insert(name.clone(), i).is_some() {
                    let problem = "is in two files of this folder".to_owned();
                    return Err(Error::malformed(shard.file.path(), format!("tensor {name}"), problem));
                }
            }
        }
        Ok(SafetensorsFolder { dir: dir.to_owned(), shards, names })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `config.json` as `T`.
    ///
    /// # Errors
    /// A file that is missing or does not hold a `T`.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::read(&self.dir.join("config.json"), json::MAX_CONFIG)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The shape of a tensor, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let shard = self.shards.get(*self.names.get(name)?)?;
        Some(&shard.metadata.info(name)?.shape)
    }

    /// Bytes of all tensors on disk.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.file.len().saturating_sub(s.data)).sum()
    }

    /// Reads a tensor of f32, f16 or bf16 and gives it as `dtype` on `device`.
    ///
    /// # Errors
    /// No such tensor, another shape than `expected`, another type than these three, a value that is NaN or
    /// infinite, a file that cannot be read, or a device without room.
    pub fn tensor(
        &self,
        name: &str,
        expected: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, Error> {
        let mut values = Vec::new();
        let shard = self.append_f32(name, expected, &mut values)?;
        Tensor::from_vec(values, expected, device).and_then(|t| t.to_dtype(dtype)).map_err(|source| {
            Error::Device { path: shard.to_owned(), tensor: name.to_owned(), source: Box::new(source) }
        })
    }

    /// Reads a tensor of f32, f16 or bf16 behind what `out` holds, widened to f32; gives the file it is in.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor), but for the device.
    pub fn append_f32(&self, name: &str, expected: &[usize], out: &mut Vec<f32>) -> Result<&Path, Error> {
        let (shard, info) = self.find(name, expected)?;
        let at = shard.data + info.data_offsets.0 as u64;
        let from = out.len();
        out.resize(from + expected.iter().product::<usize>(), 0.0);
        shard.values(name, info.dtype, at, &mut out[from..])?;
        Ok(shard.file.path())
    }

    /// Reads a matrix (outputs, inputs) of f32, f16 or bf16, a piece at a time, as a weight for products on
    /// `device`: rounded to `kept`, or to halves where that is `None`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor); also inputs that are no multiple of the type's block.
    pub fn qweight(
        &self,
        name: &str,
        shape: [usize; 2],
        kept: Option<GgmlDType>,
        device: &Device,
    ) -> Result<QWeight, Error> {
        let (shard, info) = self.find(name, &shape)?;
        let dtype = shard.ggml_type(name, info.dtype)?;
        let failed = |source: candle_core::Error| Error::Device {
            path: shard.file.path().to_owned(),
            tensor: name.to_owned(),
            source: source.into(),
        };
        let [outputs, inputs] = shape;
        let kept = kept.unwrap_or(dtype);
        let mut packer = Packer::rounding(dtype, kept, outputs, inputs, device).map_err(failed)?;
        let (mut at, end) = info.data_offsets;
        let mut piece = vec![0; packer.chunk_bytes().min(end - at)];
        while at < end {
            piece.truncate(end - at);
            shard.floats(name, dtype, at, &mut piece)?;
            packer.push(&piece).map_err(failed)?;
            at += piece.len();
        }
        packer.finish().map_err(failed)
    }

    /// The shard that holds a tensor, which must have this shape.
    fn find(&self, name: &str, expected: &[usize]) -> Result<(&Shard, &TensorInfo), Error> {
        let found = self.names.get(name).and_then(|&i| self.shards.get(i));
        let Some((shard, info)) = found.and_then(|s| Some((s, s.metadata.info(name)?))) else {
            let path = self.shards.first().map_or_else(|| self.dir.clone(), |s| s.file.path().to_owned());
            return Err(Error::Missing { path, field: format!("tensor {name}") });
        };
        if info.shape != expected {
            return Err(Error::Shape {
                path: shard.file.path().to_owned(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: info.shape.clone(),
            });
        }
        Ok((shard, info))
    }
}

/// The only safetensors file of a folder.
fn only_file(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files = entries.filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    let first = files.next()?;
    files.next().is_none().then_some(first)
}

impl Shard {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = WeightsFile::open(path)?;
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0, "header length")?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || length > file.len() - 8 {
            let problem =
                format!("{length} bytes, in a file of {} (at most {MAX_HEADER} are read)", file.len());
            return Err(Error::malformed(path, "header length", problem));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, 8, "header")?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| Error::malformed(path, "header", e.to_string()))?;
        let data = 8 + length;
        if metadata.data_len() as u64 != file.len() - data {
            let problem = format!("{} bytes declared, {} there", metadata.data_len(), file.len() - data);
            return Err(Error::malformed(path, "tensor data", problem));
        }
        Ok(Shard { file, metadata, data })
    }

    /// Fills `values` with those of `dtype` from offset `at` on, which the header was checked to hold.
    fn values(&self, name: &str, dtype: Dtype, at: u64, values: &mut [f32]) -> Result<(), Error> {
        let dtype = self.ggml_type(name, dtype)?;
        floats::read(&self.file, &format!("tensor {name}"), dtype, at, values)
    }

    fn no_float(&self, name: &str, dtype: Dtype) -> Error {
        let problem = format!("is of type {dtype:?}; f32, f16 and bf16 can be read");
        Error::unsupported(self.file.path(), format!("tensor {name}"), problem)
    }

    /// The type's name in the other format, which shares the layout of floats.
    fn ggml_type(&self, name: &str, dtype: Dtype) -> Result<GgmlDType, Error> {
        match dtype {
            Dtype::F32 => Ok(GgmlDType::F32),
            Dtype::F16 => Ok(GgmlDType::F16),
            Dtype::BF16 => Ok(GgmlDType::BF16),
            other => Err(self.no_float(name, other)),
        }
    }

    /// Fills `bytes` with whole floats from byte `at` of the shard's data on, all of which are numbers.
    fn floats(&self, name: &str, dtype: GgmlDType, at: usize, bytes: &mut [u8]) -> Result<(), Error> {
        let field = || format!("tensor {name}");
        self.file.read_exact_at(bytes, self.data + at as u64, &field())?;
        match gguf::first_not_finite(bytes, dtype) {
            None => Ok(()),
            Some(_) => Err(Error::malformed(self.file.path(), field(), "holds a value that is no number")),
        }
    }
}
