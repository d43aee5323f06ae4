//! A model's folder: its settings, and its tensors as safetensors or as a checkpoint of PyTorch.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;

use super::Error;
use crate::model::weights::Checkpoint;
use crate::model::weights::json::{self, MAX_CONFIG};
use crate::model::weights::safetensors::SafetensorsFolder;
use crate::model::weights::torch::TorchFile;

/// An open folder: heads of its files read and checked, values still on disk.
pub struct Folder {
    dir: PathBuf,
    tensors: Checkpoint,
}

impl Folder {
    /// Opens the safetensors in `dir`.
    ///
    /// # Errors
    /// Files that are missing or contradict themselves.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let tensors = Checkpoint::Safetensors(SafetensorsFolder::open(dir)?);
        Ok(Folder { dir: dir.to_owned(), tensors })
    }

    /// Opens a checkpoint; its settings lie beside it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_torch(file: &Path) -> Result<Self, Error> {
        let dir = file.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(Folder { tensors: Checkpoint::Torch(TorchFile::open(file)?), dir })
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
        self.tensors.has(name)
    }

    /// Bytes that all tensors take once they are loaded: as f32, and on a GPU matrices that are multiplied as halves.
    pub fn loaded_bytes(&self, gpu: bool) -> u64 {
        let is_table = |name: &str| name.contains("embeddings.") || name.contains("embed_tokens");
        self.tensors.bytes(|name, shape| if gpu && shape.len() == 2 && !is_table(name) { 2 } else { 4 })
    }

    /// The first of these prefixes below which there is a tensor `name`, or the first of all.
    pub fn prefix(&self, prefixes: &[&'static str], name: &str) -> &'static str {
        self.tensors.prefix(prefixes, name)
    }

    /// A tensor of this shape, as f32 on `device`.
    ///
    /// # Errors
    /// No such tensor, another shape, a type or a value that is no float, a device without room.
    pub fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, Error> {
        Ok(self.tensors.tensor(name, shape, device)?)
    }
}
