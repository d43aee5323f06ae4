//! (to be written)

pub mod tokenizer;
