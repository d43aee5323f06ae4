//! Tokens for callers that want to see or count them: the same that generation would be given.

use std::sync::Arc;

use time::OffsetDateTime;

use super::generate::check_vocabulary;
use super::resolve::joined;
use super::{Context, Error, Service};
use crate::model::llm::{Front, Llm};
use crate::text::{self, RenderOptions, Special};
use crate::types::llm::{Prompt, Tokenize, Tokens};

/// More than any model's context: whoever asks by how much a text is too long is told, and an answer stays small.
const MAX_TOKENS: usize = 1 << 20;

impl Service {
    /// The tokens of a prompt, which may be longer than the model's context.
    pub async fn tokenize(&self, ctx: Context, request: Tokenize) -> Result<Tokens, Error> {
        let front = self.model::<Llm>(&ctx, &request.model).await?.front().clone();
        self.tokenizing(move || {
            let ids = ids(&front, &request)?;
            let text = |&id: &u32| front.tokenizer.token_text(id).unwrap_or_default();
            let texts = request.texts.then(|| ids.iter().map(text).collect());
            Ok(Tokens { texts, ids, context: front.context })
        })
        .await
    }

    /// The text of tokens, with control tokens as their spelling.
    pub async fn detokenize(&self, ctx: Context, model: String, tokens: Vec<u32>) -> Result<String, Error> {
        let front = self.model::<Llm>(&ctx, &model).await?.front().clone();
        self.tokenizing(move || {
            check_vocabulary(&front, "tokens", tokens.iter().copied())?;
            Ok(front.tokenizer.spell(&tokens))
        })
        .await
    }

    /// Work that takes a core, on a thread of its own once it is its turn.
    async fn tokenizing<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.tokenizings.clone().acquire_owned().await;
        let work = move || {
            let _turn = turn;
            work()
        };
        joined(tokio::task::spawn_blocking(work).await)?
    }
}

fn ids(front: &Arc<Front>, request: &Tokenize) -> Result<Vec<u32>, Error> {
    let found = match &request.prompt {
        Prompt::Chat(messages) => {
            let options = RenderOptions {
                tools: &request.tools,
                enable_thinking: request.thinking.enabled,
                add_generation_prompt: request.add_generation_prompt,
                now: OffsetDateTime::now_utc(),
            };
            text::chat::encode(&front.tokenizer, &front.template, messages, options, MAX_TOKENS)
        }
        Prompt::Text(text) => {
            let frame = request.add_special_tokens;
            front.tokenizer.encode_bounded(text, Special::AsText, frame, MAX_TOKENS)
        }
        Prompt::Tokens(tokens) => {
            check_vocabulary(front, "prompt", tokens.iter().copied())?;
            Ok(tokens.clone())
        }
    };
    found.map_err(|error| match error {
        text::Error::TooLong { .. } => {
            let param = if matches!(request.prompt, Prompt::Chat(_)) { "messages" } else { "prompt" };
            let message =
                format!("`{param}` has more than {MAX_TOKENS} tokens, which is as many as are given");
            Error::Invalid { param, message }
        }
        other => other.into(),
    })
}
