//! From what the file says to the tables that encoding uses.

use std::collections::{HashMap, HashSet};

use super::file::{Added, File, Model as Bpe};
use super::pipeline::{Frame, Steps};
use super::{Named, Roles};
use crate::text::TokenKind;
use crate::text::build::{ENDS, SPACE_MARK, TURN_MARKS, byte_of, decode_symbols, symbol_of};
use crate::text::pretokenize::Pretokenizer;
use crate::text::ranked::{Chars, Cut, Letters, Merges, Ranked};
use crate::text::tokenizer::{Fixed, Model, Parts, Tokenizer};
use crate::text::vocab::Vocab;

/// Ids that no token has: padding between a vocabulary and what was added to it.
const MAX_HOLES: usize = 1 << 16;
const MAX_TOKENS: usize = 1 << 24;

/// Every token once, by id; a hole is `None`.
struct Tokens<'f> {
    texts: Vec<Option<&'f str>>,
    ids: HashMap<&'f str, u32>,
    added: HashMap<u32, &'f Added>,
}

impl<'f> Tokens<'f> {
    fn of(file: &'f File) -> Result<Tokens<'f>, String> {
        let vocab = file.model.vocab.iter().map(|(text, id)| (text.as_str(), *id));
        let added = file.added_tokens.iter().map(|a| (a.content.as_str(), a.id));
        let count = file.model.vocab.len() + file.added_tokens.len();
        let most = vocab.clone().chain(added.clone()).map(|(_, id)| id as usize + 1).max().unwrap_or(0);
        if most == 0 || most > MAX_TOKENS || most > count + MAX_HOLES {
            return Err(format!("model.vocab: {count} tokens with ids up to {}", most.saturating_sub(1)));
        }
        let mut tokens =
            Tokens { texts: vec![None; most], ids: HashMap::with_capacity(count), added: HashMap::new() };
        for (text, id) in vocab.chain(added) {
            match tokens.texts[id as usize].replace(text) {
                Some(other) if other != text => {
                    return Err(format!("token {id} is {other:?} and {text:?}"));
                }
                _ => {}
            }
            match tokens.ids.insert(text, id) {
                Some(other) if other != id => {
                    return Err(format!("{text:?} is token {other} and token {id}"));
                }
                _ => {}
            }
        }
        tokens.added = file.added_tokens.iter().map(|a| (a.id, a)).collect();
        Ok(tokens)
    }

    /// Whether text from outside must never make this token.
    fn is_control(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|added| is_control(added))
    }

    fn named(&self, place: &str, name: Option<Named<'_>>) -> Result<Option<u32>, String> {
        match name {
            None => Ok(None),
            Some(Named::Id(id)) if (id as usize) < self.texts.len() => Ok(Some(id)),
            Some(Named::Id(id)) => Err(format!("{place}: token {id} where there are {}", self.texts.len())),
            Some(Named::Text(text)) => match self.ids.get(text) {
                Some(id) => Ok(Some(*id)),
                None => Err(format!("{place}: {text:?} is no token")),
            },
        }
    }
}

fn is_control(added: &Added) -> bool {
    let name = added.content.as_str();
    added.special || ENDS.contains(&name) || TURN_MARKS.contains(&name)
}

pub fn tokenizer(file: &File, roles: &Roles<'_>) -> Result<Tokenizer, String> {
    let steps = Steps::read(&file.normalizer, &file.pre_tokenizer)?;
    let mut frame = Frame::read(&file.post_processor)?;
    let bpe = &file.model;
    for (field, affix) in [
        ("continuing_subword_prefix", &bpe.continuing_subword_prefix),
        ("end_of_word_suffix", &bpe.end_of_word_suffix),
    ] {
        if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
            return Err(format!("model.{field}: is not supported for chat models"));
        }
    }
    if let Some(word) = file.added_tokens.iter().find(|a| a.single_word) {
        return Err(format!("added_tokens: {:?} is for whole words, which is not supported", word.content));
    }
    let tokens = Tokens::of(file)?;
    let bos = tokens.named("bos_token", roles.bos)?;
    let eos = tokens.named("eos_token", roles.eos)?;
    if let Some((begins, ends)) = roles.frame {
        frame = Frame { first: bos.filter(|_| begins), last: eos.filter(|_| ends) };
    }
    for (place, framing, own) in [("bos_token", frame.first, bos), ("eos_token", frame.last, eos)] {
        let framing = tokens.named("post_processor", framing.map(Named::Id))?;
        let (Some(id), Some(own)) = (framing, own) else { continue };
        if id != own {
            return Err(format!("post_processor: frames a text with token {id}, and {place} is {own}"));
        }
    }
    let ends = ends(&tokens, roles, eos)?;
    let model = ranked(bpe, &steps, &tokens)?;
    let parts = Parts {
        vocab: vocab(bpe, &steps, &tokens)?,
        model: Model::Ranked(model),
        fixed: file.added_tokens.iter().filter(|a| !a.content.is_empty()).map(fixed).collect(),
        bos: bos.or(frame.first),
        eos: eos.or(frame.last),
        ends,
        add_bos: frame.first.is_some(),
        add_eos: frame.last.is_some(),
        longest: longest(&steps, &tokens),
    };
    Tokenizer::assemble(parts).map_err(|e| e.to_string())
}

/// The most bytes of text that a token can stand for: composing makes up to three times as many less.
fn longest(steps: &Steps, tokens: &Tokens<'_>) -> usize {
    let longest = tokens.ids.keys().map(|text| text.len()).max().unwrap_or(1);
    if steps.compose { longest.saturating_mul(3) } else { longest }
}

