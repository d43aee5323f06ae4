//! Progress of recordings: a bar each on a terminal, a line each at their ends.

use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{out, progress};
use crate::types::asr::Delta;

/// Bars on stderr, where that is a terminal.
#[derive(Clone)]
pub(super) struct Shown {
    bars: Option<MultiProgress>,
}

/// The bar of one recording; it goes when this is dropped.
pub(super) struct Bar {
    bar: ProgressBar,
    begun: Instant,
}

impl Shown {
    pub fn new() -> Shown {
        let target = || ProgressDrawTarget::stderr_with_hz(10);
        Shown { bars: progress::draws().then(|| MultiProgress::with_draw_target(target())) }
    }

    /// Work on a recording begins.
    pub fn begin(&self, path: &Path) -> Bar {
        let bar = match &self.bars {
            Some(bars) => bars.add(ProgressBar::no_length()),
            None => ProgressBar::hidden(),
        };
        if let Ok(style) =
            ProgressStyle::with_template("{wide_msg} {bar:24} {percent:>3}% {prefix:>8} {eta:>4}")
        {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_message(path.display().to_string());
        bar.set_prefix("reading");
        Bar { bar, begun: Instant::now() }
    }

    /// A line for people.
    pub fn note(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| out::note(line)),
            None => out::note(line),
        }
    }

    /// A text on standard output.
    pub fn print(&self, text: &str) -> anyhow::Result<()> {
        match &self.bars {
            Some(bars) => bars.suspend(|| out::stream(text)),
            None => out::stream(text),
        }
    }
}

impl Bar {
    /// The transcription goes on.
    pub fn see(&mut self, delta: &Delta) {
        match delta {
            Delta::Begin { duration } => {
                self.begun = Instant::now();
                self.bar.set_length(millis(*duration));
                self.bar.set_prefix("");
                self.bar.reset_eta();
            }
            Delta::Segment(segment) => {
                self.bar.set_position(millis(segment.end).min(self.bar.length().unwrap_or(0)));
                self.bar.set_prefix(speed(segment.end, self.begun.elapsed()));
            }
            Delta::End(_) => {}
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn millis(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0) as u64
}

/// `12.3x`: so many times faster than it was said.
pub(super) fn speed(audio: f64, took: Duration) -> String {
    format!("{:.1}x", audio / took.as_secs_f64().max(1e-3))
}

/// Seconds as a clock shows them: `7.5 s`, `12:05`, `1:02:03`.
pub(super) fn clock(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole / 3600 {
        0 => format!("{}:{:02}", whole / 60, whole % 60),
        hours => format!("{hours}:{:02}:{:02}", whole / 60 % 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (seconds, text) in [(7.46, "7.5 s"), (59.99, "1:00"), (725.0, "12:05"), (3723.4, "1:02:03")] {
            assert_eq!(clock(seconds), text);
        }
        assert_eq!(speed(10.0, Duration::from_secs(4)), "2.5x");
        assert_eq!(speed(0.0, Duration::ZERO), "0.0x");
    }
}
