//! Which words are sure: local agreement of two hypotheses (Macháček, Dabre and Bojar, "Turning Whisper into Real-Time
//! Transcription System", 2023).
//!
//! Every hypothesis is of the same audio and some more. The words that it and the one before it begin with alike are
//! committed. They never change; what later hypotheses make of the same audio is passed over, by time and, around the
//! last committed word, by what it says, since times move a little from one hypothesis to the next.

use crate::types::asr::Word;

/// Words that begin so much before the end of the last committed one are other words.
const OVERLAP: f64 = 0.1;
/// Words that begin so soon after it may be the committed ones again.
const NEAR: f64 = 1.0;
/// Committed words that are looked for again at most.
const AGAIN: usize = 5;

/// The words of one turn.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    committed: Vec<Word>,
    /// Of the last hypothesis, what follows the committed words.
    open: Vec<Word>,
}

impl Agreement {
    /// What is sure, in order of time.
    pub fn committed(&self) -> &[Word] {
        &self.committed
    }

    pub fn into_committed(self) -> Vec<Word> {
        self.committed
    }

    /// What the last hypothesis says after it.
    pub fn tentative(&self) -> String {
        self.open.iter().map(|word| word.text.as_str()).collect()
    }

    /// Seconds up to which all is sure.
    pub fn end(&self) -> Option<f64> {
        self.committed.last().map(|word| word.end)
    }

    /// Takes the next hypothesis; gives the words that are sure now and were not.
    pub fn hear(&mut self, words: Vec<Word>) -> &[Word] {
        let fresh = self.fresh(words);
        let agreed = fresh.iter().zip(&self.open).take_while(|(a, b)| same(&a.text, &b.text)).count();
        self.commit(fresh, agreed)
    }

    /// Takes a hypothesis that is believed as it is. Where more is to come, its last word may be half a word, and is
    /// left to the next one unless it is all there is.
    pub fn settle(&mut self, words: Vec<Word>, more: bool) -> &[Word] {
        let fresh = self.fresh(words);
        let sure = if more && fresh.len() > 1 { fresh.len() - 1 } else { fresh.len() };
        self.commit(fresh, sure)
    }

    fn commit(&mut self, mut fresh: Vec<Word>, count: usize) -> &[Word] {
        let before = self.committed.len();
        self.open = fresh.split_off(count);
        for mut word in fresh {
            // Later words do not begin earlier, whatever the alignment says.
            word.start = word.start.max(self.committed.last().map_or(0.0, |last| last.start));
            word.end = word.end.max(word.start).max(self.end().unwrap_or(0.0));
            self.committed.push(word);
        }
        &self.committed[before..]
    }

    /// What a hypothesis has beyond the committed words.
    fn fresh(&self, words: Vec<Word>) -> Vec<Word> {
        let Some(end) = self.end() else { return words };
        let mut fresh: Vec<Word> = words.into_iter().filter(|word| word.start > end - OVERLAP).collect();
        let near = fresh.first().is_some_and(|word| word.start < end + NEAR);
        let longest = AGAIN.min(fresh.len()).min(self.committed.len());
        let again = (1..=longest).rev().find(|&n| {
            let tail = &self.committed[self.committed.len() - n..];
            tail.iter().zip(&fresh).all(|(a, b)| same(&a.text, &b.text))
        });
        if let Some(again) = again.filter(|_| near) {
            fresh.drain(..again);
        }
        fresh
    }
}

/// Whether two words are one but for case and punctuation.
fn same(a: &str, b: &str) -> bool {
    let letters = |text: &str| -> String {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let (x, y) = (letters(a), letters(b));
    if x.is_empty() && y.is_empty() { a.trim() == b.trim() } else { x == y }
}
