//! Workbooks of Excel: each sheet is a heading and a table of what its cells show. A formula is its last result;
//! charts, comments and pictures are not read.

use std::collections::HashMap;

use super::super::archive::Archive;
use super::super::budget::{Budget, guarded};
use super::super::grid::Grid;
use super::super::writer::Writer;
use super::super::xml::{Node, Tag, Xml};
use super::super::{Document, Error, Kind, What};
use super::format::{self, Format};
use super::{related, title};

const KIND: Kind = Kind::Xlsx;

pub(in super::super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    let mut archive = Archive::new(KIND, bytes, budget)?;
    let roots = related(&mut archive, KIND, "_rels/.rels", "")?;
    let main = roots.into_iter().find(|(_, what, _)| what == "officeDocument");
    let main = main.map_or_else(|| "xl/workbook.xml".to_owned(), |(_, _, target)| target);
    let (folder, file) = main.rsplit_once('/').map_or(("", main.as_str()), |(folder, file)| (folder, file));
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let parts = related(&mut archive, KIND, &format!("{folder}_rels/{file}.rels"), &folder)?;
    let part =
        |wanted: &str| parts.iter().find(|(_, what, _)| what == wanted).map(|(_, _, target)| target.clone());

    let text = archive.required(&main)?;
    let book = guarded(KIND, &main, || Book::read(&main, &text))??;
    let mut context = Context { since_1904: book.since_1904, ..Context::default() };
    if let Some(name) = part("styles")
        && let Some(text) = archive.xml(&name)?
    {
        context.formats = guarded(KIND, &name, || formats(&name, &text))??;
    }
    if let Some(name) = part("sharedStrings")
        && let Some(text) = archive.xml(&name)?
    {
        context.strings = guarded(KIND, &name, || Strings::read(&name, &text, budget))??;
    }
    let mut writer = Writer::new(KIND, budget);
    for (sheet, id) in book.sheets {
        budget.check(KIND, || format!("sheet '{sheet}'"))?;
        let Some((_, what, member)) = parts.iter().find(|(part, _, _)| *part == id) else { continue };
        if what != "worksheet" {
            continue;
        }
        let text = archive.required(member)?;
        let grid = guarded(KIND, member, || context.sheet(member, &text, &mut writer))??;
        // A sheet without a cell is not worth its name.
        if grid.texts().next().is_some() {
            writer.push(What::Heading(1), &sheet)?;
            writer.table(&grid)?;
        }
    }
    let mut document = writer.finish();
    let named = title(&mut archive, KIND, "docProps/core.xml").map(|title| title.trim().to_owned());
    document.title = named.filter(|title| !title.is_empty());
    Ok(document)
}

/// The names of the sheets, and the ids by which their members are found.
#[derive(Default)]
struct Book {
    sheets: Vec<(String, String)>,
    since_1904: bool,
}

impl Book {
    fn read(name: &str, text: &str) -> Result<Book, Error> {
        let mut xml = Xml::new(KIND, name, text);
        let mut book = Book::default();
        loop {
            match xml.next()? {
                Node::Open(tag) if tag.name == "sheet" => {
                    let sheet = tag.get("name").unwrap_or_default();
                    book.sheets.extend(tag.get("id").map(|id| (sheet, id)));
                }
                Node::Open(tag) if tag.name == "workbookPr" => {
                    book.since_1904 = tag.get("date1904").is_some_and(|is| is == "1" || is == "true");
                }
                Node::End => return Ok(book),
                _ => {}
            }
        }
    }
}

/// Texts that cells share by their number, in one string, for there may be many of few letters.
#[derive(Default)]
struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    fn read(name: &str, text: &str, budget: &Budget<'_>) -> Result<Strings, Error> {
        let mut xml = Xml::new(KIND, name, text);
        let mut strings = Strings::default();
        loop {
            match xml.next()? {
                Node::Open(tag) if tag.name == "si" => {
                    rich(&mut xml, "si", &mut strings.text)?;
                    strings.ends.push(strings.text.len());
                    if strings.ends.len().is_multiple_of(1024) {
                        budget.check(KIND, || format!("text {} of {name}", strings.ends.len()))?;
                    }
                }
                Node::End => return Ok(strings),
                _ => {}
            }
        }
    }

    fn get(&self, at: usize) -> Option<&str> {
        let start = match at {
            0 => 0,
            at => *self.ends.get(at - 1)?,
        };
        self.text.get(start..*self.ends.get(at)?)
    }
}

