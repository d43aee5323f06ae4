//! Text generation: what a caller asks for and what comes back.

use serde_json::{Value, json};

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
    /// What an assistant's turn called.
    pub tool_calls: Vec<ToolCall>,
    /// Which of those calls a tool's turn answers.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A turn of text alone.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None }
    }
}

/// A call of a tool, as an assistant's turn made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// A JSON object.
    pub arguments: Value,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// 1 to 64 of `a-zA-Z0-9_.-`.
    pub name: String,
    pub description: Option<String>,
    /// The JSON schema of its arguments, an object; `None` takes none.
    pub parameters: Option<Value>,
    /// Keywords of the schema that cannot be enforced are an error instead of being passed over.
    pub strict: bool,
}

impl Tool {
    /// As OpenAI's requests and chat templates have it.
    pub fn to_json(&self) -> Value {
        let mut function = serde_json::Map::new();
        function.insert("name".into(), self.name.as_str().into());
        if let Some(description) = &self.description {
            function.insert("description".into(), description.as_str().into());
        }
        if let Some(parameters) = &self.parameters {
            function.insert("parameters".into(), parameters.clone());
        }
        json!({"type": "function", "function": function})
    }
}

/// How a model writes calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFormat {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Hermes and Qwen.
    Hermes,
    /// `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`.
    Mistral,
    /// The whole answer is `{"name": ..., "parameters": {...}}`, after `<|python_tag|>` or without it.
    Llama3,
    /// The whole answer is `{"name": ..., "arguments": {...}}`, or a list of such.
    Json,
}

/// Whether the model calls tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It never does: the tools are not even shown.
    None,
    /// As it likes.
    #[default]
    Auto,
    /// At least one, whichever.
    Required,
    /// This one.
    Named(String),
}

/// The tools of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tools {
    pub list: Vec<Tool>,
    pub choice: ToolChoice,
    /// Whether one answer may make several calls.
    pub parallel: bool,
}

/// The form an answer must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that this schema allows.
    JsonSchema(Value),
    /// Text that this regular expression matches as a whole (syntax of Rust's `regex` crate).
    Regex(String),
    /// One of these.
    Choice(Vec<String>),
    /// Text of this grammar, in llguidance's dialect of Lark.
    Grammar(String),
    /// One call of one of these tools; any number of calls where `parallel`.
    Calls {
        format: CallFormat,
        tools: Vec<Tool>,
        parallel: bool,
        /// The control token that opens calls in this form, where the model has it.
        opener: Option<u32>,
    },
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
    /// The smallest set of tokens whose probability reaches this, those first that are about as likely as the model
    /// expects (Meister et al., "Locally Typical Sampling", 2022). 1 keeps all.
    pub typical_p: f32,
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
            typical_p: 1.0,
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
    /// Tokens before which none that ends the answer is chosen, unless its form has room for no other.
    pub min_tokens: u32,
    /// Generation ends before the first of these; it is not part of the text.
    pub stop: Vec<String>,
    /// Tokens that end the answer besides the model's own.
    pub stop_tokens: Vec<u32>,
    /// The model's own do not.
    pub ignore_eos: bool,
    /// How many answers to make, each with its own seed.
    pub n: u32,
    /// Requests of lower numbers go first.
    pub priority: i32,
    /// The form of the answer, and the request's field that asks for it.
    pub constraint: Option<(&'static str, Constraint)>,
    /// For [`Prompt::Chat`] only.
    pub tools: Tools,
    /// For [`Prompt::Chat`] only, and models that think.
    pub thinking: Thinking,
    /// Report each token's log-probability, and those of so many of the likeliest in its place.
    pub logprobs: Option<u32>,
}

impl Request {
    /// One that asks for nothing but an answer.
    pub fn new(model: String, prompt: Prompt) -> Request {
        Request {
            model,
            prompt,
            sampling: Sampling::default(),
            max_tokens: None,
            min_tokens: 0,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
            n: 1,
            priority: 0,
            constraint: None,
            tools: Tools::default(),
            thinking: Thinking::default(),
            logprobs: None,
        }
    }
}

/// A prompt whose tokens are asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokenize {
    /// Id or alias of the model.
    pub model: String,
    /// [`Prompt::Tokens`] are checked and given back.
    pub prompt: Prompt,
    /// For [`Prompt::Chat`] only.
    pub tools: Vec<Tool>,
    /// For [`Prompt::Chat`] only.
    pub thinking: Thinking,
    /// For [`Prompt::Chat`] only: end with what opens the assistant's turn.
    pub add_generation_prompt: bool,
    /// For [`Prompt::Text`] only: frame it as the model was trained. Conversations are framed by their template.
    pub add_special_tokens: bool,
    /// Give each token's text too.
    pub texts: bool,
}

/// The tokens of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    pub ids: Vec<u32>,
    /// Of each token, where asked for. Control tokens are as the model's file spells them; bytes that are no UTF-8 are
    /// U+FFFD.
    pub texts: Option<Vec<String>>,
    /// Positions a sequence may have.
    pub context: usize,
}

/// How a model that thinks before it answers is to think.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Thinking {
    /// What the chat template is told; `None` leaves it to the template.
    pub enabled: Option<bool>,
    /// Tokens after which thinking is closed; `None` leaves it to the model.
    pub budget: Option<u32>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end token, one of the request's stop strings, or the end of what the answer's form allows.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The model waits for what the tools that it called give.
    ToolCalls,
}

/// What opens a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolStart {
    /// No other call has it.
    pub id: String,
    pub name: String,
}

/// A token, and how likely the model found it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Its text; a control token's name; `bytes:\xf0\x9f` for one that is not whole characters.
    pub token: String,
    /// What it adds to the text, maybe a part of a character; nothing for control tokens.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability before anything was done to it: penalties, temperature, forms.
    pub logprob: f32,
}

/// A token of an answer, and the likeliest ones in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    pub chosen: Scored,
    /// The likeliest first. The chosen one may be missing.
    pub top: Vec<Scored>,
    /// Characters of the answer before it, thoughts and calls included.
    pub offset: u32,
}

/// A piece of one answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// The next tokens of answer `choice`, those of thoughts and calls too. They come before the text that they end
    /// in, and only where they were asked for.
    Logprobs { choice: u32, tokens: Vec<TokenLogprobs> },
    /// Text to append to answer `choice`: whole characters only, never a part of a stop string.
    Text { choice: u32, text: String },
    /// Text to append to what answer `choice` thought before it answered.
    Reasoning { choice: u32, text: String },
    /// Answer `choice` calls a tool. `call` counts its calls from 0; the first delta of a call has `start`.
    ToolCall { choice: u32, call: u32, start: Option<ToolStart>, arguments: String },
    /// Answer `choice` is complete.
    Finished { choice: u32, reason: FinishReason },
    /// All answers are complete; always the last.
    Usage(Usage),
}
