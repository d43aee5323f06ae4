//! Pdf files. hayro interprets each page and says where its glyphs are; [`lines`] makes lines of them and
//! [`layout`] makes blocks of those. No picture is decoded, no glyph drawn.
//!
//! A page is read in the order in which its program set it, which is the reading order of nearly all. hayro decodes
//! streams as a whole, so [`guard`] measures them before. The time is looked at whenever hayro shows something,
//! and between pages; what cannot be interrupted is the loading of the table of objects, and of a font.

mod guard;
mod layout;
mod lines;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hayro_interpret::hayro_syntax::page::Page;
use hayro_interpret::hayro_syntax::{DecryptionError, LoadPdfError, Pdf};
use hayro_interpret::{
    Context, InterpreterCache, InterpreterSettings, RectExt, TransformExt, interpret_page,
};

use super::budget::{Budget, guarded};
use super::writer::Writer;
use super::{Document, Error, Kind};
use lines::{Line, Lines, Stop};

const KIND: Kind = Kind::Pdf;

pub(super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    guard::before(bytes, budget)?;
    let loaded = guarded(KIND, "its table of objects", || Pdf::new(bytes.to_vec()))?;
    let pdf = loaded.map_err(|error| match error {
        LoadPdfError::Decryption(DecryptionError::PasswordProtected) => Error::Password { what: "pdf" },
        LoadPdfError::Decryption(_) => {
            Error::broken(KIND, "its encryption", "it is of a kind that is not known")
        }
        LoadPdfError::Invalid => Error::broken(KIND, "its table of objects", "no pages were found"),
    })?;
    let count = pdf.pages().len();
    if count > budget.limits.pages {
        return Err(Error::TooManyPages { pages: count, limit: budget.limits.pages });
    }
    let sizes = guarded(KIND, "its streams", || guard::Sizes::measure(&pdf, budget))??;
    let cache = InterpreterCache::new();
    let mut pages = Vec::new();
    let (mut chars, mut unmapped) = (0, 0);
    for (at, page) in pdf.pages().iter().enumerate() {
        let place = || format!("page {}", at + 1);
        budget.check(KIND, place)?;
        guarded(KIND, &place(), || sizes.check(page, budget, &place()))??;
        let read = read_page(page, &cache, budget, budget.limits.text.saturating_sub(chars));
        let read = read.map_err(|stop| match stop {
            Stop::Late => Error::TookTooLong { kind: KIND, place: place() },
            Stop::TooMuch => Error::TooMuchText { limit: budget.limits.text },
            Stop::Fault => Error::broken(KIND, place(), "the parser gave up on it"),
        })?;
        chars += read.chars;
        unmapped += read.unmapped;
        pages.push(read.lines);
    }
    document(&pdf, &pages, (chars, unmapped), budget)
}

fn document(
    pdf: &Pdf,
    pages: &[Vec<Line>],
    (chars, unmapped): (usize, usize),
    budget: &Budget<'_>,
) -> Result<Document, Error> {
    if unmapped > chars {
        let why = ": its fonts do not tell which letters their shapes are; save it anew or send its source";
        return Err(Error::NoText { kind: KIND, why });
    }
    let mut writer = Writer::new(KIND, budget);
    writer.title = guarded(KIND, "its title", || pdf.metadata().title.as_deref().map(text_string))?;
    // What programs write that were told nothing.
    writer.title = writer.title.filter(|title| !title.trim().eq_ignore_ascii_case("untitled"));
    layout::blocks(pages, &mut writer)?;
    let mut document = writer.finish();
    document.pages = Some(pages.len());
    if document.blocks.is_empty() {
        let why = ": its pages are pictures, as a scanner makes them, and text in pictures is not read; \
                   run text recognition (OCR) over it first";
        return Err(Error::NoText { kind: KIND, why });
    }
    Ok(document)
}

/// What was found on a page.
struct Read {
    lines: Vec<Line>,
    chars: usize,
    /// Glyphs of which nothing tells the letter.
    unmapped: usize,
}

fn read_page<'a>(
    page: &'a Page<'a>,
    cache: &InterpreterCache<'a>,
    budget: &Budget<'_>,
    room: usize,
) -> Result<Read, Stop> {
    let mut device = Lines::new(budget, room);
    // Unwinding is also how the device ends a page that takes too long: the interpreter asks it nothing.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let settings =
            InterpreterSettings { warning_sink: Arc::new(|_| {}), ..InterpreterSettings::default() };
        let transform = page.initial_transform(true).to_kurbo();
        let area = page.crop_box().to_kurbo();
        let mut context = Context::new(transform, area, cache, page.xref(), settings);
        interpret_page(page, &mut context, &mut device);
    }));
    match (device.stopped(), outcome) {
        (Some(stop), _) => Err(stop),
        (None, Err(_)) => Err(Stop::Fault),
        (None, Ok(())) => Ok(device.finish()),
    }
}

/// Text of a pdf file outside of its pages: UTF-16 or UTF-8 with a mark, else nearly Latin-1.
fn text_string(bytes: &[u8]) -> String {
    super::encoding::decode(bytes).into_owned()
}
