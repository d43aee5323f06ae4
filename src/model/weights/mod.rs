//! Readers of weight files.
//!
//! Every reader treats its file as hostile: each count, length and offset is compared with the size of the
//! file, in checked arithmetic, before anything is allocated or read by it.

mod error;
#[allow(dead_code)] // the GGUF reader uses the rest
mod file;
pub mod json;
pub mod safetensors;
#[cfg(test)]
mod safetensors_tests;

pub use error::Error;
pub use file::WeightsFile;
