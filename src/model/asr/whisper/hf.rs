//! Weights of a Hugging Face folder: `model.safetensors`, read by position.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::model::asr::Error;

/// Longest header believed, as the format's own reader does.
const MAX_HEADER: u64 = 100_000_000;

/// An open safetensors file whose header has been checked: offsets are gapless and end with the file.
pub(super) struct SafeTensors {
    file: File,
    path: PathBuf,
    metadata: Metadata,
    /// Where the data starts.
    base: u64,
}

impl SafeTensors {
    pub(super) fn open(path: &Path) -> Result<SafeTensors, Error> {
        let io = |source| Error::Io { file: path.to_path_buf(), source };
        let fail = |reason: String| Error::Config { file: path.to_path_buf(), reason };
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut size = [0u8; 8];
        file.read_exact_at(&mut size, 0).map_err(io)?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER || size + 8 > len {
            return Err(fail(format!("a header of {size} bytes in a file of {len}")));
        }
        let mut header = vec![0u8; size as usize];
        file.read_exact_at(&mut header, 8).map_err(io)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| fail(format!("the header does not hold: {e}")))?;
        let data = metadata.data_len() as u64;
        if size + 8 + data != len {
            return Err(fail(format!("{data} bytes of data are promised, {} are there", len - size - 8)));
        }
        Ok(SafeTensors { file, path: path.to_path_buf(), metadata, base: size + 8 })
    }

    /// Whether there is a tensor of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// Appends a tensor's values as f32; `shape` must be its shape; every value is finite.
    pub(super) fn append(&self, name: &str, shape: &[usize], out: &mut Vec<f32>) -> Result<(), Error> {
        let fail = |reason: String| Error::Config { file: self.path.clone(), reason };
        let info = self.metadata.info(name).ok_or_else(|| fail(format!("has no tensor {name}")))?;
        if info.shape != shape {
            return Err(fail(format!("{name} has the shape {:?}, {shape:?} is needed", info.shape)));
        }
        let (start, end) = info.data_offsets;
        // Lengths were checked against the file's when it was opened; u16 storage keeps the data aligned.
        let mut data = vec![0u16; (end - start).div_ceil(2)];
        let bytes = &mut bytemuck::cast_slice_mut::<u16, u8>(&mut data)[..end - start];
        self.file
            .read_exact_at(bytes, self.base + start as u64)
            .map_err(|source| Error::Io { file: self.path.clone(), source })?;
        let from = out.len();
        match info.dtype {
            Dtype::F32 => {
                out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
            }
            Dtype::F16 => {
                out.resize(from + data.len(), 0.0);
                data.reinterpret_cast::<half::f16>().convert_to_f32_slice(&mut out[from..]);
            }
            Dtype::BF16 => {
                out.resize(from + data.len(), 0.0);
                data.reinterpret_cast::<half::bf16>().convert_to_f32_slice(&mut out[from..]);
            }
            other => return Err(fail(format!("{name} is {other:?}; F32, F16 and BF16 can be read"))),
        }
        match out[from..].iter().position(|v| !v.is_finite()) {
            Some(at) => Err(fail(format!("{name}: element {at} is not a finite number"))),
            None => Ok(()),
        }
    }
}
