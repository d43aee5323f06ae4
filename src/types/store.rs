//! What the store keeps and how it is asked: collections of points, filters, searches.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How near two vectors are; a higher score is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The cosine of their angle, from -1 to 1.
    #[default]
    Cosine,
    /// Their product.
    Dot,
    /// Their distance, as a score negative.
    Euclidean,
}

/// In what vectors are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As they are given, on the disk and in memory: 4 bytes a dimension, and 1 in the index.
    #[default]
    F32,
    /// In halves on the disk and in memory: 2 bytes a dimension, and 1 in the index.
    F16,
    /// In memory only the index's 8 bits; exact scores are computed from halves on the disk.
    Int8,
}

/// The vectors of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vectors {
    pub dim: usize,
    #[serde(default)]
    pub metric: Metric,
    #[serde(default)]
    pub precision: Precision,
}

/// Whose endings are cut off words as text is indexed and searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stemming {
    /// Words as they are, in small letters without accents.
    #[default]
    None,
    Arabic,
    Danish,
    Dutch,
    English,
    Finnish,
    French,
    German,
    Greek,
    Hungarian,
    Italian,
    Norwegian,
    Portuguese,
    Romanian,
    Russian,
    Spanish,
    Swedish,
    Turkish,
}

impl Stemming {
    /// By the name that it has in JSON: `none`, `english` and so on.
    pub fn parse(name: &str) -> Option<Stemming> {
        serde_json::from_value(Value::String(name.to_lowercase())).ok()
    }
}

/// What a collection is made for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spec {
    /// `None`: its points have no vectors.
    #[serde(default)]
    pub vectors: Option<Vectors>,
    /// `None`: the text of its points is kept, not searched.
    #[serde(default)]
    pub text: Option<Stemming>,
    /// What the collection's owner notes, such as the model that made the vectors.
    #[serde(default)]
    pub note: Map<String, Value>,
}

/// What is kept of a point beside its vector.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub payload: Map<String, Value>,
}

/// A point as it is put.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Point {
    pub record: Record,
    /// Of the collection's dimensions; `None` where it has no vectors.
    pub vector: Option<Vec<f32>>,
}

/// One change of a write, which are done in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Puts points, in the place of those that have their ids.
    Put { collection: String, points: Vec<Point> },
    /// Replaces what is kept of points beside their vectors; points that are not there are left out.
    Describe { collection: String, records: Vec<Record> },
    /// Takes points out by their ids.
    Remove { collection: String, ids: Vec<String> },
    /// Takes out all points that match.
    RemoveWhere { collection: String, filter: Filter },
}

/// A value that points are filtered by.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Number(f64),
    Text(String),
}

/// What a filter looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Field {
    Tags,
    /// A payload's value by its path, the names between dots. Of a list each member counts.
    Payload(String),
}

/// The ends of a range.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Range {
    pub gt: Option<f64>,
    pub gte: Option<f64>,
    pub lt: Option<f64>,
    pub lte: Option<f64>,
}

/// Which points are asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// All of these; without any, every point.
    All(Vec<Filter>),
    /// One of these at least; without any, no point.
    Any(Vec<Filter>),
    Not(Box<Filter>),
    /// The field, or a member of it, is one of these.
    In(Field, Vec<Scalar>),
    /// The field, or a member of it, is a number within the range.
    Within(Field, Range),
    /// The field has a value.
    Exists(Field),
    Ids(Vec<String>),
    /// The text has all of these words, as it is indexed.
    Words(String),
}

impl Filter {
    /// Points that have one of these tags.
    pub fn tags_any(tags: &[String]) -> Filter {
        Filter::In(Field::Tags, tags.iter().cloned().map(Scalar::Text).collect())
    }

    /// Points that have all of these tags.
    pub fn tags_all(tags: &[String]) -> Filter {
        Filter::All(tags.iter().map(|tag| Filter::tags_any(std::slice::from_ref(tag))).collect())
    }

    /// Whether it asks for words.
    pub fn has_words(&self) -> bool {
        match self {
            Filter::All(filters) | Filter::Any(filters) => filters.iter().any(Filter::has_words),
            Filter::Not(filter) => filter.has_words(),
            Filter::Words(_) => true,
            Filter::In(..) | Filter::Within(..) | Filter::Exists(_) | Filter::Ids(_) => false,
        }
    }

    /// Points whose payload has this text at the path.
    pub fn is(path: &str, text: &str) -> Filter {
        Filter::In(Field::Payload(path.to_owned()), vec![Scalar::Text(text.to_owned())])
    }
}

/// How two lists become one: by the sum of `weight / (rank_constant + rank)` over the lists that a point is in, its
/// rank counted from 1 (reciprocal rank fusion: Cormack, Clarke and Büttcher, 2009).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fusion {
    pub rank_constant: f32,
    pub vector_weight: f32,
    pub text_weight: f32,
}

impl Default for Fusion {
    fn default() -> Self {
        Fusion { rank_constant: 60.0, vector_weight: 1.0, text_weight: 1.0 }
    }
}

/// A search: by a vector, by words (BM25), or by both.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Search {
    pub vector: Option<Vec<f32>>,
    pub text: Option<String>,
    pub filter: Option<Filter>,
    /// Points that are asked for: as many come back, if there are so many.
    pub k: usize,
    /// Nodes that the index follows: more find the nearest more surely. `None`: as many as suit `k`.
    pub ef: Option<usize>,
    pub fusion: Fusion,
}

/// A point that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// What the order is by: of both ways, the fused score.
    pub score: f32,
    /// By the metric, where a vector was searched for.
    pub nearness: Option<f32>,
    /// By BM25, where words were searched for and it was among the best.
    pub bm25: Option<f32>,
    pub record: Record,
}

/// A collection and what it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    pub name: String,
    pub spec: Spec,
    pub points: usize,
    /// Bytes in memory.
    pub memory: usize,
    /// Points that searches find by scoring each, as they are not in the index yet.
    pub unlinked: usize,
}

/// Tags and how many points have each.
pub type Tags = BTreeMap<String, u64>;
