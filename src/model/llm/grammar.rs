//! Answers of a given form: which tokens may come next.
//!
//! A [`Constraint`] is compiled away from the worker's thread, against a prefix tree of the model's vocabulary that
//! is built when the first one is asked for. What comes out is a [`Matcher`] for one sequence: before a token is
//! sampled it gives the set of those allowed, afterwards it is told which one was taken. Its state is a function of
//! the tokens it was told and of nothing else, so a sequence that is preempted and recomputed keeps it.
//!
//! Any tokenisation of an allowed text is allowed: what the grammar forces is not written without asking the model
//! (fast-forwarding), which would save steps and change which tokens the text is made of.
//!
//! Grammars come from outside. Text, nesting and compile time are bounded before and while they are compiled, and
//! so is the work of one set of tokens afterwards; past that a request or a sequence fails, and no other.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, ParserFactory};
use serde_json::{Map, Value, json};

use super::calls;
use crate::text::Tokenizer;
use crate::types::llm::Constraint;

/// Bytes of a schema, a grammar or all choices together.
pub const MAX_BYTES: usize = 64 << 10;
/// Bytes of a regular expression. They nest and multiply; nobody writes longer ones.
pub const MAX_REGEX_BYTES: usize = 8 << 10;
/// Choices.
pub const MAX_CHOICES: usize = 1024;
/// Levels of brackets in a grammar, of values in a schema.
pub const MAX_DEPTH: usize = 64;
/// Rules of a grammar: one may name the next, and compiling follows.
const MAX_RULES: usize = 512;
/// Compiled constraints that a model keeps, each up to a few MB.
const KEPT: usize = 16;
/// Between the parts of JSON: nothing, a space, or a new line and its indentation. More would let a small model
/// write white space until its tokens are used up.
const WHITE_SPACE: &str = r" |\n[ ]{0,24}|\n\t{0,12}";
/// For the recursion of compilers over what a client sent; only what is touched becomes memory.
const STACK: usize = 64 << 20;

/// Why a constraint cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is too large, or cannot be compiled; what is wrong with it.
    #[error("{0}")]
    Constraint(String),
    /// No constraint works with this model.
    #[error("this model cannot be held to a form: {0}")]
    Model(String),
}

/// What grammars of one model are compiled against, made when it is first needed (some hundred milliseconds and
/// about 50 bytes a token).
#[derive(Default)]
pub struct Grammars {
    factory: OnceLock<Result<Arc<ParserFactory>, String>>,
    /// What was compiled last, the newest first: most clients send one schema again and again.
    kept: Mutex<VecDeque<(Constraint, Matcher)>>,
}

impl Grammars {
    /// Compiles a constraint. Takes milliseconds, and up to a second for the largest: not for a thread that others
    /// wait for.
    ///
    /// # Errors
    /// The constraint is too large or wrong, or the model has no token that could end an answer.
    pub fn compile(&self, tokenizer: &Tokenizer, constraint: &Constraint) -> Result<Matcher, Error> {
        let kept = |kept: &mut VecDeque<(Constraint, Matcher)>| {
            let at = kept.iter().position(|(same, _)| same == constraint)?;
            let entry = kept.remove(at)?;
            let matcher = entry.1.fork();
            kept.push_front(entry);
            Some(matcher)
        };
        if let Some(matcher) = kept(&mut self.kept()) {
            return Ok(matcher);
        }
        let matcher = self.compile_anew(tokenizer, constraint)?;
        let mut kept = self.kept();
        kept.truncate(KEPT - 1);
        kept.push_front((constraint.clone(), matcher.fork()));
        Ok(matcher)
    }