fn fixed(added: &Added) -> Fixed {
    Fixed {
        id: added.id,
        text: added.content.as_bytes().into(),
        control: is_control(added),
        takes_left: added.lstrip,
        takes_right: added.rstrip,
    }
}

fn ends(tokens: &Tokens<'_>, roles: &Roles<'_>, eos: Option<u32>) -> Result<HashSet<u32>, String> {
    let mut ends: HashSet<u32> = eos.into_iter().collect();
    for &id in &roles.ends {
        ends.extend(tokens.named("eos_token_id", Some(Named::Id(id)))?);
    }
    let known = tokens.added.values().filter(|a| ENDS.contains(&a.content.as_str()));
    ends.extend(known.map(|a| a.id));
    Ok(ends)
}

/// The bytes that each token stands for.
fn vocab(bpe: &Bpe, steps: &Steps, tokens: &Tokens<'_>) -> Result<Vocab, String> {
    let mut vocab = Vocab::with_capacity(tokens.texts.len());
    let unknown = bpe.unk_token.as_deref();
    let mut bytes = Vec::new();
    for (id, text) in (0..).zip(&tokens.texts) {
        let text = text.unwrap_or_default();
        bytes.clear();
        let kind = match tokens.added.get(&id) {
            Some(added) if is_control(added) => TokenKind::Control,
            _ if unknown == Some(text) => TokenKind::Unknown,
            Some(_) => TokenKind::UserDefined,
            None if bpe.byte_fallback && byte_of(text).is_some() => TokenKind::Byte,
            None => TokenKind::Normal,
        };
        match (kind, byte_of(text)) {
            (TokenKind::Byte, Some(byte)) => bytes.push(byte),
            (TokenKind::Normal, _) if steps.bytes => decode_symbols(text, &mut bytes),
            (TokenKind::Normal | TokenKind::UserDefined, _) if steps.marks => {
                bytes.extend_from_slice(text.replace(SPACE_MARK, " ").as_bytes());
            }
            _ => bytes.extend_from_slice(text.as_bytes()),
        }
        if !vocab.push(&bytes, kind) {
            return Err("model.vocab: more than 4 GiB of text".into());
        }
    }
    Ok(vocab)
}

fn ranked(bpe: &Bpe, steps: &Steps, tokens: &Tokens<'_>) -> Result<Ranked, String> {
    let merges = merges(bpe, tokens)?;
    let unknown = match &bpe.unk_token {
        Some(text) => tokens.named("model.unk_token", Some(Named::Text(text)))?,
        None => None,
    };
    let letters = match steps.bytes {
        true => bytes(bpe, steps, tokens)?,
        false => Letters::Chars(chars(bpe, steps, tokens)?),
    };
    Ok(Ranked { compose: steps.compose, letters, merges, unknown, fuse: bpe.fuse_unk })
}

fn merges(bpe: &Bpe, tokens: &Tokens<'_>) -> Result<Merges, String> {
    let mut merges = Merges::with_capacity(bpe.merges.len());
    let mut joined = String::new();
    for (rank, merge) in (0..).zip(&bpe.merges) {
        joined.clear();
        joined.push_str(&merge.0);
        joined.push_str(&merge.1);
        let id = |text: &str| {
            let unknown = || format!("model.merges: {text:?} of merge {rank} is no token");
            tokens.ids.get(text).copied().ok_or_else(unknown)
        };
        let (left, right, whole) = (id(&merge.0)?, id(&merge.1)?, id(&joined)?);
        if !tokens.is_control(whole) {
            merges.insert((left, right), (rank, whole));
        }
    }
    Ok(merges)
}

fn bytes(bpe: &Bpe, steps: &Steps, tokens: &Tokens<'_>) -> Result<Letters, String> {
    let mut ids = Box::new([None; 256]);
    for (byte, slot) in (0..=255).zip(ids.iter_mut()) {
        let symbol = symbol_of(byte);
        *slot = tokens.ids.get(symbol.encode_utf8(&mut [0; 4]) as &str).copied();
        *slot = slot.filter(|id| !tokens.is_control(*id));
    }
    if bpe.byte_fallback && ids.contains(&None) {
        return Err("model.byte_fallback: with ByteLevel and bytes that are no token is not supported".into());
    }
    let words = Pretokenizer::of(&steps.patterns, bpe.ignore_merges).map_err(|e| e.to_string())?;
    Ok(Letters::Bytes { words, ids })
}

fn chars(bpe: &Bpe, steps: &Steps, tokens: &Tokens<'_>) -> Result<Chars, String> {
    if bpe.ignore_merges {
        return Err("model.ignore_merges: is not supported without ByteLevel".into());
    }
    let mut ids = HashMap::new();
    let mut bytes = Box::new([None; 256]);
    for (&text, &id) in &tokens.ids {
        let mut letters = text.chars();
        if let (Some(letter), None) = (letters.next(), letters.next())
            && letter != ' '
            && !tokens.is_control(id)
        {
            ids.insert(if text == SPACE_MARK { ' ' } else { letter }, id);
        }
        if let (true, Some(byte)) = (bpe.byte_fallback, byte_of(text)) {
            bytes[usize::from(byte)] = Some(id);
        }
    }
    // A token with a space behind something else could join what a cut would part.
    let crosses = |merge: &super::file::Merge| {
        let whole = format!("{}{}", merge.0, merge.1).replace(SPACE_MARK, " ");
        whole.as_bytes().windows(2).any(|w| w[0] != b' ' && w[1] == b' ')
    };
    let cut = match steps.splits {
        true => Cut::Spaces,
        false if ids.contains_key(&' ') && !bpe.merges.iter().any(crosses) => Cut::Words,
        false => Cut::Nowhere,
    };
    Ok(Chars { ids, bytes, prefix: steps.prefix(), cut })
}
