//! Rerankings: a question and texts in, how well each answers it out.

use super::Usage;

/// One request for scores. Neither the question nor the list of documents is empty: whoever builds one has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Id or alias of the model.
    pub model: String,
    pub query: String,
    pub documents: Vec<String>,
    /// Whether what is too long is cut; else it is refused.
    pub truncate: bool,
}

/// The scores, in the order of the documents.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub scores: Vec<Score>,
    pub usage: Usage,
}

/// What a model says of one text: its logit.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Score(pub f32);

impl Score {
    /// From 0 to 1: the sigmoid, as Cohere, Jina and BAAI give scores.
    pub fn relevance(self) -> f32 {
        1.0 / (1.0 + (-self.0).exp())
    }
}
