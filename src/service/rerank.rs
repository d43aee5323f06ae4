//! Rerankings: a question and documents to pairs of tokens, scores back in order.

use super::resolve::joined;
use super::{Context, Error, Service};
use crate::engine::job::Event;
use crate::engine::lane::embed::Input;
use crate::model::embed;
use crate::model::rerank::{Pair, Rerank};
use crate::types::Usage;
use crate::types::rerank::{Request, Response, Score};

impl Service {
    /// Scores every document by how well it answers the question.
    pub async fn rerank(&self, ctx: Context, request: Request) -> Result<Response, Error> {
        let handle = self.model::<Rerank>(&ctx, &request.model).await?;
        let front = handle.front().clone();
        let pairs = tokio::task::spawn_blocking(move || {
            let Request { query, documents, truncate, .. } = request;
            front.tokenizer.pairs(&query, &documents, truncate).map_err(invalid)
        });
        let rows: Vec<Pair> = joined(pairs.await)??;
        let tokens = rows.iter().map(|pair| pair.ids().len()).sum::<usize>();
        let usage = Usage { prompt_tokens: u32::try_from(tokens).unwrap_or(u32::MAX), ..Usage::default() };
        let mut events = handle.submit(Input { rows }, Some(self.options.timeout))?;
        match events.recv().await {
            Some(Event::Done(scores)) => {
                Ok(Response { scores: scores.into_iter().map(Score).collect(), usage })
            }
            Some(Event::Delta(never)) => match never {},
            Some(Event::Failed(failure)) => Err(failure.into()),
            None => Err(Error::Internal { detail: "the worker dropped the job".to_owned() }),
        }
    }
}

/// Why document `at` cannot be scored.
fn invalid((at, error): (usize, embed::Error)) -> Error {
    match error {
        embed::Error::Cut { .. } => Error::Invalid {
            param: "documents",
            message: format!("document {at} with the question {error}; shorten one, or allow `truncate`"),
        },
        other => Error::Internal { detail: other.to_string() },
    }
}
