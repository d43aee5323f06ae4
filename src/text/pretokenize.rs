//! Cuts text into the words that BPE merges within, as each model family was trained.
//!
//! The patterns are those that the families publish in their tokenizers; the names are llama.cpp's. All of them
//! end in `\s+(?!\S)|\s+`: a run of spaces gives up its last one to the word behind it. A linear-time engine
//! has no look-ahead, so that rule is applied to the match instead: see [`Stage::next`].

use std::ops::ControlFlow;

use regex::Regex;

use super::Error;

/// The pattern that a `tokenizer.json` means by `ByteLevel` alone.
pub(super) const GPT2_WORDS: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// How patterns of a `tokenizer.json` say that a run of spaces gives up its last one.
const TAIL: &str = r"\s+(?!\S)|\s+";
/// What else may match space alone: runs that end in a newline.
const NEWLINES: [&str; 2] = [r"\s*[\r\n]+|", r"\s*[\r\n]|"];
const MAX_PATTERN: usize = 8192;

/// One pattern of a `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub regex: String,
    /// What lies between matches is a word, too.
    pub gaps: bool,
}

impl Pattern {
    pub fn new(regex: impl Into<String>) -> Pattern {
        Pattern { regex: regex.into(), gaps: true }
    }
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
const POINTS: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";

/// What a name stands for.
struct Family {
    /// Each pattern cuts what the one before left in one piece.
    patterns: &'static [&'static str],
    /// A word that is a token needs no merging.
    whole_words: bool,
    add_bos: bool,
}

