//! Pieces of an answer to the items of a response, and to the events that tell of them. Whole and streamed responses
//! are made here alike.

use super::events::{Place, Said};
use super::items::{Item, Part, Role, Status, new_id};
use super::search::Searched;
use crate::http::openai::generate::Piece;
use crate::types::Usage;
use crate::types::llm::FinishReason;

/// What an event is called, and what it says.
pub(super) type Named = (&'static str, Said<'static>);

/// A response being written.
#[derive(Default)]
pub(super) struct Composer {
    /// The last of them is still being written where `open`.
    output: Vec<Item>,
    open: bool,
    /// A limit ended it.
    cut: bool,
    /// What its texts may cite.
    searched: Searched,
}

/// What a text belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Message,
    Reasoning,
    Call,
}

impl Kind {
    fn of(item: &Item) -> Kind {
        match item {
            Item::Reasoning { .. } => Kind::Reasoning,
            Item::FunctionCall { .. } => Kind::Call,
            Item::Message { .. } | Item::FunctionCallOutput { .. } | Item::FileSearchCall { .. } => {
                Kind::Message
            }
        }
    }
}

impl Composer {
    /// Begins with a search, if one was done.
    pub fn begun(searched: Option<Searched>, events: &mut Vec<Named>) -> Composer {
        let mut composer = Composer::default();
        if let Some(searched) = searched {
            composer.begin(searched.item(Status::InProgress), events);
            let Place { item_id, output_index, .. } = composer.place();
            for name in [
                "response.file_search_call.in_progress",
                "response.file_search_call.searching",
                "response.file_search_call.completed",
            ] {
                events.push((name, Said::Search { item_id: item_id.clone(), output_index }));
            }
            composer.close(Status::Completed, events);
            composer.searched = searched;
        }
        composer
    }

    /// Takes the next piece. Gives the usage with the last one.
    pub fn take(&mut self, piece: Piece, events: &mut Vec<Named>) -> Option<Usage> {
        match piece {
            Piece::Text { text, .. } => {
                self.turn_to(Kind::Message, events);
                self.append(text, events);
            }
            Piece::Reasoning { text, .. } => {
                self.turn_to(Kind::Reasoning, events);
                self.append(text, events);
            }
            // Calls come one after the other: what has no start goes on with the last one.
            Piece::Call { start, arguments, .. } => {
                if let Some(start) = start {
                    self.close(Status::Completed, events);
                    self.begin(
                        Item::FunctionCall {
                            id: new_id("fc"),
                            call_id: start.id,
                            name: start.name,
                            arguments: String::new(),
                            status: Status::InProgress,
                        },
                        events,
                    );
                }
                self.append(arguments, events);
            }
            // Not asked for: requests for them are refused.
            Piece::Logprobs { .. } => {}
            Piece::Finished { reason, .. } => self.cut = reason == FinishReason::Length,
            Piece::Done(usage) => {
                let aside =
                    |item: &Item| matches!(item, Item::Reasoning { .. } | Item::FileSearchCall { .. });
                let answered = !self.output.iter().all(aside);
                if !answered && !self.cut {
                    // An answer of nothing is an answer: clients look for its text.
                    self.turn_to(Kind::Message, events);
                }
                self.close(if self.cut { Status::Incomplete } else { Status::Completed }, events);
                return Some(usage);
            }
        }
        None
    }

    /// The items, and whether a limit cut them off.
    pub fn into_output(self) -> (Vec<Item>, bool) {
        (self.output, self.cut)
    }

