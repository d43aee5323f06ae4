//! Tables that a word processor sets, in which cells hold paragraphs, and tables.

use super::super::grid::Grid;
use super::super::writer::Writer;
use super::super::{Error, What};

/// Tables in tables, beyond which a table is taken for text of the cell.
const DEEPEST: usize = 50;

/// The tables that are open around what is read.
#[derive(Default)]
pub(super) struct Tables {
    open: Vec<Open>,
    /// Open ones beyond the deepest.
    deeper: usize,
}

#[derive(Default)]
struct Open {
    grid: Grid,
    /// Of the cell that is being read; none between cells.
    cell: Option<String>,
}

impl Tables {
    pub(super) fn begin(&mut self) {
        match self.open.len() < DEEPEST {
            true => self.open.push(Open::default()),
            false => self.deeper += 1,
        }
    }

    /// Ends the innermost table: it becomes text of the cell that it is in, or a block.
    pub(super) fn end(&mut self, writer: &mut Writer<'_>) -> Result<(), Error> {
        self.end_cell(1, writer)?;
        if self.deeper > 0 {
            self.deeper -= 1;
            return Ok(());
        }
        let Some(table) = self.open.pop() else { return Ok(()) };
        if self.is_in_cell() {
            let text = table.grid.lines(writer.budget.limits, || writer.tick())?;
            self.put(&text, writer)?;
            return Ok(());
        }
        // One cell is a frame around text.
        let mut texts = table.grid.texts();
        match (texts.next(), texts.next()) {
            (Some(only), None) => writer.push(What::Paragraph, only),
            _ => writer.table(&table.grid),
        }
    }

    pub(super) fn row(&mut self) {
        if let Some(table) = self.open.last_mut().filter(|_| self.deeper == 0) {
            table.grid.row();
        }
    }

    pub(super) fn cell(&mut self) {
        if let Some(table) = self.open.last_mut().filter(|_| self.deeper == 0) {
            table.cell = Some(String::new());
        }
    }

    /// Ends a cell that spans so many columns.
    pub(super) fn end_cell(&mut self, columns: usize, writer: &Writer<'_>) -> Result<(), Error> {
        let Some(table) = self.open.last_mut().filter(|_| self.deeper == 0) else { return Ok(()) };
        if let Some(text) = table.cell.take() {
            table.grid.cell(&text, writer.budget.limits)?;
            table.grid.skip(columns.saturating_sub(1));
        }
        Ok(())
    }

    pub(super) fn is_in_cell(&self) -> bool {
        self.open.last().is_some_and(|table| table.cell.is_some())
    }

    /// Puts a paragraph into the cell; false if there is none.
    pub(super) fn put(&mut self, text: &str, writer: &Writer<'_>) -> Result<bool, Error> {
        let Some(cell) = self.open.last_mut().and_then(|table| table.cell.as_mut()) else { return Ok(false) };
        // In bytes, of which a character has up to four.
        if cell.len() + text.len() > writer.budget.limits.text.saturating_mul(4) {
            return Err(Error::TooMuchText { limit: writer.budget.limits.text });
        }
        if !cell.is_empty() {
            cell.push(' ');
        }
        cell.push_str(text);
        Ok(true)
    }
}
