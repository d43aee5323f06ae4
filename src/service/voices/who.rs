//! The speakers of a recording.

use super::cluster::{Point, Wanted, cluster};
use super::dot;
use super::turns::turns;
use super::windows::{Grid, Local, Window};
use crate::types::speaker::{Diarization, Speakers, Voice};

/// Seconds alone from which a voice of a window helps to find the speakers.
const TRUSTED: f32 = 1.0;
/// Seconds that a speaker speaks alone, each counted once: less is no speaker, but a voice that was misheard.
const LEAST: f32 = 1.5;

/// Who spoke when. Voices at least `merge` alike are one speaker's, but where that leads to other numbers of speakers than
/// are there.
pub(super) fn who(
    windows: &[Window],
    grid: &Grid,
    merge: f32,
    speakers: Speakers,
    duration: f64,
) -> Diarization {
    let voices = find(windows, grid, merge, speakers);
    let (all, exclusive) = turns(windows, &voices, grid);
    numbered(Diarization { duration, turns: all, exclusive, voices: Vec::new() }, voices)
}

/// The speakers' voices, of length 1.
fn find(windows: &[Window], grid: &Grid, merge: f32, speakers: Speakers) -> Vec<Vec<f32>> {
    // Every moment is in so many windows.
    let once = grid.stride() as f32 / grid.samples as f32;
    let locals =
        || windows.iter().flat_map(|window| &window.speakers).filter(|local| !local.embedding.is_empty());
    let trusted: Vec<&Local> = locals().filter(|local| local.clean >= TRUSTED).collect();
    let seconds = |locals: &[&Local]| locals.iter().map(|local| local.clean * once).sum::<f32>();
    // Of little speech all that there is.
    let used = if seconds(&trusted) < LEAST { locals().collect() } else { trusted };
    let points: Vec<Point<'_>> = used.iter().map(|local| Point { vector: &local.embedding }).collect();
    let spoken = |group: &[usize]| group.iter().map(|&at| used[at].clean * once).sum::<f32>();
    let is_speaker = |group: &[usize]| spoken(group) >= LEAST;
    let mut groups = cluster(&points, merge, |groups| {
        // There is always one.
        let count = groups.iter().filter(|group| is_speaker(group)).count().max(1);
        match count {
            count if count < speakers.least => Wanted::More,
            count if count > speakers.most => Wanted::Fewer,
            _ => Wanted::So,
        }
    });
    groups.sort_by(|a, b| spoken(b).total_cmp(&spoken(a)));
    let count = groups.iter().filter(|group| is_speaker(group)).count();
    groups.truncate(count.max(speakers.least).min(speakers.most));
    groups.iter().filter_map(|group| mean(group.iter().map(|&at| points[at].vector))).collect()
}

/// The mean of vectors, of length 1; `None` of none.
fn mean<'a>(vectors: impl Iterator<Item = &'a [f32]>) -> Option<Vec<f32>> {
    let mut sum: Vec<f32> = Vec::new();
    for vector in vectors {
        sum.resize(vector.len().max(sum.len()), 0.0);
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
    }
    let length = dot(&sum, &sum).sqrt();
    (length > 0.0).then(|| sum.into_iter().map(|value| value / length).collect())
}

/// The speakers by the order in which they are first heard; those who are not heard are none.
fn numbered(mut found: Diarization, voices: Vec<Vec<f32>>) -> Diarization {
    let mut order: Vec<usize> = Vec::new();
    for turn in &found.turns {
        if !order.contains(&turn.speaker) {
            order.push(turn.speaker);
        }
    }
    found.exclusive.retain(|turn| order.contains(&turn.speaker));
    for turn in found.turns.iter_mut().chain(&mut found.exclusive) {
        turn.speaker = order.iter().position(|&speaker| speaker == turn.speaker).unwrap_or(0);
        turn.end = turn.end.min(found.duration);
        turn.start = turn.start.clamp(0.0, turn.end);
    }
    found.voices = order
        .iter()
        .enumerate()
        .map(|(at, &speaker)| Voice {
            embedding: voices.get(speaker).cloned().unwrap_or_default(),
            seconds: found.turns.iter().filter(|t| t.speaker == at).map(|t| t.end - t.start).sum(),
        })
        .collect();
    found
}
