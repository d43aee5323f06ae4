//! What an OpenAI client is told, an object an event.

use serde_json::{Value, json};

use super::session::Config;
use crate::http::ApiError;
use crate::service::live::Event;
use crate::service::voices::spoken;
use crate::types::asr::{self, Word};
use crate::types::speaker::Cast;

/// What the names of events of a transcription begin with.
const PART: &str = "conversation.item.input_audio_transcription";
/// Characters that end a sentence.
const ENDS: [char; 6] = ['.', '?', '!', '。', '？', '！'];

/// An event with an id of its own.
pub(super) fn event(kind: &str, mut body: Value) -> Value {
    if let Some(object) = body.as_object_mut() {
        object.insert("type".to_owned(), kind.into());
        object.insert("event_id".to_owned(), format!("event_{}", uuid::Uuid::new_v4().simple()).into());
    }
    body
}

/// The session as it begins, or as it has become.
pub(super) fn session(config: &Config, what: &str) -> Value {
    let kind = if config.flat { "transcription_session" } else { "session" };
    event(&format!("{kind}.{what}"), json!({"session": config.to_json()}))
}

/// A message was wrong, or the session failed; `cause` is the client's id of the message.
pub(super) fn error(error: &ApiError, cause: Option<&str>) -> Value {
    let mut object = object(error);
    object["event_id"] = cause.into();
    event("error", json!({"error": object}))
}

fn object(error: &ApiError) -> Value {
    let body: Value = serde_json::from_str(&error.to_json()).unwrap_or_default();
    body.get("error").cloned().unwrap_or_default()
}

/// How a session names its items.
pub(super) struct Names {
    /// The session's id without its prefix.
    pub session: String,
    /// Whether items are `created`, as they were before they were `added` and `done`.
    pub flat: bool,
}

impl Names {
    pub fn of(config: &Config) -> Names {
        let id = config.id.strip_prefix("sess_").unwrap_or(&config.id);
        Names { session: id.get(..16).unwrap_or(id).to_owned(), flat: config.flat }
    }

    fn item(&self, item: u64) -> String {
        format!("item_{}{item:04}", self.session)
    }

    /// What the client is told of what was heard, and by whom it was said where that is known.
    pub fn events(&self, heard: Event, cast: Option<&Cast>) -> Vec<Value> {
        match heard {
            Event::SpeechStarted { item, ms } => vec![event(
                "input_audio_buffer.speech_started",
                json!({"item_id": self.item(item), "audio_start_ms": ms}),
            )],
            Event::SpeechStopped { item, ms } => vec![event(
                "input_audio_buffer.speech_stopped",
                json!({"item_id": self.item(item), "audio_end_ms": ms}),
            )],
            Event::Committed { item } => self.committed(item),
            Event::Nothing => {
                let message = "there is no audio to commit";
                let empty = ApiError::new(
                    axum::http::StatusCode::BAD_REQUEST,
                    "input_audio_buffer_commit_empty",
                    message,
                );
                vec![error(&empty, None)]
            }
            Event::Partial { item, delta } => vec![event(
                &format!("{PART}.delta"),
                json!({"item_id": self.item(item), "content_index": 0, "delta": delta}),
            )],
            // There is no event for text that may change.
            Event::Tentative { .. } | Event::Behind { .. } => Vec::new(),
            Event::Completed { item, text, words, start, end } => {
                completed(&self.item(item), &text, &words, end - start, cast)
            }
            Event::Dropped { seconds } => {
                let message =
                    format!("{seconds:.1} s of audio were dropped: it came faster than it is heard");
                let dropped =
                    ApiError::new(axum::http::StatusCode::TOO_MANY_REQUESTS, "audio_dropped", message);
                vec![error(&dropped, None)]
            }
            Event::Failed { item: Some(item), error } => vec![event(
                &format!("{PART}.failed"),
                json!({"item_id": self.item(item), "content_index": 0, "error": object(&logged(error))}),
            )],
            Event::Failed { item: None, error: failure } => vec![error(&logged(failure), None)],
        }
    }

    fn committed(&self, item: u64) -> Vec<Value> {
        let previous = item.checked_sub(1).map(|item| self.item(item));
        let id = self.item(item);
        let body = json!({"previous_item_id": previous, "item": {"id": id, "object": "realtime.item",
            "type": "message", "status": "completed", "role": "user",
            "content": [{"type": "input_audio", "transcript": null}]}});
        let mut events =
            vec![event("input_audio_buffer.committed", json!({"previous_item_id": previous, "item_id": id}))];
        let kinds: &[&str] = if self.flat { &["created"] } else { &["added", "done"] };
        events.extend(kinds.iter().map(|kind| event(&format!("conversation.item.{kind}"), body.clone())));
        events
    }
}

/// The sentences of a turn, and all of it.
fn completed(item: &str, text: &str, words: &[Word], seconds: f64, cast: Option<&Cast>) -> Vec<Value> {
    let segment = |(at, sentence): (usize, Segment)| {
        event(
            &format!("{PART}.segment"),
            json!({"id": format!("seg_{at}"), "item_id": item, "content_index": 0, "text": sentence.text,
                "speaker": sentence.speaker, "start": sentence.start, "end": sentence.end}),
        )
    };
    let mut events: Vec<Value> = sentences(words, cast).into_iter().enumerate().map(segment).collect();
    events.push(event(
        &format!("{PART}.completed"),
        json!({"item_id": item, "content_index": 0, "transcript": text,
            "usage": {"type": "duration", "seconds": seconds}}),
    ));
    events
}

/// What is not for the client goes to the log.
pub(super) fn logged(failure: crate::service::Error) -> ApiError {
    let failure = ApiError::from(failure);
    if let Some(detail) = &failure.detail {
        tracing::error!(detail, "a live session failed");
    }
    failure
}

/// A sentence, or what one speaker says of it.
struct Segment {
    text: String,
    start: f64,
    end: f64,
    speaker: Option<String>,
}

fn sentences(words: &[Word], cast: Option<&Cast>) -> Vec<Segment> {
    let parts = words.split_inclusive(|word| word.text.trim_end().ends_with(ENDS));
    let sentence = |part: &[Word]| {
        let text: String = part.iter().map(|word| word.text.as_str()).collect();
        let (start, end) = (part.first()?.start, part.last()?.end);
        Some(asr::Segment { start, end, text, words: part.to_vec(), ..asr::Segment::default() })
    };
    parts.filter_map(sentence).flat_map(|sentence| by_speaker(sentence, cast)).collect()
}

fn by_speaker(sentence: asr::Segment, cast: Option<&Cast>) -> Vec<Segment> {
    let segment =
        |text: &str, start, end, speaker| Segment { text: text.trim().to_owned(), start, end, speaker };
    let Some(cast) = cast else { return vec![segment(&sentence.text, sentence.start, sentence.end, None)] };
    let name = |speaker| Some(cast.name(speaker).to_owned());
    let runs = spoken(&sentence, &cast.turns).into_iter();
    runs.map(|run| segment(&run.text, run.start, run.end, name(run.speaker))).collect()
}
