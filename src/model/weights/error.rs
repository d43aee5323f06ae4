//! What can be wrong with a file of weights.

use std::io;
use std::path::{Path, PathBuf};

/// Why weights could not be read or written. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        path: PathBuf,
        /// What was tried: `open`, `read the header`, ...
        action: &'static str,
        source: io::Error,
    },
    /// The file contradicts itself or its own size.
    #[error(
        "{}: {field}: {problem}; the file is damaged or cut short: download it again with `stentor pull`",
        path.display()
    )]
    Malformed { path: PathBuf, field: String, problem: String },
    /// The file is sound, but nothing here can run it.
    #[error("{}: {field}: {problem}", path.display())]
    Unsupported { path: PathBuf, field: String, problem: String },
    /// A tensor or a metadata field that the architecture needs.
    #[error("{}: {field} is missing: this is not a complete model of its architecture", path.display())]
    Missing { path: PathBuf, field: String },
    /// A tensor does not fit the rest of the model.
    #[error("{}: tensor {tensor} has shape {found:?} where the model needs {expected:?}", path.display())]
    Shape { path: PathBuf, tensor: String, expected: Vec<usize>, found: Vec<usize> },
    /// The device could not take a tensor.
    #[error("{}: tensor {tensor}: {source}", path.display())]
    Device {
        path: PathBuf,
        tensor: String,
        #[source]
        source: Box<candle_core::Error>,
    },
}

impl Error {
    pub(crate) fn malformed(path: &Path, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Malformed { path: path.to_owned(), field: field.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(path: &Path, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Unsupported { path: path.to_owned(), field: field.into(), problem: problem.into() }
    }
}
