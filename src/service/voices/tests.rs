//! Clusters, speakers and turns of made windows, without networks.

use proptest::prelude::*;

use super::cluster::{Track, Tree};
use super::dot;
use super::turns::{Piece, Scene};
use super::who::voices;
use super::windows::{Grid, Window};
use crate::model::segment::pyannet::FRONT;
use crate::ops::testing::noise;
use crate::types::speaker::{Diarization, Speakers, Turn};

fn grid() -> Grid {
    Grid::new(&FRONT)
}

/// A voice as it sounds once: that of `speaker`, with a little of something else.
fn voice(speaker: u64, once: u64) -> Vec<f32> {
    let (base, other) = (noise(64, speaker + 1), noise(64, 1000 + once));
    let mixed: Vec<f32> = base.iter().zip(&other).map(|(b, o)| b + 0.4 * o).collect();
    let length = dot(&mixed, &mixed).sqrt();
    mixed.into_iter().map(|v| v / length).collect()
}

/// Windows of a recording of `seconds` in which these speak: speaker, from, to. Numbers within a window are in the order
/// in which they are heard there, as a network's.
fn windows(seconds: f64, spoken: &[(u64, f64, f64)]) -> Vec<Window> {
    let grid = grid();
    let count = grid.windows((seconds * 16_000.0) as usize);
    (0..count)
        .map(|at| {
            let mut here: Vec<u64> = Vec::new();
            let mut heard = vec![0u8; grid.frames];
            for (frame, who) in heard.iter_mut().enumerate() {
                let time = grid.seconds(at * grid.step + frame);
                for (speaker, ..) in spoken.iter().filter(|(_, from, to)| (*from..*to).contains(&time)) {
                    if !here.contains(speaker) && here.len() < grid.speakers {
                        here.push(*speaker);
                    }
                    // A network tells no more apart.
                    if let Some(number) = here.iter().position(|known| known == speaker) {
                        *who |= 1 << number;
                    }
                }
            }
            let mut window = Window::new(heard, &grid);
            for (number, speaker) in here.iter().enumerate() {
                window.speakers[number].embedding = voice(*speaker, at as u64);
            }
            window
        })
        .collect()
}

fn found(seconds: f64, spoken: &[(u64, f64, f64)], speakers: Speakers) -> Diarization {
    let windows = windows(seconds, spoken);
    let voices = voices(&windows, &grid(), 0.5, speakers);
    Scene::new(&windows, &voices, &grid()).finish(&voices, seconds)
}

/// Whether turns are these, within two frames.
#[track_caller]
fn assert_turns(got: &[Turn], want: &[(usize, f64, f64)]) {
    let near = got.len() == want.len()
        && got
            .iter()
            .zip(want)
            .all(|(g, w)| g.speaker == w.0 && (g.start - w.1).abs() < 0.04 && (g.end - w.2).abs() < 0.04);
    assert!(near, "{got:?} are not {want:?}");
}

#[test]
fn windows_lie_on_one_grid_and_cover_every_sample() {
    let grid = grid();
    assert_eq!((grid.step, grid.stride()), (148, 39_960));
    for (samples, count) in [(0, 0), (1, 1), (160_000, 1), (160_001, 2), (199_960, 2), (199_961, 3)] {
        assert_eq!(grid.windows(samples), count, "{samples}");
    }
    // The middle of a frame of energies lies within half a step of its frame's.
    for at in 10..2000 {
        let off = (at * 160 + 200) as f64 / 16_000.0 - grid.seconds(grid.of_energies(at));
        assert!(off.abs() <= grid.hop_seconds() / 2.0 + 1e-4, "{at}: {off}");
    }
}

#[test]
fn speakers_are_found_and_told_apart_even_at_once() {
    let spoken = [(7, 1.0, 9.0), (3, 9.5, 20.0), (7, 18.0, 31.0), (5, 32.0, 44.0)];
    let got = found(46.0, &spoken, Speakers::default());
    assert_turns(&got.turns, &[(0, 1.0, 9.0), (1, 9.5, 20.0), (0, 18.0, 31.0), (2, 32.0, 44.0)]);
    assert_eq!(got.voices.len(), 3);
    assert!((got.voices[0].seconds - 21.0).abs() < 0.1);
    for (voice, speaker) in got.voices.iter().zip([7, 3, 5]) {
        assert!(dot(&voice.embedding, &super::tests::voice(speaker, 0)) > 0.8);
    }
    let alone: f64 = got.exclusive.iter().map(|t| t.end - t.start).sum();
    assert!((alone - (8.0 + 21.5 + 12.0)).abs() < 0.2, "{:?}", got.exclusive);
    let sorted = |turns: &[Turn]| turns.windows(2).all(|pair| pair[0].end <= pair[1].start + 1e-6);
    assert!(sorted(&got.exclusive), "one at a time");
}

