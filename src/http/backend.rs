//! What the HTTP side needs of the service behind it, so that its own tests can put something smaller there.

use futures::future::BoxFuture;

use crate::service::live::{self, Session};
use crate::service::rag::Models;
use crate::service::voices::Voices;
use crate::service::{Card, Context, Error, Readiness, Service, Transcription, Upload};
use crate::types::asr;

/// Answers requests. See [`Service`], which is the one that serves.
pub trait Backend: Models + Voices {
    /// The text of tokens of `model`.
    fn detokenize(
        &self,
        ctx: Context,
        model: String,
        tokens: Vec<u32>,
    ) -> BoxFuture<'_, Result<String, Error>>;

    /// Reads a recording and begins to transcribe it.
    fn transcribe(
        &self,
        ctx: Context,
        request: asr::Request,
        upload: Upload,
    ) -> BoxFuture<'_, Result<Transcription, Error>>;

    /// Begins to transcribe a stream.
    fn live(&self, ctx: Context, options: live::Options) -> BoxFuture<'_, Result<Session, Error>>;

    /// The models that callers may name.
    fn models(&self) -> Vec<Card>;

    /// Whether requests can be answered now.
    fn readiness(&self) -> Readiness;
}

impl Backend for Service {
    fn detokenize(
        &self,
        ctx: Context,
        model: String,
        tokens: Vec<u32>,
    ) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(Service::detokenize(self, ctx, model, tokens))
    }

    fn transcribe(
        &self,
        ctx: Context,
        request: asr::Request,
        upload: Upload,
    ) -> BoxFuture<'_, Result<Transcription, Error>> {
        Box::pin(Service::transcribe(self, ctx, request, upload))
    }

    fn live(&self, ctx: Context, options: live::Options) -> BoxFuture<'_, Result<Session, Error>> {
        Box::pin(Service::live(self, ctx, options))
    }

    fn models(&self) -> Vec<Card> {
        Service::models(self)
    }

    fn readiness(&self) -> Readiness {
        Service::readiness(self)
    }
}
