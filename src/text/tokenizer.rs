//! Byte-level BPE and SentencePiece, giving the ids that llama.cpp gives; and what a `tokenizer.json` describes.
//!
//! What it does that llama.cpp does not: control tokens are never made by merging ordinary text, and where two
//! special tokens overlap in a text the leftmost wins.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use aho_corasick::{AhoCorasick, MatchKind};

use super::build;
use super::build::{ENDS, SPACE_MARK};
use super::chat::Control;
use super::merge::Merger;
use super::pretokenize::Pretokenizer;
use super::ranked::Ranked;
use super::vocab::Vocab;
use super::{Error, Family, TokenKind, TokenizerSpec};

/// How control tokens written out in a text are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// As the text they are: for everything that comes from outside.
    AsText,
    /// As the tokens they name: for a template's own text.
    Parse,
}

/// A tokenizer. Immutable and shared between threads.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    /// Tokens matched before all others: always (user-defined), or where control tokens are parsed.
    always: Option<Matcher>,
    parsed: Option<Matcher>,
    control: Option<Control>,
    /// Bytes of the longest token, of any kind.
    longest: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: HashSet<u32>,
    add_bos: bool,
    add_eos: bool,
}

pub(super) enum Model {
    Bpe {
        words: Pretokenizer,
        /// Rank and result of joining two tokens.
        merges: HashMap<(u32, u32), (u32, u32)>,
        bytes: Box<[Option<u32>; 256]>,
    },
    Spm(Spm),
    Ranked(Ranked),
}

/// A token that is matched in text before all others: always, or where it is a control token, where these are
/// parsed.
pub(super) struct Fixed {
    pub id: u32,
    pub text: Box<[u8]>,
    pub control: bool,
    /// It takes the white space before it, and after it.
    pub takes_left: bool,
    pub takes_right: bool,
}

/// What a tokenizer is made of; ids are those of tokens in the vocabulary.
pub(super) struct Parts {
    pub vocab: Vocab,
    pub model: Model,
    pub fixed: Vec<Fixed>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub ends: HashSet<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    /// The most bytes of text that one token can stand for.
    pub longest: usize,
}

pub(super) struct Spm {
    /// Order of each token by score: lower joins first.
    pub ranks: Vec<u32>,
    pub bytes: Box<[Option<u32>; 256]>,
    pub unknown: Option<u32>,
    pub space_prefix: bool,
    /// No token has a space after another character, so no merge crosses the border before a space that
    /// follows one, and text may be cut there without changing the result.
    pub cuttable: bool,
}

struct Matcher {
    automaton: AhoCorasick,
    tokens: Vec<Match>,
}

/// What a match is.
#[derive(Clone, Copy)]
struct Match {
    id: u32,
    takes_left: bool,
    takes_right: bool,
}

/// Control tokens of one character are left out: no mark inside could keep a message from spelling them.
fn is_markable(text: &[u8]) -> bool {
    text.len() > 1 && std::str::from_utf8(text).is_ok_and(|s| s.chars().nth(1).is_some())
}

impl Matcher {
    /// Leftmost, then longest.
    fn new(fixed: &[Fixed], parse: bool) -> Result<Option<Matcher>, Error> {
        let wanted = |token: &&Fixed| match token.control {
            true => parse && is_markable(&token.text),
            false => !token.text.is_empty(),
        };
        let wanted: Vec<&Fixed> = fixed.iter().filter(wanted).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(wanted.iter().map(|token| &token.text))
            .map_err(|e| Error::Spec { field: "special tokens", problem: e.to_string() })?;
        let tokens =
            wanted.iter().map(|t| Match { id: t.id, takes_left: t.takes_left, takes_right: t.takes_right });
        Ok(Some(Matcher { automaton, tokens: tokens.collect() }))
    }
}

impl Tokenizer {
    /// Builds a tokenizer; everything in `spec` is checked.
    pub fn new(spec: &TokenizerSpec<'_>) -> Result<Self, Error> {
        let n = spec.tokens.len();
        let bad = |field, problem: String| Err(Error::Spec { field, problem });
        if n == 0 || n > (1 << 24) {
            return bad("tokens", format!("{n} of them"));
        }
        for (field, len) in [("token types", spec.kinds.len()), ("scores", spec.scores.len())] {
            if len != 0 && len != n {
                return bad(field, format!("{len} for {n} tokens"));
            }
        }
        for (field, id) in
            [("bos", spec.bos), ("eos", spec.eos), ("eot", spec.eot), ("unknown", spec.unknown)]
        {
            if let Some(id) = id.filter(|&id| id as usize >= n) {
                return bad(field, format!("id {id} where there are {n} tokens"));
            }
        }
        let vocab = build::vocab(spec)?;
        let model = match spec.family {
            Family::Bpe => build::bpe(spec, &vocab)?,
            Family::Spm => Model::Spm(build::spm(spec, &vocab)),
        };
        let family_adds_bos = match &model {
            Model::Bpe { words, .. } => words.add_bos,
            Model::Spm(_) | Model::Ranked(_) => true,
        };
        let mut ends: HashSet<u32> = spec.eos.into_iter().chain(spec.eot).collect();
        let named = |id: &u32| {
            vocab.kind(*id) == Some(TokenKind::Control)
                && vocab.get(*id).is_some_and(|b| ENDS.iter().any(|e| e.as_bytes() == b))
        };
        ends.extend((0..n as u32).filter(named));
        Tokenizer::assemble(Parts {
            fixed: (0..n as u32).filter_map(|id| fixed(&vocab, id)).collect(),
            vocab,
            model,
            bos: spec.bos,
            eos: spec.eos,
            ends,
            add_bos: spec.add_bos.unwrap_or(family_adds_bos),
            add_eos: spec.add_eos.unwrap_or(false),
            longest: spec.tokens.iter().map(|t| t.len()).max().unwrap_or(1),
        })
    }

