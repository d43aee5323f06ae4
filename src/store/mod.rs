//! The embedded store.

pub mod flat;
pub mod hnsw;
