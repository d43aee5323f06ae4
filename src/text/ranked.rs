//! BPE as a `tokenizer.json` describes it: neighbours join by the rank of their pair, over bytes or over characters.
//!
//! Ids equal those of the `tokenizers` crate. What it does that the crate does not: control tokens are never made by
//! merging ordinary text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;

use icu_normalizer::ComposingNormalizerBorrowed;

use super::build::SPACE_MARK;
use super::pretokenize::Pretokenizer;
use super::tokenizer::{Sink, word_end};
use super::vocab::Vocab;

/// Rank and result of joining two tokens.
pub(super) type Merges = HashMap<(u32, u32), (u32, u32)>;

/// What text between special tokens becomes.
pub(super) struct Ranked {
    /// Text is composed first (Unicode's form C).
    pub compose: bool,
    pub letters: Letters,
    pub merges: Merges,
    pub unknown: Option<u32>,
    /// Unknown letters side by side are one token.
    pub fuse: bool,
}

/// What tokens are made of.
pub(super) enum Letters {
    Bytes { words: Pretokenizer, ids: Box<[Option<u32>; 256]> },
    Chars(Chars),
}

/// Letters of vocabularies that SentencePiece made. Its mark for a space is one here, too.
pub(super) struct Chars {
    pub ids: HashMap<char, u32>,
    /// For characters that are no token; all or none where the vocabulary is sound.
    pub bytes: Box<[Option<u32>; 256]>,
    pub prefix: Prefix,
    pub cut: Cut,
}

/// Where a space is put before text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    Nowhere,
    /// Before every stretch between special tokens.
    Every,
    /// Before every stretch that has none.
    Missing,
    /// Before the text, if it has none.
    First,
}

/// Where words end, which no merge crosses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Nowhere,
    /// Before a space that follows something else.
    Words,
    /// Before every space.
    Spaces,
}

impl Ranked {
    /// Puts the tokens of `text` into the sink; `first` where nothing comes before it.
    pub fn encode(&self, text: &str, first: bool, vocab: &Vocab, sink: &mut Sink) -> ControlFlow<()> {
        const COMPOSER: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfc();
        let text = if self.compose { COMPOSER.normalize(text) } else { Cow::Borrowed(text) };
        match &self.letters {
            Letters::Bytes { words, ids } => words.split(&text, &mut |word| {
                if words.whole_words
                    && let Some(id) = vocab.find(word.as_bytes())
                {
                    return sink.push(Some(id));
                }
                let letters = word.bytes().map(|b| ids[usize::from(b)]);
                self.merge(letters, sink)
            }),
            Letters::Chars(chars) => {
                let text = chars.prefixed(text, first);
                let mut rest = &*text;
                while !rest.is_empty() {
                    let end = match chars.cut {
                        Cut::Nowhere => rest.len(),
                        Cut::Words => word_end(rest),
                        Cut::Spaces => {
                            let space = rest.char_indices().skip(1).find(|(_, c)| *c == ' ');
                            space.map_or(rest.len(), |(at, _)| at)
                        }
                    };
                    let (word, tail) = rest.split_at(end);
                    self.word(word, chars, sink)?;
                    rest = tail;
                }
                ControlFlow::Continue(())
            }
        }
    }

    /// A word of characters; what is no token is spelled in bytes.
    fn word(&self, word: &str, chars: &Chars, sink: &mut Sink) -> ControlFlow<()> {
        let mut letters: Vec<Option<u32>> = Vec::with_capacity(word.len());
        let mut held = false;
        let mut spelled = [0; 4];
        for c in word.chars() {
            if let Some(&id) = chars.ids.get(&c) {
                letters.extend(std::mem::take(&mut held).then_some(None));
                letters.push(Some(id));
                continue;
            }
            let bytes = c.encode_utf8(&mut spelled).bytes().map(|b| chars.bytes[usize::from(b)]);
            if bytes.clone().all(|id| id.is_some()) {
                // Before unknown letters that are held: the crate, too, lets these wait for the next known one.
                letters.extend(bytes);
            } else if std::mem::replace(&mut held, true) && !self.fuse {
                letters.push(None);
            }
        }
        letters.extend(held.then_some(None));
        self.join(letters.into_iter().filter_map(|id| id.or(self.unknown)), sink)
    }

    /// Bytes, of which those that are no token are left out or unknown.
    fn merge(&self, letters: impl Iterator<Item = Option<u32>>, sink: &mut Sink) -> ControlFlow<()> {
        let Some(unknown) = self.unknown else { return self.join(letters.flatten(), sink) };
        let mut before = None;
        let fused = letters.filter(move |id| {
            let skip = self.fuse && id.is_none() && before == Some(None);
            before = Some(*id);
            !skip
        });
        self.join(fused.map(move |id| id.unwrap_or(unknown)), sink)
    }

    fn join(&self, letters: impl Iterator<Item = u32>, sink: &mut Sink) -> ControlFlow<()> {
        let merger = &mut sink.merger;
        merger.clear();
        letters.for_each(|id| merger.push(1, Some(id)));
        let left = merger.run(|l, r| self.merges.get(&(l.id?, r.id?)).copied());
        sink.ids.extend(left.filter_map(|symbol| symbol.id));
        sink.check()
    }

    /// Whether text begins with a space of the tokenizer's own.
    pub fn adds_space(&self) -> bool {
        matches!(&self.letters, Letters::Chars(chars) if chars.prefix != Prefix::Nowhere)
    }
}

impl Chars {
    fn prefixed<'t>(&self, text: Cow<'t, str>, first: bool) -> Cow<'t, str> {
        let mut text = match text.contains(SPACE_MARK) {
            true => Cow::Owned(text.replace(SPACE_MARK, " ")),
            false => text,
        };
        let spaced = text.starts_with(' ');
        let adds = match self.prefix {
            Prefix::Nowhere => false,
            Prefix::Every => true,
            Prefix::Missing => !spaced,
            Prefix::First => first && !spaced,
        };
        if adds {
            text.to_mut().insert(0, ' ');
        }
        text
    }
}