fn family(name: &str) -> Option<Family> {
    let plain = |patterns| Some(Family { patterns, whole_words: false, add_bos: false });
    match name {
        "default" => plain(&[PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "mpt" | "olmo" | "jais"
        | "trillion" | "gigachat" | "a.x-4.0" | "mellum" | "roberta-bpe" => plain(&[GPT2]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            plain(&[r"\p{N}", GPT2])
        }
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "hunyuan" | "megrez" | "kormo" => plain(&[QWEN2]),
        "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => plain(&[LLAMA3]),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
            Some(Family { patterns: &[LLAMA3], whole_words: true, add_bos: true })
        }
        "tekken" => Some(Family { patterns: &[TEKKEN], whole_words: true, add_bos: true }),
        "gpt-4o" | "llama4" => plain(&[GPT4O]),
        "falcon" => plain(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
        "bloom" | "poro-chat" | "gpt3-finnish" => plain(&[POINTS]),
        "viking" => plain(&[POINTS, r"\p{N}"]),
        _ => None,
    }
}

/// A pre-tokenizer, ready to cut.
pub(super) struct Pretokenizer {
    stages: Vec<Stage>,
    /// A word that is a token is taken whole, whatever the merges would make of it.
    pub whole_words: bool,
    /// Whether the family puts its BOS token first where the file does not say.
    pub add_bos: bool,
}

struct Stage {
    regex: Regex,
    /// Newlines end a match of their own, so a run that ends in one gives nothing up.
    newlines: bool,
    /// Runs of spaces give up their last one.
    gives_up: bool,
    /// What lies between matches is a word, too.
    gaps: bool,
}

impl Pretokenizer {
    pub fn new(name: &str) -> Result<Self, Error> {
        let family = family(name).ok_or_else(|| Error::PreTokenizer(name.to_owned()))?;
        let stages = family.patterns.iter().map(|pattern| {
            let regex = Regex::new(pattern).map_err(|_| Error::PreTokenizer(name.to_owned()))?;
            Ok(Stage { regex, newlines: pattern.contains(r"\s*[\r\n]+"), gives_up: true, gaps: true })
        });
        Ok(Pretokenizer {
            stages: stages.collect::<Result<_, Error>>()?,
            whole_words: family.whole_words,
            add_bos: family.add_bos,
        })
    }

    /// The pre-tokenizer of a `tokenizer.json`.
    ///
    /// # Errors
    /// A pattern with another look-ahead than the one at its end, or that could match space alone in another way.
    pub fn of(patterns: &[Pattern], whole_words: bool) -> Result<Self, Error> {
        let stages = patterns.iter().map(Stage::of).collect::<Result<_, _>>()?;
        Ok(Pretokenizer { stages, whole_words, add_bos: false })
    }

    /// Gives every word of `text` in order, until `take` breaks. Together the words are the text, but
    /// for patterns that drop what is between their matches.
    pub fn split<'t>(
        &self,
        text: &'t str,
        take: &mut dyn FnMut(&'t str) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        cut(&self.stages, text, take)
    }
}

fn cut<'t>(
    stages: &[Stage],
    text: &'t str,
    take: &mut dyn FnMut(&'t str) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some((stage, rest)) = stages.split_first() else {
        return if text.is_empty() { ControlFlow::Continue(()) } else { take(text) };
    };
    let mut at = 0;
    while let Some((start, end)) = stage.next(text, at) {
        if stage.gaps {
            cut(rest, &text[at..start], take)?;
        }
        cut(rest, &text[start..end], take)?;
        at = end;
    }
    if stage.gaps { cut(rest, &text[at..], take) } else { ControlFlow::Continue(()) }
}

impl Stage {
    fn of(pattern: &Pattern) -> Result<Stage, Error> {
        let refused = || Error::PreTokenizer(pattern.regex.chars().take(300).collect());
        let compile = |regex: &str| Regex::new(regex).map_err(|_| refused());
        let text = pattern.regex.as_str();
        // The engine reads possessive repetitions as repetitions of repetitions.
        let possessive = compile(r"[?*+]\+|\{\d+(,\d*)?\}\+")?.is_match(text);
        if possessive || text.len() > MAX_PATTERN {
            return Err(refused());
        }
        let Some(head) = text.strip_suffix(TAIL) else {
            return Ok(Stage { regex: compile(text)?, newlines: false, gives_up: false, gaps: pattern.gaps });
        };
        let own = NEWLINES.iter().find_map(|lines| head.strip_suffix(lines));
        let others = compile(own.unwrap_or(head).trim_end_matches('|'))?;
        let spaces = (0..0x3001).filter_map(char::from_u32).filter(|c| c.is_whitespace());
        let alone = |space: char| {
            let run = format!("{space}{space}");
            others.find(&run).is_some_and(|found| !found.is_empty())
        };
        if spaces.into_iter().any(alone) {
            return Err(refused());
        }
        let regex = compile(&format!(r"{head}\s+"))?;
        Ok(Stage { regex, newlines: own.is_some(), gives_up: true, gaps: pattern.gaps })
    }

    /// The next match from `at` on, never empty.
    fn next(&self, text: &str, at: usize) -> Option<(usize, usize)> {
        let found = self.regex.find_at(text, at)?;
        let run = found.as_str();
        let last = run.chars().next_back()?;
        // Only the last alternative matches space alone, except where newlines have their own.
        let gives_up = self.gives_up
            && found.end() < text.len()
            && run.len() > last.len_utf8()
            && !(self.newlines && matches!(last, '\r' | '\n'))
            && run.chars().all(char::is_whitespace);
        let end = if gives_up { found.end() - last.len_utf8() } else { found.end() };
        Some((found.start(), end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        let _ = Pretokenizer::new(name).unwrap().split(text, &mut |w| {
            all.push(w.to_owned());
            ControlFlow::Continue(())
        });
        all
    }

    #[test]
    fn a_run_of_spaces_gives_its_last_to_the_word_behind() {
        assert_eq!(words("gpt-2", "a   b"), ["a", "  ", " b"]);
        assert_eq!(words("gpt-2", "a\n\n b  "), ["a", "\n\n", " b", "  "]);
        assert_eq!(words("qwen2", "a \n\n b\t\tc"), ["a", " \n\n", " b", "\t", "\tc"]);
        assert_eq!(words("llama-bpe", "x 12345!?\nI'LL"), ["x", " ", "123", "45", "!?\n", "I", "'LL"]);
        assert_eq!(words("smollm", "in 2024, 7"), ["in", " ", "2", "0", "2", "4", ",", " ", "7"]);
        assert!(matches!(Pretokenizer::new("nonsense"), Err(Error::PreTokenizer(_))));
    }
}
