//! From the bytes of a file that somebody sent to the texts that an embedding model reads.
//!
//! [`read`] tells the format by content, then by name and MIME type, and gives a [`Document`]: blocks of text in
//! reading order, each with what it is and the page it is on. [`chunk`] joins blocks to pieces that fit a model.
//!
//! Files are hostile until read: each size is bounded by [`Limits`], whatever the file itself declares; parsers of
//! others run behind `budget::guarded`, so that a panic in one is an [`Error`]; and [`Limits::until`] is looked at
//! between pages, entries, sheets and every few hundred events of a parser. Nothing here waits or writes.

mod archive;
mod budget;
mod chunk;
mod csv;
mod encoding;
mod error;
mod grid;
mod html;
mod kind;
mod mail;
mod markdown;
mod office;
mod pdf;
mod pieces;
mod plain;
mod sentences;
mod words;
mod writer;
mod xml;

#[cfg(test)]
mod tests;

use std::time::Instant;

pub use chunk::{Chunk, Size, chunk};
pub use error::Error;
pub use kind::Kind;
pub use sentences::sentences;
pub use words::by_words;

use budget::Budget;

/// How much a file may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: usize,
    /// Bytes of all that it unpacks to, what is in its attachments included.
    pub unpacked: usize,
    /// Pages of a pdf file.
    pub pages: usize,
    /// Mail in mail in mail.
    pub nesting: usize,
    /// Attachments, at all depths together.
    pub attachments: usize,
    /// Characters of text, attachments included. A block counts for 32 at least.
    pub text: usize,
    /// When to give up.
    pub until: Option<Instant>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bytes: 64 << 20,
            unpacked: 256 << 20,
            pages: 5000,
            nesting: 8,
            attachments: 200,
            text: 20_000_000,
            until: None,
        }
    }
}

/// The text of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub kind: Kind,
    /// As the file names itself; its first heading is no title.
    pub title: Option<String>,
    /// In reading order, none of them empty.
    pub blocks: Vec<Block>,
    /// How many, in a format that has pages.
    pub pages: Option<usize>,
    /// Attachments of a mail.
    pub parts: Vec<Part>,
}

/// A piece of text that stands by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub what: What,
    /// From 1 on.
    pub page: Option<u32>,
    /// Without blanks at its ends; a line break is one that was meant.
    pub text: String,
}

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Of level 1 (the highest) to 6.
    Heading(u8),
    Paragraph,
    /// Of a list, with its number if it has one.
    Item,
    /// A row a line, the first of which is its head; cells are joined by ` | `.
    Table,
    /// Line breaks and blanks as they are.
    Code,
}

/// An attachment: one that cannot be read leaves the others and the mail as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    pub document: Result<Document, Error>,
}

impl Document {
    /// All text, attachments last: blocks with an empty line between them, items of a list without.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut last = None;
        for block in &self.blocks {
            match last {
                None => {}
                Some(What::Item) if block.what == What::Item => text.push('\n'),
                Some(_) => text.push_str("\n\n"),
            }
            text.push_str(&block.text);
            last = Some(block.what);
        }
        for part in &self.parts {
            let Ok(document) = &part.document else { continue };
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            text.push_str(&part.name);
            text.push_str("\n\n");
            text.push_str(&document.text());
        }
        text
    }
}

/// Reads a file. `name` and `mime` say what it is only where its content does not.
///
/// # Errors
/// The file is of no format that is read, is damaged, protected or without text, or asks for more than `limits`.
pub fn read(name: &str, mime: Option<&str>, bytes: &[u8], limits: &Limits) -> Result<Document, Error> {
    read_within(name, mime, bytes, &Budget::new(limits))
}

/// [`read`] of one of several files that share what may be used, such as the attachments of a mail.
fn read_within(name: &str, mime: Option<&str>, bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    budget.size(bytes.len())?;
    let kind = Kind::detect(name, mime, bytes)?;
    budget.check(kind, || "its beginning".to_owned())?;
    let document = match kind {
        Kind::Text => plain::read(bytes, budget),
        Kind::Markdown => markdown::read(bytes, budget),
        Kind::Html => html::read(bytes, budget),
        Kind::Pdf => pdf::read(bytes, budget),
        Kind::Docx => office::docx(bytes, budget),
        Kind::Odt => office::odt(bytes, budget),
        Kind::Xlsx => office::xlsx(bytes, budget),
        Kind::Csv => csv::read(name, mime, bytes, budget),
        Kind::Mail => mail::read(bytes, budget),
    }?;
    if document.blocks.is_empty() && document.parts.is_empty() {
        return Err(Error::NoText { kind, why: "; send one that holds text" });
    }
    Ok(document)
}
