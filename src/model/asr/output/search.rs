//! The texts that are followed side by side at one window: a beam, or samples (openai/whisper `decoding.py`).

use super::rules::Candidate;

/// Where a row continues from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The prompt.
    Root,
    /// A row of the step before.
    Row(usize),
}

/// A text being written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Hypothesis {
    pub tokens: Vec<u32>,
    /// One for each token; 0 for those that were given.
    pub logprobs: Vec<f32>,
    /// Of all tokens and, once it is finished, of its end.
    pub sum: f64,
}

impl Hypothesis {
    fn with(&self, candidate: Candidate) -> Hypothesis {
        let mut next = self.clone();
        next.tokens.push(candidate.token);
        next.logprobs.push(candidate.logprob);
        next.sum += f64::from(candidate.logprob);
        next
    }

    fn ended(&self, logprob: f32) -> Hypothesis {
        Hypothesis { sum: self.sum + f64::from(logprob), ..self.clone() }
    }
}

/// How texts are followed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum How {
    /// The likeliest `size`, until `finished` have come to their end.
    Beam { size: usize, finished: usize },
    /// `count` that are drawn, each by itself.
    Sample { count: usize },
}

impl How {
    /// Texts side by side at most.
    pub fn rows(self) -> usize {
        match self {
            How::Beam { size, .. } => size,
            How::Sample { count } => count,
        }
    }
}

/// Texts at one window and temperature.
#[derive(Debug)]
pub(super) struct Search {
    how: How,
    rows: Vec<Hypothesis>,
    finished: Vec<Hypothesis>,
    /// Tokens that a text may have, those given included.
    limit: usize,
    length_penalty: f32,
    eot: u32,
}

impl Search {
    /// Begins after a prompt that ends with the tokens `given`; `first` are the candidates after it: of a beam its
    /// likeliest, of samples one each. Gives where each row continues from.
    pub fn begin(
        how: How,
        given: &[u32],
        limit: usize,
        length_penalty: f32,
        eot: u32,
        first: Vec<Candidate>,
    ) -> (Search, Vec<Parent>) {
        let start = Hypothesis { tokens: given.to_vec(), logprobs: vec![0.0; given.len()], sum: 0.0 };
        let rows = match how {
            How::Beam { .. } => 1,
            How::Sample { .. } => first.len(),
        };
        let mut search = Search {
            how,
            rows: vec![start; rows],
            finished: Vec::new(),
            limit: given.len() + limit,
            length_penalty,
            eot,
        };
        let candidates = match how {
            How::Beam { .. } => vec![first],
            How::Sample { .. } => first.into_iter().map(|c| vec![c]).collect(),
        };
        let moves = search.advance(candidates);
        (search, vec![Parent::Root; moves.len()])
    }

    /// The texts that go on.
    pub fn rows(&self) -> &[Hypothesis] {
        &self.rows
    }

    /// Candidates that a row is to have.
    pub fn wanted(&self) -> usize {
        match self.how {
            How::Beam { size, .. } => size + 1,
            How::Sample { .. } => 1,
        }
    }

    /// Takes each row's candidates, best first; gives the row that each of the next rows continues from.
    pub fn advance(&mut self, candidates: Vec<Vec<Candidate>>) -> Vec<usize> {
        let moves = match self.how {
            How::Beam { size, finished } => self.widen(&candidates, size, finished),
            How::Sample { .. } => self.go_on(&candidates),
        };
        let full = self.rows.first().is_some_and(|row| row.tokens.len() >= self.limit);
        let enough = matches!(self.how, How::Beam { finished, .. } if self.finished.len() >= finished);
        if full || enough {
            // As the reference: where too few have ended, those that have not count too, the likeliest first.
            let missing = self.how.rows().saturating_sub(self.finished.len());
            let open = std::mem::take(&mut self.rows);
            self.finished.extend(open.into_iter().take(missing));
            return Vec::new();
        }
        moves
    }

