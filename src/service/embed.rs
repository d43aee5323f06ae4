//! Embeddings: texts to tokens, vectors back in order.

use std::borrow::Cow;

use super::resolve::joined;
use super::{Context, Error, Service};
use crate::engine::job::Event;
use crate::engine::lane::embed::Input;
use crate::model::embed::{self, Embed, Front};
use crate::types::Usage;
use crate::types::embed::{Input as Text, Prompt, Request, Response};

impl Service {
    /// Embeds every input.
    pub async fn embed(&self, ctx: Context, request: Request) -> Result<Response, Error> {
        let handle = self.model::<Embed>(&ctx, &request.model).await?;
        let front = handle.front().clone();
        if let Some(dimensions) = request.dimensions.filter(|&d| d == 0 || d > front.dimensions) {
            let message = format!("dimensions is {dimensions}; this model gives 1 to {}", front.dimensions);
            return Err(Error::Invalid { param: "dimensions", message });
        }
        let Request { inputs, prompt, truncate, dimensions, .. } = request;
        let rows = tokio::task::spawn_blocking(move || rows(&front, &inputs, &prompt, truncate)).await;
        let rows = joined(rows)??;
        let tokens = rows.iter().map(Vec::len).sum::<usize>();
        let usage = Usage { prompt_tokens: u32::try_from(tokens).unwrap_or(u32::MAX), ..Usage::default() };
        let mut events = handle.submit(Input { rows }, Some(self.options.timeout))?;
        let mut vectors = match events.recv().await {
            Some(Event::Done(vectors)) => vectors,
            Some(Event::Delta(never)) => match never {},
            Some(Event::Failed(failure)) => return Err(failure.into()),
            None => return Err(Error::Internal { detail: "the worker dropped the job".to_owned() }),
        };
        if let Some(dimensions) = dimensions {
            vectors.iter_mut().for_each(|v| shorten(v, dimensions));
        }
        Ok(Response { vectors, usage })
    }
}

fn rows(front: &Front, inputs: &[Text], prompt: &Prompt, truncate: bool) -> Result<Vec<Vec<u32>>, Error> {
    let tokenizer = &front.tokenizer;
    let words = front.prompts.of(prompt).map_err(|error| invalid(0, error))?;
    let row = |(at, input): (usize, &Text)| {
        let ids = match input {
            Text::Tokens(_) if !words.is_empty() => {
                let message = format!("`input[{at}]` is tokens; only texts can have a prompt before them");
                return Err(Error::Invalid { param: "prompt_name", message });
            }
            Text::Text(text) => {
                let text = match words {
                    "" => Cow::Borrowed(text.as_str()),
                    words => Cow::Owned([words, text].concat()),
                };
                if truncate { tokenizer.encode(&text) } else { tokenizer.encode_whole(&text) }
            }
            Text::Tokens(ids) if truncate => tokenizer.frame(ids),
            Text::Tokens(ids) => tokenizer.frame_whole(ids),
        };
        ids.map_err(|error| invalid(at, error))
    };
    inputs.iter().enumerate().map(row).collect()
}

/// Why input `at` cannot be embedded.
fn invalid(at: usize, error: embed::Error) -> Error {
    match error {
        embed::Error::TokenOutOfRange { .. } | embed::Error::EmptyRow { .. } => {
            Error::Invalid { param: "input", message: error.to_string() }
        }
        embed::Error::Cut { .. } => Error::Invalid {
            param: "input",
            message: format!("`input[{at}]` {error}; shorten it, or allow `truncate`"),
        },
        embed::Error::UnknownPrompt { .. } => {
            Error::Invalid { param: "prompt_name", message: error.to_string() }
        }
        other => Error::Internal { detail: other.to_string() },
    }
}

/// Keeps the leading dimensions and brings the vector back to length 1.
fn shorten(vector: &mut Vec<f32>, dimensions: usize) {
    vector.truncate(dimensions);
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|v| *v /= norm);
    }
}
