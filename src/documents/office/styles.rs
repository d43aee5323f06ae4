//! What the paragraph styles of a docx file stand for.

use std::collections::HashMap;

use super::super::archive::Archive;
use super::super::xml::{Node, Xml};
use super::super::{Error, Kind};

/// Styles that are based on each other in a ring end here.
const LONGEST: usize = 20;

/// What a paragraph is by its style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Title,
    Heading(u8),
    Item,
}

#[derive(Default)]
pub(super) struct Styles {
    all: HashMap<String, Style>,
}

#[derive(Default)]
struct Style {
    name: String,
    based_on: Option<String>,
    outline: Option<usize>,
    listed: bool,
}

impl Styles {
    /// Reads the member that holds styles; without it, ids are taken for names.
    pub(super) fn read(archive: &mut Archive<'_>, member: &str) -> Result<Styles, Error> {
        let Some(text) = archive.xml(member)? else { return Ok(Styles::default()) };
        let mut xml = Xml::new(Kind::Docx, member, &text);
        let mut all = HashMap::new();
        let mut open: Option<(String, Style)> = None;
        loop {
            match xml.next()? {
                Node::Open(tag) => match (tag.name.as_str(), &mut open) {
                    ("style", _) => open = tag.get("styleId").map(|id| (id, Style::default())),
                    ("name", Some((_, style))) => style.name = tag.get("val").unwrap_or_default(),
                    ("basedOn", Some((_, style))) => style.based_on = tag.get("val"),
                    ("outlineLvl", Some((_, style))) => style.outline = tag.number("val"),
                    ("numPr", Some((_, style))) => style.listed = true,
                    _ => {}
                },
                Node::Close(name) if name == "style" => all.extend(open.take()),
                Node::Close(_) | Node::Text(_) => {}
                Node::End => return Ok(Styles { all }),
            }
        }
    }

    /// What a paragraph of this style is, by the style or the nearest that it is based on.
    pub(super) fn role(&self, id: &str) -> Option<Role> {
        let mut id = id;
        for _ in 0..LONGEST {
            let Some(style) = self.all.get(id) else { return by_name(id) };
            if let Some(role) = by_name(&style.name) {
                return Some(role);
            }
            match style.outline {
                Some(level @ 0..=8) => return Some(Role::Heading(level.min(5) as u8 + 1)),
                // Text, whatever the style it is based on.
                Some(_) => return None,
                None => {}
            }
            if style.listed {
                return Some(Role::Item);
            }
            id = style.based_on.as_deref()?;
        }
        None
    }
}

/// Names that Word uses in files of every language, but that some programs write in their own.
fn by_name(name: &str) -> Option<Role> {
    let name = name.to_lowercase().replace(['-', '_'], " ");
    for start in ["heading", "überschrift", "titre", "título", "titolo", "nagłówek"] {
        let Some(rest) = name.strip_prefix(start) else { continue };
        if let Ok(level @ 1..=9) = rest.trim().parse::<u8>() {
            return Some(Role::Heading(level.min(6)));
        }
    }
    match name.as_str() {
        "title" => Some(Role::Title),
        name if name.starts_with("list bullet") || name.starts_with("list number") => Some(Role::Item),
        name if name.starts_with("listbullet") || name.starts_with("listnumber") => Some(Role::Item),
        _ => None,
    }
}
