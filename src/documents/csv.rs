//! Tables as text: one block, a row a line.

use csv::ReaderBuilder;

use super::budget::{Budget, guarded};
use super::encoding;
use super::grid::Grid;
use super::writer::Writer;
use super::{Document, Error, Kind};

/// What may be between cells, the likeliest first.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];
/// Rows that are looked at to tell the separator, and bytes.
const SNIFFED: (usize, usize) = (50, 64 << 10);

pub(super) fn read(
    name: &str,
    mime: Option<&str>,
    bytes: &[u8],
    budget: &Budget<'_>,
) -> Result<Document, Error> {
    let text = encoding::decode(bytes);
    let mut writer = Writer::new(Kind::Csv, budget);
    let name = name.to_ascii_lowercase();
    let tabs = name.ends_with(".tsv")
        || name.ends_with(".tab")
        || mime.is_some_and(|mime| mime.starts_with("text/tab-"));
    // Excel writes the separator in the first line, for itself.
    let (separator, text) = match text.split_once('\n') {
        Some((first, rest)) if first.len() <= 6 && first.starts_with("sep=") => (
            first.as_bytes().get(4).copied().filter(|byte| byte.is_ascii() && *byte >= b' ').unwrap_or(b'\t'),
            rest,
        ),
        _ => (if tabs { b'\t' } else { sniff(&text) }, text.as_ref()),
    };
    let grid = guarded(Kind::Csv, "its rows", || rows(separator, text, &mut writer))??;
    writer.table(&grid)?;
    Ok(writer.finish())
}

fn rows(separator: u8, text: &str, writer: &mut Writer<'_>) -> Result<Grid, Error> {
    let mut grid = Grid::default();
    for (at, record) in reader(separator).from_reader(text.as_bytes()).into_records().enumerate() {
        writer.tick()?;
        let record = record.map_err(|source| Error::broken(Kind::Csv, format!("row {}", at + 1), source))?;
        grid.row();
        for cell in &record {
            grid.cell(cell, writer.budget.limits)?;
        }
    }
    Ok(grid)
}

fn reader(separator: u8) -> ReaderBuilder {
    let mut builder = ReaderBuilder::new();
    builder.delimiter(separator).has_headers(false).flexible(true);
    builder
}

/// The separator by which most rows have as many cells as the first; of two such, the one that gives more cells.
fn sniff(text: &str) -> u8 {
    let mut head = SNIFFED.1.min(text.len());
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    let head = text.get(..head).unwrap_or_default();
    let score = |separator: u8| {
        let widths: Vec<usize> = reader(separator)
            .from_reader(head.as_bytes())
            .into_records()
            .take(SNIFFED.0)
            .flatten()
            .map(|record| record.len())
            .collect();
        let first = widths.first().copied().unwrap_or(0);
        let alike = widths.iter().filter(|width| **width == first).count();
        if first < 2 { 0 } else { alike * 1000 / widths.len().max(1) * 100 + first.min(99) }
    };
    let mut best = (b',', 0);
    for separator in SEPARATORS {
        let score = score(separator);
        if score > best.1 {
            best = (separator, score);
        }
    }
    best.0
}
