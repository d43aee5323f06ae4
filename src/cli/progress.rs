//! Shows [`fetch::Progress`](crate::fetch::Progress): bars on a terminal, a line a file elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::out;
use crate::fetch::{Progress, bytes_text};

/// Whether stderr is a terminal that can draw bars.
pub fn draws() -> bool {
    let able = std::env::var_os("TERM").is_none_or(|name| name != "dumb");
    std::io::stderr().is_terminal() && able
}

/// Progress on stderr. Bars have no colours, so that there is nothing in them for `NO_COLOR` to take away.
pub struct Shown {
    terminal: bool,
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Shown {
    /// `quiet` leaves only the notes.
    pub fn new(quiet: bool) -> Shown {
        Shown { terminal: draws(), quiet, bar: Mutex::new(None) }
    }

    fn with_bar(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        act(&mut self.bar.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}

impl Progress for Shown {
    fn start(&self, label: &str, total: Option<u64>, done: u64) {
        if self.quiet {
            return;
        }
        if !self.terminal {
            let size = total.map(|t| format!(" ({})", bytes_text(t))).unwrap_or_default();
            let from = if done > 0 { format!(", continued at {}", bytes_text(done)) } else { String::new() };
            out::note(&format!("{label}{size}{from}"));
            return;
        }
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        let template = "{wide_msg} {bar:24} {decimal_bytes:>10}/{decimal_total_bytes:<10} {eta:>4}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_message(label.to_owned());
        bar.set_position(done);
        bar.reset_eta();
        self.with_bar(|slot| *slot = Some(bar));
    }

    fn advance(&self, bytes: u64) {
        self.with_bar(|slot| {
            if let Some(bar) = slot {
                bar.inc(bytes);
            }
        });
    }

    fn finish(&self) {
        self.with_bar(|slot| {
            if let Some(bar) = slot.take() {
                bar.finish();
            }
        });
    }

    fn note(&self, line: &str) {
        self.with_bar(|slot| match slot {
            Some(bar) => bar.println(line),
            None => out::note(line),
        });
    }
}
