//! How a model that thinks is to think, by the names that clients have for it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::llm::Thinking;

/// OpenAI's names for how much is thought.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

impl Effort {
    /// Tokens.
    fn budget(self) -> Option<u32> {
        match self {
            Effort::None => Some(0),
            Effort::Minimal => Some(256),
            Effort::Low => Some(1024),
            Effort::Medium => Some(4096),
            Effort::High | Effort::Xhigh | Effort::Max => None,
        }
    }
}

/// What a client may tell a chat template. Templates are code: nothing else reaches them.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TemplateOptions {
    /// Whether the model thinks before it answers.
    #[serde(default)]
    enable_thinking: Option<bool>,
}

/// The fields together.
pub(super) fn thinking(
    budget: Option<u32>,
    effort: Option<Effort>,
    options: Option<TemplateOptions>,
) -> Thinking {
    let told = options.and_then(|options| options.enable_thinking);
    let none = matches!(effort, Some(Effort::None)).then_some(false);
    Thinking { enabled: told.or(none), budget: budget.or_else(|| effort.and_then(Effort::budget)) }
}
