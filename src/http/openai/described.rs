//! What the API's description shows for fields and answers that take more than one form. The fields are read by
//! hand in [`fields`](super::fields), within bounds that derived code does not keep.
#![expect(dead_code, reason = "only their descriptions are used")]

use utoipa::ToSchema;

use crate::service::transcript::{Json, Verbose};

/// A string, or a list of strings.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum StringOrList {
    One(String),
    Many(Vec<String>),
}

/// Text, or text in parts.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum MessageContent {
    Text(String),
    Parts(Vec<TextPart>),
}

/// A part of a message.
#[derive(ToSchema)]
pub(crate) struct TextPart {
    r#type: PartType,
    text: String,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PartType {
    Text,
}

/// Whether a tool is called, or which.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum ToolChoiceForm {
    Word(ToolChoiceWord),
    Named(NamedTool),
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToolChoiceWord {
    None,
    Auto,
    Required,
}

/// A function by its name.
#[derive(ToSchema)]
pub(crate) struct NamedTool {
    r#type: String,
    function: FunctionName,
}

/// Whether a tool is called, or which; flat, as the Responses API has it.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum ResponseToolChoice {
    Word(ToolChoiceWord),
    Named(FlatNamedTool),
}

/// A function by its name.
#[derive(ToSchema)]
pub(crate) struct FlatNamedTool {
    r#type: String,
    name: String,
}

#[derive(ToSchema)]
pub(crate) struct FunctionName {
    name: String,
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum TextOrTokens {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// The form of a transcript.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TranscriptFormat {
    Json,
    Text,
    Srt,
    VerboseJson,
    DiarizedJson,
    Vtt,
}

/// What a transcript gives times of.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Granularity {
    Segment,
    Word,
}

/// What else a transcript has.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Include {
    Logprobs,
}

/// A temperature, or those to try in turn.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum Temperatures {
    One(f32),
    Ladder(Vec<f32>),
}

/// Chunks by what a voice activity detector hears: as it is set, or with bounds.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum ChunkingForm {
    Word(ChunkingWord),
    ServerVad(ServerVadForm),
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChunkingWord {
    Auto,
}

/// A voice activity detector's bounds.
#[derive(ToSchema)]
pub(crate) struct ServerVadForm {
    r#type: ServerVadType,
    /// Probability of speech above which it begins; 0.5 if absent.
    #[schema(minimum = 0, maximum = 1)]
    threshold: Option<f32>,
    /// Audio before and after speech that is heard too; 300 if absent.
    #[schema(minimum = 0, maximum = 30000)]
    prefix_padding_ms: Option<f32>,
    /// A shorter pause does not end speech; 200 if absent.
    #[schema(minimum = 0, maximum = 30000)]
    silence_duration_ms: Option<f32>,
}

#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServerVadType {
    ServerVad,
}

/// A transcript as `json` or as `verbose_json`.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum JsonTranscript<'a> {
    Json(Json),
    Verbose(Verbose<'a>),
}
