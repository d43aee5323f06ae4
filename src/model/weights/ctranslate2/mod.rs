//! CTranslate2's `model.bin`: read in place, so that a folder another program downloaded is used as it is.
//!
//! Layout of binary versions 4 to 6, little-endian (CTranslate2 `src/models/model.cc`):
//!
//! | field | bytes |
//! |---|---|
//! | binary version | u32 |
//! | specification name, e.g. `WhisperSpec` | string |
//! | specification revision | u32 |
//! | number of variables | u32 |
//! | per variable: name | string |
//! | ... rank | u8 |
//! | ... dimensions | rank x u32 |
//! | ... element type: 0 f32, 1 i8, 2 i16, 3 i32, 4 f16, 5 bf16 | u8 |
//! | ... data length in bytes | u32 |
//! | ... data, row-major | length |
//! | number of aliases | u32 |
//! | per alias: alias, variable | 2 strings |
//!
//! A string is a u16 length that counts a closing zero, then the bytes. An alias `a` of `v` also makes
//! `a_scale` an alias of `v_scale`. Quantised weights hold round(weight x scale): int8 has a scale a row in
//! `<name>_scale`, int16 one for the whole variable.
//!
//! The header is interleaved with the data, so opening reads a few bytes a variable and skips over the rest;
//! tensors are read by position, straight into their buffers.

mod read;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

/// The binary versions whose layout this reader knows.
const VERSIONS: std::ops::RangeInclusive<u32> = 4..=6;
/// Longest name believed; real ones stay under 80 bytes.
const MAX_NAME: usize = 512;
/// Highest rank believed; convolutions have 3.
const MAX_RANK: usize = 8;
/// Most variables and aliases believed; Whisper large has about 1,300.
const MAX_ENTRIES: u32 = 65_536;

/// Why a `model.bin` cannot be read. Every variant names the file, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{file}: cannot be read: {source}")]
    Io { file: PathBuf, source: io::Error },
    #[error("{file}: ends at byte {len}, inside {field}: the file is cut off, download it again")]
    Truncated { file: PathBuf, field: String, len: u64 },
    #[error("{file}: {field}: {reason}: the file is damaged or not what it claims to be, download it again")]
    Invalid { file: PathBuf, field: String, reason: String },
    #[error(
        "{file}: binary version {found} is not one of 4 to 6: convert the model again with ctranslate2 3 or 4"
    )]
    Version { file: PathBuf, found: u32 },
    #[error("{file}: holds a {found}, not a {expected}: this folder is a model of another kind")]
    Spec { file: PathBuf, found: String, expected: &'static str },
    #[error("{file}: has no variable {name}: convert the model again with a current ctranslate2")]
    Missing { file: PathBuf, name: String },
    #[error(
        "{file}: {name} has the shape {found:?} where {expected:?} is needed: the model is not consistent"
    )]
    Shape { file: PathBuf, name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{file}: {name}: cannot be placed on the device: {source}")]
    Device { file: PathBuf, name: String, source: Box<candle_core::Error> },
}

/// Element types of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    F32,
    I8,
    I16,
    I32,
    F16,
    Bf16,
}

impl Dtype {
    fn from_code(code: u8) -> Option<Dtype> {
        Some(match code {
            0 => Dtype::F32,
            1 => Dtype::I8,
            2 => Dtype::I16,
            3 => Dtype::I32,
            4 => Dtype::F16,
            5 => Dtype::Bf16,
            _ => return None,
        })
    }

    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::I8 => 1,
            Dtype::I16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::F32 | Dtype::I32 => 4,
        }
    }
}

/// Where a variable lies. Invariant: `offset + elements x size` is within the file.
#[derive(Debug, Clone)]
struct Variable {
    shape: Vec<usize>,
    dtype: Dtype,
    offset: u64,
    elements: usize,
}

/// An open `model.bin` whose header has been checked whole.
#[derive(Debug)]
pub struct Ct2 {
    file: File,
    path: PathBuf,
    revision: u32,
    variables: HashMap<String, Variable>,
    aliases: HashMap<String, String>,
}

