//! Gathers blocks, and sees to it that they are not more than allowed.

use super::budget::Budget;
use super::grid::Grid;
use super::{Block, Document, Error, Kind, What};

/// Blocks so far.
pub(super) struct Writer<'a> {
    pub(super) kind: Kind,
    pub(super) budget: &'a Budget<'a>,
    /// Of the blocks to come.
    pub(super) page: Option<u32>,
    pub(super) title: Option<String>,
    blocks: Vec<Block>,
    ticks: u32,
}

impl<'a> Writer<'a> {
    pub(super) fn new(kind: Kind, budget: &'a Budget<'a>) -> Self {
        Writer { kind, budget, page: None, title: None, blocks: Vec::new(), ticks: 0 }
    }

    /// To be called for each event of a parser: looks at the time now and then.
    pub(super) fn tick(&mut self) -> Result<(), Error> {
        self.ticks = self.ticks.wrapping_add(1);
        if !self.ticks.is_multiple_of(256) {
            return Ok(());
        }
        let blocks = self.blocks.len();
        self.budget.check(self.kind, || format!("block {}", blocks + 1))
    }

    /// Adds a block if there is a letter in it. Blanks are put in order, but in code.
    pub(super) fn push(&mut self, what: What, text: &str) -> Result<(), Error> {
        self.tick()?;
        let text = if what == What::Code { code(text) } else { tidy(text) };
        if text.is_empty() {
            return Ok(());
        }
        self.budget.text(&text)?;
        self.blocks.push(Block { what, page: self.page, text });
        Ok(())
    }

    /// Adds a table.
    pub(super) fn table(&mut self, grid: &Grid) -> Result<(), Error> {
        let limits = self.budget.limits;
        let text = grid.lines(limits, || self.tick())?;
        self.push(What::Table, &text)
    }

    pub(super) fn finish(self) -> Document {
        let title = self.title.map(|title| one_line(&title)).filter(|title| !title.is_empty());
        Document { kind: self.kind, title, blocks: self.blocks, pages: None, parts: Vec::new() }
    }
}

/// Blanks as one, and none at the ends.
pub(super) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(is_blank).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().filter(|c| !is_noise(*c)));
    }
    out.truncate(out.trim_end().len());
    out
}

/// [`one_line`] of each line; lines without text are left out.
fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let line = one_line(line);
        if line.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&line);
    }
    out
}

fn code(text: &str) -> String {
    let text: String = text.replace("\r\n", "\n").chars().filter(|c| !is_noise(*c)).collect();
    let first = text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len());
    // The first line keeps its indent.
    let start = text.get(..first).and_then(|head| head.rfind('\n')).map_or(0, |at| at + 1);
    text.get(start..).unwrap_or_default().trim_end().to_owned()
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{1c}' || c == '\u{1d}' || c == '\u{1e}' || c == '\u{1f}'
}

/// Characters without meaning to a reader: controls, soft hyphens, byte order marks.
fn is_noise(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{ad}' | '\u{feff}' | '\u{200b}')
}