    /// From parts that fit each other.
    pub(super) fn assemble(parts: Parts) -> Result<Self, Error> {
        let Parts { vocab, model, fixed, bos, eos, ends, add_bos, add_eos, longest } = parts;
        let control: Vec<&[u8]> =
            fixed.iter().filter(|t| t.control).map(|t| &*t.text).filter(|text| is_markable(text)).collect();
        Ok(Tokenizer {
            longest: longest.max(1),
            control: if control.is_empty() { None } else { Some(Control::new(&control)?) },
            always: Matcher::new(&fixed, false)?,
            parsed: Matcher::new(&fixed, true)?,
            vocab,
            model,
            bos,
            eos,
            ends,
            add_bos,
            add_eos,
        })
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether generation ends with this token: the end of a text or of a turn.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Every token that ends generation.
    pub fn ends(&self) -> impl Iterator<Item = u32> {
        self.ends.iter().copied()
    }

    /// Whether the family's texts begin with [`bos`](Self::bos).
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Bytes that a token stands for in generated text: nothing for control tokens and unknown ids.
    pub fn piece(&self, id: u32) -> &[u8] {
        match self.vocab.kind(id) {
            Some(TokenKind::Control | TokenKind::Unknown) | None => &[],
            Some(_) => self.vocab.get(id).unwrap_or_default(),
        }
    }

    /// A token as its text, control tokens too; bytes that are no UTF-8 become U+FFFD.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.vocab.get(id).map(|b| String::from_utf8_lossy(b).into_owned())
    }

    /// Whether ordinary text begins with a space of the tokenizer's own, which decoding must take off again.
    pub fn adds_space(&self) -> bool {
        match &self.model {
            Model::Bpe { .. } => false,
            Model::Spm(spm) => spm.space_prefix,
            Model::Ranked(ranked) => ranked.adds_space(),
        }
    }

    /// Tokens of a text. With `frame`, the BOS and EOS tokens are added that the model was trained with.
    pub fn encode(&self, text: &str, special: Special, frame: bool) -> Vec<u32> {
        self.encode_bounded(text, special, frame, usize::MAX).unwrap_or_default()
    }

    /// [`encode`](Self::encode) for text that may be far too long: gives up as soon as more than `limit`
    /// tokens are certain, which for most texts is before the first is made.
    pub fn encode_bounded(
        &self,
        text: &str,
        special: Special,
        frame: bool,
        limit: usize,
    ) -> Result<Vec<u32>, Error> {
        self.encode_marked(text, "", special, frame, limit)
    }

    /// Encodes text in which `mark` keeps control tokens of a message from being seen: it is taken out after
    /// they have been parsed. See [`chat`](super::chat).
    pub(super) fn encode_marked(
        &self,
        text: &str,
        mark: &str,
        special: Special,
        frame: bool,
        limit: usize,
    ) -> Result<Vec<u32>, Error> {
        let at_least = if mark.is_empty() { self.least_tokens(text.len()) } else { 0 };
        if at_least > limit {
            return Err(Error::TooLong { at_least, limit });
        }
        let mut sink = Sink { ids: Vec::new(), limit, merger: Merger::default() };
        let text_begins_with_bos = special == Special::Parse
            && self.bos.and_then(|id| self.vocab.get(id)).is_some_and(|b| text.as_bytes().starts_with(b));
        if frame && self.add_bos && !text_begins_with_bos {
            sink.ids.extend(self.bos);
        }
        let cut = self.encode_into(text, mark, special, &mut sink);
        if frame && self.add_eos {
            sink.ids.extend(self.eos);
        }
        if cut.is_break() || sink.ids.len() > limit {
            return Err(Error::TooLong { at_least: sink.ids.len(), limit });
        }
        Ok(sink.ids)
    }

    /// Tokens that a text of so many bytes has at least.
    pub(super) fn least_tokens(&self, bytes: usize) -> usize {
        bytes / self.longest
    }

    pub(super) fn control(&self) -> Option<&Control> {
        self.control.as_ref()
    }

