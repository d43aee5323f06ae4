//! The tags and texts of a page as blocks.

use html5ever::tokenizer::{Tag, TagKind};

use super::super::grid::Grid;
use super::super::writer::Writer;
use super::super::{Error, What};

/// Elements that hold no text of the page.
const DROPPED: [&str; 11] = [
    "script", "style", "nav", "noscript", "template", "svg", "iframe", "object", "noembed", "noframes",
    "select",
];

/// Elements that stand by themselves.
const APART: [&str; 28] = [
    "p",
    "div",
    "section",
    "article",
    "main",
    "header",
    "footer",
    "aside",
    "blockquote",
    "figure",
    "figcaption",
    "address",
    "form",
    "fieldset",
    "hr",
    "dl",
    "dt",
    "dd",
    "ul",
    "ol",
    "li",
    "body",
    "html",
    "head",
    "details",
    "summary",
    "caption",
    "center",
];

/// Lists and tables in each other beyond this are taken for text.
const DEEPEST: usize = 500;

/// Blocks of one page while its tokens come.
pub(super) struct Blocks<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// Of the block that is being read.
    text: String,
    /// What the block is; a paragraph unless a tag says more.
    what: What,
    /// The mark of an item whose text has not begun.
    mark: Option<String>,
    /// The next number of each list around it; none in one without numbers.
    lists: Vec<Option<u64>>,
    tables: Vec<Table>,
    /// The element that is passed over, and how many of its name are open.
    dropped: Option<(String, usize)>,
    title: Option<String>,
}

/// A table that is open.
#[derive(Default)]
struct Table {
    grid: Grid,
    /// Whether the table only sets blocks beside each other, as mail does: its cells are read as blocks.
    layout: bool,
    /// Where the cell begins, and where the next one does.
    at: usize,
    columns: usize,
    widest: usize,
    in_cell: bool,
}

