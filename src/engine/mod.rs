//! (to be written)
pub mod sched;
