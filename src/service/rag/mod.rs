//! Documents: indexed, found again by what is asked, and answered from.
//!
//! ```text
//! file -> documents::read -> blocks -> documents::chunk -> passages -> embedded -> store, in one write with the entry
//! question -> embedded -> store: nearest and best words, fused -> passages, numbered -> chat model -> answer
//! ```
//!
//! A collection is of one embedding model, which its spec names. A passage is a point whose id is that of its document
//! and a hash of what it says, so that a document that changed a little keeps most of its vectors.

mod answer;
mod find;
mod index;
mod read;
pub(super) mod shelf;
mod tags;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{OwnedMutexGuard, Semaphore};

pub use answer::{Answered, HINT, NOTHING, Said, TASK, cited};
pub(super) use index::now;
pub use read::extensions;

use super::points::{OWN, Points};
use super::records::Records;
use super::{Context, Error, Generation, Service};
use crate::documents::Limits;
use crate::model::embed::Embed;
use crate::store;
use crate::types::rag::{Entry, PassageSize};
use crate::types::store::{Described, Spec, Stemming, Vectors};
use crate::types::{embed, llm, rerank};

/// Documents that are read at a time: each takes a core, and memory for its text.
const READING: usize = 2;
/// Tokens of a passage where nothing else is asked for, and how much of them is repeated: an eighth.
const PASSAGE_TOKENS: usize = 256;
const OVERLAP_SHARE: usize = 8;
/// Least tokens of a passage.
const LEAST_TOKENS: usize = 16;

/// What is kept of documents.
static ENTRIES: Records<Entry> = Records::new("stentor:documents");

/// The models that this works with. See [`Service`], which has them.
pub trait Models: Send + Sync + 'static {
    /// Starts to generate text.
    fn generate(&self, ctx: Context, request: llm::Request) -> BoxFuture<'_, Result<Generation, Error>>;

    /// The tokens of a prompt, without generating.
    fn tokenize(&self, ctx: Context, request: llm::Tokenize) -> BoxFuture<'_, Result<llm::Tokens, Error>>;

    /// Embeds every input.
    fn embed(&self, ctx: Context, request: embed::Request) -> BoxFuture<'_, Result<embed::Response, Error>>;

    /// Scores documents by how well they answer a question.
    fn rerank(
        &self,
        ctx: Context,
        request: rerank::Request,
    ) -> BoxFuture<'_, Result<rerank::Response, Error>>;

    /// What an embedding model makes of texts.
    fn ruler(&self, ctx: Context, model: String) -> BoxFuture<'_, Result<Ruler, Error>>;
}

/// How an embedding model measures texts.
#[derive(Clone)]
pub struct Ruler {
    /// Id of the model.
    pub model: String,
    /// Of its vectors.
    pub dimensions: usize,
    /// The longest text that it reads to the end.
    pub max_tokens: usize,
    /// How many tokens a passage is, with what the model is told before it and adds to each.
    pub measure: Arc<dyn Fn(&str) -> usize + Send + Sync>,
}

impl Models for Service {
    fn generate(&self, ctx: Context, request: llm::Request) -> BoxFuture<'_, Result<Generation, Error>> {
        Box::pin(Service::generate(self, ctx, request))
    }

    fn tokenize(&self, ctx: Context, request: llm::Tokenize) -> BoxFuture<'_, Result<llm::Tokens, Error>> {
        Box::pin(Service::tokenize(self, ctx, request))
    }

    fn embed(&self, ctx: Context, request: embed::Request) -> BoxFuture<'_, Result<embed::Response, Error>> {
        Box::pin(Service::embed(self, ctx, request))
    }

    fn rerank(
        &self,
        ctx: Context,
        request: rerank::Request,
    ) -> BoxFuture<'_, Result<rerank::Response, Error>> {
        Box::pin(Service::rerank(self, ctx, request))
    }

    fn ruler(&self, ctx: Context, model: String) -> BoxFuture<'_, Result<Ruler, Error>> {
        Box::pin(async move {
            let handle = self.model::<Embed>(&ctx, &model).await?;
            let front = handle.front().clone();
            Ok(Ruler {
                model: handle.id().to_owned(),
                dimensions: front.dimensions,
                max_tokens: front.tokenizer.max_tokens(),
                measure: Arc::new(move |text| {
                    let words = front.prompts.of(&embed::Prompt::Document).unwrap_or_default();
                    front.tokenizer.count(&[words, text].concat())
                }),
            })
        })
    }
}

