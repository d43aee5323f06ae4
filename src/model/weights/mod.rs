//! Readers of weight files, and the writer of the one format that other engines read too.
//!
//! Every reader treats its file as hostile: each count, length and offset is compared with the size of the
//! file, in checked arithmetic, before anything is allocated or read by it.

pub mod checkpoint;
pub mod ctranslate2;
mod error;
mod file;
mod floats;
pub mod ggml;
#[cfg(test)]
mod ggml_tests;
pub mod gguf;
mod gguf_header;
pub mod gguf_meta;
pub mod gguf_write;
pub mod json;
pub mod safetensors;
#[cfg(test)]
mod safetensors_tests;
pub mod synthetic;
pub mod synthetic_bert;
mod synthetic_blocks;
mod synthetic_folder;
mod synthetic_shapes;
pub mod synthetic_whisper;
pub mod torch;

pub use checkpoint::Checkpoint;
pub use error::Error;
pub use file::WeightsFile;
