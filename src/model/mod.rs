//! The architectures, and the readers of their weights.

pub mod asr;
pub mod embed;
pub mod llm;
pub mod weights;
