//! Who says what in a session: all of it anew every few batches, and at its end.

use serde_json::{Value, json};

use crate::http::realtime::company::Listener;
use crate::service::voices::spoken;
use crate::types::asr::{Segment, Word};

/// Batches between two updates.
const EVERY: usize = 6;
/// Words of a session that are told apart: some ten hours of speech. Later ones are in the batches.
const WORDS: usize = 100_000;

/// What was said in a session, and who listens for its speakers.
pub(super) struct Conversation {
    listener: Listener,
    said: Vec<Segment>,
    words: usize,
    batches: usize,
}

impl Conversation {
    pub fn new(listener: Listener) -> Conversation {
        Conversation { listener, said: Vec::new(), words: 0, batches: 0 }
    }

    /// What was said next; the update that it is time for.
    pub async fn batch(&mut self, text: &str, words: Vec<Word>, (start, end): (f64, f64)) -> Option<Value> {
        self.batches += 1;
        if !text.trim().is_empty() && self.words < WORDS {
            self.words += words.len().max(1);
            self.said.push(Segment { start, end, text: text.to_owned(), words, ..Segment::default() });
        }
        match self.batches.is_multiple_of(EVERY) {
            true => self.told("diarization_update", Some(self.batches - 1)).await,
            false => None,
        }
    }

    /// All that was said, when the session ends.
    pub async fn last(self) -> Option<Value> {
        self.told("final_diarization", None).await
    }

    async fn told(&self, event: &str, batch: Option<usize>) -> Option<Value> {
        let cast = self.listener.cast().await?;
        let mut messages: Vec<(String, String)> = Vec::new();
        for run in self.said.iter().flat_map(|segment| spoken(segment, &cast.turns)) {
            let speaker = cast.name(run.speaker);
            match messages.last_mut() {
                Some((last, text)) if last == speaker => {
                    text.push(' ');
                    text.push_str(run.text.trim());
                }
                _ => messages.push((speaker.to_owned(), run.text.trim().to_owned())),
            }
        }
        let conversation: Vec<Value> =
            messages.iter().map(|(speaker, text)| json!({"speaker": speaker, "text": text})).collect();
        let mut told =
            json!({"event": event, "total_messages": conversation.len(), "conversation": conversation});
        if let Some(batch) = batch {
            told["batch_index"] = batch.into();
        }
        Some(told)
    }
}
