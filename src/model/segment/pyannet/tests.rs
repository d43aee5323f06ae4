//! The network against pyannote's own (`tests/golden/segment`).

use super::*;
use crate::model::segment::{Loaded, load};
use crate::model::speaker::testing::{floats, installed, samples};
use crate::ops::testing::composed;
use crate::testing;
use crate::types::model::Kind;

fn model() -> Option<Loaded> {
    let path = testing::only_file(&testing::model("pyannote-segmentation")?, "bin");
    Some(load(&installed(path, "pyannet", Kind::Segment), &Device::Cpu).unwrap())
}

/// One speaker, and from the fourth second on another beside that one.
fn two() -> Option<Vec<f32>> {
    let folder = "librispeech-test-other";
    let mut first = samples(&format!("{folder}/1688/1688-142285-0000.flac"), Some(10.0))?;
    let second = samples(&format!("{folder}/1998/1998-15444-0000.flac"), None)?;
    first.resize(FRONT.samples, 0.0);
    first[64_000..].iter_mut().zip(second).for_each(|(a, b)| *a += b);
    Some(first)
}

/// The likeliest class of every frame.
fn heard(scores: &[f32]) -> Vec<usize> {
    let most = |frame: &[f32]| (0..CLASSES).max_by(|a, b| frame[*a].total_cmp(&frame[*b])).unwrap();
    scores.chunks_exact(CLASSES).map(most).collect()
}

#[test]
fn speakers_are_heard_where_the_reference_hears_them() {
    let (Some(mut loaded), Some(two)) = (model(), two()) else { return };
    let Some(mut jfk) = samples("jfk.flac", Some(10.0)) else { return };
    jfk.resize(FRONT.samples, 0.0);
    let windows: Vec<Arc<[f32]>> = vec![two.into(), jfk.into(), vec![0.0; FRONT.samples].into()];
    let got = loaded.model.step(&windows).unwrap();
    for (name, got, most, classes) in [("two", &got[0], 3e-3, 1.0), ("jfk", &got[1], 2.0, 0.95)] {
        assert_eq!(got.len(), FRONT.frames * CLASSES);
        let got: Vec<f32> = got.chunks_exact(CLASSES).step_by(3).flatten().copied().collect();
        let want = floats(&format!("segment/{name}.f32"));
        let off = got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0f32, f32::max);
        let same = heard(&got).iter().zip(heard(&want)).filter(|(got, want)| **got == *want).count();
        let share = same as f32 / heard(&want).len() as f32;
        println!("{name}: off by {off:e} at most, {share} of the frames of the same class");
        // FFmpeg resamples the other with another filter, which is heard.
        assert!(off < most && share >= classes, "{name}: {off}, {share}");
    }
    assert!(heard(&got[2]).iter().all(|class| *class == 0), "nobody in silence");
    let alone = loaded.model.step(&windows[..1].to_vec()).unwrap();
    assert_eq!(alone[0], got[0], "a window does not depend on those beside it");
}

#[test]
fn the_network_out_of_candles_operations_agrees() {
    let (Some(mut loaded), Some(two)) = (model(), two()) else { return };
    let windows: Vec<Arc<[f32]>> = vec![two.into()];
    let got = loaded.model.step(&windows).unwrap().remove(0);
    let want = composed(|| {
        let mut loaded = model().unwrap();
        loaded.model.step(&windows).unwrap().remove(0)
    });
    let off = got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0f32, f32::max);
    assert!(off < 3e-3, "{off}");
}

#[test]
fn windows_of_another_length_are_refused() {
    let Some(mut loaded) = model() else { return };
    let short = loaded.model.step(&vec![vec![0.0; 100].into()]).unwrap_err().to_string();
    assert!(short.contains("a window has 160000 samples, not 100"), "{short}");
    let mut odd = vec![0.0; FRONT.samples];
    odd[7] = f32::INFINITY;
    let odd = loaded.model.step(&vec![odd.into()]).unwrap_err().to_string();
    assert!(odd.contains("sample 7 is inf"), "{odd}");
}
