//! Tensors by name, whichever of two formats they lie in: safetensors, or PyTorch's checkpoints.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::Error;
use super::safetensors::SafetensorsFolder;
use super::torch::TorchFile;
use crate::types::model::{Format, Installed};

/// An open checkpoint: its head read and checked, values still on disk.
pub enum Checkpoint {
    Safetensors(SafetensorsFolder),
    Torch(TorchFile),
}

impl Checkpoint {
    /// Opens the weights of a model.
    ///
    /// # Errors
    /// Files that are missing or contradict themselves, or another format than these two.
    pub fn open(installed: &Installed) -> Result<Checkpoint, Error> {
        match installed.format {
            Format::Safetensors => Ok(Checkpoint::Safetensors(SafetensorsFolder::open(&installed.path)?)),
            Format::Torch => Ok(Checkpoint::Torch(TorchFile::open(&installed.path)?)),
            other => {
                let problem = format!("is {}; safetensors and torch can be read", other.as_str());
                Err(Error::unsupported(&installed.path, "format", problem))
            }
        }
    }

    /// The folder or the file.
    pub fn path(&self) -> &Path {
        match self {
            Checkpoint::Safetensors(folder) => folder.dir(),
            Checkpoint::Torch(file) => file.path(),
        }
    }

    /// The shape of a tensor, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match self {
            Checkpoint::Safetensors(folder) => folder.shape(name),
            Checkpoint::Torch(file) => file.shape(name),
        }
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// Bytes that all tensors take together, each as so many bytes a value.
    pub fn bytes(&self, a_value: impl Fn(&str, &[usize]) -> u64) -> u64 {
        let size = |name: &str| {
            self.shape(name).map_or(0, |shape| {
                shape.iter().fold(a_value(name, shape), |n, &d| n.saturating_mul(d as u64))
            })
        };
        match self {
            Checkpoint::Safetensors(folder) => folder.names().map(size).fold(0, u64::saturating_add),
            Checkpoint::Torch(file) => file.names().map(size).fold(0, u64::saturating_add),
        }
    }

    /// The first of these prefixes below which there is a tensor `name`, or the first of all.
    pub fn prefix(&self, prefixes: &[&'static str], name: &str) -> &'static str {
        let found = prefixes.iter().find(|prefix| self.has(&format!("{prefix}{name}")));
        found.or(prefixes.first()).copied().unwrap_or_default()
    }

    /// A tensor of this shape, as f32 on `device`.
    ///
    /// # Errors
    /// No such tensor, another shape, a type or a value that is no float, a device without room.
    pub fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, Error> {
        match self {
            Checkpoint::Safetensors(folder) => folder.tensor(name, shape, DType::F32, device),
            Checkpoint::Torch(file) => {
                let mut values = Vec::new();
                file.append_f32(name, shape, &mut values)?;
                let tensor = Tensor::from_vec(values, shape, device);
                tensor.map_err(|source| Error::Device {
                    path: file.path().to_owned(),
                    tensor: name.to_owned(),
                    source: source.into(),
                })
            }
        }
    }
}