impl Ct2 {
    /// Opens `path` (the file, or the folder that holds `model.bin`) and checks its header against the
    /// specification wanted.
    pub fn open(path: &Path, spec: &'static str) -> Result<Ct2, Error> {
        let path = if path.is_dir() { path.join("model.bin") } else { path.to_path_buf() };
        let io = |source| Error::Io { file: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(io(io::Error::other("not a regular file")));
        }
        read::header(file, path, meta.len(), spec)
    }

    /// The specification's revision.
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// The file read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all variables, in no order; aliases are not among them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// Shape of a variable or alias; `None` if there is none of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.find(name).map(|(_, v)| v.shape.as_slice())
    }

    /// Element type as stored.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.find(name).map(|(_, v)| v.dtype)
    }

    /// A variable of one element as an integer; `None` if there is none of that name.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, Error> {
        let Some((name, variable)) = self.find(name) else { return Ok(None) };
        if variable.elements != 1 {
            return Err(self.shape_error(name, variable, &[]));
        }
        let mut bytes = [0u8; 4];
        let bytes = &mut bytes[..variable.dtype.size()];
        self.read_at(name, bytes, variable.offset)?;
        match (variable.dtype, &*bytes) {
            (Dtype::I8, &[a]) => Ok(Some(i64::from(a as i8))),
            (Dtype::I16, &[a, b]) => Ok(Some(i64::from(i16::from_le_bytes([a, b])))),
            (Dtype::I32, &[a, b, c, d]) => Ok(Some(i64::from(i32::from_le_bytes([a, b, c, d])))),
            (other, _) => Err(self.invalid(name, format!("is {other:?}, an integer is needed"))),
        }
    }

    /// Reads a variable as f32, row-major, dequantised. `shape` must be its shape; every value is finite.
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (name, variable) = self.find(name).ok_or_else(|| self.missing(name))?;
        if variable.shape != shape {
            return Err(self.shape_error(name, variable, shape));
        }
        let mut values = self.read_raw(name, variable)?;
        if matches!(variable.dtype, Dtype::I8 | Dtype::I16) {
            self.dequantise(name, variable, &mut values)?;
        }
        // x * 0 is NaN exactly for what is not finite: one branch-free pass, the search only on failure.
        if !values.iter().fold(0.0f32, |sum, v| sum + v * 0.0).is_finite() {
            let at = values.iter().position(|v| !v.is_finite()).unwrap_or_default();
            return Err(self.invalid(name, format!("element {at} is not a finite number")));
        }
        Ok(values)
    }

    /// [`read_f32`](Self::read_f32) as a tensor on a device.
    pub fn tensor_f32(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, Error> {
        let values = self.read_f32(name, shape)?;
        Tensor::from_vec(values, shape, device).map_err(|source| Error::Device {
            file: self.path.clone(),
            name: name.to_owned(),
            source: Box::new(source),
        })
    }

    /// The variable of a name or alias, with the name it is stored under.
    fn find(&self, name: &str) -> Option<(&str, &Variable)> {
        let target = match self.aliases.get(name) {
            Some(target) => Some(target.clone()),
            None => name
                .strip_suffix("_scale")
                .and_then(|stem| self.aliases.get(stem))
                .map(|target| format!("{target}_scale")),
        };
        let (name, variable) = self.variables.get_key_value(target.as_deref().unwrap_or(name))?;
        Some((name, variable))
    }

    fn missing(&self, name: &str) -> Error {
        Error::Missing { file: self.path.clone(), name: name.to_owned() }
    }

    fn invalid(&self, field: &str, reason: String) -> Error {
        Error::Invalid { file: self.path.clone(), field: field.to_owned(), reason }
    }

    fn shape_error(&self, name: &str, variable: &Variable, expected: &[usize]) -> Error {
        Error::Shape {
            file: self.path.clone(),
            name: name.to_owned(),
            found: variable.shape.clone(),
            expected: expected.to_vec(),
        }
    }
}
