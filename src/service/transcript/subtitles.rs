//! SubRip and WebVTT.

use std::fmt::Write;

use super::cues::{Cue, cues};
use super::millis;
use crate::types::asr::Segment;

/// `HH:MM:SS` and milliseconds after `mark`: a comma in SubRip, a point in WebVTT.
fn clock(seconds: f64, mark: char) -> String {
    let ms = millis(seconds);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{h:02}:{m:02}:{s:02}{mark}{:03}", ms % 1000)
}

/// When it is shown.
fn times(cue: &Cue, mark: char) -> String {
    format!("{} --> {}", clock(cue.start, mark), clock(cue.end, mark))
}

/// SubRip: a number, the times, the text, a blank line.
pub(super) fn srt(segments: &[Segment]) -> String {
    let mut out = String::new();
    for (at, cue) in cues(segments).iter().enumerate() {
        let _ = write!(out, "{}\n{}\n{}\n\n", at + 1, times(cue, ','), cue.lines.join("\n"));
    }
    out
}

/// WebVTT. Its text is markup, so the three characters that begin some are escaped.
pub(super) fn vtt(segments: &[Segment]) -> String {
    let mut out = String::from("WEBVTT\n\n");
    for cue in cues(segments) {
        let text = cue.lines.join("\n").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = write!(out, "{}\n{text}\n\n", times(&cue, '.'));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::transcript::tests::segment;

    #[test]
    fn subtitles_keep_their_shape_whatever_was_said() {
        let segments = [
            segment(0.0, 1.2345, " And so --> my\n\nfellow"),
            segment(2.0, 3.0, " \n "),
            segment(3661.9996, 3662.5, " a < b & c"),
        ];
        assert_eq!(
            srt(&segments),
            "1\n00:00:00,000 --> 00:00:01,235\nAnd so -> my fellow\n\n\
             2\n01:01:02,000 --> 01:01:02,500\na < b & c\n\n"
        );
        assert_eq!(
            vtt(&segments),
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.235\nAnd so -&gt; my fellow\n\n\
             01:01:02.000 --> 01:01:02.500\na &lt; b &amp; c\n\n"
        );
        assert_eq!(vtt(&[]), "WEBVTT\n\n");
    }

    #[test]
    fn times_that_are_no_numbers_become_zero() {
        assert_eq!(clock(f64::NAN, '.'), "00:00:00.000");
        assert_eq!(clock(-1.0, '.'), "00:00:00.000");
    }
}
