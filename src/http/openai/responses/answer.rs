//! A response as it is answered, streamed and kept.

use serde::Serialize;
use utoipa::ToSchema;

use super::echo::Echo;
use super::items::{Item, Status};
use crate::http::ApiError;
use crate::http::openai::now;
use crate::service::responses::ResponseId;
use crate::types::Usage;

/// An answer with what was asked.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Response)]
pub(crate) struct Answer {
    #[schema(value_type = String)]
    pub id: ResponseId,
    object: &'static str,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds; null unless it is complete.
    completed_at: Option<u64>,
    status: Status,
    /// Why it failed.
    error: Option<Failure>,
    /// Why it is incomplete.
    incomplete_details: Option<Incomplete>,
    pub model: String,
    /// Thoughts, texts and calls, in the order in which they were made.
    output: Vec<Item>,
    /// Null until everything is there.
    usage: Option<ResponseUsage>,
    #[serde(flatten)]
    pub echo: Echo,
}

/// Why an answer was cut off.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = ResponseIncomplete)]
pub(crate) struct Incomplete {
    /// `max_output_tokens`: those, or the end of the context.
    reason: &'static str,
}

/// Why an answer failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseFailure)]
pub(crate) struct Failure {
    /// `server_error`, `rate_limit_exceeded` or `invalid_prompt`.
    code: &'static str,
    message: String,
}

/// Tokens of a response.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct ResponseUsage {
    input_tokens: u32,
    input_tokens_details: InputTokens,
    output_tokens: u32,
    output_tokens_details: OutputTokens,
    total_tokens: u32,
}

/// Where the input's tokens came from.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct InputTokens {
    /// Tokens that were taken from an earlier request's work.
    cached_tokens: u32,
    /// Always 0: keeping what was computed costs nothing and is not counted.
    cache_write_tokens: u32,
}

/// What the generated tokens were for.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct OutputTokens {
    /// Tokens that were thought, not answered.
    reasoning_tokens: u32,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> ResponseUsage {
        ResponseUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokens { cached_tokens: usage.cached_tokens, cache_write_tokens: 0 },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokens { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.total(),
        }
    }
}

impl Answer {
    /// One that begins.
    pub fn begun(model: String, echo: Echo) -> Answer {
        Answer {
            id: ResponseId::random(),
            object: "response",
            created_at: now(),
            completed_at: None,
            status: Status::InProgress,
            error: None,
            incomplete_details: None,
            model,
            output: Vec::new(),
            usage: None,
            echo,
        }
    }

    /// Everything is there; `cut` where a limit ended it.
    pub fn finish(&mut self, output: Vec<Item>, cut: bool, usage: Usage) {
        self.output = output;
        self.usage = Some(usage.into());
        if cut {
            self.status = Status::Incomplete;
            self.incomplete_details = Some(Incomplete { reason: "max_output_tokens" });
        } else {
            self.status = Status::Completed;
            self.completed_at = Some(now());
        }
    }

    /// It ends here, with what there is of it.
    pub fn fail(&mut self, output: Vec<Item>, error: &ApiError) {
        self.output = output;
        self.status = Status::Failed;
        self.echo.store = false;
        let code = match error.status.as_u16() {
            429 => "rate_limit_exceeded",
            400..=499 => "invalid_prompt",
            _ => "server_error",
        };
        self.error = Some(Failure { code, message: error.message.clone() });
    }

    /// What an event that says so calls its end.
    pub fn ending(&self) -> &'static str {
        match self.status {
            Status::Incomplete => "response.incomplete",
            Status::Failed => "response.failed",
            Status::Completed | Status::InProgress => "response.completed",
        }
    }
}
