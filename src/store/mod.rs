//! The embedded store.

pub mod bits;
pub mod flat;
pub mod hnsw;
