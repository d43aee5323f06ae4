//! The network against 3D-Speaker's own (`tests/golden/speaker/campplus.json`).

use candle_core::Device;

use crate::model::speaker::testing::{self as shared, installed};
use crate::model::speaker::{BINS, Loaded, load};
use crate::testing;
use crate::types::model::Kind;

fn model() -> Option<Loaded> {
    let path = testing::only_file(&testing::model("campplus")?, "pt");
    Some(load(&installed(path, "campplus", Kind::Speaker), &Device::Cpu).unwrap())
}

#[test]
fn voices_are_where_the_reference_has_them() {
    if model().is_some() {
        shared::voices_are_where_the_reference_has_them("speaker/campplus.json", || model().unwrap());
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
