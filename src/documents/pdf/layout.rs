//! The lines of all pages to headings, paragraphs and items. What a heading is, is told by the size of its letters
//! against that of most of the text.

use super::super::writer::Writer;
use super::super::{Error, What};
use super::lines::Line;

/// Letters of a heading are larger than others by this, and a heading is no longer than so many characters.
const LARGER: f64 = 1.15;
const LONGEST: usize = 200;
/// Levels that are told apart.
const LEVELS: usize = 4;

pub(super) fn blocks(pages: &[Vec<Line>], writer: &mut Writer<'_>) -> Result<(), Error> {
    let sizes = Sizes::of(pages);
    for (at, lines) in pages.iter().enumerate() {
        writer.page = u32::try_from(at + 1).ok();
        page(lines, &sizes, writer)?;
    }
    Ok(())
}

/// Sizes of letters in half points: most of the text, and headings from the largest on.
struct Sizes {
    headings: Vec<i64>,
}

impl Sizes {
    fn of(pages: &[Vec<Line>]) -> Sizes {
        let mut counts: Vec<(i64, usize)> = Vec::new();
        let mut all: Vec<(i64, usize)> =
            pages.iter().flatten().map(|line| (halves(line.size), line.text.chars().count())).collect();
        all.sort_unstable();
        for (size, chars) in all {
            match counts.last_mut() {
                Some((last, sum)) if *last == size => *sum += chars,
                _ => counts.push((size, chars)),
            }
        }
        let body = counts.iter().max_by_key(|(_, chars)| *chars).map_or(0, |(size, _)| *size);
        let large = |size: i64| size as f64 >= body as f64 * LARGER;
        let headings =
            counts.iter().rev().map(|(size, _)| *size).filter(|size| large(*size)).take(100).collect();
        Sizes { headings }
    }

    fn heading(&self, line: &Line) -> Option<u8> {
        let rank = self.headings.iter().position(|size| *size == halves(line.size))?;
        let is_text = line.text.chars().any(char::is_alphabetic) && line.text.chars().count() <= LONGEST;
        is_text.then_some(rank.min(LEVELS - 1) as u8 + 1)
    }
}

fn halves(size: f64) -> i64 {
    (size * 2.0).round() as i64
}

/// A block while its lines come.
struct Open {
    what: What,
    text: String,
}

fn page(lines: &[Line], sizes: &Sizes, writer: &mut Writer<'_>) -> Result<(), Error> {
    let pitch = pitch(lines);
    let mut open: Option<Open> = None;
    let mut last: Option<&Line> = None;
    for (at, line) in lines.iter().enumerate() {
        let heading = sizes.heading(line);
        let what = match heading {
            Some(level) => What::Heading(level),
            None if is_item(&line.text) => What::Item,
            None => What::Paragraph,
        };
        let joins = match (&open, last) {
            (Some(open), Some(last)) => {
                let same = match (open.what, what) {
                    (What::Item, What::Paragraph) => true,
                    (before, what) => before == what && what != What::Item,
                };
                same && follows(last, line, pitch)
            }
            _ => false,
        };
        match &mut open {
            Some(open) if joins => {
                // A line that ends far from the edge, or that has columns, ends there on purpose.
                let short = last.is_some_and(|last| last.tabs > 0 || is_short(last, nearby(lines, at)));
                let breaks = (short || line.tabs > 0) && !matches!(open.what, What::Heading(_));
                join(&mut open.text, &line.text, breaks);
            }
            _ => {
                if let Some(done) = open.replace(Open { what, text: line.text.clone() }) {
                    writer.push(done.what, &done.text)?;
                }
            }
        }
        last = Some(line);
    }
    open.map_or(Ok(()), |done| writer.push(done.what, &done.text))
}

/// Lines by which the edge of a column is told.
fn nearby(lines: &[Line], at: usize) -> &[Line] {
    lines.get(at.saturating_sub(6)..(at + 6).min(lines.len())).unwrap_or_default()
}

/// Whether a line ends well before others do that stand below or above it.
fn is_short(line: &Line, others: &[Line]) -> bool {
    let others = others.iter().filter(|other| other.from < line.to);
    let edge = others.map(|other| other.to).fold(line.to, f64::max);
    line.to < edge - 0.25 * (edge - line.from)
}

/// The usual distance of lines, against the size of their letters.
fn pitch(lines: &[Line]) -> f64 {
    let mut all: Vec<f64> = lines
        .windows(2)
        .filter_map(|pair| match pair {
            [a, b] if halves(a.size) == halves(b.size) => Some((b.across - a.across) / a.size),
            _ => None,
        })
        .filter(|pitch| (0.7..3.0).contains(pitch))
        .collect();
    all.sort_unstable_by(f64::total_cmp);
    // The lower quarter: in a page of short paragraphs most distances are those between paragraphs.
    all.get(all.len() / 4).copied().unwrap_or(1.3)
}

/// Whether a line goes on where another ended.
fn follows(last: &Line, line: &Line, pitch: f64) -> bool {
    let drop = (line.across - last.across) / last.size;
    (halves(last.size) - halves(line.size)).abs() <= 1 && drop > -0.5 && drop < pitch * 1.25 + 0.05
}

/// Whether a line begins with the mark of an item.
fn is_item(text: &str) -> bool {
    let text = text.trim_start();
    let mark = text.split(' ').next().unwrap_or_default();
    if text.len() <= mark.len() {
        return false;
    }
    let digits = mark.trim_end_matches(['.', ')']);
    let numbered = mark.len() == digits.len() + 1
        && (1..=2).contains(&digits.len())
        && (digits.bytes().all(|byte| byte.is_ascii_digit())
            || (mark.ends_with(')')
                && digits.len() == 1
                && digits.bytes().all(|byte| byte.is_ascii_lowercase())));
    numbered || matches!(mark, "•" | "‣" | "◦" | "▪" | "–" | "-" | "·" | "●" | "○" | "■" | "*")
}

/// Appends a line. A word that was divided at the end of the one before is made whole.
fn join(text: &mut String, line: &str, breaks: bool) {
    let line = line.trim();
    let kept = text.trim_end().len();
    text.truncate(kept);
    let divided = text.strip_suffix('-').is_some_and(|text| text.ends_with(char::is_alphabetic))
        && line.starts_with(char::is_lowercase);
    if divided {
        text.pop();
    } else {
        text.push(if breaks { '\n' } else { ' ' });
    }
    text.push_str(line);
}
