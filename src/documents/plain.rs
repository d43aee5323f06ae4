//! Plain text: paragraphs end at an empty line.

use super::budget::Budget;
use super::encoding;
use super::writer::Writer;
use super::{Document, Error, Kind, What};

pub(super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    let mut writer = Writer::new(Kind::Text, budget);
    paragraphs(&mut writer, &encoding::decode(bytes))?;
    Ok(writer.finish())
}

/// Paragraphs of a text; a form feed ends one too.
pub(super) fn paragraphs(writer: &mut Writer<'_>, text: &str) -> Result<(), Error> {
    for part in text.split('\u{c}') {
        let mut paragraph = String::new();
        for line in part.lines() {
            if line.trim().is_empty() {
                writer.push(What::Paragraph, &paragraph)?;
                paragraph.clear();
            } else {
                paragraph.push_str(line);
                paragraph.push('\n');
            }
        }
        writer.push(What::Paragraph, &paragraph)?;
    }
    Ok(())
}
