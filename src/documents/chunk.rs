//! Pieces that fit an embedding model, cut where a reader would pause.
//!
//! A chunk is whole sentences, rows or lines. It never goes on over a heading of level 1 or 2, unless sections are so
//! small that they would be lost alone. Each sentence is measured once and each chunk once more; the sum of sentences is
//! only nearly what a chunk measures, so one that turns out too long gives its last pieces to the next.

mod packer;

use super::pieces::{Piece, Scale};
use super::{Block, Document, What};
use packer::Packer;

/// How long chunks are to be, in tokens of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// At most, with what the model adds to every text.
    pub tokens: usize,
    /// What a chunk may repeat of the one before it, at most; half of `tokens` is the end of that.
    pub overlap: usize,
}

/// A piece of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// With the headings that are in it.
    pub text: String,
    /// Those above it, the highest first; of an attachment, its name is the first.
    pub headings: Vec<String>,
    /// Where it begins, apart from what it repeats.
    pub page: Option<u32>,
    /// From 0 on, attachments included.
    pub number: usize,
}

/// A section is tiny up to this part of a chunk.
const TINY: usize = 4;
/// Headings up to this level are borders.
const BORDER: u8 = 2;

/// Cuts a document. `measure` says how many tokens a text is; a chunk is over `size` only where one sign alone is.
/// Every word of the blocks is in a chunk, in order.
pub fn chunk(document: &Document, size: &Size, measure: &dyn Fn(&str) -> usize) -> Vec<Chunk> {
    let scale = Scale::new(measure, size.tokens);
    let mut chunks = Vec::new();
    of_document(document, size, &scale, &mut Vec::new(), &mut chunks);
    chunks
}

fn of_document(
    document: &Document,
    size: &Size,
    scale: &Scale<'_>,
    above: &mut Vec<String>,
    out: &mut Vec<Chunk>,
) {
    for group in groups(sections(&document.blocks, scale), scale.room()) {
        let mut packer = Packer::new(scale, size.overlap.min(size.tokens / 2), above, group.path);
        packer.pack(group.pieces);
        for chunk in packer.done {
            out.push(Chunk { number: out.len(), ..chunk });
        }
    }
    for part in &document.parts {
        if let Ok(document) = &part.document {
            above.push(part.name.clone());
            of_document(document, size, scale, above, out);
            above.pop();
        }
    }
}

/// Headings by their levels.
type Path = Vec<(u8, String)>;

/// What is between two borders, or several of such.
struct Section<'d> {
    /// Above its first heading.
    path: Path,
    /// Of its heading, if it begins with one.
    level: Option<u8>,
    pieces: Vec<Piece<'d>>,
    tokens: usize,
    /// Where the heading that it ends under would have its children.
    inner: Path,
    /// Whether it is headings alone.
    bare: bool,
}

fn sections<'d>(blocks: &'d [Block], scale: &Scale<'_>) -> Vec<Section<'d>> {
    let mut sections: Vec<Section<'d>> = Vec::new();
    let (mut path, mut before, mut table) = (Path::new(), None, 0);
    for block in blocks {
        let border = match block.what {
            What::Heading(level) if level <= BORDER => Some(level),
            _ => None,
        };
        if border.is_some() || sections.is_empty() {
            let level = border;
            let outer: Path =
                path.iter().filter(|(above, _)| level.is_none_or(|level| *above < level)).cloned().collect();
            path.clone_from(&outer);
            sections.push(Section {
                path: outer,
                level,
                pieces: Vec::new(),
                tokens: 0,
                inner: Path::new(),
                bare: true,
            });
        }
        if let What::Heading(level) = block.what {
            enter(&mut path, level, &block.text);
        }
        if let Some(section) = sections.last_mut() {
            let pieces = scale.pieces(block, before, &mut table);
            section.tokens += pieces.iter().map(Piece::cost).sum::<usize>();
            section.bare &= matches!(block.what, What::Heading(_));
            section.pieces.extend(pieces);
            section.inner.clone_from(&path);
        }
        before = Some(block.what);
    }
    sections
}

/// Puts a heading onto a path.
fn enter(path: &mut Path, level: u8, text: &str) {
    path.retain(|(above, _)| *above < level);
    path.push((level, text.to_owned()));
}

/// Joins headings without text to what is under them, and tiny sections to their tiny neighbours.
fn groups(sections: Vec<Section<'_>>, room: usize) -> Vec<Section<'_>> {
    let mut groups: Vec<Section<'_>> = Vec::new();
    // The level and the path of the last section, and whether all in its group are tiny.
    let mut tail: (Option<u8>, Path, bool) = (None, Path::new(), false);
    for section in sections {
        let tiny = section.tokens * TINY <= room;
        if let Some(last) = groups.last_mut() {
            let fits = last.tokens + section.tokens <= room;
            let under = last.bare && section.path.starts_with(&last.inner);
            let beside = tiny && tail.2 && tail.0 == section.level && tail.1 == section.path;
            if under || (beside && fits) {
                tail = (section.level, section.path, tail.2 && tiny);
                last.tokens += section.tokens;
                last.bare &= section.bare;
                last.pieces.extend(section.pieces);
                last.inner = section.inner;
                continue;
            }
        }
        tail = (section.level, section.path.clone(), tiny);
        groups.push(section);
    }
    groups
}
