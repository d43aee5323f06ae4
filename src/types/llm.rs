//! Text generation: what a caller asks for and what comes back.

use super::Usage;

/// Who speaks a [`Message`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// The name chat templates and wire formats use.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, rendered through the model's chat template.
    Chat(Vec<Message>),
    /// Text taken as it is; special tokens inside it stay text.
    Text(String),
    /// Token ids, checked against the vocabulary.
    Tokens(Vec<u32>),
}

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; above it, softmax temperature.
    pub temperature: f32,
    /// The likeliest tokens to choose from. `None` keeps all.
    pub top_k: Option<u32>,
    /// Nucleus: the smallest set of tokens whose probability reaches this. 1 keeps all.
    pub top_p: f32,
    /// Least probability, as a share of the likeliest token's. 0 keeps all.
    pub min_p: f32,
    /// The same seed and prompt give the same text, whatever else runs. `None` draws one.
    pub seed: Option<u64>,
    /// Subtracted from a token's logit once for each time it was generated.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of every token that was generated.
    pub presence_penalty: f32,
    /// Divides the logit of every token of prompt and answer, or multiplies it where it is negative. 1 does nothing.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            seed: None,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
        }
    }
}

/// One request for text. Values are in range: whoever builds one has checked them.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Id or alias of the model.
    pub model: String,
    pub prompt: Prompt,
    pub sampling: Sampling,
    /// Upper limit of generated tokens; clamped to what the context leaves. `None`: all of it.
    pub max_tokens: Option<u32>,
    /// Generation ends before the first of these; it is not part of the text.
    pub stop: Vec<String>,
    /// How many answers to make, each with its own seed.
    pub n: u32,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end token or one of the request's stop strings.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
}

/// A piece of one answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// Text to append to answer `choice`: whole characters only, never a part of a stop string.
    Text { choice: u32, text: String },
    /// Answer `choice` is complete.
    Finished { choice: u32, reason: FinishReason },
    /// All answers are complete; always the last.
    Usage(Usage),
}
