//! The speakers of a recording.

use super::cluster::{Track, Tree};
use super::dot;
use super::windows::{Grid, Local, Window};
use crate::types::speaker::Speakers;

/// Seconds alone from which a voice of a window helps to find the speakers.
const TRUSTED: f32 = 1.0;
/// Seconds alone from which a cluster is a speaker; of a short recording, this share of all.
const LEAST: f32 = 1.5;
const SHARE: f32 = 0.05;
/// A cluster of fewer seconds, or a smaller share, is a mixture or a part of others where it is at least so like one of
/// them.
const SURE: f32 = 6.0;
const PART: f32 = 0.01;
const NEAR: f32 = 0.52;

/// The speakers' voices, of length 1. Voices at least `merge` alike are one speaker's, but where that leads to other
/// numbers of speakers than there are.
pub(super) fn voices(windows: &[Window], grid: &Grid, merge: f32, speakers: Speakers) -> Vec<Vec<f32>> {
    let mut tracks = tracks(windows, grid, |local| local.clean >= TRUSTED);
    if tracks.is_empty() {
        tracks = self::tracks(windows, grid, |_| true);
    }
    let all: f32 = tracks.iter().map(|track| track.seconds).sum();
    let tree = Tree::new(&tracks, merge);
    let found = speakers_of(&tracks, tree.cut(merge), all);
    let wanted = found.len().max(speakers.least).min(speakers.most);
    if wanted == found.len() || found.is_empty() {
        return found;
    }
    let groups = tree.exactly(wanted, LEAST.min(SHARE * all));
    groups.iter().filter_map(|group| mean(&tracks, group)).collect()
}

/// The voices of all windows that are known and `wanted`, in order of time.
fn tracks<'a>(windows: &'a [Window], grid: &Grid, wanted: impl Fn(&Local) -> bool) -> Vec<Track<'a>> {
    let mut tracks = Vec::new();
    for (at, window) in windows.iter().enumerate() {
        for (speaker, local) in window.speakers.iter().enumerate() {
            if !local.embedding.is_empty() && wanted(local) {
                let seconds = own_seconds(window, speaker, at, windows.len(), grid).max(0.01);
                tracks.push(Track { vector: &local.embedding, window: at, seconds });
            }
        }
    }
    tracks
}

/// Seconds that a speaker of a window speaks alone, each counted once however many windows hear it.
fn own_seconds(window: &Window, speaker: usize, at: usize, count: usize, grid: &Grid) -> f32 {
    let alone = (0..grid.frames).filter(|&frame| window.speaks(speaker, frame, true));
    let frames: f32 =
        alone.map(|frame| 1.0 / grid.covering(at * grid.step + frame, count).len().max(1) as f32).sum();
    frames * grid.hop_seconds() as f32
}

/// The voices of those clusters that are speakers.
fn speakers_of(tracks: &[Track<'_>], groups: Vec<Vec<usize>>, all: f32) -> Vec<Vec<f32>> {
    let seconds = |group: &[usize]| group.iter().map(|&at| tracks[at].seconds).sum::<f32>();
    let (least, sure) = (LEAST.min(SHARE * all), SURE.max(PART * all));
    let mut found: Vec<(f32, Vec<f32>)> =
        groups.iter().filter_map(|group| Some((seconds(group), mean(tracks, group)?))).collect();
    // The smallest first; what is dropped draws no others with it.
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut at = 0;
    while at < found.len() && found.len() > 1 {
        let (seconds, voice) = &found[at];
        let near = found.iter().enumerate().filter(|(other, _)| *other != at);
        let near = near.map(|(_, (_, other))| dot(voice, other)).fold(f32::NEG_INFINITY, f32::max);
        if *seconds < least || (*seconds < sure && near >= NEAR) {
            found.remove(at);
        } else {
            at += 1;
        }
    }
    found.into_iter().map(|(_, voice)| voice).collect()
}

fn mean(tracks: &[Track<'_>], group: &[usize]) -> Option<Vec<f32>> {
    direction(group.iter().filter_map(|&at| Some(tracks.get(at)?.vector)))
}

/// The direction of the mean of vectors, of length 1; `None` of none.
pub(super) fn direction<'a>(vectors: impl Iterator<Item = &'a [f32]>) -> Option<Vec<f32>> {
    let mut sum: Vec<f32> = Vec::new();
    for vector in vectors {
        sum.resize(vector.len().max(sum.len()), 0.0);
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
    }
    let length = dot(&sum, &sum).sqrt();
    (length > 0.0).then(|| sum.into_iter().map(|value| value / length).collect())
}
