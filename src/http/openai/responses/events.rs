//! What a streamed response says on its way.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::Answer;
use super::items::{Item, Nothing, Part};
use super::search::Annotation;

/// An event of a stream. Its name is also the event's `event:` line.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ResponseEvent)]
pub(crate) struct Event<'a> {
    pub r#type: &'static str,
    /// Counts the events of a stream, from 0.
    pub sequence_number: u64,
    #[serde(flatten)]
    pub said: Said<'a>,
}

/// What an event says. Which it is follows from the type.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ResponseEventContent)]
#[serde(untagged)]
pub(crate) enum Said<'a> {
    /// `response.created`, `response.in_progress`, and at the end `response.completed`, `response.incomplete` or
    /// `response.failed`.
    Whole { response: &'a Answer },
    /// `response.output_item.added` and `response.output_item.done`.
    Item { output_index: usize, item: Item },
    /// `response.content_part.added` and `response.content_part.done`.
    Part {
        #[serde(flatten)]
        place: Place,
        part: Part,
    },
    /// `response.output_text.delta`.
    TextDelta {
        #[serde(flatten)]
        place: Place,
        delta: String,
        #[schema(value_type = Vec<Object>)]
        logprobs: Nothing,
    },
    /// `response.output_text.done`.
    Text {
        #[serde(flatten)]
        place: Place,
        text: String,
        #[schema(value_type = Vec<Object>)]
        logprobs: Nothing,
    },
    /// `response.reasoning_text.delta`.
    ThoughtDelta {
        #[serde(flatten)]
        place: Place,
        delta: String,
    },
    /// `response.reasoning_text.done`.
    Thought {
        #[serde(flatten)]
        place: Place,
        text: String,
    },
    /// `response.function_call_arguments.delta`.
    ArgumentsDelta { item_id: String, output_index: usize, delta: String },
    /// `response.function_call_arguments.done`.
    Arguments { item_id: String, output_index: usize, name: String, arguments: String },
    /// `response.file_search_call.in_progress`, `.searching` and `.completed`.
    Search { item_id: String, output_index: usize },
    /// `response.output_text.annotation.added`.
    Annotation {
        #[serde(flatten)]
        place: Place,
        annotation_index: usize,
        annotation: Annotation,
    },
    /// `error`, after `response.failed`.
    Error { code: &'static str, message: String, param: Option<String> },
}

/// Which part of which item.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseEventPlace)]
pub(crate) struct Place {
    pub item_id: String,
    pub output_index: usize,
    /// Always 0: an item has one part.
    pub content_index: usize,
}
