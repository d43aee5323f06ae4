//! What a model thinks before it answers: text between tags, told apart from the answer.

/// Opens and closes thinking (DeepSeek R1, Qwen3 and others).
pub const TAGS: (&str, &str) = ("<think>", "</think>");

/// Where an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space has come.
    Start,
    Inside,
    /// Thinking is closed; white space before the answer is not part of it.
    Closed,
    Answer,
}

/// Reads one answer, piece by piece.
#[derive(Debug)]
pub struct ThinkStream {
    state: State,
    /// Text that may be part of a tag, or white space before something.
    held: String,
}

/// A piece of an answer, told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thought {
    Reasoning(String),
    Answer(String),
}

impl ThinkStream {
    /// For an answer whose prompt has opened thinking (`open`), or left it to the model.
    pub fn new(open: bool) -> ThinkStream {
        ThinkStream { state: if open { State::Inside } else { State::Start }, held: String::new() }
    }

    /// Whether what comes next is thinking.
    pub fn is_inside(&self) -> bool {
        self.state == State::Inside
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<Thought> {
        self.held.push_str(text);
        self.read(false)
    }

    /// The text has ended: what was held back is part of what was going on.
    pub fn finish(&mut self) -> Vec<Thought> {
        self.read(true)
    }

    fn read(&mut self, whole: bool) -> Vec<Thought> {
        let mut said = Vec::new();
        if self.state == State::Start {
            let text = self.held.trim_start();
            if let Some(rest) = text.strip_prefix(TAGS.0) {
                (self.held, self.state) = (rest.to_owned(), State::Inside);
            } else if whole || !TAGS.0.starts_with(text) {
                self.state = State::Answer;
            }
        }
        if self.state == State::Inside {
            let (thought, rest) = match self.held.split_once(TAGS.1) {
                Some((thought, rest)) => (thought.trim_end().to_owned(), Some(rest.to_owned())),
                None => (String::new(), None),
            };
            match rest {
                Some(rest) => {
                    said.push(Thought::Reasoning(thought));
                    (self.held, self.state) = (rest, State::Closed);
                }
                None => {
                    let keep = if whole { 0 } else { overlap(&self.held) };
                    let tail = self.held.split_off(self.held.len() - keep);
                    said.push(Thought::Reasoning(std::mem::replace(&mut self.held, tail)));
                }
            }
        }
        if self.state == State::Closed {
            let text = self.held.trim_start();
            if !text.is_empty() {
                (self.held, self.state) = (text.to_owned(), State::Answer);
            }
        }
        if self.state == State::Answer {
            said.push(Thought::Answer(std::mem::take(&mut self.held)));
        }
        said.retain(
            |thought| !matches!(thought, Thought::Reasoning(text) | Thought::Answer(text) if text.is_empty()),
        );
        said
    }
}

/// Bytes at the end of a thought that may belong to its closing tag, and white space that may stand before it.
fn overlap(text: &str) -> usize {
    let most = (TAGS.1.len() - 1).min(text.len());
    let tag = (1..=most).rev().find(|&n| text.as_bytes().ends_with(&TAGS.1.as_bytes()[..n])).unwrap_or(0);
    text.len() - text[..text.len() - tag].trim_end().len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(open: bool, pieces: &[String]) -> (String, String) {
        let mut stream = ThinkStream::new(open);
        let mut said: Vec<Thought> = pieces.iter().flat_map(|piece| stream.push(piece)).collect();
        said.extend(stream.finish());
        let (mut thought, mut answer) = (String::new(), String::new());
        for part in said {
            match part {
                Thought::Reasoning(text) => thought.push_str(&text),
                Thought::Answer(text) => answer.push_str(&text),
            }
        }
        (thought, answer)
    }

    proptest! {
        #[test]
        fn thinking_is_told_apart_however_the_text_is_cut(sizes in prop::collection::vec(1usize..9, 1..6)) {
            for (open, text, thought, answer) in [
                (false, "<think>\na < b </thin\n</think>\n\nYes: </think>\n", "\na < b </thin", "Yes: </think>\n"),
                (true, "hm é\n</think>Yes", "hm é", "Yes"),
                (false, "\n<think></think>\n\nYes", "", "Yes"),
                (false, " <thin air", "", " <thin air"),
                (false, "No <think>x</think>", "", "No <think>x</think>"),
                (true, "never done </th", "never done </th", ""),
                (false, "", "", ""),
            ] {
                let (mut rest, mut pieces, mut sizes) = (text.chars().peekable(), Vec::new(), sizes.iter().cycle());
                while rest.peek().is_some() {
                    pieces.push(rest.by_ref().take(*sizes.next().unwrap()).collect::<String>());
                }
                prop_assert_eq!(read(open, &pieces), (thought.to_owned(), answer.to_owned()));
            }
        }
    }
}
