//! The network against 3D-Speaker's own (`tests/golden/speaker/campplus.json`).

use std::collections::BTreeMap;

use candle_core::Device;
use serde::Deserialize;

use crate::model::speaker::testing::{cosine, heard, installed, read, samples};
use crate::model::speaker::{BINS, Loaded, load};
use crate::ops::testing::composed;
use crate::testing;
use crate::types::model::Kind;

#[derive(Deserialize)]
struct Want {
    file: String,
    seconds: f64,
    embedding: Vec<f32>,
}

fn model() -> Option<Loaded> {
    let path = testing::only_file(&testing::model("campplus")?, "pt");
    Some(load(&installed(path, "campplus", Kind::Speaker), &Device::Cpu).unwrap())
}

#[test]
fn voices_are_where_the_reference_has_them() {
    let Some(mut loaded) = model() else { return };
    let wanted: BTreeMap<String, Want> = read("speaker/campplus.json");
    let mut rows = Vec::new();
    for want in wanted.values() {
        let Some(samples) = samples(&want.file, Some(want.seconds)) else { return };
        rows.push(heard(&samples, loaded.front.features));
    }
    let got = loaded.model.step(&rows).unwrap();
    for ((name, want), got) in wanted.iter().zip(&got) {
        let alike = cosine(got, &want.embedding);
        println!("{name}: 1 - {:e}", 1.0 - alike);
        // FFmpeg resamples these with another filter, which is heard in the highest bins.
        let near = if name.starts_with("jfk") { 0.99 } else { 0.999_99 };
        assert!(alike > near, "{name}: {alike}");
        assert!((cosine(got, got) - 1.0).abs() < 1e-6 && got.len() == loaded.front.dimensions);
    }
    let alone = loaded.model.step(&vec![rows[1].clone()]).unwrap();
    assert_eq!(alone[0], got[1], "a row does not depend on the rows beside it");
    let short: Vec<_> = rows.iter().map(|row| row[..BINS * 140].into()).collect();
    let got = loaded.model.step(&short).unwrap();
    let want = composed(|| {
        let mut loaded = model().unwrap();
        loaded.model.step(&short).unwrap()
    });
    for (got, want) in got.iter().zip(&want) {
        assert!(cosine(got, want) > 0.999_99, "out of candle's operations");
    }
}

#[test]
fn rows_that_are_none_are_refused() {
    let Some(mut loaded) = model() else { return };
    let bad = |row: Vec<f32>| loaded.model.step(&vec![row.into()]).unwrap_err().to_string();
    let mut bad = bad;
    assert!(bad(vec![0.0; 79]).contains("79 values"));
    assert!(bad(vec![0.0; 9 * BINS]).contains("at least 10"));
    assert!(bad(vec![0.0; 6001 * BINS]).contains("at most 6000"));
    let mut odd = vec![0.0; 20 * BINS];
    odd[BINS + 3] = f32::NAN;
    assert!(bad(odd).contains("frame 1 has the value NaN"));
}