    /// Makes sure that an item of this kind is being written.
    fn turn_to(&mut self, kind: Kind, events: &mut Vec<Named>) {
        if self.open && self.output.last().is_some_and(|item| Kind::of(item) == kind) {
            return;
        }
        self.close(Status::Completed, events);
        let (content, status) = (Vec::new(), Status::InProgress);
        let (item, part) = if kind == Kind::Reasoning {
            let item = Item::Reasoning { id: new_id("rs"), summary: Vec::new(), content, status };
            (item, Part::Reasoning { text: String::new() })
        } else {
            let item = Item::Message { id: new_id("msg"), role: Role::Assistant, status, content };
            (item, Part::Output { text: String::new(), annotations: Vec::new() })
        };
        self.begin(item, events);
        let place = self.place();
        events.push(("response.content_part.added", Said::Part { place, part: part.clone() }));
        if let Some(Item::Message { content, .. } | Item::Reasoning { content, .. }) = self.output.last_mut()
        {
            content.push(part);
        }
    }

    fn begin(&mut self, item: Item, events: &mut Vec<Named>) {
        let output_index = self.output.len();
        events.push(("response.output_item.added", Said::Item { output_index, item: item.clone() }));
        self.output.push(item);
        self.open = true;
    }

    fn append(&mut self, delta: String, events: &mut Vec<Named>) {
        if delta.is_empty() {
            return;
        }
        let place = self.place();
        match self.output.last_mut() {
            Some(Item::FunctionCall { arguments, .. }) => {
                arguments.push_str(&delta);
                let Place { item_id, output_index, .. } = place;
                let said = Said::ArgumentsDelta { item_id, output_index, delta };
                events.push(("response.function_call_arguments.delta", said));
            }
            Some(Item::Message { content, .. }) => {
                content.iter_mut().for_each(|part| part.text_mut().push_str(&delta));
                events.push(("response.output_text.delta", Said::TextDelta { place, delta, logprobs: [] }));
            }
            Some(Item::Reasoning { content, .. }) => {
                content.iter_mut().for_each(|part| part.text_mut().push_str(&delta));
                events.push(("response.reasoning_text.delta", Said::ThoughtDelta { place, delta }));
            }
            Some(Item::FunctionCallOutput { .. } | Item::FileSearchCall { .. }) | None => {}
        }
    }

    /// Ends what is being written, if anything is.
    pub fn close(&mut self, status: Status, events: &mut Vec<Named>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let place = self.place();
        let Some(item) = self.output.last_mut() else { return };
        item.set_status(status);
        if let Item::Message { content, .. } = item {
            for part in content {
                let Part::Output { text, annotations } = part else { continue };
                annotations.extend(self.searched.annotations(text));
                for (annotation_index, annotation) in annotations.iter().cloned().enumerate() {
                    let said = Said::Annotation { place: place.clone(), annotation_index, annotation };
                    events.push(("response.output_text.annotation.added", said));
                }
            }
        }
        match &*item {
            Item::FunctionCall { name, arguments, .. } => {
                let Place { item_id, output_index, .. } = place.clone();
                let (name, arguments) = (name.clone(), arguments.clone());
                let said = Said::Arguments { item_id, output_index, name, arguments };
                events.push(("response.function_call_arguments.done", said));
            }
            Item::Message { content, .. } | Item::Reasoning { content, .. } => {
                for part in content {
                    let text = part.text().to_owned();
                    events.push(match part {
                        Part::Reasoning { .. } => {
                            let said = Said::Thought { place: place.clone(), text };
                            ("response.reasoning_text.done", said)
                        }
                        _ => {
                            let said = Said::Text { place: place.clone(), text, logprobs: [] };
                            ("response.output_text.done", said)
                        }
                    });
                    let said = Said::Part { place: place.clone(), part: part.clone() };
                    events.push(("response.content_part.done", said));
                }
            }
            Item::FunctionCallOutput { .. } | Item::FileSearchCall { .. } => {}
        }
        let said = Said::Item { output_index: place.output_index, item: item.clone() };
        events.push(("response.output_item.done", said));
    }

    /// Of the item that is being written.
    fn place(&self) -> Place {
        let item_id = self.output.last().map(|item| item.id().to_owned()).unwrap_or_default();
        Place { item_id, output_index: self.output.len().saturating_sub(1), content_index: 0 }
    }
}