    /// A panic under the lock leaves whole entries behind it.
    fn kept(&self) -> MutexGuard<'_, VecDeque<(Constraint, Matcher)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compile_anew(&self, tokenizer: &Tokenizer, constraint: &Constraint) -> Result<Matcher, Error> {
        let grammar = grammar(constraint)?;
        let factory = self.factory.get_or_init(|| factory(tokenizer)).clone().map_err(Error::Model)?;
        let compile = move || -> Result<Matcher, Error> {
            let wrong = |e: String| Error::Constraint(first_line(&e));
            let parser = factory.create_parser(grammar).map_err(|e| wrong(e.to_string()))?;
            let mut inner = llguidance::Matcher::new(Ok(parser));
            // What has no beginning, and what is too large to be followed, shows here and not in the middle.
            let first = inner.compute_mask().map_err(|e| wrong(e.to_string()))?;
            Ok(Matcher { inner: Box::new(inner), next: Some(Mask(first)) })
        };
        let thread = std::thread::Builder::new().name("stentor-grammar".to_owned()).stack_size(STACK);
        let thread = thread.spawn(compile).map_err(|e| Error::Model(format!("no thread: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(Error::Constraint("it cannot be compiled".to_owned())))
    }
}

/// The constraint in the compiler's terms, once it is known to be of a bearable size.
fn grammar(constraint: &Constraint) -> Result<TopLevelGrammar, Error> {
    let refuse = |message: String| Err(Error::Constraint(message));
    let fits = |what: &str, bytes: usize, most: usize| match bytes <= most {
        true => Ok(()),
        false => Err(Error::Constraint(format!("{what} has {bytes} bytes; at most {most} are taken"))),
    };
    Ok(match constraint {
        Constraint::JsonObject => {
            TopLevelGrammar::from_json_schema(prepared(&json!({"type": "object"}), true)?)
        }
        Constraint::JsonSchema(schema) => TopLevelGrammar::from_json_schema(prepared(schema, true)?),
        Constraint::Regex(regex) => {
            fits("the regular expression", regex.len(), MAX_REGEX_BYTES)?;
            TopLevelGrammar::from_regex(regex)
        }
        Constraint::Choice(choices) => {
            if choices.is_empty() || choices.len() > MAX_CHOICES || choices.iter().any(String::is_empty) {
                return refuse(format!("1 to {MAX_CHOICES} choices are taken, none of them empty"));
            }
            fits("the list of choices", choices.iter().map(String::len).sum(), MAX_BYTES)?;
            let escaped: Vec<String> = choices.iter().map(|c| regex::escape(c)).collect();
            TopLevelGrammar::from_regex(&format!("({})", escaped.join("|")))
        }
        Constraint::Grammar(text) => {
            fits("the grammar", text.len(), MAX_BYTES)?;
            let (depth, rules) = (depth_of(text), text.matches(':').count());
            if depth > MAX_DEPTH || rules > MAX_RULES {
                return refuse(format!(
                    "the grammar has {rules} rules (or colons) and brackets {depth} deep; at most {MAX_RULES} and \
                     {MAX_DEPTH} are taken"
                ));
            }
            TopLevelGrammar::from_grammar(GrammarWithLexer::from_lark(text.clone()))
        }
        Constraint::Calls { format, tools, parallel, opener } => {
            let text = calls::grammar(*format, tools, *parallel, *opener)?;
            TopLevelGrammar::from_grammar(GrammarWithLexer::from_lark(text))
        }
    })
}

/// A schema as a grammar may embed it: bounded, and with this server's options in place of any that it brings.
/// Keywords that cannot be enforced are an error where it is `strict`.
///
/// # Errors
/// It is too large or too deep, or no schema at all.
pub fn prepared(schema: &Value, strict: bool) -> Result<Value, Error> {
    let refuse = |message: String| Err(Error::Constraint(message));
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(true) => Value::Object(Map::new()),
        _ => return refuse("a JSON schema is an object".to_owned()),
    };
    if depth(&schema) > MAX_DEPTH {
        return refuse(format!("the schema is more than {MAX_DEPTH} levels deep"));
    }
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        return refuse(format!("the schema has {bytes} bytes; at most {MAX_BYTES} are taken"));
    }
    let options = JsonCompileOptions {
        whitespace_pattern: Some(WHITE_SPACE.to_owned()),
        lenient: !strict,
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    Ok(schema)
}

fn depth(value: &Value) -> usize {
    // serde_json has bounded the nesting when it parsed the request, so this recursion is bounded too.
    1 + match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The deepest nesting of brackets, wherever they stand.
fn depth_of(text: &str) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => now += 1,
            b')' | b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

/// A compiler's message without the state it dumps behind it.
fn first_line(message: &str) -> String {
    let line =
        message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it cannot be compiled");
    let line = match line {
        _ if line.starts_with("panic") => "it cannot be compiled",
        // The compiler's words for a set without tokens.
        _ if line.starts_with("NoExtension") => "it allows no text at all",
        line => line,
    };
    line.chars().take(400).collect()
}

fn factory(tokenizer: &Tokenizer) -> Result<Arc<ParserFactory>, String> {
    let mut ends: Vec<u32> = tokenizer.ends().collect();
    ends.sort_unstable();
    let Some(&end) = ends.first() else { return Err("it has no token that ends an answer".to_owned()) };
    let size = tokenizer.vocab_size() as u32;
    // Control tokens have no text, and a byte that no UTF-8 has would be taken for their mark: an empty entry is
    // never allowed by text.
    let word = |id| match tokenizer.piece(id) {
        [0xff, ..] => Vec::new(),
        bytes => bytes.to_vec(),
    };
    let words: Vec<Vec<u8>> = (0..size).map(word).collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&ends);
    drop(words);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&env).map_err(|e| first_line(&e.to_string()))?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(Arc::new(factory))
}

