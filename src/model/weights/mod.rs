//! Readers of the formats that weights come in. Each checks the whole header before it believes any of it.

pub mod ctranslate2;