    /// The likeliest continuations of all rows together.
    fn widen(&mut self, candidates: &[Vec<Candidate>], size: usize, enough: usize) -> Vec<usize> {
        let mut all: Vec<(f64, usize, Candidate)> = Vec::new();
        for (row, (text, candidates)) in self.rows.iter().zip(candidates).enumerate() {
            all.extend(candidates.iter().map(|&c| (text.sum + f64::from(c.logprob), row, c)));
        }
        // Stable: of equals the earlier row, and of one row the better candidate.
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut rows, mut moves) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for (_, from, candidate) in all {
            let text = &self.rows[from];
            if candidate.token == self.eot {
                if self.finished.len() < enough {
                    self.finished.push(text.ended(candidate.logprob));
                }
                continue;
            }
            rows.push(text.with(candidate));
            moves.push(from);
            if rows.len() == size {
                break;
            }
        }
        self.rows = rows;
        moves
    }

    fn go_on(&mut self, candidates: &[Vec<Candidate>]) -> Vec<usize> {
        let (mut rows, mut moves) = (Vec::new(), Vec::new());
        for (from, (text, candidates)) in self.rows.iter().zip(candidates).enumerate() {
            match candidates.first() {
                Some(end) if end.token == self.eot => self.finished.push(text.ended(end.logprob)),
                Some(&next) => {
                    rows.push(text.with(next));
                    moves.push(from);
                }
                None => {}
            }
        }
        self.rows = rows;
        moves
    }

    /// Whether no text goes on.
    pub fn is_over(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text with the best score a token.
    pub fn best(&self) -> Option<&Hypothesis> {
        let score = |h: &Hypothesis| {
            let length = (h.tokens.len().max(1) as f64).powf(f64::from(self.length_penalty));
            h.sum / length
        };
        self.finished.iter().reduce(|best, h| if score(h) > score(best) { h } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOT: u32 = 9;

    fn c(token: u32, logprob: f32) -> Candidate {
        Candidate { token, logprob }
    }

    #[test]
    fn a_beam_follows_the_likeliest_and_waits_for_as_many_ends() {
        let how = How::Beam { size: 2, finished: 2 };
        let first = vec![c(1, -0.5), c(2, -1.0), c(3, -3.0)];
        let (mut search, moves) = Search::begin(how, &[], 10, 1.0, EOT, first);
        assert_eq!(moves, [Parent::Root, Parent::Root]);
        assert_eq!(search.wanted(), 3);
        // Both continuations of the first row are likelier than any of the second.
        let moves = search.advance(vec![vec![c(4, -0.1), c(5, -0.3), c(6, -9.0)], vec![c(4, -0.2)]]);
        assert_eq!(moves, [0, 0]);
        assert_eq!(search.rows()[1].tokens, [1, 5]);
        // An end does not take a place in the beam.
        let moves = search.advance(vec![vec![c(EOT, -0.1), c(7, -2.0)], vec![c(8, -0.1), c(EOT, -4.0)]]);
        assert_eq!(moves, [1, 0]);
        let moves = search.advance(vec![vec![c(EOT, -0.01), c(7, -5.0)], vec![c(7, -0.1)]]);
        assert!(moves.is_empty() && search.is_over());
        // -0.91 over three tokens against -0.7 over two.
        assert_eq!(search.best().unwrap().tokens, [1, 5, 8]);
    }

    #[test]
    fn a_beam_of_one_is_greedy() {
        let how = How::Beam { size: 1, finished: 1 };
        let (mut search, _) = Search::begin(how, &[7], 10, 1.0, EOT, vec![c(1, -0.5), c(EOT, -0.6)]);
        assert_eq!(search.rows()[0].tokens, [7, 1]);
        assert!(search.advance(vec![vec![c(EOT, -0.2), c(1, -0.3)]]).is_empty());
        let best = search.best().unwrap();
        assert_eq!((&best.tokens[..], &best.logprobs[..]), (&[7, 1][..], &[0.0, -0.5][..]));
        assert!((best.sum + 0.7).abs() < 1e-6);
    }

    #[test]
    fn samples_end_one_by_one() {
        let how = How::Sample { count: 3 };
        let (mut search, moves) =
            Search::begin(how, &[], 3, 1.0, EOT, vec![c(1, -1.0), c(EOT, -2.0), c(2, -1.5)]);
        assert_eq!((moves.len(), search.rows().len()), (2, 2));
        assert_eq!(search.advance(vec![vec![c(3, -0.1)], vec![c(EOT, -0.1)]]), [0]);
        // At its limit the last one ends as it is.
        assert!(search.advance(vec![vec![c(4, -0.1)]]).is_empty());
        assert_eq!(search.best().unwrap().tokens, [1, 3, 4]);
    }
}
