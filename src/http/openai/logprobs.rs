//! Log-probabilities of an answer's tokens, in the forms of chat and of completions.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::ApiError;
use crate::types::llm::{Scored, TokenLogprobs};

const MAX_TOP_CHAT: u32 = 20;
const MAX_TOP_TEXT: u32 = 5;

/// How likely the model found the tokens of a chat answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    /// One for each token, those of thoughts and calls too, and not the one that ended the answer.
    content: Vec<ChatToken>,
    /// Always null: this server does not refuse on its own.
    refusal: Option<Vec<ChatToken>>,
}

/// A token of the answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatToken {
    #[serde(flatten)]
    chosen: TopToken,
    /// The likeliest tokens in its place, the likeliest first.
    top_logprobs: Vec<TopToken>,
}

/// A token, and how likely the model found it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TopToken {
    /// Its text; a control token's name; `bytes:\xf0\x9f` for one that is not whole characters.
    token: String,
    /// Natural logarithm of its probability before penalties, temperature and forms; -9999 where it has none.
    logprob: f32,
    /// Its text in UTF-8, maybe a part of a character; null for control tokens.
    bytes: Option<Vec<u8>>,
}

impl From<Scored> for TopToken {
    fn from(scored: Scored) -> TopToken {
        let bytes = Some(scored.bytes).filter(|bytes| !bytes.is_empty());
        TopToken { token: scored.token, logprob: scored.logprob, bytes }
    }
}

impl ChatLogprobs {
    /// Of these tokens.
    pub fn new(tokens: Vec<TokenLogprobs>) -> ChatLogprobs {
        let token = |token: TokenLogprobs| ChatToken {
            chosen: token.chosen.into(),
            top_logprobs: token.top.into_iter().map(TopToken::from).collect(),
        };
        ChatLogprobs { content: tokens.into_iter().map(token).collect(), refusal: None }
    }

    /// What the two fields ask for: how many of the likeliest tokens are reported.
    pub fn asked(logprobs: Option<bool>, top: Option<u32>) -> Result<Option<u32>, ApiError> {
        match (logprobs.unwrap_or(false), top.unwrap_or(0)) {
            (_, top) if top > MAX_TOP_CHAT => Err(outside("top_logprobs", top, MAX_TOP_CHAT)),
            (true, top) => Ok(Some(top)),
            (false, 0) => Ok(None),
            (false, _) => {
                let message =
                    "`top_logprobs` is for answers with log-probabilities; send `logprobs`: true too";
                Err(ApiError::invalid("top_logprobs", message))
            }
        }
    }
}

/// How likely the model found the tokens of a completion: four lists, an entry a token.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct TextLogprobs {
    /// Their texts; a control token's name; `bytes:\xf0\x9f` for one that is not whole characters.
    tokens: Vec<String>,
    /// Natural logarithms of their probabilities before penalties, temperature and forms; -9999 where there is none.
    token_logprobs: Vec<f32>,
    /// Those of the likeliest tokens, and of the one that was chosen.
    top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Characters of the answer before each.
    text_offset: Vec<u32>,
}

impl TextLogprobs {
    /// Of these tokens.
    pub fn new(tokens: Vec<TokenLogprobs>) -> TextLogprobs {
        let mut lists = TextLogprobs::default();
        for TokenLogprobs { chosen, top, offset } in tokens {
            let all = top.into_iter().chain([chosen.clone()]);
            lists.top_logprobs.push(all.map(|scored| (scored.token, scored.logprob)).collect());
            lists.tokens.push(chosen.token);
            lists.token_logprobs.push(chosen.logprob);
            lists.text_offset.push(offset);
        }
        lists
    }

    /// What the field asks for: how many of the likeliest tokens are reported.
    pub fn asked(logprobs: Option<u32>) -> Result<Option<u32>, ApiError> {
        match logprobs {
            Some(top) if top > MAX_TOP_TEXT => Err(outside("logprobs", top, MAX_TOP_TEXT)),
            asked => Ok(asked),
        }
    }
}

fn outside(param: &'static str, value: u32, max: u32) -> ApiError {
    ApiError::invalid(param, format!("`{param}` is {value}; it must be from 0 to {max}"))
}
