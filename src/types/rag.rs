//! Documents: what is kept of them, and what is found in them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::store::{Filter, Fusion};

/// A document to index.
#[derive(Debug, Clone, Default)]
pub struct NewDocument {
    /// What it is known by. `None`: it takes the place of the one of its name, and one of the same content is not
    /// kept twice.
    pub id: Option<String>,
    /// Of its file; what it is called in answers.
    pub name: String,
    pub mime: Option<String>,
    pub content: Content,
    pub tags: Vec<String>,
    /// What passages are filtered by.
    pub attributes: Map<String, Value>,
}

/// What a document says.
#[derive(Debug, Clone)]
pub enum Content {
    /// A file, of any format that is read.
    File(Vec<u8>),
    Text(String),
}

impl Default for Content {
    fn default() -> Self {
        Content::Text(String::new())
    }
}

/// How long passages are, in tokens of the embedding model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassageSize {
    pub tokens: usize,
    /// Repeated of the passage before.
    pub overlap: usize,
}

/// What is kept of a document beside its passages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub collection: String,
    pub id: String,
    pub name: String,
    /// MIME type of its format.
    pub mime: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// Characters of its text.
    pub chars: u64,
    pub passages: u64,
    #[serde(default)]
    pub pages: Option<u64>,
    /// SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
    pub size: PassageSize,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub attributes: Map<String, Value>,
    /// Unix seconds.
    pub created: u64,
    pub updated: u64,
    /// Attachments that could not be read, and why.
    #[serde(default)]
    pub left_out: Vec<(String, String)>,
}

/// What indexing a document did.
#[derive(Debug, Clone, PartialEq)]
pub struct Indexed {
    pub entry: Entry,
    pub outcome: Outcome,
    /// Passages that were embedded; the others were there already.
    pub embedded: usize,
    /// Milliseconds of reading and cutting, and of embedding.
    pub read_ms: u64,
    pub embed_ms: u64,
}

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    New,
    /// In the place of what was under its id or name.
    Changed,
    /// It was there already.
    Same,
}

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Question {
    pub collections: Vec<String>,
    pub text: String,
    /// Passages that are asked for.
    pub k: usize,
    pub filter: Option<Filter>,
    pub by: By,
    pub fusion: Fusion,
    /// The model that puts what is found in order; `None`: it stays as it was found.
    pub reranker: Option<String>,
}

/// What passages are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Vectors and words, fused.
    #[default]
    Both,
    Vectors,
    Words,
}

/// A piece of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    pub collection: String,
    /// Of the passage itself.
    pub id: String,
    /// Id of its document.
    pub document: String,
    /// Of its document.
    pub name: String,
    pub page: Option<u64>,
    /// Above it, the highest first.
    pub headings: Vec<String>,
    pub text: String,
    pub tags: Vec<String>,
    pub attributes: Map<String, Value>,
    /// What the order is by; of a reranker, from 0 to 1.
    pub score: f32,
    /// How well it fits, from 0 to 1: what a reranker says, else the cosine of its vector and the question's. `None`: it
    /// was found by words alone.
    pub relevance: Option<f32>,
}

/// The text of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// All of it, attachments last.
    pub text: String,
    pub sections: Vec<Section>,
    /// As the file names itself.
    pub title: Option<String>,
    /// How many, in a format that has pages.
    pub pages: Option<usize>,
    pub mime: &'static str,
    /// The usual one, without a dot.
    pub extension: &'static str,
    /// Names of the attachments of a mail.
    pub attachments: Vec<String>,
    /// Those that could not be read, and why.
    pub left_out: Vec<(String, String)>,
}

/// What stands under a heading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// `None` before the first heading.
    pub title: Option<String>,
    /// Of the heading, 1 (the highest) to 6; 0 before the first.
    pub level: u8,
    /// Where it begins, in a format that has pages.
    pub page: Option<u32>,
    pub text: String,
}
