//! A member of an office file as events: names without their prefix, text with its entities resolved.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{Error, Kind};

/// Deeper than any program nests, and shallow enough for what is gathered a level.
const DEEPEST: usize = 2000;

/// What comes next in the file.
pub(super) enum Node<'x> {
    Open(Tag<'x>),
    /// Of the element of this name.
    Close(String),
    Text(String),
    End,
}

/// The beginning of an element.
pub(super) struct Tag<'x> {
    pub(super) name: String,
    start: BytesStart<'x>,
}

impl Tag<'_> {
    /// An attribute by its name without a prefix.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let mut attributes = self.start.attributes();
        // Looking for names that come twice is quadratic.
        attributes.with_checks(false);
        let found = attributes.flatten().find(|a| a.key.local_name().as_ref() == name)?;
        Some(
            found
                .normalized_value(quick_xml::XmlVersion::Explicit1_0)
                .map_or_else(|_| found.value.to_string(), Cow::into_owned),
        )
    }

    /// A number, where the attribute is one.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.get(name)?.trim().parse().ok()
    }
}

/// Events of one member.
pub(super) struct Xml<'x> {
    reader: Reader<&'x [u8]>,
    kind: Kind,
    name: &'x str,
    depth: usize,
}

impl<'x> Xml<'x> {
    /// `name` is the member's, for errors.
    pub(super) fn new(kind: Kind, name: &'x str, text: &'x str) -> Self {
        let mut reader = Reader::from_str(text);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.allow_dangling_amp = true;
        Xml { reader, kind, name, depth: 0 }
    }

    /// The next event that says something.
    pub(super) fn next(&mut self) -> Result<Node<'x>, Error> {
        loop {
            match self.reader.read_event().map_err(|source| self.fault(source))? {
                Event::Start(start) => {
                    self.depth += 1;
                    if self.depth > DEEPEST {
                        return Err(self.fault(format!("elements are nested more than {DEEPEST} deep")));
                    }
                    return Ok(Node::Open(Tag { name: start.local_name().as_ref().to_owned(), start }));
                }
                Event::End(end) => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok(Node::Close(end.local_name().as_ref().to_owned()));
                }
                Event::Text(text) => return Ok(Node::Text(text.xml10_content().into_owned())),
                Event::CData(text) => return Ok(Node::Text(text.xml10_content().into_owned())),
                Event::GeneralRef(entity) => {
                    let text = match entity.resolve_char_ref() {
                        Ok(Some(c)) => c.to_string(),
                        // Entities that the file defines itself are left out: they are how small files grow.
                        _ => predefined(&entity.xml10_content()).to_owned(),
                    };
                    return Ok(Node::Text(text));
                }
                Event::Eof if self.depth > 0 => return Err(self.fault("it ends early")),
                Event::Eof => return Ok(Node::End),
                Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
    }

    /// Passes over the rest of the element that was opened last.
    pub(super) fn skip(&mut self) -> Result<(), Error> {
        let outer = self.depth.saturating_sub(1);
        while self.depth > outer {
            if let Node::End = self.next()? {
                break;
            }
        }
        Ok(())
    }

    /// All text of the element that was opened last.
    pub(super) fn text(&mut self) -> Result<String, Error> {
        let outer = self.depth.saturating_sub(1);
        let mut all = String::new();
        while self.depth > outer {
            match self.next()? {
                Node::Text(text) => all.push_str(&text),
                Node::End => break,
                _ => {}
            }
        }
        Ok(all)
    }

    fn fault(&self, detail: impl ToString) -> Error {
        let place = format!("byte {} of {}", self.reader.buffer_position(), self.name);
        Error::broken(self.kind, place, detail)
    }
}

fn predefined(name: &str) -> &'static str {
    match name {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => "",
    }
}
