//! A transcript as a stream of events.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{Stream, StreamExt};
use serde::Serialize;
use tokio::time::timeout_at;
use utoipa::ToSchema;

use crate::http::observe::Deadline;
use crate::http::{ApiError, sse};
use crate::service::transcript::{
    DiarizedSegment, Format, Logprob, Shape, Usage, VerboseSegment, VerboseWord, logprobs, words,
};
use crate::service::{Error, Transcription};
use crate::types::asr::{Delta, Ending, Segment};
use crate::types::speaker::Cast;

/// An event of a streamed transcript; its `type` says which.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TranscriptEvent<'a> {
    Delta(TextDelta<'a>),
    Segment(TextSegment<'a>),
    Spoken(DiarizedSegment),
    Done(TextDone<'a>),
}

/// More of the text.
#[derive(Serialize, ToSchema)]
pub(crate) struct TextDelta<'a> {
    /// Always `transcript.text.delta`.
    r#type: &'static str,
    delta: &'a str,
    /// Only where `include[]` asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Logprob>>,
}

/// A stretch of speech, with `verbose_json`.
#[derive(Serialize, ToSchema)]
pub(crate) struct TextSegment<'a> {
    /// Always `transcript.text.segment`.
    r#type: &'static str,
    #[serde(flatten)]
    segment: VerboseSegment<'a>,
    /// Only where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Vec<VerboseWord<'a>>>,
}

/// All of it; the last event.
#[derive(Serialize, ToSchema)]
pub(crate) struct TextDone<'a> {
    /// Always `transcript.text.done`.
    r#type: &'static str,
    /// The deltas together.
    text: &'a str,
    /// Only where `include[]` asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [Logprob]>,
    /// ISO 639-1 code; with `verbose_json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'a str>,
    /// Seconds of audio; with `verbose_json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    usage: Usage,
}

/// The events of a transcript while it is heard. A failure is one event with the error, and the end. Dropping it stops
/// the work.
pub(super) fn events(
    transcription: Transcription,
    (shape, cast): (Shape, Cast),
    (deadline, limit): (Deadline, Duration),
    request_id: String,
) -> impl Stream<Item = String> + Send + 'static {
    let writer = Writer {
        heard: Some(transcription),
        deadline,
        limit,
        shape,
        cast,
        segments: 0,
        request_id,
        duration: 0.0,
        text: Text::default(),
        logprobs: Vec::new(),
        unsent: Vec::new(),
        ready: VecDeque::new(),
    };
    futures::stream::unfold(writer, |mut writer| async move {
        let event = writer.next().await?;
        Some((event, writer))
    })
}

struct Writer {
    /// None when the stream is over.
    heard: Option<Transcription>,
    deadline: Deadline,
    limit: Duration,
    shape: Shape,
    cast: Cast,
    /// Segments by who says them, so far.
    segments: usize,
    request_id: String,
    duration: f64,
    text: Text,
    /// Of all tokens so far, where they were asked for.
    logprobs: Vec<Logprob>,
    /// Those that no delta has had yet.
    unsent: Vec<Logprob>,
    /// Events that are written and not sent: those of one segment.
    ready: VecDeque<String>,
}

impl Writer {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let delta = timeout_at(self.deadline.0, self.heard.as_mut()?.next()).await;
            let delta = match delta {
                Ok(Some(delta)) => delta.map_err(ApiError::from),
                Ok(None) => Err(ApiError::internal("a transcription ended without its end")),
                Err(_) => Err(Error::Timeout { after: self.limit }.into()),
            };
            if let Err(error) = delta.and_then(|delta| self.write(delta)) {
                self.heard = None;
                self.ready.clear();
                if let Some(detail) = &error.detail {
                    tracing::error!(request_id = self.request_id, detail, "stream failed");
                }
                return Some(error.to_json());
            }
        }
    }

    fn write(&mut self, delta: Delta) -> Result<(), ApiError> {
        match delta {
            Delta::Begin { duration } => self.duration = duration,
            Delta::Segment(segment) => self.segment(&segment)?,
            Delta::End(ending) => self.done(&ending)?,
        }
        Ok(())
    }

    fn segment(&mut self, segment: &Segment) -> Result<(), ApiError> {
        if self.shape.logprobs {
            let new = logprobs(std::slice::from_ref(segment));
            self.unsent.extend_from_slice(&new);
            self.logprobs.extend(new);
        }
        let delta = self.text.push(&segment.text);
        if !delta.is_empty() {
            let logprobs = self.shape.logprobs.then(|| std::mem::take(&mut self.unsent));
            let event = TextDelta { r#type: "transcript.text.delta", delta, logprobs };
            self.ready.push_back(sse::json(&TranscriptEvent::Delta(event))?);
        }
        if self.shape.format == Format::Diarized {
            for spoken in DiarizedSegment::of(segment, &self.cast, self.segments) {
                self.segments += 1;
                self.ready.push_back(sse::json(&TranscriptEvent::Spoken(spoken))?);
            }
        }
        if self.shape.format == Format::Verbose {
            let event = TextSegment {
                r#type: "transcript.text.segment",
                segment: segment.into(),
                words: self.shape.words.then(|| words(std::slice::from_ref(segment))),
            };
            self.ready.push_back(sse::json(&TranscriptEvent::Segment(event))?);
        }
        Ok(())
    }

    fn done(&mut self, ending: &Ending) -> Result<(), ApiError> {
        self.heard = None;
        let verbose = self.shape.format == Format::Verbose;
        let event = TextDone {
            r#type: "transcript.text.done",
            text: &self.text.shown,
            logprobs: self.shape.logprobs.then_some(self.logprobs.as_slice()),
            language: verbose.then_some(ending.language.code.as_str()),
            duration: verbose.then_some(self.duration),
            usage: Usage::new(self.duration),
        };
        self.ready.push_back(sse::json(&TranscriptEvent::Done(event))?);
        Ok(())
    }
}

/// Pieces of a text that together are all of it without the space around it: space at the end of a piece waits for
/// what comes after it.
#[derive(Default)]
struct Text {
    shown: String,
    waiting: String,
}

impl Text {
    fn push(&mut self, text: &str) -> &str {
        self.waiting.push_str(text);
        let before = self.shown.len();
        let end = self.waiting.trim_end().len();
        let more = &self.waiting[..end];
        self.shown.push_str(if before == 0 { more.trim_start() } else { more });
        self.waiting.drain(..end);
        if self.shown.is_empty() {
            self.waiting.clear();
        }
        &self.shown[before..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole_without_the_space_around_it() {
        for pieces in
            [&[" And so", " my ", " fellow\n"][..], &[" ", "", "a"], &["  "], &["a", " ", " b", " "]]
        {
            let mut text = Text::default();
            let shown: String = pieces.iter().map(|piece| text.push(piece).to_owned()).collect();
            assert_eq!(shown, pieces.concat().trim(), "{pieces:?}");
            assert_eq!(shown, text.shown);
        }
    }
}
