//! The fields that the requests of chat and completions share: listed once, checked once.
//!
//! They are fields of each request itself, written there by `request!`: what serde flattens into a request is read
//! in a way that forgets where in it an error is.

use super::fields::{self, Bounded};
use super::format::{Forms, ResponseFormat};
use super::model;
use crate::http::ApiError;
use crate::types::llm::{Prompt, Request, Sampling};

const MAX_N: u32 = 8;
const MAX_PRIORITY: i32 = 100;
const MAX_STOP_TOKENS: usize = 128;

/// Tokens that end an answer.
pub(super) type StopTokens = Bounded<u32, MAX_STOP_TOKENS>;

/// Hands the list to the macro `$write`, behind `$args`.
macro_rules! shared_fields {
    ($write:ident $args:tt) => {
        $write! { $args
            /// Id or alias of a chat model; may be left out where the server has a default.
            #[schema(value_type = Option<String>)]
            model: Option<super::fields::ModelName>,
            /// Up to 16 strings that end the answer; a string or a list of strings.
            #[schema(value_type = Option<super::described::StringOrList>)]
            stop: Option<super::fields::Stop>,
            /// Up to 128 token ids that end the answer, besides the model's own.
            #[schema(value_type = Option<Vec<u32>>, max_items = 128)]
            stop_token_ids: Option<super::shared::StopTokens>,
            /// Go on past the tokens that end the model's answers, as measurements need.
            ignore_eos: Option<bool>,
            /// Tokens before which none that ends the answer is chosen, unless its form has room for no other; 0 if absent.
            min_tokens: Option<u64>,
            /// How many answers to make of each prompt, 1 to 8.
            #[schema(minimum = 1, maximum = 8)]
            n: Option<u32>,
            /// Requests of lower numbers go first, -100 to 100, and with an API key from 0 on; 0 if absent.
            #[schema(minimum = -100, maximum = 100)]
            priority: Option<i32>,
            /// The same seed and prompt give the same text.
            seed: Option<i64>,
            /// 0 (greedy) to 2; 1 if absent.
            #[schema(minimum = 0, maximum = 2)]
            temperature: Option<f64>,
            /// 0 to 1; 1 if absent.
            #[schema(minimum = 0, maximum = 1)]
            top_p: Option<f64>,
            /// The likeliest tokens to choose from; 0 or -1, or absent: all.
            #[schema(minimum = -1)]
            top_k: Option<i64>,
            /// Least probability of a token, as a share of the likeliest one's; 0 if absent.
            #[schema(minimum = 0, maximum = 1)]
            min_p: Option<f64>,
            /// Probability of the tokens to choose from, those first that are about as likely as the model expects; 1 if absent.
            #[schema(minimum = 0, maximum = 1)]
            typical_p: Option<f64>,
            /// -2 to 2.
            #[schema(minimum = -2, maximum = 2)]
            frequency_penalty: Option<f64>,
            /// -2 to 2.
            #[schema(minimum = -2, maximum = 2)]
            presence_penalty: Option<f64>,
            /// Above 1: what was said already, in prompt or answer, becomes less likely. 0.01 to 10; 1 if absent.
            #[schema(minimum = 0.01, maximum = 10)]
            repetition_penalty: Option<f64>,
            /// From token ids to what is added to their logits, -100 to 100; up to 1024.
            #[schema(value_type = Option<std::collections::BTreeMap<String, f64>>)]
            logit_bias: Option<super::fields::LogitBias>,
            /// The form of the answer, by vLLM's names: one of `json`, `regex`, `choice`, `grammar`.
            structured_outputs: Option<super::format::StructuredOutputs>,
            /// As `structured_outputs.json`.
            #[schema(value_type = Option<Object>)]
            guided_json: Option<serde_json::Value>,
            /// As `structured_outputs.regex`.
            guided_regex: Option<String>,
            /// As `structured_outputs.choice`.
            #[schema(value_type = Option<Vec<String>>)]
            guided_choice: Option<super::format::Choices>,
            /// As `structured_outputs.grammar`.
            guided_grammar: Option<String>,

            #[schema(ignore)]
            use_beam_search: Option<super::fields::Asked>,
            #[schema(ignore)]
            allowed_token_ids: Option<super::fields::Asked>,
            #[schema(ignore)]
            bad_words: Option<super::fields::Asked>,
            #[schema(ignore)]
            include_stop_str_in_output: Option<super::fields::Asked>,
            #[schema(ignore)]
            truncate_prompt_tokens: Option<super::fields::Asked>,
            #[schema(ignore)]
            prompt_logprobs: Option<super::fields::Asked>,
        }
    };
}

/// Writes the struct of a route's request, `struct NAME { its own fields }`, with the shared fields behind its own and
/// a way to take them out.
macro_rules! request {
    ($($struct:tt)*) => { shared_fields! { request_with { $($struct)* } } };
}

