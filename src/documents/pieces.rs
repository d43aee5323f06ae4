//! The blocks of a document in pieces that chunks are made of: sentences, rows, lines and headings.

use super::sentences::{is_wide, sentences};
use super::{Block, What};

/// What may not be divided any more.
#[derive(Debug, Clone)]
pub(super) struct Piece<'d> {
    pub(super) text: &'d str,
    /// By the model.
    pub(super) tokens: usize,
    /// Between it and what is before it.
    pub(super) gap: &'static str,
    pub(super) page: Option<u32>,
    pub(super) part: Of,
    /// Whether it is the head of a table that another chunk has already.
    pub(super) again: bool,
}

impl Piece<'_> {
    /// Its tokens, with one for a line break before it.
    pub(super) fn cost(&self) -> usize {
        self.tokens + usize::from(self.gap.contains('\n'))
    }
}

/// What a piece is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Heading(u8),
    Text,
    /// The head of the table of this number, or one of its other rows.
    Head(usize),
    Row(usize),
    Code,
}

/// Measures texts, and divides what is too long.
pub(super) struct Scale<'m> {
    measure: &'m dyn Fn(&str) -> usize,
    /// What the model adds to every text.
    base: usize,
    limit: usize,
}

impl<'m> Scale<'m> {
    pub(super) fn new(measure: &'m dyn Fn(&str) -> usize, limit: usize) -> Self {
        Scale { measure, base: measure(""), limit }
    }

    /// What a text adds to a longer one, nearly.
    pub(super) fn of(&self, text: &str) -> usize {
        (self.measure)(text).saturating_sub(self.base)
    }

    /// Whether a text is one that the model takes.
    pub(super) fn fits(&self, text: &str) -> bool {
        (self.measure)(text) <= self.limit
    }

    /// What the pieces of a chunk may have together.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.base).max(1)
    }

    /// The pieces of a block; `table` is the number of the next table.
    pub(super) fn pieces<'d>(
        &self,
        block: &'d Block,
        before: Option<What>,
        table: &mut usize,
    ) -> Vec<Piece<'d>> {
        let gap = match (before, block.what) {
            (Some(What::Item), What::Item) => "\n",
            _ => "\n\n",
        };
        let mut pieces = Vec::new();
        let mut put = |text: &'d str, gap: &'static str, part: Of| {
            self.put(&mut pieces, text, gap, block.page, part);
        };
        match block.what {
            What::Heading(level) => put(&block.text, gap, Of::Heading(level)),
            What::Paragraph | What::Item => {
                let mut end = None;
                for sentence in sentences(&block.text) {
                    let start = offset(&block.text, sentence);
                    let between =
                        end.map_or(gap, |end| between(block.text.get(end..start).unwrap_or_default()));
                    put(sentence, between, Of::Text);
                    end = Some(start + sentence.len());
                }
            }
            What::Table => {
                let number = *table;
                *table += 1;
                for (at, row) in block.text.lines().filter(|row| !row.trim().is_empty()).enumerate() {
                    let part = if at == 0 { Of::Head(number) } else { Of::Row(number) };
                    put(row.trim(), if at == 0 { gap } else { "\n" }, part);
                }
            }
            What::Code => {
                let mut gap = gap;
                for line in block.text.lines() {
                    if line.trim().is_empty() {
                        gap = "\n\n";
                    } else {
                        put(line.trim_end(), gap, Of::Code);
                        gap = "\n";
                    }
                }
            }
        }
        pieces
    }

    /// Appends a text, in fragments if it is longer than a chunk.
    fn put<'d>(
        &self,
        pieces: &mut Vec<Piece<'d>>,
        text: &'d str,
        gap: &'static str,
        page: Option<u32>,
        part: Of,
    ) {
        let tokens = self.of(text);
        if tokens <= self.room() && self.fits(text) {
            pieces.push(Piece { text, tokens, gap, page, part, again: false });
            return;
        }
        // The head of a table that long is not repeated.
        let part = match part {
            Of::Head(_) => Of::Code,
            part => part,
        };
        let mut gap = gap;
        let mut end = None;
        for fragment in self.fragments(text) {
            let start = offset(text, fragment);
            gap = end.map_or(gap, |end| between(text.get(end..start).unwrap_or_default()));
            end = Some(start + fragment.len());
            pieces.push(Piece { text: fragment, tokens: self.of(fragment), gap, page, part, again: false });
        }
    }

    /// Divides a text that is too long: at a comma in the second half of what fits, else between words, else in a word.
    fn fragments<'d>(&self, text: &'d str) -> Vec<&'d str> {
        let mut fragments = Vec::new();
        let (mut start, mut sum) = (0, 0);
        // The end after the last comma, and what was summed up to there.
        let mut comma: Option<(usize, usize)> = None;
        let mut at = 0;
        for word in atoms(text) {
            let tokens = self.of(word);
            if sum > 0 && sum + tokens > self.room() {
                let (end, left) = comma
                    .filter(|(_, upto)| *upto * 2 > self.room())
                    .map_or((at, 0), |(end, upto)| (end, sum - upto));
                self.whole(text.get(start..end).unwrap_or_default(), &mut fragments);
                (start, sum, comma) = (end, left, None);
            }
            at += word.len();
            sum += tokens;
            if word.trim_end().ends_with([',', ';', ':', '，', '、', '；', '：', '—', '|']) {
                comma = Some((at, sum));
            }
        }
        self.whole(text.get(start..).unwrap_or_default(), &mut fragments);
        fragments
    }

    /// Appends a fragment, in halves as long as it is too long all the same.
    fn whole<'d>(&self, text: &'d str, fragments: &mut Vec<&'d str>) {
        let text = text.trim();
        let middle = text.floor_char_boundary(text.len() / 2);
        let middle = if middle == 0 { text.chars().next().map_or(0, char::len_utf8) } else { middle };
        if text.is_empty() || middle >= text.len() || self.fits(text) {
            fragments.extend(Some(text).filter(|text| !text.is_empty()));
            return;
        }
        // Between words if there is a blank near the middle.
        let (first, second) = text.split_at(middle);
        let cut = first.rfind(char::is_whitespace).filter(|cut| *cut > middle / 2);
        let cut = cut.or_else(|| {
            second.find(char::is_whitespace).filter(|cut| *cut < middle / 2).map(|cut| middle + cut)
        });
        let (first, second) = text.split_at(cut.unwrap_or(middle));
        self.whole(first, fragments);
        self.whole(second, fragments);
    }
}

/// Words with the blanks after them; signs of scripts without blanks one by one.
fn atoms(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = if is_wide(first) {
            first.len_utf8()
        } else {
            let word = rest.find(|c: char| c.is_whitespace() || is_wide(c)).unwrap_or(rest.len());
            let blank = rest.get(word..).unwrap_or_default();
            word + blank.find(|c: char| !c.is_whitespace()).unwrap_or(blank.len())
        };
        let (atom, after) = rest.split_at(end);
        rest = after;
        Some(atom)
    })
}

/// Where a part of a text begins in it.
fn offset(text: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize)
}

/// Blanks as they are written in a chunk.
fn between(blanks: &str) -> &'static str {
    match (blanks.contains('\n'), blanks.is_empty()) {
        (true, _) => "\n",
        (false, false) => " ",
        (false, true) => "",
    }
}
