//! Documents and spreadsheets of office programs: xml in a zip archive.

mod docx;
mod format;
mod odt;
mod odt_styles;
mod styles;
mod tables;
mod xlsx;

pub(super) use docx::read as docx;
pub(super) use odt::read as odt;
pub(super) use xlsx::read as xlsx;

use super::archive::Archive;
use super::xml::{Node, Xml};
use super::{Error, Kind};

/// Where a part of an Office Open XML file is, by the end of its relation's type; `folder` is that of the file that
/// the relations in `from` are of.
fn related(
    archive: &mut Archive<'_>,
    kind: Kind,
    from: &str,
    folder: &str,
) -> Result<Vec<(String, String, String)>, Error> {
    let Some(text) = archive.xml(from)? else { return Ok(Vec::new()) };
    let mut xml = Xml::new(kind, from, &text);
    let mut found = Vec::new();
    loop {
        match xml.next()? {
            Node::Open(tag) if tag.name == "Relationship" => {
                let (Some(id), Some(what), Some(target)) =
                    (tag.get("Id"), tag.get("Type"), tag.get("Target"))
                else {
                    continue;
                };
                let what = what.rsplit('/').next().unwrap_or_default().to_owned();
                let target = match target.strip_prefix('/') {
                    Some(absolute) => absolute.to_owned(),
                    None => format!("{folder}{target}"),
                };
                found.push((id, what, target));
            }
            Node::End => return Ok(found),
            _ => {}
        }
    }
}

/// The title in the metadata of a file.
fn title(archive: &mut Archive<'_>, kind: Kind, name: &str) -> Option<String> {
    let text = archive.xml(name).ok()??;
    let mut xml = Xml::new(kind, name, &text);
    loop {
        match xml.next().ok()? {
            Node::Open(tag) if tag.name == "title" => return xml.text().ok(),
            Node::End => return None,
            _ => {}
        }
    }
}
