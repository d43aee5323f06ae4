//! What the server does for a caller, free of any wire format: validate, tokenise, hand a job to a device's
//! worker, detokenise what comes back. Only [`transcript`] knows how something is written: as the files that commands
//! and answers share.

mod answer;
mod embed;
pub mod error;
pub mod files;
mod generate;
pub mod jobs;
mod listen;
pub mod live;
mod logprobs;
pub mod points;
pub mod rag;
mod records;
pub mod remote;
mod rerank;
mod resolve;
pub mod responses;
#[cfg(test)]
mod rows_tests;
pub mod runs;
pub mod speakers;
mod tokenize;
mod transcribe;
pub mod transcript;
pub mod vector_stores;
pub mod voices;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::Semaphore;

pub use error::{Error, ErrorKind};
pub use resolve::is_served;

use crate::engine::{Engine, State};
use crate::types::model::Kind;
use crate::types::{asr, llm};

/// Recordings decoded to features, or waiting with them, at a time. It bounds memory: an hour takes 58 MB. The
/// others wait as files on disk.
const RECORDINGS: usize = 8;
/// Forms of answers compiled at a time.
const GRAMMARS: usize = 2;
/// Texts tokenised at a time for callers that want to see the tokens: each takes a core.
const TOKENIZINGS: usize = 2;

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
    /// The MIME type the client gave, as the same.
    pub mime: Option<String>,
}

impl Upload {
    /// The same file, for when this one has been read: both have one place that is read from, which
    /// [`rewind`](Self::rewind) puts back.
    ///
    /// # Errors
    /// The process has too many files open.
    pub fn again(&self) -> Result<Upload, Error> {
        let file = self.file.try_clone().map_err(unreadable)?;
        Ok(Upload { file, name: self.name.clone(), mime: self.mime.clone() })
    }

    /// Goes back to the file's beginning.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn rewind(&mut self) -> Result<(), Error> {
        self.file.rewind().map_err(unreadable)
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::Internal { detail: format!("the spooled upload: {error}") }
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
    /// Whether it is in memory now. Another one is loaded when it is asked for.
    pub loaded: bool,
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

/// A recording being transcribed. Dropping it stops the work within one step.
pub struct Transcription {
    /// Id of the model that hears it.
    pub model: String,
    deltas: Pin<Box<dyn Stream<Item = Result<asr::Delta, Error>> + Send>>,
}

impl Transcription {
    /// What `model` hears, in the order of [`asr::Delta`].
    pub fn new(
        model: String,
        deltas: impl Stream<Item = Result<asr::Delta, Error>> + Send + 'static,
    ) -> Transcription {
        Transcription { model, deltas: Box::pin(deltas) }
    }

    /// All of it.
    ///
    /// # Errors
    /// Whatever ended it before its end.
    pub async fn collect(mut self) -> Result<asr::Transcript, Error> {
        let (mut length, mut segments) = (0.0, Vec::new());
        while let Some(delta) = self.deltas.next().await {
            match delta? {
                asr::Delta::Begin { duration } => length = duration,
                asr::Delta::Segment(segment) => segments.push(segment),
                asr::Delta::End(asr::Ending { language, usage }) => {
                    return Ok(asr::Transcript { language, duration: length, segments, usage });
                }
            }
        }
        Err(Error::Internal { detail: "a transcription ended without its end".to_owned() })
    }
}

impl Stream for Transcription {
    type Item = Result<asr::Delta, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.deltas.as_mut().poll_next(cx)
    }
}

/// How requests are served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names that callers may use besides a model's own: name to id.
    pub aliases: BTreeMap<String, String>,
    /// Name of the chat model that `default` stands for, where nothing else has that name.
    pub default_chat: Option<String>,
    /// From submission to the end of the work.
    pub timeout: Duration,
    /// Longest recording.
    pub audio_seconds: u32,
}

impl Default for Options {
    fn default() -> Self {
        let timeout = Duration::from_secs(1800);
        Options { aliases: BTreeMap::new(), default_chat: None, timeout, audio_seconds: 4 * 3600 }
    }
}

/// The one door for every dialect. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    engine: Engine,
    options: Arc<Options>,
    recordings: Arc<Semaphore>,
    grammars: Arc<Semaphore>,
    tokenizings: Arc<Semaphore>,
}

impl Service {
    /// Serves what `engine` runs.
    pub fn new(engine: Engine, options: Options) -> Service {
        let permits = |count| Arc::new(Semaphore::new(count));
        Service {
            engine,
            options: Arc::new(options),
            recordings: permits(RECORDINGS),
            grammars: permits(GRAMMARS),
            tokenizings: permits(TOKENIZINGS),
        }
    }

    /// The models that callers may name.
    pub fn models(&self) -> Vec<Card> {
        let loaded = self.engine.loaded();
        let served = self.engine.models().iter().filter(|m| is_served(m.kind));
        let card = served.map(|m| Card {
            id: m.id.clone(),
            aliases: self.names(m),
            kind: m.kind,
            created: m.created,
            owner: m.owner.clone(),
            loaded: loaded.contains(&m.id),
        });
        card.collect()
    }

    /// Whether requests can be answered now.
    pub fn readiness(&self) -> Readiness {
        match self.engine.state() {
            State::Ready => Readiness::Ready,
            State::Loading(what) => Readiness::NotReady(what),
            State::Failed(why) => Readiness::NotReady(why),
            State::Stopping => Readiness::NotReady("the server is shutting down".to_owned()),
        }
    }
}
