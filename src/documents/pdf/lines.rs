//! The glyphs of a page to lines: a device that the interpreter shows what it would draw.

use std::panic::resume_unwind;

use hayro_interpret::font::{Glyph, GlyphRun};
use hayro_interpret::hayro_cmap::BfString;
use hayro_interpret::kurbo::{Affine, BezPath, Point, Rect};
use hayro_interpret::{BlendMode, ClipPath, Device, DrawMode, DrawProps, Image, ImageDrawProps, SoftMask};

use super::super::budget::Budget;
use super::Read;

/// Gaps in heights of letters: the least between words, as tight lines have it and letters in words do not, and the
/// least between columns.
const WORD: f64 = 0.11;
const TAB: f64 = 1.1;

/// Why a page was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Late,
    TooMuch,
    Fault,
}

/// Glyphs that stand on one line, in the order in which they came.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) text: String,
    /// Where it begins and ends along itself, and where it stands across, growing downwards.
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) across: f64,
    /// Height of most of its letters.
    pub(super) size: f64,
    /// How many more letters are of that height than of others.
    lead: usize,
    /// Gaps wider than any between words.
    pub(super) tabs: usize,
    /// Direction, in tenths of a degree.
    angle: i32,
}

impl Line {
    /// Takes a letter into account: what stands on the line is told by letters of the usual height.
    fn weigh(&mut self, size: f64, across: f64) {
        if (size - self.size).abs() < 0.05 * self.size {
            self.lead += 1;
        } else if self.lead > 0 {
            self.lead -= 1;
        } else {
            (self.size, self.across, self.lead) = (size, across, 1);
        }
    }
}

/// What was shown so far.
pub(super) struct Lines<'b> {
    budget: &'b Budget<'b>,
    room: usize,
    lines: Vec<Line>,
    open: Option<Line>,
    /// The last run, to pass over one that is drawn again for its outline or shadow.
    last: Option<(Point, usize, String)>,
    chars: usize,
    unmapped: usize,
    calls: u32,
    stop: Option<Stop>,
}

impl<'b> Lines<'b> {
    pub(super) fn new(budget: &'b Budget<'b>, room: usize) -> Self {
        let lines = Vec::new();
        Lines { budget, room, lines, open: None, last: None, chars: 0, unmapped: 0, calls: 0, stop: None }
    }

    pub(super) fn stopped(&self) -> Option<Stop> {
        self.stop
    }

    pub(super) fn finish(mut self) -> Read {
        self.end_line();
        Read { lines: self.lines, chars: self.chars, unmapped: self.unmapped }
    }

    /// Counts a call of the interpreter, which is ended by unwinding when it is late: it has no other way out. That
    /// runs no panic hook.
    fn call(&mut self) {
        self.calls = self.calls.wrapping_add(1);
        if self.calls.is_multiple_of(64) && self.budget.is_late() {
            self.end(Stop::Late);
        }
    }

    fn end(&mut self, stop: Stop) {
        self.stop = Some(stop);
        resume_unwind(Box::new(stop));
    }

    fn end_line(&mut self) {
        if let Some(line) = self.open.take()
            && !line.text.trim().is_empty()
        {
            self.lines.push(line);
        }
    }

