//! A model's folder: its settings, and its tensors as safetensors or as a checkpoint of PyTorch.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;

use super::Error;
use crate::model::weights::Error as WeightsError;
use crate::model::weights::json::{self, MAX_CONFIG};
use crate::model::weights::safetensors::SafetensorsFolder;
use crate::model::weights::torch::TorchFile;

/// An open folder: heads of its files read and checked, values still on disk.
pub struct Folder {
    dir: PathBuf,
    tensors: Tensors,
}

enum Tensors {
    Safetensors(SafetensorsFolder),
    Torch(TorchFile),
}

impl Folder {
    /// Opens the safetensors in `dir`.
    ///
    /// # Errors
    /// Files that are missing or contradict themselves.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let tensors = Tensors::Safetensors(SafetensorsFolder::open(dir)?);
        Ok(Folder { dir: dir.to_owned(), tensors })
    }

    /// Opens a checkpoint; its settings lie beside it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_torch(file: &Path) -> Result<Self, Error> {
        let dir = file.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(Folder { tensors: Tensors::Torch(TorchFile::open(file)?), dir })
    }

    /// Where the settings are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of `config.json`.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// `config.json` as `T`.
    ///
    /// # Errors
    /// A file that is missing or does not hold a `T`.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(json::read(&self.config_path(), MAX_CONFIG)?)
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        match &self.tensors {
            Tensors::Safetensors(folder) => folder.shape(name).is_some(),
            Tensors::Torch(file) => file.shape(name).is_some(),
        }
    }

    /// Bytes that all tensors take as f32.
    pub fn f32_bytes(&self) -> u64 {
        let size = |shape: &[usize]| shape.iter().fold(4u64, |n, &d| n.saturating_mul(d as u64));
        let sizes: Vec<u64> = match &self.tensors {
            Tensors::Safetensors(f) => f.names().filter_map(|name| Some(size(f.shape(name)?))).collect(),
            Tensors::Torch(f) => f.names().filter_map(|name| Some(size(f.shape(name)?))).collect(),
        };
        sizes.into_iter().fold(0, u64::saturating_add)
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
        match &self.tensors {
            Tensors::Safetensors(folder) => Ok(folder.tensor(name, shape, DType::F32, device)?),
            Tensors::Torch(file) => {
                let mut values = Vec::new();
                file.append_f32(name, shape, &mut values)?;
                let tensor = Tensor::from_vec(values, shape, device);
                Ok(tensor.map_err(|source| WeightsError::Device {
                    path: file.path().to_owned(),
                    tensor: name.to_owned(),
                    source: source.into(),
                })?)
            }
        }
    }
}