/// The work of one set of tokens is what other sequences of a batch may wait for, so it is bounded.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
        step_max_items: 50_000,
        max_items_in_row: 2_000,
        max_lexer_states: 16_000,
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// A set of tokens.
#[derive(Debug, Clone)]
pub struct Mask(SimpleVob);

impl Mask {
    /// The set of one token.
    pub fn only(token: u32) -> Mask {
        let mut set = SimpleVob::alloc(token as usize + 1);
        set.allow_token(token);
        Mask(set)
    }

    /// The same set with one token more.
    pub fn and(&self, token: Option<u32>) -> Mask {
        let mut set = self.0.clone();
        if let Some(token) = token.filter(|&token| (token as usize) < set.len()) {
            set.allow_token(token);
        }
        Mask(set)
    }

    /// Takes every token that is not in the set out of the running: no bias and no penalty brings it back.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.0.as_slice();
        for (chunk, logits) in logits.chunks_mut(32).enumerate() {
            let allowed = words.get(chunk).copied().unwrap_or(0);
            if allowed == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if allowed >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// How far one sequence is in its grammar.
pub struct Matcher {
    /// Large, and jobs that carry none are moved as often as those that do.
    inner: Box<llguidance::Matcher>,
    /// The set for the next token, where it is known already.
    next: Option<Mask>,
}

impl Matcher {
    /// Works out the tokens that may come next, the end tokens among them only where the grammar may end; never
    /// none. Asked again before a token is taken, it gives the same.
    ///
    /// # Errors
    /// The grammar takes too much work at this point.
    pub fn mask(&mut self) -> Result<&Mask, String> {
        let mask = match self.next.take() {
            Some(mask) => mask,
            None => Mask(self.inner.compute_mask().map_err(|e| first_line(&e.to_string()))?),
        };
        Ok(self.next.insert(mask))
    }

    /// Takes the next token, which is no end token. True where nothing can follow it.
    ///
    /// # Errors
    /// The token is not allowed, which is a fault of the caller or of the numbers it sampled from.
    pub fn advance(&mut self, token: u32) -> Result<bool, String> {
        self.next = None;
        self.inner.consume_token(token).map_err(|e| first_line(&e.to_string()))?;
        Ok(self.inner.is_stopped())
    }

    /// One for another sequence, with nothing in common that either could wait for.
    pub fn fork(&self) -> Matcher {
        Matcher { inner: Box::new(self.inner.deep_clone()), next: self.next.clone() }
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher").finish_non_exhaustive()
    }
}

impl Clone for Matcher {
    fn clone(&self) -> Self {
        self.fork()
    }
}

#[cfg(test)]
#[path = "grammar_tests.rs"]
mod tests;
