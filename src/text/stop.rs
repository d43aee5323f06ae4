//! Ends text before the first stop string, across token borders.

/// Watches text for stop strings, piece by piece.
///
/// The string whose last byte comes first wins, and the longest of those that end together; the result does not
/// depend on how the text was cut. One automaton a string (Knuth, Morris, Pratt 1977): time is linear in the
/// text for each string, and no more is held back than could still become a stop string.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    /// The end of the text so far that is the beginning of some stop string.
    held: String,
    stopped: bool,
}

#[derive(Debug, Clone)]
struct Stop {
    text: Vec<u8>,
    /// `border[i]`: length of the longest proper prefix of `text[..=i]` that is its suffix too.
    border: Vec<u32>,
    matched: usize,
}

impl Stop {
    fn new(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let mut stop = Stop { border: vec![0; text.len()], text, matched: 0 };
        for i in 1..stop.text.len() {
            stop.step(stop.text[i]);
            stop.border[i] = stop.matched as u32;
        }
        stop.matched = 0;
        stop
    }

    /// Takes one byte; true where it completes the string.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.text.get(self.matched) != Some(&byte) {
            self.matched = self.border[self.matched - 1] as usize;
        }
        if self.text.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
        self.matched == self.text.len()
    }
}

impl StopMatcher {
    /// Empty strings are left out: they would end every text before it begins.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let stops = stops.iter().map(AsRef::as_ref).filter(|s| !s.is_empty()).map(Stop::new).collect();
        StopMatcher { stops, held: String::new(), stopped: false }
    }

    /// Takes the next piece of text. Gives the text that is safe to show, and whether a stop string was
    /// reached: then that text is the last, and whatever is pushed later is ignored.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        if self.stopped {
            return (String::new(), true);
        }
        if self.stops.is_empty() {
            return (text.to_owned(), false);
        }
        let before = self.held.len();
        let mut all = std::mem::take(&mut self.held);
        all.push_str(text);
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            let longest = self.stops.iter_mut().filter_map(|s| s.step(byte).then_some(s.text.len())).max();
            if let Some(len) = longest {
                self.stopped = true;
                // Both ends of a stop string are borders of characters, since both texts are UTF-8.
                all.truncate((before + i + 1).saturating_sub(len));
                return (all, true);
            }
        }
        let hold = self.stops.iter().map(|s| s.matched).max().unwrap_or(0);
        self.held = all.split_off(all.len().saturating_sub(hold));
        (all, false)
    }

    /// The text ended by itself: gives what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether a stop string was reached.
    pub fn stopped(&self) -> bool {
        self.stopped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the earliest end, then the longest.
    fn naive(stops: &[String], text: &str) -> Option<usize> {
        (0..=text.len()).find_map(|end| {
            let longest = stops
                .iter()
                .filter(|s| !s.is_empty() && text.as_bytes()[..end].ends_with(s.as_bytes()))
                .map(String::len)
                .max()?;
            Some(end - longest)
        })
    }

    proptest! {
        #[test]
        fn equals_a_naive_search_however_the_text_is_cut(
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
            pieces in prop::collection::vec("[abcé]{0,5}", 0..12),
        ) {
            let text = pieces.concat();
            let mut matcher = StopMatcher::new(&stops);
            let mut shown = String::new();
            let mut stopped = false;
            for piece in &pieces {
                let (safe, done) = matcher.push(piece);
                shown.push_str(&safe);
                prop_assert!(text.starts_with(&shown));
                if done {
                    stopped = true;
                    break;
                }
            }
            shown.push_str(&if stopped { String::new() } else { matcher.finish() });
            match naive(&stops, &text) {
                Some(end) => prop_assert_eq!((shown.as_str(), stopped), (&text[..end], true)),
                None => prop_assert_eq!((shown, stopped), (text, false)),
            }
        }
    }

    #[test]
    fn holds_back_no_more_than_a_possible_beginning() {
        let mut matcher = StopMatcher::new(&["\n\nUser:"]);
        assert_eq!(matcher.push("fine\n"), ("fine".into(), false));
        assert_eq!(matcher.push("\nUse"), (String::new(), false));
        assert_eq!(matcher.push("less"), ("\n\nUseless".into(), false));
        assert_eq!(matcher.push("\n\nUser: hi"), (String::new(), true));
        assert_eq!(matcher.push("more"), (String::new(), true));
    }
}
