//! Why a request could not be served, in terms a caller can act on.

use std::time::Duration;

/// The classes of failure; each dialect maps them to its status codes and bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Invalid,
    NotFound,
    Conflict,
    Full,
    Overloaded,
    Timeout,
    Cancelled,
    Unavailable,
    Internal,
}

/// A failed request. `Display` is fit for the caller; what is not goes to the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A value is wrong; `param` names the field.
    #[error("{message}")]
    Invalid { param: &'static str, message: String },
    /// The input does not fit the model's context.
    #[error("this model's context is {limit} tokens; the prompt has {tokens}. Shorten the prompt.")]
    ContextLength { tokens: usize, limit: usize },
    /// No such model.
    #[error("the model `{model}` does not exist; available: {}", available.join(", "))]
    UnknownModel { model: String, available: Vec<String> },
    /// The model exists and does something else.
    #[error("the model `{model}` is of the kind {kind} and cannot serve this request; use one of: {}", available.join(", "))]
    WrongKind { model: String, kind: &'static str, available: Vec<String> },
    /// No such response is kept, or it is another key's.
    #[error("there is no response `{id}`: it was not stored, was deleted, or made room for newer ones")]
    UnknownResponse { id: String },
    /// No such collection.
    #[error("there is no collection `{name}`")]
    UnknownCollection { name: String },
    /// There is no such thing, or not any more.
    #[error("there is no {what} `{id}`")]
    Missing { what: &'static str, id: String },
    /// No room is left.
    #[error("{message}")]
    Full { message: String },
    /// What is to be made is there already.
    #[error("{message}")]
    Conflict { message: String },
    /// The queue is full.
    #[error("the server is busy: {queued} requests wait already; try again in {} s", retry_after.as_secs().max(1))]
    Overloaded { queued: usize, retry_after: Duration },
    /// So much of the queue is the caller's own.
    #[error("{queued} requests of this API key wait or run already, as many as one key may have; try again in {} s", retry_after.as_secs().max(1))]
    OverShare { queued: usize, retry_after: Duration },
    /// The deadline passed.
    #[error("the request took longer than {} s and was stopped", after.as_secs())]
    Timeout { after: Duration },
    /// The caller went away.
    #[error("the request was cancelled")]
    Cancelled,
    /// Not ready, or shutting down.
    #[error("{reason}")]
    Unavailable { reason: String },
    /// Ours. The detail is logged under the request id and not shown.
    #[error("the server could not complete the request; its log has the details under the request id")]
    Internal { detail: String },
}

impl Error {
    /// The class of this failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Invalid { .. } | Error::ContextLength { .. } | Error::WrongKind { .. } => {
                ErrorKind::Invalid
            }
            Error::UnknownModel { .. }
            | Error::UnknownResponse { .. }
            | Error::UnknownCollection { .. }
            | Error::Missing { .. } => ErrorKind::NotFound,
            Error::Full { .. } => ErrorKind::Full,
            Error::Conflict { .. } => ErrorKind::Conflict,
            Error::Overloaded { .. } | Error::OverShare { .. } => ErrorKind::Overloaded,
            Error::Timeout { .. } => ErrorKind::Timeout,
            Error::Cancelled => ErrorKind::Cancelled,
            Error::Unavailable { .. } => ErrorKind::Unavailable,
            Error::Internal { .. } => ErrorKind::Internal,
        }
    }
}
