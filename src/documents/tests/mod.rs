//! What files say, what hostile files do not do, and where texts are cut.

mod chunks;
mod formats;
mod hostile;
mod kinds;
mod small;
mod splitting;

use std::path::Path;

use super::{Document, Error, Limits, What, read};

/// The bytes of a fixture.
fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/documents").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_fixture(name: &str) -> Result<Document, Error> {
    read(name, None, &fixture(name), &Limits::default())
}

/// The blocks of a document, each as a line that begins with what it is and the page.
fn outline(document: &Document) -> Vec<String> {
    let mut lines = Vec::new();
    for block in &document.blocks {
        let what = match block.what {
            What::Heading(level) => format!("h{level}"),
            What::Paragraph => "p".to_owned(),
            What::Item => "item".to_owned(),
            What::Table => "table".to_owned(),
            What::Code => "code".to_owned(),
        };
        let page = block.page.map_or(String::new(), |page| format!("@{page}"));
        lines.push(format!("{what}{page} {}", block.text.replace('\n', "/")));
    }
    lines
}

/// A file from a text.
fn read_text(name: &str, text: &str) -> Result<Document, Error> {
    read(name, None, text.as_bytes(), &Limits::default())
}
