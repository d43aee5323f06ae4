//! What the server does for a caller, free of any wire format: validate, tokenise, hand a job to a device's
//! worker, detokenise what comes back.

pub mod error;

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures::Stream;

pub use error::{Error, ErrorKind};

use crate::types::model::Kind;
use crate::types::{asr, embed, llm};

/// What is known of a request besides its content.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Appears in every log line of the request and in the answer's headers.
    pub request_id: String,
    /// Which API key was used: its public id, never the key. Requests share a queue fairly by it.
    pub key_id: Option<String>,
}

/// An uploaded file, spooled to disk and already unlinked: it disappears with the handle.
#[derive(Debug)]
pub struct Upload {
    pub file: File,
    /// The name the client gave, only ever used as a hint of the format.
    pub name: Option<String>,
}

/// A model as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub id: String,
    pub aliases: Vec<String>,
    pub kind: Kind,
    /// Unix seconds.
    pub created: u64,
    pub owner: String,
}

/// Whether requests can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Not yet, or no longer; the reason is fit for an operator.
    NotReady(String),
}

/// Answers being written. Dropping it stops the work within one step.
pub struct Generation {
    /// Id of the model that answers.
    pub model: String,
    deltas: Pin<Box<dyn Stream<Item = Result<llm::Delta, Error>> + Send>>,
}

impl Generation {
    /// Answers of `model` that arrive as `deltas`, the last of which is [`llm::Delta::Usage`].
    pub fn new(
        model: String,
        deltas: impl Stream<Item = Result<llm::Delta, Error>> + Send + 'static,
    ) -> Generation {
        Generation { model, deltas: Box::pin(deltas) }
    }
}

impl Stream for Generation {
    type Item = Result<llm::Delta, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.deltas.as_mut().poll_next(cx)
    }
}

/// The one door for every dialect. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    _inner: Arc<()>,
}

impl Service {
    /// Starts to generate text.
    pub async fn generate(&self, _ctx: Context, _request: llm::Request) -> Result<Generation, Error> {
        Err(Error::Unavailable { reason: "no chat engine yet".into() })
    }

    /// Embeds every input.
    pub async fn embed(&self, _ctx: Context, _request: embed::Request) -> Result<embed::Response, Error> {
        Err(Error::Unavailable { reason: "no embedding engine yet".into() })
    }

    /// Transcribes a recording.
    pub async fn transcribe(
        &self,
        _ctx: Context,
        _request: asr::Request,
        _upload: Upload,
    ) -> Result<asr::Transcript, Error> {
        Err(Error::Unavailable { reason: "no speech engine yet".into() })
    }

    /// The models that callers may name.
    pub fn models(&self) -> Vec<Card> {
        Vec::new()
    }

    /// Whether requests can be answered now.
    pub fn readiness(&self) -> Readiness {
        Readiness::NotReady("starting".into())
    }
}
