//! Web pages and the html of mail: the tokens of html5ever's tokenizer, without a tree, so that neither depth nor
//! size costs more than its bytes. What is no text of the page (scripts, styles, navigation) is dropped.

mod blocks;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};

use super::budget::{Budget, guarded};
use super::writer::Writer;
use super::{Document, Error, Kind, encoding};
use blocks::Blocks;

/// Bytes that are given to the tokenizer at once, between which the time is looked at.
const STEP: usize = 4096;
/// Time that may pass without a token, in all, and what is counted of it at once.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    let mut writer = Writer::new(Kind::Html, budget);
    let text = encoding::decode_as(bytes, charset(bytes).as_deref());
    blocks(&text, &mut writer)?;
    Ok(writer.finish())
}

/// Appends the blocks of a page, or of a piece of one.
pub(super) fn blocks(html: &str, writer: &mut Writer<'_>) -> Result<(), Error> {
    let (kind, budget) = (writer.kind, writer.budget);
    let html = without_comments(html);
    guarded(kind, "its html", || {
        let sink = Sink {
            blocks: RefCell::new(Blocks::new(writer)),
            fault: RefCell::default(),
            tokens: Cell::new(0),
        };
        let tokenizer = Tokenizer::new(sink, TokenizerOpts::default());
        let queue = BufferQueue::default();
        let mut quiet = Quiet::default();
        let mut rest = html.as_str();
        while !rest.is_empty() {
            let (step, after) = rest.split_at(rest.floor_char_boundary(STEP));
            let began = Instant::now();
            queue.push_back(StrTendril::from_slice(step));
            let _ = tokenizer.feed(&queue);
            tokenizer.sink.outcome()?;
            quiet.watch(began, tokenizer.sink.tokens.get(), kind)?;
            budget.check(kind, || format!("byte {} of its html", html.len() - after.len()))?;
            rest = after;
        }
        tokenizer.end();
        tokenizer.sink.outcome()?;
        tokenizer.sink.blocks.into_inner().finish()
    })?
}

/// Watches for a tag that does not end while attributes are put into it: the tokenizer compares each with all before
/// it, and nothing of that can be seen but that time passes without a token. The values of attributes, which may be
/// long, pass in no time.
#[derive(Default)]
struct Quiet {
    tokens: usize,
    time: Duration,
}

impl Quiet {
    fn watch(&mut self, began: Instant, tokens: usize, kind: Kind) -> Result<(), Error> {
        if tokens == self.tokens {
            // A machine that was asleep is no reason.
            self.time += began.elapsed().min(PAUSE);
        }
        self.tokens = tokens;
        if self.time > PATIENCE {
            return Err(Error::broken(kind, "its html", "a tag has too many attributes"));
        }
        Ok(())
    }
}

/// Takes the tokens. The tokenizer has no way to hear of an error, so the first one is kept.
struct Sink<'w, 'a> {
    blocks: RefCell<Blocks<'w, 'a>>,
    fault: RefCell<Option<Error>>,
    tokens: Cell<usize>,
}

impl Sink<'_, '_> {
    fn outcome(&self) -> Result<(), Error> {
        self.fault.borrow_mut().take().map_or(Ok(()), Err)
    }
}

impl TokenSink for Sink<'_, '_> {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut next = TokenSinkResult::Continue;
        if matches!(token, Token::ParseError(_)) || self.fault.borrow().is_some() {
            return next;
        }
        self.tokens.set(self.tokens.get().wrapping_add(1));
        let mut blocks = self.blocks.borrow_mut();
        let outcome = match token {
            Token::TagToken(tag) => {
                if tag.kind == TagKind::StartTag {
                    next = raw(&tag);
                }
                blocks.tag(&tag)
            }
            Token::CharacterTokens(text) => blocks.text(&text),
            _ => Ok(()),
        };
        if let Err(fault) = outcome {
            *self.fault.borrow_mut() = Some(fault);
        }
        next
    }
}

/// Elements in which there are no tags.
fn raw(tag: &Tag) -> TokenSinkResult<()> {
    match &*tag.name {
        "script" => TokenSinkResult::RawData(RawKind::ScriptData),
        "style" | "xmp" | "iframe" | "noembed" | "noframes" => TokenSinkResult::RawData(RawKind::Rawtext),
        "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
        _ => TokenSinkResult::Continue,
    }
}

/// A comment says nothing; one that does not end is left for the tokenizer.
fn without_comments(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some((before, after)) = rest.split_once("<!--") {
        let Some(end) = after.find("-->") else { break };
        out.push_str(before);
        rest = after.get(end + 3..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The encoding that the page names in its first kilobytes.
fn charset(bytes: &[u8]) -> Option<String> {
    let head =
        String::from_utf8_lossy(bytes.get(..4096.min(bytes.len())).unwrap_or_default()).to_ascii_lowercase();
    let after = |key: &str| head.split_once(key).map(|(_, rest)| rest.trim_start());
    let rest = after("charset").or_else(|| after("encoding"))?.strip_prefix('=')?.trim_start();
    let label = rest.trim_start_matches(['"', '\'']);
    let label: String = label
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.'))
        .collect();
    // A page in which these letters could be read is not in UTF-16.
    Encoding::for_label(label.as_bytes()).filter(|e| *e != UTF_16LE && *e != UTF_16BE).map(|_| label)
}