macro_rules! request_with {
    ({ $(#[$about:meta])* struct $name:ident { $($own:tt)* } } $($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        pub(crate) struct $name {
            $($own)*
            $($(#[$doc])* #[serde(default)] $field: $kind,)*
        }

        impl $name {
            /// Takes the shared fields out.
            fn wire(&mut self) -> super::shared::Wire {
                super::shared::Wire {
                    $($field: self.$field.take(),)*
                    max_tokens: ("max_tokens", None),
                    response_format: None,
                }
            }
        }
    };
}

macro_rules! wire {
    ({} $($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// The shared fields as they were sent, and two that are not quite the same on every route.
        #[derive(Default)]
        pub(super) struct Wire {
            $(pub $field: $kind,)*
            /// With the name of the field it came from.
            pub max_tokens: (&'static str, Option<u64>),
            pub response_format: Option<ResponseFormat>,
        }
    };
}
shared_fields! { wire {} }

impl Wire {
    /// Refuses what vLLM takes and this server does not do.
    fn check_unsupported(&self) -> Result<(), ApiError> {
        let sent = [
            ("use_beam_search", &self.use_beam_search),
            ("allowed_token_ids", &self.allowed_token_ids),
            ("bad_words", &self.bad_words),
            ("include_stop_str_in_output", &self.include_stop_str_in_output),
            ("truncate_prompt_tokens", &self.truncate_prompt_tokens),
            ("prompt_logprobs", &self.prompt_logprobs),
        ];
        let asked: Vec<_> =
            sent.into_iter().filter_map(|(name, asked)| Some((name, asked.as_ref()?))).collect();
        fields::refuse(&asked, &[])
    }

    /// Checks the values and makes the request for `prompt`.
    pub fn request(self, default_model: &Option<String>, prompt: Prompt) -> Result<Request, ApiError> {
        self.check_unsupported()?;
        let n = self.n.unwrap_or(1);
        if !(1..=MAX_N).contains(&n) {
            return Err(ApiError::invalid("n", format!("`n` is {n}; it must be from 1 to {MAX_N}")));
        }
        let (name, max_tokens) = self.max_tokens;
        if max_tokens == Some(0) {
            return Err(ApiError::invalid(name, format!("`{name}` is 0; it must be at least 1")));
        }
        let min_tokens = self.min_tokens.unwrap_or(0);
        if let Some(max) = max_tokens.filter(|&max| max < min_tokens) {
            let message = format!("`min_tokens` is {min_tokens}, and the answer may have {max} at most");
            return Err(ApiError::invalid("min_tokens", message));
        }
        let priority = self.priority.unwrap_or(0);
        if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority) {
            let message =
                format!("`priority` is {priority}; it must be from -{MAX_PRIORITY} to {MAX_PRIORITY}");
            return Err(ApiError::invalid("priority", message));
        }
        let clamped = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        let sampling = self.sampling()?;
        let forms = Forms {
            response_format: self.response_format,
            structured_outputs: self.structured_outputs,
            guided_json: self.guided_json,
            guided_regex: self.guided_regex,
            guided_choice: self.guided_choice,
            guided_grammar: self.guided_grammar,
        };
        Ok(Request {
            sampling,
            max_tokens: max_tokens.map(clamped),
            min_tokens: clamped(min_tokens),
            stop: self.stop.unwrap_or_default().0,
            stop_tokens: self.stop_token_ids.map(|ids| ids.0).unwrap_or_default(),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            n,
            priority,
            constraint: forms.constraint()?,
            ..Request::new(model(self.model, default_model)?, prompt)
        })
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        let within = fields::within;
        let top_k = match self.top_k {
            None | Some(-1 | 0) => None,
            Some(k) => Some(u32::try_from(k).map_err(|_| {
                ApiError::invalid("top_k", format!("`top_k` is {k}; it must be from -1 to {}", u32::MAX))
            })?),
        };
        // A nucleus of nothing is the one token that would be its first.
        let nucleus = |param, share| -> Result<f32, ApiError> {
            Ok(within(param, share, (0.0, 1.0), 1.0)?.max(f32::MIN_POSITIVE))
        };
        Ok(Sampling {
            temperature: within("temperature", self.temperature, (0.0, 2.0), 1.0)?,
            top_p: nucleus("top_p", self.top_p)?,
            typical_p: nucleus("typical_p", self.typical_p)?,
            top_k,
            min_p: within("min_p", self.min_p, (0.0, 1.0), 0.0)?,
            repetition_penalty: within("repetition_penalty", self.repetition_penalty, (0.01, 10.0), 1.0)?,
            logit_bias: self.logit_bias.clone().unwrap_or_default().0,
            // Negative seeds are seeds like any other: the same bits each time.
            seed: self.seed.map(i64::cast_unsigned),
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, (-2.0, 2.0), 0.0)?,
            presence_penalty: within("presence_penalty", self.presence_penalty, (-2.0, 2.0), 0.0)?,
        })
    }
}
