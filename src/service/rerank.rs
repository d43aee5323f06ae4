//! Rerankings: a question and documents to pairs of tokens, scores back in order.

use super::resolve::joined;
use super::{Context, Error, Service};
use crate::engine::job::Event;
use crate::engine::lane::embed::Input;
use crate::model::rerank::{Pair, Rerank};
use crate::types::Usage;
use crate::types::rerank::{Request, Response, Score};

impl Service {
    /// Scores every document by how well it answers the question. Documents that are too long for the model are cut.
    pub async fn rerank(&self, ctx: Context, request: Request) -> Result<Response, Error> {
        let handle = self.model::<Rerank>(&ctx, &request.model).await?;
        let front = handle.front().clone();
        let pairs = tokio::task::spawn_blocking(move || {
            let pairs = front.tokenizer.pairs(&request.query, &request.documents);
            pairs.map_err(|e| Error::Internal { detail: e.to_string() })
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
