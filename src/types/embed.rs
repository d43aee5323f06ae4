//! Embeddings: text in, unit vectors out.

use super::Usage;

/// One text to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Text(String),
    /// Token ids without the special tokens that the model frames its input with.
    Tokens(Vec<u32>),
}

/// One request for vectors. Inputs are not empty: whoever builds one has checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Id or alias of the model.
    pub model: String,
    pub inputs: Vec<Input>,
    /// Keep this many leading dimensions and normalise again.
    pub dimensions: Option<usize>,
}

/// The vectors, in the order of the inputs, each of length 1 in the Euclidean norm.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub vectors: Vec<Vec<f32>>,
    pub usage: Usage,
}