#[test]
fn nobody_speaks_in_silence_and_short_recordings_have_their_speaker() {
    let silent = found(30.0, &[], Speakers::default());
    assert!(silent.turns.is_empty() && silent.voices.is_empty());
    let short = found(2.0, &[(1, 0.5, 1.7)], Speakers::default());
    assert_turns(&short.turns, &[(0, 0.5, 1.7)]);
    assert_eq!(found(0.0, &[], Speakers::default()).turns.len(), 0);
}

#[test]
fn as_many_speakers_are_found_as_are_said_to_be_there() {
    let spoken = [(1, 0.0, 12.0), (2, 12.0, 25.0), (3, 25.0, 38.0), (4, 38.0, 50.0)];
    for count in 1..=4 {
        assert_eq!(found(50.0, &spoken, Speakers::exactly(count)).voices.len(), count);
    }
    let most = Speakers { least: 1, most: 2 };
    assert_eq!(found(50.0, &spoken, most).voices.len(), 2);
    let one = [(1, 0.0, 40.0)];
    assert_eq!(found(40.0, &one, Speakers::default()).voices.len(), 1);
}

#[test]
fn stretches_are_given_to_the_voice_they_are_clearly_more_like() {
    let windows = windows(30.0, &[(1, 1.0, 12.0), (2, 13.0, 27.0)]);
    let voices = voices(&windows, &grid(), 0.5, Speakers::default());
    let mut scene = Scene::new(&windows, &voices, &grid());
    let pieces = scene.pieces();
    assert_eq!(pieces.len(), 11, "of 11 and 14 s, at most 2.5 each: {pieces:?}");
    let seconds = |piece: &Piece| piece.frames.len() as f64 * grid().hop_seconds();
    assert!(pieces.iter().all(|piece| seconds(piece) < 2.52), "{pieces:?}");
    let second = pieces[1].clone();
    let other = 1 - second.voice;
    scene.judge(&second, &voices[second.voice], &voices);
    assert_eq!(scene.finish(&voices, 30.0).turns.len(), 2, "it stays whose it is");
    scene.judge(&second, &voices[other], &voices);
    let got = scene.finish(&voices, 30.0);
    let speakers: Vec<usize> = got.turns.iter().map(|turn| turn.speaker).collect();
    assert_eq!(speakers, [0, 1, 0, 1], "{:?}", got.turns);
    assert_eq!(got.turns.len(), got.exclusive.len());
}

#[test]
fn hours_of_windows_cost_as_minutes_do_each() {
    let spoken: Vec<(u64, f64, f64)> =
        (0..1200).map(|i| (i % 5, i as f64 * 9.0, i as f64 * 9.0 + 8.5)).collect();
    let got = found(10_800.0, &spoken, Speakers::default());
    assert_eq!(got.voices.len(), 5);
    assert_eq!(got.turns.len(), 1200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_track_is_in_one_cluster(count in 0usize..60, alike in -1.0f32..1.0, seed in 0u64..50) {
        let vectors: Vec<Vec<f32>> = (0..count as u64).map(|i| voice(i % 5, seed + i)).collect();
        let track = |(at, vector): (usize, &Vec<f32>)| (at / 2, vector.clone(), 1.0 + vector[0].abs());
        let tracks: Vec<_> = vectors.iter().enumerate().map(track).collect();
        let tracks: Vec<Track<'_>> =
            tracks.iter().map(|(window, vector, seconds)| Track { vector, window: *window, seconds: *seconds }).collect();
        let tree = Tree::new(&tracks, alike);
        for clusters in [tree.cut(alike), tree.exactly(3, 0.0)] {
            let mut all: Vec<usize> = clusters.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
        prop_assert_eq!(tree.exactly(3, 0.0).len(), count.min(3));
    }

    #[test]
    fn turns_are_in_order_and_within_the_recording(
        spoken in prop::collection::vec((0u64..4, 0.0f64..40.0, 0.1f64..9.0), 0..12),
    ) {
        let spoken: Vec<(u64, f64, f64)> = spoken.into_iter().map(|(s, at, long)| (s, at, at + long)).collect();
        let got = found(45.0, &spoken, Speakers::default());
        for turns in [&got.turns, &got.exclusive] {
            prop_assert!(turns.windows(2).all(|pair| pair[0].start <= pair[1].start));
            prop_assert!(turns.iter().all(|t| t.start >= 0.0 && t.start < t.end && t.end <= 45.0));
            prop_assert!(turns.iter().all(|t| t.speaker < got.voices.len()));
        }
        let windows = windows(45.0, &spoken);
        prop_assert!(Scene::new(&windows, &[], &grid()).finish(&[], 45.0).turns.is_empty());
    }
}
