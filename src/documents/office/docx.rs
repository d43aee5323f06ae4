//! Documents of Word. Tables, lists, text boxes and notes are read; headers, footers, comments and what is marked as
//! deleted are not.

use super::super::archive::Archive;
use super::super::budget::{Budget, guarded};
use super::super::writer::Writer;
use super::super::xml::{Node, Tag, Xml};
use super::super::{Document, Error, Kind, What};
use super::styles::{Role, Styles};
use super::tables::Tables;
use super::{related, title};

const KIND: Kind = Kind::Docx;

pub(in super::super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    let mut archive = Archive::new(KIND, bytes, budget)?;
    let roots = related(&mut archive, KIND, "_rels/.rels", "")?;
    let main = roots.into_iter().find(|(_, what, _)| what == "officeDocument");
    let main = main.map_or_else(|| "word/document.xml".to_owned(), |(_, _, target)| target);
    let (folder, file) = main.rsplit_once('/').map_or(("", main.as_str()), |(folder, file)| (folder, file));
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let parts = related(&mut archive, KIND, &format!("{folder}_rels/{file}.rels"), &folder)?;
    let part =
        |wanted: &str| parts.iter().find(|(_, what, _)| what == wanted).map(|(_, _, target)| target.as_str());
    let styles = Styles::read(&mut archive, part("styles").unwrap_or("word/styles.xml"))?;

    let mut reader = Reader::new(Writer::new(KIND, budget), &styles);
    let text = archive.required(&main)?;
    reader.member(&main, &text)?;
    for notes in ["footnotes", "endnotes"] {
        let Some(name) = part(notes) else { continue };
        if let Some(text) = archive.xml(name)? {
            reader.member(name, &text)?;
        }
    }
    let mut document = reader.writer.finish();
    let named = title(&mut archive, KIND, "docProps/core.xml").map(|title| title.trim().to_owned());
    document.title = named.filter(|title| !title.is_empty()).or(document.title);
    Ok(document)
}

/// A paragraph that is open. A text box puts paragraphs into a paragraph.
#[derive(Default)]
struct Paragraph {
    text: String,
    role: Option<Role>,
    listed: bool,
    /// Whether it says itself that it is in no list.
    unlisted: bool,
    outline: Option<usize>,
}

struct Reader<'a> {
    writer: Writer<'a>,
    styles: &'a Styles,
    paragraphs: Vec<Paragraph>,
    /// Those that ended in another one, which they follow.
    inner: Vec<(What, String)>,
    tables: Tables,
    /// Columns that each open cell spans.
    spans: Vec<usize>,
    /// Whether text belongs to the document: it stands in `t`.
    in_text: bool,
}

impl<'a> Reader<'a> {
    fn new(writer: Writer<'a>, styles: &'a Styles) -> Self {
        Reader {
            writer,
            styles,
            paragraphs: Vec::new(),
            inner: Vec::new(),
            tables: Tables::default(),
            spans: Vec::new(),
            in_text: false,
        }
    }

    fn member(&mut self, name: &str, text: &str) -> Result<(), Error> {
        guarded(KIND, name, || {
            let mut xml = Xml::new(KIND, name, text);
            loop {
                self.writer.tick()?;
                match xml.next()? {
                    Node::Open(tag) => self.open(&tag, &mut xml)?,
                    Node::Close(name) => self.close(&name)?,
                    Node::Text(text) if self.in_text => self.put(&text),
                    Node::Text(_) => {}
                    Node::End => return Ok(()),
                }
            }
        })?
    }

    fn open(&mut self, tag: &Tag<'_>, xml: &mut Xml<'_>) -> Result<(), Error> {
        match tag.name.as_str() {
            "p" => self.paragraphs.push(Paragraph::default()),
            "t" => self.in_text = true,
            "tab" | "ptab" => self.put(" "),
            "br" | "cr" => self.put("\n"),
            "noBreakHyphen" => self.put("-"),
            "tbl" => self.tables.begin(),
            "tr" => self.tables.row(),
            "tc" => {
                self.tables.cell();
                self.spans.push(1);
            }
            "gridSpan" => {
                if let (Some(span), Some(columns)) = (self.spans.last_mut(), tag.number("val")) {
                    *span = columns.clamp(1, 1000);
                }
            }
            // The same again for older programs; stops of tabs; separators above notes; properties before a change.
            "Fallback" | "tabs" | "pPrChange" | "rPrChange" | "tblPrChange" => xml.skip()?,
            "footnote" | "endnote" if tag.get("type").is_some_and(|what| what != "normal") => xml.skip()?,
            name => self.property(name, tag),
        }
        Ok(())
    }

    /// Properties of a paragraph.
    fn property(&mut self, name: &str, tag: &Tag<'_>) {
        let Some(paragraph) = self.paragraphs.last_mut() else { return };
        match name {
            "pStyle" => paragraph.role = tag.get("val").and_then(|id| self.styles.role(&id)),
            "numPr" => paragraph.listed = true,
            "numId" if tag.number("val") == Some(0) => paragraph.unlisted = true,
            "outlineLvl" => paragraph.outline = tag.number("val"),
            _ => {}
        }
    }

    fn close(&mut self, name: &str) -> Result<(), Error> {
        match name {
            "p" => self.paragraph(),
            "t" => {
                self.in_text = false;
                Ok(())
            }
            "tc" => self.tables.end_cell(self.spans.pop().unwrap_or(1), &self.writer),
            "tbl" => self.tables.end(&mut self.writer),
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
        let listed = paragraph.listed && !paragraph.unlisted;
        let what = match (paragraph.role, paragraph.outline) {
            (Some(Role::Title), _) => {
                self.writer.title.get_or_insert_with(|| paragraph.text.clone());
                What::Heading(1)
            }
            (Some(Role::Heading(level)), _) => What::Heading(level),
            (_, Some(level @ 0..=8)) => What::Heading(level.min(5) as u8 + 1),
            (Some(Role::Item), _) if !paragraph.unlisted => What::Item,
            _ if listed => What::Item,
            _ => What::Paragraph,
        };
        self.end(what, paragraph.text)
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