/// How documents are taken.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Of a file.
    pub limits: Limits,
}

/// Where documents go, and how.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub collection: String,
    /// The embedding model of a collection that is made; one that is there keeps its own.
    pub model: Option<String>,
    /// `None`: 256 tokens, or as many as the model takes, an eighth of them repeated.
    pub size: Option<PassageSize>,
    /// Whose endings are cut off words in a collection that is made.
    pub stemming: Stemming,
    /// The chat model that makes tags for documents; `None`: they have those that they are sent with.
    pub tagger: Option<String>,
}

/// Documents and answers from them. Cheap to clone.
#[derive(Clone)]
pub struct Rag {
    models: Arc<dyn Models>,
    points: Points,
    options: Arc<Options>,
    reading: Arc<Semaphore>,
    /// Documents that are being written, by collection and id.
    turns: Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>,
}

impl Rag {
    /// Works with these models on this store.
    pub fn new(models: Arc<dyn Models>, points: Points, options: Options) -> Rag {
        Rag {
            models,
            points,
            options: Arc::new(options),
            reading: Arc::new(Semaphore::new(READING)),
            turns: Arc::default(),
        }
    }

    /// A turn at what `key` names: there is one at a time.
    pub(super) async fn turn(&self, key: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let found = turns.get(key).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let new = Arc::default();
                turns.insert(key.to_owned(), Arc::downgrade(&new));
                new
            })
        };
        turn.lock_owned().await
    }

    /// How the embedding model of a place measures.
    ///
    /// # Errors
    /// The collection holds vectors of another model, or of none that this server knows; its name is none for a
    /// collection.
    async fn ruler(&self, ctx: &Context, place: &Place) -> Result<Ruler, Error> {
        let described = self.points.describe(own_not(&place.collection)?).await?;
        let model = match described.as_ref().and_then(model_of).or_else(|| place.model.clone()) {
            Some(model) => model,
            None => {
                let message = "no embedding model is named, and the server has no default";
                return Err(Error::Invalid { param: "model", message: message.to_owned() });
            }
        };
        let ruler = self.models.ruler(ctx.clone(), model).await?;
        described.map_or(Ok(()), |described| fits(&described, &ruler))?;
        Ok(ruler)
    }

    /// Makes the collection of a place where it is not there; how its model measures.
    ///
    /// # Errors
    /// As with one that is there already: its name, or its model.
    pub async fn ensure(&self, ctx: &Context, place: &Place) -> Result<Ruler, Error> {
        let ruler = self.ruler(ctx, place).await?;
        self.make(place, &ruler).await?;
        Ok(ruler)
    }

    async fn make(&self, place: &Place, ruler: &Ruler) -> Result<(), Error> {
        let vectors =
            Vectors { dim: ruler.dimensions, metric: Default::default(), precision: Default::default() };
        let mut spec = Spec { vectors: Some(vectors), text: Some(place.stemming), ..Spec::default() };
        spec.note.insert("model".to_owned(), Value::String(ruler.model.clone()));
        self.points.make(place.collection.clone(), spec).await
    }
}

/// The embedding model that a collection was made for.
fn model_of(described: &Described) -> Option<String> {
    described.spec.note.get("model").and_then(Value::as_str).map(str::to_owned)
}

/// Whether a collection takes passages as a model embeds them.
fn fits(described: &Described, ruler: &Ruler) -> Result<(), Error> {
    let dim = described.spec.vectors.map_or(0, |vectors| vectors.dim);
    if dim == ruler.dimensions && described.spec.text.is_some() {
        return Ok(());
    }
    let Described { name, .. } = described;
    let message = format!(
        "collection `{name}` takes vectors of {dim} dimensions and `{}` makes them of {}; name another collection",
        ruler.model, ruler.dimensions
    );
    Err(Error::Conflict { message })
}

/// A name that is not one of the server's own collections.
fn own_not(name: &str) -> Result<String, Error> {
    if name.starts_with(OWN) {
        return Err(store::Error::Name(name.to_owned()).into());
    }
    Ok(name.to_owned())
}

/// The size of passages, as a model can have it.
fn size(asked: Option<PassageSize>, ruler: &Ruler) -> PassageSize {
    let tokens = asked
        .map_or(PASSAGE_TOKENS, |size| size.tokens)
        .clamp(LEAST_TOKENS, ruler.max_tokens.max(LEAST_TOKENS));
    let overlap = asked.map_or(tokens / OVERLAP_SHARE, |size| size.overlap).min(tokens / 2);
    PassageSize { tokens, overlap }
}
