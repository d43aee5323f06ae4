//! Whose words are whose: segments of a transcript, split where the speaker changes.

use crate::types::asr::{Segment, Word};
use crate::types::speaker::{Spoken, Turn};

/// Words of another speaker between words of one are that one's where they are shorter together, in seconds: what is said
/// takes longer.
const LEAST: f64 = 0.2;

/// What each speaker says of a segment, by turns of one speaker at a time. Words are the speaker's who speaks longest while
/// they are said, and where nobody does, the nearest's.
pub fn spoken(segment: &Segment, turns: &[Turn]) -> Vec<Spoken> {
    if segment.words.is_empty() {
        return vec![Spoken {
            start: segment.start,
            end: segment.end,
            text: segment.text.clone(),
            speaker: speaker(segment.start, segment.end, turns),
            words: Vec::new(),
        }];
    }
    let mut runs: Vec<Spoken> = Vec::new();
    for word in &segment.words {
        append(&mut runs, speaker(word.start, word.end, turns), word);
    }
    smooth(runs)
}

fn append(runs: &mut Vec<Spoken>, speaker: Option<usize>, word: &Word) {
    match runs.last_mut() {
        Some(run) if run.speaker == speaker => {
            run.end = run.end.max(word.end);
            run.text.push_str(&word.text);
            run.words.push(word.clone());
        }
        _ => runs.push(Spoken {
            start: word.start,
            end: word.end,
            text: word.text.clone(),
            speaker,
            words: vec![word.clone()],
        }),
    }
}

/// Runs without those too short to be one between two of the same speaker.
fn smooth(runs: Vec<Spoken>) -> Vec<Spoken> {
    let between = |at: usize| {
        let (before, after) = (at.checked_sub(1).and_then(|at| runs.get(at))?, runs.get(at + 1)?);
        let run = runs.get(at)?;
        (before.speaker == after.speaker && run.end - run.start < LEAST).then_some(before.speaker)
    };
    let speakers: Vec<Option<usize>> =
        (0..runs.len()).map(|at| between(at).unwrap_or(runs[at].speaker)).collect();
    let mut smoothed = Vec::new();
    for (run, speaker) in runs.iter().zip(speakers) {
        for word in &run.words {
            append(&mut smoothed, speaker, word);
        }
    }
    smoothed
}

/// Who speaks longest from `start` to `end`, else the nearest.
fn speaker(start: f64, end: f64, turns: &[Turn]) -> Option<usize> {
    // Turns are in order, one at a time: those that overlap follow each other.
    let first = turns.partition_point(|turn| turn.end <= start);
    let overlapping = turns[first..].iter().take_while(|turn| turn.start < end);
    let mut heard: Vec<(usize, f64)> = Vec::new();
    for turn in overlapping {
        let seconds = turn.end.min(end) - turn.start.max(start);
        match heard.iter_mut().find(|(speaker, _)| *speaker == turn.speaker) {
            Some((_, sum)) => *sum += seconds,
            None => heard.push((turn.speaker, seconds)),
        }
    }
    if let Some((speaker, _)) = heard.iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
        return Some(*speaker);
    }
    let before =
        first.checked_sub(1).and_then(|at| turns.get(at)).map(|turn| (start - turn.end, turn.speaker));
    let after = turns.get(first).map(|turn| (turn.start - end, turn.speaker));
    let nearest = before.into_iter().chain(after).min_by(|a, b| a.0.total_cmp(&b.0));
    nearest.map(|(_, speaker)| speaker)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(start: f64, end: f64, speaker: usize) -> Turn {
        Turn { start, end, speaker }
    }

    fn segment(words: &[(&str, f64, f64)]) -> Segment {
        let word = |(text, start, end): &(&str, f64, f64)| Word {
            text: format!(" {text}"),
            start: *start,
            end: *end,
            probability: 0.9,
        };
        let text = words.iter().map(|word| format!(" {}", word.0)).collect();
        Segment {
            id: 0,
            seek: 0,
            start: words[0].1,
            end: words[words.len() - 1].2,
            text,
            tokens: Vec::new(),
            temperature: 0.0,
            avg_logprob: 0.0,
            compression_ratio: 1.0,
            no_speech_prob: 0.0,
            words: words.iter().map(word).collect(),
            logprobs: Vec::new(),
        }
    }

    fn said(segment: &Segment, turns: &[Turn]) -> Vec<(Option<usize>, String)> {
        spoken(segment, turns).into_iter().map(|run| (run.speaker, run.text)).collect()
    }

    #[test]
    fn a_segment_is_split_where_the_speaker_changes() {
        let words = [
            ("How", 0.0, 0.3),
            ("are", 0.3, 0.6),
            ("you?", 0.6, 1.0),
            ("Fine.", 1.4, 1.9),
            ("Good.", 3.0, 3.4),
        ];
        let turns = [turn(0.0, 1.1, 1), turn(1.2, 2.0, 0), turn(2.9, 3.5, 1)];
        let got = said(&segment(&words), &turns);
        let want = [(1, " How are you?"), (0, " Fine."), (1, " Good.")];
        assert_eq!(got, want.map(|(speaker, text)| (Some(speaker), text.to_owned())));
    }

    #[test]
    fn words_beside_all_turns_are_the_nearest_speakers() {
        let words = [("a", 0.0, 0.2), ("b", 4.0, 4.2), ("c", 9.0, 9.2)];
        let turns = [turn(1.0, 2.0, 0), turn(5.0, 6.0, 1)];
        let got = said(&segment(&words), &turns);
        assert_eq!(got, [(Some(0), " a".to_owned()), (Some(1), " b c".to_owned())]);
        assert_eq!(said(&segment(&words), &[]), [(None, " a b c".to_owned())]);
    }

    #[test]
    fn a_sound_in_between_is_nobodys_turn() {
        let words = [("one", 0.0, 0.5), ("two", 0.5, 0.6), ("three", 0.6, 1.5)];
        let turns = [turn(0.0, 0.5, 0), turn(0.5, 0.62, 1), turn(0.62, 2.0, 0)];
        assert_eq!(said(&segment(&words), &turns), [(Some(0), " one two three".to_owned())]);
    }

    #[test]
    fn segments_without_words_stay_whole() {
        let mut segment = segment(&[("a", 0.0, 1.0), ("b", 1.0, 4.0)]);
        segment.words.clear();
        assert_eq!(said(&segment, &[turn(0.0, 1.0, 3), turn(1.0, 4.0, 2)]), [(Some(2), " a b".to_owned())]);
    }
}
