//! PyTorch's checkpoints: the zip files of `torch.save`.
//!
//! | entry, below one folder of any name | content |
//! |---|---|
//! | `data.pkl` | a pickle of protocol 2: dicts of tensors, which name storages by key, offset, size and stride |
//! | `data/KEY` | the elements of a storage, as they lie in memory |
//! | `byteorder` | `little` or `big`; older files have none and are little-endian |
//!
//! Entries are stored, not compressed, so tensors are read by position, straight into their buffers. Nothing of a
//! pickle is ever executed: `pickle.rs` knows the few opcodes and names that tensors take, and refuses all others.
//! Source: PyTorch's `torch/serialization.py` and `torch/_utils.py`, Python's `pickletools`.

mod archive;
mod objects;
mod pickle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::GgmlDType;

use self::archive::{Archive, PICKLE};
use self::objects::{Objects, Tensor, Value};
use self::pickle::{Element, Fault};
use super::{Error, WeightsFile, floats};

/// The longest pickle read; that of a large model takes less than one.
const MAX_PICKLE: u64 = 8 << 20;
/// Where a checkpoint that has more than its parameters keeps them.
const STATES: [&str; 2] = ["model_state_dict", "state_dict"];

/// Where a tensor lies. Invariant: its elements, if they are contiguous, are within the file.
#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    element: Element,
    contiguous: bool,
    at: u64,
}

/// An open checkpoint: its pickle read and checked, values still on disk.
#[derive(Debug)]
pub struct TorchFile {
    file: WeightsFile,
    tensors: BTreeMap<String, Entry>,
    integers: BTreeMap<String, i64>,
}

impl TorchFile {
    /// Opens a checkpoint. Its tensors are those of the dict in it, or of `model_state_dict` or `state_dict` in that
    /// dict; of dicts in one another the names are joined by dots.
    ///
    /// # Errors
    /// A file that is no checkpoint, that contradicts itself or its size, or whose pickle needs more than tensors do.
    pub fn open(path: &Path) -> Result<TorchFile, Error> {
        let file = WeightsFile::open(path)?;
        let archive = Archive::open(&file)?;
        let bytes = archive.read_pickle(&file, MAX_PICKLE)?;
        let failed = |fault| match fault {
            Fault::Damaged(problem) => Error::malformed(path, PICKLE, problem),
            Fault::Refused(problem) => Error::unsupported(path, PICKLE, problem),
        };
        let objects = pickle::read(&bytes).map_err(failed)?;
        let Value::Node(top) = objects.root else {
            return Err(Error::unsupported(path, PICKLE, "holds no dict of tensors"));
        };
        let state = STATES.iter().find_map(|key| match objects.get(top, key) {
            Some(&Value::Node(at)) => Some(at),
            _ => None,
        });
        let mut torch = TorchFile { file, tensors: BTreeMap::new(), integers: BTreeMap::new() };
        for (name, value) in objects.leaves(state.unwrap_or(top)).map_err(failed)? {
            if let Some(tensor) = objects.tensor(value) {
                let entry = torch.place(&objects, tensor, &name, &archive)?;
                torch.tensors.insert(name, entry);
            }
        }
        for (name, value) in objects.leaves(top).map_err(failed)? {
            if let Value::Int(value) = value {
                torch.integers.insert(name, *value);
            }
        }
        Ok(torch)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// An integer of the file, named from its outermost dict on: `dims.n_mels`.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.integers.get(name).copied()
    }

    /// Reads a tensor of f32, f16 or bf16 behind what `out` holds, widened to f32.
    ///
    /// # Errors
    /// No such tensor, another shape than `expected`, another type than these three, elements that are not one
    /// after the other, a value that is NaN or infinite, or a file that cannot be read.
    pub fn append_f32(&self, name: &str, expected: &[usize], out: &mut Vec<f32>) -> Result<(), Error> {
        let field = format!("tensor {name}");
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::Missing { path: self.path().to_owned(), field });
        };
        if entry.shape != expected {
            return Err(Error::Shape {
                path: self.path().to_owned(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: entry.shape.clone(),
            });
        }
        let dtype = match entry.element {
            Element::F32 => GgmlDType::F32,
            Element::F16 => GgmlDType::F16,
            Element::Bf16 => GgmlDType::BF16,
            other => {
                let problem = format!("is of type {other:?}; f32, f16 and bf16 can be read");
                return Err(Error::unsupported(self.path(), field, problem));
            }
        };
        if !entry.contiguous {
            let problem = "its elements do not lie one after the other; save it again as `contiguous()`";
            return Err(Error::unsupported(self.path(), field, problem));
        }
        let from = out.len();
        out.resize(from + entry.shape.iter().product::<usize>(), 0.0);
        floats::read(&self.file, &field, dtype, entry.at, &mut out[from..])
    }

    fn place(
        &self,
        objects: &Objects,
        tensor: &Tensor,
        name: &str,
        archive: &Archive,
    ) -> Result<Entry, Error> {
        let bad = |problem: String| Error::malformed(self.path(), format!("tensor {name}"), problem);
        let storage = objects.storages.get(tensor.storage).ok_or_else(|| bad("has no storage".into()))?;
        let (at, len) =
            archive.storage(&storage.key).ok_or_else(|| bad(format!("data/{} is not there", storage.key)))?;
        let element = storage.element;
        let end = tensor.offset.checked_add(tensor.elements).filter(|&end| end <= storage.elements);
        let end = end.and_then(|end| end.checked_mul(element.size())).filter(|&end| end <= len);
        if end.is_none() {
            return Err(bad(format!("passes the end of data/{}, which has {len} bytes", storage.key)));
        }
        let (shape, contiguous) = (tensor.shape.clone(), tensor.contiguous);
        Ok(Entry { shape, element, contiguous, at: at + tensor.offset * element.size() })
    }
}
