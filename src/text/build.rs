//! Builds a tokenizer's tables from what a model file says.

use std::collections::HashMap;

use super::pretokenize::Pretokenizer;
use super::tokenizer::{Model, Spm};
use super::vocab::Vocab;
use super::{Error, Family, TokenKind, TokenizerSpec};

/// SentencePiece's mark for a space.
pub(super) const SPACE_MARK: &str = "\u{2581}";

/// Control tokens that end a turn or a text, by the names models give them. Files mark them as control tokens,
/// or should: see [`TURN_MARKS`].
pub(super) const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<eos>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

/// Tokens that frame a turn: control tokens even where a file says that they are ordinary, since text from
/// outside must not be able to open a turn.
pub(super) const TURN_MARKS: &[&str] =
    &["<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>"];

/// The vocabulary of a spec.
pub(super) fn vocab(spec: &TokenizerSpec<'_>) -> Result<Vocab, Error> {
    let mut vocab = Vocab::with_capacity(spec.tokens.len());
    let mut bytes = Vec::new();
    for (i, &token) in spec.tokens.iter().enumerate() {
        let mut kind = spec.kinds.get(i).map_or(TokenKind::Normal, |&n| TokenKind::from_number(n));
        if ENDS.contains(&token) || TURN_MARKS.contains(&token) {
            kind = TokenKind::Control;
        }
        bytes.clear();
        match (spec.family, kind) {
            (Family::Bpe, TokenKind::Normal | TokenKind::Unused) => decode_symbols(token, &mut bytes),
            (Family::Spm, TokenKind::Normal | TokenKind::Unused) => {
                bytes.extend_from_slice(token.replace(SPACE_MARK, " ").as_bytes());
            }
            (_, TokenKind::Byte) => match byte_of(token) {
                Some(b) => bytes.push(b),
                None => {
                    let problem = format!("{token:?} is marked as a byte and is none");
                    return Err(Error::Spec { field: "tokens", problem });
                }
            },
            _ => bytes.extend_from_slice(token.as_bytes()),
        }
        if !vocab.push(&bytes, kind) {
            return Err(Error::Spec { field: "tokens", problem: "more than 4 GiB of text".into() });
        }
    }
    Ok(vocab)
}

/// The byte that `<0x0A>` names.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 2)
}

/// Undoes GPT-2's byte alphabet: printable bytes stand for themselves, the other 68 are U+0100 and on. A text
/// with any other character is taken as it is.
pub(super) fn decode_symbols(token: &str, out: &mut Vec<u8>) {
    for c in token.chars() {
        let byte = match u32::from(c) {
            n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => n,
            n @ 0x100..=0x120 => n - 0x100,
            n @ 0x121..=0x142 => n - 0x121 + 0x7f,
            0x143 => 0xad,
            _ => {
                out.clear();
                out.extend_from_slice(token.as_bytes());
                return;
            }
        };
        out.push(byte as u8);
    }
}

/// The character that stands for a byte in GPT-2's alphabet.
pub(super) fn symbol_of(byte: u8) -> char {
    let shifted = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => return char::from(byte),
        0..=0x20 => u32::from(byte),
        0x7f..=0xa0 => u32::from(byte) - 0x7f + 0x21,
        0xad => 0x43,
    };
    char::from_u32(0x100 + shifted).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Merges as pairs of ids.
pub(super) fn bpe(spec: &TokenizerSpec<'_>, vocab: &Vocab) -> Result<Model, Error> {
    let words = Pretokenizer::new(spec.pre.unwrap_or("default"))?;
    let mut bytes = Box::new([None; 256]);
    for (b, id) in bytes.iter_mut().enumerate() {
        *id = vocab.find(&[b as u8]);
    }
    let mut merges = HashMap::with_capacity(spec.merges.len());
    let mut joined = Vec::new();
    let mut right = Vec::new();
    for (rank, merge) in spec.merges.iter().enumerate() {
        // A merge of tokens that the vocabulary lacks can never apply.
        let Some((l, r)) = merge.split_once(' ') else {
            let problem = format!("{merge:?} is not two tokens with a space between");
            return Err(Error::Spec { field: "merges", problem });
        };
        joined.clear();
        right.clear();
        decode_symbols(l, &mut joined);
        decode_symbols(r, &mut right);
        let left = vocab.find(&joined);
        joined.extend_from_slice(&right);
        if let (Some(l), Some(r), Some(id)) = (left, vocab.find(&right), vocab.find(&joined)) {
            merges.entry((l, r)).or_insert((rank as u32, id));
        }
    }
    Ok(Model::Bpe { words, merges, bytes })
}

/// Scores as ranks.
pub(super) fn spm(spec: &TokenizerSpec<'_>, vocab: &Vocab) -> Spm {
    let mut bytes = Box::new([None; 256]);
    let mut cuttable = true;
    for id in 0..vocab.len() as u32 {
        let text = vocab.get(id).unwrap_or_default();
        match (vocab.kind(id), text) {
            (Some(TokenKind::Byte), &[b]) => bytes[usize::from(b)] = Some(id),
            (Some(TokenKind::Normal | TokenKind::Unused), _) => {
                cuttable &= !text.windows(2).any(|w| w[0] != b' ' && w[1] == b' ');
            }
            _ => {}
        }
    }
    // Higher scores first: the order of floats as that of integers, turned around.
    let rank = |score: f32| {
        let bits = score.to_bits();
        !(if bits >> 31 == 0 { bits | 1 << 31 } else { !bits })
    };
    let score = |i: usize| spec.scores.get(i).copied().unwrap_or(0.0);
    Spm {
        ranks: (0..vocab.len()).map(|i| rank(score(i))).collect(),
        bytes,
        unknown: spec.unknown,
        space_prefix: spec.add_space_prefix.unwrap_or(true),
        cuttable,
    }
}
