//! Markdown, as CommonMark with tables, strikethrough, task lists and footnotes.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use super::budget::{Budget, guarded};
use super::grid::Grid;
use super::writer::Writer;
use super::{Document, Error, Kind, What, encoding, html};

pub(super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    let text = encoding::decode(bytes);
    guarded(Kind::Markdown, "its text", || {
        let mut reader = Reader::new(budget);
        let options = Options::ENABLE_TABLES
            | Options::ENABLE_STRIKETHROUGH
            | Options::ENABLE_TASKLISTS
            | Options::ENABLE_FOOTNOTES
            | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS;
        for event in Parser::new_ext(&text, options) {
            reader.writer.tick()?;
            reader.event(event)?;
        }
        reader.flush(What::Paragraph)?;
        Ok(reader.writer.finish())
    })?
}

struct Reader<'a> {
    writer: Writer<'a>,
    /// Of the block that is being read.
    text: String,
    /// The next number of each list around it.
    lists: Vec<Option<u64>>,
    /// The mark of an item whose text has not begun.
    mark: Option<String>,
    grid: Option<Grid>,
}

impl<'a> Reader<'a> {
    fn new(budget: &'a Budget<'a>) -> Self {
        Reader {
            writer: Writer::new(Kind::Markdown, budget),
            text: String::new(),
            lists: Vec::new(),
            mark: None,
            grid: None,
        }
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), Error> {
        match event {
            Event::Start(tag) => self.open(&tag),
            Event::End(tag) => self.close(tag),
            Event::Text(text) | Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                self.text.push_str(&text);
                Ok(())
            }
            Event::Html(text) => {
                self.text.push_str(&text);
                Ok(())
            }
            // A tag in a line says nothing, but that a break is one.
            Event::InlineHtml(tag) => {
                if tag.to_ascii_lowercase().starts_with("<br") {
                    self.text.push('\n');
                }
                Ok(())
            }
            Event::SoftBreak => {
                self.text.push(' ');
                Ok(())
            }
            Event::HardBreak => {
                self.text.push('\n');
                Ok(())
            }
            Event::TaskListMarker(done) => {
                self.text.push_str(if done { "[x] " } else { "[ ] " });
                Ok(())
            }
            Event::FootnoteReference(_) | Event::Rule => Ok(()),
        }
    }

    fn open(&mut self, tag: &Tag<'_>) -> Result<(), Error> {
        match tag {
            Tag::Paragraph | Tag::Heading { .. } | Tag::CodeBlock(_) => self.flush(What::Paragraph)?,
            Tag::List(first) => {
                self.flush(What::Paragraph)?;
                self.lists.push(*first);
            }
            Tag::Item => {
                self.flush(What::Paragraph)?;
                self.mark = Some(String::new());
                if let Some(Some(number)) = self.lists.last_mut() {
                    self.mark = Some(format!("{number}. "));
                    *number = number.saturating_add(1);
                }
            }
            Tag::Table(_) => {
                self.flush(What::Paragraph)?;
                self.grid = Some(Grid::default());
            }
            Tag::TableHead | Tag::TableRow => {
                if let Some(grid) = &mut self.grid {
                    grid.row();
                }
            }
            Tag::HtmlBlock => self.flush(What::Paragraph)?,
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self, tag: TagEnd) -> Result<(), Error> {
        match tag {
            TagEnd::Heading(level) => self.flush(What::Heading(rank(level))),
            TagEnd::CodeBlock => self.flush(What::Code),
            TagEnd::Paragraph | TagEnd::FootnoteDefinition | TagEnd::BlockQuote(_) => {
                self.flush(What::Paragraph)
            }
            TagEnd::Item => {
                self.flush(What::Paragraph)?;
                self.mark = None;
                Ok(())
            }
            TagEnd::List(_) => {
                self.lists.pop();
                Ok(())
            }
            TagEnd::TableCell => {
                let text = std::mem::take(&mut self.text);
                self.grid.as_mut().map_or(Ok(()), |grid| grid.cell(&text, self.writer.budget.limits))
            }
            TagEnd::Table => self.grid.take().map_or(Ok(()), |grid| self.writer.table(&grid)),
            TagEnd::HtmlBlock => {
                let text = std::mem::take(&mut self.text);
                html::blocks(&text, &mut self.writer)
            }
            TagEnd::MetadataBlock(_) => {
                self.front_matter();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends a block. The first in an item is the item, however it is set.
    fn flush(&mut self, what: What) -> Result<(), Error> {
        let text = std::mem::take(&mut self.text);
        if text.trim().is_empty() {
            return Ok(());
        }
        match (what, self.mark.take()) {
            (What::Paragraph, Some(mark)) => self.writer.push(What::Item, &(mark + text.trim_start())),
            (_, _) => self.writer.push(what, &text),
        }
    }

    /// The title is all that is kept of what is about the file.
    fn front_matter(&mut self) {
        let text = std::mem::take(&mut self.text);
        let title = text.lines().find_map(|line| line.strip_prefix("title:"));
        self.writer.title = title.map(|title| title.trim().trim_matches(['"', '\'']).to_owned());
    }
}

fn rank(level: HeadingLevel) -> u8 {
    level as u8
}
