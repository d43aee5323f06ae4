//! A question and a text to one row of token ids, by the pair template of the model's tokenizer.

use std::path::Path;

use tokenizers::{Encoding, Tokenizer};

use crate::model::embed::{EmbedTokenizer, Error};

/// A row of two texts, framed. Invariant: as many types as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    ids: Vec<u32>,
    types: Vec<u32>,
}

impl Pair {
    /// Token ids, special tokens included.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The type of each token: which of the two texts it belongs to, for networks that are told.
    pub fn types(&self) -> &[u32] {
        &self.types
    }

    fn push(&mut self, ids: &[u32], kind: u32) {
        self.ids.extend_from_slice(ids);
        self.types.resize(self.ids.len(), kind);
    }
}

/// A model's tokenizer for pairs.
pub struct PairTokenizer {
    tokenizer: EmbedTokenizer,
    template: Template,
}

/// What stands around two texts.
#[derive(Debug, PartialEq, Eq)]
struct Template {
    /// Special tokens before the first text, between the two and behind the second, each with its type.
    special: [Vec<(u32, u32)>; 3],
    /// The types of either text's tokens.
    types: [u32; 2],
}

impl PairTokenizer {
    /// Reads `tokenizer.json` in `dir` for rows of `max_tokens`, a `vocabulary` of so many ids and so many token
    /// `types`; where there is one only, all tokens have it.
    ///
    /// # Errors
    /// As [`EmbedTokenizer::load`]; also a template that does not put special tokens around and between two texts in
    /// their order, or that has types that the model has no vectors for.
    pub fn load(dir: &Path, max_tokens: usize, vocabulary: usize, types: usize) -> Result<Self, Error> {
        let tokenizer = EmbedTokenizer::load(dir, max_tokens, vocabulary)?;
        let mut template =
            Template::of(tokenizer.tokenizer()).map_err(|problem| tokenizer.broken(problem))?;
        if types == 1 {
            template.types = [0; 2];
            template.special.iter_mut().flatten().for_each(|(_, kind)| *kind = 0);
        }
        let own = template.special.iter().flatten().map(|&(_, kind)| kind).chain(template.types);
        if let Some(kind) = own.max().filter(|&kind| kind as usize >= types) {
            let problem = format!("gives tokens the type {kind}; the model has vectors for {types} types");
            return Err(tokenizer.broken(problem));
        }
        if template.len() >= max_tokens {
            let problem = format!("its special tokens fill the {max_tokens} tokens of a pair");
            return Err(tokenizer.broken(problem));
        }
        Ok(PairTokenizer { tokenizer, template })
    }

    /// The longest row, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.tokenizer.max_tokens()
    }

    /// Pairs of `query` with each of `texts`, in order. What is too long is cut as transformers' `truncation=True` cuts:
    /// the longer of both at its end until they fit, which is the text but for questions of more than half a row.
    ///
    /// # Errors
    /// The first text that the tokenizer refuses, or that does not fit whole where nothing may be cut.
    pub fn pairs(&self, query: &str, texts: &[String], truncate: bool) -> Result<Vec<Pair>, (usize, Error)> {
        let room = self.max_tokens() - self.template.len();
        let query = self.tokenizer.bare(query, room).map_err(|error| (0, error))?;
        let pair = |text: &String| {
            let text = self.tokenizer.bare(text, room)?;
            match truncate || query.len() + text.len() <= room {
                true => Ok(self.template.fill(&query, &text, room)),
                false => Err(Error::Cut { limit: self.max_tokens() }),
            }
        };
        texts.iter().enumerate().map(|(at, text)| pair(text).map_err(|error| (at, error))).collect()
    }
}

impl Template {
    /// Finds what the tokenizer puts around two short texts.
    fn of(tokenizer: &Tokenizer) -> Result<Template, String> {
        let refused = |e: tokenizers::Error| e.to_string();
        let single = |text: &str| tokenizer.encode_fast(text, false).map_err(refused);
        let (first, second) = (single("a")?, single("b")?);
        let pair = tokenizer.encode_fast(("a", "b"), true).map_err(refused)?;
        let none = || "its template does not put special tokens around two texts".to_owned();
        let find = |part: &Encoding, from: usize| {
            let (ids, rest) = (part.get_ids(), pair.get_ids().get(from..)?);
            let at = rest.windows(ids.len().max(1)).position(|window| window == ids)?;
            Some((from + at, from + at + ids.len()))
        };
        let a = find(&first, 0).ok_or_else(none)?;
        let b = find(&second, a.1).ok_or_else(none)?;
        let all: Vec<(u32, u32)> =
            pair.get_ids().iter().copied().zip(pair.get_type_ids().iter().copied()).collect();
        let part = |from: usize, to: usize| all.get(from..to).unwrap_or_default().to_vec();
        let kind = |at: usize| pair.get_type_ids().get(at).copied().unwrap_or(0);
        Ok(Template {
            special: [part(0, a.0), part(a.1, b.0), part(b.1, all.len())],
            types: [kind(a.0), kind(b.0)],
        })
    }

    /// Special tokens of a pair.
    fn len(&self) -> usize {
        self.special.iter().map(Vec::len).sum()
    }

    /// Two texts framed, cut to `room` tokens together.
    fn fill(&self, first: &[u32], second: &[u32], room: usize) -> Pair {
        let (n, m) = cut(first.len(), second.len(), room);
        let mut pair = Pair { ids: Vec::with_capacity(n + m + self.len()), types: Vec::new() };
        let [before, between, behind] = &self.special;
        before.iter().for_each(|&(id, kind)| pair.push(&[id], kind));
        pair.push(first.get(..n).unwrap_or(first), self.types[0]);
        between.iter().for_each(|&(id, kind)| pair.push(&[id], kind));
        pair.push(second.get(..m).unwrap_or(second), self.types[1]);
        behind.iter().for_each(|&(id, kind)| pair.push(&[id], kind));
        pair
    }
}

/// How many of `first` and of `second` tokens stay where `room` is for both: the longer is cut until they fit, and where
/// both have more than half, each gets a half, the longer the odd one.
fn cut(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let shorter = first.min(second).min(room / 2);
    if first <= second { (shorter, room - shorter) } else { (room - shorter, shorter) }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn the_longer_side_is_cut() {
        for ((first, second, room), want) in [
            ((3, 4, 10), (3, 4)),
            ((3, 9, 10), (3, 7)),
            ((9, 3, 10), (7, 3)),
            ((8, 9, 10), (5, 5)),
            ((8, 9, 11), (5, 6)),
            ((9, 8, 11), (6, 5)),
            ((20, 20, 11), (5, 6)),
            ((0, 20, 7), (0, 7)),
        ] {
            assert_eq!(cut(first, second, room), want, "{first} and {second} in {room}");
        }
    }
}
