//! Embeddings: text in, unit vectors out.

use super::Usage;

/// One text to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Text(String),
    /// Token ids without the special tokens that the model frames its input with.
    Tokens(Vec<u32>),
}

/// What a model is to be told of its texts, by the words that its files have for it before them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Prompt {
    /// Nothing: the caller has put before a text what belongs there.
    #[default]
    None,
    /// They ask for other texts.
    Query,
    /// They are looked for.
    Document,
    /// What the model's files have under this name.
    Named(String),
}

/// One request for vectors. Inputs are not empty: whoever builds one has checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Id or alias of the model.
    pub model: String,
    pub inputs: Vec<Input>,
    /// Keep this many leading dimensions and normalise again.
    pub dimensions: Option<usize>,
    pub prompt: Prompt,
    /// Whether what is too long is cut; else it is refused.
    pub truncate: bool,
}

impl Request {
    /// The whole vectors of inputs as they are, cut to the model's length.
    pub fn new(model: String, inputs: Vec<Input>) -> Request {
        Request { model, inputs, dimensions: None, prompt: Prompt::None, truncate: true }
    }
}

/// The vectors, in the order of the inputs, each of length 1 in the Euclidean norm.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub vectors: Vec<Vec<f32>>,
    pub usage: Usage,
}