/// Text in several fonts, without the signs that tell how to pronounce it.
fn rich(xml: &mut Xml<'_>, end: &str, out: &mut String) -> Result<(), Error> {
    loop {
        match xml.next()? {
            Node::Open(tag) if tag.name == "t" => out.push_str(&xml.text()?),
            Node::Open(tag) if tag.name == "rPh" => xml.skip()?,
            Node::Close(name) if name == end => return Ok(()),
            Node::End => return Ok(()),
            _ => {}
        }
    }
}

/// The format of each style of cells.
fn formats(name: &str, text: &str) -> Result<Vec<Format>, Error> {
    let mut xml = Xml::new(KIND, name, text);
    let mut own: HashMap<usize, Format> = HashMap::new();
    let mut formats = Vec::new();
    let mut in_cells = false;
    loop {
        match xml.next()? {
            Node::Open(tag) => match tag.name.as_str() {
                "numFmt" => {
                    if let (Some(id), Some(code)) = (tag.number("numFmtId"), tag.get("formatCode")) {
                        own.insert(id, format::of_code(&code));
                    }
                }
                "cellXfs" => in_cells = true,
                "xf" if in_cells => {
                    let id = tag.number("numFmtId").unwrap_or(0);
                    formats.push(own.get(&id).copied().unwrap_or_else(|| format::built_in(id)));
                }
                _ => {}
            },
            Node::Close(name) if name == "cellXfs" => in_cells = false,
            Node::Close(_) | Node::Text(_) => {}
            Node::End => return Ok(formats),
        }
    }
}

/// What all sheets share.
#[derive(Default)]
struct Context {
    since_1904: bool,
    formats: Vec<Format>,
    strings: Strings,
}

impl Context {
    fn sheet(&self, name: &str, text: &str, writer: &mut Writer<'_>) -> Result<Grid, Error> {
        let mut xml = Xml::new(KIND, name, text);
        let mut grid = Grid::default();
        let mut next = 0;
        loop {
            writer.tick()?;
            match xml.next()? {
                Node::Open(tag) if tag.name == "row" => {
                    grid.row();
                    next = 0;
                }
                Node::Open(tag) if tag.name == "c" => {
                    // Where a cell is, is the file's word; cells come from left to right all the same.
                    let column = tag.get("r").and_then(|place| column(&place)).unwrap_or(next).max(next);
                    next = column.saturating_add(1);
                    let text = self.cell(&tag, &mut xml)?;
                    grid.cell_at(column, &text, writer.budget.limits)?;
                }
                Node::End => return Ok(grid),
                _ => {}
            }
        }
    }

    /// What a cell shows.
    fn cell(&self, tag: &Tag<'_>, xml: &mut Xml<'_>) -> Result<String, Error> {
        let (what, style) = (tag.get("t").unwrap_or_default(), tag.number("s").unwrap_or(0));
        let (mut value, mut inline) = (String::new(), String::new());
        loop {
            match xml.next()? {
                Node::Open(tag) if tag.name == "v" => value = xml.text()?,
                Node::Open(tag) if tag.name == "is" => rich(xml, "is", &mut inline)?,
                Node::Open(tag) if tag.name == "f" => xml.skip()?,
                Node::Close(name) if name == "c" => break,
                Node::End => break,
                _ => {}
            }
        }
        let format = self.formats.get(style).copied().unwrap_or_default();
        Ok(match what.as_str() {
            "s" => {
                value.trim().parse().ok().and_then(|at| self.strings.get(at)).unwrap_or_default().to_owned()
            }
            "inlineStr" => inline,
            "b" => if value.trim() == "1" { "TRUE" } else { "FALSE" }.to_owned(),
            "str" | "e" => value,
            "d" => value.trim_end_matches("T00:00:00").replace('T', " "),
            _ => format::show(&value, format, self.since_1904),
        })
    }
}

/// The column of a place such as `BC12`, from 0 on.
fn column(place: &str) -> Option<u32> {
    let letters = place.bytes().take_while(u8::is_ascii_alphabetic).take(4);
    let number =
        letters.fold(0_u32, |sum, letter| sum * 26 + u32::from(letter.to_ascii_uppercase() - b'A') + 1);
    number.checked_sub(1)
}
