//! Plain data that crosses layers: no I/O, no tensors, no wire formats. One file a modality.

pub mod asr;
pub mod embed;
pub mod key;
pub mod llm;
pub mod model;
pub mod rag;
pub mod rerank;
pub mod speaker;
pub mod store;

/// Tokens counted for one request, as callers are billed and dashboards count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the input, special tokens included.
    pub prompt_tokens: u32,
    /// Tokens generated, the end token included.
    pub completion_tokens: u32,
    /// Input tokens whose keys and values were reused from an earlier request.
    pub cached_tokens: u32,
    /// Generated tokens that are reasoning, its marks included.
    pub reasoning_tokens: u32,
}

impl Usage {
    /// Input and output together.
    pub fn total(&self) -> u32 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    /// Adds another choice's tokens, as `n > 1` and batches of prompts do.
    pub fn merge(&mut self, other: Usage) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
    }
}