    fn encode_into(&self, text: &str, mark: &str, special: Special, sink: &mut Sink) -> ControlFlow<()> {
        let matcher = match special {
            Special::AsText => &self.always,
            Special::Parse => &self.parsed,
        };
        let mut at = 0;
        for found in matcher.iter().flat_map(|m| m.automaton.find_iter(text)) {
            let token = matcher.as_ref().and_then(|m| m.tokens.get(found.pattern().as_usize()));
            // White space that the last one took is not there for this one.
            let before = text.get(at..found.start()).unwrap_or_default();
            let before = if token.is_some_and(|t| t.takes_left) { before.trim_end() } else { before };
            self.raw(before, at == 0, mark, sink)?;
            sink.push(token.map(|t| t.id))?;
            at = found.end();
            if token.is_some_and(|t| t.takes_right) {
                at = text.len() - text[at..].trim_start().len();
            }
        }
        self.raw(&text[at..], at == 0, mark, sink)
    }

    /// Text between special tokens; `first` where nothing comes before it.
    fn raw(&self, text: &str, first: bool, mark: &str, sink: &mut Sink) -> ControlFlow<()> {
        if !mark.is_empty() && text.contains(mark) {
            return self.raw(&text.replace(mark, ""), first, "", sink);
        }
        if text.is_empty() {
            return ControlFlow::Continue(());
        }
        match &self.model {
            Model::Bpe { words, merges, bytes } => words.split(text, &mut |word| {
                if words.whole_words
                    && let Some(id) = self.vocab.find(word.as_bytes())
                {
                    return sink.push(Some(id));
                }
                bpe_word(word, merges, bytes, sink)
            }),
            Model::Spm(spm) => {
                let mut text = std::borrow::Cow::Borrowed(text);
                if text.contains(SPACE_MARK) {
                    text = text.replace(SPACE_MARK, " ").into();
                }
                if spm.space_prefix {
                    text.to_mut().insert(0, ' ');
                }
                let mut rest = &*text;
                while !rest.is_empty() {
                    let end = if spm.cuttable { word_end(rest) } else { rest.len() };
                    let (word, tail) = rest.split_at(end);
                    spm_word(word, spm, &self.vocab, sink)?;
                    rest = tail;
                }
                ControlFlow::Continue(())
            }
            Model::Ranked(ranked) => ranked.encode(text, first, &self.vocab, sink),
        }
    }
}

/// The token as one that is matched, if it is.
fn fixed(vocab: &Vocab, id: u32) -> Option<Fixed> {
    let control = match vocab.kind(id)? {
        TokenKind::Control | TokenKind::Unknown => true,
        TokenKind::UserDefined => false,
        _ => return None,
    };
    Some(Fixed { id, text: vocab.get(id)?.into(), control, takes_left: false, takes_right: false })
}

pub(super) struct Sink {
    pub ids: Vec<u32>,
    limit: usize,
    pub merger: Merger,
}

impl Sink {
    pub fn push(&mut self, id: Option<u32>) -> ControlFlow<()> {
        self.ids.extend(id);
        self.check()
    }

    pub fn check(&self) -> ControlFlow<()> {
        if self.ids.len() > self.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn bpe_word(
    word: &str,
    merges: &HashMap<(u32, u32), (u32, u32)>,
    bytes: &[Option<u32>; 256],
    sink: &mut Sink,
) -> ControlFlow<()> {
    let merger = &mut sink.merger;
    merger.clear();
    for &b in word.as_bytes() {
        merger.push(1, bytes[usize::from(b)]);
    }
    let left = merger.run(|l, r| merges.get(&(l.id?, r.id?)).copied());
    sink.ids.extend(left.filter_map(|s| s.id));
    sink.check()
}

fn spm_word(word: &str, spm: &Spm, vocab: &Vocab, sink: &mut Sink) -> ControlFlow<()> {
    let text = word.as_bytes();
    let merger = &mut sink.merger;
    merger.clear();
    for c in word.chars() {
        merger.push(c.len_utf8(), vocab.find(c.encode_utf8(&mut [0; 4]).as_bytes()));
    }
    let stretch = |start: u32, end: usize| text.get(start as usize..end).unwrap_or_default();
    let left = merger.run(|l, r| {
        let id = vocab.find(stretch(l.start, r.end()))?;
        Some((*spm.ranks.get(id as usize)?, id))
    });
    for symbol in left {
        match symbol.id {
            Some(id) => sink.ids.push(id),
            None => {
                let raw = stretch(symbol.start, symbol.end()).iter();
                sink.ids.extend(raw.filter_map(|&b| spm.bytes[usize::from(b)].or(spm.unknown)));
            }
        }
    }
    sink.check()
}

/// Where the first word ends: before a space that follows something else.
pub(super) fn word_end(text: &str) -> usize {
    let word = text.len() - text.trim_start_matches(' ').len();
    text[word..].find(' ').map_or(text.len(), |n| word + n)
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
