//! Scheduling policies, pure: no tensors, no threads, no clock. What they decide on is passed in, so property
//! tests drive them alone.

pub mod asr;
pub mod blocks;
pub mod embed;
#[cfg(test)]
mod fairness_tests;
pub mod guess;
pub mod llm;
pub mod queue;
#[cfg(test)]
mod tests;
pub mod turns;

/// Names one sequence or one batch job within its lane; never reused while the lane lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);
