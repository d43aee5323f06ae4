//! What holds a sequence to more than its probabilities: a form that its answer must have, and a bound on how long it
//! may think first.
//!
//! Thinking is what stands between a model's own marks. Inside of it any token may come, until the budget is spent:
//! then the closing mark is the only one. The form begins where thinking has ended.

use super::grammar::{Mask, Matcher};

/// How a sequence may think.
#[derive(Debug, Clone)]
pub struct Thinking {
    /// Tokens that open and close it.
    pub marks: (u32, u32),
    /// The prompt has opened it.
    pub open: bool,
    /// Tokens between the marks; `None` leaves it to the model.
    pub budget: Option<u32>,
}

/// Where a sequence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is written: the first token decides.
    Start,
    /// So many tokens are thought.
    Inside(u32),
    Outside,
}

/// One sequence's guide.
#[derive(Debug, Clone)]
pub struct Guide {
    thinking: Option<Thinking>,
    phase: Phase,
    matcher: Option<Matcher>,
    mask: Option<Mask>,
}

impl Guide {
    /// `None` where nothing is to be held.
    pub fn new(thinking: Option<Thinking>, matcher: Option<Matcher>) -> Option<Guide> {
        // Without a form and without a budget there is nothing that a guide would do.
        let thinking = thinking.filter(|t| matcher.is_some() || t.budget.is_some());
        if thinking.is_none() && matcher.is_none() {
            return None;
        }
        let phase = match &thinking {
            None => Phase::Outside,
            Some(thinking) if thinking.open => Phase::Inside(0),
            Some(_) => Phase::Start,
        };
        Some(Guide { thinking, phase, matcher, mask: None })
    }

    /// Works out the tokens that may come next. Asked again before a token is taken, it gives the same.
    ///
    /// # Errors
    /// See [`Matcher::mask`].
    pub fn prepare(&mut self) -> Result<(), String> {
        self.mask = match (&self.thinking, self.phase) {
            (Some(t), Phase::Inside(used)) if t.budget.is_some_and(|budget| used >= budget) => {
                Some(Mask::only(t.marks.1))
            }
            (_, Phase::Inside(_)) => None,
            (thinking, phase) => match &mut self.matcher {
                None => None,
                Some(matcher) => {
                    let mask = matcher.mask()?;
                    // The first token may be the mark that opens thinking instead of the form's beginning.
                    let open = thinking.as_ref().filter(|_| phase == Phase::Start).map(|t| t.marks.0);
                    Some(mask.and(open))
                }
            },
        };
        Ok(())
    }

    /// The set that [`prepare`](Self::prepare) worked out last; `None` is every token.
    pub fn mask(&self) -> Option<&Mask> {
        self.mask.as_ref()
    }

    /// Takes the next token, which is no end token. True where nothing can follow it.
    ///
    /// # Errors
    /// See [`Matcher::advance`].
    pub fn advance(&mut self, token: u32) -> Result<bool, String> {
        let marks = self.thinking.as_ref().map(|t| t.marks);
        match (self.phase, marks) {
            (Phase::Start, Some((open, _))) if token == open => {
                self.phase = Phase::Inside(0);
                return Ok(false);
            }
            (Phase::Inside(_), Some((_, close))) if token == close => {
                self.phase = Phase::Outside;
                return Ok(false);
            }
            (Phase::Inside(used), _) => {
                self.phase = Phase::Inside(used.saturating_add(1));
                return Ok(false);
            }
            _ => self.phase = Phase::Outside,
        }
        match &mut self.matcher {
            Some(matcher) => matcher.advance(token),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: (u32, u32) = (3, 4);

    fn guide(open: bool, budget: Option<u32>) -> Option<Guide> {
        Guide::new(Some(Thinking { marks: MARKS, open, budget }), None)
    }

    /// Tokens of ten that may come next.
    fn allowed(guide: &mut Guide) -> Vec<usize> {
        guide.prepare().unwrap();
        let mut logits = vec![0.0; 10];
        if let Some(mask) = guide.mask() {
            mask.apply(&mut logits);
        }
        (0..10).filter(|&at| logits[at] == 0.0).collect()
    }

    #[test]
    fn a_spent_budget_leaves_the_closing_mark_alone() {
        let mut open = guide(true, Some(2)).unwrap();
        for token in [7, 8] {
            assert_eq!(allowed(&mut open).len(), 10);
            assert_eq!(open.advance(token), Ok(false));
        }
        assert_eq!(allowed(&mut open), [4]);
        assert_eq!(open.advance(4), Ok(false));
        assert_eq!(allowed(&mut open).len(), 10, "it thinks no more");
        assert_eq!(open.advance(3), Ok(false));
        assert_eq!(allowed(&mut open).len(), 10, "and a mark in the answer opens nothing");
    }

    #[test]
    fn thinking_may_be_opened_first_and_not_later() {
        let mut opens = guide(false, Some(0)).unwrap();
        opens.advance(3).unwrap();
        assert_eq!(allowed(&mut opens), [4]);
        let mut answers = guide(false, Some(0)).unwrap();
        answers.advance(7).unwrap();
        answers.advance(3).unwrap();
        assert_eq!(allowed(&mut answers).len(), 10);
        assert!(guide(true, None).is_none(), "without a budget and a form there is nothing to do");
        assert!(Guide::new(None, None).is_none());
    }
}
