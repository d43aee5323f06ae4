//! What the HTTP side needs of the service behind it, so that its own tests can put something smaller there.

use futures::future::BoxFuture;

use crate::service::live::{self, Session};
use crate::service::{Card, Context, Error, Generation, Readiness, Service, Transcription, Upload};
use crate::types::{asr, embed, llm, rerank};

/// Answers requests. See [`Service`], which is the one that serves.
pub trait Backend: Send + Sync + 'static {
    /// Starts to generate text.
    fn generate(&self, ctx: Context, request: llm::Request) -> BoxFuture<'_, Result<Generation, Error>>;

    /// The tokens of a prompt, without generating.
    fn tokenize(&self, ctx: Context, request: llm::Tokenize) -> BoxFuture<'_, Result<llm::Tokens, Error>>;

    /// The text of tokens of `model`.
    fn detokenize(
        &self,
        ctx: Context,
        model: String,
        tokens: Vec<u32>,
    ) -> BoxFuture<'_, Result<String, Error>>;

    /// Embeds every input.
    fn embed(&self, ctx: Context, request: embed::Request) -> BoxFuture<'_, Result<embed::Response, Error>>;

    /// Scores documents by how well they answer a question.
    fn rerank(
        &self,
        ctx: Context,
        request: rerank::Request,
    ) -> BoxFuture<'_, Result<rerank::Response, Error>>;

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
    fn generate(&self, ctx: Context, request: llm::Request) -> BoxFuture<'_, Result<Generation, Error>> {
        Box::pin(Service::generate(self, ctx, request))
    }

    fn tokenize(&self, ctx: Context, request: llm::Tokenize) -> BoxFuture<'_, Result<llm::Tokens, Error>> {
        Box::pin(Service::tokenize(self, ctx, request))
    }

    fn detokenize(
        &self,
        ctx: Context,
        model: String,
        tokens: Vec<u32>,
    ) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(Service::detokenize(self, ctx, model, tokens))
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
