//! The cells of a table while it is read, in little more room than their text takes.

use super::writer::one_line;
use super::{Error, Limits};

/// Columns that are told apart; what is further to the right shares the last.
const WIDEST: u32 = 16_384;

/// Cells in order of rows, and in a row of columns.
#[derive(Default)]
pub(super) struct Grid {
    text: String,
    cells: Vec<Cell>,
    row: u32,
    column: u32,
}

struct Cell {
    row: u32,
    column: u32,
    /// Where its text ends, which begins where the one before ends.
    end: usize,
}

impl Grid {
    /// Begins a row, unless the one before is empty.
    pub(super) fn row(&mut self) {
        if self.cells.last().is_some_and(|cell| cell.row == self.row) {
            self.row = self.row.saturating_add(1);
        }
        self.column = 0;
    }

    /// Adds a cell to the right of the last one; one without text takes no room.
    pub(super) fn cell(&mut self, text: &str, limits: &Limits) -> Result<(), Error> {
        let at = self.column;
        self.cell_at(at, text, limits)
    }

    /// Adds a cell in a column that is not left of the last one.
    pub(super) fn cell_at(&mut self, column: u32, text: &str, limits: &Limits) -> Result<(), Error> {
        self.column = column.max(self.column).min(WIDEST);
        let text = one_line(text);
        if !text.is_empty() {
            // In bytes, of which a character has up to four.
            if self.text.len() + text.len() > limits.text.saturating_mul(4) || self.cells.len() >= limits.text
            {
                return Err(Error::TooMuchText { limit: limits.text });
            }
            self.text.push_str(&text);
            self.cells.push(Cell { row: self.row, column: self.column, end: self.text.len() });
        }
        self.column += 1;
        Ok(())
    }

    /// Passes over columns without text.
    pub(super) fn skip(&mut self, columns: usize) {
        let columns = u32::try_from(columns).unwrap_or(WIDEST);
        self.column = self.column.saturating_add(columns).min(WIDEST);
    }

    /// The texts of the cells.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.cells.iter().map(|cell| cell.end));
        starts.zip(&self.cells).map(|(start, cell)| self.text.get(start..cell.end).unwrap_or_default())
    }

    /// A row a line, cells joined by ` | `; rows and columns without text are left out, and what is right of the
    /// last cell of a row. `tick` is called for each row.
    pub(super) fn lines(
        &self,
        limits: &Limits,
        mut tick: impl FnMut() -> Result<(), Error>,
    ) -> Result<String, Error> {
        let mut places = vec![None; WIDEST as usize + 2];
        for cell in &self.cells {
            if let Some(place) = places.get_mut(cell.column as usize) {
                *place = Some(0_usize);
            }
        }
        for (at, place) in places.iter_mut().flatten().enumerate() {
            *place = at;
        }
        let mut out = String::new();
        let (mut start, mut last) = (0, None);
        for cell in &self.cells {
            let place = places.get(cell.column as usize).copied().flatten().unwrap_or(0);
            let before = match last {
                Some((row, place)) if row == cell.row => place,
                _ => {
                    tick()?;
                    out.push_str(if out.is_empty() { "" } else { "\n" });
                    0
                }
            };
            // Two cells of one place are those beyond the last column.
            let bars = if last == Some((cell.row, place)) { 1 } else { place - before };
            for _ in 0..bars {
                out.push_str(if out.is_empty() || out.ends_with([' ', '\n']) { "| " } else { " | " });
            }
            out.push_str(self.text.get(start..cell.end).unwrap_or_default());
            (start, last) = (cell.end, Some((cell.row, place)));
            // Few cells far apart make many bars.
            if out.len() > limits.text.saturating_mul(4) {
                return Err(Error::TooMuchText { limit: limits.text });
            }
        }
        Ok(out)
    }
}