impl<'w, 'a> Blocks<'w, 'a> {
    pub(super) fn new(writer: &'w mut Writer<'a>) -> Self {
        Blocks {
            writer,
            text: String::new(),
            what: What::Paragraph,
            mark: None,
            lists: Vec::new(),
            tables: Vec::new(),
            dropped: None,
            title: None,
        }
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        while !self.tables.is_empty() {
            self.end_table()?;
        }
        self.flush()
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), Error> {
        if self.dropped.is_some() {
            return Ok(());
        }
        if let Some(title) = &mut self.title {
            title.push_str(text);
        } else if self.what == What::Code {
            self.text.push_str(text);
        } else {
            self.text.extend(text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }));
        }
        self.writer.tick()
    }

    pub(super) fn tag(&mut self, tag: &Tag) -> Result<(), Error> {
        self.writer.tick()?;
        let name: &str = &tag.name;
        let opens = tag.kind == TagKind::StartTag;
        if self.passes_over(name, opens, tag.self_closing) {
            return Ok(());
        }
        match name {
            "title" if opens => self.title = Some(String::new()),
            "title" => {
                if let Some(title) = self.title.take() {
                    self.writer.title.get_or_insert(title);
                }
            }
            "br" => self.text.push('\n'),
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.apart()?;
                let level = name.as_bytes().get(1).map_or(6, |digit| digit.saturating_sub(b'0'));
                self.what = if opens { What::Heading(level) } else { What::Paragraph };
            }
            "pre" => {
                self.apart()?;
                self.what = if opens { What::Code } else { What::Paragraph };
            }
            "table" if opens => self.begin_table()?,
            "table" => self.end_table()?,
            "tr" | "thead" | "tbody" | "tfoot" => self.row()?,
            "td" | "th" => self.cell(opens, tag)?,
            "ul" | "ol" => {
                self.apart()?;
                self.list(name == "ol", opens, tag);
            }
            "li" if opens => {
                self.apart()?;
                self.item();
            }
            "li" => {
                self.apart()?;
                self.mark = None;
            }
            name if APART.contains(&name) => self.apart()?,
            _ => {}
        }
        Ok(())
    }

    /// Whether the tag is one of an element that is dropped, or in one.
    fn passes_over(&mut self, name: &str, opens: bool, empty: bool) -> bool {
        let Some((dropped, open)) = &mut self.dropped else {
            if opens && !empty && DROPPED.contains(&name) {
                self.dropped = Some((name.to_owned(), 1));
                return true;
            }
            return DROPPED.contains(&name);
        };
        if name == dropped {
            *open = if opens { *open + 1 } else { open.saturating_sub(1) };
        } else if opens && matches!(name, "main" | "article" | "h1") {
            // One that was never closed.
            *open = 0;
        } else {
            return true;
        }
        if *open > 0 {
            return true;
        }
        let closed = name == dropped.as_str();
        self.dropped = None;
        closed
    }

    fn list(&mut self, numbered: bool, opens: bool, tag: &Tag) {
        if !opens {
            self.lists.pop();
        } else if self.lists.len() < DEEPEST {
            let first = attribute(tag, "start").unwrap_or(1);
            self.lists.push(numbered.then_some(first));
        }
    }

    fn item(&mut self) {
        self.mark = Some(String::new());
        if let Some(Some(number)) = self.lists.last_mut() {
            self.mark = Some(format!("{number}. "));
            *number = number.saturating_add(1);
        }
    }

    /// Ends a block, but in a cell, where it ends a word.
    fn apart(&mut self) -> Result<(), Error> {
        if self.tables.last().is_some_and(|table| table.in_cell && !table.layout) {
            self.text.push('\n');
            return Ok(());
        }
        let ended = matches!(self.what, What::Heading(_)) && !self.text.trim().is_empty();
        self.flush()?;
        // A heading that is not closed ends with its line.
        if ended {
            self.what = What::Paragraph;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let text = std::mem::take(&mut self.text);
        if text.trim().is_empty() {
            return Ok(());
        }
        match (self.what, self.mark.take()) {
            (What::Paragraph, Some(mark)) => self.writer.push(What::Item, &(mark + text.trim_start())),
            (what, _) => self.writer.push(what, &text),
        }
    }

    fn begin_table(&mut self) -> Result<(), Error> {
        if let Some(outer) = self.tables.last_mut() {
            // A table with a table in it is there for its looks.
            outer.layout = true;
            let grid = std::mem::take(&mut outer.grid);
            self.paragraphs(&grid)?;
        }
        self.flush()?;
        self.what = What::Paragraph;
        if self.tables.len() < DEEPEST {
            self.tables.push(Table::default());
        }
        Ok(())
    }

    fn end_table(&mut self) -> Result<(), Error> {
        self.end_cell()?;
        let Some(table) = self.tables.pop() else { return Ok(()) };
        self.what = What::Paragraph;
        match table.layout {
            true => self.flush(),
            false if table.widest <= 1 => self.paragraphs(&table.grid),
            false => self.writer.table(&table.grid),
        }
    }

    /// Cells that turn out to be no cells.
    fn paragraphs(&mut self, grid: &Grid) -> Result<(), Error> {
        grid.texts().try_for_each(|cell| self.writer.push(What::Paragraph, cell))
    }

    fn row(&mut self) -> Result<(), Error> {
        self.end_cell()?;
        if let Some(table) = self.tables.last_mut() {
            table.grid.row();
            table.columns = 0;
        }
        Ok(())
    }

    fn cell(&mut self, opens: bool, tag: &Tag) -> Result<(), Error> {
        self.end_cell()?;
        let Some(table) = self.tables.last_mut() else { return Ok(()) };
        if !opens {
            return Ok(());
        }
        if !table.layout && !self.text.trim().is_empty() {
            // A caption, or what stands where only cells may.
            let text = std::mem::take(&mut self.text);
            self.writer.push(What::Paragraph, &text)?;
        }
        self.text.clear();
        table.in_cell = true;
        let wide = attribute(tag, "colspan").unwrap_or(1).clamp(1, 1000) as usize;
        table.at = table.columns;
        table.columns += wide;
        table.widest = table.widest.max(table.columns);
        Ok(())
    }

    fn end_cell(&mut self) -> Result<(), Error> {
        let Some(table) = self.tables.last_mut() else { return Ok(()) };
        if !table.in_cell {
            return Ok(());
        }
        table.in_cell = false;
        if table.layout {
            return self.flush();
        }
        let text = std::mem::take(&mut self.text);
        self.mark = None;
        self.what = What::Paragraph;
        let column = u32::try_from(table.at).unwrap_or(u32::MAX);
        table.grid.cell_at(column, &text, self.writer.budget.limits)
    }
}

fn attribute(tag: &Tag, name: &str) -> Option<u64> {
    let found = tag.attrs.iter().find(|attribute| &*attribute.name.local == name)?;
    found.value.trim().parse().ok()
}
