//! From the name in a request to a loaded model.

use std::time::Duration;

use super::{Context, Error, Service};
use crate::engine::handle::{Handle, Refused};
use crate::engine::job::Failure;
use crate::engine::{self, Served};
use crate::types::key::Owner;
use crate::types::model::{Installed, Kind};

/// What a caller is told to wait when a queue is full. A chat answer takes seconds and frees its place then.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whether requests can name models of this kind.
pub fn is_served(kind: Kind) -> bool {
    matches!(kind, Kind::Chat | Kind::Embed | Kind::Rerank | Kind::Asr)
}

/// What callers may call the chat model of those that name none.
const DEFAULT: &str = "default";

impl Service {
    /// The model that `name` means for this kind of work, loaded, for the jobs of whoever asks.
    pub(super) async fn model<M: Served>(&self, ctx: &Context, name: &str) -> Result<Handle<M>, Error> {
        let id = self.resolve(name, M::KIND)?;
        self.installed(ctx, &id).await
    }

    /// The installed model of this id, which callers need not be able to name.
    pub(super) async fn installed<M: Served>(&self, ctx: &Context, id: &str) -> Result<Handle<M>, Error> {
        let owner = ctx.key_id.as_deref().map(Owner::key).unwrap_or_default();
        let handle = self.engine.get::<M>(id).await.map(|handle| handle.owned_by(owner));
        handle.map_err(|error| {
            tracing::error!(model = id, %error, "a model is not available");
            match error {
                engine::Error::Unknown(model) => self.unknown(&model),
                engine::Error::Kind { model, kind } => self.wrong_kind(model, kind, M::KIND),
                engine::Error::DoesNotFit(e) => Error::Unavailable { reason: e.to_string() },
                engine::Error::Stopped => Error::Unavailable { reason: "the server is stopping".to_owned() },
                // The reason names files or devices; the log has it.
                engine::Error::Load { model, .. } | engine::Error::NoDevice { model, .. } => {
                    Error::Unavailable {
                        reason: format!("the model `{model}` could not be loaded; the server's log says why"),
                    }
                }
            }
        })
    }

    /// The names besides its id that a model answers to.
    pub(super) fn names(&self, model: &Installed) -> Vec<String> {
        let configured = self.options.aliases.iter().filter(|(_, id)| **id == model.id).map(|(name, _)| name);
        let mut names: Vec<String> = model.aliases.iter().chain(configured).cloned().collect();
        let is_default = || self.find(DEFAULT, model.kind).is_some_and(|found| found.id == model.id);
        if !names.iter().any(|name| name == DEFAULT) && is_default() {
            names.push(DEFAULT.to_owned());
        }
        names
    }

    fn resolve(&self, name: &str, kind: Kind) -> Result<String, Error> {
        match self.find(name, kind) {
            Some(model) if model.kind == kind => Ok(model.id.clone()),
            Some(model) => Err(self.wrong_kind(name.to_owned(), model.kind, kind)),
            None => Err(self.unknown(name)),
        }
    }

    /// A model by any of its names, or by the name for the default one.
    fn find(&self, name: &str, kind: Kind) -> Option<&Installed> {
        let default = || self.options.default_chat.as_deref().filter(|_| name == DEFAULT);
        self.named(name, kind).or_else(|| self.named(default()?, Kind::Chat))
    }

    /// An id before a configured alias before a model's own alias, where one of the right kind goes first.
    fn named(&self, name: &str, kind: Kind) -> Option<&Installed> {
        let models = || self.engine.models().iter().filter(|m| is_served(m.kind));
        let configured = self.options.aliases.get(name).map_or(name, String::as_str);
        let exact = models().find(|m| m.id == name).or_else(|| models().find(|m| m.id == configured));
        let by_alias =
            |right: bool| models().find(|m| (m.kind == kind) == right && m.aliases.iter().any(|a| a == name));
        exact.or_else(|| by_alias(true)).or_else(|| by_alias(false))
    }

    fn unknown(&self, name: &str) -> Error {
        let available = self.engine.models().iter().filter(|m| is_served(m.kind)).map(|m| m.id.clone());
        Error::UnknownModel { model: name.to_owned(), available: available.collect() }
    }

    fn wrong_kind(&self, model: String, kind: Kind, wanted: Kind) -> Error {
        let available = self.engine.models().iter().filter(|m| m.kind == wanted).map(|m| m.id.clone());
        Error::WrongKind { model, kind: kind.as_str(), available: available.collect() }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full { limit } => Error::Overloaded { queued: limit, retry_after: RETRY_AFTER },
            Refused::FullForKey { limit } => Error::OverShare { queued: limit, retry_after: RETRY_AFTER },
            Refused::Stopped => Error::Unavailable { reason: "the server is stopping".to_owned() },
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rejected(message) => Error::Invalid { param: "input", message },
            Failure::TooLong { tokens, limit } => Error::ContextLength { tokens, limit },
            Failure::Deadline(after) => Error::Timeout { after },
            Failure::Step(detail) => Error::Internal { detail },
            Failure::OutOfMemory => Error::Unavailable {
                reason: format!("{}: try again, or a shorter input", Failure::OutOfMemory),
            },
            Failure::Stopped => Error::Unavailable { reason: "the server is stopping".to_owned() },
        }
    }
}

/// A failure of the thread that did blocking work.
pub(super) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Error> {
    result.map_err(|e| Error::Internal { detail: format!("a blocking task failed: {e}") })
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
