//! Text documents of OpenDocument. Notes follow what they are in; headers, footers, annotations and what is marked as
//! deleted are not read.

use super::super::archive::Archive;
use super::super::budget::{Budget, guarded};
use super::super::writer::Writer;
use super::super::xml::{Node, Tag, Xml};
use super::super::{Document, Error, Kind, What};
use super::odt_styles::Parents;
use super::styles::Role;
use super::tables::Tables;
use super::title;

const KIND: Kind = Kind::Odt;
const MAIN: &str = "content.xml";
/// Blanks in a row that one element may stand for.
const BLANKS: usize = 1000;

pub(in super::super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    let mut archive = Archive::new(KIND, bytes, budget)?;
    if let Some(manifest) = archive.xml("META-INF/manifest.xml")?
        && manifest.contains("encryption-data")
    {
        return Err(Error::Password { what: KIND.extension() });
    }
    let text = archive.required(MAIN)?;
    let mut parents = Parents::default();
    if let Some(styles) = archive.xml("styles.xml")? {
        guarded(KIND, "styles.xml", || parents.read("styles.xml", &styles))??;
    }
    let mut document = guarded(KIND, MAIN, || {
        parents.read(MAIN, &text)?;
        let mut reader = Reader::new(Writer::new(KIND, budget), &parents);
        reader.body(&text)?;
        Ok::<_, Error>(reader.writer.finish())
    })??;
    let named = title(&mut archive, KIND, "meta.xml").map(|title| title.trim().to_owned());
    document.title = named.filter(|title| !title.is_empty()).or(document.title);
    Ok(document)
}

/// A paragraph that is open; notes and frames put paragraphs into paragraphs.
struct Paragraph {
    text: String,
    what: What,
    is_title: bool,
}

struct Reader<'a> {
    writer: Writer<'a>,
    parents: &'a Parents,
    paragraphs: Vec<Paragraph>,
    /// Those that ended in another one, which they follow.
    inner: Vec<(What, String)>,
    tables: Tables,
    /// Items around it, each with whether its text has begun.
    items: Vec<bool>,
    /// How often the open row and the open cell are repeated.
    repeated: usize,
}

impl<'a> Reader<'a> {
    fn new(writer: Writer<'a>, parents: &'a Parents) -> Self {
        Reader {
            writer,
            parents,
            paragraphs: Vec::new(),
            inner: Vec::new(),
            tables: Tables::default(),
            items: Vec::new(),
            repeated: 1,
        }
    }

    fn body(&mut self, text: &str) -> Result<(), Error> {
        let mut xml = Xml::new(KIND, MAIN, text);
        let mut in_body = false;
        loop {
            self.writer.tick()?;
            match xml.next()? {
                Node::Open(tag) if tag.name == "body" => in_body = true,
                Node::Open(tag) if in_body => self.open(&tag, &mut xml)?,
                Node::Close(name) if in_body => self.close(&name)?,
                Node::Text(text) if in_body => self.put(&text.replace(['\n', '\t'], " ")),
                Node::End => return Ok(()),
                Node::Open(_) | Node::Close(_) | Node::Text(_) => {}
            }
        }
    }

    fn open(&mut self, tag: &Tag<'_>, xml: &mut Xml<'_>) -> Result<(), Error> {
        match tag.name.as_str() {
            "h" => {
                let level = tag.number("outline-level").unwrap_or(1).clamp(1, 6);
                self.begin(What::Heading(level as u8), false);
            }
            "p" => {
                let style = tag.get("style-name").unwrap_or_default();
                match self.parents.role(&style) {
                    Some(Role::Title) => self.begin(What::Heading(1), true),
                    Some(Role::Heading(level)) => self.begin(What::Heading(level), false),
                    _ => {
                        let first =
                            self.items.last_mut().is_some_and(|begun| !std::mem::replace(begun, true));
                        self.begin(if first { What::Item } else { What::Paragraph }, false);
                    }
                }
            }
            "s" => self.put(&" ".repeat(tag.number("c").unwrap_or(1).min(BLANKS))),
            "tab" => self.put(" "),
            "line-break" => self.put("\n"),
            "list-item" => self.items.push(false),
            "table" => self.tables.begin(),
            "table-row" => self.tables.row(),
            "table-cell" | "covered-table-cell" => {
                self.tables.cell();
                self.repeated = tag.number("number-columns-repeated").unwrap_or(1).clamp(1, 1000);
            }
            "tracked-changes" | "annotation" | "note-citation" | "forms" | "desc" | "title"
            | "soft-page-break" | "binary-data" => xml.skip()?,
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, what: What, is_title: bool) {
        self.paragraphs.push(Paragraph { text: String::new(), what, is_title });
    }

    fn close(&mut self, name: &str) -> Result<(), Error> {
        match name {
            "h" | "p" => self.paragraph(),
            "list-item" => {
                self.items.pop();
                Ok(())
            }
            "table-cell" | "covered-table-cell" => {
                self.tables.end_cell(std::mem::replace(&mut self.repeated, 1), &self.writer)
            }
            "table" => self.tables.end(&mut self.writer),
            _ => Ok(()),
        }
    }

    fn put(&mut self, text: &str) {
        if let Some(paragraph) = self.paragraphs.last_mut() {
            paragraph.text.push_str(text);
        }
    }

    fn paragraph(&mut self) -> Result<(), Error> {
        let Some(paragraph) = self.paragraphs.pop() else { return Ok(()) };
        if self.tables.put(&paragraph.text, &self.writer)? {
            return Ok(());
        }
        if paragraph.is_title {
            self.writer.title.get_or_insert_with(|| paragraph.text.clone());
        }
        self.end(paragraph.what, paragraph.text)
    }

    /// Ends a paragraph: one in another waits for that.
    fn end(&mut self, what: What, text: String) -> Result<(), Error> {
        if !self.paragraphs.is_empty() {
            self.inner.push((what, text));
            return Ok(());
        }
        self.writer.push(what, &text)?;
        let inner = std::mem::take(&mut self.inner);
        inner.iter().try_for_each(|(what, text)| self.writer.push(*what, text))
    }
}
