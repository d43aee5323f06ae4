//! A response as a stream of events.

use std::collections::VecDeque;

use futures::Stream;

use super::Shelf;
use super::answer::Answer;
use super::compose::{Composer, Named};
use super::events::{Event, Said};
use super::items::Status;
use super::search::Searched;
use crate::http::ApiError;
use crate::http::openai::generate::Answers;
use crate::http::sse::{self, Message};
use crate::types::Usage;

/// The events of a response while it is written. It is kept before its last event is sent. A failure is
/// `response.failed`, `error`, and the end.
pub(super) fn messages(
    answers: Answers,
    answer: Answer,
    shelf: Shelf,
    searched: Option<Searched>,
    request_id: String,
) -> impl Stream<Item = Message> + Send + 'static {
    let mut writer = Writer {
        answers: Some(answers),
        composer: Composer::default(),
        answer,
        shelf,
        request_id,
        written: 0,
        ready: VecDeque::new(),
    };
    writer.say_whole("response.created");
    writer.say_whole("response.in_progress");
    let mut events = Vec::new();
    writer.composer = Composer::begun(searched, &mut events);
    events.into_iter().for_each(|event| writer.say(event));
    futures::stream::unfold(writer, |mut writer| async move {
        let message = writer.next().await?;
        Some((message, writer))
    })
}

struct Writer {
    /// None when nothing more comes.
    answers: Option<Answers>,
    composer: Composer,
    answer: Answer,
    shelf: Shelf,
    request_id: String,
    /// Events in all.
    written: u64,
    /// Events that are written and not sent: those of one piece.
    ready: VecDeque<Message>,
}

impl Writer {
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            let piece = self.answers.as_mut()?.next().await;
            let mut events = Vec::new();
            match piece.map(|piece| self.composer.take(piece, &mut events)) {
                Ok(usage) => {
                    events.into_iter().for_each(|event| self.say(event));
                    if let Some(usage) = usage {
                        self.finish(usage).await;
                    }
                }
                Err(error) => self.fail(&error),
            }
        }
    }

    async fn finish(&mut self, usage: Usage) {
        self.answers = None;
        let (output, cut) = std::mem::take(&mut self.composer).into_output();
        self.answer.finish(output, cut, usage);
        self.shelf.keep(&mut self.answer, &self.request_id).await;
        self.say_whole(self.answer.ending());
    }

    fn fail(&mut self, error: &ApiError) {
        self.answers = None;
        if let Some(detail) = &error.detail {
            tracing::error!(request_id = self.request_id, detail, "stream failed");
        }
        let mut composer = std::mem::take(&mut self.composer);
        composer.close(Status::Incomplete, &mut Vec::new());
        let (output, _) = composer.into_output();
        self.answer.fail(output, error);
        self.say_whole(self.answer.ending());
        let param = error.param.as_deref().map(str::to_owned);
        self.say(("error", Said::Error { code: error.code, message: error.message.clone(), param }));
    }

    fn say_whole(&mut self, name: &'static str) {
        let event = Event {
            r#type: name,
            sequence_number: self.written,
            said: Said::Whole { response: &self.answer },
        };
        let data = sse::json(&event);
        self.push(name, data);
    }

    fn say(&mut self, (name, said): Named) {
        let data = sse::json(&Event { r#type: name, sequence_number: self.written, said });
        self.push(name, data);
    }

    fn push(&mut self, name: &'static str, data: Result<String, ApiError>) {
        match data {
            Ok(data) => {
                self.written += 1;
                self.ready.push_back(Message { event: Some(name), data });
            }
            // Maps with keys that are no texts cannot be written, and there are none here.
            Err(error) => {
                self.answers = None;
                tracing::error!(request_id = self.request_id, detail = ?error.detail, "event");
            }
        }
    }
}