    /// Adds one glyph. `place` maps a thousandth of its em, with y upwards, to the page, with y downwards.
    fn glyph(&mut self, place: Affine, advance: f64, text: &str) {
        let origin = place * Point::ORIGIN;
        let (along, up) =
            (place * Point::new(1000.0, 0.0) - origin, place * Point::new(0.0, 1000.0) - origin);
        let (size, angle) = (up.hypot(), along.atan2());
        if !size.is_finite() || !(0.01..1e5).contains(&size) || !angle.is_finite() {
            return;
        }
        let (sin, cos) = angle.sin_cos();
        let (from, across) = (origin.x * cos + origin.y * sin, origin.y * cos - origin.x * sin);
        let to = from + along.hypot() * advance / 1000.0;
        let angle = (angle.to_degrees() * 10.0).round() as i32;
        self.chars += text.chars().count().max(1);
        if self.chars > self.room {
            self.end(Stop::TooMuch);
        }
        if let Some(line) = &mut self.open {
            let em = line.size.max(size);
            let (gap, drop) = (from - line.to, (across - line.across).abs());
            // A sign that is set higher or lower belongs to the line if it follows at once.
            let near = drop < 0.25 * em || (drop < 0.6 * em && gap.abs() < 0.4 * em);
            if line.angle == angle && near && gap > -0.6 * em && gap < 40.0 * em {
                line.tabs += usize::from(gap > TAB * em);
                if gap > WORD * em && !line.text.ends_with(' ') && !text.starts_with(' ') {
                    line.text.push(' ');
                }
                line.text.push_str(text);
                line.to = line.to.max(to);
                line.weigh(size, across);
                return;
            }
        }
        self.end_line();
        if !text.trim().is_empty() {
            self.open = Some(Line { text: text.to_owned(), from, to, across, size, lead: 1, tabs: 0, angle });
        }
    }
}

impl<'a> Device<'a> for Lines<'_> {
    fn draw_glyph_run(&mut self, run: &GlyphRun<'_, 'a>, props: DrawProps<'a>, _mode: &DrawMode) {
        self.call();
        let texts: Vec<Option<String>> = run.glyphs().iter().map(|glyph| letters(glyph)).collect();
        let whole: String = texts.iter().flatten().map(String::as_str).collect();
        let start = run
            .glyphs()
            .first()
            .map_or(Point::ORIGIN, |glyph| props.transform * glyph.transform() * Point::ORIGIN);
        let same = self.last.as_ref().is_some_and(|(at, count, text)| {
            at.distance(start) < 0.6 && *count == texts.len() && *text == whole && !whole.trim().is_empty()
        });
        if same {
            return;
        }
        self.last = Some((start, texts.len(), whole));
        for (glyph, text) in run.glyphs().iter().zip(texts) {
            self.call();
            let advance = match &**glyph {
                Glyph::Outline(outline) => outline.advance_width(),
                Glyph::Type3(drawn) => drawn.advance_width(),
            };
            let place = props.transform * glyph.transform();
            match text {
                Some(text) => self.glyph(place, f64::from(advance.unwrap_or(500.0)), &text),
                None => self.unmapped += 1,
            }
        }
    }

    fn draw_path(&mut self, _: &BezPath, _: DrawProps<'a>, _: &DrawMode) {
        self.call();
    }

    fn draw_rect(&mut self, _: &Rect, _: DrawProps<'a>, _: &DrawMode) {
        self.call();
    }

    fn push_clip_path(&mut self, _: &ClipPath) {
        self.call();
    }

    fn push_clip_rect(&mut self, _: &Rect) {
        self.call();
    }

    fn push_transparency_group(&mut self, _: f32, _: Option<SoftMask<'a>>, _: BlendMode) {
        self.call();
    }

    fn draw_image(&mut self, _: Image<'a, '_>, _: ImageDrawProps<'a>) {
        self.call();
    }

    fn pop_clip(&mut self) {}

    fn pop_transparency_group(&mut self) {}
}

/// What a glyph stands for, ligatures as their letters.
fn letters(glyph: &Glyph<'_>) -> Option<String> {
    let text = match glyph.as_unicode()? {
        BfString::Char(c) => c.to_string(),
        BfString::String(text) => text,
    };
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\u{fb00}' => out.push_str("ff"),
            '\u{fb01}' => out.push_str("fi"),
            '\u{fb02}' => out.push_str("fl"),
            '\u{fb03}' => out.push_str("ffi"),
            '\u{fb04}' => out.push_str("ffl"),
            '\u{fb05}' | '\u{fb06}' => out.push_str("st"),
            '\u{ad}' => out.push('-'),
            '\0' | '\u{fffd}' => {}
            // Of the font alone, without meaning elsewhere.
            '\u{e000}'..='\u{f8ff}' => out.push('•'),
            c if c.is_whitespace() || c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    Some(out)
}
